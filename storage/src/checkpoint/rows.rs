//! What a checkpoint needs from the store below it: an ordered map of rows, and one call that makes all of it durable.
//!
//! [`MemRows`] is such a store in memory with a crash model: what was not synced is kept or lost row by row, in any
//! order, as a seed says. That is crueller than sled is, so what holds over it does not depend on sled's order of writes.
//! Writes and syncs can fail in it, and then it is as broken as sled is: after a full disk until it is opened again, else
//! until the next start. What a failed sync was about stays readable, and no later sync makes it durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::memdisk::countdown;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// An ordered map of rows on disk. Errors are texts: all that anybody can do with one is to tell it.
///
/// After a failure of a write or sync, other than for want of room or because of damage, nothing more is taken; what can
/// be read when it is opened by the next process is durable.
pub trait Rows: Send + Sync + 'static {
    /// Writes a row; durable after the next [`Rows::sync`].
    ///
    /// # Errors
    /// What the store said.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String>;
    /// Removes a row; durable after the next [`Rows::sync`].
    ///
    /// # Errors
    /// What the store said.
    fn remove(&self, key: &[u8]) -> Result<(), String>;
    /// One row.
    ///
    /// # Errors
    /// What the store said.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String>;
    /// The rows from `from` up to but not including `to`, in order of their keys.
    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send>;
    /// Makes everything before durable.
    ///
    /// # Errors
    /// What the store or the disk said. Nothing since the last sync may then be counted on.
    fn sync(&self) -> Result<(), String>;
    /// Keeps a few bytes for a group apart from the rows; durable when it returns.
    ///
    /// # Errors
    /// What the disk said; the old bytes are then kept, or the new ones.
    fn set_witness(&self, group: u64, bytes: &[u8]) -> Result<(), String>;
    /// The bytes kept for a group.
    ///
    /// # Errors
    /// What the disk said. That says nothing of the bytes.
    fn witness(&self, group: u64) -> Result<Option<Vec<u8>>, String>;
    /// True after a write or sync has failed, or damage was found, until the store is opened again.
    fn is_broken(&self) -> bool {
        false
    }
    /// True after the disk has failed: nobody but the next process can go on.
    fn is_dead(&self) -> bool {
        false
    }
    /// True after a read has failed because of what is in the store's own files, and not because of the disk.
    fn found_damage(&self) -> bool {
        false
    }
    /// Makes the store usable again after a failure, if that can be: with what was durable, and nothing else.
    ///
    /// # Errors
    /// If it can't, for now.
    fn reopen(&self) -> Result<(), String> {
        Ok(())
    }
    /// Looks whether all is still there that was when it was put to rest.
    ///
    /// # Errors
    /// If not, and the store is lost then; or what the disk said.
    fn wake(&self) -> Result<(), String> {
        Ok(())
    }
    /// True after damage was found that a write or [`Rows::wake`] has met: what the rows are is not known any more, and
    /// [`Rows::begin_anew`] is the way on for whoever still has all that they held.
    fn is_lost(&self) -> bool {
        false
    }
    /// Puts a store without rows in its place. What is kept apart for each group stays.
    ///
    /// # Errors
    /// What the disk said. The store is as it was.
    fn begin_anew(&self) -> Result<(), String>;
    /// Gives back memory that only whoever reads or writes needs. Nobody does now; whoever does next has it again.
    fn rest(&self) {}
    /// Makes the store smaller if it takes much more than the `live` bytes that count, a little at a time: `most` rows of
    /// the `rows` that it is known to hold. True: there is more to do. Rows that are written in between undo what was done.
    ///
    /// # Errors
    /// What the store said; what it holds is whole all the same, unless it is broken now.
    fn compact(&self, _live: u64, _rows: u64, _most: usize) -> Result<bool, String> {
        Ok(false)
    }
    /// Bytes that the disk has room for, where that is known.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

#[derive(Default)]
struct MemState {
    now: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    witnesses: BTreeMap<u64, Vec<u8>>,
    operations_left: Option<u64>,
    off: bool,
    puts_until_failure: Option<u64>,
    syncs_until_failure: Option<u64>,
    /// A write or a sync has failed since it was opened.
    broken: Option<Broken>,
    full: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// There was no room: opened again, it goes on.
    Full,
    /// Only the next start can tell what is there.
    Dead,
    /// Nobody can.
    Lost,
}

/// Rows in memory that a crash can take away.
#[derive(Clone, Default)]
pub struct MemRows {
    state: Arc<Mutex<MemState>>,
}

impl MemRows {
    /// No rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `operations` more changes and syncs happen; all after them fail.
    pub fn cut_power_after(&self, operations: u64) {
        self.state.lock().operations_left = Some(operations);
    }

    /// What the next process finds: each change since the last sync is there or not, as `seed` says.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let state = &mut *self.state.lock();
        state.keep_some(seed);
        let durable = state.durable.clone();
        // Whoever still holds the old handle writes to nothing.
        state.off = true;
        let witnesses = state.witnesses.clone();
        let full = state.full;
        let state = MemState { now: durable.clone(), durable, witnesses, full, ..MemState::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets `puts` more rows be written and the one after them fail.
    pub fn fail_put_after(&self, puts: u64) {
        self.state.lock().puts_until_failure = Some(puts);
    }

    /// Lets `syncs` more syncs succeed and the one after them fail: some of what it was about is durable then.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state.lock().syncs_until_failure = Some(syncs);
    }

    /// Damage is found in its files while it is open.
    pub fn lose(&self) {
        self.state.lock().broken.get_or_insert(Broken::Lost);
    }

    /// There is no room for another row, or there is again.
    pub fn set_full(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// Takes back what was to fail. Power that is off stays off, and what is broken stays broken until it is opened.
    pub fn forget_faults(&self) {
        let state = &mut *self.state.lock();
        (state.operations_left, state.puts_until_failure, state.syncs_until_failure) = (None, None, None);
        state.full = false;
    }

    /// The process ends, and the next one opens the store.
    pub fn restart(&self) {
        let state = &mut *self.state.lock();
        (state.puts_until_failure, state.syncs_until_failure) = (None, None);
        // What an earlier process failed to write is written anew, to other places.
        if state.broken.take() == Some(Broken::Dead) {
            state.durable = state.now.clone();
            state.changes.clear();
        }
    }

    /// The power went at an operation (see [`MemRows::cut_power_after`]).
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// A number that changes with whatever readers would see.
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for (key, value) in &self.state.lock().now {
            hasher.update(key);
            hasher.update(value);
        }
        hasher.finalize()
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().now.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flips one bit of the value of the row at `position`, for readers and on the platter.
    pub fn flip_bit(&self, position: usize, bit: usize) {
        let state = &mut *self.state.lock();
        let Some((key, value)) = state.now.iter_mut().nth(position) else { return };
        let bit = bit % (value.len() * 8);
        for value in [Some(value), state.durable.get_mut(key)].into_iter().flatten() {
            if let Some(byte) = value.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    fn change(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let mut state = self.state.lock();
        state.spend()?;
        if state.full && value.is_some() {
            state.broken = Some(Broken::Full);
            return Err("there is no room".to_owned());
        }
        if countdown(&mut state.puts_until_failure) {
            state.broken = Some(Broken::Dead);
            return Err("the write failed".to_owned());
        }
        match value {
            Some(value) => state.now.insert(key.to_vec(), value.to_vec()),
            None => state.now.remove(key),
        };
        state.changes.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        Ok(())
    }
}

impl MemState {
    fn spend(&mut self) -> Result<(), String> {
        match &mut self.operations_left {
            Some(0) => self.off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        match (self.off, self.broken) {
            (true, _) => Err("the power is off".to_owned()),
            (_, Some(_)) => Err("an earlier write has failed".to_owned()),
            _ => Ok(()),
        }
    }

    /// Of what was changed since the last sync some is not there any more, and none of it is durable.
    fn drop_some(&mut self) {
        let seed = self.now.len() as u64;
        self.now = self.durable.clone();
        self.changes.retain(|(key, _)| mix(seed.wrapping_add(u64::from(crc32fast::hash(key)))).is_multiple_of(2));
        for (key, value) in &self.changes {
            match value {
                Some(value) => self.now.insert(key.clone(), value.clone()),
                None => self.now.remove(key),
            };
        }
    }

    /// Of what was changed since the last sync some becomes durable, row by row.
    fn keep_some(&mut self, seed: u64) {
        let mut chance = seed;
        let keep_of_8 = seed % 9;
        for (key, value) in std::mem::take(&mut self.changes) {
            chance = mix(chance.wrapping_add(1));
            if chance % 8 < keep_of_8 {
                match value {
                    Some(value) => self.durable.insert(key, value),
                    None => self.durable.remove(&key),
                };
            }
        }
    }
}

/// What splitmix64 goes on by.
pub(crate) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// splitmix64's last step: spreads the bits of a number.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rows for MemRows {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.change(key, Some(value))
    }

    fn remove(&self, key: &[u8]) -> Result<(), String> {
        self.change(key, None)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(self.state.lock().now.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send> {
        let rows = self.clone();
        let (mut next, to) = (from.to_vec(), to.to_vec());
        Box::new(std::iter::from_fn(move || {
            let state = rows.state.lock();
            let (key, value) = state.now.range(next.clone()..to.clone()).next()?;
            next = [key.as_slice(), &[0]].concat();
            Some(Ok((key.clone(), value.clone())))
        }))
    }

    fn sync(&self) -> Result<(), String> {
        let state = &mut *self.state.lock();
        state.spend()?;
        if countdown(&mut state.syncs_until_failure) {
            state.keep_some(state.now.len() as u64);
            state.broken = Some(Broken::Dead);
            return Err("the sync failed".to_owned());
        }
        for (key, value) in std::mem::take(&mut state.changes) {
            match value {
                Some(value) => state.durable.insert(key, value),
                None => state.durable.remove(&key),
            };
        }
        Ok(())
    }

    fn set_witness(&self, group: u64, bytes: &[u8]) -> Result<(), String> {
        let mut state = self.state.lock();
        state.spend()?;
        state.witnesses.insert(group, bytes.to_vec());
        Ok(())
    }

    fn witness(&self, group: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(self.state.lock().witnesses.get(&group).cloned())
    }

    fn is_broken(&self) -> bool {
        self.state.lock().broken.is_some()
    }

    fn is_dead(&self) -> bool {
        self.state.lock().broken == Some(Broken::Dead)
    }

    fn is_lost(&self) -> bool {
        self.state.lock().broken == Some(Broken::Lost)
    }

    fn begin_anew(&self) -> Result<(), String> {
        let state = &mut *self.state.lock();
        if state.off {
            return Err("the power is off".to_owned());
        }
        state.broken = None;
        state.changes.clear();
        state.now.clear();
        state.durable.clear();
        Ok(())
    }

    fn reopen(&self) -> Result<(), String> {
        let state = &mut *self.state.lock();
        if state.off {
            return Err("the power is off".to_owned());
        }
        match state.broken {
            Some(Broken::Dead) => {
                return Err("an earlier failure can only be looked at by a new start of this member".to_owned());
            }
            Some(Broken::Lost) => return Err("its files are damaged".to_owned()),
            Some(Broken::Full) | None => {}
        }
        if state.broken.take().is_some() {
            state.drop_some();
        }
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        self.state.lock().full.then_some(0)
    }

    fn disk_bytes(&self) -> u64 {
        self.state.lock().now.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}
