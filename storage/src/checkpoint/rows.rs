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
    /// Makes room for a row that is going to be put.
    ///
    /// # Errors
    /// What the store said.
    fn reserve(&self, key: &[u8]) -> Result<(), String> {
        self.put(key, &[])
    }
    /// One row.
    ///
    /// # Errors
    /// What the store said.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String>;
    /// The rows from `from` up to but not including `to`, in order of their keys.
    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send>;
    /// Has the disk take what was written until now, so that the next [`Rows::sync`] has little to wait for and others do
    /// not wait for much at a time. Nothing of it is durable by that.
    ///
    /// # Errors
    /// What the store or the disk said.
    fn write_back(&self) -> Result<(), String> {
        Ok(())
    }
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
    /// The groups for which bytes are kept.
    ///
    /// # Errors
    /// What the disk said.
    fn witnesses(&self) -> Result<Vec<u64>, String>;
    /// True after a write or sync has failed, or damage was found, until another store has taken its place.
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
    /// Looks whether all is still there that was when it was put to rest.
    ///
    /// # Errors
    /// If not, and the store is lost then; or what the disk said.
    fn wake(&self) -> Result<(), String> {
        Ok(())
    }
    /// True after damage was found that a write or [`Rows::wake`] has met: what the rows are is not known any more. Whoever
    /// still has all that they held writes it to another store.
    fn is_lost(&self) -> bool {
        false
    }
    /// Begins a store without rows beside this one, in place of one that was begun before. It is of no use but to be given
    /// to [`Rows::take_next`], and of none at all to the next process.
    ///
    /// # Errors
    /// What the disk said.
    fn begin_next(&self) -> Result<Arc<dyn Rows>, String>;
    /// Puts the store that was begun last, and synced, in the place of this one, with what was kept in it for each group.
    /// It is durable when this returns.
    ///
    /// # Errors
    /// What the disk said. Which of the two the next process finds is not known if this one [is dead](Rows::is_dead)
    /// then; else it is the old one.
    fn take_next(&self) -> Result<(), String>;
    /// Removes a store that was begun and did not take the place of this one.
    fn drop_next(&self);
    /// Bytes on disk of the store whose place this one has taken. Nobody needs them.
    fn left_over(&self) -> u64 {
        0
    }
    /// Gives so many of them back, or nearly; true if there are more. A large file that goes at once makes others wait.
    fn discard(&self, _bytes: u64) -> bool {
        false
    }
    /// Gives back memory that only whoever reads or writes needs. Nobody does now; whoever does next has it again.
    fn rest(&self) {}
    /// True if it takes much more than the `live` bytes that count.
    fn has_outgrown(&self, _live: u64) -> bool {
        false
    }
    /// Bytes that the disk has room for, where that is known.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

/// What one store holds.
#[derive(Clone, Default)]
struct Table {
    now: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    witnesses: BTreeMap<u64, Vec<u8>>,
    /// A write or a sync has failed since it was opened.
    broken: Option<Broken>,
}

#[derive(Default)]
struct MemState {
    table: Table,
    next: Option<Table>,
    operations_left: Option<u64>,
    off: bool,
    puts_until_failure: Option<u64>,
    syncs_until_failure: Option<u64>,
    full: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// There was no room.
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
    /// Whether it is the one that is to take the place of the other.
    is_next: bool,
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
        state.table.keep_some(seed);
        // Whoever still holds the old handle writes to nothing.
        state.off = true;
        let Table { durable, witnesses, .. } = state.table.clone();
        let table = Table { now: durable.clone(), durable, witnesses, ..Table::default() };
        let state = MemState { table, full: state.full, ..MemState::default() };
        Self { state: Arc::new(Mutex::new(state)), is_next: false }
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
        self.state.lock().table.broken.get_or_insert(Broken::Lost);
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
        state.next = None;
        let table = &mut state.table;
        // What an earlier process failed to write is written anew, to other places.
        if table.broken.take() == Some(Broken::Dead) {
            table.durable = table.now.clone();
            table.changes.clear();
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
        for (key, value) in &self.state.lock().table.now {
            hasher.update(key);
            hasher.update(value);
        }
        hasher.finalize()
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().table.now.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flips one bit of the value of the row at `position`, for readers and on the platter.
    pub fn flip_bit(&self, position: usize, bit: usize) {
        let table = &mut self.state.lock().table;
        let Some((key, value)) = table.now.iter_mut().nth(position) else { return };
        let bit = bit % (value.len() * 8);
        for value in [Some(value), table.durable.get_mut(key)].into_iter().flatten() {
            if let Some(byte) = value.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// [`Rows::begin_next`], for whoever stands before this one.
    ///
    /// # Errors
    /// If the power is off.
    pub fn make_next(&self) -> Result<Self, String> {
        let mut state = self.state.lock();
        state.spend()?;
        state.next = Some(Table::default());
        Ok(Self { state: Arc::clone(&self.state), is_next: true })
    }

    fn change(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let state = &mut *self.state.lock();
        state.spend()?;
        let (full, fails) = (state.full && value.is_some(), countdown(&mut state.puts_until_failure));
        let table = state.table(self.is_next)?;
        table.check()?;
        if full || fails {
            table.broken = Some(if full { Broken::Full } else { Broken::Dead });
            return Err(if full { "there is no room" } else { "the write failed" }.to_owned());
        }
        match value {
            Some(value) => table.now.insert(key.to_vec(), value.to_vec()),
            None => table.now.remove(key),
        };
        table.changes.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        Ok(())
    }

    /// Reads from the store that this stands for; nothing if it is gone.
    fn look<T: Default>(&self, look: impl FnOnce(&Table) -> T) -> T {
        let state = self.state.lock();
        if self.is_next { state.next.as_ref().map(look).unwrap_or_default() } else { look(&state.table) }
    }
}

impl MemState {
    fn table(&mut self, is_next: bool) -> Result<&mut Table, String> {
        if is_next { self.next.as_mut().ok_or_else(|| "it was given up".to_owned()) } else { Ok(&mut self.table) }
    }

    fn spend(&mut self) -> Result<(), String> {
        match &mut self.operations_left {
            Some(0) => self.off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if self.off { Err("the power is off".to_owned()) } else { Ok(()) }
    }
}

impl Table {
    fn check(&self) -> Result<(), String> {
        if self.broken.is_some() { Err("an earlier write has failed".to_owned()) } else { Ok(()) }
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
        Ok(self.look(|table| table.now.get(key).cloned()))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send> {
        let rows = self.clone();
        let (mut next, to) = (from.to_vec(), to.to_vec());
        Box::new(std::iter::from_fn(move || {
            let row = |table: &Table| {
                table.now.range(next.clone()..to.clone()).next().map(|(key, value)| (key.clone(), value.clone()))
            };
            let (key, value) = rows.look(row)?;
            next = [key.as_slice(), &[0]].concat();
            Some(Ok((key, value)))
        }))
    }

    fn sync(&self) -> Result<(), String> {
        let state = &mut *self.state.lock();
        state.spend()?;
        let fails = countdown(&mut state.syncs_until_failure);
        let table = state.table(self.is_next)?;
        table.check()?;
        if fails {
            table.keep_some(table.now.len() as u64);
            table.broken = Some(Broken::Dead);
            return Err("the sync failed".to_owned());
        }
        for (key, value) in std::mem::take(&mut table.changes) {
            match value {
                Some(value) => table.durable.insert(key, value),
                None => table.durable.remove(&key),
            };
        }
        Ok(())
    }

    fn set_witness(&self, group: u64, bytes: &[u8]) -> Result<(), String> {
        let mut state = self.state.lock();
        state.spend()?;
        let table = state.table(self.is_next)?;
        table.check()?;
        table.witnesses.insert(group, bytes.to_vec());
        Ok(())
    }

    fn witness(&self, group: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(self.look(|table| table.witnesses.get(&group).cloned()))
    }

    fn witnesses(&self) -> Result<Vec<u64>, String> {
        Ok(self.look(|table| table.witnesses.keys().copied().collect()))
    }

    fn is_broken(&self) -> bool {
        self.look(|table| table.broken.is_some())
    }

    fn is_dead(&self) -> bool {
        self.look(|table| table.broken == Some(Broken::Dead))
    }

    fn is_lost(&self) -> bool {
        self.look(|table| table.broken == Some(Broken::Lost))
    }

    fn begin_next(&self) -> Result<Arc<dyn Rows>, String> {
        Ok(Arc::new(self.make_next()?))
    }

    fn take_next(&self) -> Result<(), String> {
        let state = &mut *self.state.lock();
        state.spend()?;
        let fails = countdown(&mut state.syncs_until_failure);
        let next = state.next.take().ok_or("there is none")?;
        // Whether the new name is on the disk after a sync that failed is anybody's guess.
        if !fails || next.now.len() % 2 == 0 {
            state.table = next;
        }
        if fails {
            state.table.broken = Some(Broken::Dead);
            return Err("the sync failed".to_owned());
        }
        Ok(())
    }

    fn drop_next(&self) {
        self.state.lock().next = None;
    }

    fn free_bytes(&self) -> Option<u64> {
        self.state.lock().full.then_some(0)
    }

    fn disk_bytes(&self) -> u64 {
        self.look(|table| table.now.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}
