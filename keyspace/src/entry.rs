//! What stands in the log: an entry is a stamp and units; a unit is what one session sent together.
//!
//! The format begins with a version byte. Decoding checks every bound: bytes that don't fit are [`Corrupt`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Corrupt;
use crate::reply::Proto;
use crate::wire::{self, Reader};

const VERSION: u8 = 1;

/// Time and chance of an entry, put there by the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The leader's clock, in milliseconds since 1970. Apply never lets it go back.
    pub time_ms: u64,
    /// What random choices of the entry's commands are drawn from.
    pub seed: u64,
}

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// Commands that each stand for themselves.
    Batch,
    /// One MULTI/EXEC: its reply is one array, or null when a watched key has changed.
    Transaction,
}

/// A key a session watches, with the revision it had then (0: absent).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Its database.
    pub db: u16,
    /// The key.
    pub key: Bytes,
    /// The revision.
    pub revision: u64,
}

/// What is known of a unit besides its commands.
#[derive(Clone, Copy, Debug)]
pub struct UnitHead<'a> {
    /// See [`UnitKind`].
    pub kind: UnitKind,
    /// The dialect of the replies.
    pub proto: Proto,
    /// Only of a transaction.
    pub watches: &'a [Watch],
}

const BATCH: u8 = 1;
const TRANSACTION: u8 = 2;
const EXPIRE: u8 = 3;
const SETTING: u8 = 4;
const FOUND: u8 = 5;

/// A session's commands as one unit; each with the database it is meant for.
pub fn encode_unit<'a, A: AsRef<[u8]> + 'a>(
    head: UnitHead<'_>,
    commands: impl Iterator<Item = (u16, &'a [A])>,
) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    out.put_u8(match head.kind {
        UnitKind::Batch => BATCH,
        UnitKind::Transaction => TRANSACTION,
    });
    out.put_u8(match head.proto {
        Proto::Resp2 => 2,
        Proto::Resp3 => 3,
    });
    wire::put_len(&mut out, head.watches.len());
    for watch in head.watches {
        wire::put_u64(&mut out, u64::from(watch.db));
        wire::put_bytes(&mut out, &watch.key);
        wire::put_u64(&mut out, watch.revision);
    }
    let count_at = out.len();
    out.put_u32_le(0);
    let mut count: u32 = 0;
    for (db, args) in commands {
        count += 1;
        wire::put_u64(&mut out, u64::from(db));
        wire::put_len(&mut out, args.len());
        for arg in args {
            wire::put_bytes(&mut out, arg.as_ref());
        }
    }
    out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
    out.freeze()
}

/// A unit that removes those of these keys that are past due at the entry's time.
pub fn encode_expire_unit<'a>(keys: impl ExactSizeIterator<Item = (u16, &'a [u8])>) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    out.put_u8(EXPIRE);
    wire::put_len(&mut out, keys.len());
    for (db, key) in keys {
        wire::put_u64(&mut out, u64::from(db));
        wire::put_bytes(&mut out, key);
    }
    out.freeze()
}

/// A unit that sets a replicated setting; whoever makes it has checked the value.
pub fn encode_setting_unit(name: &str, value: i64) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(SETTING);
    wire::put_bytes(&mut out, name.as_bytes());
    out.put_i64_le(value);
    out.freeze()
}

/// The first unit of a group's log: how many databases there are, and the secret seed of its hash tables. Both are the
/// group's and not a member's, so they have to come with the log.
pub fn encode_found_unit(databases: u16, seed: [u64; 2]) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    out.put_u8(FOUND);
    wire::put_u64(&mut out, u64::from(databases));
    out.put_u64_le(seed[0]);
    out.put_u64_le(seed[1]);
    out.freeze()
}

/// Units under one stamp: what is proposed as one entry of the log.
pub fn encode_entry(stamp: Stamp, units: &[Bytes], out: &mut BytesMut) {
    out.reserve(32 + units.iter().map(|unit| unit.len() + 5).sum::<usize>());
    out.put_u8(VERSION);
    out.put_u64_le(stamp.time_ms);
    out.put_u64_le(stamp.seed);
    wire::put_len(out, units.len());
    for unit in units {
        wire::put_bytes(out, unit);
    }
}

/// The commands of a unit that came by itself, not in an entry: reads that another member forwards.
pub(crate) fn open_commands(unit: &[u8]) -> Result<Commands<'_>, Corrupt> {
    let mut reader = Reader::new("unit", unit);
    match reader.u8()? {
        kind @ (BATCH | TRANSACTION) => Commands::open(kind == TRANSACTION, reader),
        _ => Err(reader.corrupt("unknown kind")),
    }
}

/// An entry, opened.
pub(crate) struct Entry<'a> {
    pub(crate) stamp: Stamp,
    units: Reader<'a>,
    left: usize,
}

impl<'a> Entry<'a> {
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new("log entry", bytes);
        reader.version(VERSION)?;
        let stamp = Stamp { time_ms: reader.u64_le()?, seed: reader.u64_le()? };
        let left = reader.count(1)?;
        Ok(Self { stamp, units: reader, left })
    }

    pub(crate) fn len(&self) -> usize {
        self.left
    }

    pub(crate) fn next_unit(&mut self) -> Result<Option<Unit<'a>>, Corrupt> {
        if self.left == 0 {
            self.units.end()?;
            return Ok(None);
        }
        self.left -= 1;
        let mut reader = Reader::new("unit", self.units.bytes()?);
        let kind = reader.u8()?;
        Ok(Some(match kind {
            BATCH | TRANSACTION => Unit::Commands(Commands::open(kind == TRANSACTION, reader)?),
            EXPIRE => {
                let left = reader.count(2)?;
                Unit::Expire(KeyList { reader, left })
            }
            SETTING => {
                let name = std::str::from_utf8(reader.bytes()?).map_err(|_| reader.corrupt("setting's name"))?;
                let value = reader.u64_le()?.cast_signed();
                reader.end()?;
                Unit::Setting(name, value)
            }
            FOUND => {
                let databases = reader.u16()?;
                let seed = [reader.u64_le()?, reader.u64_le()?];
                reader.end()?;
                Unit::Found(databases, seed)
            }
            _ => return Err(reader.corrupt("unknown kind")),
        }))
    }
}

/// A unit, opened.
pub(crate) enum Unit<'a> {
    Commands(Commands<'a>),
    Expire(KeyList<'a>),
    Setting(&'a str, i64),
    Found(u16, [u64; 2]),
}

/// Keys of an expire unit.
pub(crate) struct KeyList<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> KeyList<'a> {
    pub(crate) fn next_key(&mut self) -> Result<Option<(u16, &'a [u8])>, Corrupt> {
        if self.left == 0 {
            self.reader.end()?;
            return Ok(None);
        }
        self.left -= 1;
        Ok(Some((self.reader.u16()?, self.reader.bytes()?)))
    }
}

/// Database, key and revision of a watch.
type WatchRef<'a> = (u16, &'a [u8], u64);

/// The commands of a batch or transaction.
pub(crate) struct Commands<'a> {
    pub(crate) transaction: bool,
    pub(crate) proto: Proto,
    watches: KeyList<'a>,
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Commands<'a> {
    fn open(transaction: bool, mut reader: Reader<'a>) -> Result<Self, Corrupt> {
        let proto = match reader.u8()? {
            2 => Proto::Resp2,
            3 => Proto::Resp3,
            _ => return Err(reader.corrupt("unknown dialect")),
        };
        let watch_count = reader.count(3)?;
        let watches = KeyList { reader: reader.clone(), left: watch_count };
        for _ in 0..watch_count {
            reader.u16()?;
            reader.bytes()?;
            reader.u64()?;
        }
        let left = reader.u32_le()? as usize;
        Ok(Self { transaction, proto, watches, reader, left })
    }

    pub(crate) fn len(&self) -> usize {
        self.left
    }

    pub(crate) fn next_watch(&mut self) -> Result<Option<WatchRef<'a>>, Corrupt> {
        let watches = &mut self.watches;
        if watches.left == 0 {
            return Ok(None);
        }
        watches.left -= 1;
        Ok(Some((watches.reader.u16()?, watches.reader.bytes()?, watches.reader.u64()?)))
    }

    /// The next command's arguments into `args`; its database, or None at the end.
    pub(crate) fn next_command(&mut self, args: &mut Vec<&'a [u8]>) -> Result<Option<u16>, Corrupt> {
        args.clear();
        if self.left == 0 {
            self.reader.end()?;
            return Ok(None);
        }
        self.left -= 1;
        let db = self.reader.u16()?;
        let count = self.reader.count(1)?;
        for _ in 0..count {
            args.push(self.reader.bytes()?);
        }
        Ok(Some(db))
    }
}
