//! Who this member is: found in the data directory, made at bootstrap, or given by the group that takes it in.
//!
//! The identity is on disk before the member promises anything under it. What it must never do: begin a group anew, or
//! go on under an id whose log is gone.

use anyhow::{Context, bail};
use quorate_raft::{Identity, Member, NodeError, Start as GroupStart};
use quorate_storage::identity::{DataDir, Identity as Stored};
use uuid::Uuid;

use super::Start;
use crate::admin::api::{AddMember, WantedRole};
use crate::admin::join;
use crate::config::Settings;
use crate::env::Env;

/// A bootstrap that may not have reached the log yet.
const BEGINNING: u64 = 1;
/// The log of this member exists: if it does not, the disk has lost it.
const SETTLED: u64 = 2;
/// Where the raft room keeps its log.
pub(super) const LOG_DIR: &str = "wal";
/// A group of one that waits to take the place of what is in the directory.
pub(super) const NEW_GROUP: &str = "new-group";
const INCARNATION: &str = "incarnation";

/// What is known of this member before its group is opened.
pub(super) struct Found {
    pub(super) cluster: Uuid,
    pub(super) member: u64,
    incarnation: Uuid,
    flags: u64,
}

/// The identity of the only member of a new group whose log exists already.
pub(super) fn of_new_group(member: u64) -> Found {
    Found { cluster: Uuid::new_v4(), member, incarnation: Uuid::new_v4(), flags: SETTLED }
}

/// Who a directory belongs to.
pub(super) fn read(dir: &DataDir) -> anyhow::Result<Option<Found>> {
    dir.identity()?.map(|stored| Found::from_stored(&stored)).transpose()
}

impl Found {
    pub(super) fn identity(&self) -> Identity {
        Identity { cluster: self.cluster, member: self.member, incarnation: self.incarnation }
    }

    /// This member was here before: it has data to load.
    pub(super) fn comes_back(&self) -> bool {
        self.flags & SETTLED != 0
    }

    /// This member is the first of a new group.
    pub(super) fn begins_group(&self) -> bool {
        self.flags & BEGINNING != 0
    }

    pub(super) fn start(&self, me: Member) -> GroupStart {
        let me = Member { incarnation: self.incarnation, wants_vote: true, ..me };
        if self.begins_group() { GroupStart::Bootstrap(me) } else { GroupStart::Open(me) }
    }

    pub(super) fn stored(&self) -> Stored {
        Stored {
            group_uuid: *self.cluster.as_bytes(),
            member_id: self.member,
            flags: self.flags,
            notes: vec![(INCARNATION.into(), self.incarnation.as_bytes().to_vec())],
        }
    }

    fn from_stored(stored: &Stored) -> anyhow::Result<Self> {
        let incarnation = stored
            .notes
            .iter()
            .find(|(name, _)| name == INCARNATION)
            .and_then(|(_, bytes)| Uuid::from_slice(bytes).ok())
            .context("the identity file holds no incarnation: it was not written by this program")?;
        Ok(Found {
            cluster: Uuid::from_bytes(stored.group_uuid),
            member: stored.member_id,
            incarnation,
            flags: stored.flags,
        })
    }
}

fn new_uuid(env: &dyn Env) -> Uuid {
    uuid::Builder::from_random_bytes((u128::from(env.random()) << 64 | u128::from(env.random())).to_be_bytes())
        .into_uuid()
}

/// The member of this directory; a new one if there is none and `start` says how to get one.
pub(super) async fn find_or_make(
    dir: &DataDir,
    settings: &Settings,
    start: Start,
    me: &Member,
    env: &dyn Env,
) -> anyhow::Result<Found> {
    if dir.path().join(NEW_GROUP).exists() {
        bail!(
            "a recovery of {0} was broken off before its end: finish it with quorate recover --dir {0}",
            dir.path().display()
        );
    }
    if let Some(stored) = dir.identity()? {
        let found = Found::from_stored(&stored)?;
        check_log(dir, &found)?;
        if start != Start::Resume {
            tracing::info!(member = found.member, group = %found.cluster, "the directory holds a member already: going on as it");
        }
        return Ok(found);
    }
    let found = match start {
        Start::Bootstrap => Found { cluster: new_uuid(env), member: 1, incarnation: new_uuid(env), flags: BEGINNING },
        Start::Join(urls) | Start::Rebuild(urls) => {
            let wish = AddMember {
                peer: me.peer.clone(),
                client: me.client.clone(),
                admin: me.admin.clone(),
                role: if settings.joins_as_learner() { WantedRole::Learner } else { WantedRole::Voter },
            };
            let token = settings.admin_token();
            let added = join::join(&urls, token.as_deref(), &wish, None).await?;
            Found {
                cluster: added.group.parse().context("the group's UUID in its answer makes no sense")?,
                member: added.id,
                incarnation: added.incarnation.parse().context("the incarnation in the answer makes no sense")?,
                flags: 0,
            }
        }
        Start::Resume => bail!(
            "{} holds no member yet: begin a new group with --bootstrap, or ask a running one to take this member in \
             with --join http://HOST:ADMIN-PORT",
            dir.path().display()
        ),
    };
    dir.save(&found.stored())?;
    Ok(found)
}

/// Remembers that the log exists now.
pub(super) fn settle(dir: &DataDir, found: &Found) -> anyhow::Result<()> {
    if found.flags != SETTLED {
        dir.save(&Stored { flags: SETTLED, ..found.stored() })?;
    }
    Ok(())
}

/// A member whose log is gone has forgotten its votes and what it acknowledged: under its old id it could make the
/// group lose acknowledged writes.
fn check_log(dir: &DataDir, found: &Found) -> anyhow::Result<()> {
    if found.flags & SETTLED == 0 {
        return Ok(());
    }
    let log = dir.path().join(LOG_DIR);
    let there = dir.disk().list(&log).is_ok_and(|names| !names.is_empty());
    if !there {
        return Err(anyhow::Error::new(NodeError::Damaged(format!(
            "the log of member {} is gone from {}: it must not go on under this id. Remove it from the group \
             (quorate member remove {}), empty the directory, and let it join again with --join",
            found.member,
            log.display(),
            found.member
        ))));
    }
    Ok(())
}
