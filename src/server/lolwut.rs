//! LOLWUT: a small picture and the version, as is the custom.

use quorate_keyspace::args::Args;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Group, Meta, flag};

use super::REDIS_VERSION;
use super::cx::{Place, ShellCx, ShellHandler};

/// Columns and rows of the picture; nobody needs a larger one, and it is drawn on the spot.
const SIZES: std::ops::RangeInclusive<i64> = 3..=160;

/// Draws random logs of a group that agree up to a line, and go their ways behind it.
fn lolwut(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    if args.keyword("version") {
        args.int()?;
    }
    let mut size = |default: i64| -> Result<i64, CmdError> {
        if args.is_empty() { Ok(default) } else { Ok(args.int()?.clamp(*SIZES.start(), *SIZES.end())) }
    };
    let columns = size(48)?;
    let rows = size(5)?;
    let mut chance = cx.random() | 1;
    let mut draw = |sides: u64| {
        // xorshift: a picture needs no better.
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance % sides
    };
    let agreed = columns * 2 / 3;
    let common: Vec<u64> = (0..agreed).map(|_| draw(4)).collect();
    const SHADES: [char; 4] = ['░', '▒', '▓', '█'];
    let mut text = String::new();
    for _ in 0..rows {
        text.extend(common.iter().map(|shade| SHADES[*shade as usize]));
        text.push('│');
        let own = draw((columns - agreed).max(1) as u64);
        text.extend((0..own).map(|_| SHADES[draw(4) as usize]));
        text.push('\n');
    }
    text.push_str(&format!(
        "\nWhat stands left of the line will not change. Quorate ver. {} (Redis ver. {REDIS_VERSION})\n",
        env!("CARGO_PKG_VERSION")
    ));
    out.verbatim("txt", text.as_bytes());
    Ok(())
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "lolwut",
        summary: "Draws something, and tells the version.",
        since: "5.0.0",
        group: Group::Server,
        arity: -1,
        flags: flag::READONLY | flag::FAST,
        args: &[Arg::int("version").token("VERSION").optional()],
        ..Meta::BASE
    },
    handler: ShellHandler::Now(Place::Here, lolwut),
    subcommands: &[],
}];
