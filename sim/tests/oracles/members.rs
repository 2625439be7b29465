//! Configurations: read from the bytes of real entries, and the steps between them.

use std::collections::BTreeSet;

use crate::formats;
use crate::invariants::membership::{Members, configuration};
use crate::story::Story;

/// An entry's bytes, as raft/src/entry.rs and wire.rs write them.
fn entry(voters: &[&[u64]], members: &[u64]) -> Vec<u8> {
    let mut bytes = vec![1, 3];
    bytes.resize(26, 0);
    bytes.extend((voters.len() as u32).to_be_bytes());
    for set in voters {
        bytes.extend((set.len() as u32).to_be_bytes());
        set.iter().for_each(|id| bytes.extend(id.to_be_bytes()));
    }
    bytes.extend((members.len() as u32).to_be_bytes());
    for id in members {
        bytes.extend(id.to_be_bytes());
        for _ in 0..3 {
            bytes.extend([0, 0, 0, 1, b'h']);
        }
        bytes.extend([1; 17]);
    }
    bytes
}

fn judged(log: &[(u64, u64, Vec<u8>)], elected: &[(u64, u64)]) -> Result<(), String> {
    let mut members = Members::default();
    for (index, (term, leader, bytes)) in log.iter().enumerate() {
        members.committed(index as u64, (*term, *leader), bytes);
    }
    members.judge(&elected.iter().copied().collect::<BTreeSet<_>>())
}

#[test]
fn a_configuration_is_read_from_the_golden_bytes_of_an_entry() {
    let files = formats::parse(include_str!("../../../tests/formats/raft-v1.hex"));
    let of = |name: &str| &files.iter().find(|(file, _)| file == name).expect("it is in the file").1;
    let found = configuration(of("entry-membership")).expect("it holds a configuration");
    assert_eq!(found.voters, [BTreeSet::from([1])]);
    assert_eq!(found.members, BTreeSet::from([1, 2]));
    assert_eq!(configuration(of("entry-app")), None);
    assert_eq!(configuration(of("entry-blank")), None);
}

#[test]
fn one_step_at_a_time_is_fine() {
    let log = [
        (1, 1, entry(&[&[1]], &[1])),
        (1, 1, entry(&[&[1]], &[1, 2])),
        (1, 1, entry(&[&[1], &[1, 2]], &[1, 2])),
        (1, 1, entry(&[&[1, 2]], &[1, 2])),
        (2, 2, entry(&[&[1, 2], &[2]], &[1, 2])),
        (2, 2, entry(&[&[2]], &[2])),
        (3, 2, vec![1, 0]),
    ];
    assert_eq!(judged(&log, &[(1, 1), (2, 2), (3, 2)]), Ok(()));
}

#[test]
fn a_joint_configuration_may_lead_into_the_next_one_over_the_set_that_both_share() {
    let log = |next: &[&[u64]]| [(1, 1, entry(&[&[1, 2], &[1, 2, 3]], &[1, 2, 3])), (2, 2, entry(next, &[1, 2, 3]))];
    assert_eq!(judged(&log(&[&[1, 2, 3], &[2, 3]]), &[]), Ok(()));
    assert!(judged(&log(&[&[1, 2], &[2]]), &[]).is_err(), "it goes on from the set that was left");
}

#[test]
fn larger_steps_are_found() {
    let skipped = [(1, 1, entry(&[&[1]], &[1, 2])), (1, 1, entry(&[&[1, 2]], &[1, 2]))];
    assert!(judged(&skipped, &[]).unwrap_err().contains("more than one step"));
    let two = [(1, 1, entry(&[&[1]], &[1, 2, 3])), (1, 1, entry(&[&[1], &[1, 2, 3]], &[1, 2, 3]))];
    assert!(judged(&two, &[]).unwrap_err().contains("more than one voter"));
    let elsewhere = [(1, 1, entry(&[&[1], &[1, 2]], &[1, 2, 3])), (1, 1, entry(&[&[1, 3]], &[1, 2, 3]))];
    assert!(judged(&elsewhere, &[]).is_err());
}

#[test]
fn whoever_was_removed_neither_leads_nor_writes() {
    let removal =
        [(3, 2, entry(&[&[1, 2]], &[1, 2])), (3, 2, entry(&[&[1, 2], &[2]], &[1, 2])), (3, 2, entry(&[&[2]], &[2]))];
    assert_eq!(judged(&removal, &[(2, 1)]), Ok(()), "it led before");
    assert!(judged(&removal, &[(4, 1)]).unwrap_err().contains("was elected"));
    let written = [&removal[..], &[(4, 1, vec![1, 0])]].concat();
    assert!(judged(&written, &[]).unwrap_err().contains("was removed"));
}

#[test]
fn two_changes_at_once_are_found() {
    let broken = |committed| {
        let story = Story::begin();
        Members::default().under_way(1, &[(7, (2, 1)), (9, (2, 1)), (10, (1, 3))], committed, (2, 1), &story);
        !story.take().violations.is_empty()
    };
    assert!(broken(6));
    assert!(!broken(7), "the first one is complete");
}
