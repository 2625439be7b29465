//! The seam between the server commands and the rest of the process.
//!
//! A server command sees a [`ShellCx`] and nothing else: no socket, no Raft group, no session. The assembly
//! (`node`) implements the trait; tests implement it with a few lines. Everything that may have to wait
//! (disk, consensus, another member) is a future here, so that a handler that never waits stays a plain function.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quorate_keyspace::args::Args;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::keyspace::Keyspace;
use quorate_keyspace::reply::ReplyBuf;

use quorate_raft::GroupStatus;

use super::facts::{ClientFacts, ClientTotals, ServerFacts, StorageFacts};
use crate::metrics::Metrics;

/// A boxed future, as trait objects need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A server command that answers at once.
///
/// An `Err` is written by the caller as an error reply; what the handler wrote before it is taken back.
pub type NowFn = fn(&dyn ShellCx, &mut Args<'_>, &mut ReplyBuf) -> Result<(), CmdError>;

/// A server command that may have to wait. The arguments are the whole command, name first.
pub type LaterFn = for<'a> fn(&'a dyn ShellCx, &'a [&'a [u8]], &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>>;

/// Which member has to answer a command when the client's member is not the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The member that the client is connected to, whatever its role.
    Here,
    /// The leader: the answer depends on the newest keys. Routed as a read is.
    Leader,
}

/// What runs a command of the shell's table.
#[derive(Clone, Copy)]
pub enum ShellHandler {
    /// The session runs it itself: it changes the connection's own state.
    Session(SessionOp),
    /// Answers at once.
    Now(Place, NowFn),
    /// May have to wait.
    Later(Place, LaterFn),
    /// Only its subcommands can be called.
    Container,
}

/// The commands that are about the connection. Their facts stand in the shell's table as all others do, and the
/// session runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the command or subcommand of that name")]
pub enum SessionOp {
    Auth,
    Hello,
    Reset,
    Quit,
    Echo,
    Ping,
    Select,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    ReadOnly,
    ReadWrite,
    Asking,
    Migrate,
    ClientCaching,
    ClientGetName,
    ClientGetRedir,
    ClientHelp,
    ClientId,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientPause,
    ClientReply,
    ClientSetInfo,
    ClientSetName,
    ClientTracking,
    ClientTrackingInfo,
    ClientUnblock,
    ClientUnpause,
}

/// How SHUTDOWN was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownOptions {
    /// `Some(false)` is NOSAVE (no checkpoint on the way out), `Some(true)` is SAVE.
    pub save: Option<bool>,
    /// Do not hand leadership over and do not drain first.
    pub now: bool,
    /// Stop even if the checkpoint fails.
    pub force: bool,
}

/// Everything a server command may see and do.
///
/// Facts are snapshots: cheap to take, never locks held by the caller.
pub trait ShellCx: Send + Sync {
    /// The connection that sent the command.
    fn client(&self) -> ClientFacts;
    /// Counts over all connections of this member.
    fn clients(&self) -> ClientTotals;
    /// What does not change while the process runs.
    fn server(&self) -> &ServerFacts;
    /// The Raft group as this member sees it.
    fn group(&self) -> BoxFuture<'_, GroupStatus>;
    /// Log and checkpoint.
    fn storage(&self) -> StorageFacts;
    /// Counters, the slow log and the latency monitor.
    fn metrics(&self) -> &Arc<Metrics>;

    /// Wall clock, microseconds since the epoch.
    fn now_us(&self) -> u64;
    /// A random number, for replies that need chance.
    fn random(&self) -> u64;
    /// Looks at this member's keyspace under its shared lock. Keep it short: writes wait.
    fn with_keyspace(&self, look: &mut dyn FnMut(&Keyspace));

    /// The value of one setting, in the form CONFIG GET shows.
    fn setting(&self, name: &str) -> Option<String>;
    /// `-MOVED` to clients, instead of serving them through the leader: a cluster, to clients. May change at any time.
    fn redirects(&self) -> bool {
        self.setting("follower-mode").is_some_and(|mode| mode == "redirect")
    }
    /// Names and values of the settings that match any of the glob patterns, each once.
    fn settings_matching(&self, patterns: &[&[u8]]) -> Vec<(String, String)>;
    /// Sets all pairs or none (CONFIG SET). Settings that replicate go through the log.
    fn set_settings<'a>(&'a self, pairs: &'a [(&'a [u8], &'a [u8])]) -> BoxFuture<'a, Result<(), CmdError>>;
    /// Writes the settings back to the configuration file (CONFIG REWRITE).
    fn rewrite_settings(&self) -> BoxFuture<'_, Result<(), CmdError>>;

    /// Takes a checkpoint and waits until it is on disk.
    fn checkpoint(&self) -> BoxFuture<'_, Result<(), CmdError>>;
    /// Asks for a checkpoint and returns at once (BGSAVE).
    fn checkpoint_soon(&self);
    /// Waits until `voters` other voters hold, on disk, what this connection has written, or the time is over
    /// (`None`: no limit). Answers how many hold it.
    fn wait_replicated(&self, voters: u64, timeout: Option<Duration>) -> BoxFuture<'_, Result<u64, CmdError>>;
    /// Has this member's log synced, whatever `appendfsync` says; false if it was not done in time.
    fn sync_log(&self, timeout: Option<Duration>) -> BoxFuture<'_, bool>;
    /// Hands leadership to that member, or to the best one.
    fn transfer_leader(&self, to: Option<u64>) -> BoxFuture<'_, Result<(), CmdError>>;
    /// Starts an orderly stop. Does not wait for its end.
    fn shutdown(&self, options: ShutdownOptions) -> BoxFuture<'_, Result<(), CmdError>>;
    /// Takes a stop that has not begun to close connections back; false if there was none.
    fn abort_shutdown(&self) -> bool;
    /// Switches the leader's proposals of expired keys on or off (DEBUG SET-ACTIVE-EXPIRE).
    fn set_active_expire(&self, on: bool);
    /// Damages a string in this member's memory alone (DEBUG DAMAGE-MEMORY). False: there is none of that name.
    fn damage(&self, db: u16, key: &[u8]) -> bool;
    /// Holds every command of this member for that long (DEBUG SLEEP).
    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()>;
}
