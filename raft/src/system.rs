//! This room's own replicated state: the group's UUID, and which member ids were given out.
//!
//! It is changed by entries of the log like the keyspace, and kept in the same checkpoints and
//! snapshots. An id is never given to two members: votes and entries are promised under it.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::types::MemberId;
use crate::wire::{Malformed, Reader};

const VERSION: u8 = 1;

/// What is replicated besides the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SystemState {
    /// The group's UUID; nil until the first entry that tells it.
    pub(crate) cluster: Uuid,
    /// The next id to give out.
    pub(crate) next_member: MemberId,
    /// Members that were removed: they are told so instead of being ignored.
    pub(crate) removed: BTreeSet<MemberId>,
}

impl Default for SystemState {
    fn default() -> Self {
        Self { cluster: Uuid::nil(), next_member: 1, removed: BTreeSet::new() }
    }
}

/// A change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SystemCommand {
    /// The first entry of a group: its UUID, and the id of the member that made it.
    Found { cluster: Uuid, first: MemberId },
    /// Gives out an id; the answer is the id.
    AllocateMember,
    /// Remembers that a member was removed.
    Removed(MemberId),
    /// Marks a position at which all members compute the digest of what they hold; `hurry`: as fast as they can.
    Check {
        /// Somebody waits for it.
        hurry: bool,
    },
}

impl SystemCommand {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            SystemCommand::Found { cluster, first } => {
                out.put_u8(1);
                out.put_u128(cluster.as_u128());
                out.put_u64(*first);
            }
            SystemCommand::AllocateMember => out.put_u8(2),
            SystemCommand::Removed(id) => {
                out.put_u8(3);
                out.put_u64(*id);
            }
            SystemCommand::Check { hurry } => {
                out.put_u8(4);
                out.put_u8(u8::from(*hurry));
            }
        }
        out.freeze()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        reader.version("a system command", VERSION)?;
        let command = match reader.u8()? {
            1 => SystemCommand::Found { cluster: reader.uuid()?, first: reader.u64()? },
            2 => SystemCommand::AllocateMember,
            3 => SystemCommand::Removed(reader.u64()?),
            4 => SystemCommand::Check { hurry: reader.bool()? },
            _ => return Err(Malformed::Bytes("system command")),
        };
        reader.end()?;
        Ok(command)
    }
}

impl SystemState {
    /// Applies a command; the answer goes to whoever proposed it.
    pub(crate) fn apply(&mut self, command: &SystemCommand) -> Bytes {
        match command {
            SystemCommand::Found { cluster, first } => {
                if self.cluster.is_nil() {
                    self.cluster = *cluster;
                }
                self.next_member = self.next_member.max(first + 1);
                Bytes::new()
            }
            SystemCommand::AllocateMember => {
                let id = self.next_member;
                self.next_member += 1;
                Bytes::copy_from_slice(&id.to_be_bytes())
            }
            SystemCommand::Removed(id) => {
                self.removed.insert(*id);
                self.next_member = self.next_member.max(id + 1);
                Bytes::new()
            }
            SystemCommand::Check { .. } => Bytes::new(),
        }
    }

    /// These ids are in use.
    pub(crate) fn saw_members(&mut self, ids: impl Iterator<Item = MemberId>) {
        for id in ids {
            self.next_member = self.next_member.max(id + 1);
        }
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_u128(self.cluster.as_u128());
        out.put_u64(self.next_member);
        out.put_u32(self.removed.len() as u32);
        for id in &self.removed {
            out.put_u64(*id);
        }
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Malformed> {
        let cluster = reader.uuid()?;
        let next_member = reader.u64()?;
        let n = reader.count(8)?;
        let removed = (0..n).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        Ok(Self { cluster, next_member, removed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_given_out_once() {
        let mut state = SystemState::default();
        let cluster = Uuid::from_u128(5);
        state.apply(&SystemCommand::Found { cluster, first: 1 });
        let ids: Vec<_> = (0..3).map(|_| state.apply(&SystemCommand::AllocateMember)).collect();
        assert_eq!(ids, [2u64, 3, 4].map(|i| Bytes::copy_from_slice(&i.to_be_bytes())));
        state.apply(&SystemCommand::Removed(4));
        state.saw_members([2, 4].into_iter());
        assert_eq!(state.apply(&SystemCommand::AllocateMember)[..], 5u64.to_be_bytes());

        let mut out = BytesMut::new();
        state.put(&mut out);
        assert_eq!(SystemState::read(&mut Reader(out.freeze())).unwrap(), state);
    }

    #[test]
    fn commands_come_back() {
        for command in [
            SystemCommand::Found { cluster: Uuid::from_u128(9), first: 1 },
            SystemCommand::AllocateMember,
            SystemCommand::Removed(7),
            SystemCommand::Check { hurry: true },
        ] {
            assert_eq!(SystemCommand::decode(command.encode()).unwrap(), command);
        }
        assert!(SystemCommand::decode(Bytes::from_static(&[1, 99])).is_err());
    }
}
