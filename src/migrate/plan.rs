//! What a line that calls MIGRATE asks for.

use std::time::Duration;

use bytes::Bytes;
use quorate_keyspace::args::is;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::number::parse_int;
use quorate_keyspace::spec::{KeyAt, key};

/// Where the options begin.
const OPTIONS: usize = 6;
const PATIENCE: Duration = Duration::from_millis(1000);

const KEYS_AND_KEY: CmdError =
    CmdError::fixed("ERR When using MIGRATE KEYS option, the key argument must be set to the empty string");

/// See the module's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) host: String,
    pub(super) port: u16,
    /// Of the target, which alone knows whether there is such a one.
    pub(super) db: i64,
    /// How long each step of the conversation with the target may take.
    pub(super) patience: Duration,
    pub(super) copy: bool,
    pub(super) replace: bool,
    pub(super) user: Option<Bytes>,
    pub(super) password: Option<Bytes>,
    pub(super) keys: Vec<Bytes>,
}

impl Plan {
    /// Of a whole line; its number of arguments was checked. Errors, and their order, are Redis'.
    pub fn parse(line: &[Bytes]) -> Result<Self, CmdError> {
        let mut plan = Self {
            host: String::from_utf8_lossy(&line[1]).into_owned(),
            port: port(&line[2]),
            db: 0,
            patience: PATIENCE,
            copy: false,
            replace: false,
            user: None,
            password: None,
            keys: vec![line[3].clone()],
        };
        let mut rest = &line[OPTIONS..];
        while let Some((word, behind)) = rest.split_first() {
            rest = behind;
            if is(word, "copy") {
                plan.copy = true;
            } else if is(word, "replace") {
                plan.replace = true;
            } else if is(word, "auth") {
                plan.password = Some(take(&mut rest)?);
            } else if is(word, "auth2") {
                (plan.user, plan.password) = (Some(take(&mut rest)?), Some(take(&mut rest)?));
            } else if is(word, "keys") {
                if !line[3].is_empty() {
                    return Err(KEYS_AND_KEY);
                }
                plan.keys = rest.to_vec();
                break;
            } else {
                return Err(CmdError::SYNTAX);
            }
        }
        let number = |at: usize| parse_int(&line[at]).ok_or(CmdError::NOT_INTEGER);
        if let Some(patience) = u64::try_from(number(5)?).ok().filter(|ms| *ms > 0) {
            plan.patience = bounded(patience);
        }
        plan.db = number(4)?;
        Ok(plan)
    }
}

fn take(rest: &mut &[Bytes]) -> Result<Bytes, CmdError> {
    let (first, behind) = rest.split_first().ok_or(CmdError::SYNTAX)?;
    *rest = behind;
    Ok(first.clone())
}

/// As C's `atoi` reads it: the digits at the beginning. To what is no port nobody can connect.
fn port(text: &[u8]) -> u16 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    parse_int(&text[..digits]).and_then(|port| u16::try_from(port).ok()).unwrap_or(0)
}

/// So many milliseconds, and no more than can be added to the time.
pub(super) fn bounded(ms: u64) -> Duration {
    Duration::from_millis(ms.min(i32::MAX.unsigned_abs().into()))
}

/// What stands among the options.
enum Place {
    /// A user's name or a password.
    Secret(usize),
    /// The first of the keys.
    Keys(usize),
}

/// Looks through the options without minding what is no option.
fn look(line: &[impl AsRef<[u8]>], mut each: impl FnMut(Place)) {
    let mut at = OPTIONS;
    while let Some(word) = line.get(at) {
        let word = word.as_ref();
        if is(word, "keys") {
            return each(Place::Keys(at + 1));
        }
        let secrets = usize::from(is(word, "auth")) + 2 * usize::from(is(word, "auth2"));
        (at + 1..=at + secrets).filter(|secret| *secret < line.len()).for_each(|secret| each(Place::Secret(secret)));
        at += 1 + secrets;
    }
}

/// The keys of a line.
pub fn find_keys(line: &[&[u8]]) -> Option<Vec<KeyAt>> {
    let mut keys = 3..4;
    // Redis goes by the key specs first, and looks closer where they find the word: the last one they don't look at.
    if line[2..line.len() - 1].iter().any(|word| is(word, "keys")) {
        look(line, |place| {
            if let Place::Keys(first) = place {
                keys = if line[3].is_empty() { first..line.len() } else { 0..0 };
            }
        });
    }
    Some(keys.map(|at| (at, key::RW | key::ACCESS | key::DELETE)).collect())
}

/// The line as it may be shown to others.
pub fn redact(line: &[Bytes]) -> Vec<Bytes> {
    let mut shown = line.to_vec();
    look(line, |place| {
        if let Place::Secret(at) = place {
            shown[at] = Bytes::from_static(b"(redacted)");
        }
    });
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<Bytes> {
        text.split(' ').map(|word| Bytes::copy_from_slice(word.replace('_', "").as_bytes())).collect()
    }

    fn parse(text: &str) -> Result<Plan, CmdError> {
        Plan::parse(&line(text))
    }

    #[test]
    fn errors_come_in_redis_order() {
        for (text, error) in [
            ("migrate h 1 k x y bogus", CmdError::SYNTAX),
            ("migrate h 1 k x y copy bogus", CmdError::SYNTAX),
            ("migrate h 1 k 0 0 auth", CmdError::SYNTAX),
            ("migrate h 1 k 0 0 auth2 u", CmdError::SYNTAX),
            ("migrate h 1 k x y keys a", KEYS_AND_KEY),
            ("migrate h 1 k 0 y keys", KEYS_AND_KEY),
            ("migrate h 1 k 0 y", CmdError::NOT_INTEGER),
            ("migrate h 1 k x 0", CmdError::NOT_INTEGER),
            ("migrate h 1 _ 0 1.5 keys a", CmdError::NOT_INTEGER),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn all_options_are_taken() {
        let plan = parse("MIGRATE ::1 7001 _ -3 250 Replace AUTH2 u p1 AUTH p2 COPY KEYS a copy b").unwrap();
        assert_eq!((&plan.host[..], plan.port, plan.db), ("::1", 7001, -3));
        assert_eq!(plan.patience, Duration::from_millis(250));
        assert!(plan.copy && plan.replace);
        assert_eq!((plan.user.as_deref(), plan.password.as_deref()), (Some(&b"u"[..]), Some(&b"p2"[..])));
        assert_eq!(plan.keys, line("a copy b"));
        let plan = parse("migrate h x k 0 0").unwrap();
        assert_eq!((plan.port, plan.patience), (0, PATIENCE));
        assert_eq!((plan.keys, plan.copy, plan.replace, plan.password), (line("k"), false, false, None));
        assert_eq!(parse("migrate h 7001x _ 0 -5 keys").unwrap().keys.len(), 0);
        assert_eq!(parse("migrate h 70000 k 0 9223372036854775807").unwrap().port, 0);
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let shown = redact(&line("migrate h 1 _ 0 0 auth keys copy auth2 u p keys auth x"));
        assert_eq!(shown, line("migrate h 1 _ 0 0 auth (redacted) copy auth2 (redacted) (redacted) keys auth x"));
        assert_eq!(redact(&line("migrate h 1 k 0 0 auth2 u")), line("migrate h 1 k 0 0 auth2 (redacted)"));
    }

    #[test]
    fn keys_are_found() {
        let places = |text: &str| -> Vec<usize> {
            let line = line(text);
            let line: Vec<&[u8]> = line.iter().map(|word| &word[..]).collect();
            find_keys(&line).unwrap().into_iter().map(|(at, _)| at).collect()
        };
        assert_eq!(places("migrate h 1 k 0 0"), [3]);
        assert_eq!(places("migrate h 1 k 0 0 auth keys copy"), [3]);
        assert_eq!(places("migrate h 1 _ 0 0 auth keys keys a b"), [9, 10]);
        assert!(places("migrate h 1 k 0 0 keys a").is_empty());
        assert!(places("migrate h 1 _ 0 0 auth keys keys").is_empty());
        assert_eq!(places("migrate h 1 _ 0 0 keys"), [3]);
    }
}
