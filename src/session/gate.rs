//! What can keep a command from running here and now: `maxmemory`, CLIENT PAUSE, and a leader elsewhere.

use quorate_keyspace::error::CmdError;
use quorate_keyspace::spec::{self, flag};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};

use super::found::{Class, Found};
use super::{Session, slices};
use crate::config::FollowerMode;
use crate::resp::Command;
use crate::server::{SessionOp, catalog};

/// What CLIENT PAUSE WRITE holds back.
const MAY_CHANGE: u32 = flag::WRITE | flag::MAY_REPLICATE;
/// What needs data that is not loaded yet is refused with this: Redis' words, which clients know.
pub const LOADING: CmdError = CmdError::fixed("LOADING Redis is loading the dataset in memory");
/// Redis lets it, and stands still until the target has answered. Here other clients go on, so it can't be one step with
/// anything.
const MIGRATE_IN_MULTI: CmdError = CmdError::fixed(
    "ERR MIGRATE can't be part of a transaction: it waits for another server, and other clients go on meanwhile. Send it \
     by itself",
);
const OUT_OF_MEMORY: CmdError = CmdError::fixed("OOM command not allowed when used memory > 'maxmemory'.");

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// What forbids a command between MULTI and EXEC. While memory is used up nothing may be queued: what waits for EXEC
    /// takes memory too.
    pub(super) fn unfit_for_multi(&self, found: &Found) -> Option<CmdError> {
        if found.entry.has(flag::NO_MULTI) {
            return Some(CmdError::fixed("ERR Command not allowed inside a transaction"));
        }
        if found.session_op() == Some(SessionOp::Migrate) {
            return Some(MIGRATE_IN_MULTI);
        }
        (!found.ends_multi() && self.memory_is_used_up()).then_some(OUT_OF_MEMORY)
    }

    /// What forbids a command before the data is loaded: Redis' words, and its choice of commands.
    pub(super) fn unfit_while_loading(&self, found: &Found) -> Option<CmdError> {
        let may = found.entry.has(flag::LOADING) && found.class == Class::Shell;
        (!may && !self.shared.is_loaded()).then_some(LOADING)
    }

    /// Whether a command with any of these flags waits for EXEC.
    fn queued(&self, flags: u32) -> bool {
        let multi = self.state.multi.iter();
        multi.flat_map(|multi| &multi.queued).any(|queued| queued.flags & flags != 0)
    }

    /// Waits while CLIENT PAUSE holds commands back. False: the connection was closed meanwhile, and nothing may run.
    pub(super) async fn unpaused(&mut self, writes: bool) -> bool {
        if !self.shared.clients.has_pause() {
            return true;
        }
        tokio::select! {
            biased;
            () = self.client.killed() => false,
            () = self.shared.clients.may_run(writes) => true,
        }
    }

    /// EXEC of what may need memory while memory is used up.
    pub(super) fn exec_out_of_memory(&self, found: &Found) -> Option<CmdError> {
        let is_exec = found.session_op() == Some(SessionOp::Exec);
        (is_exec && self.queued(flag::DENYOOM) && self.memory_is_used_up()).then_some(OUT_OF_MEMORY)
    }

    /// Whether CLIENT PAUSE WRITE holds this back. EXEC is what it runs.
    pub(super) fn may_change(&self, found: &Found) -> bool {
        found.entry.has(MAY_CHANGE) || found.session_op() == Some(SessionOp::Exec) && self.queued(MAY_CHANGE)
    }

    /// Whether the client is to be sent to the leader (`follower-mode redirect`).
    pub(super) fn must_redirect(&self, class: Class) -> bool {
        self.shared.settings.follower_mode() == FollowerMode::Redirect
            && !(self.state.read_only && class != Class::Write)
            && self.shared.is_loaded()
            && !self.shared.executor().group().is_leader()
    }

    /// Has answered with `-MOVED`, where the client is to ask the leader. A transaction in the making is spoilt by it.
    pub(super) fn sends_away(&mut self, command: &Command, found: &Found) -> bool {
        let sent = self.must_redirect(found.class) && self.redirect(std::slice::from_ref(command), &[Ok(*found)]);
        if sent && let Some(multi) = &mut self.state.multi {
            multi.broken = true;
        }
        sent
    }

    /// Refuses a run with a command that may need more memory while `maxmemory` is used up. The figure is this member's,
    /// sampled a few times a second: all members hold the same keys. Nothing of the run is done.
    pub(super) fn out_of_memory(&mut self, commands: &[Command], found: &[Result<Found, CmdError>]) -> bool {
        let denied = |found: &Result<Found, CmdError>| found.as_ref().is_ok_and(|f| f.entry.has(flag::DENYOOM));
        if !self.memory_is_used_up() || !found.iter().any(denied) {
            return false;
        }
        for (_, found) in commands.iter().zip(found.iter().flatten()) {
            self.out.fail(&OUT_OF_MEMORY);
            self.shared.metrics.commands.rejected(found.entry.index);
            self.shared.metrics.error_reply(OUT_OF_MEMORY.text().as_bytes());
        }
        true
    }

    pub(super) fn memory_is_used_up(&self) -> bool {
        let limit = self.shared.settings.maxmemory();
        limit != 0 && self.shared.metrics.memory.get() > limit
    }

    /// Answers `-MOVED` to each command that names a key. False: none does, and the run is to be served through the
    /// leader after all.
    pub(super) fn redirect(&mut self, commands: &[Command], found: &[Result<Found, CmdError>]) -> bool {
        let keys: SmallVec<[Option<u16>; 16]> = commands
            .iter()
            .zip(found)
            .map(|(command, found)| {
                let args = slices(command);
                let found = found.as_ref().ok()?;
                let (first, _) = *spec::keys_of(found.entry.meta, &args)?.first()?;
                Some(quorate_keyspace::slot_of(args[first]))
            })
            .collect();
        if keys.iter().all(Option::is_none) {
            return false;
        }
        for (key, found) in keys.into_iter().zip(found.iter().flatten()) {
            self.shared.metrics.commands.rejected(found.entry.index);
            let line = match (self.shared.executor().group().leader(), key) {
                (Some((_, leader)), slot) => format!("MOVED {} {}", slot.unwrap_or(0), leader.client),
                (None, _) => "CLUSTERDOWN No leader is known at the moment; nothing was done".into(),
            };
            self.out.error(&line);
            self.shared.metrics.error_reply(line.as_bytes());
        }
        true
    }

    /// Says no to a command before it runs. A transaction in the making is
    /// spoilt by it, and a refused EXEC ends it.
    pub(super) fn refuse(&mut self, command: &Command, error: &CmdError, found: Option<&Found>) {
        if let Some(multi) = &mut self.state.multi {
            multi.broken = true;
        }
        // One with too few arguments or too many is known by its name.
        if let Some(entry) = found.map(|found| found.entry).or_else(|| catalog().of_line(&slices(command))) {
            self.shared.metrics.commands.rejected(entry.index);
        }
        let line = if command[0].eq_ignore_ascii_case(b"exec") {
            (self.state.multi, self.state.watches) = (None, Vec::new());
            let why = error.text().trim_start_matches("ERR ");
            format!("EXECABORT Transaction discarded because of: {why}").into_bytes()
        } else if found.is_none() && error.text().starts_with("ERR unknown command ") {
            // Shown byte by byte, whatever the bytes are.
            CmdError::unknown_command_line(&slices(command))
        } else {
            error.text().as_bytes().to_vec()
        };
        self.shared.metrics.error_reply(&line);
        self.out.raw(b"-");
        self.out.raw(&line);
        self.out.raw(b"\r\n");
    }

    /// A browser was made to talk to this port by some page: nothing of what it sent is answered.
    pub(super) fn hang_up(&mut self) {
        tracing::warn!(client = %self.client.addr, "closed: it talks HTTP; a web page may be behind it");
        self.out.clear();
        self.state.closing = true;
    }
}

/// Words that begin a line of an HTTP request. GET is a command of ours, but a Host line follows it.
pub(super) fn is_of_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}
