//! The command line: everything that `quorate` can be asked to do from a shell.
//!
//! `serve` runs one member and `dev` a group of them on this machine; `log`, `backup verify`, `restore` and `recover`
//! work on files and on directories of members that don't run. All others are clients of a member's admin HTTP and can
//! do nothing that HTTP cannot. People get tables, programs get `--json`; errors say what to do next.

mod admin;
mod backup;
mod dev;
mod flags;
mod http;
mod log;
mod logging;
mod member;
mod parent;
mod progress;
mod recover;
mod serve;
mod status;
mod table;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Settings;
use crate::node::Start;

/// Resolves when the process that started this one is gone; never, where nobody asked for that.
pub type Leash = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A Raft-replicated, strongly consistent, Redis-compatible store.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one member
    Serve(Box<serve::Serve>),
    /// Run a group on this machine, to try it out
    Dev(dev::Dev),
    /// Show a member and its group
    Status(status::Status),
    /// List, add, remove and promote members
    Member(member::MemberCommand),
    /// See and move leadership
    Leader(admin::LeaderCommand),
    /// Take a checkpoint on a member now
    Snapshot(admin::Snapshot),
    /// Compare what all members hold, now
    Check(admin::Check),
    /// Save the data of a running group to a file, or check such a file
    Backup(backup::Backup),
    /// Make a new group out of a backup
    Restore(recover::Restore),
    /// Make a group of one out of what one member has, when the majority is gone for ever
    Recover(recover::Recover),
    /// Print or check the log of a member that is stopped
    Log(log::LogCommand),
}

/// How to reach a member, and how to answer.
#[derive(Clone, Debug, Args)]
struct Target {
    /// Admin address of any member
    #[arg(long, value_name = "URL", env = "QUORATE_ADMIN", default_value = "http://127.0.0.1:8001", global = true)]
    admin: String,
    /// Bearer token, where the group has one
    #[arg(long, value_name = "TOKEN", env = "QUORATE_ADMIN_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// Answer with JSON, for programs
    #[arg(long, global = true)]
    json: bool,
}

impl Target {
    fn client(&self) -> Result<http::Client, http::Problem> {
        http::Client::new(&self.admin, self.token.clone(), http::PATIENCE)
    }

    /// For what takes as long as there is data.
    fn patient_client(&self) -> Result<http::Client, http::Problem> {
        http::Client::new(&self.admin, self.token.clone(), http::LONG_PATIENCE)
    }
}

/// Runs what the command line asks for. `run` is the server: it returns when the member has stopped.
pub fn main(run: impl FnOnce(Settings, Start, Leash) -> anyhow::Result<()>) -> ExitCode {
    let command = Cli::parse().command;
    if !matches!(command, Command::Serve(_) | Command::Dev(_)) {
        // A reader that has seen enough (`| head`) ends the program, not in a panic.
        sigpipe::reset();
    }
    match command {
        Command::Serve(serve) => report(serve.run(run)),
        Command::Dev(dev) => report(dev.run()),
        Command::Status(status) => answer(&status.target, status.run()),
        Command::Member(member) => answer(&member.target, member.run()),
        Command::Leader(leader) => answer(&leader.target, leader.run()),
        Command::Snapshot(snapshot) => answer(&snapshot.target, snapshot.run()),
        Command::Check(check) => answer(&check.target, check.run()),
        Command::Restore(restore) => report(restore.run()),
        Command::Recover(recover) => report(recover.run()),
        Command::Backup(backup) => answer(&backup.target, backup.run()),
        Command::Log(log) => log.run(),
    }
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Perhaps nobody reads it any more.
            let _ = writeln!(std::io::stderr(), "quorate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// An error of the admin interface: as JSON where that was asked for, as two lines for people.
fn answer(target: &Target, result: Result<(), http::Problem>) -> ExitCode {
    let Err(problem) = result else { return ExitCode::SUCCESS };
    let error = problem.as_api();
    if target.json {
        println!("{}", serde_json::to_string_pretty(&error).unwrap_or_default());
    } else {
        eprintln!("quorate: {}", error.message);
        if !error.hint.is_empty() {
            eprintln!("  hint: {}", error.hint);
        }
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests;
