//! What a process did to its files, read from a trace of its system calls, and what a power cut leaves of it.
//!
//! The rules are those of `disk.rs`, and no kinder: bytes are on disk once a sync of their file, begun after they were
//! written, has returned; a name once its directory was synced. Before that each write, or each sector of it, and each
//! change of a name is there or not, as a seed says. `sync_file_range` promises nothing, and a directory that is not named
//! in the one above it is lost with all that is in it.
//!
//! This file reads the trace; `model.rs` is the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The calls that are traced.
pub const CALLS: &str = "openat,creat,pwrite64,write,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,unlink,\
                         unlinkat,mkdir,mkdirat,rmdir,copy_file_range";

/// What a call did.
#[derive(Debug, Clone)]
pub enum What {
    /// Opened to be made if missing; emptied.
    Create {
        path: PathBuf,
        empty: bool,
    },
    Folder {
        path: PathBuf,
    },
    /// At an offset, or at the end.
    Write {
        path: PathBuf,
        offset: Option<usize>,
        data: Vec<u8>,
    },
    /// So many bytes more of another file, from where the last copy ended.
    Copy {
        from: PathBuf,
        path: PathBuf,
        bytes: usize,
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
    /// Two names change places.
    Exchange {
        one: PathBuf,
        other: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
}

/// A call, and the lines at which it began and had ended.
#[derive(Debug, Clone)]
pub struct Call {
    pub begin: usize,
    pub end: usize,
    pub what: What,
}

/// All that was done, in the order in which it was begun. Moments are numbers of lines.
#[derive(Clone)]
pub struct Trace {
    pub calls: Vec<Call>,
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
    let path = |at: usize| path_of(string(args[at]));
    // Below an open directory.
    let below = |at: usize| Some(fd_path(args[at])?.join(path(at + 1)));
    Some(match name {
        "openat" => {
            let flags = args[2];
            let empty = flags.contains("O_TRUNC");
            if !flags.contains("O_CREAT") && !empty {
                return None;
            }
            What::Create { path: below(0)?, empty }
        }
        "mkdir" => What::Folder { path: path(0) },
        "mkdirat" => What::Folder { path: below(0)? },
        "pwrite64" => What::Write { path: fd_path(args[0])?, offset: Some(number(3)), data: string(args[1]) },
        "write" => What::Write { path: fd_path(args[0])?, offset: None, data: string(args[1]) },
        "copy_file_range" => {
            assert!(args[1] == "NULL" && args[3] == "NULL", "a copy from the beginning to the end");
            let bytes = result.parse().expect("a number");
            What::Copy { from: fd_path(args[0])?, path: fd_path(args[2])?, bytes }
        }
        "ftruncate" => What::SetLen { path: fd_path(args[0])?, bytes: number(1) },
        "fallocate" => What::Grow { path: fd_path(args[0])?, bytes: number(2) + number(3) },
        "fsync" | "fdatasync" => What::Sync { path: fd_path(args[0])? },
        "rename" => What::Rename { from: path(0), to: path(1) },
        "renameat2" if args[4].contains("RENAME_EXCHANGE") => What::Exchange { one: below(0)?, other: below(2)? },
        "renameat" | "renameat2" => What::Rename { from: below(0)?, to: below(2)? },
        "unlink" | "rmdir" => What::Remove { path: path(0) },
        "unlinkat" => What::Remove { path: below(0)? },
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

    /// The moments at which two folders changed places: of each, the lines of the call's beginning and of the last removal
    /// behind it, before the next is begun.
    pub fn swaps(&self, beside: &Path) -> Vec<(usize, usize)> {
        let made = |call: &&Call| matches!(&call.what, What::Folder { path } if path == beside);
        let mut next: Vec<usize> = self.calls.iter().filter(made).map(|call| call.begin).collect();
        next.push(self.moments);
        let swaps = self.calls.iter().filter(|call| matches!(call.what, What::Exchange { .. }));
        let ends = swaps.map(|swap| {
            let next = next.iter().copied().find(|next| *next > swap.begin).unwrap_or(self.moments);
            let removed = |call: &&Call| {
                matches!(&call.what, What::Remove { path } if path.starts_with(beside)) && call.begin < next
            };
            (swap.begin, self.calls.iter().filter(removed).map(|call| call.end).max().unwrap_or(next))
        });
        ends.collect()
    }
}

impl What {
    pub fn path(&self) -> &Path {
        match self {
            What::Create { path, .. }
            | What::Folder { path }
            | What::Write { path, .. }
            | What::Copy { path, .. }
            | What::SetLen { path, .. }
            | What::Grow { path, .. }
            | What::Sync { path }
            | What::Remove { path } => path,
            What::Rename { to, .. } => to,
            What::Exchange { one, .. } => one,
        }
    }
}
