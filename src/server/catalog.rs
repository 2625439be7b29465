//! Every command of the process by name, whichever room runs it, with a dense number for counting.
//!
//! Built once from the tables; a look-up allocates nothing. It says what a command is, and runs nothing.

use std::sync::OnceLock;

use quorate_keyspace::error::CmdError;
use quorate_keyspace::spec::{self, Command, Handler, HasAccess, Meta};

use super::cx::ShellHandler;

/// Which room runs a command.
#[derive(Clone, Copy)]
pub enum Kind {
    /// The keyspace, through the log or under the read barrier.
    Keyspace(&'static Command<Handler>),
    /// This room, or the session.
    Shell(&'static Command<ShellHandler>),
}

/// A command or subcommand.
pub struct Entry {
    /// Dense: from 0, without gaps, the same for the life of the process.
    pub index: usize,
    /// Lower case, `config|get` for a subcommand.
    pub full_name: String,
    /// What is known about it.
    pub meta: &'static Meta,
    /// Flags, those that follow from its handler included.
    pub flags: u32,
    /// ACL categories, those that follow from the flags included.
    pub acl: u32,
    /// Who runs it.
    pub kind: Kind,
    /// Indexes of its subcommands.
    pub subcommands: Vec<usize>,
    /// It is a subcommand.
    pub is_sub: bool,
}

impl Entry {
    /// Whether it has any of these flags.
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// All commands.
pub struct Catalog {
    entries: Vec<Entry>,
    /// Top-level names: open addressing, at most a quarter full.
    places: Vec<u16>,
    mask: usize,
}

const EMPTY: u16 = u16::MAX;

/// The one catalogue.
pub fn catalog() -> &'static Catalog {
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    CATALOG.get_or_init(Catalog::build)
}

impl HasAccess for ShellHandler {
    fn access(&self) -> spec::Access {
        spec::Access::None
    }
}

impl Catalog {
    fn build() -> Self {
        let mut entries = Vec::new();
        for command in spec::table().iter().copied().flatten() {
            add(&mut entries, command, None, Kind::Keyspace);
        }
        for command in super::table().iter().copied().flatten() {
            add(&mut entries, command, None, Kind::Shell);
        }
        let mask = (entries.len() * 4).next_power_of_two() - 1;
        let mut places = vec![EMPTY; mask + 1];
        for entry in entries.iter().filter(|e| !e.is_sub) {
            let mut at = hash(entry.full_name.as_bytes()) & mask;
            while places[at] != EMPTY {
                at = (at + 1) & mask;
            }
            places[at] = entry.index as u16;
        }
        Self { entries, places, mask }
    }

    /// All of them, in order of their index: a command stands before its subcommands.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Commands without the subcommands.
    pub fn commands(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| !e.is_sub)
    }

    /// Full names in order of their index.
    pub fn names(&self) -> Vec<String> {
        self.entries.iter().map(|e| e.full_name.clone()).collect()
    }

    /// A command by name, in any case.
    pub fn lookup(&self, name: &[u8]) -> Option<&Entry> {
        let mut at = hash(name) & self.mask;
        while self.places[at] != EMPTY {
            let entry = &self.entries[usize::from(self.places[at])];
            if name.eq_ignore_ascii_case(entry.full_name.as_bytes()) {
                return Some(entry);
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    /// A subcommand by name, in any case.
    pub fn subcommand(&self, container: &Entry, name: &[u8]) -> Option<&Entry> {
        let mut subs = container.subcommands.iter().map(|at| &self.entries[*at]);
        subs.find(|sub| name.eq_ignore_ascii_case(sub.meta.name.as_bytes()))
    }

    /// What Redis understands as a name in COMMAND INFO: `get`, `config|get`.
    pub fn lookup_full(&self, name: &[u8]) -> Option<&Entry> {
        match name.iter().position(|b| *b == b'|') {
            None => self.lookup(name),
            Some(bar) => self.subcommand(self.lookup(&name[..bar])?, &name[bar + 1..]),
        }
    }

    /// The command that a line of arguments calls, its subcommand where there is one. No arity is checked.
    pub fn of_line(&self, args: &[&[u8]]) -> Option<&Entry> {
        let entry = self.lookup(args.first()?)?;
        match args.get(1) {
            Some(sub) if !entry.subcommands.is_empty() => self.subcommand(entry, sub),
            _ => Some(entry),
        }
    }

    /// What a line calls, and the place of the first argument its handler sees; or the error to reply. The number of
    /// arguments is checked.
    pub fn resolve(&self, args: &[&[u8]]) -> Result<(&Entry, usize), CmdError> {
        let name = args.first().copied().unwrap_or_default();
        let Some(entry) = self.lookup(name) else { return Err(CmdError::unknown_command(args)) };
        let (found, at) = match args.get(1) {
            Some(sub) if !entry.subcommands.is_empty() => match self.subcommand(entry, sub) {
                Some(found) => (found, 2),
                None => return Err(CmdError::unknown_subcommand(&entry.full_name, sub)),
            },
            _ => (entry, 1),
        };
        if found.meta.arity_fits(args.len()) { Ok((found, at)) } else { Err(CmdError::arity(&found.full_name)) }
    }
}

fn add<H: HasAccess>(
    entries: &mut Vec<Entry>,
    command: &'static Command<H>,
    parent: Option<&str>,
    kind: fn(&'static Command<H>) -> Kind,
) -> usize {
    let index = entries.len();
    let full_name = parent.map_or_else(|| command.meta.name.to_owned(), |p| format!("{p}|{}", command.meta.name));
    entries.push(Entry {
        index,
        full_name: full_name.clone(),
        meta: &command.meta,
        flags: command.flags(),
        acl: command.acl(),
        kind: kind(command),
        subcommands: Vec::new(),
        is_sub: parent.is_some(),
    });
    let subs: Vec<usize> = command.subcommands.iter().map(|sub| add(entries, sub, Some(&full_name), kind)).collect();
    entries[index].subcommands = subs;
    index
}

fn hash(name: &[u8]) -> usize {
    // FNV-1a over lower case: the set is fixed, so nobody can aim at it.
    name.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    }) as usize
}
