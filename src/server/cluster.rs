//! CLUSTER: the group as a cluster of one shard, for clients that follow `-MOVED`.
//!
//! Only where `follower-mode` is `redirect`; otherwise the answer is the one of a Redis without a cluster, because
//! a client that then opened connections to every node would gain nothing.

use quorate_keyspace::args::Args;
use quorate_keyspace::cx::ReadCx;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::slot_of;
use quorate_keyspace::spec::{Arg, Command, Deprecated, Group, Handler, Meta, flag};
use quorate_keyspace::trie::Keyed;
use quorate_raft::{GroupStatus, MemberStatus};

use super::cx::{BoxFuture, Place, ShellCx, ShellHandler};
use super::facts::{host_port, node_id, shard_id};
use super::help::help;

/// The number of hash slots.
const SLOTS: i64 = 16_384;

fn enabled(cx: &dyn ShellCx) -> Result<(), CmdError> {
    if cx.redirects() {
        return Ok(());
    }
    Err(CmdError::fixed("ERR This instance has cluster support disabled"))
}

fn info<'a>(cx: &'a dyn ShellCx, _: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        enabled(cx)?;
        let status = cx.group().await;
        let (state, served) = if status.leader.is_some() { ("ok", SLOTS) } else { ("fail", 0) };
        let text = format!(
            "cluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{served}\r\n\
             cluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\ncluster_known_nodes:{}\r\ncluster_size:1\r\n\
             cluster_current_epoch:{term}\r\ncluster_my_epoch:{term}\r\ncluster_stats_messages_sent:0\r\n\
             cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
            SLOTS - served,
            status.members.len(),
            term = status.term,
        );
        out.verbatim("txt", text.as_bytes());
        Ok(())
    })
}

fn myid(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    enabled(cx)?;
    out.bulk(cx.server().node_id.as_bytes());
    Ok(())
}

fn myshardid(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    enabled(cx)?;
    out.bulk(shard_id(&cx.server().group).as_bytes());
    Ok(())
}

/// The leader first, then the others.
fn in_order(status: &GroupStatus) -> Vec<&MemberStatus> {
    let mut members: Vec<&MemberStatus> = status.members.iter().collect();
    members.sort_by_key(|m| (status.leader != Some(m.id), m.id));
    members
}

fn slots<'a>(cx: &'a dyn ShellCx, _: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        enabled(cx)?;
        let status = cx.group().await;
        if status.leader.is_none() {
            out.array(0);
            return Ok(());
        }
        let members = in_order(&status);
        out.array(1);
        out.array(2 + members.len());
        out.int(0);
        out.int(SLOTS - 1);
        for member in members {
            let (host, port) = host_port(&member.member.client);
            out.array(4);
            out.bulk(host.as_bytes());
            out.int(i64::from(port));
            out.bulk(node_id(&cx.server().group, member.id).as_bytes());
            out.array(0);
        }
        Ok(())
    })
}

fn shards<'a>(cx: &'a dyn ShellCx, _: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        enabled(cx)?;
        let status = cx.group().await;
        let members = in_order(&status);
        out.array(1);
        out.map(2);
        out.bulk(b"slots");
        out.array(2);
        out.int(0);
        out.int(SLOTS - 1);
        out.bulk(b"nodes");
        out.array(members.len());
        for member in members {
            write_shard_node(cx, &status, member, out);
        }
        Ok(())
    })
}

fn write_shard_node(cx: &dyn ShellCx, status: &GroupStatus, member: &MemberStatus, out: &mut ReplyBuf) {
    let (host, port) = host_port(&member.member.client);
    let leads = status.leader == Some(member.id);
    let position = if member.id == status.id { status.applied } else { member.matched };
    out.map(7);
    let mut field = |name: &str, value: &[u8]| {
        out.bulk(name.as_bytes());
        out.bulk(value);
    };
    field("id", node_id(&cx.server().group, member.id).as_bytes());
    field("ip", host.as_bytes());
    field("endpoint", host.as_bytes());
    field("role", if leads { b"master" } else { b"replica" });
    field("health", if member.healthy == Some(false) { b"failed" } else { b"online" });
    out.bulk(b"port");
    out.int(i64::from(port));
    out.bulk(b"replication-offset");
    out.int(position.unwrap_or(0) as i64);
}

fn nodes<'a>(cx: &'a dyn ShellCx, _: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        enabled(cx)?;
        let status = cx.group().await;
        let group = &cx.server().group;
        let master = status.leader.map_or_else(|| "-".to_owned(), |id| node_id(group, id));
        let mut text = String::new();
        for member in in_order(&status) {
            let leads = status.leader == Some(member.id);
            let (_, peer_port) = host_port(&member.member.peer);
            text.push_str(&format!(
                "{} {}@{peer_port} {}{} {} 0 0 {} {}{}\n",
                node_id(group, member.id),
                member.member.client,
                if member.id == status.id { "myself," } else { "" },
                if leads { "master" } else { "slave" },
                if leads { "-" } else { &master },
                status.term,
                if member.healthy == Some(false) { "disconnected" } else { "connected" },
                if leads { " 0-16383" } else { "" },
            ));
        }
        out.verbatim("txt", text.as_bytes());
        Ok(())
    })
}

fn links(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    enabled(cx)?;
    out.array(0);
    Ok(())
}

fn keyslot(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    enabled(cx)?;
    out.int(i64::from(slot_of(args.next()?)));
    Ok(())
}

fn slot_arg(args: &mut Args<'_>) -> Result<u16, CmdError> {
    let slot = args.int_in(0, SLOTS - 1, CmdError::fixed("ERR Invalid slot"))?;
    Ok(slot as u16)
}

fn count_in_slot(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.int(cx.iter_slot(slot_arg(args)?).count() as i64);
    Ok(())
}

fn keys_in_slot(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let slot = slot_arg(args)?;
    let count = args.int_in(0, i64::MAX, CmdError::fixed("ERR Invalid number of keys"))?;
    let keys: Vec<&[u8]> =
        cx.iter_slot(slot).take(usize::try_from(count).unwrap_or(usize::MAX)).map(|item| item.key()).collect();
    out.array(keys.len());
    for key in keys {
        out.bulk(key);
    }
    Ok(())
}

/// A look at the keyspace that is no command of its own there.
const fn look(run: quorate_keyspace::spec::ReadFn) -> Command<Handler> {
    Command { meta: Meta::BASE, handler: Handler::Read(run), subcommands: &[] }
}

static COUNT_IN_SLOT: Command<Handler> = look(count_in_slot);
static KEYS_IN_SLOT: Command<Handler> = look(keys_in_slot);

fn read(cx: &dyn ShellCx, command: &Command<Handler>, args: &Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    enabled(cx)?;
    let (now_ms, seed, db) = (cx.now_us() / 1000, cx.random(), cx.client().db);
    cx.with_keyspace(&mut |keyspace| keyspace.read(now_ms, seed, db, command, args.clone(), out));
    Ok(())
}

fn countkeysinslot(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    read(cx, &COUNT_IN_SLOT, args, out)
}

fn getkeysinslot(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    read(cx, &KEYS_IN_SLOT, args, out)
}

fn cluster_help(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    enabled(cx)?;
    help(
        out,
        "CLUSTER",
        &[
            "COUNTKEYSINSLOT <slot>",
            "    Count the keys of <slot>.",
            "GETKEYSINSLOT <slot> <count>",
            "    Name up to <count> keys of <slot>.",
            "INFO",
            "    Tell the state of the cluster.",
            "KEYSLOT <key>",
            "    Tell the slot of <key>.",
            "LINKS",
            "    List links of a cluster bus; there is none.",
            "MYID",
            "    Tell the id of this node.",
            "MYSHARDID",
            "    Tell the id of its shard.",
            "NODES",
            "    Describe the nodes in the form of Redis' nodes file.",
            "SHARDS",
            "    Tell which shards hold which slots.",
            "SLOTS",
            "    Tell which nodes serve which slots.",
        ],
    );
    Ok(())
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "cluster",
        summary: "Holds the commands about the cluster.",
        since: "3.0.0",
        group: Group::Cluster,
        complexity: "Depends on subcommand.",
        arity: -2,
        ..Meta::BASE
    },
    handler: ShellHandler::Container,
    subcommands: &[
        Command {
            meta: Meta {
                name: "countkeysinslot",
                summary: "Counts the keys of a slot.",
                since: "3.0.0",
                group: Group::Cluster,
                arity: 3,
                flags: flag::STALE,
                args: &[Arg::int("slot")],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, countkeysinslot),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "getkeysinslot",
                summary: "Names some keys of a slot.",
                since: "3.0.0",
                group: Group::Cluster,
                complexity: "O(N) with N the number of keys asked for",
                arity: 4,
                flags: flag::STALE,
                args: &[Arg::int("slot"), Arg::int("count")],
                tips: &["nondeterministic_output"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, getkeysinslot),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "help",
                summary: "Explains the subcommands.",
                since: "5.0.0",
                group: Group::Cluster,
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, cluster_help),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "info",
                summary: "Tells the state of the cluster.",
                since: "3.0.0",
                group: Group::Cluster,
                arity: 2,
                flags: flag::STALE,
                tips: &["nondeterministic_output"],
                ..Meta::BASE
            },
            handler: ShellHandler::Later(Place::Here, info),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "keyslot",
                summary: "Tells the slot of a key.",
                since: "3.0.0",
                group: Group::Cluster,
                complexity: "O(N) with N the bytes of the key",
                arity: 3,
                flags: flag::STALE,
                args: &[Arg::string("key")],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, keyslot),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "links",
                summary: "Lists the links between the nodes.",
                since: "7.0.0",
                group: Group::Cluster,
                complexity: "O(N) with N the number of nodes",
                arity: 2,
                flags: flag::STALE,
                tips: &["nondeterministic_output"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, links),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "myid",
                summary: "Tells the id of this node.",
                since: "3.0.0",
                group: Group::Cluster,
                arity: 2,
                flags: flag::STALE,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, myid),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "myshardid",
                summary: "Tells the id of this node's shard.",
                since: "7.2.0",
                group: Group::Cluster,
                arity: 2,
                flags: flag::STALE,
                tips: &["nondeterministic_output"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, myshardid),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "nodes",
                summary: "Describes the nodes in the form of Redis' nodes file.",
                since: "3.0.0",
                group: Group::Cluster,
                complexity: "O(N) with N the number of nodes",
                arity: 2,
                flags: flag::STALE,
                tips: &["nondeterministic_output"],
                ..Meta::BASE
            },
            handler: ShellHandler::Later(Place::Here, nodes),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "shards",
                summary: "Tells which shards hold which slots.",
                since: "7.0.0",
                group: Group::Cluster,
                complexity: "O(N) with N the number of nodes",
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                tips: &["nondeterministic_output"],
                ..Meta::BASE
            },
            handler: ShellHandler::Later(Place::Here, shards),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "slots",
                summary: "Tells which nodes serve which slots.",
                since: "3.0.0",
                group: Group::Cluster,
                complexity: "O(N) with N the number of nodes",
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                tips: &["nondeterministic_output"],
                history: &[("4.0.0", "Ids of the nodes."), ("7.0.0", "More names of a node.")],
                deprecated: Some(Deprecated { since: "7.0.0", replaced_by: "`CLUSTER SHARDS`" }),
                ..Meta::BASE
            },
            handler: ShellHandler::Later(Place::Here, slots),
            subcommands: &[],
        },
    ],
}];
