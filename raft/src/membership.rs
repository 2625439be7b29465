//! Changes of who is in the group, and of who leads.
//!
//! A member comes in as a learner, and becomes a voter when it has caught up. Ids come out of the log
//! and are never used twice. A change that would leave no majority that answers is refused before it
//! is begun. One change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use uuid::Uuid;

use crate::api::{BoxFuture, Pieces, Service};
use crate::check::{Digest, digest_answer};
use crate::error::{CallError, ChangeError};
use crate::group::{Group, Inner, Joined};
use crate::keeper::CAUGHT_UP;
use crate::majority::{majority_stays, no_majority};
use crate::runtime::{Instant, random_u128};
use crate::system::SystemCommand;
use crate::types::{Data, Member, MemberId, Metrics, TypeConfig};
use crate::wire::{Reader, put_member};

/// The service by which members ask each other for such changes.
pub(crate) const SERVICE: u8 = 255;
/// A change takes two entries; more time than this means that the majority is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before a change that could not be begun is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(30);
/// How long a change waits for the one before it.
const ALONE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a voter may take to tell whether it has room.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
/// How long the old leader waits for the new one, and for the target to catch up.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(3);

type Changes = ChangeMembers<MemberId, Member>;

impl Group {
    /// Takes a member in: gives it an id, makes it a learner, and, if `voter`, makes it a voter in the
    /// background when it has caught up. Leader only. `member.incarnation` and `member.wants_vote` are
    /// set here.
    pub async fn add_member(&self, member: Member, voter: bool) -> Result<Joined, ChangeError> {
        let inner = &self.inner;
        inner.leading()?;
        let _one = inner.alone().await?;
        inner.majority_answers().await?;
        let metrics = inner.leading()?;
        if let Some((id, known)) = inner.same_address(&metrics, &member)? {
            return Ok(inner.joined(id, known.incarnation));
        }
        let answer = inner.system(SystemCommand::AllocateMember).await?;
        let id = (answer.len() == 8).then(|| answer.clone().get_u64()).ok_or(ChangeError::Stopped)?;
        let incarnation = Uuid::from_u128(random_u128());
        let member = Member { wants_vote: voter, incarnation, ..member };
        tracing::debug!(group = inner.id, member = id, peer = %member.peer, voter, "a member joins");
        inner.change(ChangeMembers::AddNodes(BTreeMap::from([(id, member)])), true).await?;
        Ok(inner.joined(id, incarnation))
    }

    /// Makes a learner a voter: now if it has caught up, otherwise as soon as it has. Leader only.
    pub async fn promote(&self, id: MemberId) -> Result<(), ChangeError> {
        let inner = &self.inner;
        inner.leading()?;
        let _one = inner.alone().await?;
        inner.majority_answers().await?;
        let metrics = inner.leading()?;
        let membership = metrics.membership_config.membership();
        let member = membership.get_node(&id).ok_or(ChangeError::NoSuchMember(id))?;
        if membership.voter_ids().any(|v| v == id) {
            return Ok(());
        }
        let matched = metrics.replication.as_ref().and_then(|r| r.get(&id).cloned().flatten()).map(|l| l.index());
        if matched.is_some_and(|m| m + CAUGHT_UP >= metrics.last_log_index.unwrap_or(0)) {
            return inner.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await;
        }
        let member = Member { wants_vote: true, ..member.clone() };
        inner.change(ChangeMembers::SetNodes(BTreeMap::from([(id, member)])), true).await
    }

    /// Removes a member. Refused when those that remain and answer would not be a majority. When it
    /// is the leader itself, leadership goes to another member first, which then removes it. Leader only.
    pub async fn remove(&self, id: MemberId) -> Result<(), ChangeError> {
        self.inner.remove(id).await
    }

    /// Hands leadership over: to this member, or to the one that is closest. Returns who leads then.
    pub async fn transfer(&self, to: Option<MemberId>) -> Result<MemberId, ChangeError> {
        let inner = &self.inner;
        inner.leading()?;
        let _one = inner.alone().await?;
        inner.hand_over(to).await
    }
}

impl Inner {
    /// openraft's metrics, if this member leads.
    fn leading(&self) -> Result<Metrics, ChangeError> {
        let metrics = self.metrics();
        if metrics.running_state.is_err() {
            return Err(ChangeError::Stopped);
        }
        if metrics.state.is_leader() && metrics.current_leader == Some(self.me.member) {
            return Ok(metrics);
        }
        Err(ChangeError::NotLeader { leader: self.known_leader().filter(|(id, _)| *id != self.me.member) })
    }

    /// The right to change something. The keeper's own changes are short, so it is worth a wait.
    async fn alone(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, ChangeError> {
        tokio::time::timeout(ALONE_PATIENCE, self.changing.lock()).await.map_err(|_| ChangeError::Busy)
    }

    fn joined(&self, id: MemberId, incarnation: Uuid) -> Joined {
        let metrics = self.metrics();
        let mut members: Vec<_> = metrics.membership_config.nodes().map(|(id, member)| (*id, member.clone())).collect();
        members.sort_by_key(|(id, _)| *id);
        Joined { id, cluster: self.me.cluster, incarnation, members }
    }

    /// A member that has one of these addresses already. The one that asked before and never heard the
    /// answer gets it again; any other is in the way.
    fn same_address(&self, metrics: &Metrics, new: &Member) -> Result<Option<(MemberId, Member)>, ChangeError> {
        let membership = metrics.membership_config.membership();
        let voters: Vec<_> = membership.voter_ids().collect();
        for (id, member) in membership.nodes() {
            if member.peer != new.peer {
                if member.client == new.client || member.admin == new.admin {
                    return Err(ChangeError::Refused(format!(
                        "member {id} has the address {} already",
                        if member.client == new.client { &new.client } else { &new.admin }
                    )));
                }
                continue;
            }
            let contacted = metrics.replication.as_ref().and_then(|r| r.get(id).cloned().flatten()).is_some()
                || metrics.heartbeat.as_ref().and_then(|h| h.get(id).cloned().flatten()).is_some();
            if voters.contains(id) || contacted {
                return Err(ChangeError::Refused(format!(
                    "member {id} has the peer address {} already; if its disk is lost, remove member {id} first, \
                     then let the machine join as a new member",
                    new.peer
                )));
            }
            return Ok(Some((*id, member.clone())));
        }
        Ok(None)
    }

    /// Writes a command to the replicated state of this room and returns its answer.
    async fn system(&self, command: SystemCommand) -> Result<Bytes, ChangeError> {
        self.write_system(command).await.map(|(answer, _)| answer)
    }

    /// Likewise; returns where in the log it stands.
    pub(crate) async fn system_at(&self, command: SystemCommand) -> Result<u64, ChangeError> {
        self.write_system(command).await.map(|(_, index)| index)
    }

    async fn write_system(&self, command: SystemCommand) -> Result<(Bytes, u64), ChangeError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let write = self.raft.client_write(Data::System(command.encode()));
            let error = match tokio::time::timeout(deadline - Instant::now(), write).await {
                Ok(Ok(response)) => {
                    let index = response.log_id.index();
                    return Ok((response.data.into_iter().next().unwrap_or_default(), index));
                }
                Ok(Err(error)) => self.write_error(error, false),
                Err(_) => return Err(ChangeError::Unknown("no majority answered in time".into())),
            };
            let again = matches!(error, ChangeError::NotLeader { leader: None });
            if !again || self.leading().is_err() || Instant::now() + RETRY_EVERY >= deadline {
                return Err(self.while_leading(error));
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Changes the membership, in as many steps as that takes.
    pub(crate) async fn change(&self, changes: Changes, retain: bool) -> Result<(), ChangeError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = *self.metrics().membership_config.log_id();
            let left = deadline - Instant::now();
            let attempt = self.raft.change_membership(changes.clone(), retain);
            let error = match tokio::time::timeout(left, attempt).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => {
                    let begun = *self.metrics().membership_config.log_id() != before;
                    self.write_error(error, begun)
                }
                Err(_) => return Err(ChangeError::Unknown("no majority answered in time".into())),
            };
            // Nothing was begun, and it may be possible in a moment: the change before this one is not
            // committed yet, or no majority has answered since this member was elected.
            let again = matches!(error, ChangeError::Busy | ChangeError::NotLeader { leader: None });
            if !again || self.leading().is_err() || Instant::now() + RETRY_EVERY >= deadline {
                return Err(self.while_leading(error));
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    fn write_error(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>, begun: bool) -> ChangeError {
        match error {
            RaftError::Fatal(_) => ChangeError::Stopped,
            RaftError::APIError(error) => match error {
                ClientWriteError::ForwardToLeader(_) if begun => {
                    ChangeError::Unknown("leadership was lost half way; the next leader finishes it".into())
                }
                ClientWriteError::ForwardToLeader(forward) => {
                    ChangeError::NotLeader { leader: forward.leader_id.zip(forward.leader_node) }
                }
                ClientWriteError::LogEntryDiscarded(_) => {
                    ChangeError::Unknown("leadership was lost before it was committed".into())
                }
                ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => ChangeError::Busy,
                other => ChangeError::Refused(other.to_string()),
            },
        }
    }

    /// Refuses at once what needs a majority where none answers, before anything is begun.
    async fn majority_answers(&self) -> Result<(), ChangeError> {
        let silent = |m: &Metrics| no_majority(m, &self.answering(m));
        // A leader that has just been elected has heard nobody yet: give them the time to answer.
        let answered = self.wait_for(Instant::now() + self.silence(), |m| silent(m).is_none()).await;
        if answered.is_some() {
            return Ok(());
        }
        let metrics = self.leading()?;
        silent(&metrics).map_or(Ok(()), |words| Err(ChangeError::NoMajority(words)))
    }

    /// openraft says of a leader that no majority answers that it does not lead. It would mislead whoever asked.
    fn while_leading(&self, error: ChangeError) -> ChangeError {
        match (error, self.leading()) {
            (ChangeError::NotLeader { leader: None }, Ok(metrics)) => {
                let words = no_majority(&metrics, &self.answering(&metrics));
                ChangeError::NoMajority(
                    words.unwrap_or_else(|| "no majority of the voters has answered in time".into()),
                )
            }
            (error, _) => error,
        }
    }

    /// Voters that answered lately, this member included.
    fn answering(&self, metrics: &Metrics) -> BTreeSet<MemberId> {
        let heard = |id: &MemberId| {
            *id == self.me.member
                || metrics
                    .heartbeat
                    .as_ref()
                    .and_then(|h| h.get(id).cloned().flatten())
                    .is_some_and(|at| at.elapsed() < self.silence())
        };
        metrics.membership_config.voter_ids().filter(heard).collect()
    }

    pub(crate) async fn remove(self: &Arc<Self>, id: MemberId) -> Result<(), ChangeError> {
        self.leading()?;
        let _one = self.alone().await?;
        let metrics = self.leading()?;
        let membership = metrics.membership_config.membership();
        if membership.get_node(&id).is_none() {
            return Err(ChangeError::NoSuchMember(id));
        }
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        if !voters.contains(&id) {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false).await?;
            return self.bury(id).await;
        }
        // A leader that has just been elected has heard nobody yet: give them the time to answer.
        let enough = |m: &Metrics| majority_stays(&voters, &self.answering(m), id);
        let answered = self.wait_for(Instant::now() + self.silence(), |m| enough(m).is_ok()).await;
        if answered.is_none() {
            enough(&self.metrics()).map_err(ChangeError::Refused)?;
        }
        if id == self.me.member {
            let leader = self.hand_over(None).await?;
            let asked = self.ask(leader, Ask::Remove(id)).await;
            if asked.is_err() && self.hears_of_its_removal().await {
                return Ok(());
            }
            return asked;
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])), false).await?;
        self.bury(id).await
    }

    /// The connection of a removed member is closed, sometimes before the answer has gone out on it.
    async fn hears_of_its_removal(&self) -> bool {
        let deadline = Instant::now() + ALONE_PATIENCE;
        while !self.removed.load(SeqCst) && Instant::now() < deadline {
            tokio::time::sleep(RETRY_EVERY).await;
        }
        self.removed.load(SeqCst)
    }

    /// Remembers that the member is gone for good. Should this fail, the member is out all the same; it
    /// is only told less clearly.
    async fn bury(&self, id: MemberId) -> Result<(), ChangeError> {
        tracing::debug!(group = self.id, member = id, "a member was removed");
        let _ = self.system(SystemCommand::Removed(id)).await;
        Ok(())
    }

    /// Hands leadership to a voter that has everything. From its beginning on, reads here need a majority.
    pub(crate) async fn hand_over(&self, to: Option<MemberId>) -> Result<MemberId, ChangeError> {
        let metrics = self.leading()?;
        let me = self.me.member;
        let answering = self.answering(&metrics);
        let matched = |m: &Metrics, id: &MemberId| {
            m.replication.as_ref().and_then(|r| r.get(id).cloned().flatten()).map(|l| l.index())
        };
        let target = match to {
            Some(id) if id == me => return Ok(me),
            Some(id) if !metrics.membership_config.voter_ids().any(|v| v == id) => {
                return Err(match metrics.membership_config.get_node(&id) {
                    Some(_) => ChangeError::Refused(format!("member {id} doesn't vote, so it can't lead")),
                    None => ChangeError::NoSuchMember(id),
                });
            }
            Some(id) if !answering.contains(&id) => {
                return Err(ChangeError::Refused(format!("member {id} doesn't answer")));
            }
            Some(id) => id,
            None => answering
                .iter()
                .copied()
                .filter(|id| *id != me)
                .max_by_key(|id| matched(&metrics, id))
                .ok_or_else(|| ChangeError::Refused("no other voter answers".into()))?,
        };
        let term = metrics.current_term;
        tracing::debug!(group = self.id, to = target, term, "leadership is handed over");

        // What was proposed already gets its answer here; what comes meanwhile waits at the gate, and
        // goes to the new leader.
        let _gate = CloseGate::new(self);
        let deadline = Instant::now() + HAND_OVER_PATIENCE;
        let late = || ChangeError::Unknown(format!("member {target} did not catch up in time"));
        tokio::time::timeout(deadline - Instant::now(), self.proposer.gate().drained()).await.map_err(|_| late())?;
        self.wait_for(deadline, |m| matched(m, &target) >= m.last_log_index).await.ok_or_else(late)?;

        self.lease.spoil(term);
        self.raft.trigger().transfer_leader(target).await.map_err(|_| ChangeError::Stopped)?;
        let done = self.wait_for(deadline, |m| m.current_leader.is_some() && m.current_term > term).await;
        match done.and_then(|m| m.current_leader) {
            Some(leader) if leader == target => Ok(leader),
            Some(leader) => Err(ChangeError::Unknown(format!("member {leader} leads now instead of member {target}"))),
            None => Err(ChangeError::Unknown("nobody has taken over yet".into())),
        }
    }

    /// The disk here is full: somebody else shall lead, if the disk there is not.
    pub(crate) async fn hand_over_for_room(&self) -> Result<(), ChangeError> {
        let metrics = self.leading()?;
        let matched = metrics.replication.unwrap_or_default();
        let reach = |id: &MemberId| matched.get(id).cloned().flatten().map(|log_id| log_id.index());
        let answering = self.answering(&self.leading()?);
        let mut others: Vec<MemberId> = answering.into_iter().filter(|id| *id != self.me.member).collect();
        others.sort_by_key(|id| std::cmp::Reverse(reach(id)));
        for id in others {
            let body = Ask::Room.encode(self.id);
            let answer = self.transport.call(id, SERVICE, body, ROOM_PATIENCE).await;
            if answer.is_ok_and(|answer| answer.first() == Some(&0)) {
                tracing::warn!(
                    group = self.id,
                    to = id,
                    "this member's disk is full: leadership goes to one with room"
                );
                return self.hand_over(Some(id)).await.map(drop);
            }
        }
        Err(ChangeError::Refused("no other voter has room".into()))
    }

    async fn wait_for(&self, deadline: Instant, is: impl Fn(&Metrics) -> bool) -> Option<Metrics> {
        use openraft::async_runtime::WatchReceiver;
        let mut watch = self.raft.metrics();
        loop {
            let metrics = watch.borrow_watched().clone();
            if is(&metrics) {
                return Some(metrics);
            }
            let left = deadline - Instant::now();
            if left.is_zero() || metrics.running_state.is_err() {
                return None;
            }
            let _ = tokio::time::timeout(left, watch.changed()).await;
        }
    }

    /// Corrects a member's addresses, as the member itself has told them. Leader only; the caller holds `changing`.
    pub(crate) async fn set_addresses(&self, id: MemberId, own: &Member) -> Result<(), ChangeError> {
        let metrics = self.leading()?;
        let known = metrics.membership_config.get_node(&id).ok_or(ChangeError::NoSuchMember(id))?;
        let member =
            Member { peer: own.peer.clone(), client: own.client.clone(), admin: own.admin.clone(), ..known.clone() };
        tracing::info!(group = self.id, member = id, peer = %member.peer, "a member has new addresses");
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, member)])), true).await
    }

    /// Whether this member leads and knows these addresses of a member.
    fn has_addresses(&self, id: MemberId, own: &Member) -> bool {
        let knows = |metrics: Metrics| metrics.membership_config.get_node(&id).is_some_and(|known| known.is_where(own));
        self.leading().is_ok_and(knows)
    }

    pub(crate) async fn tell_addresses(&self, leader: MemberId) -> Result<(), ChangeError> {
        self.ask(leader, Ask::Addresses(self.own.clone())).await
    }

    /// Asks the leader for a change.
    async fn ask(&self, leader: MemberId, ask: Ask) -> Result<(), ChangeError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let body = ask.encode(self.id);
            let answer = self.transport.call(leader, SERVICE, body, PATIENCE).await;
            let again = match answer {
                Ok(answer) => match answer.first() {
                    Some(0) => return Ok(()),
                    // It has been elected and hasn't got far enough to begin: soon.
                    Some(2) => ChangeError::Busy,
                    _ => {
                        let words = String::from_utf8_lossy(answer.get(1..).unwrap_or_default()).into_owned();
                        return Err(ChangeError::Refused(words));
                    }
                },
                Err(CallError::NotSent(words)) => ChangeError::Refused(words),
                Err(CallError::Unknown(words)) => return Err(ChangeError::Unknown(words)),
            };
            if Instant::now() >= deadline {
                return Err(again);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Keeps proposals in the queue as long as it lives.
struct CloseGate<'a>(&'a Inner);

impl<'a> CloseGate<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.proposer.gate().close();
        Self(inner)
    }
}

impl Drop for CloseGate<'_> {
    fn drop(&mut self) {
        self.0.proposer.gate().open();
    }
}

/// What members ask the leader for.
pub(crate) enum Ask {
    Remove(MemberId),
    Addresses(Member),
    /// The digest of what a member holds at a position.
    Digest(u64),
    /// What a majority of the voters holds there.
    Verdict(u64, Digest),
    /// Asked of any voter: does its disk have room to lead?
    Room,
}

impl Ask {
    pub(crate) fn encode(&self, group: u64) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u64(group);
        match self {
            Ask::Remove(id) => {
                out.put_u8(1);
                out.put_u64(*id);
            }
            Ask::Addresses(member) => {
                out.put_u8(2);
                put_member(&mut out, member);
            }
            Ask::Digest(index) => {
                out.put_u8(3);
                out.put_u64(*index);
            }
            Ask::Verdict(index, digest) => {
                out.put_u8(4);
                out.put_u64(*index);
                out.put_slice(digest);
            }
            Ask::Room => out.put_u8(5),
        }
        out.freeze()
    }

    fn decode(body: Bytes) -> Option<(u64, Ask)> {
        let mut reader = Reader(body);
        let group = reader.u64().ok()?;
        let ask = match reader.u8().ok()? {
            1 => Ask::Remove(reader.u64().ok()?),
            2 => Ask::Addresses(reader.member().ok()?),
            3 => Ask::Digest(reader.u64().ok()?),
            4 => Ask::Verdict(reader.u64().ok()?, reader.rest()[..].try_into().ok()?),
            5 => Ask::Room,
            _ => return None,
        };
        Some((group, ask))
    }
}

/// Answers such calls: 0 done, 1 and words: refused, 2: not yet.
pub(crate) struct Desk {
    pub(crate) node: std::sync::Weak<crate::node::Inner>,
}

impl Service for Desk {
    fn call(&self, from: MemberId, body: Bytes) -> BoxFuture<Pieces> {
        let node = self.node.clone();
        Box::pin(async move { vec![Self::answer(node, from, body).await] })
    }
}

impl Desk {
    async fn answer(node: std::sync::Weak<crate::node::Inner>, from: MemberId, body: Bytes) -> Bytes {
        let Some((group, ask)) = Ask::decode(body) else { return answer(1, "malformed") };
        let Some(group) = node.upgrade().and_then(|n| n.group(group)) else { return answer(1, "no such group") };
        let inner = &group.inner;
        let outcome = match ask {
            Ask::Remove(id) => inner.remove(id).await,
            Ask::Room if inner.log.has_room() => Ok(()),
            Ask::Room => Err(ChangeError::Refused("its disk has no room".into())),
            // Each member tells its addresses once after a start. They are seldom new.
            Ask::Addresses(member) if inner.has_addresses(from, &member) => Ok(()),
            Ask::Addresses(member) => match inner.changing.try_lock() {
                Ok(_one) => inner.set_addresses(from, &member).await,
                Err(_) => Err(ChangeError::Busy),
            },
            Ask::Digest(index) => return digest_answer(&inner.machine.digest_at(index)),
            Ask::Verdict(index, right) => {
                inner.verdict(index, right).await;
                Ok(())
            }
        };
        match outcome {
            Ok(()) => answer(0, ""),
            Err(ChangeError::Busy | ChangeError::NotLeader { leader: None }) => answer(2, ""),
            Err(error) => answer(1, &error.to_string()),
        }
    }
}

fn answer(code: u8, words: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + words.len());
    out.put_u8(code);
    out.put_slice(words.as_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn a_removal_that_would_cost_the_majority_is_refused() {
        let three = set(&[1, 2, 3]);
        assert!(majority_stays(&three, &set(&[1, 2, 3]), 3).is_ok());
        assert!(majority_stays(&three, &set(&[1, 2]), 3).is_ok(), "a dead member can be removed");
        assert!(majority_stays(&three, &set(&[1, 2]), 2).is_err(), "what remains would be one of two");
        assert!(majority_stays(&three, &set(&[1]), 3).is_err());
        assert!(majority_stays(&set(&[1]), &set(&[1]), 1).is_err());
        assert!(majority_stays(&set(&[1, 2]), &set(&[1, 2]), 2).is_ok());
        assert!(majority_stays(&set(&[1, 2]), &set(&[1]), 2).is_err());
        assert!(majority_stays(&set(&[1, 2, 3, 4]), &set(&[1, 2, 3]), 4).is_ok());
    }
}
