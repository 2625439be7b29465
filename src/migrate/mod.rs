//! MIGRATE: keys go to another server and, once that has them, away from here.
//!
//! Redis stands still meanwhile. We don't: keys are read, sent, and removed by one entry of the log that checks that each
//! is still what was sent, by its revision, as EXEC checks what was watched. So all leave at once, or none does.
//!
//! A key is removed only after the target's own `+OK` for it. Whatever breaks before leaves it here; it may then be in
//! both places, never in none. It runs in the session's task, on the member the client is connected to; the leader is asked
//! for the keys and for their removal, as for other commands, and no lock is held while anything is sent. In memory there is
//! one piece at a time: 1 MB of keys, or one value that is longer.

mod plan;
mod target;

use bytes::Bytes;
use quorate_keyspace::entry::{UnitHead, UnitKind, Watch, encode_unit};
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::Proto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

pub use plan::{Plan, find_keys, redact};
use target::{Answer, Broken, Target};

use crate::executor::{ExecError, Executor, Portable};

/// Keys that one piece has at most: their answers must fit into what the network keeps while nobody reads.
const PIECE_KEYS: usize = 512;
/// Attempts to remove what was sent: one more after keys that have ended meanwhile are left out.
const REMOVALS: usize = 3;

/// What MIGRATE answers when all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The target has the keys.
    Moved,
    /// There was none to send.
    NoKey,
}

/// A key that the target has taken.
struct Sent {
    watch: Watch,
    ends: Option<Instant>,
}

/// A MIGRATE under way.
pub struct Migration<'a> {
    executor: &'a Executor,
    db: u16,
    plan: &'a Plan,
    pieces: usize,
    found: bool,
    taken: Vec<Sent>,
    /// The first error of the target for a key.
    refused: Option<CmdError>,
    /// Why the rest was not sent.
    broken: Option<CmdError>,
}

impl<'a> Migration<'a> {
    /// Of keys of that database.
    pub fn new(executor: &'a Executor, db: u16, plan: &'a Plan) -> Self {
        Self { executor, db, plan, pieces: 0, found: false, taken: Vec::new(), refused: None, broken: None }
    }

    /// Sends what there is to send. Nothing changes here by it; [`Self::finish`] says what came of it.
    pub async fn send(&mut self) {
        let mut target = None;
        let mut rest = &self.plan.keys[..];
        while !rest.is_empty() && self.broken.is_none() {
            let keys = &rest[..rest.len().min(PIECE_KEYS)];
            match self.executor.portables(self.db, keys).await {
                Ok(found) => {
                    rest = rest.get(found.len()..).unwrap_or_default();
                    let found: Vec<_> = keys.iter().zip(found).filter_map(|(key, at)| Some((key, at?))).collect();
                    if !found.is_empty() {
                        self.send_piece(&mut target, &found).await;
                    }
                }
                Err(error) => self.broken = Some(self.unread(&error)),
            }
        }
    }

    async fn send_piece(&mut self, target: &mut Option<Target<TcpStream>>, keys: &[(&Bytes, Portable)]) {
        (self.found, self.pieces) = (true, self.pieces + 1);
        if target.is_none() {
            match connect(self.plan).await {
                Ok(connected) => *target = Some(connected),
                Err(broken) => return self.broken = Some(broken.into()),
            }
        }
        if let Some(target) = target
            && let Err(broken) = self.exchange(target, keys).await
        {
            self.broken = Some(broken.into());
        }
    }

    /// Sends keys, and hears what the target says of each.
    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        target: &mut Target<S>,
        keys: &[(&Bytes, Portable)],
    ) -> Result<(), Broken> {
        let read_at = Instant::now();
        for (key, found) in keys {
            // Less than a millisecond is one: none at all would be for ever.
            let left = found.left_ms.map_or(0, |left| left.max(1)).to_string();
            let line: [&[u8]; 5] = [b"RESTORE", key, left.as_bytes(), &found.payload, b"REPLACE"];
            target.command(if self.plan.replace { &line } else { &line[..4] }).await?;
        }
        target.flush().await?;
        for (key, found) in keys {
            match target.answer().await? {
                Answer::Ok => {
                    let watch = Watch { db: self.db, key: (*key).clone(), revision: found.revision };
                    let ends = found.left_ms.map(|left| read_at + plan::bounded(left));
                    self.taken.push(Sent { watch, ends });
                }
                Answer::Error(line) => {
                    self.refused.get_or_insert(CmdError::new(target::replied_with(&line)));
                }
            }
        }
        Ok(())
    }

    /// Removes what the target has taken, and says what came of all of it.
    pub async fn finish(mut self) -> Result<Done, CmdError> {
        if !self.found && self.broken.is_none() {
            return Ok(Done::NoKey);
        }
        if self.plan.copy {
            // One piece is of one moment anyway.
            if self.pieces > 1 && !self.is_of_one_moment().await? {
                return Err(MOMENTS);
            }
        } else {
            self.remove().await?;
        }
        match self.refused.or(self.broken) {
            Some(error) => Err(error),
            None => Ok(Done::Moved),
        }
    }

    /// Whether all that the target has taken was there at the same time.
    async fn is_of_one_moment(&mut self) -> Result<bool, CmdError> {
        let now = self.revisions().await?;
        let same = |(sent, now): (&Sent, u64)| sent.watch.revision == now || sent.has_ended(now);
        Ok(self.taken.iter().zip(now).all(same))
    }

    async fn revisions(&self) -> Result<Vec<u64>, CmdError> {
        let keys: Vec<(u16, Bytes)> = self.taken.iter().map(|sent| (self.db, sent.watch.key.clone())).collect();
        self.executor.revisions(&keys).await.map_err(|error| self.kept(&error))
    }

    async fn remove(&mut self) -> Result<(), CmdError> {
        for _ in 0..REMOVALS {
            if self.taken.is_empty() {
                return Ok(());
            }
            let replies = self.executor.write(self.removal()).await.map_err(|error| self.kept(&error))?;
            if !replies.first().is_some_and(|replies| replies.starts_with(b"*-1")) {
                return Ok(());
            }
            // Something is not what was sent. What has ended here meanwhile ends there too: there is nothing to remove.
            let now = self.revisions().await?;
            let mut now = now.into_iter();
            let before = self.taken.len();
            self.taken.retain(|sent| !now.next().is_some_and(|now| sent.has_ended(now)));
            if self.taken.len() == before {
                return Err(self.changed());
            }
        }
        Err(self.changed())
    }

    fn removal(&self) -> Bytes {
        let watches: Vec<Watch> = self.taken.iter().map(|sent| sent.watch.clone()).collect();
        let keys = watches.iter().map(|watch| &watch.key[..]);
        let line: Vec<&[u8]> = std::iter::once(&b"UNLINK"[..]).chain(keys).collect();
        let head = UnitHead { kind: UnitKind::Transaction, proto: Proto::Resp2, watches: &watches };
        encode_unit(head, std::iter::once((self.db, &line[..])))
    }

    /// Something has come between.
    fn changed(&self) -> CmdError {
        self.with_refusal(
            "TRYAGAIN A key was changed here while it was sent: none was removed, and the target has copies. Repeat \
             MIGRATE with REPLACE",
        )
    }

    /// The target has the keys, and they were not removed here, or perhaps not.
    fn kept(&self, error: &ExecError) -> CmdError {
        let line = error.to_string();
        let (code, why) = line.split_once(' ').unwrap_or(("ERR", &line));
        match error {
            _ if self.plan.copy => CmdError::new(format!(
                "{code} The target has copies, but whether they are of one moment could not be found out: {why}"
            )),
            ExecError::NotDone(_) => self.with_refusal(&format!(
                "{code} The target has copies, and no key was removed here: {why}. Repeat MIGRATE with REPLACE"
            )),
            ExecError::Unknown(_) => self.with_refusal(
                "UNKNOWN The target has the keys, but whether they were removed here is unknown: it may have been done or \
                 may still be. Where they are still here, repeat MIGRATE with REPLACE",
            ),
        }
    }

    fn with_refusal(&self, text: &str) -> CmdError {
        match &self.refused {
            Some(refused) => CmdError::new(format!("{text} ({refused})")),
            None => CmdError::new(text),
        }
    }

    /// Keys could not be read.
    fn unread(&self, error: &ExecError) -> CmdError {
        let line = error.to_string();
        if self.taken.is_empty() {
            return CmdError::new(line);
        }
        let (code, why) = line.split_once(' ').unwrap_or(("ERR", &line));
        CmdError::new(format!("{code} The target has some of the keys; the others could not be read here: {why}"))
    }
}

const MOMENTS: CmdError = CmdError::fixed(
    "TRYAGAIN A key was changed here while the keys were sent: the target's copies are of different moments. Repeat \
     MIGRATE with REPLACE",
);

impl Sent {
    /// With that revision now: it is gone because its time was over.
    fn has_ended(&self, now: u64) -> bool {
        now == 0 && self.ends.is_some_and(|at| at <= Instant::now())
    }
}

/// Opens a connection to the target and makes it ready for keys.
async fn connect(plan: &Plan) -> Result<Target<TcpStream>, Broken> {
    let stream = match timeout(plan.patience, TcpStream::connect((plan.host.as_str(), plan.port))).await {
        Ok(Ok(stream)) => stream,
        // Redis hears of it when it begins to write.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Err(Broken::Write),
        Ok(Err(_)) | Err(_) => return Err(Broken::Connect),
    };
    // It only makes waiting longer.
    let _ = stream.set_nodelay(true);
    let mut target = Target::new(stream, plan.patience);
    target.greet(plan).await?;
    Ok(target)
}
