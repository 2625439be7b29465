//! This room's bytes against the golden files of each format version (`docs/formats.md` describes them): log entries and
//! marks, the checkpoint's manifest, and a snapshot between members.

#[path = "../../tests/formats/mod.rs"]
mod golden;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use golden::Files;
use openraft::entry::RaftEntry;
use uuid::Uuid;

use crate::entry::{decode_entry, decode_log_id, encode_entry};
use crate::state_machine::{manifest, read_manifest};
use crate::system::{SystemCommand, SystemState};
use crate::transport::frame::{self, Kind};
use crate::transport::snapshot;
use crate::types::{Data, Entry, LeaderId, LogId, Member, Membership, Payload, StoredMembership, Vote};
use crate::wire::{Reader, put_log_id, put_maybe_log_id, put_vote};

const RAFT_V1: &str = include_str!("../../tests/formats/raft-v1.hex");
const SNAPSHOT_V2: &str = include_str!("../../tests/formats/snapshot-v2.hex");

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 3, node_id: 2 }, index)
}

fn membership() -> Membership {
    let member = |n: u64| Member {
        peer: format!("peer{n}:1"),
        client: format!("client{n}:2"),
        admin: format!("admin{n}:3"),
        wants_vote: n == 1,
        incarnation: Uuid::from_u128(0x1111 * u128::from(n)),
    };
    Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, member(1)), (2, member(2))])).unwrap()
}

fn stored() -> StoredMembership {
    StoredMembership::new(Some(log_id(4)), membership())
}

fn system() -> SystemState {
    SystemState { cluster: Uuid::from_u128(0xabcd), next_member: 5, removed: BTreeSet::from([3, 4]) }
}

fn entries() -> Vec<(&'static str, Entry)> {
    let found = SystemCommand::Found { cluster: Uuid::from_u128(0xabcd), first: 1 };
    let system = |command: SystemCommand| Payload::Normal(Data::System(command.encode()));
    vec![
        ("entry-blank", Entry::new(log_id(1), Payload::Blank)),
        ("entry-app", Entry::new(log_id(2), Payload::Normal(Data::App(Bytes::from_static(b"bytes of the keyspace"))))),
        ("entry-found", Entry::new(log_id(3), system(found))),
        ("entry-membership", Entry::new(log_id(4), Payload::Membership(membership()))),
        ("entry-allocate", Entry::new(log_id(5), system(SystemCommand::AllocateMember))),
        ("entry-removed", Entry::new(log_id(6), system(SystemCommand::Removed(4)))),
    ]
}

fn meta() -> openraft::type_config::alias::SnapshotMetaOf<crate::types::TypeConfig> {
    openraft::storage::SnapshotMeta { last_log_id: Some(log_id(6)), last_membership: stored() }
}

fn put(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

fn raft_files() -> Files {
    let entries = entries().into_iter().map(|(name, entry)| (name.to_owned(), encode_entry(&entry).to_vec()));
    let rest = [
        ("vote", put(|out| put_vote(out, &Vote::new(7, 2)))),
        ("vote-committed", put(|out| put_vote(out, &Vote::new_committed(7, 2)))),
        ("committed", put(|out| put_maybe_log_id(out, Some(&log_id(6))))),
        ("purged", put(|out| put_log_id(out, &log_id(2)))),
        ("manifest", manifest(&meta(), &system(), b"header of a view").to_vec()),
    ];
    entries.chain(rest.map(|(name, bytes)| (name.to_owned(), bytes))).collect()
}

#[test]
fn what_is_on_disk_of_version_one_is_read_and_written_as_ever() {
    golden::check("the raft room on disk", RAFT_V1, &raft_files());
    let files: BTreeMap<String, Bytes> =
        golden::parse(RAFT_V1).into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    for (name, entry) in entries() {
        assert_eq!(decode_entry(files[name].clone()).unwrap(), entry, "{name}");
        assert_eq!(decode_log_id(&files[name]).unwrap(), entry.log_id, "{name}");
    }
    assert_eq!(Reader(files["vote"].clone()).vote().unwrap(), Vote::new(7, 2));
    assert_eq!(Reader(files["vote-committed"].clone()).vote().unwrap(), Vote::new_committed(7, 2));
    assert_eq!(Reader(files["committed"].clone()).maybe_log_id().unwrap(), Some(log_id(6)));
    assert_eq!(Reader(files["purged"].clone()).log_id().unwrap(), log_id(2));
    let (found_meta, found_system, header) = read_manifest(files["manifest"].clone()).unwrap();
    assert_eq!((found_meta, found_system, &header[..]), (meta(), system(), &b"header of a view"[..]));
}

fn snapshot_files() -> Files {
    let frame = |kind, body: &dyn Fn(&mut BytesMut)| frame::encode(kind, 1, 42, |out| body(out)).to_vec();
    let begin = |out: &mut BytesMut| {
        let meta = meta();
        let vote = Vote::new_committed(7, 2);
        snapshot::put_begin(out, &vote, meta.last_log_id.as_ref(), &meta.last_membership, &system(), b"header");
    };
    [
        ("begin", frame(Kind::SnapshotBegin, &begin)),
        ("piece", frame(Kind::SnapshotPiece, &|out| snapshot::put_piece(out, 77 << 64, false, b"first part"))),
        ("last-piece", frame(Kind::SnapshotPiece, &|out| snapshot::put_piece(out, 77 << 64, true, b"second part"))),
        ("end", frame(Kind::SnapshotEnd, &|out| snapshot::put_end(out, 1, 21))),
        ("cancel", frame(Kind::SnapshotCancel, &|_| {})),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

#[test]
fn a_snapshot_between_members_is_read_and_written_as_ever() {
    golden::check("a snapshot between members", SNAPSHOT_V2, &snapshot_files());
    // A frame's head has 21 bytes; what comes behind it is read here.
    let body = |at: usize| Bytes::from(golden::parse(SNAPSHOT_V2)[at].1.clone()).slice(21..);
    let begin = snapshot::Begin::read(body(0)).unwrap();
    assert_eq!(
        (begin.vote, begin.last_log_id, begin.membership),
        (Vote::new_committed(7, 2), Some(log_id(6)), stored())
    );
    assert_eq!((begin.system, &begin.header[..]), (system(), &b"header"[..]));
    assert_eq!(snapshot::read_piece(body(1)).unwrap(), (77 << 64, false, Bytes::from_static(b"first part")));
    assert_eq!(snapshot::read_piece(body(2)).unwrap(), (77 << 64, true, Bytes::from_static(b"second part")));
}

/// Another version's bytes are told from damage, and never read as if they were of this one.
#[test]
fn what_another_version_wrote_is_refused() {
    let of_version = |bytes: Bytes, version: u8| Bytes::from([&[version], &bytes[1..]].concat());
    let meta = crate::state_machine::Meta { last_log_id: Some(log_id(9)), last_membership: stored() };
    for version in [0, 2] {
        let (_, entry) = entries().remove(1);
        let entry = of_version(encode_entry(&entry), version);
        let errors = [
            decode_entry(entry.clone()).map(drop).unwrap_err(),
            decode_log_id(&entry).map(drop).unwrap_err(),
            SystemCommand::decode(of_version(SystemCommand::AllocateMember.encode(), version)).map(drop).unwrap_err(),
            read_manifest(of_version(manifest(&meta, &system(), b"header"), version)).map(drop).unwrap_err(),
        ];
        for error in errors {
            let error = error.to_string();
            assert!(error.contains(&format!("version {version},")) && error.contains("reads 1 only"), "{error}");
            assert!(error.contains("run the version of quorate that wrote it"), "{error}");
        }
    }
}
