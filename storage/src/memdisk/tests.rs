//! The crash model itself: what it promises to keep, and that it does take the rest away.

use super::*;
use crate::disk::{read_file, write_file_atomically};

fn with_dir() -> (MemDisk, PathBuf) {
    let disk = MemDisk::new();
    let dir = PathBuf::from("/d");
    disk.create_dir_all(&dir).unwrap();
    (disk, dir)
}

#[test]
fn only_what_was_synced_surely_survives_a_power_cut() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let (disk, dir) = with_dir();
        let path = dir.join("f");
        let file = disk.create(&path).unwrap();
        file.write_at(&[1; 2048], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(&dir).unwrap();
        file.write_at(&[2; 1024], 512).unwrap();
        let disk = disk.crash(seed);
        assert!(file.read_at(&mut [0], 0).is_err(), "handles of before are dead");
        let bytes = disk.contents(&path).unwrap();
        assert_eq!(bytes[..512], [1; 512]);
        assert_eq!(bytes[1536..], [1; 512]);
        outcomes.insert((bytes[512], bytes[1535], bytes[1023] == bytes[512]));
    }
    assert!(outcomes.len() >= 5, "lost, kept, reordered and torn all happen: {outcomes:?}");
}

#[test]
fn a_name_needs_its_directory_synced() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..50 {
        let (disk, dir) = with_dir();
        disk.create(&dir.join("f")).unwrap().sync_data().unwrap();
        match disk.crash(seed).list(&dir).unwrap().len() {
            0 => lost += 1,
            _ => kept += 1,
        }
    }
    assert!(kept > 5 && lost > 5, "{kept} {lost}");
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let mut lost = 0;
    for seed in 0..50 {
        let (disk, dir) = with_dir();
        let file = disk.create(&dir.join("f")).unwrap();
        disk.sync_dir(&dir).unwrap();
        (0..seed).for_each(|_| disk.sync_dir(&dir).unwrap());
        file.write_at(&[1; 100], 0).unwrap();
        disk.fail_sync_after(0);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.contents(&dir.join("f")).unwrap(), [1; 100]);
        lost += usize::from(disk.crash(seed).contents(&dir.join("f")).unwrap() != [1; 100]);
    }
    assert!(lost > 5);
}

#[test]
fn an_atomic_write_is_old_or_new_wherever_the_power_goes() {
    for cut in 0..12 {
        for seed in 0..40 {
            let (disk, dir) = with_dir();
            let path = dir.join("f");
            write_file_atomically(&disk, &path, &[1; 1500]).unwrap();
            disk.cut_power_after(cut);
            let done = write_file_atomically(&disk, &path, &[2; 700]).is_ok();
            let bytes = read_file(&disk.crash(seed), &path).unwrap();
            assert!(bytes == [2; 700] || (!done && bytes == [1; 1500]), "cut {cut} seed {seed}");
        }
    }
}

#[test]
fn space_runs_out() {
    let (disk, dir) = with_dir();
    disk.set_capacity(Some(1000));
    let file = disk.create(&dir.join("f")).unwrap();
    file.allocate(900).unwrap();
    assert_eq!(file.write_at(&[0; 200], 850).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(&[0; 150], 850).unwrap();
}
