//! What members say to each other when one runs a client's commands for another.
//!
//! A request is carried by one service call of the peer transport, and answered by the member that got it or not at
//! all: it is never passed on, so two members that disagree about who leads can't send it in circles.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_keyspace::reply::Proto;

/// The number of this service on the peer transport.
pub const SERVICE: u8 = 1;

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
    /// Done: the replies, ready for the client (for [`Request::Revisions`]: big-endian numbers; for
    /// [`Request::Portables`]: what `executor::portable` makes of them).
    Done(Bytes),
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
    /// As it goes over the wire.
    pub fn encode(&self) -> Bytes {
        let (kind, body): (u8, &[u8]) = match self {
            Response::Done(bytes) => (0, bytes),
            Response::NotLeader => (1, b""),
            Response::Refused(line) => (2, line.as_bytes()),
            Response::Unknown(why) => (3, why.as_bytes()),
        };
        let mut out = BytesMut::with_capacity(body.len() + 1);
        out.put_u8(kind);
        out.put_slice(body);
        out.freeze()
    }

    /// From the wire.
    pub fn decode(mut bytes: Bytes) -> Result<Self, Malformed> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).map_err(|_| Malformed);
        match get_u8(&mut bytes)? {
            0 => Ok(Response::Done(bytes)),
            1 => Ok(Response::NotLeader),
            2 => Ok(Response::Refused(text(bytes)?)),
            3 => Ok(Response::Unknown(text(bytes)?)),
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
        let responses = [
            Response::Done(Bytes::from_static(b"+OK\r\n")),
            Response::NotLeader,
            Response::Refused("ERR no".into()),
            Response::Unknown("why".into()),
        ];
        for response in responses {
            assert_eq!(Response::decode(response.encode()).unwrap(), response);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            if let Ok(request) = Request::decode(bytes.clone()) {
                prop_assert_eq!(Request::decode(request.encode()).unwrap(), request);
            }
            let _ = Response::decode(bytes);
        }
    }
}
