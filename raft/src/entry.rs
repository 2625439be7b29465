//! One entry as bytes: the same on disk and in a peer message.
//!
//! ```text
//! version u8 · kind u8 · term u64 · leader u64 · index u64 · payload
//! ```
//!
//! Reading copies nothing: the payload is a slice of the bytes that were read.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::entry::RaftEntry;

use crate::types::{Data, Entry, LogId, Payload};
use crate::wire::{Malformed, Reader, put_log_id, put_membership};

const VERSION: u8 = 1;
/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 26;

const BLANK: u8 = 0;
const APP: u8 = 1;
const SYSTEM: u8 = 2;
const MEMBERSHIP: u8 = 3;

/// The size of an entry's payload, as far as it matters for limits.
pub(crate) fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(data) => data.bytes().len(),
        _ => 0,
    }
}

/// Appends the entry's bytes.
pub(crate) fn put_entry(out: &mut BytesMut, entry: &Entry) {
    out.reserve(HEADER_BYTES + payload_bytes(entry));
    out.put_u8(VERSION);
    out.put_u8(match &entry.payload {
        Payload::Blank => BLANK,
        Payload::Normal(Data::App(_)) => APP,
        Payload::Normal(Data::System(_)) => SYSTEM,
        Payload::Membership(_) => MEMBERSHIP,
    });
    put_log_id(out, &entry.log_id);
    match &entry.payload {
        Payload::Blank => {}
        Payload::Normal(data) => out.put_slice(data.bytes()),
        Payload::Membership(membership) => put_membership(out, membership),
    }
}

/// The entry as bytes of its own.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + payload_bytes(entry));
    put_entry(&mut out, entry);
    out.freeze()
}

/// Reads an entry.
pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, Malformed> {
    let mut reader = Reader(bytes);
    reader.version("an entry of the log", VERSION)?;
    let kind = reader.u8()?;
    let log_id: LogId = reader.log_id()?;
    let payload = match kind {
        BLANK => Payload::Blank,
        APP => Payload::Normal(Data::App(reader.rest())),
        SYSTEM => Payload::Normal(Data::System(reader.rest())),
        MEMBERSHIP => Payload::Membership(reader.membership()?),
        _ => return Err(Malformed::Bytes("entry: its kind is not known here")),
    };
    reader.end()?;
    Ok(Entry::new(log_id, payload))
}

/// Reads only the log id.
pub(crate) fn decode_log_id(bytes: &Bytes) -> Result<LogId, Malformed> {
    let mut reader = Reader(bytes.clone());
    reader.version("an entry of the log", VERSION)?;
    reader.u8()?;
    reader.log_id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaderId;

    #[test]
    fn entries_of_all_kinds_come_back() {
        let id = |index| LogId::new(LeaderId { term: 3, node_id: 7 }, index);
        let payloads = [
            Payload::Blank,
            Payload::Normal(Data::App(Bytes::from_static(b"SET k v"))),
            Payload::Normal(Data::System(Bytes::from_static(b""))),
            Payload::Membership(Default::default()),
        ];
        for (i, payload) in payloads.into_iter().enumerate() {
            let entry = Entry::new(id(i as u64), payload);
            let bytes = encode_entry(&entry);
            assert_eq!(decode_log_id(&bytes).unwrap(), entry.log_id);
            assert_eq!(decode_entry(bytes).unwrap(), entry);
        }
    }

    #[test]
    fn damage_is_an_error() {
        assert!(decode_entry(Bytes::new()).is_err());
        let entry = Entry::new(LogId::new(LeaderId { term: 1, node_id: 1 }, 1), Payload::Blank);
        let mut bytes = encode_entry(&entry).to_vec();
        bytes.push(0);
        assert!(decode_entry(bytes.clone().into()).is_err(), "a blank entry with a tail was believed");
        bytes[0] = 9;
        assert!(decode_entry(bytes.into()).is_err());
    }
}
