//! INCR and its like: numbers kept as decimal text.

use crate::args::Args;
use crate::cx::{Ttl, WriteCx};
use crate::error::CmdError;
use crate::longdouble::LongDouble;
use crate::number;
use crate::reply::ReplyBuf;

fn add(cx: &mut WriteCx<'_>, key: &[u8], by: i64, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let old = match cx.string(key)? {
        // No number is as long as what doesn't stand together.
        Some(text) => text.flat().and_then(number::parse_int).ok_or(CmdError::NOT_INTEGER)?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or(CmdError::OVERFLOW)?;
    let mut digits = [0; number::INT_LEN];
    cx.set_string(key, number::write_int(new, &mut digits), Ttl::Keep);
    out.int(new);
    Ok(())
}

pub(super) fn incr(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    add(cx, args.next()?, 1, out)
}

pub(super) fn decr(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    add(cx, args.next()?, -1, out)
}

pub(super) fn incrby(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, by) = (args.next()?, args.int()?);
    add(cx, key, by, out)
}

pub(super) fn decrby(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, by) = (args.next()?, args.int()?);
    let by = by.checked_neg().ok_or(CmdError::fixed("ERR decrement would overflow"))?;
    add(cx, key, by, out)
}

pub(super) fn incrbyfloat(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, by) = (args.next()?, args.next()?);
    let old = match cx.string(key)? {
        Some(text) => text.flat().and_then(LongDouble::parse).ok_or(CmdError::NOT_FLOAT)?,
        None => LongDouble::from_int(0),
    };
    let by = LongDouble::parse(by).ok_or(CmdError::NOT_FLOAT)?;
    let sum = old.plus(by).ok_or(CmdError::NAN_OR_INF)?;
    let text = sum.to_text();
    cx.set_text(key, text.as_bytes(), Ttl::Keep);
    out.bulk(text.as_bytes());
    Ok(())
}
