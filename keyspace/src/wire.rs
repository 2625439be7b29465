//! Bytes of the log and of snapshots: variable-length integers and counted strings, read with every bound checked.

use bytes::BufMut;

use crate::error::Corrupt;

/// A variable-length integer: 7 bits a byte, the lowest first.
pub(crate) fn put_u64(out: &mut impl BufMut, mut n: u64) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

pub(crate) fn put_len(out: &mut impl BufMut, n: usize) {
    put_u64(out, n as u64);
}

pub(crate) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.put_slice(bytes);
}

/// Reads what the functions above wrote.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, rest: &'a [u8]) -> Self {
        Self { what, rest }
    }

    pub(crate) fn corrupt(&self, why: &'static str) -> Corrupt {
        Corrupt::Bytes { what: self.what, why }
    }

    /// The version that all else depends on.
    pub(crate) fn version(&mut self, known: u8) -> Result<(), Corrupt> {
        let found = self.u8()?;
        if found == known { Ok(()) } else { Err(Corrupt::Version { what: self.what, found, known }) }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Corrupt> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(self.corrupt("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Corrupt> {
        let (first, rest) = self.rest.split_first().ok_or(self.corrupt("ends too early"))?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn u32_le(&mut self) -> Result<u32, Corrupt> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn u64_le(&mut self) -> Result<u64, Corrupt> {
        let mut whole = [0; 8];
        whole.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(whole))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Corrupt> {
        let mut n: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                // Only the shortest form is written, so only it is read: equal contents have equal bytes.
                if byte == 0 && shift > 0 {
                    return Err(self.corrupt("integer not in its shortest form"));
                }
                return Ok(n);
            }
        }
        Err(self.corrupt("integer past 64 bits"))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Corrupt> {
        let n = self.u64()?;
        u16::try_from(n).map_err(|_| self.corrupt("number past 16 bits"))
    }

    /// A count of things that take at least `least` bytes each: never more than could be there, so it may size memory.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, Corrupt> {
        let n = self.u64()?;
        let room = self.rest.len() / least.max(1);
        usize::try_from(n).ok().filter(|n| *n <= room).ok_or(self.corrupt("count larger than the bytes"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let len = self.count(1)?;
        self.take(len)
    }

    pub(crate) fn end(&self) -> Result<(), Corrupt> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.corrupt("bytes left over")) }
    }
}
