//! Who leads: ROLE, FAILOVER, and the commands that elections have made needless.

use quorate_keyspace::args::{Args, is};
use quorate_keyspace::error::CmdError;
use quorate_keyspace::number::parse_int;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Deprecated, Group, Meta, acl, flag};
use quorate_raft::{GroupStatus, Role};

use super::cx::{BoxFuture, Place, ShellCx, ShellHandler};
use super::facts::host_port;

/// The leader answers as a Redis master does and the others as replicas of it; offsets are log positions.
fn role<'a>(cx: &'a dyn ShellCx, _: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        let status = cx.group().await;
        if status.role == Role::Leader {
            role_of_leader(&status, out);
        } else {
            role_of_follower(&status, out);
        }
        Ok(())
    })
}

fn role_of_leader(status: &GroupStatus, out: &mut ReplyBuf) {
    out.array(3);
    out.bulk(b"master");
    out.int(status.applied.unwrap_or(0) as i64);
    let others = || status.members.iter().filter(|m| m.id != status.id && m.healthy != Some(false));
    out.array(others().count());
    for member in others() {
        let (host, port) = host_port(&member.member.client);
        out.array(3);
        out.bulk(host.as_bytes());
        out.bulk_int(i64::from(port));
        out.bulk_int(member.matched.unwrap_or(0) as i64);
    }
}

fn role_of_follower(status: &GroupStatus, out: &mut ReplyBuf) {
    let leader = status.leader.and_then(|id| status.members.iter().find(|m| m.id == id));
    let (host, port) = leader.map_or(("", 0), |m| host_port(&m.member.client));
    out.array(5);
    out.bulk(b"slave");
    out.bulk(host.as_bytes());
    out.int(i64::from(port));
    out.bulk(if leader.is_some() { b"connected" } else { b"connect" });
    out.int(status.applied.unwrap_or(0) as i64);
}

fn replicaof(_cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    if is(args.next()?, "no") && is(args.next()?, "one") {
        out.ok();
        return Ok(());
    }
    Err(CmdError::fixed(
        "ERR replication is not configured by hand here: the members of a group elect their leader. \
         'quorate member add' takes a member in, FAILOVER hands leadership over",
    ))
}

/// FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT ms]: a transfer of leadership.
fn failover<'a>(
    cx: &'a dyn ShellCx,
    args: &'a [&'a [u8]],
    out: &'a mut ReplyBuf,
) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        let mut rest = Args::new(args, 1);
        let mut to = None;
        while let Some(word) = rest.optional() {
            match word {
                w if is(w, "to") && rest.remaining() >= 2 => to = Some((rest.next()?, rest.next()?)),
                w if is(w, "force") && to.is_some() => {}
                w if is(w, "timeout") && !rest.is_empty() => {
                    rest.int_in(1, i64::MAX, CmdError::fixed("ERR FAILOVER timeout must be greater than 0"))?;
                }
                w if is(w, "abort") && args.len() == 2 => return Err(CmdError::fixed("ERR No failover in progress.")),
                _ => return Err(CmdError::SYNTAX),
            }
        }
        let target = match to {
            None => None,
            Some((host, port)) => Some(find_member(&cx.group().await, host, port)?),
        };
        cx.transfer_leader(target).await?;
        out.ok();
        Ok(())
    })
}

fn find_member(status: &GroupStatus, host: &[u8], port: &[u8]) -> Result<u64, CmdError> {
    const NOT_A_MEMBER: CmdError = CmdError::fixed("ERR FAILOVER target HOST and PORT is not a replica.");
    let port = parse_int(port).ok_or(CmdError::NOT_INTEGER)?;
    let found = status.members.iter().find(|m| {
        let (its_host, its_port) = host_port(&m.member.client);
        its_host.as_bytes().eq_ignore_ascii_case(host) && i64::from(its_port) == port
    });
    found.map(|m| m.id).ok_or(NOT_A_MEMBER)
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[
    Command {
        meta: Meta {
            name: "failover",
            summary: "Hands leadership to another member.",
            since: "6.2.0",
            group: Group::Server,
            arity: -1,
            flags: flag::ADMIN | flag::NOSCRIPT | flag::STALE,
            args: &[
                Arg::block("target", &[Arg::string("host"), Arg::int("port"), Arg::word("force", "FORCE").optional()])
                    .token("TO")
                    .optional(),
                Arg::word("abort", "ABORT").optional(),
                Arg::int("milliseconds").token("TIMEOUT").optional(),
            ],
            ..Meta::BASE
        },
        handler: ShellHandler::Later(Place::Leader, failover),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "replicaof",
            summary: "Refuses, for elections decide who leads.",
            since: "5.0.0",
            group: Group::Server,
            arity: 3,
            flags: flag::NO_ASYNC_LOADING | flag::ADMIN | flag::NOSCRIPT | flag::STALE,
            args: &[Arg::one_of(
                "args",
                &[
                    Arg::block("host-port", &[Arg::string("host"), Arg::int("port")]),
                    Arg::block("no-one", &[Arg::word("no", "NO"), Arg::word("one", "ONE")]),
                ],
            )],
            ..Meta::BASE
        },
        handler: ShellHandler::Now(Place::Here, replicaof),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "role",
            summary: "Tells the part this member plays.",
            since: "2.8.12",
            group: Group::Server,
            arity: 1,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST,
            acl: acl::ADMIN | acl::DANGEROUS,
            ..Meta::BASE
        },
        handler: ShellHandler::Later(Place::Here, role),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "slaveof",
            summary: "Refuses, for elections decide who leads.",
            group: Group::Server,
            arity: 3,
            flags: flag::NO_ASYNC_LOADING | flag::ADMIN | flag::NOSCRIPT | flag::STALE,
            args: &[Arg::one_of(
                "args",
                &[
                    Arg::block("host-port", &[Arg::string("host"), Arg::int("port")]),
                    Arg::block("no-one", &[Arg::word("no", "NO"), Arg::word("one", "ONE")]),
                ],
            )],
            deprecated: Some(Deprecated { since: "5.0.0", replaced_by: "`REPLICAOF`" }),
            ..Meta::BASE
        },
        handler: ShellHandler::Now(Place::Here, replicaof),
        subcommands: &[],
    },
];
