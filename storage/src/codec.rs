//! Structs to bytes and back: the only file that names bincode.
//!
//! bincode is no longer maintained, so nothing outside this file may depend on how it encodes: callers see bytes that
//! begin with a version they chose, and errors of this module.
//!
//! ```text
//! offset  size  field
//!      0     1  version of the caller's format
//!      1     4  crc32 of everything else: the version byte, then the body (little endian)
//!      5     …  body: bincode 1.3, little endian, fixed-width integers, no trailing bytes
//! ```
//!
//! Input is never trusted: a decoder is told how long the input may be, and no length in it can make it allocate more.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

const HEADER_BYTES: usize = 5;

/// Why bytes could not be turned into a value, or a value into bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Fewer bytes than the header has.
    #[error("{0} bytes are too few to be an encoded value")]
    Short(usize),
    /// More bytes than the caller allows.
    #[error("{found} bytes are more than the {limit} that are allowed")]
    TooLong {
        /// Bytes given.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Another format version than the one asked for.
    #[error(
        "it is of format version {found}, and this program reads {expected} only: run the version of quorate that wrote it; \
         nothing was changed"
    )]
    Version {
        /// In the bytes.
        found: u8,
        /// Known.
        expected: u8,
    },
    /// The checksum is wrong.
    #[error("checksum mismatch")]
    Checksum,
    /// The checksum is right but the body is not such a value.
    #[error("malformed: {0}")]
    Malformed(String),
}

fn options(limit: usize) -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_little_endian().with_limit(limit as u64)
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(body);
    hasher.finalize()
}

/// Encodes a value under the caller's format version.
///
/// # Errors
/// Only for types that bincode cannot encode (sequences of unknown length and the like).
pub fn encode<T: Serialize + ?Sized>(version: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![0; HEADER_BYTES];
    let written = options(usize::MAX).serialize_into(&mut out, value);
    written.map_err(|error| CodecError::Malformed(error.to_string()))?;
    let crc = checksum(version, &out[HEADER_BYTES..]);
    out[0] = version;
    out[1..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// Decodes what [`encode`] gave, of exactly this version and at most `limit` bytes long.
///
/// # Errors
/// See [`CodecError`]; bytes that were damaged or come from a stranger give an error, never a panic.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLong { found: bytes.len(), limit });
    }
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(CodecError::Short(bytes.len()));
    };
    // First: a version whose checksum is wrong is damage, too.
    let crc = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    if crc != checksum(header[0], body) {
        return Err(CodecError::Checksum);
    }
    if header[0] != version {
        return Err(CodecError::Version { found: header[0], expected: version });
    }
    options(limit).deserialize(body).map_err(|error| CodecError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Value = (u64, Vec<u8>, Option<String>, Vec<(u32, bool)>);

    proptest! {
        #[test]
        fn a_value_comes_back_as_it_was(value: Value, version: u8) {
            let bytes = encode(version, &value).unwrap();
            prop_assert_eq!(decode::<Value>(version, &bytes, bytes.len()).unwrap(), value);
        }

        #[test]
        fn any_flipped_bit_is_an_error(value: Value, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encode(7, &value).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode::<Value>(7, &bytes, 1 << 20).is_err());
        }

        #[test]
        fn bytes_of_a_stranger_never_panic(bytes: Vec<u8>) {
            prop_assert!(decode::<Value>(0, &bytes, 1 << 20).is_err());
        }
    }

    #[test]
    fn a_length_from_a_stranger_cannot_make_it_allocate() {
        // A right checksum over a vector that claims 2^60 elements.
        let body = (1u64 << 60).to_le_bytes();
        let mut bytes = vec![1];
        bytes.extend_from_slice(&checksum(1, &body).to_le_bytes());
        bytes.extend_from_slice(&body);
        assert!(matches!(decode::<Vec<u8>>(1, &bytes, 1024), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn limits_and_versions_are_told_apart() {
        let bytes = encode(2, &5u32).unwrap();
        assert_eq!(decode::<u32>(2, &bytes, 8), Err(CodecError::TooLong { found: 9, limit: 8 }));
        assert_eq!(decode::<u32>(3, &bytes, 9), Err(CodecError::Version { found: 2, expected: 3 }));
        assert_eq!(decode::<u32>(2, &bytes[..4], 9), Err(CodecError::Short(4)));
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode::<u32>(2, &longer, 99), Err(CodecError::Checksum));
    }

    #[test]
    fn the_bytes_of_version_one_stay_what_they_are() {
        let bytes = encode(1, &(0x0102_u16, vec![7u8])).unwrap();
        let body = [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(&bytes[5..], body);
        assert_eq!(bytes[..5], [1, 31, 217, 193, 222]);
    }
}
