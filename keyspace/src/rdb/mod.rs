//! The value format of DUMP and RESTORE: Redis' RDB encoding of one value, a version and a checksum.
//!
//! A payload is a client's, and the checksum is no secret: what is read here must be safe for any bytes.
//! Reading is a function of the bytes alone, so every replica makes the same value of them.

mod crc64;
mod lzf;
mod packed;

use std::borrow::Cow;

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
pub enum Value<'a> {
    /// A string.
    String(Cow<'a, [u8]>),
    /// A hash, whose fields were given away while it was read: each once, and at least one.
    Hash,
}

/// Takes a field and its value, and says whether that field is new.
pub type TakeField<'t> = &'t mut dyn FnMut(&[u8], &[u8]) -> bool;

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

/// Reads a payload. What is compressed in it may come to `room` bytes, all together: a few bytes can stand for very many.
/// The fields of a hash go to `take` one by one; where an error follows, what it took is worth nothing.
///
/// # Errors
/// [`Refused`] says which of the two answers RESTORE gives.
pub fn restore<'a>(payload: &'a [u8], room: usize, take: TakeField<'_>) -> Result<Value<'a>, Refused> {
    let body = open(payload).ok_or(Refused::Footer)?;
    read_value(&mut Strings { input: Input(body), room }, take).ok_or(Refused::Format)
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

fn read_value<'a>(body: &mut Strings<'a>, take: TakeField<'_>) -> Option<Value<'a>> {
    match body.input.byte()? {
        TYPE_STRING => body.next().map(Value::String),
        TYPE_HASH => {
            let mut fields = Fields::new(take);
            for _ in 0..read_length(&mut body.input)?.checked_mul(2)? {
                fields.item(body.next()?)?;
            }
            fields.end()
        }
        TYPE_HASH_ZIPLIST => read_packed(body, take, packed::read_ziplist),
        TYPE_HASH_LISTPACK => read_packed(body, take, packed::read_listpack),
        _ => None,
    }
}

fn read_packed<'a>(
    body: &mut Strings<'a>,
    take: TakeField<'_>,
    read: for<'t, 'b> fn(&'b [u8], packed::Take<'t, 'b>) -> Option<()>,
) -> Option<Value<'a>> {
    let bytes = body.next()?;
    let mut fields = Fields::new(take);
    read(&bytes, &mut |item| fields.item(item))?;
    fields.end()
}

/// Items become pairs as they come. A field that stands twice is damage, and ends it; so are an odd item and no field.
struct Fields<'t, 'a> {
    take: TakeField<'t>,
    name: Option<Cow<'a, [u8]>>,
    any: bool,
}

impl<'t, 'a> Fields<'t, 'a> {
    fn new(take: TakeField<'t>) -> Self {
        Self { take, name: None, any: false }
    }

    fn item(&mut self, item: Cow<'a, [u8]>) -> Option<()> {
        match self.name.take() {
            None => self.name = Some(item),
            Some(name) if (self.take)(&name, &item) => self.any = true,
            Some(_) => return None,
        }
        Some(())
    }

    fn end<'v>(self) -> Option<Value<'v>> {
        (self.any && self.name.is_none()).then_some(Value::Hash)
    }
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

/// The strings of a payload.
struct Strings<'a> {
    input: Input<'a>,
    /// How many bytes may still come out of compressed ones.
    room: usize,
}

impl<'a> Strings<'a> {
    fn next(&mut self) -> Option<Cow<'a, [u8]>> {
        let text = |value: i64| Cow::Owned(value.to_string().into_bytes());
        let input = &mut self.input;
        match input.byte()? {
            0xc0 => input.int_le(1).map(text),
            0xc1 => input.int_le(2).map(text),
            0xc2 => input.int_le(4).map(text),
            0xc3 => {
                let packed = read_length(input)?;
                let length = read_length(input)?;
                self.room = self.room.checked_sub(length)?;
                lzf::unpack(input.take(packed)?, length).map(Cow::Owned)
            }
            first => {
                let length = length_after(first, input)?;
                input.take(length).map(Cow::Borrowed)
            }
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

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    /// What a payload holds: a string, or the fields of a hash.
    #[derive(Debug, PartialEq)]
    enum Read {
        String(Vec<u8>),
        Hash(Pairs),
    }

    fn restore(payload: &[u8]) -> Result<Read, Refused> {
        let mut fields = Pairs::new();
        let value = super::restore(payload, 1 << 20, &mut |field, value| {
            let new = fields.iter().all(|(name, _)| name != field);
            fields.push((field.to_vec(), value.to_vec()));
            new
        });
        Ok(match value? {
            Value::String(string) => Read::String(string.into_owned()),
            Value::Hash => Read::Hash(fields),
        })
    }

    fn string(value: &[u8]) -> Result<Read, Refused> {
        restore(&dump_string(value))
    }

    #[test]
    fn strings_come_back() {
        let long = b"quorate ".repeat(40_000);
        for value in
            [b"".as_slice(), b"bar", b"0", b"-128", b"128", b"-32769", b"2147483648", b"007", &long[..100], &long]
        {
            assert_eq!(string(value), Ok(Read::String(value.to_vec())));
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
        for small in [true, false] {
            let expected = fields.iter().map(|(f, v)| (f.to_vec(), v.to_vec())).collect();
            assert_eq!(restore(&dump_hash(small, fields.iter().copied())), Ok(Read::Hash(expected)));
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

    #[test]
    fn what_is_compressed_has_its_room_and_no_more() {
        let run = vec![b'x'; 1 << 20];
        assert!(dump_string(&run).len() < 1 << 14);
        let read = |payload: &[u8], room| super::restore(payload, room, &mut |_, _| true).map(|_| ());
        assert_eq!(read(&dump_string(&run), run.len()), Ok(()));
        assert_eq!(read(&dump_string(&run), run.len() - 1), Err(Refused::Format));
        // It is the room of all of them together.
        let fields = [(b"a".as_slice(), run.as_slice()), (b"b", &run)];
        assert_eq!(read(&dump_hash(false, fields.into_iter()), 2 * run.len()), Ok(()));
        assert_eq!(read(&dump_hash(false, fields.into_iter()), 2 * run.len() - 1), Err(Refused::Format));
        let plain = dump_string(b"as it is");
        assert_eq!(read(&plain, 0), Ok(()), "what is not compressed is as long as its bytes");
    }

    #[test]
    fn a_field_that_stands_twice_ends_the_reading() {
        let same = (b"f".as_slice(), b"v".as_slice());
        for small in [true, false] {
            let payload = dump_hash(small, vec![same; 300_000].into_iter());
            let mut taken = 0;
            let read = super::restore(&payload, usize::MAX, &mut |_, _| {
                taken += 1;
                taken == 1
            });
            assert_eq!((read, taken), (Err(Refused::Format), 2));
        }
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
                ("string", Read::String(value)) => {
                    assert_eq!([value.clone()].as_slice(), items);
                    dump_string(&value)
                }
                (_, Read::Hash(fields)) => {
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
            if let Ok(Read::Hash(fields)) = restore(&seal(payload)) {
                proptest::prop_assert!(!fields.is_empty());
            }
        }
    }
}
