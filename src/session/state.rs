//! What one connection remembers between commands.

use bytes::Bytes;
use quorate_keyspace::entry::Watch;
use quorate_keyspace::reply::Proto;

use crate::resp::Command;

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every command is answered.
    #[default]
    On,
    /// None is.
    Off,
    /// The one after this is not.
    SkipNext,
    /// This one is not.
    Skip,
}

/// A transaction being put together.
#[derive(Debug, Default)]
pub struct Multi {
    /// The commands, each with the database that was selected for it.
    pub queued: Vec<Queued>,
    /// Bytes that they hold.
    pub bytes: usize,
    /// A command was refused: EXEC will be too.
    pub broken: bool,
    /// The database selected by a SELECT inside the transaction.
    pub db: u16,
}

/// A command waiting for EXEC.
#[derive(Debug)]
pub struct Queued {
    /// The database it is for.
    pub db: u16,
    /// Its flags.
    pub flags: u32,
    /// The command.
    pub command: Command,
}

/// The connection's own state. RESET brings it back to the beginning.
#[derive(Debug)]
pub struct State {
    /// RESP version of the replies.
    pub proto: Proto,
    /// The selected database.
    pub db: u16,
    /// May run commands.
    pub authenticated: bool,
    /// MULTI was sent.
    pub multi: Option<Multi>,
    /// WATCHed keys.
    pub watches: Vec<Watch>,
    /// CLIENT REPLY.
    pub reply: ReplyMode,
    /// READONLY: reads are served here, whoever leads.
    pub read_only: bool,
    /// Close when what is written so far has been sent.
    pub closing: bool,
}

impl State {
    /// A new connection's.
    pub fn new(authenticated: bool) -> Self {
        Self {
            proto: Proto::Resp2,
            db: 0,
            authenticated,
            multi: None,
            watches: Vec::new(),
            reply: ReplyMode::On,
            read_only: false,
            closing: false,
        }
    }

    /// Whether that key is watched already.
    pub fn watches(&self, db: u16, key: &Bytes) -> bool {
        self.watches.iter().any(|watch| watch.db == db && watch.key == *key)
    }
}
