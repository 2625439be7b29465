//! openraft's requests and answers as bytes.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use crate::entry::{HEADER_BYTES, decode_entry, payload_bytes, put_entry};
use crate::types::{TypeConfig, Vote};
use crate::wire::{Malformed, Reader, put_bool, put_log_id, put_maybe_log_id, put_vote};

pub(crate) type Append = AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendAnswer = StreamAppendResult<TypeConfig>;

pub(crate) fn put_append(out: &mut BytesMut, request: &Append) {
    let size: usize = request.entries.iter().map(|e| 4 + HEADER_BYTES + payload_bytes(e)).sum();
    out.reserve(96 + size);
    put_vote(out, &request.vote);
    put_maybe_log_id(out, request.prev_log_id.as_ref());
    put_maybe_log_id(out, request.leader_commit.as_ref());
    out.put_u32(request.entries.len() as u32);
    for entry in &request.entries {
        let at = out.len();
        out.put_u32(0);
        put_entry(out, entry);
        let n = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&n.to_be_bytes());
    }
}

pub(crate) fn read_append(body: Bytes) -> Result<Append, Malformed> {
    let mut reader = Reader(body);
    let vote = reader.vote()?;
    let prev_log_id = reader.maybe_log_id()?;
    let leader_commit = reader.maybe_log_id()?;
    let n = reader.count(4 + HEADER_BYTES)?;
    let mut entries = Vec::with_capacity(n);
    // openraft takes for granted that the entries follow `prev` and each other; a stranger might not.
    let first = prev_log_id.as_ref().map_or(0, |id| id.index() + 1);
    for expected in first..first + n as u64 {
        let entry = decode_entry(reader.bytes()?)?;
        if entry.log_id.index() != expected {
            return Err(Malformed::Bytes("append: the entries don't follow each other"));
        }
        entries.push(entry);
    }
    reader.end()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn put_append_answer(out: &mut BytesMut, answer: &AppendAnswer) {
    match answer {
        Ok(matching) => {
            out.put_u8(0);
            put_maybe_log_id(out, matching.as_ref());
        }
        Err(StreamAppendError::Conflict(at)) => {
            out.put_u8(1);
            put_log_id(out, at);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(2);
            put_vote(out, vote);
        }
    }
}

pub(crate) fn read_append_answer(body: Bytes) -> Result<AppendAnswer, Malformed> {
    let mut reader = Reader(body);
    let answer = match reader.u8()? {
        0 => Ok(reader.maybe_log_id()?),
        1 => Err(StreamAppendError::Conflict(reader.log_id()?)),
        2 => Err(StreamAppendError::HigherVote(reader.vote()?)),
        _ => return Err(Malformed::Bytes("append answer")),
    };
    reader.end()?;
    Ok(answer)
}

pub(crate) fn put_vote_request(out: &mut BytesMut, request: &VoteRequest<TypeConfig>) {
    put_vote(out, &request.vote);
    put_maybe_log_id(out, request.last_log_id.as_ref());
    put_bool(out, request.leadership_transfer);
}

pub(crate) fn read_vote_request(body: Bytes) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let mut reader = Reader(body);
    let mut request = VoteRequest::new(reader.vote()?, reader.maybe_log_id()?);
    request.leadership_transfer = reader.bool()?;
    reader.end()?;
    Ok(request)
}

pub(crate) fn put_vote_response(out: &mut BytesMut, response: &VoteResponse<TypeConfig>) {
    put_vote(out, &response.vote);
    put_bool(out, response.vote_granted);
    put_maybe_log_id(out, response.last_log_id.as_ref());
}

pub(crate) fn read_vote_response(body: Bytes) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let mut reader = Reader(body);
    let vote = reader.vote()?;
    let granted = reader.bool()?;
    let last = reader.maybe_log_id()?;
    reader.end()?;
    Ok(VoteResponse::new(vote, last, granted))
}

pub(crate) fn put_transfer(out: &mut BytesMut, request: &TransferLeaderRequest<TypeConfig>) {
    put_vote(out, request.from_leader());
    out.put_u64(*request.to_node_id());
    put_maybe_log_id(out, request.last_log_id());
}

pub(crate) fn read_transfer(body: Bytes) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let mut reader = Reader(body);
    let from: Vote = reader.vote()?;
    let to = reader.u64()?;
    let last = reader.maybe_log_id()?;
    reader.end()?;
    Ok(TransferLeaderRequest::new(from, to, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Data, Entry, LeaderId, LogId, Payload};
    use openraft::entry::RaftEntry;

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId { term: 2, node_id: 3 }, index)
    }

    #[test]
    fn an_append_comes_back_and_a_gap_in_it_does_not() {
        let entry = |i, p| Entry::new(id(i), p);
        let mut request = Append {
            vote: Vote::new_committed(2, 3),
            prev_log_id: Some(id(6)),
            entries: vec![entry(7, Payload::Blank), entry(8, Payload::Normal(Data::App(Bytes::from_static(b"x"))))],
            leader_commit: None,
        };
        let mut out = BytesMut::new();
        put_append(&mut out, &request);
        let back = read_append(out.freeze()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));

        request.entries[1] = entry(9, Payload::Blank);
        let mut out = BytesMut::new();
        put_append(&mut out, &request);
        assert!(read_append(out.freeze()).is_err());
    }

    #[test]
    fn answers_come_back() {
        for answer in [
            Ok(None),
            Ok(Some(id(4))),
            Err(StreamAppendError::Conflict(id(5))),
            Err(StreamAppendError::HigherVote(Vote::new(9, 1))),
        ] {
            let mut out = BytesMut::new();
            put_append_answer(&mut out, &answer);
            assert_eq!(format!("{:?}", read_append_answer(out.freeze()).unwrap()), format!("{answer:?}"));
        }
        assert!(read_append_answer(Bytes::from_static(&[7])).is_err());
    }
}
