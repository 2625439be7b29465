//! The options of SET and GETEX, and expiries as arguments.

use crate::args::{Args, is};
use crate::error::CmdError;
use crate::number;

/// How an expiry is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// `EX`: seconds from now.
    Seconds,
    /// `PX`: milliseconds from now.
    Millis,
    /// `EXAT`: seconds since 1970.
    SecondsAt,
    /// `PXAT`: milliseconds since 1970.
    MillisAt,
}

impl Unit {
    /// Whether it is a moment, which may have passed.
    pub(super) fn is_moment(self) -> bool {
        matches!(self, Unit::SecondsAt | Unit::MillisAt)
    }
}

/// The moment an expiry means, in milliseconds since 1970; `name` is the command's, for the error.
pub(super) fn moment(arg: &[u8], unit: Unit, now_ms: u64, name: &str) -> Result<u64, CmdError> {
    let n = number::parse_int(arg).ok_or(CmdError::NOT_INTEGER)?;
    let invalid = || CmdError::invalid_expire(name);
    if n <= 0 {
        return Err(invalid());
    }
    let millis = match unit {
        Unit::Seconds | Unit::SecondsAt => n.checked_mul(1000).ok_or_else(invalid)?,
        Unit::Millis | Unit::MillisAt => n,
    };
    let base = if unit.is_moment() { 0 } else { now_ms.cast_signed() };
    let at = base.checked_add(millis).ok_or_else(invalid)?;
    Ok(at.cast_unsigned())
}

/// When a value is set at all.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum When {
    #[default]
    Always,
    /// `NX`
    Absent,
    /// `XX`
    Present,
}

/// What SET and GETEX take behind their fixed arguments.
#[derive(Default)]
pub(super) struct Options<'a> {
    pub(super) when: When,
    pub(super) get: bool,
    pub(super) keep_ttl: bool,
    pub(super) persist: bool,
    pub(super) expiry: Option<(Unit, &'a [u8])>,
}

impl<'a> Options<'a> {
    /// Of SET.
    pub(super) fn of_set(args: &mut Args<'a>) -> Result<Self, CmdError> {
        Self::parse(args, true)
    }

    /// Of GETEX.
    pub(super) fn of_getex(args: &mut Args<'a>) -> Result<Self, CmdError> {
        Self::parse(args, false)
    }

    fn parse(args: &mut Args<'a>, is_set: bool) -> Result<Self, CmdError> {
        let mut options = Self::default();
        while let Some(word) = args.optional() {
            if !options.take(word, args, is_set)? {
                return Err(CmdError::SYNTAX);
            }
        }
        Ok(options)
    }

    fn take(&mut self, word: &[u8], args: &mut Args<'a>, is_set: bool) -> Result<bool, CmdError> {
        let free = self.expiry.is_none();
        if is_set && is(word, "nx") && self.when != When::Present {
            self.when = When::Absent;
        } else if is_set && is(word, "xx") && self.when != When::Absent {
            self.when = When::Present;
        } else if is_set && is(word, "get") {
            self.get = true;
        } else if is_set && is(word, "keepttl") && free {
            self.keep_ttl = true;
        } else if !is_set && is(word, "persist") && free {
            self.persist = true;
        } else if let Some(unit) = unit_of(word) {
            let same = self.expiry.is_none_or(|(known, _)| known == unit);
            if !same || self.keep_ttl || self.persist {
                return Ok(false);
            }
            self.expiry = Some((unit, args.next()?));
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

fn unit_of(word: &[u8]) -> Option<Unit> {
    let units = [("ex", Unit::Seconds), ("px", Unit::Millis), ("exat", Unit::SecondsAt), ("pxat", Unit::MillisAt)];
    units.into_iter().find(|(name, _)| is(word, name)).map(|(_, unit)| unit)
}
