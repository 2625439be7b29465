//! Settings whose value is a text of a certain shape: each function here takes the present and the wished value and
//! answers the form to keep, or why not.

use super::spec::{bytes, integer};

/// The words of a value: blanks separate them.
fn words(value: &str) -> Vec<&str> {
    value.split_ascii_whitespace().collect()
}

/// Redis' refusal of a word that is not among these.
pub(super) fn one_of(words: &[&str]) -> String {
    format!("argument(s) must be one of the following: {}", words.join(", "))
}

/// `host:port`, or empty.
pub(super) fn address(_: &str, wished: &str) -> Result<String, String> {
    if wished.is_empty() || split_address(wished).is_some() {
        Ok(wished.to_owned())
    } else {
        Err("argument must be HOST:PORT".into())
    }
}

/// Takes `host:port` apart; an IPv6 host stands in brackets, which come off.
pub(super) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(host) => host,
        None if host.contains(':') => return None,
        None => host,
    };
    if host.is_empty() || host.contains(char::is_whitespace) || port == 0 { None } else { Some((host, port)) }
}

/// Addresses to listen on; one with a leading `-` may be missing on the machine.
pub(super) fn bind(_: &str, wished: &str) -> Result<String, String> {
    let list = words(wished);
    if list.len() > 16 { Err("Too many bind addresses specified.".into()) } else { Ok(list.join(" ")) }
}

/// One limit of `client-output-buffer-limit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferLimit {
    /// Above this the connection is closed at once; 0: never.
    pub hard_bytes: u64,
    /// Above this for `soft_seconds` the connection is closed; 0: never.
    pub soft_bytes: u64,
    /// See `soft_bytes`.
    pub soft_seconds: u64,
}

const CLASSES: [&str; 3] = ["normal", "slave", "pubsub"];

/// `<class> <hard> <soft> <seconds>`, several times. Classes that are not named keep what they have.
pub(super) fn buffer_limits(present: &str, wished: &str) -> Result<String, String> {
    let mut limits = read_buffer_limits(present)?;
    let wished = words(wished);
    if !wished.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    }
    for group in wished.chunks_exact(4) {
        let (class, limit) = buffer_limit(group)?;
        limits[class] = limit;
    }
    Ok(CLASSES
        .iter()
        .zip(limits)
        .map(|(class, limit)| format!("{class} {} {} {}", limit.hard_bytes, limit.soft_bytes, limit.soft_seconds))
        .collect::<Vec<_>>()
        .join(" "))
}

/// Normal clients, replicas, subscribers.
pub(super) fn read_buffer_limits(value: &str) -> Result<[BufferLimit; 3], String> {
    let mut limits = [BufferLimit::default(); 3];
    for group in words(value).chunks_exact(4) {
        let (class, limit) = buffer_limit(group)?;
        limits[class] = limit;
    }
    Ok(limits)
}

fn buffer_limit(group: &[&str]) -> Result<(usize, BufferLimit), String> {
    let class = match group[0].to_ascii_lowercase().as_str() {
        "normal" => 0,
        "slave" | "replica" => 1,
        "pubsub" => 2,
        _ => return Err("Invalid client class specified in buffer limit configuration.".into()),
    };
    let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    match (number(bytes(group[1])), number(bytes(group[2])), number(integer(group[3]))) {
        (Some(hard_bytes), Some(soft_bytes), Some(soft_seconds)) => {
            Ok((class, BufferLimit { hard_bytes, soft_bytes, soft_seconds }))
        }
        _ => Err("Error in hard, soft or soft_seconds setting in buffer limit configuration.".into()),
    }
}

/// `<seconds> <changes>`, several times, or nothing.
pub(super) fn save_points(_: &str, wished: &str) -> Result<String, String> {
    let list = words(wished);
    let fits = |(index, word): (usize, &&str)| integer(word).is_some_and(|n| n >= i64::from(index % 2 == 0));
    if list.len().is_multiple_of(2) && list.iter().enumerate().all(fits) {
        Ok(list.join(" "))
    } else {
        Err("Invalid save parameters".into())
    }
}

/// Numbers between 0 and 100.
pub(super) fn percentiles(_: &str, wished: &str) -> Result<String, String> {
    let mut kept = Vec::new();
    for word in words(wished) {
        let number: f64 = word
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .ok_or("Invalid latency-tracking-info-percentiles parameters")?;
        if !(0.0..=100.0).contains(&number) {
            return Err("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]".into());
        }
        // Six decimals at most, and no zeros at the end.
        let text = format!("{number:.6}");
        kept.push(text.trim_end_matches('0').trim_end_matches('.').to_owned());
    }
    Ok(kept.join(" "))
}

/// Three numbers between -2000 and 2000.
pub(super) fn oom_values(_: &str, wished: &str) -> Result<String, String> {
    let list = words(wished);
    if list.len() != 3 {
        return Err("wrong number of arguments".into());
    }
    if list.iter().all(|word| integer(word).is_some_and(|n| (-2000..=2000).contains(&n))) {
        Ok(list.join(" "))
    } else {
        Err("Invalid oom-score-adj-values, elements must be between -2000 and 2000.".into())
    }
}

/// What a signal does: `default`, or some of the others.
pub(super) fn shutdown_words(_: &str, wished: &str) -> Result<String, String> {
    const WORDS: [&str; 5] = ["default", "save", "nosave", "now", "force"];
    let mut given = [false; WORDS.len()];
    let list = words(wished);
    for word in &list {
        let index = WORDS.iter().position(|known| known.eq_ignore_ascii_case(word)).ok_or_else(|| one_of(&WORDS))?;
        given[index] = true;
    }
    if list.is_empty() {
        return Err(one_of(&WORDS));
    }
    if given[1] && given[2] {
        return Err("shutdown options SAVE and NOSAVE can't be used simultaneously".into());
    }
    let kept: Vec<&str> = (1..WORDS.len()).filter(|index| given[*index]).map(|index| WORDS[index]).collect();
    Ok(if kept.is_empty() { WORDS[0].to_owned() } else { kept.join(" ") })
}

/// Letters of keyspace events, in the order Redis shows them.
pub(super) fn keyspace_events(_: &str, wished: &str) -> Result<String, String> {
    const CLASSES: &str = "g$lshzxetd";
    const MORE: &str = "nKEm";
    if !wished.chars().all(|letter| letter == 'A' || CLASSES.contains(letter) || MORE.contains(letter)) {
        return Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".into());
    }
    let all = wished.contains('A') || CLASSES.chars().all(|class| wished.contains(class));
    let classes = if all { "A".to_owned() } else { chosen(CLASSES, wished) };
    Ok(classes + &chosen(MORE, wished))
}

fn chosen(letters: &str, wished: &str) -> String {
    letters.chars().filter(|letter| wished.contains(*letter)).collect()
}

/// A file name without a path.
pub(super) fn file_name(_: &str, wished: &str) -> Result<String, String> {
    if wished.contains('/') { Err("dbfilename can't be a path, just a filename".into()) } else { Ok(wished.to_owned()) }
}

/// Nothing, or `no one`: Quorate replicates by itself.
pub(super) fn replica_of(_: &str, wished: &str) -> Result<String, String> {
    if wished.is_empty() || wished.eq_ignore_ascii_case("no one") {
        Ok(String::new())
    } else {
        Err("members of a group replicate among themselves; see 'quorate member add'".into())
    }
}
