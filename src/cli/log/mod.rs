//! `quorate log`: the write-ahead log of a member that is stopped, for people.
//!
//! Both commands take the directory's lock, so neither can run beside a member, and neither changes the log.

mod dump;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use quorate_raft::inspect as raft;
use quorate_storage::disk::OsDisk;
use quorate_storage::identity::{DataDir, IdentityError};
use quorate_storage::wal::{Inspection, RecoveredGroup};

/// Exit code: what was looked at is damaged.
const DAMAGED: u8 = 1;
/// Exit code: it could not be looked at.
const UNREADABLE: u8 = 2;
/// The only group of a node, until there is sharding.
const GROUP: u64 = 1;
/// Where the raft room keeps its log.
const LOG_DIR: &str = "wal";

/// Print or check the log of a member that is stopped
#[derive(Debug, Args)]
pub(super) struct LogCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the entries of the log
    ///
    /// Exit codes: 0 all was printed, 1 the log is damaged (what is whole was printed), 2 it could not be read.
    Dump(dump::Dump),
    /// Check the log and the checkpoint, and say what a repair would cost
    ///
    /// The log is only read. The checkpoint's store is opened as a start of the member opens it. Exit codes: 0 sound,
    /// 1 damaged, 2 it could not be checked.
    Verify(verify::Verify),
}

/// Whose directory, and how to answer.
#[derive(Clone, Debug, Args)]
struct From {
    /// Data directory of a member that is stopped
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Answer with JSON, for programs
    #[arg(long)]
    json: bool,
}

impl LogCommand {
    pub(super) fn run(self) -> ExitCode {
        let result = match self.action {
            Action::Dump(dump) => dump.run(),
            Action::Verify(verify) => verify.run(),
        };
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(DAMAGED),
            Err(error) => {
                eprintln!("quorate: {error:#}");
                ExitCode::from(UNREADABLE)
            }
        }
    }
}

/// Locks the directory.
fn open(dir: &Path) -> anyhow::Result<DataDir> {
    DataDir::open_existing(Arc::new(OsDisk), dir).map_err(|error| match error {
        IdentityError::Locked { .. } => anyhow::anyhow!("{error}: stop the member first"),
        error => error.into(),
    })
}

fn read_log(dir: &DataDir) -> anyhow::Result<Inspection> {
    Ok(Inspection::read(dir.disk().clone(), &dir.path().join(LOG_DIR))?)
}

/// Why what the log holds can't be all that it held, if it holds nothing.
fn lost(dir: &DataDir, log: &Inspection, held: Option<u64>) -> Option<String> {
    let empty = log.damage.is_empty() && log.groups.get(&GROUP).is_none_or(RecoveredGroup::is_empty);
    raft::lost(empty, quorate_raft::has_begun(dir.disk(), dir.path(), GROUP), held)
}
