//! Golden files: bytes of each on-disk format version, kept as hex that a person can read and a diff can show.
//!
//! Included by the tests of the crates that own a format (`#[path]`), so it uses nothing beyond `core`'s strings and
//! vectors. A golden file is never edited: bytes of version 1 stay readable for ever. Where today's code writes other
//! bytes, the format has changed, and needs a new version number and a new golden file beside the old one.
//!
//! ```text
//! # a comment
//! file NAME BYTES
//! OFFSET HEX        16 bytes a line; lines of zeros are left out
//! ```

/// Names and contents.
pub type Files = Vec<(String, Vec<u8>)>;

/// The files that a golden text holds.
pub fn parse(text: &str) -> Files {
    let mut files = Files::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix("file ") {
            let (name, bytes) = head.rsplit_once(' ').expect("a name and a size");
            files.push((name.to_owned(), vec![0; bytes.parse().expect("a size")]));
            continue;
        }
        let (offset, hex) = line.split_once(' ').expect("an offset and bytes");
        let offset = usize::from_str_radix(offset, 16).expect("an offset");
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
        let (_, file) = files.last_mut().expect("a file before its bytes");
        for (at, pair) in digits.chunks(2).enumerate() {
            let pair = str::from_utf8(pair).expect("ASCII");
            file[offset + at] = u8::from_str_radix(pair, 16).expect("two digits");
        }
    }
    files
}

/// Files in the form that [`parse`] reads.
pub fn print(files: &[(String, Vec<u8>)]) -> String {
    let mut out = String::new();
    for (name, bytes) in files {
        out.push_str(&format!("file {name} {}\n", bytes.len()));
        for (line, chunk) in bytes.chunks(16).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0)) {
            let hex: Vec<String> =
                chunk.chunks(4).map(|four| four.iter().map(|b| format!("{b:02x}")).collect()).collect();
            out.push_str(&format!("{:08x} {}\n", line * 16, hex.join(" ")));
        }
    }
    out
}

/// Fails unless today's bytes are the golden ones.
pub fn check(name: &str, golden: &str, now: &[(String, Vec<u8>)]) {
    let golden = parse(golden);
    if golden != now {
        panic!(
            "the bytes of {name} have changed. If that is wanted, give the format a new version, keep this golden file, \
             and add one for the new version. Written today:\n{}",
            print(now)
        );
    }
}
