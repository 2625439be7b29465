//! What the admin service needs from the process, and the one that is made of a real Raft group.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_raft::{
    CallError, ChangeError, CheckReport, Group, GroupStatus, Joined, Member, MemberId, Node, ReadError,
};

use crate::backup::Source;
use crate::metrics::text::Page;

/// A boxed future that borrows.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The number of the admin service among the services between peers.
pub const PEER_SERVICE: u8 = 2;

/// How long a backup waits for this member to have applied what it must hold.
const APPLY_PATIENCE: Duration = Duration::from_secs(20);

/// What the process tells about itself, beside its group.
pub trait Local: Send + Sync + 'static {
    /// The group's UUID.
    fn group(&self) -> String;
    /// This member's addresses.
    fn addresses(&self) -> Member;
    /// The wall clock, in milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// When the process started.
    fn started(&self) -> Instant;
    /// Keys in all databases.
    fn keys(&self) -> u64;
    /// Why the disk can no longer be written, if it can't.
    fn disk_failure(&self) -> Option<String>;
    /// Adds what is counted outside the group to the metrics page.
    fn metrics(&self, page: &mut Page);
}

/// A member as the admin service works on it.
pub trait Backend: Send + Sync + 'static {
    /// About the process.
    fn local(&self) -> &dyn Local;
    /// About the group.
    fn status(&self) -> BoxFuture<'_, GroupStatus>;
    /// Whether the data is not loaded yet: then it can't be asked for more than its status.
    fn loading(&self) -> bool {
        false
    }
    /// Takes a member in. Leader only, as are the next three.
    fn add_member(&self, member: Member, voter: bool) -> BoxFuture<'_, Result<Joined, ChangeError>>;
    /// Gives a member a vote.
    fn promote(&self, id: MemberId) -> BoxFuture<'_, Result<(), ChangeError>>;
    /// Takes a member out.
    fn remove(&self, id: MemberId) -> BoxFuture<'_, Result<(), ChangeError>>;
    /// Hands leadership over; answers who leads then.
    fn transfer(&self, to: Option<MemberId>) -> BoxFuture<'_, Result<MemberId, ChangeError>>;
    /// Takes a checkpoint here; answers the index it holds.
    fn checkpoint(&self) -> BoxFuture<'_, Result<u64, ChangeError>>;
    /// Compares what all members hold. Leader only.
    fn check(&self) -> BoxFuture<'_, Result<CheckReport, ChangeError>>;
    /// The bytes of a backup of this member's state, once it has applied `after`.
    fn backup(&self, after: Option<u64>) -> BoxFuture<'_, Result<Source, ChangeError>>;
    /// Confirms with a majority that this member leads.
    fn barrier(&self) -> BoxFuture<'_, Result<(), ReadError>>;
    /// Asks the admin service of another member.
    fn call(&self, to: MemberId, body: Bytes, patience: Duration) -> BoxFuture<'_, Result<Bytes, CallError>>;
}

/// A real member; of one that is still loading little can be told.
pub struct LiveBackend {
    id: MemberId,
    open: OnceLock<(Node, Group)>,
    local: Arc<dyn Local>,
}

impl LiveBackend {
    /// Of that member, which is not open yet.
    pub fn new(id: MemberId, local: Arc<dyn Local>) -> Self {
        Self { id, open: OnceLock::new(), local }
    }

    /// Its data is loaded.
    pub fn open(&self, node: Node, group: Group) {
        // There is one group, and it is opened once.
        let _ = self.open.set((node, group));
    }

    fn group(&self) -> Result<&Group, ChangeError> {
        let loading = || ChangeError::Refused("this member is loading its data: ask again when it is ready".into());
        self.open.get().map(|(_, group)| group).ok_or_else(loading)
    }
}

impl Backend for LiveBackend {
    fn local(&self) -> &dyn Local {
        &*self.local
    }
    fn status(&self) -> BoxFuture<'_, GroupStatus> {
        Box::pin(async {
            match self.group() {
                Ok(group) => group.status().await,
                Err(_) => GroupStatus::loading(self.id),
            }
        })
    }
    fn loading(&self) -> bool {
        self.open.get().is_none()
    }
    fn add_member(&self, member: Member, voter: bool) -> BoxFuture<'_, Result<Joined, ChangeError>> {
        Box::pin(async move { self.group()?.add_member(member, voter).await })
    }
    fn promote(&self, id: MemberId) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move { self.group()?.promote(id).await })
    }
    fn remove(&self, id: MemberId) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move { self.group()?.remove(id).await })
    }
    fn transfer(&self, to: Option<MemberId>) -> BoxFuture<'_, Result<MemberId, ChangeError>> {
        Box::pin(async move { self.group()?.transfer(to).await })
    }
    fn checkpoint(&self) -> BoxFuture<'_, Result<u64, ChangeError>> {
        Box::pin(async move { self.group()?.checkpoint().await })
    }
    fn check(&self) -> BoxFuture<'_, Result<CheckReport, ChangeError>> {
        Box::pin(async move { self.group()?.check().await })
    }
    fn backup(&self, after: Option<u64>) -> BoxFuture<'_, Result<Source, ChangeError>> {
        Box::pin(async move {
            let group = self.group()?;
            let state = group.capture(after, APPLY_PATIENCE).await?;
            Ok(Source::new(*group.cluster().as_bytes(), group.member_id(), self.local.now_ms(), state))
        })
    }
    fn barrier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            match self.group() {
                Ok(group) => group.read_index().await,
                Err(_) => Err(ReadError::NotLeader { leader: None }),
            }
        })
    }
    fn call(&self, to: MemberId, body: Bytes, patience: Duration) -> BoxFuture<'_, Result<Bytes, CallError>> {
        Box::pin(async move {
            match self.open.get() {
                Some((node, _)) => node.call(to, PEER_SERVICE, body, patience).await,
                None => Err(CallError::NotSent("this member is loading its data".into())),
            }
        })
    }
}
