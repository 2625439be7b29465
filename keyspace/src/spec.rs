//! What a command is: one entry of a table at the foot of its family's file says everything about it.
//!
//! COMMAND, COMMAND DOCS, dispatch, ACL and the generated docs read these tables, so nothing about a command is
//! written twice. Whether a command writes is told by its handler's type, so that flag can't lie.

mod flags;
mod keys;

use std::sync::OnceLock;

use crate::args::Args;
use crate::commands;
use crate::cx::{ReadCx, WriteCx};
use crate::error::CmdError;
use crate::reply::ReplyBuf;

pub use self::flags::{acl, flag, key};
pub use self::keys::{keys_of, legacy_range};

/// The group COMMAND DOCS puts a command in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are Redis' own names")]
pub enum Group {
    Generic,
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Pubsub,
    Transactions,
    Connection,
    Server,
    Scripting,
    Hyperloglog,
    Cluster,
    Sentinel,
    Geo,
    Stream,
    Bitmap,
}

impl Group {
    /// As COMMAND DOCS writes it.
    pub fn name(self) -> &'static str {
        match self {
            Group::Generic => "generic",
            Group::String => "string",
            Group::List => "list",
            Group::Set => "set",
            Group::SortedSet => "sorted-set",
            Group::Hash => "hash",
            Group::Pubsub => "pubsub",
            Group::Transactions => "transactions",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Scripting => "scripting",
            Group::Hyperloglog => "hyperloglog",
            Group::Cluster => "cluster",
            Group::Sentinel => "sentinel",
            Group::Geo => "geo",
            Group::Stream => "stream",
            Group::Bitmap => "bitmap",
        }
    }
}

/// Where the search for keys begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this argument.
    Index(i32),
    /// Behind this word, looked for from an argument on (negative: backwards from the end).
    Keyword(&'static str, i32),
    /// It can't be told without knowing the command.
    Unknown,
}

/// How the keys are found from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// Up to `last` (relative to the first; negative: from the end), every `step`-th; a `limit` of n > 1 stops
    /// after the n-th part of the rest.
    Range {
        /// The last key, relative to the first.
        last: i32,
        /// The distance between keys.
        step: i32,
        /// See above; 0 and 1 mean none.
        limit: i32,
    },
    /// A count stands at `count`, the first key at `first`, all relative to the beginning.
    Count {
        /// Where the number of keys is.
        count: i32,
        /// Where the first key is.
        first: i32,
        /// The distance between keys.
        step: i32,
    },
    /// It can't be told without knowing the command.
    Unknown,
}

/// One rule that finds keys among the arguments.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Of [`key`].
    pub flags: u32,
    /// Where to begin.
    pub begin: Begin,
    /// How to go on.
    pub find: Find,
    /// A word on it, or nothing.
    pub notes: &'static str,
}

impl KeySpec {
    /// One key, the first argument.
    pub const fn one(flags: u32) -> Self {
        Self::at(1, flags)
    }

    /// One key at this argument.
    pub const fn at(index: i32, flags: u32) -> Self {
        Self::range(index, 0, 1, flags)
    }

    /// Keys from `first` to `last` (relative to the first, or from the end when negative), every `step`-th.
    pub const fn range(first: i32, last: i32, step: i32, flags: u32) -> Self {
        Self { flags, begin: Begin::Index(first), find: Find::Range { last, step, limit: 0 }, notes: "" }
    }

    /// A count at argument `index`, the keys behind it.
    pub const fn counted(index: i32, flags: u32) -> Self {
        Self { flags, begin: Begin::Index(index), find: Find::Count { count: 0, first: 1, step: 1 }, notes: "" }
    }

    /// Keys that can't be found without knowing the command.
    pub const fn unknown(flags: u32) -> Self {
        Self { flags, begin: Begin::Unknown, find: Find::Unknown, notes: "" }
    }

    /// With a word on it.
    pub const fn notes(mut self, notes: &'static str) -> Self {
        self.notes = notes;
        self
    }
}

/// The kind of an argument, for COMMAND DOCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are Redis' own names")]
pub enum ArgKind {
    String,
    Integer,
    Double,
    Key,
    Pattern,
    UnixTime,
    PureToken,
    OneOf,
    Block,
}

impl ArgKind {
    /// As COMMAND DOCS writes it.
    pub fn name(self) -> &'static str {
        match self {
            ArgKind::String => "string",
            ArgKind::Integer => "integer",
            ArgKind::Double => "double",
            ArgKind::Key => "key",
            ArgKind::Pattern => "pattern",
            ArgKind::UnixTime => "unix-time",
            ArgKind::PureToken => "pure-token",
            ArgKind::OneOf => "oneof",
            ArgKind::Block => "block",
        }
    }
}

/// An argument's syntax, for COMMAND DOCS and the hints of redis-cli.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: ArgKind,
    /// The word before it, or that it is.
    pub token: Option<&'static str>,
    /// How it is shown, where that is not its name.
    pub display: Option<&'static str>,
    /// Which key spec finds it, for keys.
    pub key_spec: Option<u8>,
    /// Whether it may be left out.
    pub is_optional: bool,
    /// Whether it may be repeated.
    pub is_multiple: bool,
    /// Whether its token is repeated with it.
    pub repeats_token: bool,
    /// Since when, where that is later than the command.
    pub since: Option<&'static str>,
    /// Deprecated since.
    pub deprecated_since: Option<&'static str>,
    /// The parts of a block or the alternatives of a choice.
    pub args: &'static [Arg],
}

impl Arg {
    /// An argument of this kind.
    pub const fn new(name: &'static str, kind: ArgKind) -> Self {
        Self {
            name,
            kind,
            token: None,
            display: None,
            key_spec: None,
            is_optional: false,
            is_multiple: false,
            repeats_token: false,
            since: None,
            deprecated_since: None,
            args: &[],
        }
    }

    /// A key found by the key spec of this number.
    pub const fn key(name: &'static str, key_spec: u8) -> Self {
        let mut arg = Self::new(name, ArgKind::Key);
        arg.key_spec = Some(key_spec);
        arg
    }

    /// A string.
    pub const fn string(name: &'static str) -> Self {
        Self::new(name, ArgKind::String)
    }

    /// An integer.
    pub const fn int(name: &'static str) -> Self {
        Self::new(name, ArgKind::Integer)
    }

    /// A double.
    pub const fn double(name: &'static str) -> Self {
        Self::new(name, ArgKind::Double)
    }

    /// A pattern.
    pub const fn pattern(name: &'static str) -> Self {
        Self::new(name, ArgKind::Pattern)
    }

    /// A point in time.
    pub const fn unix_time(name: &'static str) -> Self {
        Self::new(name, ArgKind::UnixTime)
    }

    /// A word alone.
    pub const fn word(name: &'static str, token: &'static str) -> Self {
        Self::new(name, ArgKind::PureToken).token(token)
    }

    /// One of several.
    pub const fn one_of(name: &'static str, args: &'static [Arg]) -> Self {
        let mut arg = Self::new(name, ArgKind::OneOf);
        arg.args = args;
        arg
    }

    /// Several together.
    pub const fn block(name: &'static str, args: &'static [Arg]) -> Self {
        let mut arg = Self::new(name, ArgKind::Block);
        arg.args = args;
        arg
    }

    /// Found by the key spec of this number, though it is no key itself.
    pub const fn key_spec(mut self, number: u8) -> Self {
        self.key_spec = Some(number);
        self
    }

    /// Behind this word.
    pub const fn token(mut self, token: &'static str) -> Self {
        self.token = Some(token);
        self
    }

    /// Shown like this.
    pub const fn display(mut self, text: &'static str) -> Self {
        self.display = Some(text);
        self
    }

    /// It may be left out.
    pub const fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }

    /// It may be repeated.
    pub const fn multiple(mut self) -> Self {
        self.is_multiple = true;
        self
    }

    /// It may be repeated, its word with it.
    pub const fn multiple_token(mut self) -> Self {
        self.is_multiple = true;
        self.repeats_token = true;
        self
    }

    /// Since this version.
    pub const fn since(mut self, version: &'static str) -> Self {
        self.since = Some(version);
        self
    }
}

/// That a command has a better successor.
#[derive(Clone, Copy, Debug)]
pub struct Deprecated {
    /// Since this version.
    pub since: &'static str,
    /// What to use instead.
    pub replaced_by: &'static str,
}

/// A key among the arguments, and what is done with it (of [`key`]).
pub type KeyAt = (usize, u32);

/// Finds the keys of a call; None where it is no valid call.
pub type FindKeys = fn(&[&[u8]]) -> Option<Vec<KeyAt>>;

/// Everything about a command but its code.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// In lower case; of a subcommand only its own part.
    pub name: &'static str,
    /// One line, in our words.
    pub summary: &'static str,
    /// The Redis version that first had it.
    pub since: &'static str,
    /// Where COMMAND DOCS puts it.
    pub group: Group,
    /// Its cost.
    pub complexity: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i32,
    /// Of [`flag`]; write and readonly are not written here.
    pub flags: u32,
    /// Of [`acl`]; only those that don't follow from the flags.
    pub acl: u32,
    /// Where the keys are.
    pub keys: &'static [KeySpec],
    /// Finds the keys where the specs can't, or their flags depend on the arguments.
    pub find_keys: Option<FindKeys>,
    /// The syntax.
    pub args: &'static [Arg],
    /// Hints for proxies and clients.
    pub tips: &'static [&'static str],
    /// What changed, version by version.
    pub history: &'static [(&'static str, &'static str)],
    /// Set where it has a successor.
    pub deprecated: Option<Deprecated>,
}

impl Meta {
    /// What a table's entries fill in from: `Meta { name: "get", .., ..Meta::BASE }`.
    pub const BASE: Self = Self {
        name: "",
        summary: "",
        since: "1.0.0",
        group: Group::Generic,
        complexity: "O(1)",
        arity: 1,
        flags: 0,
        acl: 0,
        keys: &[],
        find_keys: None,
        args: &[],
        tips: &[],
        history: &[],
        deprecated: None,
    };

    /// Whether this many arguments (with the name) are right.
    pub fn arity_fits(&self, count: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity >= 0 { count == wanted } else { count >= wanted }
    }
}

/// Whether a handler reads or writes the keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may change it.
    Write,
    /// It only looks.
    Read,
    /// Neither: a container, or a command of the shell.
    None,
}

/// What the tables of all rooms have in common.
pub trait HasAccess {
    /// See [`Access`].
    fn access(&self) -> Access;
}

/// A command. `H` is its code: [`Handler`] here, another type for the commands of the shell.
pub struct Command<H: 'static> {
    /// What is known about it.
    pub meta: Meta,
    /// What it does.
    pub handler: H,
    /// Of a container.
    pub subcommands: &'static [Command<H>],
}

impl<H: HasAccess> Command<H> {
    /// Its flags, those that follow from the handler and the key specs included.
    pub fn flags(&self) -> u32 {
        let access = match self.handler.access() {
            Access::Write => flag::WRITE,
            Access::Read => flag::READONLY,
            Access::None => 0,
        };
        let movable = self.meta.keys.iter().any(|spec| {
            !matches!((spec.begin, spec.find), (Begin::Index(_), Find::Range { .. })) && spec.flags & key::NOT_KEY == 0
        });
        self.meta.flags | access | if movable { flag::MOVABLE_KEYS } else { 0 }
    }

    /// Its ACL categories, those that follow from the flags included.
    pub fn acl(&self) -> u32 {
        let flags = self.flags();
        let mut acl = self.meta.acl;
        let mut imply = |flag: u32, category: u32| {
            if flags & flag != 0 {
                acl |= category;
            }
        };
        imply(flag::WRITE, acl::WRITE);
        if self.meta.acl & acl::SCRIPTING == 0 {
            imply(flag::READONLY, acl::READ);
        }
        imply(flag::ADMIN, acl::ADMIN | acl::DANGEROUS);
        imply(flag::PUBSUB, acl::PUBSUB);
        imply(flag::FAST, acl::FAST);
        imply(flag::BLOCKING, acl::BLOCKING);
        if acl & acl::FAST == 0 { acl | acl::SLOW } else { acl }
    }

    /// A subcommand by name, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Command<H>> {
        self.subcommands.iter().find(|sub| name.eq_ignore_ascii_case(sub.meta.name.as_bytes()))
    }
}

/// Code that looks at the keyspace.
pub type ReadFn = fn(&ReadCx<'_>, &mut Args<'_>, &mut ReplyBuf) -> Result<(), CmdError>;
/// Code that may change the keyspace.
pub type WriteFn = fn(&mut WriteCx<'_>, &mut Args<'_>, &mut ReplyBuf) -> Result<(), CmdError>;

/// The code of a keyspace command.
#[derive(Clone, Copy)]
pub enum Handler {
    /// It only looks.
    Read(ReadFn),
    /// It may write.
    Write(WriteFn),
    /// Only its subcommands do anything.
    Container,
}

impl HasAccess for Handler {
    fn access(&self) -> Access {
        match self {
            Handler::Read(_) => Access::Read,
            Handler::Write(_) => Access::Write,
            Handler::Container => Access::None,
        }
    }
}

/// All tables of this crate, one per family.
pub fn table() -> &'static [&'static [Command<Handler>]] {
    commands::TABLES
}

/// Names hashed into a table with free places; built once, then a look-up touches one or two lines of cache.
struct Index {
    mask: usize,
    places: Vec<Option<&'static Command<Handler>>>,
}

fn name_hash(name: &[u8]) -> usize {
    // FNV-1a over lower case; names are short and the set is fixed, so nobody can aim at it.
    name.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    }) as usize
}

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| {
        let count: usize = table().iter().map(|family| family.len()).sum();
        let mask = (4 * count).next_power_of_two() - 1;
        let mut places = vec![None; mask + 1];
        for command in table().iter().copied().flatten() {
            let mut at = name_hash(command.meta.name.as_bytes()) & mask;
            while places[at].is_some() {
                at = (at + 1) & mask;
            }
            places[at] = Some(command);
        }
        Index { mask, places }
    })
}

/// A command of the keyspace by name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static Command<Handler>> {
    let index = index();
    let mut at = name_hash(name) & index.mask;
    while let Some(command) = index.places[at] {
        if name.eq_ignore_ascii_case(command.meta.name.as_bytes()) {
            return Some(command);
        }
        at = (at + 1) & index.mask;
    }
    None
}

/// What a line of arguments calls: the command and the place of its first own argument, or the error to reply.
/// The number of arguments is checked.
pub fn lookup_full(args: &[&[u8]]) -> Result<(&'static Command<Handler>, usize), CmdError> {
    let name = args.first().copied().unwrap_or_default();
    let Some(command) = lookup(name) else {
        return Err(CmdError::unknown_command(args));
    };
    resolve(command, args)
}

/// The rest of [`lookup_full`], for any room's commands.
pub fn resolve<H>(command: &'static Command<H>, args: &[&[u8]]) -> Result<(&'static Command<H>, usize), CmdError>
where
    H: HasAccess,
{
    if command.subcommands.is_empty() || args.len() < 2 {
        if command.meta.arity_fits(args.len()) && (command.subcommands.is_empty() || args.len() > 1) {
            return Ok((command, 1));
        }
        return Err(CmdError::arity(command.meta.name));
    }
    let Some(sub) = command.subcommand(args[1]) else {
        return Err(CmdError::unknown_subcommand(command.meta.name, args[1]));
    };
    if sub.meta.arity_fits(args.len()) {
        return Ok((sub, 2));
    }
    Err(CmdError::arity(&format!("{}|{}", command.meta.name, sub.meta.name)))
}
