//! What a process did to its files, read from a trace of its system calls, and what a power cut leaves of it.
//!
//! The rules are those of `disk.rs`, and no kinder: bytes are on disk once a sync of their file, begun after they were
//! written, has returned; a name once its directory was synced. Before that each write, or each sector of it, and each
//! change of a name is there or not, as a seed says. `sync_file_range` promises nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const SECTOR_BYTES: usize = 512;

/// The calls that are traced.
pub const CALLS: &str = "openat,creat,pwrite64,write,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,unlink,\
                         unlinkat";

#[derive(Debug, Clone)]
enum What {
    /// Opened to be made if missing; emptied.
    Create {
        path: PathBuf,
        empty: bool,
    },
    /// At an offset, or at the end.
    Write {
        path: PathBuf,
        offset: Option<usize>,
        data: Vec<u8>,
    },
    SetLen {
        path: PathBuf,
        bytes: usize,
    },
    Grow {
        path: PathBuf,
        bytes: usize,
    },
    Sync {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
}

#[derive(Debug, Clone)]
struct Call {
    begin: usize,
    end: usize,
    what: What,
}

/// All that was done, in the order in which it was begun. Moments are numbers of lines.
pub struct Trace {
    calls: Vec<Call>,
    pub moments: usize,
}

/// A line's call: name, arguments, result.
fn split_call(line: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = line.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    Some((name, args.trim_end().strip_suffix(')')?, result))
}

fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|pair| u8::from_str_radix(&pair[..2], 16).expect("hex")).collect()
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(String::from_utf8(bytes).expect("paths of ours are text"))
}

/// The path in `7<\x2f…>`; none of a file that has no name any more.
fn fd_path(arg: &str) -> Option<PathBuf> {
    let (_, rest) = arg.split_once('<')?;
    let (hex, rest) = rest.split_once('>')?;
    (!rest.starts_with("(deleted)")).then(|| path_of(unhex(hex)))
}

fn string(arg: &str) -> Vec<u8> {
    assert!(!arg.ends_with("..."), "the trace was cut short");
    unhex(arg.trim_matches('"'))
}

fn parse(line: &str) -> Option<What> {
    let (name, args, result) = split_call(line)?;
    if result.starts_with('-') {
        return None;
    }
    let args: Vec<&str> = args.split(", ").collect();
    let number = |at: usize| args[at].parse::<usize>().expect("a number");
    Some(match name {
        "openat" => {
            let flags = args[2];
            if !flags.contains("O_CREAT") {
                return None;
            }
            What::Create { path: path_of(string(args[1])), empty: flags.contains("O_TRUNC") }
        }
        "pwrite64" => What::Write { path: fd_path(args[0])?, offset: Some(number(3)), data: string(args[1]) },
        "write" => What::Write { path: fd_path(args[0])?, offset: None, data: string(args[1]) },
        "ftruncate" => What::SetLen { path: fd_path(args[0])?, bytes: number(1) },
        "fallocate" => What::Grow { path: fd_path(args[0])?, bytes: number(2) + number(3) },
        "fsync" | "fdatasync" => What::Sync { path: fd_path(args[0])? },
        "rename" => What::Rename { from: path_of(string(args[0])), to: path_of(string(args[1])) },
        "renameat" | "renameat2" => What::Rename { from: path_of(string(args[1])), to: path_of(string(args[3])) },
        "unlink" => What::Remove { path: path_of(string(args[0])) },
        "unlinkat" => What::Remove { path: path_of(string(args[1])) },
        other => panic!("an unknown call: {other}"),
    })
}

impl Trace {
    /// Reads what `strace -f -y -xx` wrote.
    pub fn read(text: &str, root: &Path) -> Self {
        let mut open: BTreeMap<&str, (usize, String)> = BTreeMap::new();
        let mut calls = Vec::new();
        let mut moments = 0;
        for (at, line) in text.lines().enumerate() {
            moments = at + 1;
            let Some((pid, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            if let Some(first) = rest.strip_suffix("<unfinished ...>") {
                open.insert(pid, (at, first.trim_end().to_owned()));
                continue;
            }
            let (begin, whole) = match rest.strip_prefix("<... ") {
                Some(resumed) => {
                    let Some((begin, first)) = open.remove(pid) else { continue };
                    let (_, tail) = resumed.split_once("resumed>").expect("a resumed call");
                    (begin, format!("{first}{tail}"))
                }
                None => (at, rest.to_owned()),
            };
            calls.extend(parse(&whole).map(|what| Call { begin, end: at, what }));
        }
        calls.retain(|call| call.what.path().starts_with(root));
        calls.sort_by_key(|call| call.begin);
        Self { calls, moments }
    }

    /// The text written to a file before a moment.
    pub fn written_to(&self, path: &Path, moment: usize) -> String {
        let text = self.calls.iter().filter(|call| call.begin < moment).filter_map(|call| match &call.what {
            What::Write { path: to, data, .. } if to == path => Some(String::from_utf8_lossy(data)),
            _ => None,
        });
        text.collect()
    }

    /// Moments at which something begins or ends under this folder.
    pub fn interesting(&self, dir: &Path) -> Vec<usize> {
        let calls = self.calls.iter().filter(|call| call.what.path().starts_with(dir));
        let mut moments: Vec<usize> = calls.flat_map(|call| [call.begin, call.begin + 1, call.end + 1]).collect();
        moments.sort_unstable();
        moments.dedup();
        moments
    }
}

impl What {
    fn path(&self) -> &Path {
        match self {
            What::Create { path, .. }
            | What::Write { path, .. }
            | What::SetLen { path, .. }
            | What::Grow { path, .. }
            | What::Sync { path }
            | What::Remove { path } => path,
            What::Rename { to, .. } => to,
        }
    }
}

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

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<(usize, Change)>,
    /// As the process sees it.
    bytes: usize,
}

enum Name {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    /// Of a folder, with all that is in it.
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Name {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Name::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
            Name::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Name::Move(from, to) => {
                let all = std::mem::take(names).into_iter();
                names.extend(all.map(|(path, inode)| match path.strip_prefix(from) {
                    Ok(rest) => (to.join(rest), inode),
                    Err(_) => (path, inode),
                }));
            }
            Name::Remove(path) => drop(names.remove(path)),
        }
    }

    fn dir(&self) -> Option<&Path> {
        match self {
            Name::Link(path, _) | Name::Remove(path) | Name::Rename(_, path, _) | Name::Move(_, path) => path.parent(),
        }
    }
}

/// Files as they were at a moment, and what of them was on disk.
#[derive(Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    changes: Vec<(usize, Name)>,
}

impl Disk {
    fn rename_change(&mut self, end: usize, name: Name) {
        name.apply(&mut self.names);
        self.changes.push((end, name));
    }

    fn change(&mut self, end: usize, path: &Path, change: impl FnOnce(&Inode) -> Change) {
        if let Some(inode) = self.names.get(path).map(|at| &mut self.inodes[*at]) {
            let change = change(inode);
            inode.bytes = match &change {
                Change::Write(offset, data) => inode.bytes.max(offset + data.len()),
                Change::SetLen(bytes) => *bytes,
                Change::Grow(bytes) => inode.bytes.max(*bytes),
            };
            inode.pending.push((end, change));
        }
    }

    fn take(&mut self, call: &Call, moment: usize) {
        let end = call.end;
        match &call.what {
            What::Create { path, empty } => {
                if !self.names.contains_key(path) {
                    self.inodes.push(Inode::default());
                    let inode = self.inodes.len() - 1;
                    self.rename_change(end, Name::Link(path.clone(), inode));
                } else if *empty {
                    self.change(end, path, |_| Change::SetLen(0));
                }
            }
            What::Write { path, offset, data } => {
                self.change(end, path, |inode| Change::Write(offset.unwrap_or(inode.bytes), data.clone()));
            }
            What::SetLen { path, bytes } => self.change(end, path, |_| Change::SetLen(*bytes)),
            What::Grow { path, bytes } => self.change(end, path, |_| Change::Grow(*bytes)),
            What::Rename { from, to } => {
                if let Some(inode) = self.names.get(from).copied() {
                    self.rename_change(end, Name::Rename(from.clone(), to.clone(), inode));
                } else {
                    self.rename_change(end, Name::Move(from.clone(), to.clone()));
                }
            }
            What::Remove { path } => self.rename_change(end, Name::Remove(path.clone())),
            // One that had not returned has promised nothing.
            What::Sync { path } if end < moment => self.sync(path, call.begin),
            What::Sync { .. } => {}
        }
    }

    fn sync(&mut self, path: &Path, begin: usize) {
        if let Some(inode) = self.names.get(path).map(|at| &mut self.inodes[*at]) {
            let (before, after) = std::mem::take(&mut inode.pending).into_iter().partition(|(end, _)| *end < begin);
            inode.pending = after;
            let before: Vec<(usize, Change)> = before;
            before.iter().for_each(|(_, change)| change.apply(&mut inode.durable));
            return;
        }
        let is_in = |name: &Name| name.dir() == Some(path);
        let (synced, rest) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|(end, name): &(usize, Name)| *end < begin && is_in(name));
        self.changes = rest;
        let synced: Vec<(usize, Name)> = synced;
        synced.iter().for_each(|(_, name)| name.apply(&mut self.durable));
    }

    /// The power goes.
    fn lose(&mut self, chance: &mut Chance) {
        let keep = chance.below(3) * 8;
        for (_, name) in std::mem::take(&mut self.changes) {
            if chance.below(16) < keep {
                name.apply(&mut self.durable);
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
}

impl Trace {
    /// Writes to `out` what is under `root` after the power went at that moment.
    pub fn after_cut(&self, moment: usize, seed: u64, root: &Path, out: &Path) {
        let mut disk = Disk::default();
        for call in self.calls.iter().take_while(|call| call.begin < moment) {
            disk.take(call, moment);
        }
        disk.lose(&mut Chance(seed));
        for (path, inode) in &disk.durable {
            let to = out.join(path.strip_prefix(root).expect("under the root"));
            fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
            fs::write(to, &disk.inodes[*inode].durable).expect("a file");
        }
    }
}
