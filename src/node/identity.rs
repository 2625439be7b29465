//! Who this member is: found in the data directory, made at bootstrap, or given by the group that takes it in.
//!
//! The identity is on disk before the member promises anything under it. What it must never do: begin a group anew, or
//! go on under an id whose log is gone.

use std::io;

use anyhow::{Context, bail};
use quorate_raft::{Identity, Member, NodeError, Start as GroupStart};
use quorate_storage::codec::{self, CodecError};
use quorate_storage::disk::{read_file, write_file_atomically};
use quorate_storage::identity::{DataDir, Identity as Stored};
use quorate_storage::wal::Inspection;
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
/// The salt of the log: which files are this member's, whatever folder they are in.
const LOG_SALT: &str = "log";
/// In the folder of the log: whose it is.
const OWNER: &str = "OWNER";
const OWNER_FORMAT: u8 = 1;
const OWNER_BYTES: usize = 4096;
/// What a member leaves in its directory once it has taken part in its group.
const BEGUN: &str = "group-1.begun";

/// What is known of this member before its group is opened.
pub(super) struct Found {
    pub(super) cluster: Uuid,
    pub(super) member: u64,
    incarnation: Uuid,
    flags: u64,
    /// `None` until the log exists; and where an older version made it, until the member has started again.
    log_salt: Option<u64>,
}

/// The identity of the only member of a new group whose log is made before anybody starts it.
pub(super) fn of_new_group(member: u64) -> Found {
    Found { cluster: Uuid::new_v4(), member, incarnation: Uuid::new_v4(), flags: SETTLED, log_salt: None }
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
        let incarnation = (INCARNATION.into(), self.incarnation.as_bytes().to_vec());
        let salt = self.log_salt.map(|salt| (LOG_SALT.into(), salt.to_le_bytes().to_vec()));
        Stored {
            group_uuid: *self.cluster.as_bytes(),
            member_id: self.member,
            flags: self.flags,
            notes: [incarnation].into_iter().chain(salt).collect(),
        }
    }

    /// The same member, with the log that it has now.
    pub(super) fn with_log(self, salt: Option<u64>) -> Self {
        Self { log_salt: salt, ..self }
    }

    /// What stands in [`OWNER`].
    fn owner(&self) -> String {
        format!("member {} of group {}, incarnation {}", self.member, self.cluster, self.incarnation)
    }

    fn from_stored(stored: &Stored) -> anyhow::Result<Self> {
        let note = |wanted| stored.notes.iter().find(|(name, _)| name == wanted).map(|(_, bytes)| bytes.as_slice());
        let incarnation = note(INCARNATION)
            .and_then(|bytes| Uuid::from_slice(bytes).ok())
            .context("the identity file holds no incarnation: it was not written by this program")?;
        let log_salt = note(LOG_SALT).map(|bytes| bytes.try_into().map(u64::from_le_bytes)).transpose();
        Ok(Found {
            log_salt: log_salt.context("the identity file says in a way that is not known which log is its own")?,
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
    check_empty(dir)?;
    let found = match start {
        Start::Bootstrap => {
            Found { cluster: new_uuid(env), member: 1, incarnation: new_uuid(env), flags: BEGINNING, log_salt: None }
        }
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
                log_salt: None,
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

/// Remembers that the log exists now and by what its files are known, and writes beside them whose they are.
pub(super) fn settle(dir: &DataDir, found: &Found, salt: u64) -> anyhow::Result<()> {
    let owner = dir.path().join(LOG_DIR).join(OWNER);
    if dir.disk().open(&owner).is_err() {
        let words = codec::encode(OWNER_FORMAT, &found.owner())?;
        write_file_atomically(&**dir.disk(), &owner, &words)
            .with_context(|| format!("cannot write {}", owner.display()))?;
    }
    let settled = Found { flags: SETTLED, log_salt: Some(salt), ..*found }.stored();
    if settled != found.stored() {
        dir.save(&settled)?;
    }
    Ok(())
}

fn damaged(words: String) -> anyhow::Error {
    anyhow::Error::new(NodeError::Damaged(words))
}

fn has_log(dir: &DataDir) -> bool {
    let names = dir.disk().list(&dir.path().join(LOG_DIR)).unwrap_or_default();
    names.iter().any(|name| name.ends_with(".wal"))
}

/// A directory without an identity in which there is a log was a member's. Under a new name that log would pass for the
/// new member's own.
fn check_empty(dir: &DataDir) -> anyhow::Result<()> {
    if has_log(dir) || dir.disk().open(&dir.path().join(BEGUN)).is_ok() {
        return Err(damaged(format!(
            "{0} holds the log of a member, and the file IDENTITY, which says whose, is missing: put it back, or empty the \
             directory to begin anew",
            dir.path().display(),
        )));
    }
    Ok(())
}

/// A member whose log is gone has forgotten its votes and what it acknowledged, and with the log of another member it
/// has that one's: under its old id it could make the group lose acknowledged writes.
pub(super) fn check_log(dir: &DataDir, found: &Found) -> anyhow::Result<()> {
    let log = dir.path().join(LOG_DIR);
    if found.flags & SETTLED != 0 && !has_log(dir) {
        return Err(damaged(format!(
            "the log of member {0} is gone from {1}: it must not go on under this id. Remove it from the group \
             (quorate member remove {0}), empty the directory, and let it join again with --join",
            found.member,
            log.display(),
        )));
    }
    // What can't be read here is found, and told better, by whoever opens the log.
    let salt = Inspection::salt(&**dir.disk(), &log).ok().flatten();
    if let (Some(mine), Some(salt)) = (found.log_salt, salt)
        && mine != salt
    {
        return Err(damaged(format!(
            "{} belongs to {}, and the files in {} to another log: they come from two directories; put back what belongs \
             together",
            dir.path().display(),
            found.owner(),
            log.display(),
        )));
    }
    let file = log.join(OWNER);
    let bytes = match read_file(&**dir.disk(), &file) {
        // An older version wrote none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes.with_context(|| format!("cannot read {}", file.display()))?,
    };
    match codec::decode::<String>(OWNER_FORMAT, &bytes, OWNER_BYTES) {
        Ok(owner) if owner == found.owner() => Ok(()),
        Ok(owner) => Err(damaged(format!(
            "{} belongs to {}, and the log in it to {owner}: they come from two directories; put back what belongs together",
            dir.path().display(),
            found.owner(),
        ))),
        Err(error @ CodecError::Version { .. }) => {
            Err(error).with_context(|| format!("cannot read {}", file.display()))
        }
        Err(error) => Err(damaged(format!("{}, which says whose log it is, is corrupt: {error}", file.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use quorate_storage::disk::Disk;
    use quorate_storage::memdisk::MemDisk;
    use quorate_storage::wal::{Wal, WalConfig};

    use super::*;

    #[test]
    fn whose_a_log_is_stands_in_it_as_documented() {
        let (cluster, incarnation) = (Uuid::from_u128(0xabcd), Uuid::from_u128(0x1234));
        let found = Found { cluster, member: 3, incarnation, flags: SETTLED, log_salt: None };
        let bytes = codec::encode(OWNER_FORMAT, &found.owner()).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../../tests/formats/owner-v1.hex").split_whitespace().collect::<String>());
        let read: String = codec::decode(OWNER_FORMAT, &bytes, OWNER_BYTES).unwrap();
        assert_eq!(read, found.owner());
    }

    #[test]
    fn the_identity_of_an_older_version_is_read_and_gets_the_mark_of_its_log_at_the_next_start() {
        let disk = Arc::new(MemDisk::new());
        let dir = DataDir::open(disk.clone(), Path::new("/data")).unwrap();
        let make = |salt| {
            let config = WalConfig { segment_bytes: 4096, salt: Some(salt), ..WalConfig::default() };
            let log = Path::new("/data").join(LOG_DIR);
            disk.list(&log).unwrap_or_default().iter().for_each(|name| disk.remove(&log.join(name)).unwrap());
            Wal::open_manual(disk.clone(), &log, config, Box::new(|| {})).map(drop).unwrap();
        };
        make(7);
        let old = Found {
            cluster: Uuid::from_u128(1),
            member: 3,
            incarnation: Uuid::from_u128(2),
            flags: SETTLED,
            log_salt: None,
        };
        dir.save(&old.stored()).unwrap();
        let found = read(&dir).unwrap().unwrap();
        assert_eq!(found.log_salt, None);
        check_log(&dir, &found).unwrap();
        settle(&dir, &found, 7).unwrap();
        let found = read(&dir).unwrap().unwrap();
        assert_eq!(found.log_salt, Some(7));
        check_log(&dir, &found).unwrap();
        // Another log, with nothing beside it that says whose it is.
        make(8);
        let error = check_log(&dir, &found).unwrap_err();
        assert!(super::super::rebuild::is_damage(&error) && error.to_string().contains("to another log"), "{error}");
    }
}
