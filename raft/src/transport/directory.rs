//! Who is who: what this node knows of the members of its groups, for dialling and for refusing.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use uuid::Uuid;

use super::handshake::{Hello, Refusal};
use crate::config::Identity;
use crate::types::{GroupId, Member, MemberId};

/// What one group says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupView {
    /// The members of the effective and of the committed membership.
    pub(crate) members: BTreeMap<MemberId, Member>,
    /// Members that were removed for good.
    pub(crate) removed: BTreeSet<MemberId>,
    /// Ids from here on have not been given out, as far as this node has heard.
    pub(crate) next_member: MemberId,
}

/// What all groups of this node say together.
pub(crate) struct Directory {
    me: Identity,
    groups: Mutex<BTreeMap<GroupId, GroupView>>,
}

impl Directory {
    pub(crate) fn new(me: Identity) -> Self {
        Self { me, groups: Mutex::default() }
    }

    /// Replaces what a group says. Returns whether it was news.
    pub(crate) fn update(&self, group: GroupId, view: GroupView) -> bool {
        let mut groups = self.groups.lock();
        let news = groups.get(&group) != Some(&view);
        groups.insert(group, view);
        news
    }

    pub(crate) fn member(&self, id: MemberId) -> Option<Member> {
        self.groups.lock().values().find_map(|g| g.members.get(&id).cloned())
    }

    /// Everybody but this member.
    pub(crate) fn others(&self) -> BTreeMap<MemberId, Member> {
        let mut all = BTreeMap::new();
        for group in self.groups.lock().values() {
            all.extend(group.members.iter().map(|(id, m)| (*id, m.clone())));
        }
        all.remove(&self.me.member);
        all
    }

    pub(crate) fn is_removed(&self, id: MemberId) -> bool {
        let groups = self.groups.lock();
        groups.values().any(|g| g.removed.contains(&id)) && !groups.values().any(|g| g.members.contains_key(&id))
    }

    /// Whether a dialler may come in.
    ///
    /// An id that this node has not heard of yet may belong to a member that joined while this node
    /// lagged: it knows the secret and the group, so it comes in. An id that was given out and is in
    /// no membership waits until it is.
    pub(crate) fn judge(&self, hello: &Hello) -> Result<(), (Refusal, String)> {
        let me = &self.me;
        if self.groups.lock().is_empty() {
            // Whoever came in now could not be judged by his disk.
            return Err((Refusal::Busy, format!("member {} has not loaded its groups yet", me.member)));
        }
        if hello.cluster != me.cluster {
            return Err((
                Refusal::Cluster,
                format!(
                    "member {} here belongs to group {}, and member {} to {}; start that one with a directory of this \
                     group, or with an empty one and --join",
                    me.member, me.cluster, hello.from, hello.cluster
                ),
            ));
        }
        if hello.to != me.member {
            return Err((Refusal::NotMe, format!("this is member {}, not member {}", me.member, hello.to)));
        }
        if hello.to_incarnation != me.incarnation && !hello.to_incarnation.is_nil() {
            return Err((
                Refusal::NotMe,
                format!("member {} has joined anew since member {} last heard of it", me.member, hello.from),
            ));
        }
        let from = hello.from;
        if from == me.member {
            return Err((Refusal::NotMe, format!("member {from} is this very member: two processes use one identity")));
        }
        self.judge_member(from, hello.party.incarnation)
    }

    /// Whether a member may stay connected; asked again whenever the directory changes.
    pub(crate) fn judge_member(&self, from: MemberId, incarnation: Uuid) -> Result<(), (Refusal, String)> {
        if self.is_removed(from) {
            return Err((
                Refusal::Removed,
                format!(
                    "member {from} was removed from the group; to use the machine again, empty its data directory and join"
                ),
            ));
        }
        match self.member(from) {
            Some(member) if member.incarnation == incarnation => Ok(()),
            Some(_) => Err((
                Refusal::Incarnation,
                format!(
                    "member {from} has come back with another disk than the one it joined with; \
                     remove member {from}, empty the data directory and join again"
                ),
            )),
            None if self.was_given_out(from) => Err((
                Refusal::Unknown,
                format!("member {from} is not in the group: its join has not been finished, or it was removed"),
            )),
            None => Ok(()),
        }
    }

    fn was_given_out(&self, id: MemberId) -> bool {
        self.groups.lock().values().any(|g| id < g.next_member)
    }

    /// This node's identity.
    pub(crate) fn me(&self) -> &Identity {
        &self.me
    }

    /// The incarnation to ask a peer for; nil asks for none.
    pub(crate) fn incarnation_of(&self, id: MemberId) -> Uuid {
        self.member(id).map_or(Uuid::nil(), |m| m.incarnation)
    }
}
