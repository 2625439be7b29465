//! LCS: the longest common subsequence of two strings, by the table of all pairs of prefixes.

use crate::args::Args;
use crate::cx::ReadCx;
use crate::error::CmdError;
use crate::reply::ReplyBuf;
use crate::settings::Setting;

const WRONG_TYPES: CmdError = CmdError::fixed("ERR The specified keys must contain string values");
const LEN_AND_IDX: CmdError = CmdError::fixed("ERR If you want both the length and indexes, please just use IDX.");
const TOO_LONG: CmdError = CmdError::fixed("ERR String too long for LCS");
const TOO_LARGE: CmdError =
    CmdError::fixed("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len");

#[derive(Default)]
struct Options {
    length_only: bool,
    ranges: bool,
    with_length: bool,
    least: i64,
}

impl Options {
    fn parse(args: &mut Args<'_>) -> Result<Self, CmdError> {
        let mut options = Self::default();
        while !args.is_empty() {
            if args.keyword("idx") {
                options.ranges = true;
            } else if args.keyword("len") {
                options.length_only = true;
            } else if args.keyword("withmatchlen") {
                options.with_length = true;
            } else if args.remaining() > 1 && args.keyword("minmatchlen") {
                options.least = args.int()?.max(0);
            } else {
                return Err(CmdError::SYNTAX);
            }
        }
        if options.length_only && options.ranges { Err(LEN_AND_IDX) } else { Ok(options) }
    }
}

/// Lengths of common subsequences of all prefixes: row by row, one row and column more than the strings have bytes.
struct Table {
    width: usize,
    cells: Vec<u32>,
}

impl Table {
    fn of(a: &[u8], b: &[u8]) -> Self {
        let width = b.len() + 1;
        let mut cells = vec![0u32; (a.len() + 1) * width];
        for (row, x) in a.iter().enumerate() {
            let (done, rest) = cells.split_at_mut((row + 1) * width);
            let above = &done[row * width..];
            let here = &mut rest[..width];
            for (column, y) in b.iter().enumerate() {
                here[column + 1] = if x == y { above[column] + 1 } else { above[column + 1].max(here[column]) };
            }
        }
        Self { width, cells }
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * self.width + j]
    }
}

/// Where a run of common bytes stands in both strings: first and last offset in each.
struct Run {
    a: (usize, usize),
    b: (usize, usize),
}

impl Run {
    fn length(&self) -> usize {
        self.a.1 - self.a.0 + 1
    }
}

/// Walks back from the ends: the common bytes, and the runs they stand in, the last first.
fn walk(table: &Table, a: &[u8], b: &[u8]) -> (Vec<u8>, Vec<Run>) {
    let (mut i, mut j) = (a.len(), b.len());
    let mut common = Vec::with_capacity(table.at(i, j) as usize);
    let mut runs: Vec<Run> = Vec::new();
    let mut open = false;
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            (i, j) = (i - 1, j - 1);
            common.push(a[i]);
            match runs.last_mut().filter(|_| open) {
                Some(run) => (run.a.0, run.b.0) = (i, j),
                None => runs.push(Run { a: (i, i), b: (j, j) }),
            }
            open = true;
        } else {
            if table.at(i - 1, j) > table.at(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
            open = false;
        }
    }
    common.reverse();
    (common, runs)
}

pub(super) fn lcs(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let mut string = || cx.string(args.next()?).map(Option::unwrap_or_default).map_err(|_| WRONG_TYPES);
    let (a, b) = (string()?, string()?);
    let options = Options::parse(args)?;
    let longest = u32::MAX as usize - 1;
    if a.len() >= longest || b.len() >= longest {
        return Err(TOO_LONG);
    }
    let cells = (a.len() as u64 + 1) * (b.len() as u64 + 1);
    if cells.saturating_mul(4) > cx.settings().limit(Setting::ProtoMaxBulkLen) as u64 {
        return Err(TOO_LARGE);
    }
    let (a, b) = (a.whole(), b.whole());
    let table = Table::of(&a, &b);
    let length = i64::from(table.at(a.len(), b.len()));
    if options.length_only {
        out.int(length);
        return Ok(());
    }
    let (common, mut runs) = walk(&table, &a, &b);
    if !options.ranges {
        out.bulk(&common);
        return Ok(());
    }
    runs.retain(|run| run.length() as i64 >= options.least);
    out.map(2);
    out.bulk(b"matches");
    out.array(runs.len());
    for run in &runs {
        out.array(if options.with_length { 3 } else { 2 });
        for (first, last) in [run.a, run.b] {
            out.array(2);
            out.len(first);
            out.len(last);
        }
        if options.with_length {
            out.len(run.length());
        }
    }
    out.bulk(b"len");
    out.int(length);
    Ok(())
}
