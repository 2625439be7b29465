//! redis-cli and redis-benchmark, as people use them, against members of ours.

use quorate_testkit::{Cluster, ClusterOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use crate::pair::BINARY;

fn redis_cli(addr: SocketAddr, args: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string()]).args(args);
    command
}

fn finish(mut command: Command) -> Output {
    command.output().expect("redis-cli and redis-benchmark must be installed (Debian: apt-get install redis-tools)")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn cli(addr: SocketAddr, args: &[&str]) -> String {
    text(&finish(redis_cli(addr, args))).trim_end().to_owned()
}

/// Feeds redis-cli through its standard input.
fn cli_with_input(addr: SocketAddr, args: &[&str], input: &[u8]) -> String {
    let mut command = redis_cli(addr, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("redis-cli must be installed");
    child.stdin.take().expect("a pipe").write_all(input).expect("redis-cli reads its input");
    text(&child.wait_with_output().expect("redis-cli ends")).trim_end().to_owned()
}

#[test]
fn redis_cli_on_a_follower_sees_what_it_sees_on_the_leader() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY));
    let (leader, follower) = (cluster.members[cluster.leader()].client, cluster.members[cluster.follower()].client);
    for (writer, reader, number) in [(leader, follower, "1"), (follower, leader, "2")] {
        assert_eq!(cli(writer, &["SET", "k", number]), "OK");
        assert_eq!(cli(reader, &["GET", "k"]), number);
        assert_eq!(cli(writer, &["HSET", "h", "f", number, "g", "x"]), if number == "1" { "2" } else { "0" });
        assert_eq!(cli(reader, &["-3", "HGETALL", "h"]), format!("f {number}\ng x"));
        assert_eq!(cli(reader, &["INCR", "h"]), "WRONGTYPE Operation against a key holding the wrong kind of value");
    }
    let transaction = b"MULTI\nINCR c\nINCR c\nEXEC\nGET c\n";
    assert_eq!(cli_with_input(follower, &[], transaction), "OK\nQUEUED\nQUEUED\n1\n2\n2");
    assert_eq!(cli(leader, &["GET", "c"]), "2");
}

#[test]
fn redis_cli_pipe_scan_and_bigkeys_work_on_every_member() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY));
    for (at, member) in cluster.members.iter().enumerate() {
        let mut input = Vec::new();
        for number in 0..2000 {
            let key = format!("m{at}:{number}");
            quorate_testkit::resp::encode_into(&["SET", &key, &number.to_string()], &mut input);
        }
        quorate_testkit::resp::encode_into(&["HSET", &format!("m{at}:hash"), "a", "1", "b", "2"], &mut input);
        let piped = cli_with_input(member.client, &["--pipe"], &input);
        assert!(piped.contains("errors: 0, replies: 2001"), "{piped}");
    }
    for (at, member) in cluster.members.iter().enumerate() {
        assert_eq!(cli(member.client, &["DBSIZE"]), "6003");
        let scanned = cli(member.client, &["--scan", "--pattern", "m1:*"]);
        let mut keys: Vec<&str> = scanned.lines().collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 2001, "member {at} scans every key");
        let bigkeys = cli(member.client, &["--bigkeys"]);
        assert!(bigkeys.contains("Sampled 6003 keys in the keyspace"), "{bigkeys}");
        assert!(bigkeys.contains("Biggest   hash found"), "{bigkeys}");
        let memkeys = cli(member.client, &["--memkeys", "--memkeys-samples", "0"]);
        assert!(memkeys.contains("Sampled 6003 keys in the keyspace"), "{memkeys}");
    }
}

#[test]
fn redis_cli_shows_hints_statistics_and_latency() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let addr = cluster.members[0].client;
    // With output to a pipe this is one line: lowest, highest and mean time in milliseconds, and how many.
    let mut command = Command::new("timeout");
    command.args(["-s", "INT", "2", "redis-cli", "-p", &addr.port().to_string(), "--latency"]);
    let latency = text(&finish(command));
    let figures: Vec<f64> = latency.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(figures.len() >= 4 && figures[3] > 0.0, "{latency}");
    let help = cli_with_input(addr, &[], b"help hset\n");
    assert!(help.contains("key field value [field value ...]"), "{help}");
    let stat = cli(addr, &["INFO", "server"]);
    assert!(stat.contains("redis_version:") && stat.contains("tcp_port:"), "{stat}");
    let docs = cli(addr, &["--json", "COMMAND", "DOCS", "get"]);
    assert!(docs.contains("\"summary\"") && docs.contains("\"since\":\"1.0.0\""), "{docs}");
}

#[test]
fn redis_benchmark_runs_its_tests_for_the_commands_that_exist() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY));
    for at in [cluster.leader(), cluster.follower()] {
        let port = cluster.members[at].client.port().to_string();
        for pipeline in ["1", "16"] {
            let mut command = Command::new("redis-benchmark");
            command.args(["-p", &port, "-t", "ping,set,get,incr,mset,hset", "-n", "2000", "-c", "20"]);
            command.args(["-P", pipeline, "--csv"]);
            let output = text(&finish(command));
            for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "HSET", "MSET (10 keys)"] {
                assert!(output.contains(&format!("\"{test}\"")), "no {test} in:\n{output}");
            }
            assert!(!output.to_lowercase().contains("error"), "{output}");
        }
    }
}
