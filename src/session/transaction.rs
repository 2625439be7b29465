//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! A transaction is one unit, so one entry of the log: nothing comes between its commands, and it is applied whole or
//! not at all. WATCH remembers the revisions of keys; they are compared where the transaction is applied, so it makes
//! no difference who leads by then. A transaction that only reads runs under the shared lock without touching the log.

use std::time::Duration;

use bytes::Bytes;
use quorate_keyspace::args::Args;
use quorate_keyspace::entry::{UnitHead, UnitKind, Watch, encode_unit};
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::found::{Class, Found, find};
use super::state::{Multi, Queued, ReplyMode};
use super::{Session, slices, split_replies};
use crate::executor::ExecError;
use crate::resp::Command;
use crate::server::SessionOp;

/// What is watched before the data is loaded: no key ever has it, so EXEC answers null, and the client looks again.
const UNKNOWN_REVISION: u64 = u64::MAX;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Keeps a command for EXEC.
    pub(super) fn queue(&mut self, command: &Command, found: &Found) {
        if self.sends_away(command, found) {
            return;
        }
        let databases = self.shared.settings.databases();
        if let Some(multi) = &mut self.state.multi {
            multi.bytes += command.wire_bytes();
            multi.queued.push(Queued { db: multi.db, flags: found.entry.flags, command: command.clone() });
            // A SELECT counts for what is queued behind it; whether it is right is told by EXEC.
            if found.class == Class::Shell
                && found.session_op() == Some(SessionOp::Select)
                && let Ok(db) = super::ops::parse_db(&command[1], databases)
            {
                multi.db = db;
            }
        }
        self.out.simple("QUEUED");
    }

    pub(super) fn multi(&mut self) -> Result<(), CmdError> {
        if self.state.multi.is_some() {
            return Err(CmdError::fixed("ERR MULTI calls can not be nested"));
        }
        self.state.multi = Some(Multi { db: self.state.db, ..Multi::default() });
        self.out.ok();
        Ok(())
    }

    pub(super) fn discard(&mut self) -> Result<(), CmdError> {
        if self.state.multi.take().is_none() {
            return Err(CmdError::fixed("ERR DISCARD without MULTI"));
        }
        self.state.watches.clear();
        self.out.ok();
        Ok(())
    }

    pub(super) async fn watch(&mut self, keys: &[Bytes]) -> Result<(), CmdError> {
        if self.state.multi.is_some() {
            return Err(CmdError::fixed("ERR WATCH inside MULTI is not allowed"));
        }
        let db = self.state.db;
        let mut fresh: Vec<(u16, Bytes)> = Vec::new();
        for key in keys {
            if !self.state.watches(db, key) && !fresh.iter().any(|(_, known)| known == key) {
                // A copy: a slice would keep the whole request alive for as long as the key is watched.
                fresh.push((db, Bytes::copy_from_slice(key)));
            }
        }
        let revisions = if self.shared.is_loaded() {
            let revisions = self.shared.executor().revisions(&fresh).await;
            revisions.map_err(|error| CmdError::new(error.to_string()))?
        } else {
            vec![UNKNOWN_REVISION; fresh.len()]
        };
        let watches = fresh.into_iter().zip(revisions).map(|((db, key), revision)| Watch { db, key, revision });
        self.state.watches.extend(watches);
        self.out.ok();
        Ok(())
    }

    /// EXEC. The connection is out of the transaction whatever comes of it.
    pub(super) async fn exec(&mut self) -> Result<(), CmdError> {
        let Some(multi) = self.state.multi.take() else {
            return Err(CmdError::fixed("ERR EXEC without MULTI"));
        };
        let watches = std::mem::take(&mut self.state.watches);
        if multi.broken {
            return Err(CmdError::fixed("EXECABORT Transaction discarded because of previous errors."));
        }
        let found: Vec<Found> =
            multi.queued.iter().map(|queued| find(&slices(&queued.command))).collect::<Result<_, _>>()?;
        if found.is_empty() && !self.shared.is_loaded() {
            self.out.array(0);
            return Ok(());
        }
        let writes = found.iter().any(|found| found.class == Class::Write);
        let began = Instant::now();
        let start = self.out.bytes().len();
        let all_keyspace = found.iter().all(|found| found.class != Class::Shell);
        let plan = Plan { queued: &multi.queued, found: &found, watches: &watches, writes };
        let done = if all_keyspace {
            let mut out = std::mem::replace(&mut self.out, ReplyBuf::muted());
            let done = self.run_plan(&plan, &mut out).await;
            self.out = out;
            done
        } else {
            self.run_mixed(&plan).await
        };
        let error = done.as_ref().err().map(|error| CmdError::new(error.to_string()));
        // Null, or an error: nothing has run.
        if let [b'*', b'0'..=b'9', ..] = self.out.bytes()[start..] {
            self.count(&plan, began.elapsed());
        }
        error.map_or(Ok(()), Err)
    }

    /// Counts what the keyspace has run. Commands of the shell are counted one by one where they run.
    fn count(&self, plan: &Plan<'_>, took: Duration) {
        let Some(share) = took.as_nanos().checked_div(plan.found.len() as u128) else { return };
        for (_, found) in plan.keyspace() {
            self.shared.metrics.commands.called(found.entry.index, 1, share as u64);
        }
        self.note_slow(plan.keyspace().map(|(queued, found)| (&queued.command, found)), took);
    }

    /// The part of a transaction that is the keyspace's. Writes one array, or null if a watched key has changed.
    async fn run_plan(&mut self, plan: &Plan<'_>, out: &mut ReplyBuf) -> Result<(), ExecError> {
        let proto = out.proto();
        let unit = || {
            let head = UnitHead { kind: UnitKind::Transaction, proto, watches: plan.watches };
            encode_unit(head, plan.keyspace().map(|(queued, _)| (queued.db, queued.command.args())))
        };
        if plan.writes {
            let replies = self.shared.executor().write(unit()).await?;
            out.raw_pieces(replies);
            return Ok(());
        }
        self.shared
            .executor()
            .read(
                self.read_mode(),
                out,
                |keyspace, moment, out| {
                    let lines: Vec<_> =
                        plan.keyspace().map(|(queued, found)| (queued.db, found, slices(&queued.command))).collect();
                    let commands =
                        lines.iter().map(|(db, found, args)| (*db, found.keyspace(), Args::new(args, found.first_arg)));
                    keyspace.read_transaction(moment, plan.watches, commands, out);
                },
                unit,
            )
            .await
            .map(|_| ())
    }

    /// A transaction in which commands of the session or the shell stand between those of the keyspace: the keyspace's
    /// go first, as one unit; then all replies are put in order.
    async fn run_mixed(&mut self, plan: &Plan<'_>) -> Result<(), ExecError> {
        let mut replies = ReplyBuf::new(self.state.proto);
        if plan.keyspace().next().is_some() || !plan.watches.is_empty() {
            self.run_plan(plan, &mut replies).await?;
        } else {
            replies.array(0);
        }
        let replies = replies.take();
        let Some(head) = replies.strip_prefix(b"*").filter(|rest| !rest.starts_with(b"-")) else {
            self.out.raw(&replies);
            return Ok(());
        };
        let body = memchr::memchr(b'\n', head).map_or(&b""[..], |end| &head[end + 1..]);
        let mut answered = split_replies(body);
        self.out.array(plan.queued.len());
        for (queued, found) in plan.queued.iter().zip(plan.found) {
            let (mark, silent) = (self.out.mark(), self.state.reply == ReplyMode::Off);
            if found.class == Class::Shell {
                Box::pin(self.local(&queued.command, found)).await;
            } else {
                self.out.raw(answered.next().unwrap_or(b"-ERR a reply is missing\r\n"));
            }
            // After a CLIENT REPLY OFF nothing more is said, as in Redis: what is left is an array too short.
            if silent && self.state.reply == ReplyMode::Off {
                self.out.truncate(mark);
            }
        }
        Ok(())
    }
}

struct Plan<'a> {
    queued: &'a [Queued],
    found: &'a [Found],
    watches: &'a [Watch],
    writes: bool,
}

impl<'a> Plan<'a> {
    fn keyspace(&self) -> impl Iterator<Item = (&'a Queued, &'a Found)> + Clone {
        self.queued.iter().zip(self.found).filter(|(_, found)| found.class != Class::Shell)
    }
}
