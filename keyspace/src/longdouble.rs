//! The 80-bit floating point numbers in which INCRBYFLOAT and HINCRBYFLOAT count.
//!
//! Redis uses C's `long double`; with 64 bits `1.23 + 0.77` would read `2` only by luck, and clients would
//! see digits that Redis doesn't show. Rust has no such type, so the three operations that are needed
//! (read, add, print) are done here on integers: exact, rounded once, ties to even, as the hardware does.
//! That also keeps replicas on unlike machines in agreement. Nothing here may use a native float.

use std::cmp::Ordering;

/// The longest text that is read as a number: beyond it Redis' buffer ends.
const MAX_TEXT: usize = 5 * 1024;
/// The exponent of the lowest bit of the smallest number (a denormal one).
const MIN_EXPONENT: i64 = -16445;
/// The exponent of the lowest bit of the largest number.
const MAX_EXPONENT: i64 = 16383 - 63;

/// A number: `±mantissa × 2^exponent`, or an infinity. Never "not a number".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongDouble {
    negative: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Finite { mantissa: u64, exponent: i64 },
    Infinite,
}

impl LongDouble {
    /// Reads a text as C's `strtold` does, all of it: decimal or hexadecimal, `inf`, but not `nan`, no blanks
    /// around it, and nothing that overflows or vanishes to zero.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= MAX_TEXT {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(Self { negative, kind: Kind::Infinite });
        }
        let scaled = match rest {
            [b'0', b'x' | b'X', hex @ ..] => parse_hex(hex)?,
            decimal => parse_decimal(decimal)?,
        };
        let number = Self { negative, kind: scaled.kind };
        let vanished = !scaled.was_zero && number.kind == ZERO;
        (number.is_finite() && !vanished).then_some(number)
    }

    /// An integer, which is always exact.
    pub fn from_int(value: i64) -> Self {
        let kind = Kind::Finite { mantissa: value.unsigned_abs(), exponent: 0 };
        Self { negative: value < 0, kind }
    }

    /// Whether this is a number that can be stored.
    pub fn is_finite(self) -> bool {
        self.kind != Kind::Infinite
    }

    /// The sum, or nothing if it would not be finite.
    pub fn plus(self, other: Self) -> Option<Self> {
        let (Kind::Finite { mantissa: a, exponent: ea }, Kind::Finite { mantissa: b, exponent: eb }) =
            (self.kind, other.kind)
        else {
            return None;
        };
        if a == 0 && b == 0 {
            return Some(Self { negative: self.negative && other.negative, kind: ZERO });
        }
        if a == 0 {
            return Some(other);
        }
        if b == 0 {
            return Some(self);
        }
        let ((na, a, ea), (nb, b, eb)) = {
            let (x, y) = ((self.negative, a, ea), (other.negative, b, eb));
            let (x, y) = (raised(x), raised(y));
            if (x.2, x.1) >= (y.2, y.1) { (x, y) } else { (y, x) }
        };
        // 63 bits of room below the mantissa: what falls out of them can only decide a tie.
        let high = u128::from(a) << 63;
        let low = shift_right_jam(u128::from(b) << 63, (ea - eb).unsigned_abs());
        let sum = if na == nb { high + low } else { high - low };
        if sum == 0 {
            return Some(Self { negative: false, kind: ZERO });
        }
        let sum = Self { negative: na, kind: round(sum, ea - 63) };
        sum.is_finite().then_some(sum)
    }

    /// Prints it with up to 17 decimals and without zeros at the end, never with an exponent.
    pub fn to_text(self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let Kind::Finite { mantissa, exponent } = self.kind else {
            return format!("{sign}inf");
        };
        let mut whole;
        let mut decimals = 0;
        if exponent >= 0 {
            let mut big = Big::from(mantissa);
            big.shift_left(exponent.unsigned_abs());
            whole = big.to_text();
        } else {
            const UNIT: u128 = 100_000_000_000_000_000;
            let scaled = shift_right_even(u128::from(mantissa) * UNIT, exponent.unsigned_abs());
            whole = (scaled / UNIT).to_string();
            decimals = scaled % UNIT;
        }
        if decimals != 0 {
            whole.push('.');
            whole.push_str(format!("{decimals:017}").trim_end_matches('0'));
        }
        if whole == "0" { whole } else { format!("{sign}{whole}") }
    }
}

const ZERO: Kind = Kind::Finite { mantissa: 0, exponent: 0 };

struct Scaled {
    kind: Kind,
    was_zero: bool,
}

/// Brings the highest bit of the mantissa to the top, so that exponents compare as sizes do.
fn raised((negative, mantissa, exponent): (bool, u64, i64)) -> (bool, u64, i64) {
    let by = mantissa.leading_zeros();
    (negative, mantissa << by, exponent - i64::from(by))
}

/// Shifts right and keeps in the lowest bit whether anything was lost.
fn shift_right_jam(value: u128, by: u64) -> u128 {
    match u32::try_from(by) {
        Ok(0) => value,
        Ok(by) if by < 128 => (value >> by) | u128::from(value << (128 - by) != 0),
        _ => u128::from(value != 0),
    }
}

/// Shifts right and rounds to the nearest, ties to even.
fn shift_right_even(value: u128, by: u64) -> u128 {
    let Some(by) = u32::try_from(by).ok().filter(|by| *by < 128) else {
        return 0;
    };
    if by == 0 {
        return value;
    }
    let (kept, lost, half) = (value >> by, value << (128 - by), 1 << 127);
    match lost.cmp(&half) {
        Ordering::Less => kept,
        Ordering::Greater => kept + 1,
        Ordering::Equal => kept + (kept & 1),
    }
}

/// Rounds `value × 2^exponent` (its lowest bit may stand for more below it) to what 80 bits can hold.
fn round(value: u128, exponent: i64) -> Kind {
    if value == 0 {
        return ZERO;
    }
    let bits = 128 - i64::from(value.leading_zeros());
    let target = (exponent + bits - 64).max(MIN_EXPONENT);
    let drop = target - exponent;
    if drop <= 0 {
        // Fits as it is; a mantissa of at most 64 bits.
        let mantissa = value as u64;
        return if exponent > MAX_EXPONENT && !fits_high(mantissa, exponent) {
            Kind::Infinite
        } else {
            Kind::Finite { mantissa, exponent }
        };
    }
    let mut mantissa = shift_right_even(value, drop.unsigned_abs());
    let mut exponent = target;
    if mantissa >> 64 != 0 {
        mantissa >>= 1;
        exponent += 1;
    }
    if mantissa == 0 {
        ZERO
    } else if exponent > MAX_EXPONENT {
        Kind::Infinite
    } else {
        Kind::Finite { mantissa: mantissa as u64, exponent }
    }
}

/// Whether a short mantissa makes up for an exponent that is too high by itself.
fn fits_high(mantissa: u64, exponent: i64) -> bool {
    exponent - i64::from(mantissa.leading_zeros()) <= MAX_EXPONENT
}

/// Splits `digits[.digits]` off the front; `is` tells a digit. At least one digit must be there.
fn split_digits(text: &[u8], is: fn(&u8) -> bool) -> Option<(Vec<u8>, i64, &[u8])> {
    let run = |from: &[u8]| from.iter().take_while(|byte| is(byte)).count();
    let whole = run(text);
    let mut digits = text[..whole].to_vec();
    let mut rest = &text[whole..];
    let mut after_point = 0;
    if let [b'.', behind @ ..] = rest {
        after_point = run(behind);
        digits.extend_from_slice(&behind[..after_point]);
        rest = &behind[after_point..];
    }
    (!digits.is_empty()).then_some((digits, after_point as i64, rest))
}

/// Reads what may follow the digits: nothing, or a mark and a signed exponent.
fn parse_exponent(text: &[u8], mark: u8) -> Option<i64> {
    let [first, rest @ ..] = text else {
        return Some(0);
    };
    if first.to_ascii_lowercase() != mark {
        return None;
    }
    let (negative, digits) = match rest {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Far outside of all that can be held is as good as exact.
    let size = digits.iter().fold(0_i64, |size, digit| (size * 10 + i64::from(digit - b'0')).min(1_000_000));
    Some(if negative { -size } else { size })
}

fn parse_decimal(text: &[u8]) -> Option<Scaled> {
    let (digits, after_point, rest) = split_digits(text, u8::is_ascii_digit)?;
    let power = parse_exponent(rest, b'e')? - after_point;
    let digits = digits.trim_ascii_start_zeros();
    if digits.is_empty() {
        return Some(Scaled { kind: ZERO, was_zero: true });
    }
    let size = digits.len() as i64 + power;
    if size > 5_000 {
        return Some(Scaled { kind: Kind::Infinite, was_zero: false });
    }
    if size < -5_000 {
        return Some(Scaled { kind: ZERO, was_zero: false });
    }
    let mut above = Big::from_decimal(digits);
    let mut below = Big::from(1);
    let scale = if power >= 0 { &mut above } else { &mut below };
    scale.raise_ten(power.unsigned_abs());
    // Scaled so that the quotient has 66 or 67 bits: the mantissa and room to round.
    let by = 67 - (above.bits() as i64 - below.bits() as i64);
    if by >= 0 {
        above.shift_left(by.unsigned_abs())
    } else {
        below.shift_left(by.unsigned_abs())
    }
    let (quotient, exact) = divide(above, &below);
    Some(Scaled { kind: round((quotient << 1) | u128::from(!exact), -by - 1), was_zero: false })
}

fn parse_hex(text: &[u8]) -> Option<Scaled> {
    let (digits, after_point, rest) = split_digits(text, u8::is_ascii_hexdigit)?;
    let mut exponent = parse_exponent(rest, b'p')? - 4 * after_point;
    let mut value = 0_u128;
    for digit in digits {
        let digit = u128::from((digit as char).to_digit(16).unwrap_or(0));
        if value >> 100 == 0 {
            value = (value << 4) | digit;
        } else {
            value |= u128::from(digit != 0);
            exponent += 4;
        }
    }
    Some(Scaled { kind: round(value, exponent), was_zero: value == 0 })
}

trait TrimZeros {
    fn trim_ascii_start_zeros(&self) -> &[u8];
}

impl TrimZeros for Vec<u8> {
    fn trim_ascii_start_zeros(&self) -> &[u8] {
        let zeros = self.iter().take_while(|byte| **byte == b'0').count();
        &self[zeros..]
    }
}

/// The quotient of two numbers when it has less than 127 bits, and whether nothing was left over.
fn divide(mut above: Big, below: &Big) -> (u128, bool) {
    let mut quotient = 0_u128;
    let mut shift = above.bits().saturating_sub(below.bits());
    let mut part = below.clone();
    part.shift_left(shift as u64);
    loop {
        quotient <<= 1;
        if above.cmp(&part) != Ordering::Less {
            above.subtract(&part);
            quotient |= 1;
        }
        if shift == 0 {
            return (quotient, above.0.is_empty());
        }
        shift -= 1;
        part.halve();
    }
}

/// A natural number of any size: 32 bits a limb, lowest first, no zero limbs at the top.
#[derive(Clone)]
struct Big(Vec<u32>);

impl From<u64> for Big {
    fn from(value: u64) -> Self {
        let mut big = Self(vec![value as u32, (value >> 32) as u32]);
        big.trim();
        big
    }
}

impl Big {
    fn from_decimal(digits: &[u8]) -> Self {
        let mut big = Self(Vec::with_capacity(digits.len() / 9 + 1));
        for piece in digits.chunks(9) {
            let value = piece.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
            big.multiply_add(10_u32.pow(piece.len() as u32), value);
        }
        big
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |top| self.0.len() * 32 - top.leading_zeros() as usize)
    }

    fn multiply_add(&mut self, factor: u32, plus: u32) {
        let mut carry = u64::from(plus);
        for limb in &mut self.0 {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn raise_ten(&mut self, mut power: u64) {
        while power > 0 {
            let step = power.min(9);
            self.multiply_add(10_u32.pow(step as u32), 0);
            power -= step;
        }
    }

    fn shift_left(&mut self, by: u64) {
        let (limbs, bits) = ((by / 32) as usize, (by % 32) as u32);
        self.multiply_add(1 << bits, 0);
        self.0.splice(0..0, std::iter::repeat_n(0, limbs));
        self.trim();
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for limb in self.0.iter_mut().rev() {
            let low = *limb & 1;
            *limb = (*limb >> 1) | (carry << 31);
            carry = low;
        }
        self.trim();
    }

    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// Takes away what is not larger than itself.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = 0_i64;
        for (at, limb) in self.0.iter_mut().enumerate() {
            let value = i64::from(*limb) - i64::from(other.0.get(at).copied().unwrap_or(0)) + borrow;
            *limb = value as u32;
            borrow = value >> 32;
        }
        self.trim();
    }

    fn to_text(&self) -> String {
        let mut limbs = self.0.clone();
        let mut pieces = Vec::new();
        while !limbs.is_empty() {
            let mut rest = 0_u64;
            for limb in limbs.iter_mut().rev() {
                rest = (rest << 32) | u64::from(*limb);
                *limb = (rest / 1_000_000_000) as u32;
                rest %= 1_000_000_000;
            }
            pieces.push(rest);
            while limbs.last() == Some(&0) {
                limbs.pop();
            }
        }
        let mut text = pieces.pop().unwrap_or(0).to_string();
        for piece in pieces.iter().rev() {
            text.push_str(&format!("{piece:09}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: &str, b: &str) -> Option<String> {
        let (a, b) = (LongDouble::parse(a.as_bytes())?, LongDouble::parse(b.as_bytes())?);
        a.plus(b).map(LongDouble::to_text)
    }

    fn shown(text: &str) -> Option<String> {
        LongDouble::parse(text.as_bytes()).map(LongDouble::to_text)
    }

    #[test]
    fn decimal_fractions_come_back_as_typed() {
        assert_eq!(sum("1.23", "0.77").as_deref(), Some("2"));
        assert_eq!(sum("2", "-0.1").as_deref(), Some("1.9"));
        assert_eq!(sum("10.5", "0.1").as_deref(), Some("10.6"));
        assert_eq!(sum("3.0e3", "200").as_deref(), Some("3200"));
        assert_eq!(sum("0.1", "-0.1").as_deref(), Some("0"));
        assert_eq!(sum("-0.0", "-0.0").as_deref(), Some("0"));
    }

    #[test]
    fn what_is_not_a_number() {
        for text in
            ["", " 1", "1 ", "1e", "e1", ".", "0x", "nan", "-nan", "1.2.3", "--1", "1\x002", "1e5000", "1e-5000"]
        {
            assert_eq!(shown(text), None, "{text:?}");
        }
        assert_eq!(shown("+inf").as_deref(), Some("inf"));
        assert_eq!(sum("1", "inf"), None);
        assert_eq!(sum("-inf", "inf"), None);
        assert_eq!(sum("1e4932", "1e4932"), None);
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(shown("1e4932").map(|text| text.len()), Some(4933));
        assert_eq!(shown("1.18973149535723176502e+4932").map(|text| text.len()), Some(4933));
        assert_eq!(shown("1.18973149535723176509e+4932"), None);
        assert_eq!(shown("3.6e-4951").as_deref(), Some("0"));
        assert_eq!(shown("1e-4951"), None);
    }

    #[test]
    fn other_spellings() {
        assert_eq!(shown("0x10").as_deref(), Some("16"));
        assert_eq!(shown("0x1.8p1").as_deref(), Some("3"));
        assert_eq!(shown(".5").as_deref(), Some("0.5"));
        assert_eq!(shown("5.").as_deref(), Some("5"));
        assert_eq!(shown("1E+2").as_deref(), Some("100"));
        assert_eq!(LongDouble::from_int(i64::MIN).to_text(), i64::MIN.to_string());
    }

    proptest::proptest! {
        #[test]
        fn integers_are_exact(a in -(1_i64 << 62)..(1_i64 << 62), b in -(1_i64 << 62)..(1_i64 << 62)) {
            proptest::prop_assert_eq!(sum(&a.to_string(), &b.to_string()), Some((a + b).to_string()));
        }

        #[test]
        fn any_text_is_safe(text in "[0-9.eExXpP+-]{0,20}", other in "-?[0-9]{1,5}(\\.[0-9]{1,30})?(e-?[0-9]{1,4})?") {
            if let (Some(a), Some(b)) = (LongDouble::parse(text.as_bytes()), LongDouble::parse(other.as_bytes())) {
                proptest::prop_assert_eq!(a.plus(b), b.plus(a));
                a.plus(b).map(LongDouble::to_text);
            }
        }
    }
}
