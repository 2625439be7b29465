//! What a setting is: its kind, what values it takes, and who may change it when.
//!
//! Values enter as text (file, flag, CONFIG SET) and are kept in the form CONFIG GET shows. The texts of refusals are
//! Redis' own where Redis has the check, because clients and its test suite match on them.

use super::shapes;

/// One setting. All of them stand in `table.rs` and `accepted.rs`.
#[derive(Debug)]
pub struct Spec {
    /// As redis.conf names it where redis.conf has it.
    pub name: &'static str,
    /// An older name that means the same; empty if there is none.
    pub alias: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The value it has when nobody says anything.
    pub default: &'static str,
    /// [`FIXED`], [`REPLICATED`] and so on.
    pub flags: u32,
    /// For `--help` and the example file.
    pub help: &'static str,
}

/// CONFIG SET always refuses, as Redis does for its immutable settings.
pub const FIXED: u32 = 1;
/// Cannot change while the process runs; CONFIG SET to the value it has is not an error.
pub const PINNED: u32 = 1 << 1;
/// The group's, not the member's: a change goes through the log. A value in the file or a flag counts when the group
/// is bootstrapped, and never after.
pub const REPLICATED: u32 = 1 << 2;
/// Never shown in the slow log or in MONITOR.
pub const SENSITIVE: u32 = 1 << 3;
/// CONFIG GET shows it only when asked for by its full name.
pub const HIDDEN: u32 = 1 << 4;
/// CONFIG SET refuses unless `enable-protected-configs` allows it; here it never does.
pub const PROTECTED: u32 = 1 << 5;
/// Says how this server is; no other value is accepted, from anywhere.
pub const FACT: u32 = 1 << 6;
/// Several words: a flag may be followed by several values.
pub const WORDS: u32 = 1 << 7;
/// Known to Redis, kept and shown, without any effect here.
pub const INERT: u32 = 1 << 8;

/// CONFIG GET never shows it, whoever asks: a client of the data is not an operator of the group.
pub const UNTOLD: u32 = 1 << 9;

/// What values a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    /// A whole number between the two.
    Int(i64, i64),
    /// A number of bytes between the two, with or without a unit (`1gb`).
    Memory(i64, i64),
    /// A number of bytes, or up to that many percent, kept as a negative number.
    MemoryOrPercent(i64),
    /// Milliseconds between the two, with or without a unit (`5s`).
    Millis(i64, i64),
    /// An octal number up to that one.
    Octal(i64),
    /// One of these words.
    Enum(&'static [&'static str]),
    /// Any text.
    Text,
    /// Text of a certain shape: the function takes the present and the wished value, and answers the form to keep.
    Shaped(Shape),
}

/// See [`Kind::Shaped`].
pub type Shape = fn(&str, &str) -> Result<String, String>;

/// A value that fits its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Number, truth, or index of the word; 0 for texts.
    pub number: i64,
    /// In the form CONFIG GET shows.
    pub text: String,
}

impl Spec {
    /// True if any of these flags is set.
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Checks a value. `present` is the value the setting has now: some values change a part of it.
    pub fn read(&self, present: &str, wished: &str) -> Result<Value, String> {
        let value = self.kind.read(present, wished)?;
        if self.has(FACT) && value.text != self.default {
            return Err(format!("this server always has it at '{}'", self.default));
        }
        Ok(value)
    }

    /// The default as a value.
    pub fn default_value(&self) -> Value {
        match self.kind.read(self.default, self.default) {
            Ok(value) => value,
            Err(problem) => unreachable!("the default of {} is not one of its values: {problem}", self.name),
        }
    }
}

impl Kind {
    pub(super) fn read(&self, present: &str, wished: &str) -> Result<Value, String> {
        match *self {
            Kind::Bool => match wished.to_ascii_lowercase().as_str() {
                "yes" => Ok(Value { number: 1, text: "yes".into() }),
                "no" => Ok(Value { number: 0, text: "no".into() }),
                _ => Err("argument must be 'yes' or 'no'".into()),
            },
            Kind::Int(min, max) => {
                let number = integer(wished).ok_or("argument couldn't be parsed into an integer")?;
                within(number, min, max)
            }
            Kind::Memory(min, max) => within(bytes(wished).ok_or("argument must be a memory value")?, min, max),
            Kind::MemoryOrPercent(max_percent) => memory_or_percent(wished, max_percent),
            Kind::Millis(min, max) => {
                within(millis(wished).ok_or("argument must be a time, in milliseconds or with a unit")?, min, max)
            }
            Kind::Octal(max) => {
                let number = i64::from_str_radix(wished, 8)
                    .map_err(|_| "argument couldn't be parsed as an octal number".to_owned())?;
                if !(0..=max).contains(&number) {
                    return Err(format!("argument must be between 0 and {max:o} inclusive"));
                }
                Ok(Value { number, text: format!("{number:o}") })
            }
            Kind::Enum(words) => match words.iter().position(|word| word.eq_ignore_ascii_case(wished)) {
                Some(index) => Ok(Value { number: index as i64, text: words[index].into() }),
                None => Err(shapes::one_of(words)),
            },
            Kind::Text => Ok(Value { number: 0, text: wished.into() }),
            Kind::Shaped(shape) => Ok(Value { number: 0, text: shape(present, wished)? }),
        }
    }
}

fn within(number: i64, min: i64, max: i64) -> Result<Value, String> {
    if (min..=max).contains(&number) {
        Ok(Value { number, text: number.to_string() })
    } else {
        Err(format!("argument must be between {min} and {max} inclusive"))
    }
}

fn memory_or_percent(wished: &str, max_percent: i64) -> Result<Value, String> {
    if let Some(number) = bytes(wished) {
        return within(number, 0, i64::MAX);
    }
    let percent = wished.strip_suffix('%').and_then(integer).filter(|percent| *percent >= 0);
    match percent {
        Some(percent) if percent <= max_percent => Ok(Value { number: -percent, text: format!("{percent}%") }),
        Some(_) => Err(format!("percentage argument must be less or equal to {max_percent}")),
        None => Err("argument must be a memory or percent value".into()),
    }
}

/// As strict as Redis: no plus, no blanks, no leading zeros.
pub(super) fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = digits == "0" || !digits.starts_with(['0', '+']);
    if canonical && text != "-0" { text.parse().ok() } else { None }
}

/// `10`, `10b`, `1k` (1000), `1kb` (1024), and so on up to `gb`.
pub(super) fn bytes(text: &str) -> Option<i64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let scale: i64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(scale)
}

/// `250`, `250ms`, `5s`, `2m`, `1h`.
pub(super) fn millis(text: &str) -> Option<i64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let scale: i64 = match unit.to_ascii_lowercase().as_str() {
        "" | "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(scale)
}
