//! The public cases, as far as the commands exist, on a follower of three members: through the proxy, as most
//! clients come.

use crate::three_members;
use quorate_testkit::Value;
use quorate_testkit::cases::{Case, cases};
use std::collections::BTreeMap;

/// Families that come later. A case that uses one of their commands is counted and left out; a command that exists
/// all the same makes the test fail, so that this list can't outlive its reason.
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

fn later(case: &Case) -> Option<&'static str> {
    let commands = case.commands();
    let uses = |names: &[&str]| commands.iter().any(|command| names.contains(&command.as_str()));
    LATER.iter().find(|(_, names)| uses(names)).map(|(family, _)| *family)
}

#[test]
fn the_public_cases_of_all_commands_that_exist_pass() {
    let cluster = three_members();
    let member = &cluster.members[cluster.follower()];
    let (mut ran, mut left_out, mut failures) = (0, BTreeMap::new(), Vec::new());
    for case in cases("7.2.0") {
        match later(&case) {
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

#[test]
fn no_command_that_exists_is_left_out_of_the_public_cases() {
    let cluster = three_members();
    let mut conn = cluster.members[0].conn();
    // FUNCTION is there for FLUSH alone, which clients and test suites send to any server.
    for name in LATER.iter().flat_map(|(_, names)| *names).filter(|name| **name != "function") {
        let reply = conn.call(&["COMMAND", "INFO", name]).unwrap();
        assert_eq!(reply, Value::Array(vec![Value::Null]), "{name} exists: take it off the list");
    }
}
