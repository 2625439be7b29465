//! LZF, the compression of longer strings inside DUMP payloads.
//!
//! A byte below 32 announces that many literal bytes plus one; any other begins a reference to bytes seen
//! up to 8 KiB before. The input of [`unpack`] is a client's: it must never make more than it announced.

const WINDOW: usize = 1 << 13;
const LONGEST: usize = 264;
const LITERALS: usize = 32;
const HASH_BITS: u32 = 14;

/// Compresses `bytes`, or gives up if that would not save at least four of them.
pub(super) fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    let limit = bytes.len().checked_sub(4)?;
    let mut out = Vec::with_capacity(limit);
    // Last place where three bytes with this hash began, plus one; a stale place is caught by comparing.
    let mut seen = vec![0_usize; 1 << HASH_BITS];
    let (mut at, mut literals) = (0, 0);
    while at + 2 < bytes.len() {
        let three = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]);
        let slot = (three.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize;
        let before = std::mem::replace(&mut seen[slot], at + 1);
        let found = before != 0 && at - (before - 1) <= WINDOW && bytes[before - 1..before + 2] == bytes[at..at + 3];
        if !found {
            at += 1;
            continue;
        }
        put_literals(&mut out, &bytes[literals..at]);
        let from = before - 1;
        let most = LONGEST.min(bytes.len() - at);
        let length = (3..most).find(|more| bytes[from + more] != bytes[at + more]).unwrap_or(most);
        put_reference(&mut out, at - from - 1, length - 2);
        at += length;
        literals = at;
        if out.len() >= limit {
            return None;
        }
    }
    put_literals(&mut out, &bytes[literals..]);
    (out.len() < limit).then_some(out)
}

fn put_literals(out: &mut Vec<u8>, bytes: &[u8]) {
    for run in bytes.chunks(LITERALS) {
        out.push(run.len() as u8 - 1);
        out.extend_from_slice(run);
    }
}

fn put_reference(out: &mut Vec<u8>, offset: usize, length: usize) {
    let high = (offset >> 8) as u8;
    if length < 7 {
        out.push((length as u8) << 5 | high);
    } else {
        out.push(7 << 5 | high);
        out.push((length - 7) as u8);
    }
    out.push(offset as u8);
}

/// Restores what [`pack`] made, if it comes to exactly `length` bytes. Nothing is reserved before that is known.
pub(super) fn unpack(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    if length_of(bytes, length)? != length {
        return None;
    }
    let mut out = Vec::with_capacity(length);
    let mut input = bytes;
    while !input.is_empty() {
        match step(&mut input)? {
            Step::Literals(run) => out.extend_from_slice(run),
            Step::Reference { back, mut length } => {
                let from = out.len().checked_sub(back)?;
                // The source may run into what is being written: that is how runs are stored.
                while length > 0 {
                    let now = length.min(out.len() - from);
                    out.extend_from_within(from..from + now);
                    length -= now;
                }
            }
        }
    }
    Some(out)
}

/// How many bytes come out, if they are at most so many and every reference is to one of them.
fn length_of(mut input: &[u8], most: usize) -> Option<usize> {
    let mut made = 0;
    while !input.is_empty() {
        made += match step(&mut input)? {
            Step::Literals(run) => run.len(),
            Step::Reference { back, length } => Some(length).filter(|_| back <= made)?,
        };
        if made > most {
            return None;
        }
    }
    Some(made)
}

/// What comes next.
enum Step<'a> {
    /// These bytes.
    Literals(&'a [u8]),
    /// So many bytes, those that came so far back and on; neither is ever zero.
    Reference { back: usize, length: usize },
}

fn step<'a>(input: &mut &'a [u8]) -> Option<Step<'a>> {
    let control = usize::from(take(input)?);
    if control < LITERALS {
        let (run, rest) = input.split_at_checked(control + 1)?;
        *input = rest;
        return Some(Step::Literals(run));
    }
    let mut length = (control >> 5) + 2;
    if control >> 5 == 7 {
        length += usize::from(take(input)?);
    }
    let back = ((control & 0x1f) << 8 | usize::from(take(input)?)) + 1;
    Some(Step::Reference { back, length })
}

fn take(input: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = input.split_first()?;
    *input = rest;
    Some(*byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_noise() {
        let run = vec![b'x'; 10_000];
        let packed = pack(&run).unwrap();
        assert!(packed.len() < 200, "{}", packed.len());
        assert_eq!(unpack(&packed, run.len()).as_deref(), Some(run.as_slice()));
        assert_eq!(pack(b"abcdefghijklmnopqrstuvwxyz"), None);
        assert_eq!(pack(b""), None);
    }

    #[test]
    fn lies_are_refused() {
        assert_eq!(unpack(&[0, b'a'], 2), None, "shorter than announced");
        assert_eq!(unpack(&[1, b'a', b'b'], 1), None, "longer than announced");
        assert_eq!(unpack(&[5, b'a'], 6), None, "literals cut off");
        assert_eq!(unpack(&[0x20, 0], 3), None, "a reference before the beginning");
        assert_eq!(unpack(&[0, b'a', 0xe0], 9), None, "a reference cut off");
        // What every byte of it could stand for, could be reserved for, and would not come out.
        let noise = vec![0; 3 << 20];
        assert_eq!(unpack(&noise, noise.len() * LONGEST), None, "no memory is reserved for a lie");
        assert_eq!(length_of(&noise, usize::MAX), Some(noise.len() / 2));
    }

    proptest::proptest! {
        #[test]
        fn comes_back(bytes in proptest::collection::vec(0_u8..4, 0..2000)) {
            if let Some(packed) = pack(&bytes) {
                proptest::prop_assert!(packed.len() < bytes.len());
                proptest::prop_assert_eq!(unpack(&packed, bytes.len()), Some(bytes));
            }
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(0_u8.., 0..100), length in 0_usize..5000) {
            if let Some(out) = unpack(&bytes, length) {
                proptest::prop_assert_eq!(out.len(), length);
            }
        }
    }
}
