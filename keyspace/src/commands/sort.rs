//! SORT and SORT_RO: their syntax, and their answers for the types of value that there are.
//!
//! They sort lists, sets and sorted sets, of which there is none yet: no key can hold anything to sort.

use crate::args::Args;
use crate::cx::{ReadCx, WriteCx};
use crate::error::CmdError;
use crate::item::{Item, ValueRef};
use crate::reply::ReplyBuf;
use crate::spec::{Arg, Command, Handler, KeyAt, KeySpec, Meta, acl, flag, key};

/// Takes all options. Of those only where the result is to go makes a difference while there is nothing to sort; the
/// last STORE counts.
fn store_of<'a>(args: &mut Args<'a>, may_store: bool) -> Result<Option<&'a [u8]>, CmdError> {
    let mut store = None;
    while !args.is_empty() {
        // A word whose own arguments are missing is not known, as in Redis.
        let behind = args.remaining() - 1;
        if ["ASC", "DESC", "ALPHA"].iter().any(|word| args.keyword(word)) {
            continue;
        }
        if behind >= 2 && args.keyword("LIMIT") {
            args.int()?;
            args.int()?;
        } else if behind >= 1 && (args.keyword("BY") || args.keyword("GET")) {
            args.next()?;
        } else if may_store && behind >= 1 && args.keyword("STORE") {
            store = Some(args.next()?);
        } else {
            return Err(CmdError::SYNTAX);
        }
    }
    Ok(store)
}

/// Nothing to sort, or a value that can't be. Whoever brings a type that can be sorted has the elements come out of here,
/// and sorts them: then the other options are to be kept as well.
fn check(item: Option<&Item>) -> Result<(), CmdError> {
    match item.map(Item::value) {
        None => Ok(()),
        Some(ValueRef::Str(_) | ValueRef::Hash(_)) => Err(CmdError::WRONG_TYPE),
    }
}

fn sort(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let store = store_of(args, true)?;
    check(cx.get(key))?;
    match store {
        None => out.array(0),
        // An empty result is no list: what was there goes.
        Some(destination) => {
            cx.remove(destination);
            out.int(0);
        }
    }
    Ok(())
}

fn sort_ro(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    store_of(args, false)?;
    check(cx.get(key))?;
    out.array(0);
    Ok(())
}

const SORTED: KeyAt = (1, key::RO | key::ACCESS);

/// The key, and where the result goes. As in Redis this looks no closer than it must: of several STOREs the last one
/// counts, and what is no option is passed over.
fn sort_keys(args: &[&[u8]]) -> Option<Vec<KeyAt>> {
    let mut store = None;
    let mut at = 2;
    while let Some(word) = args.get(at) {
        let is = |name: &str| crate::args::is(word, name);
        if is("limit") {
            at += 2;
        } else if is("get") || is("by") {
            at += 1;
        } else if is("store") && at + 1 < args.len() {
            store = Some((at + 1, key::OW | key::UPDATE));
        }
        at += 1;
    }
    Some(std::iter::once(SORTED).chain(store).collect())
}

fn sort_ro_keys(_args: &[&[u8]]) -> Option<Vec<KeyAt>> {
    Some(vec![SORTED])
}

const KEY: KeySpec = KeySpec::one(key::RO | key::ACCESS);
const PATTERNS: KeySpec = KeySpec::unknown(key::RO | key::ACCESS)
    .notes("Keys that BY and GET name: they depend on what the sorted key holds.");
const STORE: KeySpec =
    KeySpec::unknown(key::OW | key::UPDATE).notes("The key that STORE names: it may stand anywhere among the options.");

const LIMIT: &[Arg] = &[Arg::int("offset"), Arg::int("count")];
const ORDER: &[Arg] = &[Arg::word("asc", "ASC"), Arg::word("desc", "DESC")];

const ARGS: &[Arg] = &[
    Arg::key("key", 0),
    Arg::pattern("by-pattern").key_spec(1).token("BY").display("pattern").optional(),
    Arg::block("limit", LIMIT).token("LIMIT").optional(),
    Arg::pattern("get-pattern").key_spec(1).token("GET").display("pattern").optional().multiple_token(),
    Arg::one_of("order", ORDER).optional(),
    Arg::word("sorting", "ALPHA").optional(),
    Arg::key("destination", 2).token("STORE").optional(),
];
const RO_ARGS: &[Arg] = ARGS.split_at(6).0;

/// In no category of keys at large: so Redis has it.
const fn sorting(name: &'static str, handler: Handler, meta: Meta) -> Command<Handler> {
    let meta = Meta {
        name,
        arity: -2,
        complexity: "O(N+M*log(M)) for N elements to sort and M to answer",
        acl: acl::SET | acl::SORTEDSET | acl::LIST | acl::DANGEROUS,
        ..meta
    };
    Command { meta, handler, subcommands: &[] }
}

/// The commands that sort.
pub static COMMANDS: &[Command<Handler>] = &[
    sorting(
        "sort",
        Handler::Write(sort),
        Meta {
            summary: "Sorts the elements of a list, a set or a sorted set, and may store the result.",
            flags: flag::DENYOOM,
            keys: &[KEY, PATTERNS, STORE],
            find_keys: Some(sort_keys),
            args: ARGS,
            ..Meta::BASE
        },
    ),
    sorting(
        "sort_ro",
        Handler::Read(sort_ro),
        Meta {
            summary: "Sorts the elements of a list, a set or a sorted set.",
            since: "7.0.0",
            keys: &[KEY, PATTERNS],
            find_keys: Some(sort_ro_keys),
            args: RO_ARGS,
            ..Meta::BASE
        },
    ),
];
