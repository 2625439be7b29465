//! The disk that a trace is played on, and what a loss of power leaves of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::trace::{Call, What};

const SECTOR_BYTES: usize = 512;
/// The folder that all is in.
const ROOT: usize = 0;

/// splitmix64: the same chances on every machine.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Grow(usize),
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(offset, data) => put(bytes, *offset, data),
            Change::SetLen(len) => bytes.resize(*len, 0),
            Change::Grow(len) => bytes.resize((*len).max(bytes.len()), 0),
        }
    }

    fn apply_torn(&self, bytes: &mut Vec<u8>, chance: &mut Chance, keep_of_16: u64) {
        let Change::Write(offset, data) = self else {
            if chance.below(16) < keep_of_16 {
                self.apply(bytes);
            }
            return;
        };
        let mut at = 0;
        while at < data.len() {
            let len = (SECTOR_BYTES - (offset + at) % SECTOR_BYTES).min(data.len() - at);
            if chance.below(16) < keep_of_16 {
                put(bytes, offset + at, &data[at..at + len]);
            }
            at += len;
        }
    }
}

type Names = BTreeMap<OsString, usize>;

/// A file or a folder.
#[derive(Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<(usize, Change)>,
    /// As the process sees it.
    bytes: usize,
    folder: bool,
    names: Names,
    durable_names: Names,
}

/// A name in a folder.
type Place = (usize, OsString);

#[derive(Clone)]
enum Name {
    Link(Place, usize),
    Rename(Place, Place, usize),
    Exchange((Place, usize), (Place, usize)),
    Remove(Place),
}

impl Name {
    fn apply(&self, inodes: &mut [Inode], names: fn(&mut Inode) -> &mut Names) {
        let mut set = |(folder, name): &Place, inode: Option<usize>| {
            let names = names(&mut inodes[*folder]);
            match inode {
                Some(inode) => drop(names.insert(name.clone(), inode)),
                None => drop(names.remove(name)),
            }
        };
        match self {
            Name::Link(place, inode) => set(place, Some(*inode)),
            Name::Rename(from, to, inode) => {
                set(from, None);
                set(to, Some(*inode));
            }
            Name::Exchange((one, was_one), (other, was_other)) => {
                set(one, Some(*was_other));
                set(other, Some(*was_one));
            }
            Name::Remove(place) => set(place, None),
        }
    }

    fn folder(&self) -> usize {
        let (Name::Link((folder, _), _)
        | Name::Remove((folder, _))
        | Name::Rename(_, (folder, _), _)
        | Name::Exchange(((folder, _), _), _)) = self;
        *folder
    }
}

/// Files as they were at a moment, and what of them was on disk.
#[derive(Clone)]
pub struct Disk {
    root: PathBuf,
    inodes: Vec<Inode>,
    changes: Vec<(usize, Name)>,
    /// Syncs that have begun: what they sync, their beginning and their end.
    syncs: Vec<(usize, usize, usize)>,
}

impl Disk {
    pub fn new(root: &Path) -> Self {
        let folder = Inode { folder: true, ..Inode::default() };
        Self { root: root.to_owned(), inodes: vec![folder], changes: Vec::new(), syncs: Vec::new() }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let path = path.strip_prefix(&self.root).expect("under the root");
        path.iter().try_fold(ROOT, |at, name| self.inodes[at].names.get(name).copied())
    }

    fn place(&self, path: &Path) -> Place {
        let folder = path.parent().and_then(|parent| self.find(parent)).expect("a folder that is there");
        (folder, path.file_name().expect("a name").to_owned())
    }

    fn name(&mut self, end: usize, name: Name) {
        name.apply(&mut self.inodes, |inode| &mut inode.names);
        self.changes.push((end, name));
    }

    fn make(&mut self, end: usize, path: &Path, folder: bool) {
        let place = self.place(path);
        self.inodes.push(Inode { folder, ..Inode::default() });
        self.name(end, Name::Link(place, self.inodes.len() - 1));
    }

    fn change(&mut self, end: usize, path: &Path, change: impl FnOnce(&Inode) -> Change) {
        if let Some(at) = self.find(path) {
            let inode = &mut self.inodes[at];
            let change = change(inode);
            inode.bytes = match &change {
                Change::Write(offset, data) => inode.bytes.max(offset + data.len()),
                Change::SetLen(bytes) => *bytes,
                Change::Grow(bytes) => inode.bytes.max(*bytes),
            };
            inode.pending.push((end, change));
        }
    }

    fn copy(&mut self, end: usize, from: &Path, to: &Path, bytes: usize) {
        let Some(from) = self.find(from).map(|at| &self.inodes[at]) else { return };
        let mut whole = from.durable.clone();
        from.pending.iter().for_each(|(_, change)| change.apply(&mut whole));
        self.change(end, to, |inode| Change::Write(inode.bytes, whole[inode.bytes..inode.bytes + bytes].to_vec()));
    }

    /// A call has begun.
    pub fn take(&mut self, call: &Call) {
        let end = call.end;
        match &call.what {
            What::Create { path, empty } => {
                if self.find(path).is_none() {
                    self.make(end, path, false);
                } else if *empty {
                    self.change(end, path, |_| Change::SetLen(0));
                }
            }
            What::Folder { path } => self.make(end, path, true),
            What::Write { path, offset, data } => {
                self.change(end, path, |inode| Change::Write(offset.unwrap_or(inode.bytes), data.clone()));
            }
            What::Copy { from, path, bytes } => self.copy(end, from, path, *bytes),
            What::SetLen { path, bytes } => self.change(end, path, |_| Change::SetLen(*bytes)),
            What::Grow { path, bytes } => self.change(end, path, |_| Change::Grow(*bytes)),
            What::Rename { from, to } => {
                let inode = self.find(from).expect("it has a name");
                self.name(end, Name::Rename(self.place(from), self.place(to), inode));
            }
            What::Exchange { one, other } => {
                let both = [one, other].map(|path| (self.place(path), self.find(path).expect("it has a name")));
                let [one, other] = both;
                self.name(end, Name::Exchange(one, other));
            }
            What::Remove { path } => self.name(end, Name::Remove(self.place(path))),
            What::Sync { path } => self.syncs.extend(self.find(path).map(|inode| (inode, call.begin, end))),
        }
    }

    /// Syncs that have returned before this moment have kept their promise.
    fn settle(&mut self, moment: usize) {
        let (done, open) = std::mem::take(&mut self.syncs).into_iter().partition(|(_, _, end)| *end < moment);
        self.syncs = open;
        let done: Vec<(usize, usize, usize)> = done;
        done.iter().for_each(|(inode, begin, _)| self.sync(*inode, *begin));
    }

    fn sync(&mut self, at: usize, begin: usize) {
        let inode = &mut self.inodes[at];
        let (before, after) = std::mem::take(&mut inode.pending).into_iter().partition(|(end, _)| *end < begin);
        inode.pending = after;
        let before: Vec<(usize, Change)> = before;
        before.iter().for_each(|(_, change)| change.apply(&mut inode.durable));
        let (synced, rest) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|(end, name): &(usize, Name)| *end < begin && name.folder() == at);
        self.changes = rest;
        let synced: Vec<(usize, Name)> = synced;
        synced.iter().for_each(|(_, name)| name.apply(&mut self.inodes, |inode| &mut inode.durable_names));
    }

    /// What is left if the power goes at this moment, up to which all calls were taken, is written to `out`.
    pub fn after_cut(&mut self, moment: usize, seed: u64, out: &Path) {
        self.settle(moment);
        let mut left = self.clone();
        left.lose(&mut Chance(seed));
        left.write(ROOT, out);
    }

    fn lose(&mut self, chance: &mut Chance) {
        let keep = chance.below(3) * 8;
        for (_, name) in std::mem::take(&mut self.changes) {
            if chance.below(16) < keep {
                name.apply(&mut self.inodes, |inode| &mut inode.durable_names);
            }
        }
        for inode in &mut self.inodes {
            let pending = std::mem::take(&mut inode.pending);
            let bytes = &mut inode.durable;
            match chance.below(4) {
                0 => {}
                1 => pending.iter().for_each(|(_, change)| change.apply(bytes)),
                2 => {
                    let whole = chance.below(pending.len() as u64 + 1) as usize;
                    pending[..whole].iter().for_each(|(_, change)| change.apply(bytes));
                    if let Some((_, change)) = pending.get(whole) {
                        change.apply_torn(bytes, chance, 8);
                    }
                }
                _ => {
                    let keep = 1 + chance.below(15);
                    pending.iter().for_each(|(_, change)| change.apply_torn(bytes, chance, keep));
                }
            }
        }
    }

    fn write(&self, at: usize, to: &Path) {
        let inode = &self.inodes[at];
        if !inode.folder {
            return fs::write(to, &inode.durable).expect("a file");
        }
        fs::create_dir_all(to).expect("a folder");
        inode.durable_names.iter().for_each(|(name, inode)| self.write(*inode, &to.join(name)));
    }
}
