//! `quorate log dump`: the entries that the log holds, one after the other.

use std::fmt::Write as _;

use bytes::Bytes;
use clap::Args;
use quorate_keyspace::inspect::{self as keyspace, UnitFacts};
use quorate_raft::inspect::{self as raft, EntryKind, LogPlace};
use quorate_storage::wal::Inspection;
use serde_json::{Value as Json, json};

use super::{From, lost, open, read_log};
use crate::node::offline;

/// Bytes of an argument that people are shown.
const SHOWN_BYTES: usize = 80;

#[derive(Debug, Args)]
pub(super) struct Dump {
    #[command(flatten)]
    source: From,
    /// First entry to print, by index
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// Last entry to print, by index
    #[arg(long, value_name = "INDEX", default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
}

/// An entry, opened as far as it can be.
struct Opened {
    place: Option<LogPlace>,
    kind: &'static str,
    bytes: usize,
    /// What it says, in words; for entries without units.
    words: String,
    time_ms: Option<u64>,
    units: Vec<UnitFacts>,
    /// Why it can't be opened.
    problem: Option<String>,
}

impl Dump {
    /// False if something is damaged.
    pub(super) fn run(&self) -> anyhow::Result<bool> {
        let dir = open(&self.source.dir)?;
        let log = read_log(&dir)?;
        let wrong = offline::log_problem(&dir).unwrap_or_default().or_else(|| lost(&dir, &log, None));
        let mut sound = log.damage.is_empty() && wrong.is_none();
        for group in log.groups.keys() {
            if !self.source.json {
                println!("{}", heading(&log, *group));
            }
            for index in log.entries(*group).filter(|index| (self.from..=self.to).contains(index)) {
                let entry = open_entry(&log, *group, index);
                sound &= entry.problem.is_none();
                if self.source.json {
                    println!("{}", as_json(*group, index, &entry));
                } else {
                    print!("{}", as_text(index, &entry));
                }
            }
        }
        for damage in &log.damage {
            eprintln!("quorate: damaged: {damage}");
        }
        if let Some(words) = wrong {
            eprintln!("quorate: damaged: {words}");
        }
        if !log.damage.is_empty() {
            eprintln!("quorate: what is behind the first damage was not printed; see quorate log verify");
        }
        Ok(sound)
    }
}

fn heading(log: &Inspection, group: u64) -> String {
    let facts = &log.groups[&group];
    let mut out = format!("group {group}: ");
    match facts.entries {
        Some((first, last)) => {
            let _ = write!(out, "entries {first} to {last}");
        }
        None => out.push_str("no entries"),
    }
    if let Some((upto, _)) = &facts.purged {
        let _ = write!(out, ", purged up to {upto}");
    }
    if let Some(Ok(Some(committed))) = facts.committed.clone().map(raft::committed) {
        let _ = write!(out, ", committed at least up to {}", committed.index);
    }
    if let Some(Ok(vote)) = facts.vote.clone().map(raft::vote) {
        let _ = write!(out, ", voted in term {} for member {}", vote.term, vote.member);
    }
    out
}

fn open_entry(log: &Inspection, group: u64, index: u64) -> Opened {
    let broken = |bytes, problem: String| Opened {
        place: None,
        kind: "damaged",
        bytes,
        words: String::new(),
        time_ms: None,
        units: Vec::new(),
        problem: Some(problem),
    };
    let bytes = match log.entry(group, index) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return broken(0, "it is not there".to_owned()),
        Err(error) => return broken(0, error.to_string()),
    };
    match open_bytes(&bytes) {
        Ok(entry) => entry,
        Err(problem) => broken(bytes.len(), problem),
    }
}

fn open_bytes(bytes: &Bytes) -> Result<Opened, String> {
    let (place, kind) = raft::entry(bytes.clone())?;
    let empty = Opened {
        place: Some(place),
        kind: "blank",
        bytes: bytes.len(),
        words: String::new(),
        time_ms: None,
        units: Vec::new(),
        problem: None,
    };
    Ok(match kind {
        EntryKind::Blank => empty,
        EntryKind::System(words) => Opened { kind: "system", words, ..empty },
        EntryKind::Membership(words) => Opened { kind: "membership", words, ..empty },
        EntryKind::App(bytes) => {
            let facts = keyspace::read_entry(&bytes).map_err(|error| error.to_string())?;
            Opened { kind: "write", time_ms: Some(facts.stamp.time_ms), units: facts.units, ..empty }
        }
    })
}

/// Checks that an entry can be opened, without keeping anything of it.
pub(super) fn check(log: &Inspection, group: u64, index: u64) -> Result<(), String> {
    let entry = open_entry(log, group, index);
    match (entry.problem, entry.place) {
        (Some(problem), _) => Err(problem),
        (None, Some(place)) if place.index != index => Err(format!("it says that it is entry {}", place.index)),
        (None, _) => Ok(()),
    }
}

fn as_text(index: u64, entry: &Opened) -> String {
    let mut out = String::new();
    let term = entry.place.map_or("-".to_owned(), |place| place.term.to_string());
    let _ = write!(out, "{index:>10}  term {term}  {}  {} bytes", entry.kind, entry.bytes);
    if let Some(time) = entry.time_ms {
        let _ = write!(out, "  {}", utc(time));
    }
    for words in [Some(&entry.words), entry.problem.as_ref()].into_iter().flatten().filter(|words| !words.is_empty()) {
        let _ = write!(out, "  {words}");
    }
    out.push('\n');
    for unit in &entry.units {
        put_unit(&mut out, unit);
    }
    out
}

fn put_unit(out: &mut String, unit: &UnitFacts) {
    let mut line = |text: String| {
        let _ = writeln!(out, "{:14}{text}", "");
    };
    match unit {
        UnitFacts::Commands { transaction, watches, commands } => {
            if *transaction {
                let watched = watches.iter().map(|(db, key)| format!(" [{db}] {}", quoted(key))).collect::<String>();
                line(if watched.is_empty() { "MULTI".to_owned() } else { format!("MULTI, watching{watched}") });
            }
            for (db, args) in commands {
                let args: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
                line(format!("[{db}] {}", args.join(" ")));
            }
        }
        UnitFacts::Expire(keys) => {
            let keys: Vec<String> = keys.iter().map(|(db, key)| format!("[{db}] {}", quoted(key))).collect();
            line(format!("expired, if past due: {}", keys.join(", ")));
        }
        UnitFacts::Setting(name, value) => line(format!("setting {name} = {value}")),
        UnitFacts::Found(databases) => line(format!("the keyspace begins, with {databases} databases")),
    }
}

/// As redis-cli shows it: plain where that is clear, quoted where not, cut where it is long.
fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let plain = !shown.is_empty() && shown.iter().all(|byte| byte.is_ascii_graphic() && !b"\"'\\".contains(byte));
    let text =
        if plain { String::from_utf8_lossy(shown).into_owned() } else { format!("\"{}\"", shown.escape_ascii()) };
    if shown.len() == bytes.len() { text } else { format!("{text}... ({} bytes)", bytes.len()) }
}

/// `2026-11-21T05:12:03.250Z`
fn utc(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    // Days to a date by the civil calendar, counted from the first of March of the year 0.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// Text where it is text, else its bytes in hex.
fn json_bytes(bytes: &[u8]) -> Json {
    match str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

fn as_json(group: u64, index: u64, entry: &Opened) -> Json {
    let keys = |keys: &[(u16, Vec<u8>)]| -> Vec<Json> {
        keys.iter().map(|(db, key)| json!({ "db": db, "key": json_bytes(key) })).collect()
    };
    let unit = |unit: &UnitFacts| match unit {
        UnitFacts::Commands { transaction, watches, commands } => {
            let command = |(db, args): &(u16, Vec<Vec<u8>>)| json!({ "db": db, "args": args.iter().map(|arg| json_bytes(arg)).collect::<Vec<_>>() });
            json!({
                "kind": if *transaction { "transaction" } else { "batch" },
                "watches": keys(watches),
                "commands": commands.iter().map(command).collect::<Vec<_>>(),
            })
        }
        UnitFacts::Expire(list) => json!({ "kind": "expire", "keys": keys(list) }),
        UnitFacts::Setting(name, value) => json!({ "kind": "setting", "name": name, "value": value }),
        UnitFacts::Found(databases) => json!({ "kind": "found", "databases": databases }),
    };
    json!({
        "group": group,
        "index": index,
        "term": entry.place.map(|place| place.term),
        "leader": entry.place.map(|place| place.leader),
        "kind": entry.kind,
        "bytes": entry.bytes,
        "time_ms": entry.time_ms,
        "words": entry.words,
        "units": entry.units.iter().map(unit).collect::<Vec<_>>(),
        "problem": entry.problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_people_write_it() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(utc(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert_eq!(utc(4_102_444_799_999), "2099-12-31T23:59:59.999Z");
    }

    #[test]
    fn arguments_are_plain_where_that_is_clear() {
        assert_eq!(quoted(b"key:1"), "key:1");
        assert_eq!(quoted(b""), "\"\"");
        assert_eq!(quoted(b"a b\x00\""), r#""a b\x00\"""#);
        assert_eq!(quoted(&[b'x'; 100]), format!("{}... (100 bytes)", "x".repeat(80)));
    }
}
