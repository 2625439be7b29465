//! Rows in sled: the only file that names it.
//!
//! sled 0.34.7 is used in the one way that was measured to be sound and cheap: rows of about 8 KB written one by one,
//! no batches, a small cache, no flush by time. On Linux its `flush` only asks for `sync_file_range`, which says nothing
//! about power loss, so [`Rows::sync`] here syncs its file (and blobs, should it ever write one) after that.
//!
//! When it opens, sled takes damage near the end of its log for a torn write and silently falls back to what was before:
//! an older checkpoint, whole. So the epoch of the newest one is kept in a file of its own beside sled's (`epoch-` and
//! the group in 16 hex digits). Damage elsewhere makes sled return an error or panic; a panic is made an error here.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::rows::{Row, Rows};
use crate::codec;
use crate::disk::{self, OsDisk};

const WITNESS_VERSION: u8 = 1;

/// Rows in a sled database.
pub(super) struct SledRows {
    db: sled::Db,
    /// The file that holds everything; a handle of our own to sync it.
    file: File,
    path: PathBuf,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Calls sled. It panics on some damage to its files; nothing of ours is touched meanwhile, so that is one more error.
fn no_panic<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(text),
        Err(_) => Err("sled panicked; its files may be damaged".to_owned()),
    }
}

impl SledRows {
    fn witness_path(&self, group: u64) -> PathBuf {
        self.path.join(format!("epoch-{group:016x}"))
    }

    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Self, String> {
        fs::create_dir_all(path).map_err(text)?;
        let config =
            sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None).mode(sled::Mode::LowSpace);
        let db = no_panic(|| config.open())?;
        let rows = Self { db, file: File::open(path.join("db")).map_err(text)?, path: path.to_owned() };
        // What sled made while opening: its settings, its directories, and their names.
        rows.sync()?;
        File::open(path.join("conf")).and_then(|conf| conf.sync_all()).map_err(text)?;
        for dir in path.ancestors().take(2).filter(|dir| !dir.as_os_str().is_empty()) {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(text)?;
        }
        Ok(rows)
    }
}

impl Rows for SledRows {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        no_panic(|| self.db.insert(key, value).map(drop))
    }

    fn remove(&self, key: &[u8]) -> Result<(), String> {
        no_panic(|| self.db.remove(key).map(drop))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(no_panic(|| self.db.get(key))?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send> {
        let mut rows = self.db.range(from.to_vec()..to.to_vec());
        Box::new(std::iter::from_fn(move || {
            let row = no_panic(|| rows.next().transpose()).transpose()?;
            Some(row.map(|(key, value)| (key.to_vec(), value.to_vec())))
        }))
    }

    fn sync(&self) -> Result<(), String> {
        no_panic(|| self.db.flush())?;
        let blobs = self.path.join("blobs");
        let mut any = false;
        for blob in fs::read_dir(&blobs).map_err(text)? {
            any = true;
            match File::open(blob.map_err(text)?.path()) {
                Ok(blob) => blob.sync_data().map_err(text)?,
                // sled removes blobs by itself once nothing points to them.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(text(error)),
            }
        }
        if any {
            File::open(&blobs).and_then(|dir| dir.sync_all()).map_err(text)?;
        }
        self.file.sync_data().map_err(text)
    }

    fn set_witness(&self, group: u64, epoch: u64) -> Result<(), String> {
        let bytes = codec::encode(WITNESS_VERSION, &epoch).map_err(text)?;
        disk::write_file_atomically(&OsDisk, &self.witness_path(group), &bytes).map_err(text)
    }

    fn witness(&self, group: u64) -> Result<Option<u64>, String> {
        match fs::read(self.witness_path(group)) {
            Ok(bytes) => codec::decode(WITNESS_VERSION, &bytes, 64).map(Some).map_err(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(text(error)),
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}
