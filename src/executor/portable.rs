//! Keys to be sent to another server (MIGRATE): read behind a barrier, a bounded piece at a time.
//!
//! Only the reading is here. Who sends them, and has them removed, holds no lock and no more than such a piece.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::wire::{self, Malformed, Request};
use super::{Answered, Attempt, ExecError, Executor, left};

/// An answer ends behind the key with which it is this long: one value may be longer, and it is never cut.
const PIECE_BYTES: usize = 1 << 20;
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
        let deadline = self.begin()?;
        loop {
            let attempt = match self.leader_elsewhere() {
                None => self.portables_here(db, keys, deadline).await,
                Some(leader) => {
                    let request = Request::Portables { db, keys: keys.to_vec() };
                    self.ask(leader, &request, left(deadline), false).await.map(Answered::joined)
                }
            };
            if let Some(result) = self.end_of(attempt, deadline).await {
                return decode(result?).map_err(|error: Malformed| ExecError::NotDone(format!("ERR {error}")));
            }
        }
    }

    pub(super) async fn portables_here(&self, db: u16, keys: &[Bytes], deadline: Instant) -> Attempt<Bytes> {
        let look = || {
            let moment = self.engine.moment();
            // The values are shared with the keyspace; what takes long is done without its lock.
            let found: Vec<_> =
                self.engine.with(|keyspace| keys.iter().map(|key| keyspace.portable(&moment, db, key)).collect());
            (found, moment)
        };
        self.fresh(deadline, look).await.map(|found| encode(&found))
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
        if out.len() >= PIECE_BYTES {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_keyspace::{Keyspace, Moment, Stamp, UnitHead, UnitKind, encode_entry, encode_unit};

    use super::*;

    fn keyspace(lines: &[&[&[u8]]]) -> Keyspace {
        let mut keyspace = Keyspace::new(16, [1, 2]);
        let head = UnitHead { kind: UnitKind::Batch, proto: quorate_keyspace::Proto::Resp2, watches: &[] };
        let unit = encode_unit(head, lines.iter().map(|line| (0, *line)));
        let mut entry = BytesMut::new();
        encode_entry(Stamp { time_ms: 1000, seed: 1 }, &[unit], &mut entry);
        keyspace.apply(&entry, false).unwrap();
        keyspace
    }

    fn read(keyspace: &Keyspace, now_ms: u64, db: u16, keys: &[&[u8]]) -> (Vec<Option<Portable>>, u64) {
        let moment = Moment::new(now_ms, 0);
        let found: Vec<_> = keys.iter().map(|key| keyspace.portable(&moment, db, key)).collect();
        (decode(encode(&found)).unwrap(), moment.hidden())
    }

    #[test]
    fn a_key_comes_with_its_revision_its_time_and_its_value() {
        let keyspace =
            keyspace(&[&[b"SET", b"a", b"1"], &[b"SET", b"b", b"", b"PXAT", b"1500"], &[b"HSET", b"h", b"f", b"v"]]);
        let (found, hidden) = read(&keyspace, 1100, 0, &[b"a", b"nothing", b"b", b"h"]);
        assert_eq!((found.len(), hidden), (4, 0));
        assert!(found[1].is_none());
        let left: Vec<_> = found.iter().flatten().map(|key| key.left_ms).collect();
        assert_eq!(left, [None, Some(400), None]);
        for (key, name) in found.iter().flatten().zip([b"a", b"b", b"h"]) {
            assert_eq!(key.revision, keyspace.revision(1100, 0, name));
            assert!(!key.payload.is_empty());
        }
        // Past due: not there, and whoever is told so must have it removed first.
        assert_eq!(read(&keyspace, 1500, 0, &[b"b"]), (vec![None], 1));
        assert_eq!(read(&keyspace, 1100, 1, &[b"a"]), (vec![None], 0));
        assert_eq!(read(&keyspace, 1100, 16, &[b"a"]), (vec![None], 0));
    }

    #[test]
    fn an_answer_ends_where_it_is_long_enough() {
        // No byte like the one before it: nothing to compress.
        let mut state = 1u32;
        let long: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(PIECE_BYTES)
        .collect();
        let keyspace = keyspace(&[&[b"SET", b"a", b"1"], &[b"SET", b"long", &long], &[b"SET", b"z", b"1"]]);
        assert_eq!(read(&keyspace, 1000, 0, &[b"a", b"long", b"z"]).0.len(), 2);
        assert_eq!(read(&keyspace, 1000, 0, &[b"long", b"long"]).0.len(), 1, "one at least");
        assert_eq!(read(&keyspace, 1000, 0, &[b"z", b"nothing", b"a"]).0.len(), 3);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(Bytes::from(bytes));
        }
    }
}
