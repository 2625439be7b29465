//! The keyed hash behind every order of the keyspace, slots of keys, and chance drawn from a stamp's seed.
//!
//! The algorithms are fixed for ever: members of different builds must agree on each bit of them.

use siphasher::sip::SipHasher13;

/// How many slots a database has, as in a Redis Cluster.
pub const SLOTS: usize = 16384;

/// SipHash-1-3 under the group's secret seed: clients can't aim at one leaf, and all members agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hasher {
    seed: [u64; 2],
}

impl Hasher {
    /// A hasher of this seed.
    pub fn new(seed: [u64; 2]) -> Self {
        Self { seed }
    }

    /// The seed, for the header of a view. It is a secret of the group.
    pub fn seed(&self) -> [u64; 2] {
        self.seed
    }

    /// The hash that orders a trie: the upper half of the 64 bits.
    pub fn hash(&self, key: &[u8]) -> u32 {
        (self.whole(key) >> 32) as u32
    }

    /// All 64 bits: what names the value of a key.
    pub(crate) fn whole(&self, key: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.seed[0], self.seed[1]).hash(key)
    }
}

/// CRC16 (XMODEM), as Redis Cluster computes slots.
const fn crc_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

static CRC16: [u16; 256] = crc_table();

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The slot of a key: of the part between the first `{` and the next `}` when that is not empty.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) & (SLOTS as u16 - 1)
}

/// Chance that all members share: SplitMix64 from the seed of a stamp (a write) or of the shell (a read).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The upper half of a 128-bit product: a bias of bound / 2^64, which nobody can see.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // CLUSTER KEYSLOT of a real server.
        for (key, slot) in [
            ("foo", 12182),
            ("{foo}bar", 12182),
            ("somekey", 11058),
            ("foo{hash_tag}", 2515),
            ("bar{hash_tag}", 2515),
            ("", 0),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("foo{bar}{zap}", 5061),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "slot of {key:?}");
        }
    }

    #[test]
    fn the_hash_never_changes() {
        // Frozen: another value here would reorder every database on disk.
        assert_eq!(Hasher::new([0, 0]).hash(b""), 0xd1fb_a762);
        let mut rng = Rng::new(1);
        assert_eq!(rng.next_u64(), 0x910a_2dec_8902_5cc1);
    }
}
