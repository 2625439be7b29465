//! The encoding of small things, the same in peer messages, in the log and in manifests.
//!
//! Everything that is read here may come from a stranger or a damaged disk: every length is checked
//! before it is believed, nothing recurses, nothing panics.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::vote::RaftVote;
use uuid::Uuid;

use crate::types::{LeaderId, LogId, Member, Membership, StoredMembership, Vote};

/// The bytes are not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("malformed {0}")]
    Bytes(&'static str),
    /// They were written as they are, but not by this version.
    #[error(
        "{what} is of format version {found}, and this program reads {known} only: run the version of quorate that \
         wrote it; nothing was changed"
    )]
    Version { what: &'static str, found: u8, known: u8 },
}

/// More members than this in one group is damage, not a group.
const MAX_MEMBERS: usize = 1024;
/// No group lives long enough to count so far.
const MAX_NUMBER: u64 = 1 << 60;

/// Reads from a buffer and never beyond its end.
pub(crate) struct Reader(pub(crate) Bytes);

type Result<T> = std::result::Result<T, Malformed>;

impl Reader {
    fn need(&self, n: usize, what: &'static str) -> Result<()> {
        if self.0.remaining() < n { Err(Malformed::Bytes(what)) } else { Ok(()) }
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.need(1, "byte")?;
        Ok(self.0.get_u8())
    }

    /// The version that all else depends on.
    pub(crate) fn version(&mut self, what: &'static str, known: u8) -> Result<()> {
        let found = self.u8()?;
        if found == known { Ok(()) } else { Err(Malformed::Version { what, found, known }) }
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Bytes("flag")),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.need(4, "number")?;
        Ok(self.0.get_u32())
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.need(8, "number")?;
        Ok(self.0.get_u64())
    }

    pub(crate) fn u128(&mut self) -> Result<u128> {
        self.need(16, "number")?;
        Ok(self.0.get_u128())
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid> {
        self.need(16, "uuid")?;
        Ok(Uuid::from_u128(self.0.get_u128()))
    }

    /// A count of things that take at least `least` bytes each.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize> {
        let n = self.u32()? as usize;
        if n.saturating_mul(least) > self.0.remaining() { Err(Malformed::Bytes("count")) } else { Ok(n) }
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes> {
        let n = self.count(1)?;
        Ok(self.0.split_to(n))
    }

    pub(crate) fn string(&mut self) -> Result<String> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.into()).map_err(|_| Malformed::Bytes("text"))
    }

    pub(crate) fn rest(&mut self) -> Bytes {
        self.0.split_to(self.0.len())
    }

    pub(crate) fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Bytes("tail")) }
    }

    pub(crate) fn log_id(&mut self) -> Result<LogId> {
        let (term, node_id, index) = (self.u64()?, self.u64()?, self.u64()?);
        // Whoever counts on from here must not come to the end of the numbers.
        if term > MAX_NUMBER || index > MAX_NUMBER {
            return Err(Malformed::Bytes("log id"));
        }
        Ok(LogId::new(LeaderId { term, node_id }, index))
    }

    pub(crate) fn maybe_log_id(&mut self) -> Result<Option<LogId>> {
        Ok(if self.bool()? { Some(self.log_id()?) } else { None })
    }

    pub(crate) fn vote(&mut self) -> Result<Vote> {
        let (term, node_id) = (self.u64()?, self.u64()?);
        if term > MAX_NUMBER {
            return Err(Malformed::Bytes("vote"));
        }
        Ok(if self.bool()? { Vote::new_committed(term, node_id) } else { Vote::new(term, node_id) })
    }

    pub(crate) fn member(&mut self) -> Result<Member> {
        Ok(Member {
            peer: self.string()?,
            client: self.string()?,
            admin: self.string()?,
            wants_vote: self.bool()?,
            incarnation: self.uuid()?,
        })
    }

    pub(crate) fn membership(&mut self) -> Result<Membership> {
        let mut configs = Vec::new();
        for _ in 0..self.count(4)? {
            let n = self.count(8)?;
            configs.push((0..n).map(|_| self.u64()).collect::<Result<BTreeSet<_>>>()?);
        }
        let n = self.count(8)?;
        if n > MAX_MEMBERS {
            return Err(Malformed::Bytes("membership"));
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..n {
            let id = self.u64()?;
            nodes.insert(id, self.member()?);
        }
        Membership::new(configs, nodes).map_err(|_| Malformed::Bytes("membership"))
    }

    pub(crate) fn stored_membership(&mut self) -> Result<StoredMembership> {
        let log_id = self.maybe_log_id()?;
        Ok(StoredMembership::new(log_id, self.membership()?))
    }
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).expect("nothing that is encoded here reaches 4 GiB"));
    out.put_slice(bytes);
}

pub(crate) fn put_bool(out: &mut BytesMut, flag: bool) {
    out.put_u8(u8::from(flag));
}

pub(crate) fn put_log_id(out: &mut BytesMut, id: &LogId) {
    let leader = id.committed_leader_id();
    out.put_u64(leader.term);
    out.put_u64(leader.node_id);
    out.put_u64(id.index());
}

pub(crate) fn put_maybe_log_id(out: &mut BytesMut, id: Option<&LogId>) {
    put_bool(out, id.is_some());
    if let Some(id) = id {
        put_log_id(out, id);
    }
}

pub(crate) fn put_vote(out: &mut BytesMut, vote: &Vote) {
    let leader = vote.leader_id();
    out.put_u64(leader.term);
    out.put_u64(leader.node_id);
    put_bool(out, RaftVote::is_committed(vote));
}

pub(crate) fn put_member(out: &mut BytesMut, member: &Member) {
    put_bytes(out, member.peer.as_bytes());
    put_bytes(out, member.client.as_bytes());
    put_bytes(out, member.admin.as_bytes());
    put_bool(out, member.wants_vote);
    out.put_u128(member.incarnation.as_u128());
}

pub(crate) fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.put_u32(configs.len() as u32);
    for config in configs {
        out.put_u32(config.len() as u32);
        for id in config {
            out.put_u64(*id);
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.put_u32(nodes.len() as u32);
    for (id, member) in nodes {
        out.put_u64(*id);
        put_member(out, member);
    }
}

pub(crate) fn put_stored_membership(out: &mut BytesMut, stored: &StoredMembership) {
    put_maybe_log_id(out, stored.log_id().as_ref());
    put_membership(out, stored.membership());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Membership {
        let member = |n: u64| Member {
            peer: format!("h{n}:1"),
            client: format!("h{n}:2"),
            admin: format!("h{n}:3"),
            wants_vote: n < 3,
            incarnation: Uuid::from_u128(n.into()),
        };
        Membership::new(
            vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2])],
            BTreeMap::from([(1, member(1)), (2, member(2)), (3, member(3)), (9, member(9))]),
        )
        .unwrap()
    }

    #[test]
    fn a_membership_comes_back_as_it_was() {
        let stored = StoredMembership::new(Some(LogId::new(LeaderId { term: 4, node_id: 2 }, 77)), sample());
        let mut out = BytesMut::new();
        put_stored_membership(&mut out, &stored);
        let mut reader = Reader(out.freeze());
        assert_eq!(reader.stored_membership().unwrap(), stored);
        reader.end().unwrap();
    }

    #[test]
    fn every_prefix_and_every_flipped_byte_is_an_error_or_a_membership_and_never_a_panic() {
        let mut out = BytesMut::new();
        put_membership(&mut out, &sample());
        let bytes = out.freeze();
        for n in 0..bytes.len() {
            assert!(Reader(bytes.slice(..n)).membership().is_err(), "a prefix of {n} bytes was believed");
        }
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.to_vec();
                damaged[i] ^= 1 << bit;
                let _ = Reader(damaged.into()).membership();
            }
        }
    }
}
