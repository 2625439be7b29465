//! The bytes on disk against the golden files of each format version (`docs/formats.md` describes them): what was
//! written once is read as it was meant, and what is written today is the same to the byte.

#[path = "../../tests/formats/mod.rs"]
mod golden;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use golden::Files;
use quorate_storage::backup::{Encoder, Head, Reader};
use quorate_storage::checkpoint::{CheckpointConfig, CheckpointError, CheckpointStore, MemRows, Rows};
use quorate_storage::disk::Disk;
use quorate_storage::identity::{DataDir, Identity};
use quorate_storage::memdisk::MemDisk;
use quorate_storage::wal::{RecoveredGroup, Wal, WalConfig, WalDriver, WalError};

const WAL_V1: &str = include_str!("../../tests/formats/wal-v1.hex");
const IDENTITY_V1: &str = include_str!("../../tests/formats/identity-v1.hex");
const CHECKPOINT_V2: &str = include_str!("../../tests/formats/checkpoint-v2.hex");
const CHECKPOINT_V2_LONG: &str = include_str!("../../tests/formats/checkpoint-v2-long.hex");
const BACKUP_V2: &str = include_str!("../../tests/formats/backup-v2.hex");
const EPOCH_V1: &str = include_str!("../../tests/formats/epoch-v1.hex");

fn open(disk: &MemDisk) -> (Wal, WalDriver, std::collections::BTreeMap<u64, RecoveredGroup>) {
    let config =
        WalConfig { segment_bytes: 4096, spare_segments: 1, salt: Some(0x0123_4567_89ab_cdef), ..WalConfig::default() };
    let (wal, driver, recovered) =
        Wal::open_manual(Arc::new(disk.clone()), Path::new("/wal"), config, Box::new(|| {})).unwrap();
    assert_eq!(recovered.cut, None);
    (wal, driver, recovered.groups)
}

fn files(disk: &MemDisk, dir: &str) -> Files {
    let names = disk.list(Path::new(dir)).unwrap();
    names.into_iter().map(|name| (name.clone(), disk.contents(&Path::new(dir).join(name)).unwrap())).collect()
}

fn put_files(disk: &MemDisk, dir: &str, files: &Files) {
    disk.create_dir_all(Path::new(dir)).unwrap();
    for (name, bytes) in files {
        let file = disk.create(&Path::new(dir).join(name)).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir(Path::new(dir)).unwrap();
}

/// Bytes that take few lines of a golden file: a number at the beginning and at the end, zeros between.
fn long(number: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    out[0] = number as u8;
    out[bytes - 1] = number as u8;
    out
}

/// A log with every kind of record, two groups, a truncation, a purge that lets a segment go, and a segment used again.
fn write_log(disk: &MemDisk) {
    let (wal, mut driver, _) = open(disk);
    let (one, two) = (wal.group(1), wal.group(2));
    let must = || Box::new(|result: std::io::Result<()>| result.unwrap());
    let entry = |index: u64, text: &str| (index, Bytes::from(format!("{text} {index}")));
    one.save_vote(Bytes::from_static(b"a vote"), must());
    driver.run_once();
    one.append((1..=3).map(|index| entry(index, "entry")).collect(), must());
    two.append(vec![entry(10, "of group two")], must());
    driver.run_once();
    one.save_committed(Bytes::from_static(b"committed 2")).unwrap();
    one.truncate_after(Some(2), must());
    one.append(vec![entry(3, "another")], must());
    driver.run_once();
    driver.idle();
    for index in 4..=9 {
        one.append(vec![(index, long(index, 700).into())], must());
        driver.run_once();
    }
    two.purge(10, Bytes::from_static(b"purged 10"), must());
    one.purge(7, Bytes::from_static(b"purged 7"), must());
    driver.run_once();
    for index in 10..=12 {
        one.append(vec![(index, long(index, 900).into())], must());
        driver.run_once();
    }
    wal.close().unwrap();
    driver.close();
}

#[test]
fn the_log_of_version_one_is_read_and_written_as_ever() {
    let disk = MemDisk::new();
    write_log(&disk);
    golden::check("the log", WAL_V1, &files(&disk, "/wal"));

    let disk = MemDisk::new();
    put_files(&disk, "/wal", &golden::parse(WAL_V1));
    let (wal, _driver, groups) = open(&disk);
    let one = RecoveredGroup {
        vote: Some(Bytes::from_static(b"a vote")),
        committed: Some(Bytes::from_static(b"committed 2")),
        purged: Some((7, Bytes::from_static(b"purged 7"))),
        entries: Some((8, 12)),
    };
    let two = RecoveredGroup { purged: Some((10, Bytes::from_static(b"purged 10"))), ..RecoveredGroup::default() };
    assert_eq!(groups, [(1, one), (2, two)].into());
    let sizes = [(8, 700), (9, 700), (10, 900), (11, 900), (12, 900)];
    let entries = sizes.map(|(index, bytes)| (index, Bytes::from(long(index, bytes))));
    assert_eq!(wal.group(1).read(..).unwrap(), entries);
}

#[test]
fn the_identity_of_version_one_is_read_and_written_as_ever() {
    let identity = Identity {
        group_uuid: *b"0123456789abcdef",
        member_id: 3,
        flags: 2,
        notes: vec![("incarnation".to_owned(), b"fedcba9876543210".to_vec())],
    };
    let disk = MemDisk::new();
    let dir = DataDir::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
    dir.save(&identity).unwrap();
    let mut now = files(&disk, "/data");
    now.retain(|(name, _)| name == "IDENTITY");
    golden::check("the identity file", IDENTITY_V1, &now);

    let disk = MemDisk::new();
    put_files(&disk, "/data", &golden::parse(IDENTITY_V1));
    let dir = DataDir::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
    assert_eq!(dir.identity().unwrap(), Some(identity));
}

fn write_checkpoint(store: &CheckpointStore) {
    let mut writer = store.begin(1).unwrap();
    writer.put(7, b"chunk seven").unwrap();
    writer.put(9, &long(9, 12_100)).unwrap();
    writer.put(70_000 << 64, b"").unwrap();
    writer.commit(b"first").unwrap();
    let mut writer = store.begin(1).unwrap();
    writer.put(7, b"chunk seven, again").unwrap();
    writer.remove(70_000 << 64).unwrap();
    writer.commit(b"second").unwrap();
}

/// Every row as a file: its name is the key in hex.
fn rows(rows: &MemRows) -> Files {
    let all = rows.scan(&[], &[0xff]).map(|row| row.unwrap());
    all.map(|(key, value)| (key.iter().map(|byte| format!("{byte:02x}")).collect(), value)).collect()
}

/// Rows of 8000 bytes were written once, and of 12,000 since: whoever reads need not know.
#[test]
fn the_checkpoint_rows_of_version_two_are_read_and_written_as_ever() {
    let now = MemRows::new();
    write_checkpoint(&CheckpointStore::over(Arc::new(now.clone())));
    golden::check("the checkpoint's rows", CHECKPOINT_V2_LONG, &rows(&now));

    for (golden, bytes) in [(CHECKPOINT_V2, 8100), (CHECKPOINT_V2_LONG, 12_100)] {
        let stored = MemRows::new();
        for (name, value) in golden::parse(golden) {
            let digits: Vec<char> = name.chars().collect();
            let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
            stored.put(&digits.chunks(2).map(byte).collect::<Vec<u8>>(), &value).unwrap();
        }
        let loaded = CheckpointStore::over(Arc::new(stored)).load(1).unwrap().unwrap();
        let facts = (loaded.epoch, &loaded.manifest[..], loaded.chunk_count, loaded.bytes);
        assert_eq!(facts, (2, &b"second"[..], 2, 18 + bytes));
        let chunks: Vec<_> = loaded.chunks.collect::<Result<_, _>>().unwrap();
        assert_eq!(chunks, [(7, b"chunk seven, again".to_vec()), (9, long(9, bytes as usize))]);
    }
}

#[test]
fn the_epoch_file_of_version_one_is_written_as_ever_and_believed() {
    let temp = tempfile::tempdir().unwrap();
    let name = "epoch-0000000000000001";
    let store = CheckpointStore::open(temp.path(), CheckpointConfig::default()).unwrap();
    write_checkpoint(&store);
    let now = vec![(name.to_owned(), std::fs::read(temp.path().join(name)).unwrap())];
    golden::check("the epoch file", EPOCH_V1, &now);
    drop(store);

    // Read: a store without the checkpoint that the file tells of is a store that fell back.
    let temp = tempfile::tempdir().unwrap();
    drop(CheckpointStore::open(temp.path(), CheckpointConfig::default()).unwrap());
    std::fs::write(temp.path().join(name), &golden::parse(EPOCH_V1)[0].1).unwrap();
    let store = CheckpointStore::open(temp.path(), CheckpointConfig::default()).unwrap();
    let error = store.load(1).map(drop).unwrap_err().to_string();
    assert!(error.contains("fell back from epoch 2 to 0"), "{error}");
}

#[test]
fn a_backup_of_version_2() {
    let head = Head {
        program: "quorate 0.1.0".to_owned(),
        group_uuid: [7; 16],
        member: 2,
        term: 3,
        leader: 1,
        index: 99,
        taken_ms: 1_700_000_000_000,
        databases: vec![5, 0],
        chunks: 1,
        state: b"state".to_vec(),
    };
    let mut out = Vec::new();
    let mut encoder = Encoder::begin(&head, &mut out);
    encoder.chunk(3 << 64, b"three", &mut out);
    let end = encoder.end(&mut out);
    golden::check("a backup", BACKUP_V2, &[("backup".to_owned(), out)]);

    let bytes = golden::parse(BACKUP_V2).remove(0).1;
    let mut reader = Reader::open(&bytes[..]).unwrap();
    assert_eq!(reader.head(), &head);
    assert_eq!(reader.next_chunk().unwrap(), Some((3 << 64, b"three".to_vec())));
    assert_eq!(reader.next_chunk().unwrap(), None);
    assert_eq!(reader.end(), Some(&end));
}

/// A refusal names what was found, what is known, and what to do.
fn assert_refused(error: &str, found: u32, known: u32) {
    for part in
        [format!("version {found},"), format!("reads {known} only"), "the version of quorate that wrote it".into()]
    {
        assert!(error.contains(&part), "{part:?} is missing in: {error}");
    }
}

/// The same bytes in the envelope of small things, as another version would have written them.
fn in_envelope(bytes: &[u8], version: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[0] = version;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..1]);
    crc.update(&bytes[5..]);
    bytes[1..5].copy_from_slice(&crc.finalize().to_le_bytes());
    bytes
}

#[test]
fn a_log_of_another_version_is_refused_and_left_alone() {
    for version in [0, 2, 7] {
        // All of it, or the newest segment only: a newer program began to write here.
        for all in [true, false] {
            let mut files = golden::parse(WAL_V1);
            let newest = files.iter().map(|(name, _)| name.clone()).max().unwrap();
            for (_, bytes) in files.iter_mut().filter(|(name, _)| all || *name == newest) {
                bytes[8] = version;
                let crc = crc32fast::hash(&bytes[..32]);
                bytes[32..36].copy_from_slice(&crc.to_le_bytes());
            }
            let disk = MemDisk::new();
            put_files(&disk, "/wal", &files);
            let before = self::files(&disk, "/wal");
            let config = WalConfig { segment_bytes: 4096, spare_segments: 1, ..WalConfig::default() };
            let opened = Wal::open_manual(Arc::new(disk.clone()), Path::new("/wal"), config, Box::new(|| {}));
            let Err(error) = opened.map(drop) else { panic!("version {version} is taken for another") };
            assert!(matches!(error, WalError::Version { .. }), "{error}");
            assert_refused(&error.to_string(), version.into(), 1);
            assert_eq!(self::files(&disk, "/wal"), before, "it was changed");
        }
    }
}

#[test]
fn a_checkpoint_of_another_version_is_refused_and_left_alone() {
    for version in [1, 3, 200] {
        let stored = MemRows::new();
        write_checkpoint(&CheckpointStore::over(Arc::new(stored.clone())));
        let key = [&b"m"[..], &1_u64.to_be_bytes()].concat();
        let manifest = stored.get(&key).unwrap().unwrap();
        stored.put(&key, &in_envelope(&manifest, version)).unwrap();
        let before = rows(&stored);
        let store = CheckpointStore::over(Arc::new(stored.clone()));
        let loaded = store.load(1).map(drop).unwrap_err();
        let begun = store.begin(1).map(drop).unwrap_err();
        for error in [loaded, begun] {
            assert!(matches!(error, CheckpointError::Version { .. }), "{error}");
            assert_refused(&error.to_string(), version.into(), 2);
        }
        assert_eq!(rows(&stored), before, "it was changed");
    }
}

#[test]
fn an_identity_and_an_epoch_of_another_version_are_refused_and_left_alone() {
    for version in [0, 2] {
        let disk = MemDisk::new();
        let (name, bytes) = golden::parse(IDENTITY_V1).remove(0);
        let other = in_envelope(&bytes, version);
        put_files(&disk, "/data", &vec![(name.clone(), other.clone())]);
        let dir = DataDir::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
        assert_refused(&dir.identity().unwrap_err().to_string(), version.into(), 1);
        assert_eq!(disk.contents(&Path::new("/data").join(name)).unwrap(), other);
        // A bit that flipped is no other version.
        let mut flipped = bytes.clone();
        flipped[0] ^= 2;
        put_files(&disk, "/data", &vec![("IDENTITY".to_owned(), flipped)]);
        let error = dir.identity().unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");

        let temp = tempfile::tempdir().unwrap();
        drop(CheckpointStore::open(temp.path(), CheckpointConfig::default()).unwrap());
        let (name, bytes) = golden::parse(EPOCH_V1).remove(0);
        let other = in_envelope(&bytes, version);
        std::fs::write(temp.path().join(&name), &other).unwrap();
        let store = CheckpointStore::open(temp.path(), CheckpointConfig::default()).unwrap();
        let error = store.load(1).map(drop).unwrap_err();
        assert!(matches!(error, CheckpointError::Version { .. }), "{error} is taken for damage");
        assert_refused(&error.to_string(), version.into(), 1);
        assert_eq!(std::fs::read(temp.path().join(&name)).unwrap(), other);
        // Here, too, a bit that flipped is damage, and a disk that does not answer is not.
        let mut flipped = bytes.clone();
        flipped[0] ^= 2;
        std::fs::write(temp.path().join(&name), &flipped).unwrap();
        let error = store.load(1).map(drop).unwrap_err();
        assert!(matches!(error, CheckpointError::Corrupt { .. }), "{error}");
        std::fs::remove_file(temp.path().join(&name)).unwrap();
        std::fs::create_dir(temp.path().join(&name)).unwrap();
        let error = store.load(1).map(drop).unwrap_err();
        assert!(matches!(error, CheckpointError::Store(_)), "{error} is taken for damage");
        assert!(error.to_string().contains(&name), "{error}");
    }
}

#[test]
fn a_backup_of_another_version_is_refused() {
    for version in [b'1', b'3'] {
        let mut bytes = golden::parse(BACKUP_V2).remove(0).1;
        bytes[7] = version;
        let error = Reader::open(&bytes[..]).map(drop).unwrap_err();
        assert_refused(&error.to_string(), (version - b'0').into(), 2);
    }
}
