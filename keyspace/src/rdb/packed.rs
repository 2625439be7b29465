//! Listpacks and ziplists: the flat byte forms in which Redis dumps small collections.
//!
//! Both are read from payloads a client made, so every length is checked and a malformed one is refused
//! as a whole; only listpacks are written. Integers are given back as their decimal text. Items are handed on as they are
//! read, never gathered: what takes them may refuse one before the rest costs anything.

use std::borrow::Cow;

use crate::number::parse_int;
use crate::rdb::Input;

const END: u8 = 0xff;
const LISTPACK_HEAD: usize = 6;
const ZIPLIST_HEAD: usize = 10;

/// Takes the items; None from it ends the reading.
pub(super) type Take<'t, 'a> = &'t mut dyn FnMut(Cow<'a, [u8]>) -> Option<()>;

/// Writes `items` as one listpack. Nothing if it would not fit its 32-bit length.
pub(super) fn listpack<'a>(items: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut out = vec![0; LISTPACK_HEAD];
    let mut count = 0_u64;
    for item in items {
        let start = out.len();
        match parse_int(item) {
            Some(value) => put_int(&mut out, value),
            None => put_bytes(&mut out, item)?,
        }
        let length = out.len() - start;
        put_back_length(&mut out, length);
        count += 1;
    }
    out.push(END);
    let total = u32::try_from(out.len()).ok()?;
    out[..4].copy_from_slice(&total.to_le_bytes());
    // The largest count means "not known".
    out[4..6].copy_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
    Some(out)
}

fn put_int(out: &mut Vec<u8>, value: i64) {
    let bytes = value.to_le_bytes();
    match value {
        0..=127 => out.push(bytes[0]),
        -4096..=4095 => out.extend([0xc0 | (bytes[1] & 0x1f), bytes[0]]),
        -0x8000..=0x7fff => {
            out.push(0xf1);
            out.extend(&bytes[..2]);
        }
        -0x80_0000..=0x7f_ffff => {
            out.push(0xf2);
            out.extend(&bytes[..3]);
        }
        -0x8000_0000..=0x7fff_ffff => {
            out.push(0xf3);
            out.extend(&bytes[..4]);
        }
        _ => {
            out.push(0xf4);
            out.extend(bytes);
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, item: &[u8]) -> Option<()> {
    let length = u32::try_from(item.len()).ok()?;
    let bytes = length.to_le_bytes();
    match length {
        0..64 => out.push(0x80 | bytes[0]),
        64..4096 => out.extend([0xe0 | bytes[1], bytes[0]]),
        _ => {
            out.push(0xf0);
            out.extend(bytes);
        }
    }
    out.extend_from_slice(item);
    Some(())
}

/// The length of an item once more behind it, written so that it can be read backwards.
fn put_back_length(out: &mut Vec<u8>, length: usize) {
    let size = back_length_size(length);
    for group in (0..size).rev() {
        let bits = (length >> (7 * group)) as u8 & 0x7f;
        out.push(if group + 1 == size { bits } else { bits | 0x80 });
    }
}

fn back_length_size(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..16383 => 2,
        16383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}

/// Gives the items of a listpack to `take` one by one; None as soon as it is not sound, or one is not wanted.
pub(super) fn read_listpack<'a>(bytes: &'a [u8], take: Take<'_, 'a>) -> Option<()> {
    let (head, body) = bytes.split_at_checked(LISTPACK_HEAD)?;
    let mut head = Input(head);
    if usize::try_from(head.u32_le()?).ok()? != bytes.len() {
        return None;
    }
    let count = usize::from(head.u16_le()?);
    let mut input = Input(body);
    let mut items = 0;
    while input.0.first() != Some(&END) {
        let before = input.0.len();
        take(listpack_item(&mut input)?)?;
        items += 1;
        let length = before - input.0.len();
        let mut back = Vec::with_capacity(5);
        put_back_length(&mut back, length);
        if input.take(back.len())? != back {
            return None;
        }
    }
    sound(&input, items, count)
}

fn listpack_item<'a>(input: &mut Input<'a>) -> Option<Cow<'a, [u8]>> {
    let first = input.byte()?;
    let length = match first {
        0..0x80 => return Some(decimal(first.into())),
        0x80..0xc0 => usize::from(first & 0x3f),
        0xc0..0xe0 => {
            let raw = i64::from(first & 0x1f) << 8 | i64::from(input.byte()?);
            return Some(decimal(if raw >= 0x1000 { raw - 0x2000 } else { raw }));
        }
        0xe0..0xf0 => usize::from(first & 0x0f) << 8 | usize::from(input.byte()?),
        0xf0 => usize::try_from(input.u32_le()?).ok()?,
        0xf1 => return input.int_le(2).map(decimal),
        0xf2 => return input.int_le(3).map(decimal),
        0xf3 => return input.int_le(4).map(decimal),
        0xf4 => return input.int_le(8).map(decimal),
        _ => return None,
    };
    input.take(length).map(Cow::Borrowed)
}

/// The same of a ziplist: what servers before 7.0 dumped.
pub(super) fn read_ziplist<'a>(bytes: &'a [u8], take: Take<'_, 'a>) -> Option<()> {
    let (head, body) = bytes.split_at_checked(ZIPLIST_HEAD)?;
    let mut head = Input(head);
    if usize::try_from(head.u32_le()?).ok()? != bytes.len() {
        return None;
    }
    let tail = usize::try_from(head.u32_le()?).ok()?;
    let count = usize::from(head.u16_le()?);
    let mut input = Input(body);
    let mut items = 0;
    let (mut last, mut length) = (ZIPLIST_HEAD, 0);
    while input.0.first() != Some(&END) {
        last = bytes.len() - input.0.len();
        let before = match input.byte()? {
            254 => usize::try_from(input.u32_le()?).ok()?,
            short => usize::from(short),
        };
        if before != length {
            return None;
        }
        take(ziplist_item(&mut input)?)?;
        items += 1;
        length = bytes.len() - input.0.len() - last;
    }
    if tail != last {
        return None;
    }
    sound(&input, items, count)
}

fn ziplist_item<'a>(input: &mut Input<'a>) -> Option<Cow<'a, [u8]>> {
    let first = input.byte()?;
    let length = match first {
        0..0x40 => usize::from(first),
        0x40..0x80 => usize::from(first & 0x3f) << 8 | usize::from(input.byte()?),
        0x80 => usize::try_from(u32::from_be_bytes(input.take(4)?.try_into().ok()?)).ok()?,
        0xc0 => return input.int_le(2).map(decimal),
        0xd0 => return input.int_le(4).map(decimal),
        0xe0 => return input.int_le(8).map(decimal),
        0xf0 => return input.int_le(3).map(decimal),
        0xfe => return input.int_le(1).map(decimal),
        0xf1..=0xfd => return Some(decimal(i64::from(first & 0x0f) - 1)),
        _ => return None,
    };
    input.take(length).map(Cow::Borrowed)
}

/// Nothing may stand behind the end mark, and the count must be right where it is known.
fn sound(input: &Input<'_>, items: usize, count: usize) -> Option<()> {
    let counted = count == usize::from(u16::MAX) || count == items;
    (input.0.len() == 1 && counted).then_some(())
}

fn decimal(value: i64) -> Cow<'static, [u8]> {
    Cow::Owned(value.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(items: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let bytes = listpack(items.iter().copied()).unwrap();
        read_listpack(&bytes, &mut |item| {
            found.push(item.into_owned());
            Some(())
        })
        .unwrap();
        found
    }

    #[test]
    fn every_size_comes_back() {
        let long = [b'x'; 5000];
        let mut items: Vec<Vec<u8>> = [0, 1, 63, 64, 4095, 4096].iter().map(|n| long[..*n].to_vec()).collect();
        for value in [0, 127, 128, 4095, 4096, 0x7fff, 0x8000, 0x7f_ffff, 0x80_0000, 0x7fff_ffff, 0x8000_0000, i64::MAX]
        {
            items.push(decimal(value).into_owned());
            items.push(decimal(-value).into_owned());
            items.push(decimal(-value - 1).into_owned());
        }
        for odd in ["-0", "01", "+1", "-", "9223372036854775808", " 1", "1.0"] {
            items.push(odd.into());
        }
        let slices: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
        assert_eq!(back(&slices), items);
    }

    proptest::proptest! {
        #[test]
        fn any_items_come_back(items in proptest::collection::vec(proptest::collection::vec(0_u8.., 0..300), 0..20)) {
            let slices: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
            proptest::prop_assert_eq!(back(&slices), items);
        }

        #[test]
        fn damage_is_safe(
            items in proptest::collection::vec(proptest::collection::vec(0_u8.., 0..80), 0..6),
            place in 0_usize..400,
            value in 0_u8..,
        ) {
            let mut bytes = listpack(items.iter().map(Vec::as_slice)).unwrap();
            let place = place % bytes.len();
            bytes[place] = value;
            read_listpack(&bytes, &mut |_| Some(()));
            read_ziplist(&bytes, &mut |_| Some(()));
            read_listpack(&bytes[..place], &mut |_| Some(()));
        }
    }
}
