//! The public cases, as far as the commands exist, on a follower of three members: through the proxy, as most
//! clients come.

use crate::three_members;
use quorate_testkit::cases::{Case, cases};
use quorate_testkit::{Conn, Value};
use std::collections::BTreeMap;

/// Families that may be missing, as far as the server doesn't know their commands. A case that uses one of them is
/// counted and left out; a missing command of any other family makes the test fail.
const LATER: [(&str, &[&str]); 9] = [
    (
        "list",
        &[
            "blmove",
            "blmpop",
            "blpop",
            "brpop",
            "brpoplpush",
            "lindex",
            "linsert",
            "llen",
            "lmove",
            "lmpop",
            "lpop",
            "lpos",
            "lpush",
            "lpushx",
            "lrange",
            "lrem",
            "lset",
            "ltrim",
            "rpop",
            "rpoplpush",
            "rpush",
            "rpushx",
            "sort",
            "sort_ro",
        ],
    ),
    (
        "set",
        &[
            "sadd",
            "scard",
            "sdiff",
            "sdiffstore",
            "sinter",
            "sintercard",
            "sinterstore",
            "sismember",
            "smembers",
            "smismember",
            "smove",
            "spop",
            "srandmember",
            "srem",
            "sscan",
            "sunion",
            "sunionstore",
        ],
    ),
    (
        "sorted set",
        &[
            "bzmpop",
            "bzpopmax",
            "bzpopmin",
            "zadd",
            "zcard",
            "zcount",
            "zdiff",
            "zdiffstore",
            "zincrby",
            "zinter",
            "zintercard",
            "zinterstore",
            "zlexcount",
            "zmpop",
            "zmscore",
            "zpopmax",
            "zpopmin",
            "zrandmember",
            "zrange",
            "zrangebylex",
            "zrangebyscore",
            "zrangestore",
            "zrank",
            "zrem",
            "zremrangebylex",
            "zremrangebyrank",
            "zremrangebyscore",
            "zrevrange",
            "zrevrangebylex",
            "zrevrangebyscore",
            "zrevrank",
            "zscan",
            "zscore",
            "zunion",
            "zunionstore",
        ],
    ),
    (
        "geo",
        &[
            "geoadd",
            "geodist",
            "geohash",
            "geopos",
            "georadius",
            "georadius_ro",
            "georadiusbymember",
            "georadiusbymember_ro",
            "geosearch",
            "geosearchstore",
        ],
    ),
    ("bitmap", &["bitcount", "bitfield", "bitfield_ro", "bitop", "bitpos", "getbit", "setbit"]),
    ("hyperloglog", &["pfadd", "pfcount", "pfmerge"]),
    (
        "stream",
        &[
            "xack",
            "xadd",
            "xautoclaim",
            "xclaim",
            "xdel",
            "xgroup",
            "xinfo",
            "xlen",
            "xpending",
            "xrange",
            "xread",
            "xreadgroup",
            "xrevrange",
            "xsetid",
            "xtrim",
        ],
    ),
    ("scripting", &["eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro", "function", "script"]),
    (
        "pubsub",
        &[
            "psubscribe",
            "publish",
            "pubsub",
            "punsubscribe",
            "spublish",
            "ssubscribe",
            "subscribe",
            "sunsubscribe",
            "unsubscribe",
        ],
    ),
];

/// What COMMAND INFO tells of a command, or of one subcommand (`function|load`).
fn info(conn: &mut Conn, name: &str) -> Option<Vec<Value>> {
    let reply = conn.call(&["COMMAND", "INFO", name]).expect("COMMAND INFO");
    reply.items().first().filter(|info| **info != Value::Null).map(Value::items)
}

/// The family that may be missing and of which the server lacks a command of this case.
fn missing(case: &Case, conn: &mut Conn) -> Option<&'static str> {
    case.commands().iter().find_map(|(name, second)| {
        let known = match info(conn, name) {
            None => false,
            // The last field lists the subcommands.
            Some(info) if info.last().is_some_and(|subs| !subs.items().is_empty()) => {
                self::info(conn, &format!("{name}|{second}")).is_some()
            }
            Some(_) => true,
        };
        let family = LATER.iter().find(|(_, names)| names.contains(&name.as_str()));
        if known { None } else { family.map(|(family, _)| *family) }
    })
}

#[test]
fn the_public_cases_of_all_commands_that_exist_pass() {
    let cluster = three_members();
    let member = &cluster.members[cluster.follower()];
    let mut conn = member.conn();
    let (mut ran, mut left_out, mut failures) = (0, BTreeMap::new(), Vec::new());
    for case in cases("7.2.0") {
        match missing(&case, &mut conn) {
            Some(family) => *left_out.entry(family).or_insert(0) += 1,
            None => {
                ran += 1;
                failures.extend(case.run(&mut member.conn()).err());
            }
        }
    }
    println!("{ran} cases ran; left out with their families: {left_out:?}");
    assert!(ran > 60, "cases were read");
    assert!(failures.is_empty(), "{} of {ran} cases failed:\n{}", failures.len(), failures.join("\n"));
}
