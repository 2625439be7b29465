//! The value format of DUMP and RESTORE: Redis' RDB encoding of one value, a version and a checksum.
//!
//! A payload is a client's, and the checksum is no secret: what is read here must be safe for any bytes.
//! Reading is a function of the bytes alone, so every replica makes the same value of them.

mod crc64;
mod lzf;
mod packed;

use crate::number::parse_int;

/// Version 10 is the oldest that knows listpacks, so Redis 7.0 and all later ones can read what we write.
const WRITTEN_VERSION: u16 = 10;
/// The newest version whose payloads are taken: that of Redis 7.2.
const NEWEST_VERSION: u16 = 11;
const FOOTER: usize = 10;

const TYPE_STRING: u8 = 0;
const TYPE_HASH: u8 = 4;
const TYPE_HASH_ZIPLIST: u8 = 13;
const TYPE_HASH_LISTPACK: u8 = 16;

/// Strings up to this length are looked at as integers, longer ones than [`SHORTEST_PACKED`] are compressed.
const LONGEST_INT: usize = 11;
const SHORTEST_PACKED: usize = 20;

/// Why a payload was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too new, or the checksum is not that of the bytes.
    Footer,
    /// Not a value, or of a type that isn't known here.
    Format,
}

/// A value out of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    String(Vec<u8>),
    /// A hash: its fields, each once, and at least one.
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
}

/// The payload of a string.
pub fn dump_string(value: &[u8]) -> Vec<u8> {
    let mut out = vec![TYPE_STRING];
    put_string(&mut out, value);
    seal(out)
}

/// The payload of a hash: as one listpack if it is `small`, else field by field.
pub fn dump_hash<'a>(small: bool, fields: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Vec<u8> {
    let length = fields.len();
    if small && let Some(pack) = packed::listpack(fields.clone().flat_map(|(field, value)| [field, value])) {
        let mut out = vec![TYPE_HASH_LISTPACK];
        put_string(&mut out, &pack);
        return seal(out);
    }
    let mut out = vec![TYPE_HASH];
    put_length(&mut out, length);
    for (field, value) in fields {
        put_string(&mut out, field);
        put_string(&mut out, value);
    }
    seal(out)
}

/// Reads a payload.
///
/// # Errors
/// [`Refused`] says which of the two answers RESTORE gives.
pub fn restore(payload: &[u8]) -> Result<Value, Refused> {
    let body = open(payload).ok_or(Refused::Footer)?;
    read_value(&mut Input(body)).ok_or(Refused::Format)
}

fn seal(mut out: Vec<u8>) -> Vec<u8> {
    out.extend(WRITTEN_VERSION.to_le_bytes());
    let crc = crc64::crc64(&out);
    out.extend(crc.to_le_bytes());
    out
}

fn open(payload: &[u8]) -> Option<&[u8]> {
    let (body, footer) = payload.split_at_checked(payload.len().checked_sub(FOOTER)?)?;
    let mut footer = Input(footer);
    let version = footer.u16_le()?;
    let crc = u64::from_le_bytes(footer.take(8)?.try_into().ok()?);
    (version <= NEWEST_VERSION && crc64::crc64(&payload[..payload.len() - 8]) == crc).then_some(body)
}

fn read_value(input: &mut Input<'_>) -> Option<Value> {
    match input.byte()? {
        TYPE_STRING => read_string(input).map(Value::String),
        TYPE_HASH => {
            let length = read_length(input)?;
            let mut items = Vec::new();
            for _ in 0..length.checked_mul(2)? {
                items.push(read_string(input)?);
            }
            hash(items)
        }
        TYPE_HASH_ZIPLIST => hash(packed::read_ziplist(&read_string(input)?)?),
        TYPE_HASH_LISTPACK => hash(packed::read_listpack(&read_string(input)?)?),
        _ => None,
    }
}

/// Pairs the items up. An odd one, a field that stands twice and an empty hash are damage.
fn hash(items: Vec<Vec<u8>>) -> Option<Value> {
    if items.is_empty() || items.len() % 2 == 1 {
        return None;
    }
    let mut fields = Vec::with_capacity(items.len() / 2);
    let mut items = items.into_iter();
    while let (Some(field), Some(value)) = (items.next(), items.next()) {
        fields.push((field, value));
    }
    let mut names: Vec<&[u8]> = fields.iter().map(|(field, _)| field.as_slice()).collect();
    names.sort_unstable();
    let unique = names.windows(2).all(|pair| pair[0] != pair[1]);
    unique.then_some(Value::Hash(fields))
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend([0x40 | (length >> 8) as u8, length as u8]),
        _ => match u32::try_from(length) {
            Ok(length) => {
                out.push(0x80);
                out.extend(length.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend((length as u64).to_be_bytes());
            }
        },
    }
}

fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    if value.len() <= LONGEST_INT
        && let Some(int) = parse_int(value)
        && let Ok(int) = i32::try_from(int)
    {
        let bytes = int.to_le_bytes();
        let (tag, size) = match int {
            -0x80..=0x7f => (0xc0, 1),
            -0x8000..=0x7fff => (0xc1, 2),
            _ => (0xc2, 4),
        };
        out.push(tag);
        out.extend(&bytes[..size]);
        return;
    }
    if value.len() > SHORTEST_PACKED
        && let Some(pack) = lzf::pack(value)
    {
        out.push(0xc3);
        put_length(out, pack.len());
        put_length(out, value.len());
        out.extend(pack);
        return;
    }
    put_length(out, value.len());
    out.extend_from_slice(value);
}

fn read_length(input: &mut Input<'_>) -> Option<usize> {
    length_after(input.byte()?, input)
}

fn length_after(first: u8, input: &mut Input<'_>) -> Option<usize> {
    match first {
        0..0x40 => Some(first.into()),
        0x40..0x80 => Some(usize::from(first & 0x3f) << 8 | usize::from(input.byte()?)),
        0x80 => usize::try_from(u32::from_be_bytes(input.take(4)?.try_into().ok()?)).ok(),
        0x81 => usize::try_from(u64::from_be_bytes(input.take(8)?.try_into().ok()?)).ok(),
        _ => None,
    }
}

fn read_string(input: &mut Input<'_>) -> Option<Vec<u8>> {
    let text = |value: i64| value.to_string().into_bytes();
    match input.byte()? {
        0xc0 => input.int_le(1).map(text),
        0xc1 => input.int_le(2).map(text),
        0xc2 => input.int_le(4).map(text),
        0xc3 => {
            let packed = read_length(input)?;
            let length = read_length(input)?;
            lzf::unpack(input.take(packed)?, length)
        }
        first => {
            let length = length_after(first, input)?;
            input.take(length).map(<[u8]>::to_vec)
        }
    }
}

/// The bytes that are still to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16_le(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32_le(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A signed integer of up to eight bytes.
    fn int_le(&mut self, size: usize) -> Option<i64> {
        let mut bytes = [0; 8];
        bytes[8 - size..].copy_from_slice(self.take(size)?);
        Some(i64::from_le_bytes(bytes) >> (64 - 8 * size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(value: &[u8]) -> Result<Value, Refused> {
        restore(&dump_string(value))
    }

    #[test]
    fn strings_come_back() {
        let long = b"quorate ".repeat(40_000);
        for value in
            [b"".as_slice(), b"bar", b"0", b"-128", b"128", b"-32769", b"2147483648", b"007", &long[..100], &long]
        {
            assert_eq!(string(value), Ok(Value::String(value.to_vec())));
        }
        assert!(dump_string(&long).len() < long.len() / 20);
    }

    #[test]
    fn the_bytes_are_those_of_redis() {
        assert_eq!(dump_string(b"bar"), b"\x00\x03bar\x0a\x00\xe6\xbe\x49\x60\xee\x66\xfd\x17");
    }

    #[test]
    fn hashes_come_back() {
        let fields = [(b"a".as_slice(), b"1".as_slice()), (b"", b""), (b"long", &[7; 300])];
        let expected = Value::Hash(fields.iter().map(|(f, v)| (f.to_vec(), v.to_vec())).collect());
        for small in [true, false] {
            assert_eq!(restore(&dump_hash(small, fields.iter().copied())), Ok(expected.clone()));
        }
    }

    #[test]
    fn damage_is_told_apart() {
        let mut payload = dump_string(b"bar");
        payload[2] ^= 1;
        assert_eq!(restore(&payload), Err(Refused::Footer));
        assert_eq!(restore(b"..."), Err(Refused::Footer));
        assert_eq!(restore(&seal(Vec::new())), Err(Refused::Format));
        assert_eq!(restore(&seal(vec![99, 0])), Err(Refused::Format), "an unknown type");
        assert_eq!(restore(&seal(vec![TYPE_STRING, 9, 0])), Err(Refused::Format), "cut off");
        assert_eq!(restore(&seal(vec![TYPE_HASH, 0])), Err(Refused::Format), "an empty hash");
        let twice = [(b"a".as_slice(), b"1".as_slice()), (b"a", b"2")];
        assert_eq!(restore(&dump_hash(true, twice.iter().copied())), Err(Refused::Format));
        let mut newer = vec![TYPE_STRING, 0];
        newer.extend((NEWEST_VERSION + 1).to_le_bytes());
        newer.extend(crc64::crc64(&newer).to_le_bytes());
        assert_eq!(restore(&newer), Err(Refused::Footer));
    }

    #[test]
    fn a_length_that_lies_reserves_nothing() {
        let mut body = vec![TYPE_HASH, 0x81];
        body.extend(u64::MAX.to_be_bytes());
        assert_eq!(restore(&seal(body)), Err(Refused::Format));
        let mut body = vec![TYPE_STRING, 0x80];
        body.extend(u32::MAX.to_be_bytes());
        assert_eq!(restore(&seal(body)), Err(Refused::Format));
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex = if hex == "-" { "" } else { hex };
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// What we write of it is the same where nothing was compressed: only liblzf finds liblzf's matches.
    #[test]
    fn payloads_of_redis_are_understood() {
        let mut same = 0;
        for line in include_str!("../../tests/golden/dump.txt").lines().skip(1) {
            let mut words = line.split(' ');
            let (kind, payload) = (words.next().unwrap(), bytes(words.next().unwrap()));
            let items: Vec<_> = words.map(bytes).collect();
            let value = restore(&payload).unwrap_or_else(|why| panic!("{kind}: {why:?}"));
            let written = match (kind, value) {
                ("string", Value::String(value)) => {
                    assert_eq!([value.clone()].as_slice(), items);
                    dump_string(&value)
                }
                (_, Value::Hash(fields)) => {
                    let flat: Vec<_> =
                        fields.iter().flat_map(|(field, value)| [field.clone(), value.clone()]).collect();
                    assert_eq!(flat, items, "{kind}");
                    let fields = fields.iter().map(|(field, value)| (field.as_slice(), value.as_slice()));
                    dump_hash(kind == "listpack", fields)
                }
                (kind, value) => panic!("{kind} is {value:?}"),
            };
            same += usize::from(written == payload);
            assert!(restore(&written).is_ok());
        }
        assert_eq!(same, 19);
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_safe(kind in 0_u8..20, body in proptest::collection::vec(0_u8.., 0..60)) {
            let mut payload = vec![kind];
            payload.extend(body);
            if let Ok(Value::Hash(fields)) = restore(&seal(payload)) {
                proptest::prop_assert!(!fields.is_empty());
            }
        }
    }
}
