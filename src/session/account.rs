//! What is written down about commands that have run: calls, time, errors, and what was slow.
//!
//! Nothing here may change a reply, and no secret may get from here to the slow log.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::spec::flag;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::found::Found;
use super::{Session, split_replies};
use crate::config::Settings;
use crate::migrate::redact;
use crate::resp::Command;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Counts a run: calls and time per command, errors by kind, and what was slow.
    pub(super) fn account(
        &mut self,
        commands: &[Command],
        found: &[Result<Found, CmdError>],
        began: Instant,
        start: usize,
    ) {
        let metrics = &self.shared.metrics;
        let took = began.elapsed();
        let nanos = took.as_nanos() as u64 / commands.len() as u64;
        if took >= Duration::from_millis(1) {
            metrics.latency.record("command", took.as_millis() as u64, self.shared.env.wall_ms() / 1000);
        }
        self.note_slow(commands.iter().zip(found.iter().flatten()), took);
        let mut at = 0;
        let indexes: SmallVec<[usize; 16]> = found.iter().flatten().map(|found| found.entry.index).collect();
        while at < indexes.len() {
            let same = indexes[at..].iter().take_while(|index| **index == indexes[at]).count();
            metrics.commands.called(indexes[at], same as u64, nanos * same as u64);
            at += same;
        }
        // A large run has sent some of its replies already; errors are looked for in what is left.
        let replies = self.out.bytes().get(start..).unwrap_or_default();
        // Looking for errors reply by reply only where one may be.
        if replies.first() == Some(&b'-') || memchr::memmem::find(replies, b"\r\n-").is_some() {
            for (reply, index) in split_replies(replies).zip(&indexes) {
                if let Some(line) = reply.strip_prefix(b"-") {
                    metrics.commands.failed(*index);
                    metrics.error_reply(line);
                }
            }
        }
    }

    /// What took long goes into the slow log. The time of a run, or of a transaction, can't be told apart: it is one
    /// entry, which shows the first command that is not marked as fast, and says how many others there were.
    pub(super) fn note_slow<'c>(&self, run: impl Iterator<Item = (&'c Command, &'c Found)> + Clone, took: Duration) {
        let (slowlog, took_us) = (&self.shared.metrics.slowlog, took.as_micros() as u64);
        if !slowlog.wants(took_us) {
            return;
        }
        let mut run = run.filter(|(_, found)| !found.entry.has(flag::SKIP_SLOWLOG));
        let suspect = run.clone().find(|(_, found)| !found.entry.has(flag::FAST)).or_else(|| run.clone().next());
        let Some((command, found)) = suspect else { return };
        let others = run.by_ref().count() - 1;
        let (addr, name) = (self.client.addr.to_string(), self.client.view().name);
        slowlog.push(self.shared.env.wall_ms() / 1000, took_us, (&shown(command, found), others), addr, name);
    }
}

/// The line as others may see it: Redis takes the same words out.
fn shown<'c>(command: &'c Command, found: &Found) -> Cow<'c, [Bytes]> {
    let secret: SmallVec<[usize; 4]> = match found.entry.full_name.as_str() {
        "auth" => (1..command.len()).collect(),
        // What follows AUTH, also where the name or the password was forgotten.
        "hello" => match command.iter().skip(2).position(|word| word.eq_ignore_ascii_case(b"auth")) {
            Some(at) => (at + 3..command.len().min(at + 5)).collect(),
            None => SmallVec::new(),
        },
        "config|set" => {
            let names = (2..command.len().saturating_sub(1)).step_by(2);
            names.filter(|at| Settings::is_sensitive(&command[*at])).map(|at| at + 1).collect()
        }
        "migrate" => return redact(command.args()).into(),
        _ => return command.args().into(),
    };
    let mut shown = command.args().to_vec();
    for at in secret {
        shown[at] = Bytes::from_static(b"(redacted)");
    }
    shown.into()
}
