//! One member's process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::dir::Slot;
use super::this_binary;

/// A member that was started, and may have ended.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) slot: Slot,
    arguments: Vec<String>,
    process: std::process::Child,
    /// Held open: its end tells the child that this process is gone, however that came about.
    _stdin: Option<ChildStdin>,
    running: bool,
    pub(super) failed: bool,
    pub(super) started: Instant,
    pub(super) restart_at: Option<Instant>,
    pub(super) short_lives: u32,
}

impl Child {
    pub(super) fn start(slot: Slot, arguments: Vec<String>) -> anyhow::Result<Self> {
        let (process, stdin) = spawn(&slot, &arguments)?;
        Ok(Child {
            slot,
            arguments,
            process,
            _stdin: stdin,
            running: true,
            failed: false,
            started: Instant::now(),
            restart_at: None,
            short_lives: 0,
        })
    }

    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        let (process, stdin) = spawn(&self.slot, &self.arguments)?;
        self.process = process;
        self._stdin = stdin;
        self.running = true;
        self.failed = false;
        self.started = Instant::now();
        self.restart_at = None;
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// `Some` once, when it has ended since the last call.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<End>> {
        if !self.running {
            return Ok(None);
        }
        let status = self.process.try_wait().context("cannot ask for a member's end")?;
        Ok(status.map(|status| {
            self.running = false;
            self.failed = !status.success();
            End(status)
        }))
    }

    /// It has ended and [`Child::ended`] has not been told yet.
    pub(super) fn has_ended(&mut self) -> bool {
        self.running && matches!(self.process.try_wait(), Ok(Some(_)))
    }

    pub(super) fn is_running(&mut self) -> bool {
        let _ = self.ended();
        self.running
    }

    /// Asks it to stop in good order.
    pub(super) fn terminate(&mut self) {
        self.restart_at = None;
        if self.is_running() {
            // Not reaped yet, so the number is still this child's.
            let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
            // One that was stopped with SIGSTOP would not hear it.
            let _ = kill_process(Pid::from_child(&self.process), Signal::CONT);
        }
    }

    pub(super) fn kill(&mut self) {
        if self.is_running() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        const BYTES: i64 = 4096;
        const LINES: usize = 8;
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(self.slot.log_path())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::End(-BYTES.min(length as i64)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = tail().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        format!("  the end of {}:\n    {}", self.slot.log_path(), last.join("\n    "))
    }
}

fn spawn(slot: &Slot, arguments: &[String]) -> anyhow::Result<(std::process::Child, Option<ChildStdin>)> {
    let path = slot.log_path();
    let log = File::options().create(true).append(true).open(&path).with_context(|| format!("cannot write {path}"))?;
    let mut process = Command::new(this_binary()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C goes to the whole foreground group; the children are stopped by this process, in order.
        .process_group(0)
        .spawn()
        .context("cannot start a member")?;
    let stdin = process.stdin.take();
    Ok((process, stdin))
}

/// How a process ended, for people.
#[derive(Debug)]
pub(super) struct End(ExitStatus);

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(0), _) => f.write_str("has stopped"),
            (Some(code), _) => write!(f, "has stopped with error {code}"),
            (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
            (None, None) => f.write_str("has ended"),
        }
    }
}
