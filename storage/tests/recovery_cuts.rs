//! The power goes at every operation of a recovery of the log, one after the other, and of what is written behind it:
//! whatever the life before left, and wherever the recovery was stopped, the next one has all that was acknowledged.
//!
//! The life before ends at every operation of its own, by a loss of power or by the end of the process alone (then names
//! and bytes that were not synced are still there to be read, and are gone after the next loss of power). That this says
//! something is shown with a recovery that leaves its syncs out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use bytes::Bytes;
use quorate_storage::disk::{Disk, DiskFile, LockGuard};
use quorate_storage::memdisk::MemDisk;
use quorate_storage::wal::{SyncPolicy, Wal, WalConfig, WalDriver, WalError};

const DIR: &str = "/wal";
const GROUP: u64 = 1;

/// A disk for somebody who leaves syncs out while a log is opened.
#[derive(Clone)]
struct Careless {
    disk: MemDisk,
    care: Care,
    recovering: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    Full,
    NoDirectorySyncs,
    NoFileSyncs,
}

struct CarelessFile {
    file: Arc<dyn DiskFile>,
    of: Careless,
}

impl Careless {
    fn skips(&self, care: Care) -> bool {
        self.care == care && self.recovering.load(SeqCst)
    }

    fn over(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(CarelessFile { file, of: self.clone() })
    }
}

impl Disk for Careless {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path).map(|file| self.over(file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path).map(|file| self.over(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.skips(Care::NoDirectorySyncs) { Ok(()) } else { self.disk.sync_dir(dir) }
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        self.disk.lock(path)
    }
}

impl DiskFile for CarelessFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.of.skips(Care::NoFileSyncs) { Ok(()) } else { self.file.sync_data() }
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }
}

/// What was asked of the log, and what it said.
#[derive(Clone, Default)]
struct Promises {
    proposed: BTreeMap<u64, BTreeSet<Bytes>>,
    acknowledged: BTreeMap<u64, Bytes>,
    purged: u64,
    vote: u64,
    last_vote: u64,
    count: u64,
}

fn value(number: u64) -> Bytes {
    // Some fill a segment.
    let len = [40, 900, 10, 2500, 300, 5000][number as usize % 6];
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + len, number as u8);
    bytes.into()
}

fn open(disk: Careless, policy: SyncPolicy) -> Result<(Wal, WalDriver), WalError> {
    let config = WalConfig {
        segment_bytes: 8 << 10,
        cache_bytes: 3000,
        batch_bytes: 4 << 10,
        spare_segments: 1,
        salt: Some(7),
        sync: policy,
        ..WalConfig::default()
    };
    let recovering = disk.recovering.clone();
    recovering.store(true, SeqCst);
    let opened = Wal::open_manual(Arc::new(disk), Path::new(DIR), config, Box::new(|| {}));
    recovering.store(false, SeqCst);
    opened.map(|(wal, driver, _)| (wal, driver))
}

impl Promises {
    /// Recovers, and writes for as long as that goes well.
    fn live(&mut self, disk: Careless, policy: SyncPolicy, rounds: u64) -> Result<(), WalError> {
        let (wal, mut driver) = open(disk, policy)?;
        let log = wal.group(GROUP);
        let said = Arc::new(AtomicU64::new(0));
        let done = |number: u64| -> quorate_storage::wal::Done {
            let said = said.clone();
            Box::new(move |result: io::Result<()>| {
                if result.is_ok() {
                    said.store(number, SeqCst)
                }
            })
        };
        for round in 0..rounds {
            let next = log.last_index().or(log.purged().map(|(upto, _)| upto)).unwrap_or(0) + 1;
            self.count += 1;
            let entry = value(self.count);
            self.proposed.entry(next).or_default().insert(entry.clone());
            log.append(vec![(next, entry.clone())], done(self.count));
            while driver.run_once() {}
            if said.load(SeqCst) != self.count {
                break;
            }
            if policy == SyncPolicy::Always {
                self.acknowledged.insert(next, entry);
            }
            self.last_vote = self.count;
            log.save_vote(Bytes::from(self.count.to_le_bytes().to_vec()), done(u64::MAX));
            driver.run_once();
            if said.load(SeqCst) != u64::MAX {
                break;
            }
            self.vote = self.count;
            if round % 4 == 3 {
                self.purged = self.purged.max(next - 2);
                log.purge(next - 2, Bytes::from_static(b"mark"), Box::new(drop));
                driver.run_once();
            }
            if policy == SyncPolicy::Always && round % 5 == 4 {
                driver.idle();
            }
        }
        // Killed, not closed: what it owed stays owed.
        Ok(())
    }

    fn check(&self, disk: &MemDisk, policy: SyncPolicy) -> Result<(), String> {
        let care = Careless { disk: disk.clone(), care: Care::Full, recovering: Arc::default() };
        let (wal, _driver) = open(care, policy).map_err(|error| error.to_string())?;
        let log = wal.group(GROUP);
        let vote = log.vote().map_or(0, |vote| u64::from_le_bytes(vote[..].try_into().expect("eight bytes")));
        if vote < self.vote || vote > self.last_vote {
            return Err(format!("vote {vote} where {} was promised", self.vote));
        }
        let purged = log.purged().map_or(0, |(upto, _)| upto);
        if purged > self.purged {
            return Err(format!("purged up to {purged}, nobody asked for more than {}", self.purged));
        }
        let found: BTreeMap<u64, Bytes> = log.read(..).map_err(|error| error.to_string())?.into_iter().collect();
        if let Some((index, _)) = self.acknowledged.range(purged + 1..).find(|(at, entry)| found.get(at) != Some(entry))
        {
            return Err(format!("entry {index} was acknowledged"));
        }
        let known = |(index, entry): &(&u64, &Bytes)| self.proposed.get(index).is_some_and(|all| all.contains(*entry));
        match found.iter().find(|one| !known(one)) {
            Some((index, _)) => Err(format!("entry {index} was never proposed")),
            None => Ok(()),
        }
    }
}

/// How the first life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    PowerCut,
}

/// One way through: the first life and its end, the recovery under this care and its end.
#[derive(Clone, Copy, Debug)]
struct Way {
    policy: SyncPolicy,
    first: u64,
    end: End,
    seed: u64,
    care: Care,
}

impl Way {
    fn first_life(&self) -> (MemDisk, Promises) {
        let (disk, mut promises) = (MemDisk::new(), Promises::default());
        disk.cut_power_after(self.first);
        let care = Careless { disk: disk.clone(), care: Care::Full, recovering: Arc::default() };
        let _ = promises.live(care, self.policy, 12);
        match self.end {
            End::Killed => (disk.restart(), promises),
            End::PowerCut => (disk.crash(self.seed), promises),
        }
    }

    fn second_life(&self, cut: Option<u64>) -> (MemDisk, Promises, u64) {
        let (disk, mut promises) = self.first_life();
        let before = disk.operations();
        if let Some(cut) = cut {
            disk.cut_power_after(cut);
        }
        let care = Careless { disk: disk.clone(), care: self.care, recovering: Arc::default() };
        let _ = promises.live(care, self.policy, 4);
        let operations = disk.operations() - before;
        (disk, promises, operations)
    }

    /// Every operation of the recovery and of the few writes behind it is the last one, once; what was wrong then.
    fn wrong(&self, cases: &mut u64) -> Option<String> {
        let (_, _, operations) = self.second_life(None);
        (0..=operations).find_map(|cut| {
            *cases += 1;
            let (disk, mut promises, _) = self.second_life(Some(cut));
            let disk = disk.crash(self.seed.rotate_left(9) ^ cut);
            let first = promises.check(&disk, self.policy);
            // And it goes on from there, through one more loss of power.
            let disk = disk.restart();
            let again = first.and_then(|()| {
                let care = Careless { disk: disk.clone(), care: Care::Full, recovering: Arc::default() };
                promises.live(care, self.policy, 3).map_err(|error| error.to_string())?;
                promises.check(&disk.crash(cut), self.policy)
            });
            again.err().map(|what| format!("{self:?}, second cut {cut}: {what}"))
        })
    }
}

/// Operations of the first life.
fn first_lives(policy: SyncPolicy) -> std::ops::RangeInclusive<u64> {
    let way = Way { policy, first: u64::MAX, end: End::Killed, seed: 0, care: Care::Full };
    0..=way.first_life().0.operations()
}

/// What is wrong in all ways, one after the other.
fn wrong(policy: SyncPolicy, care: Care, cases: &mut u64) -> impl Iterator<Item = String> {
    // One that leaves syncs out is to be found where there is a log, not only where the first one is begun.
    let from = if care == Care::Full { 0 } else { 20 };
    let ways = first_lives(policy).skip(from).flat_map(move |first| {
        let seed = first;
        [End::Killed, End::PowerCut].map(|end| Way { policy, first, end, seed, care })
    });
    ways.filter_map(|way| way.wrong(cases))
}

#[test]
fn the_power_goes_at_every_operation_of_a_recovery() {
    for policy in [SyncPolicy::Always, SyncPolicy::Never] {
        let mut cases = 0;
        let wrong: Vec<String> = wrong(policy, Care::Full, &mut cases).collect();
        println!("{policy:?}: {cases} cases");
        assert!(cases > 1000, "{cases} cases");
        assert!(wrong.is_empty(), "{} ways are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn a_recovery_that_leaves_its_syncs_out_is_found() {
    for (policy, care) in [
        (SyncPolicy::Always, Care::NoDirectorySyncs),
        (SyncPolicy::Always, Care::NoFileSyncs),
        (SyncPolicy::Never, Care::NoDirectorySyncs),
        (SyncPolicy::Never, Care::NoFileSyncs),
    ] {
        let mut cases = 0;
        let missed = wrong(policy, care, &mut cases).next();
        println!("{policy:?}, {care:?}: missed in the first {cases} cases: {missed:?}");
        assert!(missed.is_some(), "{policy:?}: nobody misses what {care:?} leaves out");
    }
}
