//! A command as a session sees it: which one, and how to treat it.

use quorate_keyspace::error::CmdError;
use quorate_keyspace::spec::{Command, Handler};

use crate::server::{Entry, Kind, SessionOp, ShellHandler, catalog};

/// How a session treats a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A read of the keyspace.
    Read,
    /// A write to the keyspace.
    Write,
    /// The session or the shell runs it.
    Shell,
}

/// A command that a line of arguments calls.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) entry: &'static Entry,
    pub(crate) class: Class,
    /// Its first own argument: 1, or 2 for a subcommand.
    pub(crate) first_arg: usize,
}

/// What a line of arguments calls, its arity checked; or the error to reply.
pub(crate) fn find(args: &[&[u8]]) -> Result<Found, CmdError> {
    let (entry, first_arg) = catalog().resolve(args)?;
    let class = match entry.kind {
        Kind::Keyspace(command) => match command.handler {
            Handler::Read(_) => Class::Read,
            Handler::Write(_) => Class::Write,
            Handler::Container => return Err(CmdError::arity(&entry.full_name)),
        },
        Kind::Shell(command) => match command.handler {
            ShellHandler::Container => return Err(CmdError::arity(&entry.full_name)),
            _ => Class::Shell,
        },
    };
    Ok(Found { entry, class, first_arg })
}

impl Found {
    /// The keyspace's entry. Panics for a command of the shell: look at the class first.
    pub(crate) fn keyspace(&self) -> &'static Command<Handler> {
        match self.entry.kind {
            Kind::Keyspace(command) => command,
            Kind::Shell(_) => panic!("{} is a command of the shell", self.entry.full_name),
        }
    }

    /// The shell's handler. Panics for a command of the keyspace: look at the class first.
    pub(crate) fn shell(&self) -> &'static ShellHandler {
        match self.entry.kind {
            Kind::Shell(command) => &command.handler,
            Kind::Keyspace(_) => panic!("{} is a command of the keyspace", self.entry.full_name),
        }
    }

    /// What the session does for it, if it does it itself.
    pub(crate) fn session_op(&self) -> Option<SessionOp> {
        match self.entry.kind {
            Kind::Shell(Command { handler: ShellHandler::Session(op), .. }) => Some(*op),
            _ => None,
        }
    }

    /// Leaves a transaction, in whatever way.
    pub(crate) fn ends_multi(&self) -> bool {
        use SessionOp::{Discard, Exec, Quit, Reset};
        matches!(self.session_op(), Some(Exec | Discard | Quit | Reset))
    }

    /// Runs at once even between MULTI and EXEC.
    pub(crate) fn runs_in_multi(&self) -> bool {
        use SessionOp::{Discard, Exec, Multi, Quit, Reset, Watch};
        matches!(self.session_op(), Some(Exec | Discard | Multi | Watch | Quit | Reset))
    }
}
