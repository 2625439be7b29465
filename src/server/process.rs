//! TIME and SHUTDOWN.

use quorate_keyspace::args::{Args, is};
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Group, Meta, flag};

use super::cx::{BoxFuture, Place, ShellCx, ShellHandler, ShutdownOptions};

fn time(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let now = cx.now_us();
    out.array(2);
    out.bulk_int((now / 1_000_000) as i64);
    out.bulk_int((now % 1_000_000) as i64);
    Ok(())
}

/// Answers only if the stop was refused: the end of the connection is the answer otherwise.
fn shutdown<'a>(
    cx: &'a dyn ShellCx,
    args: &'a [&'a [u8]],
    out: &'a mut ReplyBuf,
) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        let mut options = ShutdownOptions::default();
        let mut abort = false;
        for word in &args[1..] {
            match word {
                w if is(w, "nosave") && options.save != Some(true) => options.save = Some(false),
                w if is(w, "save") && options.save != Some(false) => options.save = Some(true),
                w if is(w, "now") => options.now = true,
                w if is(w, "force") => options.force = true,
                w if is(w, "abort") => abort = true,
                _ => return Err(CmdError::SYNTAX),
            }
        }
        if !abort {
            return cx.shutdown(options).await;
        }
        if options != ShutdownOptions::default() {
            return Err(CmdError::SYNTAX);
        }
        if !cx.abort_shutdown() {
            return Err(CmdError::fixed("ERR No shutdown in progress."));
        }
        out.ok();
        Ok(())
    })
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[
    Command {
        meta: Meta {
            name: "shutdown",
            summary: "Stops this member in order.",
            group: Group::Server,
            complexity: "O(N) with N the keys that changed since the last checkpoint",
            arity: -1,
            flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::NO_MULTI | flag::ALLOW_BUSY,
            args: &[
                Arg::one_of("save-selector", &[Arg::word("nosave", "NOSAVE"), Arg::word("save", "SAVE")]).optional(),
                Arg::word("now", "NOW").optional().since("7.0.0"),
                Arg::word("force", "FORCE").optional().since("7.0.0"),
                Arg::word("abort", "ABORT").optional().since("7.0.0"),
            ],
            history: &[("7.0.0", "NOW, FORCE and ABORT.")],
            ..Meta::BASE
        },
        handler: ShellHandler::Later(Place::Here, shutdown),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "time",
            summary: "Tells the time of the server.",
            since: "2.6.0",
            group: Group::Server,
            arity: 1,
            flags: flag::LOADING | flag::STALE | flag::FAST,
            tips: &["nondeterministic_output"],
            ..Meta::BASE
        },
        handler: ShellHandler::Now(Place::Here, time),
        subcommands: &[],
    },
];
