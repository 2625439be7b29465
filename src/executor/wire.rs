//! What members say to each other when one runs a client's commands for another.
//!
//! A request is carried by one service call of the peer transport, and answered by the member that got it or not at
//! all: it is never passed on, so two members that disagree about who leads can't send it in circles.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_keyspace::reply::Proto;
use quorate_raft::Pieces;

/// The number of this service on the peer transport.
pub const SERVICE: u8 = 1;
/// What stands before replies.
const DONE_BYTES: usize = 1 + 4;

/// A request to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Propose this unit.
    Write(Bytes),
    /// Run this unit of reads behind a barrier; `quorum` asks for ReadIndex even if the lease holds.
    Read {
        /// The unit, in the log's encoding.
        unit: Bytes,
        /// Confirm with a majority first.
        quorum: bool,
    },
    /// The revisions of these keys (WATCH).
    Revisions(Vec<(u16, Bytes)>),
    /// Keys to be sent to another server: as many of the first as fit into one answer (MIGRATE).
    Portables {
        /// Their database.
        db: u16,
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// A server command whose answer depends on the newest keys.
    Shell {
        /// RESP version of the client.
        proto: Proto,
        /// The client's database.
        db: u16,
        /// The command.
        args: Vec<Bytes>,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Done.
    Done {
        /// Of a unit of reads, so many commands are answered: the first ones. The others may be asked for again.
        answered: u32,
        /// The replies, ready for the client (for [`Request::Revisions`]: big-endian numbers; for
        /// [`Request::Portables`]: what `executor::portable` makes of them).
        replies: Pieces,
    },
    /// Certainly not done: this member doesn't lead.
    NotLeader,
    /// Certainly not done, for this reason (an error line).
    Refused(String),
    /// Perhaps done, perhaps not.
    Unknown(String),
}

/// The bytes of a request or response make no sense.
#[derive(Debug, thiserror::Error)]
#[error("a malformed message of the executor service")]
pub struct Malformed;

impl Request {
    /// As it goes over the wire.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Request::Write(unit) => {
                out.reserve(unit.len() + 1);
                out.put_u8(0);
                out.put_slice(unit);
            }
            Request::Read { unit, quorum } => {
                out.reserve(unit.len() + 2);
                out.put_u8(1);
                out.put_u8(u8::from(*quorum));
                out.put_slice(unit);
            }
            Request::Revisions(keys) => {
                out.put_u8(2);
                for (db, key) in keys {
                    out.put_u16(*db);
                    put_bytes(&mut out, key);
                }
            }
            Request::Shell { proto, db, args } => {
                out.put_u8(3);
                out.put_u8(match proto {
                    Proto::Resp2 => 2,
                    Proto::Resp3 => 3,
                });
                out.put_u16(*db);
                for arg in args {
                    put_bytes(&mut out, arg);
                }
            }
            Request::Portables { db, keys } => {
                out.put_u8(4);
                out.put_u16(*db);
                for key in keys {
                    put_bytes(&mut out, key);
                }
            }
        }
        out.freeze()
    }

    /// From the wire.
    pub fn decode(mut bytes: Bytes) -> Result<Self, Malformed> {
        match get_u8(&mut bytes)? {
            0 => Ok(Request::Write(bytes)),
            1 => {
                let quorum = get_u8(&mut bytes)? != 0;
                Ok(Request::Read { unit: bytes, quorum })
            }
            2 => {
                let mut keys = Vec::new();
                while bytes.has_remaining() {
                    let db = bytes.try_get_u16().map_err(|_| Malformed)?;
                    keys.push((db, get_bytes(&mut bytes)?));
                }
                Ok(Request::Revisions(keys))
            }
            3 => {
                let proto = match get_u8(&mut bytes)? {
                    2 => Proto::Resp2,
                    3 => Proto::Resp3,
                    _ => return Err(Malformed),
                };
                let db = bytes.try_get_u16().map_err(|_| Malformed)?;
                let args = get_all(bytes)?;
                if args.is_empty() {
                    return Err(Malformed);
                }
                Ok(Request::Shell { proto, db, args })
            }
            4 => {
                let db = bytes.try_get_u16().map_err(|_| Malformed)?;
                Ok(Request::Portables { db, keys: get_all(bytes)? })
            }
            _ => Err(Malformed),
        }
    }
}

impl Response {
    /// All that was asked for is done.
    pub fn done(replies: Bytes) -> Self {
        Self::Done { answered: u32::MAX, replies: vec![replies] }
    }

    /// As it goes over the wire. Replies are not copied.
    pub fn encode(self) -> Pieces {
        let line = |kind: u8, text: &str| vec![[&[kind][..], text.as_bytes()].concat().into()];
        match self {
            Response::Done { answered, mut replies } => {
                let mut head = BytesMut::with_capacity(DONE_BYTES);
                head.put_u8(0);
                head.put_u32(answered);
                replies.insert(0, head.freeze());
                replies
            }
            Response::NotLeader => line(1, ""),
            Response::Refused(text) => line(2, &text),
            Response::Unknown(why) => line(3, &why),
        }
    }

    /// From the wire, however it was cut on the way: but the first piece is at least as long as what stands before the
    /// replies.
    pub fn decode(mut pieces: Pieces) -> Result<Self, Malformed> {
        let first = pieces.first_mut().ok_or(Malformed)?;
        let kind = get_u8(first)?;
        if kind == 0 {
            let answered = first.try_get_u32().map_err(|_| Malformed)?;
            return Ok(Response::Done { answered, replies: pieces });
        }
        let text = || String::from_utf8(pieces.concat()).map_err(|_| Malformed);
        match kind {
            1 => Ok(Response::NotLeader),
            2 => Ok(Response::Refused(text()?)),
            3 => Ok(Response::Unknown(text()?)),
            _ => Err(Malformed),
        }
    }
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn get_u8(bytes: &mut Bytes) -> Result<u8, Malformed> {
    bytes.try_get_u8().map_err(|_| Malformed)
}

fn get_all(mut bytes: Bytes) -> Result<Vec<Bytes>, Malformed> {
    let mut all = Vec::new();
    while bytes.has_remaining() {
        all.push(get_bytes(&mut bytes)?);
    }
    Ok(all)
}

pub(super) fn get_bytes(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = bytes.try_get_u32().map_err(|_| Malformed)? as usize;
    if len > bytes.len() {
        return Err(Malformed);
    }
    Ok(bytes.split_to(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_encoded_comes_back() {
        let requests = [
            Request::Write(Bytes::from_static(b"unit")),
            Request::Read { unit: Bytes::from_static(b"unit"), quorum: true },
            Request::Revisions(vec![(0, Bytes::from_static(b"a")), (15, Bytes::new())]),
            Request::Shell { proto: Proto::Resp3, db: 9, args: vec![Bytes::from_static(b"memory")] },
            Request::Portables { db: 15, keys: vec![Bytes::from_static(b"a"), Bytes::new()] },
        ];
        for request in requests {
            assert_eq!(Request::decode(request.encode()).unwrap(), request);
        }
        let responses = [Response::NotLeader, Response::Refused("ERR no".into()), Response::Unknown("why".into())];
        for response in responses {
            assert_eq!(Response::decode(response.clone().encode()).unwrap(), response);
        }
    }

    #[test]
    fn replies_come_back_however_they_are_cut_on_the_way() {
        let replies = [&b"$5\r\nfirst\r\n"[..], b"$6\r\nsecond\r\n"].map(Bytes::from_static);
        let whole = replies.concat();
        let sent = Response::Done { answered: 2, replies: replies.to_vec() }.encode().concat();
        for cut in DONE_BYTES..=sent.len() {
            let came = [&sent[..cut], &sent[cut..]].map(Bytes::copy_from_slice);
            let Response::Done { answered, replies } = Response::decode(came.to_vec()).unwrap() else { panic!() };
            assert_eq!((answered, replies.concat()), (2, whole.clone()));
        }
        assert!(Response::decode(vec![Bytes::from_static(&[0, 0, 0])]).is_err());
        assert!(Response::decode(Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            if let Ok(request) = Request::decode(bytes.clone()) {
                prop_assert_eq!(Request::decode(request.encode()).unwrap(), request);
            }
            let _ = Response::decode(vec![bytes]);
        }
    }
}
