//! Commands on strings.

use crate::args::Args;
use crate::cx::{ReadCx, Ttl, WriteCx};
use crate::error::CmdError;
use crate::reply::ReplyBuf;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, Meta, acl, flag, key};

fn get(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.bulk_or_null(cx.string(args.next()?)?);
    Ok(())
}

fn set(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, value) = (args.next()?, args.next()?);
    args.end()?;
    cx.set_string(key, value, Ttl::Clear);
    out.ok();
    Ok(())
}

/// The family.
pub static COMMANDS: &[Command<Handler>] = &[
    Command {
        meta: Meta {
            name: "get",
            summary: "Reads a string.",
            group: Group::String,
            arity: 2,
            flags: flag::FAST,
            acl: acl::STRING,
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[Arg::key("key", 0)],
            ..Meta::BASE
        },
        handler: Handler::Read(get),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "set",
            summary: "Sets a key to a string, whatever it held before.",
            group: Group::String,
            arity: -3,
            flags: flag::DENYOOM,
            acl: acl::STRING,
            keys: &[KeySpec::one(
                key::RW | key::ACCESS | key::UPDATE | key::VARIABLE_FLAGS,
            )],
            args: &[Arg::key("key", 0), Arg::string("value")],
            ..Meta::BASE
        },
        handler: Handler::Write(set),
        subcommands: &[],
    },
];
