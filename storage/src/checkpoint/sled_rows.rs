//! Rows in sled: the only file that names it.
//!
//! sled 0.34.7 is used in the one way that was measured to be sound and cheap: rows of about 8 KB written one by one,
//! no batches, a small cache, no flush by time. On Linux its `flush` only asks for `sync_file_range`, which says nothing
//! about power loss, so [`Rows::sync`] here syncs its file (and blobs, should it ever write one) after that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::rows::{Row, Rows};

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

impl SledRows {
    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Self, String> {
        fs::create_dir_all(path).map_err(text)?;
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace)
            .open()
            .map_err(text)?;
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
        self.db.insert(key, value).map(drop).map_err(text)
    }

    fn remove(&self, key: &[u8]) -> Result<(), String> {
        self.db.remove(key).map(drop).map_err(text)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(self.db.get(key).map_err(text)?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send> {
        let rows = self.db.range(from.to_vec()..to.to_vec());
        Box::new(rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(text)))
    }

    fn sync(&self) -> Result<(), String> {
        self.db.flush().map_err(text)?;
        let blobs = self.path.join("blobs");
        let mut any = false;
        for blob in fs::read_dir(&blobs).map_err(text)? {
            any = true;
            match File::open(blob.map_err(text)?.path()) {
                Ok(blob) => blob.sync_data().map_err(text)?,
                // sled removes blobs by itself once nothing points to them.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(text(error)),
            }
        }
        if any {
            File::open(&blobs).and_then(|dir| dir.sync_all()).map_err(text)?;
        }
        self.file.sync_data().map_err(text)
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}
