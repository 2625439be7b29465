//! `--rebuild`: a member whose log or checkpoint is damaged begins again as a new one, out of what the others have.
//!
//! It can't come back as who it was. What a damaged log held was promised to the others: votes, and entries that they
//! count on. A member that has forgotten some of it could make the group lose what it acknowledged. So the old member is
//! removed from the group first; only then is what it had set aside, and the directory joins as if it had been empty.
//!
//! Broken off anywhere, the next start with `--rebuild` goes on. What it must never do: touch a directory that is sound,
//! or one whose member the group can't spare.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use quorate_raft::{Member, NodeError};
use quorate_storage::codec::CodecError;
use quorate_storage::disk::OsDisk;
use quorate_storage::identity::{DataDir, IdentityError};

use super::identity::{self, LOG_DIR};
use super::offline::sync_dir;
use crate::admin::join::JoinError;
use crate::admin::leave;
use crate::config::Settings;

/// What is moved, in this order. While the identity is in its place, what is missing beside it is damage; without the
/// identity, a log that was left would be taken for that of the new member.
const PARTS: [&str; 5] = [LOG_DIR, "checkpoint", "group-1.begun", "group-1.damaged", "IDENTITY"];

/// What people are told whose member stops because its directory is damaged.
const ADVICE: &str = "To rebuild this member from the others, start it once with --rebuild --join http://HOST:ADMIN-PORT \
                      of one that is sound: it comes back as a new member under a new id, and what it has now is set aside";

/// Whether a start failed because what is on the disk is damaged or lost. A disk that is full, or a directory that is in
/// use, is neither.
pub(super) fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let node = matches!(cause.downcast_ref(), Some(NodeError::Damaged(_)));
        let identity = matches!(
            cause.downcast_ref(),
            Some(IdentityError::Unreadable { source, .. }) if !matches!(source, CodecError::Version { .. })
        );
        node || identity
    })
}

/// Whether the group knows a member at these addresses, that this directory knows nothing of.
pub(super) fn is_forgotten(error: &anyhow::Error) -> bool {
    error.chain().any(
        |cause| matches!(cause.downcast_ref(), Some(JoinError::Refused { error, .. }) if error.code == "address_in_use"),
    )
}

/// The error with what can be done about it.
pub(super) fn advise(error: anyhow::Error) -> anyhow::Error {
    if is_damage(&error) { anyhow::anyhow!("{error:#}. {ADVICE}") } else { error }
}

/// What is told when a member stops itself. Its next start finds out whether its disk is to blame.
pub(super) fn advise_stopped(reason: &str) -> anyhow::Error {
    let words = format!("this member has stopped itself: {reason}");
    let disk = ["corrupt", "damaged", "does not read back"].iter().any(|word| reason.contains(word));
    if disk { anyhow::anyhow!("{words}. {ADVICE}") } else { anyhow::anyhow!(words) }
}

/// Has the group let the old member go, and sets aside what it had.
pub(super) async fn rebuild(settings: &Settings, urls: &[String], me: &Member, why: &str) -> anyhow::Result<()> {
    let path = settings.dir();
    let dir = DataDir::open(Arc::new(OsDisk), &path)?;
    let old = identity::read(&dir).ok().flatten().map(|found| found.member);
    tracing::warn!(member = old, reason = why, "this member is damaged and is rebuilt from the others");
    let token = settings.admin_token();
    leave::make_way(urls, token.as_deref(), old, &me.peer)
        .await
        .context("this member can't be rebuilt; nothing was changed in its directory")?;
    if let Some(aside) = set_aside(&path, why)? {
        tracing::warn!(aside = %aside.display(), "what this member had is set aside: delete it when nobody needs it");
    }
    drop(dir);
    Ok(())
}

fn set_aside(dir: &Path, why: &str) -> anyhow::Result<Option<PathBuf>> {
    let parts: Vec<&str> = PARTS.into_iter().filter(|part| dir.join(part).exists()).collect();
    if parts.is_empty() {
        return Ok(None);
    }
    let mut names = (1..).map(|n| dir.join(format!("damaged-{n}")));
    let free = |aside: &PathBuf| parts.iter().all(|part| !aside.join(part).exists());
    let aside = names.find(free).context("no name is left")?;
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    fs::write(aside.join("WHY"), format!("{why}\n")).with_context(|| format!("cannot write in {}", aside.display()))?;
    for part in parts {
        fs::rename(dir.join(part), aside.join(part)).with_context(|| format!("cannot set {part} aside"))?;
        // Each durable before the next: see PARTS.
        sync_dir(&aside)?;
        sync_dir(dir)?;
    }
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_is_kept_and_a_second_time_gets_a_place_of_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        assert_eq!(set_aside(dir, "nothing there").unwrap(), None);
        for round in 1..=2 {
            fs::create_dir(dir.join("wal")).unwrap();
            fs::write(dir.join("wal/segment"), format!("log {round}")).unwrap();
            fs::write(dir.join("IDENTITY"), "who").unwrap();
            fs::write(dir.join("mine"), "not ours").unwrap();
            let aside = set_aside(dir, "torn to pieces").unwrap().unwrap();
            assert_eq!(aside, dir.join(format!("damaged-{round}")));
            assert_eq!(fs::read_to_string(aside.join("wal/segment")).unwrap(), format!("log {round}"));
            assert_eq!(fs::read_to_string(aside.join("WHY")).unwrap(), "torn to pieces\n");
            assert!(aside.join("IDENTITY").exists() && dir.join("mine").exists() && !dir.join("wal").exists());
        }
    }

    #[test]
    fn damage_is_told_from_other_trouble() {
        let damaged = anyhow::Error::new(NodeError::Damaged("the log is corrupt".into())).context("while it starts");
        assert!(is_damage(&damaged));
        assert!(advise(damaged).to_string().contains("--rebuild"));
        let full = anyhow::Error::new(NodeError::Storage("no space left on device".into()));
        assert!(!is_damage(&full) && !advise(full).to_string().contains("--rebuild"));
        let unreadable = |source| anyhow::Error::new(IdentityError::Unreadable { path: "IDENTITY".into(), source });
        assert!(is_damage(&unreadable(CodecError::Checksum)));
        assert!(!is_damage(&unreadable(CodecError::Version { found: 9, expected: 1 })), "a newer program wrote it");
    }
}
