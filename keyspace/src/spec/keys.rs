//! Where the keys of a call are: what key specs say, applied to its arguments.

use super::{Begin, Find, KeyAt, KeySpec, Meta, key};
use crate::number;

/// The keys among the arguments of a command, with what is done with each. None: they can't be found, because the
/// arguments are no valid call.
pub fn keys_of(meta: &Meta, args: &[&[u8]]) -> Option<Vec<KeyAt>> {
    if let Some(find) = meta.find_keys {
        return find(args);
    }
    let mut found = Vec::new();
    for spec in meta.keys.iter().filter(|spec| spec.flags & key::NOT_KEY == 0) {
        keys_of_spec(spec, args, &mut found)?;
    }
    Some(found)
}

fn keys_of_spec(spec: &KeySpec, args: &[&[u8]], found: &mut Vec<KeyAt>) -> Option<()> {
    let count = args.len() as i64;
    let begin = match spec.begin {
        Begin::Index(index) => i64::from(index),
        Begin::Keyword(word, from) => {
            let hit = |at: &i64| args[*at as usize].eq_ignore_ascii_case(word.as_bytes());
            let place = if from > 0 {
                (i64::from(from)..count - 1).find(hit)
            } else {
                (1..count + i64::from(from)).rev().find(hit)
            };
            match place {
                Some(at) => at + 1,
                None => return Some(()),
            }
        }
        Begin::Unknown => return None,
    };
    let (first, last, step) = match spec.find {
        Find::Range { last, step, limit } => {
            let last = i64::from(last);
            let end = match last {
                0.. => begin + last,
                _ if limit <= 1 => count + last,
                _ => begin + (count - begin) / i64::from(limit) + last,
            };
            (begin, end, i64::from(step))
        }
        Find::Count { count: at, first, step } => {
            let at = usize::try_from(begin + i64::from(at)).ok()?;
            let keys = number::parse_int(args.get(at)?).filter(|keys| *keys >= 0)?;
            let first = begin + i64::from(first);
            (first, first.checked_add(keys.checked_sub(1)?.checked_mul(i64::from(step))?)?, i64::from(step))
        }
        Find::Unknown => return None,
    };
    let mut at = first;
    while at <= last {
        if at >= count || at < 1 {
            return None;
        }
        found.push((at as usize, spec.flags));
        at += step;
    }
    Some(())
}

/// First key, last key and step as COMMAND INFO shows them, from the key specs.
pub fn legacy_range(meta: &Meta) -> (i32, i32, i32) {
    let range = |spec: &KeySpec| match (spec.begin, spec.find) {
        (Begin::Index(first), Find::Range { last, step, limit }) if limit <= 1 => {
            Some((first, if last < 0 { last } else { first + last }, step))
        }
        _ => None,
    };
    let mut whole: Option<(i32, i32, i32)> = None;
    for (first, last, step) in meta.keys.iter().filter_map(range) {
        whole = Some(match whole {
            None => (first, last, step),
            // Specs that follow one another directly are one range; others are not shown here.
            Some((from, to, 1)) if step == 1 && to + 1 == first => (from, last, 1),
            Some(known) => known,
        });
    }
    whole.unwrap_or((0, 0, 0))
}
