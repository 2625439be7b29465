//! The log against a disk that loses power at any operation: whatever happens, it comes back as it was after some
//! operation that is not older than the last acknowledged one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Inspection, SyncPolicy, Wal, WalConfig, WalDriver, WalError};
use crate::memdisk::MemDisk;

const DIR: &str = "/wal";
const GROUPS: u64 = 3;

fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 8 << 10,
        cache_bytes: 3000,
        batch_bytes: 4 << 10,
        spare_segments: 1,
        salt: Some(7),
        ..WalConfig::default()
    }
}

fn open(disk: &MemDisk) -> Result<(Wal, WalDriver), WalError> {
    open_with(disk, SyncPolicy::Always)
}

fn open_with(disk: &MemDisk, sync: SyncPolicy) -> Result<(Wal, WalDriver), WalError> {
    let config = WalConfig { sync, ..config() };
    let (wal, driver, _) = Wal::open_manual(Arc::new(disk.clone()), Path::new(DIR), config, Box::new(|| {}))?;
    Ok((wal, driver))
}

fn policy() -> impl Strategy<Value = SyncPolicy> {
    prop_oneof![3 => Just(SyncPolicy::Always), 1 => Just(SyncPolicy::EverySecond), 1 => Just(SyncPolicy::Never)]
}

/// An entry without its bytes, so that a failure can be read.
type Entry = (u64, usize);

fn entry(value: &Bytes) -> Entry {
    let (number, fill) = value.split_at(8);
    let number = u64::from_le_bytes(number.try_into().unwrap());
    assert!(fill.iter().all(|byte| *byte == number as u8), "an entry came back changed");
    (number, fill.len())
}

/// What the log must say of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    entries: BTreeMap<u64, Entry>,
}

impl Group {
    fn next(&self) -> u64 {
        let last = self.entries.keys().next_back().copied();
        last.or(self.purged.as_ref().map(|(upto, _)| *upto)).map_or(0, |last| last + 1)
    }
}

type Model = BTreeMap<u64, Group>;

fn observe(wal: &Wal) -> std::io::Result<Model> {
    (0..GROUPS)
        .map(|id| {
            let log = wal.group(id);
            let entries: BTreeMap<u64, Entry> =
                log.read(..)?.iter().map(|(index, value)| (*index, entry(value))).collect();
            assert_eq!(entries.keys().next().copied(), log.first_index());
            assert_eq!(entries.keys().next_back().copied(), log.last_index());
            let group = Group { vote: log.vote(), committed: log.committed(), purged: log.purged(), entries };
            Ok((id, group))
        })
        .collect()
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        group: u64,
        sizes: Vec<usize>,
    },
    Vote {
        group: u64,
    },
    Committed {
        group: u64,
    },
    Truncate {
        group: u64,
        back: u64,
    },
    Purge {
        group: u64,
        share: u64,
    },
    Write,
    Idle,
    /// The disk takes no byte more than it holds, or has room again.
    Full(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    let size = prop_oneof![8 => 0usize..200, 3 => 0usize..3000, 1 => 3000usize..20_000];
    prop_oneof![
        6 => (group.clone(), prop::collection::vec(size, 1..6))
            .prop_map(|(group, sizes)| Step::Append { group, sizes }),
        1 => group.clone().prop_map(|group| Step::Vote { group }),
        2 => group.clone().prop_map(|group| Step::Committed { group }),
        1 => (group.clone(), 0u64..6).prop_map(|(group, back)| Step::Truncate { group, back }),
        2 => (group, 0u64..11).prop_map(|(group, share)| Step::Purge { group, share }),
        6 => Just(Step::Write),
        1 => Just(Step::Idle),
        1 => prop::bool::weighted(0.4).prop_map(Step::Full),
    ]
}

/// How a round ends.
#[derive(Debug, Clone)]
enum End {
    PowerCut {
        after: u64,
        seed: u64,
    },
    /// Without a power cut the next process still reads what the disk never got.
    FailedSync {
        after: u64,
        seed: u64,
        power_cut: bool,
    },
    FailedWrite {
        after: u64,
        seed: u64,
        power_cut: bool,
    },
    Killed {
        after: u64,
    },
    Closed,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => (0u64..120, any::<u64>()).prop_map(|(after, seed)| End::PowerCut { after, seed }),
        1 => (0u64..30, any::<u64>(), any::<bool>())
            .prop_map(|(after, seed, power_cut)| End::FailedSync { after, seed, power_cut }),
        1 => (0u64..30, any::<u64>(), any::<bool>())
            .prop_map(|(after, seed, power_cut)| End::FailedWrite { after, seed, power_cut }),
        1 => (0u64..120).prop_map(|after| End::Killed { after }),
        1 => Just(End::Closed),
    ]
}

/// A run of the log beside a model of what it must hold.
struct Run {
    disk: MemDisk,
    wal: Wal,
    driver: WalDriver,
    /// `history[i]` is the state after `i` operations of this round.
    history: Vec<Model>,
    policy: SyncPolicy,
    /// How many of them were acknowledged: so many survive a kill of the process.
    acknowledged: Arc<AtomicUsize>,
    /// How many of them were promised to survive a loss of power.
    durable: Arc<AtomicUsize>,
    /// Makes every value different from all others ever written.
    counter: u64,
}

impl Run {
    fn value(&mut self, bytes: usize) -> Bytes {
        self.counter += 1;
        let mut value = self.counter.to_le_bytes().to_vec();
        value.resize(8 + bytes, self.counter as u8);
        value.into()
    }

    /// To be called by the log when the last of `states` more states of the history is acknowledged. Only entries may
    /// be acknowledged before they are synced.
    fn done(&self, states: usize, entries: bool) -> super::Done {
        let number = self.history.len() - 1 + states;
        let (acknowledged, durable) = (Arc::clone(&self.acknowledged), Arc::clone(&self.durable));
        let synced = self.policy == SyncPolicy::Always || !entries;
        Box::new(move |result| {
            if result.is_ok() {
                let before = acknowledged.swap(number, Ordering::SeqCst);
                assert!(before < number, "acknowledged out of order");
                if synced {
                    durable.store(number, Ordering::SeqCst);
                }
            }
        })
    }

    /// After an idle moment nothing is owed, but where nothing was promised.
    fn idled(&self, acknowledged_before: usize) {
        if self.policy != SyncPolicy::Never && self.wal.failed().is_none() {
            self.durable.fetch_max(acknowledged_before, Ordering::SeqCst);
        }
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Group)) {
        let mut model = self.history.last().cloned().unwrap_or_default();
        change(model.entry(id).or_default());
        self.history.push(model);
    }

    fn group(&self, id: u64) -> Group {
        self.history.last().and_then(|model| model.get(&id)).cloned().unwrap_or_default()
    }

    fn step(&mut self, step: &Step) {
        if self.wal.failed().is_some() {
            return;
        }
        match step {
            Step::Append { group, sizes } => {
                let next = self.group(*group).next();
                let entries: Vec<(u64, Bytes)> =
                    (next..).zip(sizes).map(|(index, size)| (index, self.value(*size))).collect();
                self.wal.group(*group).append(entries.clone(), self.done(entries.len(), true));
                // An append may be cut into several batches between any two entries.
                for (index, value) in entries {
                    self.change(*group, |group| group.entries.extend([(index, entry(&value))]));
                }
            }
            Step::Vote { group } => {
                let vote = self.value(0);
                self.wal.group(*group).save_vote(vote.clone(), self.done(1, false));
                self.change(*group, |group| group.vote = Some(vote));
            }
            Step::Committed { group } => {
                let mark = self.value(0);
                self.wal.group(*group).save_committed(mark.clone()).unwrap();
                self.change(*group, |group| group.committed = Some(mark));
            }
            Step::Truncate { group, back } => {
                let keep = self.group(*group).next().checked_sub(1 + back);
                self.wal.group(*group).truncate_after(keep, self.done(1, false));
                self.change(*group, |group| group.entries.retain(|index, _| Some(*index) <= keep));
            }
            Step::Purge { group, share } => {
                let now = self.group(*group);
                let first = now.entries.keys().next().copied().unwrap_or(now.next());
                // Sometimes beyond the last entry, as after a snapshot from a leader.
                let upto = if *share == 10 { now.next() + 3 } else { first + (now.next() - first) * share / 10 };
                let mark = self.value(0);
                self.wal.group(*group).purge(upto, mark.clone(), self.done(1, false));
                self.change(*group, |group| {
                    if group.purged.as_ref().is_none_or(|(old, _)| *old <= upto) {
                        group.purged = Some((upto, mark));
                        group.entries.retain(|index, _| *index > upto);
                    }
                });
            }
            Step::Write => {
                self.driver.run_once();
            }
            Step::Full(full) => self.disk.set_capacity(full.then_some(0)),
            Step::Idle => {
                let before = self.acknowledged.load(Ordering::SeqCst);
                self.driver.idle();
                self.idled(before);
            }
        }
        if self.wal.failed().is_none() {
            let now = observe(&self.wal);
            if let Some(model) = self.history.last()
                && let Ok(now) = now
            {
                assert_eq!(&with_all_groups(model), &now, "what is read while running");
            }
        }
    }
}

fn with_all_groups(model: &Model) -> Model {
    let mut model = model.clone();
    for id in 0..GROUPS {
        model.entry(id).or_default();
    }
    model
}

/// What somebody finds who only looks. It must change nothing.
fn inspect(disk: &MemDisk) -> Inspection {
    let before = disk.operations();
    let found = Inspection::read(Arc::new(disk.clone()), Path::new(DIR)).expect("it can be looked at");
    assert_eq!(disk.operations(), before, "looking at a log has changed it");
    found
}

fn inspected(found: &Inspection) -> Model {
    let group = |id: u64| {
        let facts = found.groups.get(&id).cloned().unwrap_or_default();
        let read = |index| (index, entry(&found.entry(id, index).unwrap().unwrap()));
        let entries = found.entries(id).map(read).collect();
        Group { vote: facts.vote, committed: facts.committed, purged: facts.purged, entries }
    };
    (0..GROUPS).map(|id| (id, group(id))).collect()
}

/// Runs one round and gives the disk and the state that were found after it.
fn round(
    disk: MemDisk,
    start: Model,
    (policy, steps, end): (SyncPolicy, &[Step], &End),
    counter: &mut u64,
) -> (MemDisk, Model) {
    let (wal, driver) = open_with(&disk, policy).expect("every round begins with a sound log");
    assert_eq!(with_all_groups(&start), observe(&wal).unwrap());
    let (acknowledged, durable) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let mut run =
        Run { disk: disk.clone(), wal, driver, history: vec![start], policy, acknowledged, durable, counter: *counter };
    match end {
        End::PowerCut { after, .. } | End::Killed { after } => disk.cut_power_after(*after),
        End::FailedSync { after, .. } => disk.fail_sync_after(*after),
        End::FailedWrite { after, .. } => disk.fail_write_after(*after),
        End::Closed => {}
    }
    steps.iter().for_each(|step| run.step(step));
    disk.set_capacity(None);
    if matches!(end, End::Closed) {
        run.wal.close().unwrap();
        run.driver.close();
        assert_eq!(run.wal.failed().map(|error| error.to_string()), None);
        run.durable.store(run.history.len() - 1, Ordering::SeqCst);
    }
    *counter = run.counter;
    let mut disk = match end {
        End::FailedSync { power_cut: false, .. } | End::FailedWrite { power_cut: false, .. } => disk.restart(),
        End::PowerCut { seed, .. } | End::FailedSync { seed, .. } | End::FailedWrite { seed, .. } => disk.crash(*seed),
        End::Closed => disk.crash(3),
        End::Killed { .. } => disk.restart(),
    };
    // The first recovery is interrupted itself, sometimes.
    if let End::PowerCut { seed, .. } = end
        && seed % 2 == 0
    {
        disk.cut_power_after(seed / 2 % 12);
        let _ = open(&disk);
        disk = disk.crash(seed / 24);
    }
    // A power cut in the very first steps leaves no directory to look at.
    let looked = crate::disk::Disk::list(&disk, Path::new(DIR)).is_ok().then(|| inspect(&disk));
    let found = match open(&disk) {
        Ok((wal, _driver)) => observe(&wal).unwrap(),
        Err(error) => panic!("the log does not open: {error}"),
    };
    if let Some(looked) = looked {
        assert_eq!(looked.damage, []);
        assert_eq!(inspected(&looked), found, "looking and opening find the same");
    }
    let killed_only = matches!(end, End::Killed { .. });
    let least = if killed_only { &run.acknowledged } else { &run.durable }.load(Ordering::SeqCst);
    let fits = run.history[least..].iter().any(|model| with_all_groups(model) == found);
    assert!(fits, "found {found:?}\nbut acknowledged {least} of {}: {:?}", run.history.len() - 1, run.history[least]);
    // What recovery reported must be on disk by now, wherever it was read from.
    let disk = disk.crash(run.counter);
    let (wal, _driver) = open(&disk).expect("a log that was just recovered opens again");
    assert_eq!(observe(&wal).unwrap(), found, "recovery served what was not durable");
    (disk.restart(), found)
}

/// What is whole is right, and what is called lost begins where that ends.
fn check_lost(looked: &Inspection, model: &Model) {
    for (id, found) in inspected(looked) {
        let Some(lost) = looked.lost.get(&id) else { continue };
        let next = found.next();
        assert!(next == 0 || lost.from == next, "group {id}: {lost:?} lost, but {next} is next");
        let last = model.get(&id).and_then(|group| group.entries.keys().next_back().copied());
        // Entries that were cut off later are still told of: never too few.
        assert!(last.is_none_or(|last| last < lost.from || lost.to.is_some()), "group {id}: {lost:?} of {last:?}");
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_wherever_the_power_goes(
        rounds in prop::collection::vec((policy(), prop::collection::vec(step(), 1..60), end()), 1..6),
    ) {
        let mut disk = MemDisk::new();
        let mut model = Model::new();
        let mut counter = 0;
        for (policy, steps, end) in &rounds {
            (disk, model) = round(disk, model, (*policy, steps, end), &mut counter);
        }
    }

    #[test]
    fn a_flipped_bit_is_found_or_does_not_matter(
        policy in policy(),
        steps in prop::collection::vec(step(), 1..80),
        file: prop::sample::Index,
        byte: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let disk = MemDisk::new();
        let mut counter = 0;
        let (disk, model) = round(disk, Model::new(), (policy, &steps, &End::Closed), &mut counter);
        let names = crate::disk::Disk::list(&disk, Path::new(DIR)).unwrap();
        let path = Path::new(DIR).join(&names[file.index(names.len())]);
        let size = disk.contents(&path).unwrap().len();
        disk.flip_bit(&path, byte.index(size) as u64, bit).unwrap();
        let looked = inspect(&disk);
        match open(&disk) {
            Ok((wal, _driver)) => {
                prop_assert_eq!(observe(&wal).unwrap(), with_all_groups(&model));
                prop_assert_eq!(looked.damage, []);
            }
            Err(WalError::Corrupt { path, offset, .. }) => {
                let first = looked.damage.first().map(|damage| (damage.path.clone(), damage.offset));
                prop_assert_eq!(first, Some((path, offset)), "both tell of the same place");
                check_lost(&looked, &model);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
