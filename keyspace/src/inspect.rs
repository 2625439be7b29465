//! An entry of the log, opened for people: what `quorate log dump` prints.
//!
//! Nothing here is applied; whatever an entry holds, reading it changes nothing. The group's secret seed, which its first
//! entry brings, is not given away.

use crate::entry::{Entry, Stamp, Unit};
use crate::error::Corrupt;

/// A command with the database it is meant for.
pub type CommandFacts = (u16, Vec<Vec<u8>>);

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryFacts {
    /// The leader's time and the seed.
    pub stamp: Stamp,
    /// Its units, in order.
    pub units: Vec<UnitFacts>,
}

/// What a unit holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitFacts {
    /// Commands of one session.
    Commands {
        /// They are one MULTI/EXEC.
        transaction: bool,
        /// Keys that must not have changed, each with its database.
        watches: Vec<(u16, Vec<u8>)>,
        /// The commands.
        commands: Vec<CommandFacts>,
    },
    /// Keys to be removed if they are past due, each with its database.
    Expire(Vec<(u16, Vec<u8>)>),
    /// A setting of the group and its value.
    Setting(String, i64),
    /// The group's keyspace begins, with so many databases.
    Found(u16),
}

/// Opens an entry.
///
/// # Errors
/// If it is not what [`crate::encode_entry`] gave.
pub fn read_entry(bytes: &[u8]) -> Result<EntryFacts, Corrupt> {
    let mut entry = Entry::open(bytes)?;
    let mut units = Vec::with_capacity(entry.len());
    while let Some(unit) = entry.next_unit()? {
        units.push(read_unit(unit)?);
    }
    Ok(EntryFacts { stamp: entry.stamp, units })
}

fn read_unit(unit: Unit<'_>) -> Result<UnitFacts, Corrupt> {
    match unit {
        Unit::Commands(mut open) => {
            let mut watches = Vec::new();
            while let Some((db, key, _)) = open.next_watch()? {
                watches.push((db, key.to_vec()));
            }
            let (mut commands, mut args) = (Vec::new(), Vec::new());
            while let Some(db) = open.next_command(&mut args)? {
                commands.push((db, args.iter().map(|arg| arg.to_vec()).collect()));
            }
            Ok(UnitFacts::Commands { transaction: open.transaction, watches, commands })
        }
        Unit::Expire(mut list) => {
            let mut keys = Vec::new();
            while let Some((db, key)) = list.next_key()? {
                keys.push((db, key.to_vec()));
            }
            Ok(UnitFacts::Expire(keys))
        }
        Unit::Setting(name, value) => Ok(UnitFacts::Setting(name.to_owned(), value)),
        Unit::Found(databases, _) => Ok(UnitFacts::Found(databases)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{Proto, UnitHead, UnitKind, encode_entry, encode_expire_unit, encode_found_unit, encode_unit};

    #[test]
    fn an_entry_tells_its_commands_and_not_the_secret() {
        let head = UnitHead { kind: UnitKind::Transaction, proto: Proto::Resp2, watches: &[] };
        let args: [&[u8]; 3] = [b"SET", b"k", b"v"];
        let units = [
            encode_found_unit(16, [77, 88]),
            encode_unit(head, [(3, &args[..])].into_iter()),
            encode_expire_unit([(1, &b"gone"[..])].into_iter()),
        ];
        let mut out = BytesMut::new();
        let stamp = Stamp { time_ms: 5, seed: 6 };
        encode_entry(stamp, &units, &mut out);
        let facts = read_entry(&out).unwrap();
        let commands = vec![(3, args.map(<[u8]>::to_vec).to_vec())];
        let transaction = UnitFacts::Commands { transaction: true, watches: vec![], commands };
        let expected = vec![UnitFacts::Found(16), transaction, UnitFacts::Expire(vec![(1, b"gone".to_vec())])];
        assert_eq!(facts, EntryFacts { stamp, units: expected });
        for len in 0..out.len() {
            assert!(read_entry(&out[..len]).is_err(), "a prefix of {len} bytes was believed");
        }
    }
}
