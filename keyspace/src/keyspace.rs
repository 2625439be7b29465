//! The state machine: entries of the log go in, replies come out, and all members stay the same.
//!
//! `apply` is the only way in. It depends on the entry's bytes and on nothing else: time and chance come with the
//! stamp, and time never goes back. Keys past due are hidden from every read to the millisecond and are removed by
//! entries only.

use bytes::{Bytes, BytesMut};

use crate::args::Args;
use crate::cx::{Moment, ReadCx, WriteCx};
use crate::db::{Database, Place};
use crate::entry::{self, Commands, Entry, KeyList, Unit, Watch};
use crate::error::{CmdError, Corrupt};
use crate::garbage::Garbage;
use crate::hasher::{Hasher, Rng};
use crate::item::Item;
use crate::portable::Portable;
use crate::reply::{Proto, ReplyBuf};
use crate::settings::Settings;
use crate::spec::{self, Command, Handler};
use crate::view::View;

/// Everything that is replicated.
pub(crate) struct Space {
    pub(crate) dbs: Vec<Database>,
    pub(crate) hasher: Hasher,
    pub(crate) settings: Settings,
    pub(crate) revision: u64,
    pub(crate) now_ms: u64,
    pub(crate) rng: Rng,
    /// Keys removed because they had ended, since this process began: a figure, no part of the state.
    pub(crate) expired: u64,
    pub(crate) garbage: Garbage,
}

/// See the module's words.
pub struct Keyspace {
    space: Space,
    /// What is left of the last buffer of replies.
    replies: BytesMut,
}

/// What INFO shows of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DbInfo {
    /// Its keys, those past due but not yet removed included.
    pub keys: u64,
    /// Those that end.
    pub expires: u64,
    /// Their average time to live.
    pub avg_ttl_ms: u64,
}

impl Keyspace {
    /// Empty databases. `seed` is a secret of the group: the same on every member, kept in every view's header.
    pub fn new(databases: u16, seed: [u64; 2]) -> Self {
        let databases = usize::from(databases.max(1));
        Self {
            space: Space {
                dbs: std::iter::repeat_with(Database::default).take(databases).collect(),
                hasher: Hasher::new(seed),
                settings: Settings::default(),
                revision: 0,
                now_ms: 0,
                rng: Rng::new(0),
                expired: 0,
                garbage: Garbage::default(),
            },
            replies: BytesMut::new(),
        }
    }

    pub(crate) fn from_space(space: Space) -> Self {
        Self { space, replies: BytesMut::new() }
    }

    /// The state of a view. It walks all keys once to find their expiries: not under a lock that others wait for.
    pub fn from_view(view: &View) -> Self {
        Self::from_space(view.to_space())
    }

    /// A consistent, immutable view of everything, in a microsecond or so.
    pub fn view(&self) -> View {
        View::of(&self.space)
    }

    /// Applies an entry of the log. One buffer of replies per unit: of a batch, its commands' replies in their
    /// order. Without `want_replies` none are made. An error means the bytes are damaged: the member must stop.
    pub fn apply(&mut self, entry: &[u8], want_replies: bool) -> Result<Vec<Bytes>, Corrupt> {
        let mut entry = Entry::open(entry)?;
        let space = &mut self.space;
        // Nobody took it, so it goes here.
        space.garbage = Garbage::default();
        space.now_ms = space.now_ms.max(entry.stamp.time_ms);
        space.rng = Rng::new(entry.stamp.seed);
        let mut out = if want_replies {
            ReplyBuf::over(std::mem::take(&mut self.replies), Proto::Resp2)
        } else {
            ReplyBuf::muted()
        };
        let mut replies = Vec::with_capacity(if want_replies { entry.len() } else { 0 });
        let mut args = Vec::with_capacity(16);
        while let Some(unit) = entry.next_unit()? {
            match unit {
                Unit::Commands(commands) => space.run_unit(commands, &mut args, &mut out)?,
                Unit::Expire(keys) => space.run_expire(keys, &mut out)?,
                Unit::Setting(name, value) => {
                    space.settings.set(name, value);
                    out.ok();
                }
                Unit::Found(databases, seed) => {
                    space.found(databases, seed);
                    out.ok();
                }
            }
            if want_replies {
                replies.push(out.take());
            }
        }
        self.replies = out.into_inner();
        Ok(replies)
    }

    /// Runs a command that only reads. The caller has looked it up and checked its arity; `args` stands where the look-up
    /// said.
    pub fn read(
        &self,
        now_ms: u64,
        seed: u64,
        db: u16,
        command: &Command<Handler>,
        args: Args<'_>,
        out: &mut ReplyBuf,
    ) {
        let moment = Moment::new(now_ms, seed);
        self.read_at(&moment, seed, db, command, args, out);
    }

    /// Like [`Self::read`], at a moment that counts what was read. `seed` is this command's.
    pub fn read_at(
        &self,
        moment: &Moment,
        seed: u64,
        db: u16,
        command: &Command<Handler>,
        mut args: Args<'_>,
        out: &mut ReplyBuf,
    ) {
        let cx = ReadCx::at(&self.space, moment, seed, db);
        let mark = out.mark();
        let done = match command.handler {
            _ if usize::from(db) >= self.space.dbs.len() => Err(CmdError::DB_RANGE),
            Handler::Read(run) => run(&cx, &mut args, out),
            Handler::Write(_) | Handler::Container => Err(NOT_A_READ),
        };
        if let Err(error) = done {
            out.truncate(mark);
            out.fail(&error);
        }
    }

    /// Runs a unit that another member forwards, if it holds reads only: one buffer of replies, as [`Self::apply`]
    /// makes them. Of a batch, it ends behind the command with whose reply there is `enough`, the first at the earliest;
    /// how many are answered comes first.
    pub fn read_unit(&self, moment: &Moment, unit: &[u8], enough: usize) -> Result<(u32, Bytes), Corrupt> {
        let now_ms = moment.now_ms.max(self.space.now_ms);
        let mut commands = entry::open_commands(unit)?;
        let mut out = ReplyBuf::new(commands.proto);
        let mut stale = false;
        while let Some((db, key, revision)) = commands.next_watch()? {
            stale |= self.revision(now_ms, db, key) != revision;
        }
        if commands.transaction {
            if stale {
                out.null_array();
                return Ok((commands.len() as u32, out.take()));
            }
            out.array(commands.len());
        }
        let mut args = Vec::with_capacity(16);
        let mut nth = 0;
        while let Some(db) = commands.next_command(&mut args)? {
            let seed = moment.seed.wrapping_add(u64::from(nth));
            match spec::lookup_full(&args) {
                Ok((command, at)) => self.read_at(moment, seed, db, command, Args::new(&args, at), &mut out),
                Err(error) => out.fail(&error),
            }
            nth += 1;
            if !commands.transaction && out.bytes().len() >= enough {
                break;
            }
        }
        Ok((nth, out.take()))
    }

    /// Whether the group's first unit ([`crate::encode_found_unit`]) was applied.
    pub fn is_founded(&self) -> bool {
        self.space.founded()
    }

    /// Runs a MULTI/EXEC that only reads, all at one moment: an array, or null when a watched key has changed.
    pub fn read_transaction<'c>(
        &self,
        moment: &Moment,
        watches: &[Watch],
        commands: impl ExactSizeIterator<Item = (u16, &'c Command<Handler>, Args<'c>)>,
        out: &mut ReplyBuf,
    ) {
        if watches.iter().any(|watch| self.revision(moment.now_ms, watch.db, &watch.key) != watch.revision) {
            return out.null_array();
        }
        out.array(commands.len());
        for (nth, (db, command, args)) in commands.enumerate() {
            self.read_at(moment, moment.seed.wrapping_add(nth as u64), db, command, args, out);
        }
    }

    /// The revision of a key for WATCH: 0 when it does not exist.
    pub fn revision(&self, now_ms: u64, db: u16, key: &[u8]) -> u64 {
        self.space.watched(now_ms.max(self.space.now_ms), db, key)
    }

    /// A key to be sent to another server (MIGRATE).
    pub fn portable(&self, moment: &Moment, db: u16, key: &[u8]) -> Option<Portable> {
        if db >= self.databases() {
            return None;
        }
        let cx = ReadCx::at(&self.space, moment, moment.seed, db);
        cx.get(key).map(|item| Portable::new(item.clone(), cx.now_ms()))
    }

    /// Keys that have ended, for an expire unit; at most about `limit`. As for reads, it is never earlier than the group's
    /// time: what a read hides has to be found here.
    pub fn due(&self, now_ms: u64, limit: usize) -> Vec<(u16, Bytes)> {
        let now_ms = now_ms.max(self.space.now_ms);
        let mut found = Vec::new();
        for (number, db) in self.space.dbs.iter().enumerate() {
            let left = limit.saturating_sub(found.len());
            db.due(now_ms, left, |key| found.push((number as u16, Bytes::copy_from_slice(key))));
        }
        found
    }

    /// The group's time: the greatest stamp applied.
    pub fn now_ms(&self) -> u64 {
        self.space.now_ms
    }

    /// How many databases there are.
    pub fn databases(&self) -> u16 {
        self.space.dbs.len() as u16
    }

    /// How many keys a database has.
    pub fn dbsize(&self, db: u16) -> u64 {
        self.space.dbs.get(usize::from(db)).map_or(0, |db| db.slots.len())
    }

    /// What INFO shows of a database.
    pub fn keyspace_info(&self, db: u16, now_ms: u64) -> DbInfo {
        let Some(db) = self.space.dbs.get(usize::from(db)) else {
            return DbInfo { keys: 0, expires: 0, avg_ttl_ms: 0 };
        };
        DbInfo { keys: db.slots.len(), expires: db.expires(), avg_ttl_ms: db.average_ttl_ms(now_ms) }
    }

    /// How long a string is; 0 for what is none.
    pub fn string_len(&self, now_ms: u64, db: u16, key: &[u8]) -> usize {
        if db >= self.databases() {
            return 0;
        }
        let item = ReadCx::new(&self.space, now_ms, 0, db).get(key);
        item.and_then(crate::item::Item::as_str).map_or(0, |string| string.len())
    }

    /// An estimate of a key's memory; None when it does not exist.
    pub fn memory_usage(&self, now_ms: u64, db: u16, key: &[u8]) -> Option<usize> {
        if db >= self.databases() {
            return None;
        }
        ReadCx::new(&self.space, now_ms, 0, db).get(key).map(crate::item::Item::memory_bytes)
    }

    /// Keys removed by apply because they had ended, since this process began.
    pub fn expired_keys(&self) -> u64 {
        self.space.expired
    }

    /// A replicated setting by its name in redis.conf.
    pub fn get_setting(&self, name: &str) -> Option<i64> {
        self.space.settings.by_name(name)
    }

    /// All replicated settings.
    pub fn settings(&self) -> &Settings {
        &self.space.settings
    }

    /// Changes a byte of a string's value behind the back of everything that keeps account of changes, as broken memory
    /// would: for the tests of what finds that. False: there is no such string, or it is empty.
    pub fn damage(&mut self, db: u16, key: &[u8]) -> bool {
        let place = Place::of(&self.space.hasher, key);
        let Some(db) = self.space.dbs.get_mut(usize::from(db)) else { return false };
        let Some(changed_at) = db.slots.slot(place.slot).map(|slot| slot.changed_at()) else { return false };
        let value = db.slots.get(place).and_then(|item| Some(item.as_str()?.whole().into_owned()));
        let Some(mut value) = value else { return false };
        let Some(byte) = value.first_mut() else { return false };
        *byte ^= 1;
        let damaged = db.edit(place, changed_at, |item| {
            let head = *item.head();
            *item = Item::string(head, key, &value);
        });
        damaged.is_some()
    }

    /// Takes what was removed, to be dropped where nobody waits; the next apply drops it otherwise. None: it was little
    /// enough to be dropped at once.
    pub fn take_garbage(&mut self) -> Option<Garbage> {
        let garbage = std::mem::take(&mut self.space.garbage);
        garbage.is_heavy().then_some(garbage)
    }
}

const NOT_A_READ: CmdError = CmdError::fixed("ERR command can't run as a read");

impl Space {
    /// The group's first unit. It counts once, and only while nothing else was applied: whatever was stored under
    /// another seed could not be found again.
    fn found(&mut self, databases: u16, seed: [u64; 2]) {
        if self.founded() || self.revision > 0 {
            return;
        }
        self.revision = 1;
        self.hasher = Hasher::new(seed);
        self.dbs = std::iter::repeat_with(Database::default).take(usize::from(databases.max(1))).collect();
    }

    fn founded(&self) -> bool {
        self.hasher.seed() != [0, 0]
    }

    fn watched(&self, now_ms: u64, db: u16, key: &[u8]) -> u64 {
        if usize::from(db) >= self.dbs.len() {
            return 0;
        }
        ReadCx::new(self, now_ms, 0, db).get(key).map_or(0, crate::item::Item::revision)
    }

    fn run_unit<'e>(
        &mut self,
        mut commands: Commands<'e>,
        args: &mut Vec<&'e [u8]>,
        out: &mut ReplyBuf,
    ) -> Result<(), Corrupt> {
        out.set_proto(commands.proto);
        let mut stale = false;
        while let Some((db, key, revision)) = commands.next_watch()? {
            stale |= self.watched(self.now_ms, db, key) != revision;
        }
        if stale && commands.transaction {
            out.null_array();
            return Ok(());
        }
        if commands.transaction {
            out.array(commands.len());
        }
        while let Some(db) = commands.next_command(args)? {
            let mark = out.mark();
            if let Err(error) = self.run_command(db, args, out) {
                out.truncate(mark);
                out.fail(&error);
            }
        }
        Ok(())
    }

    fn run_command(&mut self, db: u16, args: &[&[u8]], out: &mut ReplyBuf) -> Result<(), CmdError> {
        if usize::from(db) >= self.dbs.len() {
            return Err(CmdError::DB_RANGE);
        }
        let (command, at) = spec::lookup_full(args)?;
        let mut args = Args::new(args, at);
        match command.handler {
            Handler::Write(run) => run(&mut WriteCx::new(self, self.now_ms, db), &mut args, out),
            Handler::Read(run) => {
                let seed = self.rng.next_u64();
                // Nobody is told what it sees, and it changes nothing: the seed alone must be drawn.
                if out.is_muted() {
                    return Ok(());
                }
                run(&ReadCx::new(self, self.now_ms, seed, db), &mut args, out)
            }
            Handler::Container => Err(CmdError::SYNTAX),
        }
    }

    fn run_expire(&mut self, mut keys: KeyList<'_>, out: &mut ReplyBuf) -> Result<(), Corrupt> {
        self.revision += 1;
        let mut removed = 0;
        while let Some((db, key)) = keys.next_key()? {
            let Some(database) = self.dbs.get_mut(usize::from(db)) else {
                continue;
            };
            let place = Place::of(&self.hasher, key);
            if database.slots.get(place).is_some_and(|item| item.is_expired(self.now_ms)) {
                let item = database.remove(place, self.revision);
                removed += i64::from(self.garbage.item(item));
            }
        }
        self.expired += removed.unsigned_abs();
        out.int(removed);
        Ok(())
    }
}
