//! A child process that never outlives its handle, with its output in a file and signals by name.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running (or ended) child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    leads_group: bool,
}

impl Process {
    /// Starts `program` with its output appended to the file `output`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn<S: AsRef<OsStr>>(program: &Path, args: &[S], output: &Path) -> io::Result<Process> {
        let mut command = Command::new(program);
        command.args(args);
        Process::spawn_command(command, output)
    }

    /// Starts a prepared command with its output appended to the file `output`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn_command(mut command: Command, output: &Path) -> io::Result<Process> {
        let file = File::options().create(true).append(true).open(output)?;
        // A pipe that nobody writes to: a server that watches it learns when the test is gone, however it went.
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn()?;
        let name = command.get_program().to_string_lossy().into_owned();
        Ok(Process { name, child, output: output.to_path_buf(), leads_group: false })
    }

    /// Like [`Process::spawn_command`], at the head of a process group of its own: signals go to all of the group,
    /// as they do from a terminal, and all of it is killed in the end.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn_group(mut command: Command, output: &Path) -> io::Result<Process> {
        command.process_group(0);
        let mut process = Process::spawn_command(command, output)?;
        process.leads_group = true;
        Ok(process)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. A process that has ended already is no error.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            // Losing a race with its end is as good as having signalled it.
            let _ = if self.leads_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
        }
    }

    /// `kill -9`, and waits until the system has let go of it.
    pub fn kill(&mut self) {
        if self.leads_group
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            // Also when the head has ended: what it started may be there still.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub fn wait_end(&mut self, patience: Duration) -> Option<ExitStatus> {
        crate::wait_for(patience, || self.ended())
    }

    /// What it printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Resident memory in bytes, from the system.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Memory in bytes of this process and of those that it has forked; what they share counts once.
    #[must_use]
    pub fn memory_with_children(&self) -> Option<u64> {
        let own = proportional_bytes(self.pid())?;
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| proportional_bytes(pid.parse().ok()?));
        Some(own + children.sum::<u64>())
    }

    /// Whether it was stopped by a signal, all of its threads.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid())) else { return true };
        let states = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        let mut letters = states.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next());
        letters.all(|letter| matches!(letter, 'T' | 't' | 'Z' | 'X'))
    }

    /// Processor time used so far (user and system), from the system.
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        cpu_time_of(self.pid())
    }
}

/// Memory of a process, with its part of what it shares with others.
fn proportional_bytes(pid: u32) -> Option<u64> {
    let sums = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = sums.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Processor time that any process has used so far (user and system), from the system.
#[must_use]
pub fn cpu_time_of(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    // Linux counts these in hundredths of a second on every platform it runs on here.
    Some(Duration::from_millis(ticks * 10))
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process is killed too: SIGKILL needs no SIGCONT.
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let tail = &lines[lines.len().saturating_sub(25)..];
            eprintln!("--- last lines of {} ({}):\n{}", self.name, self.output.display(), tail.join("\n"));
        }
    }
}
