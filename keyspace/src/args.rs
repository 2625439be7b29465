//! A cursor over the arguments of a command, with Redis' rules for numbers and keywords.

use crate::error::CmdError;
use crate::number;

/// Arguments, the command's name first. A handler gets it placed behind the name (and the subcommand's name).
#[derive(Clone, Debug)]
pub struct Args<'a> {
    all: &'a [&'a [u8]],
    at: usize,
}

impl<'a> Args<'a> {
    /// `at` is the first argument a handler sees: 1, or 2 for a subcommand.
    pub fn new(all: &'a [&'a [u8]], at: usize) -> Self {
        Self { all, at }
    }

    /// Everything, the name included.
    pub fn all(&self) -> &'a [&'a [u8]] {
        self.all
    }

    /// What was not taken yet.
    pub fn rest(&self) -> &'a [&'a [u8]] {
        self.all.get(self.at..).unwrap_or_default()
    }

    /// How many were not taken yet.
    pub fn remaining(&self) -> usize {
        self.all.len().saturating_sub(self.at)
    }

    /// Whether all were taken.
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// Takes one that must be there; the arity promises the first ones, after that its absence is a syntax error.
    #[expect(clippy::should_implement_trait, reason = "it is no iterator: the end is an error")]
    pub fn next(&mut self) -> Result<&'a [u8], CmdError> {
        let arg = self.all.get(self.at).copied().ok_or(CmdError::SYNTAX)?;
        self.at += 1;
        Ok(arg)
    }

    /// Takes one if there is one.
    pub fn optional(&mut self) -> Option<&'a [u8]> {
        let arg = self.all.get(self.at).copied()?;
        self.at += 1;
        Some(arg)
    }

    /// Looks at the next one.
    pub fn peek(&self) -> Option<&'a [u8]> {
        self.all.get(self.at).copied()
    }

    /// Takes a 64-bit integer ("not an integer or out of range").
    pub fn int(&mut self) -> Result<i64, CmdError> {
        number::parse_int(self.next()?).ok_or(CmdError::NOT_INTEGER)
    }

    /// Takes an integer within bounds; outside of them the error is `error`.
    pub fn int_in(&mut self, min: i64, max: i64, error: CmdError) -> Result<i64, CmdError> {
        let n = self.int()?;
        if (min..=max).contains(&n) { Ok(n) } else { Err(error) }
    }

    /// Takes the next one if it is this keyword (any case).
    pub fn keyword(&mut self, word: &str) -> bool {
        let hit = self.peek().is_some_and(|arg| is(arg, word));
        self.at += usize::from(hit);
        hit
    }

    /// An error unless all were taken.
    pub fn end(&self) -> Result<(), CmdError> {
        if self.is_empty() { Ok(()) } else { Err(CmdError::SYNTAX) }
    }
}

/// Whether an argument is this keyword, in any case.
pub fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}
