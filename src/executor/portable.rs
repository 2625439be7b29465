//! Keys to be sent to another server (MIGRATE): read behind a barrier, a bounded piece at a time.
//!
//! Only the reading is here. Who sends them, and has them removed, holds no lock and no more than such a piece.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_raft::MemberId;
use tokio::time::Instant;

use super::wire::{self, Malformed, Request};
use super::{Attempt, ExecError, Executor, left};

/// An answer ends behind the key with which it is this long: one value may be longer, and it is never cut.
const ANSWER_BYTES: usize = 1 << 20;
/// Stands for a key that does not end.
const FOR_EVER: u64 = u64::MAX;

/// A key at the moment at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portable {
    /// Its revision, as WATCH remembers it.
    pub revision: u64,
    /// How long it had to live; None: for ever.
    pub left_ms: Option<u64>,
    /// What DUMP gives.
    pub payload: Bytes,
}

impl Executor {
    /// The first of these keys, all of one moment; None for those that are not there. At least one is answered; for the
    /// others ask again.
    pub async fn portables(&self, db: u16, keys: &[Bytes]) -> Result<Vec<Option<Portable>>, ExecError> {
        self.check_membership()?;
        let deadline = self.deadline();
        loop {
            let attempt = match self.leader_elsewhere() {
                None => self.portables_here(db, keys, deadline).await,
                Some(leader) => self.ask_portables(leader, db, keys, deadline).await,
            };
            match attempt {
                Attempt::Done(answer) => {
                    let malformed = |error: Malformed| ExecError::NotDone(format!("ERR {error}"));
                    return decode(answer?).map_err(malformed);
                }
                Attempt::Again => self.pause_before_retry(deadline).await?,
                Attempt::AtOnce => {}
            }
        }
    }

    async fn ask_portables(&self, leader: MemberId, db: u16, keys: &[Bytes], deadline: Instant) -> Attempt<Bytes> {
        let request = Request::Portables { db, keys: keys.to_vec() };
        self.ask(leader, &request, left(deadline), false).await
    }

    pub(super) async fn portables_here(&self, db: u16, keys: &[Bytes], deadline: Instant) -> Attempt<Bytes> {
        loop {
            match self.barrier(deadline).await {
                Attempt::Done(Ok(())) => {}
                Attempt::Done(Err(error)) => return Attempt::Done(Err(error)),
                Attempt::Again | Attempt::AtOnce => return Attempt::Again,
            }
            let moment = self.engine.moment();
            // The values are shared with the keyspace; what takes long is done without its lock.
            let found: Vec<_> =
                self.engine.with(|keyspace| keys.iter().map(|key| keyspace.portable(&moment, db, key)).collect());
            if moment.hidden() == 0 {
                self.count(&moment);
                return Attempt::Done(Ok(encode(&found)));
            }
            match self.remove_past_due(deadline).await {
                Attempt::AtOnce => {}
                other => return other,
            }
        }
    }
}

/// Revision (0: not there), time left, payload.
fn encode(found: &[Option<quorate_keyspace::Portable>]) -> Bytes {
    let mut out = BytesMut::new();
    for key in found {
        match key {
            None => out.put_u64(0),
            Some(key) => {
                out.put_u64(key.revision());
                out.put_u64(key.left_ms().unwrap_or(FOR_EVER));
                wire::put_bytes(&mut out, &key.payload());
            }
        }
        if out.len() >= ANSWER_BYTES {
            break;
        }
    }
    out.freeze()
}

fn decode(mut bytes: Bytes) -> Result<Vec<Option<Portable>>, Malformed> {
    let mut found = Vec::new();
    while bytes.has_remaining() {
        let revision = bytes.try_get_u64().map_err(|_| Malformed)?;
        if revision == 0 {
            found.push(None);
            continue;
        }
        let left_ms = bytes.try_get_u64().map_err(|_| Malformed)?;
        let payload = wire::get_bytes(&mut bytes)?;
        found.push(Some(Portable { revision, left_ms: (left_ms != FOR_EVER).then_some(left_ms), payload }));
    }
    // Whoever asks goes on behind what is answered.
    if found.is_empty() { Err(Malformed) } else { Ok(found) }
}
