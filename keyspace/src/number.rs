//! Numbers as Redis reads and writes them.

/// Room for any 64-bit integer in decimal.
pub const INT_LEN: usize = 20;

/// Redis' strict integer: no blanks, no plus, no leading zeros, within 64 bits.
pub fn parse_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] => return (!negative).then_some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut n: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // 19 digits can't pass 64 bits.
        n = n * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(n) } else { i64::try_from(n).ok() }
}

/// Decimal digits of an integer.
pub fn write_int(n: i64, into: &mut [u8; INT_LEN]) -> &[u8] {
    let mut at = INT_LEN;
    let mut left = n.unsigned_abs();
    loop {
        at -= 1;
        into[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        into[at] = b'-';
    }
    &into[at..]
}

/// A double from an argument: everything strtod takes but blanks and NaN.
pub fn parse_double(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
    let value = match bare.strip_prefix("0x").or_else(|| bare.strip_prefix("0X")) {
        Some(digits) if text.starts_with('-') => -hex_double(digits)?,
        Some(digits) => hex_double(digits)?,
        None => text.parse::<f64>().ok()?,
    };
    // A decimal that overflows is a range error for strtod, unless infinity was asked for by name.
    let named = bare.starts_with(['i', 'I']);
    if value.is_nan() || (value.is_infinite() && !named) { None } else { Some(value) }
}

fn hex_double(text: &str) -> Option<f64> {
    let (digits, exponent) = match text.split_once(['p', 'P']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let mut value = 0f64;
    for digit in whole.chars().chain(part.chars()) {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    Some(value * 2f64.powi(exponent.saturating_sub(4 * part.len() as i32)))
}

/// A double in a reply, as Redis 7.2 writes it: the fewest digits that read back the same, with an exponent where
/// the number is very large or very small.
pub fn format_double(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if value.is_nan() {
        return "nan".into();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    if value.fract() == 0.0 && value.abs() <= (i64::MAX / 2) as f64 {
        return format!("{}", value as i64);
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = digits.bytes().filter(u8::is_ascii_digit).count() as i32;
    // The number is its digits as an integer times ten to this power.
    let power = exponent - (count - 1);
    let plain = if power >= 0 { exponent < count + 7 } else { power > -7 || exponent.abs() < 4 };
    if plain {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_strictly() {
        for (text, value) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("99999999999999999999", None),
            ("-0", None),
            ("00", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
            ("", None),
            ("-", None),
            ("1\u{661}", None),
        ] {
            assert_eq!(parse_int(text.as_bytes()), value, "{text:?}");
        }
        for n in [0, 7, -7, 10, i64::MAX, i64::MIN] {
            assert_eq!(write_int(n, &mut [0; INT_LEN]), n.to_string().as_bytes());
        }
    }

    #[test]
    fn doubles_are_read_as_strtod_does() {
        for (text, value) in [
            ("1.5", Some(1.5)),
            ("-.5", Some(-0.5)),
            ("5.", Some(5.0)),
            ("+3e2", Some(300.0)),
            ("0x10", Some(16.0)),
            ("-0X1.8p1", Some(-3.0)),
            ("inf", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("nan", None),
            ("1e400", None),
            ("", None),
            ("+-1", None),
            ("1 ", None),
            ("0x", None),
            ("a\u{e9}", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(parse_double(text.as_bytes()), value, "{text:?}");
        }
        assert_eq!(parse_double(b"\xff"), None);
    }

    #[test]
    fn doubles_are_written_as_redis_writes_them() {
        for (value, text) in [
            (3.0, "3"),
            (-17.0, "-17"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (4e18, "4000000000000000000"),
            (1e19, "1e+19"),
            (1.5e300, "1.5e+300"),
            (123_456_789.125, "123456789.125"),
            (0.000001, "0.000001"),
            (1e-7, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (0.001234, "0.001234"),
            (0.0001234, "1.234e-4"),
            (-2.5e-100, "-2.5e-100"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(format_double(value), text);
        }
    }
}
