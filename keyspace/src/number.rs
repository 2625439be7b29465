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
    let value = if bare.len() > 2 && bare[..2].eq_ignore_ascii_case("0x") {
        let value = hex_double(&bare[2..])?;
        if text.starts_with('-') { -value } else { value }
    } else {
        text.parse::<f64>().ok()?
    };
    // A decimal that overflows is a range error for strtod, unless infinity was asked for by name.
    let named = bare.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("inf"));
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

/// A double in a reply: `%.17g` in its shortest form that reads back the same.
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
    let sci = format!("{value:e}");
    let (digits, exponent) = sci.split_once('e').unwrap_or((&sci, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-5..17).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}
