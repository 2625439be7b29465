//! Server commands over a made-up member: replies in both protocols, and the tables against a genuine Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_keyspace::args::Args;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::keyspace::Keyspace;
use quorate_keyspace::reply::{Proto, ReplyBuf};
use quorate_keyspace::{Stamp, UnitHead, UnitKind, encode_entry, encode_unit};
use quorate_raft::{GroupStatus, Role};

use super::facts::{ClientFacts, ClientTotals, ServerFacts, StorageFacts};
use super::*;
use crate::admin::service::tests::{CLUSTER, member, quiet_status};
use crate::metrics::Metrics;
use crate::resp::{Reply, parse_reply};

/// A member that answers from what the test has put into it, and notes what it was asked to do.
struct Fake {
    server: ServerFacts,
    group: GroupStatus,
    metrics: Arc<Metrics>,
    keyspace: Mutex<Keyspace>,
    settings: Mutex<Vec<(String, String)>>,
    asked: Mutex<Vec<String>>,
    stopping: bool,
}

const NOW_US: u64 = 1_700_000_000_123_456;

impl Fake {
    fn new() -> Self {
        let mut group = quiet_status(1);
        group.members = vec![member(1, true), member(2, true), member(3, false)];
        group.role = Role::Leader;
        group.leader = Some(1);
        let server = ServerFacts {
            run_id: "a".repeat(40),
            node_id: facts::node_id(&CLUSTER.to_string(), 1),
            started: Instant::now(),
            group: CLUSTER.to_string(),
            member: 1,
            port: 7001,
            dir: "/data".to_owned(),
            executable: "/bin/quorate".to_owned(),
            config_file: String::new(),
            databases: 16,
        };
        let settings = [
            ("enable-debug-command", "yes"),
            ("maxclients", "10000"),
            ("latency-monitor-threshold", "0"),
            ("latency-tracking-info-percentiles", "50 99 99.9"),
            ("requirepass", ""),
        ];
        Self {
            server,
            group,
            metrics: Arc::new(Metrics::new(catalog().names())),
            keyspace: Mutex::new(Keyspace::new(16, [1, 2])),
            settings: Mutex::new(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()),
            asked: Mutex::default(),
            stopping: false,
        }
    }

    fn write(&self, line: &[&str]) {
        let args: Vec<Bytes> = line.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let head = UnitHead { kind: UnitKind::Batch, proto: Proto::Resp2, watches: &[] };
        let unit = encode_unit(head, [(0, &args[..])].into_iter());
        let mut entry = bytes::BytesMut::new();
        encode_entry(Stamp { time_ms: NOW_US / 1000, seed: 1 }, &[unit], &mut entry);
        self.keyspace.lock().apply(&entry, true).unwrap();
    }

    fn note(&self, what: String) {
        self.asked.lock().push(what);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }

    /// What a session does with a line, without the session.
    async fn bytes(&self, proto: Proto, line: &[&str]) -> Bytes {
        let args: Vec<&[u8]> = line.iter().map(|word| word.as_bytes()).collect();
        let mut out = ReplyBuf::new(proto);
        let done = match catalog().resolve(&args) {
            Err(error) => Err(error),
            Ok((entry, at)) => match entry.kind {
                Kind::Shell(command) => match command.handler {
                    ShellHandler::Now(_, run) => run(self, &mut Args::new(&args, at), &mut out),
                    ShellHandler::Later(_, run) => run(self, &args, &mut out).await,
                    _ => panic!("{line:?} is the session's"),
                },
                Kind::Keyspace(_) => panic!("{line:?} is the keyspace's"),
            },
        };
        if let Err(error) = done {
            out = ReplyBuf::new(proto);
            out.fail(&error);
        }
        out.take()
    }

    async fn reply(&self, proto: Proto, line: &str) -> Reply {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = self.bytes(proto, &words).await;
        let (reply, used) = parse_reply(&bytes).unwrap().expect("a whole reply");
        assert_eq!(used, bytes.len(), "one reply and no more to {line}");
        reply
    }

    async fn text(&self, line: &str) -> String {
        let reply = self.reply(Proto::Resp2, line).await;
        String::from_utf8(reply.text().unwrap_or_else(|| panic!("{line}: {reply:?}")).to_vec()).unwrap()
    }
}

fn done<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

impl ShellCx for Fake {
    fn client(&self) -> ClientFacts {
        let addr: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        ClientFacts { id: 7, db: 0, name: "me".to_owned(), addr: Some(addr) }
    }
    fn clients(&self) -> ClientTotals {
        ClientTotals { connected: 3, ..ClientTotals::default() }
    }
    fn server(&self) -> &ServerFacts {
        &self.server
    }
    fn group(&self) -> BoxFuture<'_, GroupStatus> {
        done(self.group.clone())
    }
    fn storage(&self) -> StorageFacts {
        StorageFacts { last_checkpoint_s: 1_600_000_000, has_room: true, ..StorageFacts::default() }
    }
    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
    fn now_us(&self) -> u64 {
        NOW_US
    }
    fn random(&self) -> u64 {
        0x1234_5678_9abc_def0
    }
    fn with_keyspace(&self, look: &mut dyn FnMut(&Keyspace)) {
        look(&self.keyspace.lock());
    }
    fn setting(&self, name: &str) -> Option<String> {
        self.settings.lock().iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
    }
    fn settings_matching(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        let wanted = |name: &str| patterns.iter().any(|p| quorate_keyspace::glob::matches(p, name.as_bytes()));
        self.settings.lock().iter().filter(|(name, _)| wanted(name)).cloned().collect()
    }
    fn set_settings<'a>(&'a self, pairs: &'a [(&'a [u8], &'a [u8])]) -> BoxFuture<'a, Result<(), CmdError>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for (name, value) in pairs {
            self.note(format!("set {}={}", text(name), text(value)));
        }
        done(Ok(()))
    }
    fn rewrite_settings(&self) -> BoxFuture<'_, Result<(), CmdError>> {
        self.note("rewrite".to_owned());
        done(Ok(()))
    }
    fn checkpoint(&self) -> BoxFuture<'_, Result<(), CmdError>> {
        self.note("checkpoint".to_owned());
        done(Ok(()))
    }
    fn checkpoint_soon(&self) {
        self.note("checkpoint soon".to_owned());
    }
    fn wait_replicated(&self, voters: u64, timeout: Option<Duration>) -> BoxFuture<'_, Result<u64, CmdError>> {
        self.note(format!("wait {voters} {timeout:?}"));
        done(Ok(1))
    }
    fn sync_log(&self, timeout: Option<Duration>) -> BoxFuture<'_, bool> {
        self.note(format!("sync log {timeout:?}"));
        Box::pin(async { true })
    }
    fn transfer_leader(&self, to: Option<u64>) -> BoxFuture<'_, Result<(), CmdError>> {
        self.note(format!("transfer {to:?}"));
        done(Ok(()))
    }
    fn shutdown(&self, options: ShutdownOptions) -> BoxFuture<'_, Result<(), CmdError>> {
        self.note(format!("{options:?}"));
        done(Ok(()))
    }
    fn abort_shutdown(&self) -> bool {
        self.stopping
    }
    fn set_active_expire(&self, on: bool) {
        self.note(format!("active expire {on}"));
    }
    fn damage(&self, db: u16, key: &[u8]) -> bool {
        self.note(format!("damage {db} {}", String::from_utf8_lossy(key)));
        key == b"there"
    }
    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.note(format!("sleep {time:?}"));
        done(())
    }
}

/// Commands and containers that differ from Redis 7.0.15 on purpose: field of the line, and why.
const DIFFERENCES: &[(&str, usize, &str)] = &[
    ("client|setname", 7, TIPS),
    ("config|resetstat", 7, TIPS),
    ("config|rewrite", 7, TIPS),
    ("latency|reset", 7, TIPS),
    ("msetnx", 7, TIPS),
    ("randomkey", 7, TIPS),
    ("scan", 7, TIPS),
    ("cluster|shards", 2, "7.2 answers while loading"),
    ("cluster|slots", 2, "7.2 answers while loading"),
    ("command|getkeys", 1, "7.2 takes a command without arguments"),
    ("command|getkeysandflags", 1, "7.2 takes a command without arguments"),
    ("wait", 2, "7.2 lets scripts call it"),
    ("object|help", 2, "the handler's type says that it reads"),
    ("object|help", 6, "the handler's type says that it reads"),
];

const TIPS: &str = "7.2 gives more tips";

/// `redis_7_0.txt` holds what a genuine 7.0.15 answers to COMMAND, one command a line: name, arity, flags, first key,
/// last key, step, categories, tips, key specs.
#[tokio::test]
async fn shared_commands_have_the_facts_of_a_genuine_redis() {
    let genuine: Vec<Vec<&str>> = include_str!("redis_7_0.txt").lines().map(|l| l.split(' ').collect()).collect();
    let ours: Vec<Vec<String>> = command_lines(&Fake::new().reply(Proto::Resp3, "command").await);
    let mut shared = 0;
    let mut wrong = String::new();
    for line in &ours {
        let Some(theirs) = genuine.iter().find(|g| g[0] == line[0]) else { continue };
        shared += 1;
        for (at, (ours, theirs)) in line.iter().zip(theirs).enumerate() {
            let meant = DIFFERENCES.iter().any(|(name, field, _)| *name == line[0] && *field == at);
            if ours != theirs && !meant {
                wrong.push_str(&format!("{} field {at}: {ours}, genuine {theirs}\n", line[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(shared > 150, "{shared} commands were compared");
}

fn word(reply: &Reply) -> String {
    String::from_utf8(reply.text().expect("a text").to_vec()).unwrap()
}

fn words(reply: &Reply) -> String {
    let mut words: Vec<String> = reply.elements().expect("a set").iter().map(word).collect();
    words.sort();
    if words.is_empty() { "-".to_owned() } else { words.join(",").replace(' ', "_") }
}

fn number(reply: &Reply) -> i64 {
    match reply {
        Reply::Int(n) => *n,
        other => panic!("{other:?} is no number"),
    }
}

fn command_lines(reply: &Reply) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for info in reply.elements().expect("an array") {
        let f = info.elements().expect("ten fields");
        assert_eq!(f.len(), 10);
        let specs: Vec<String> = f[8].elements().unwrap().iter().map(key_spec).collect();
        lines.push(vec![
            word(&f[0]),
            number(&f[1]).to_string(),
            words(&f[2]),
            number(&f[3]).to_string(),
            number(&f[4]).to_string(),
            number(&f[5]).to_string(),
            words(&f[6]),
            words(&f[7]),
            if specs.is_empty() { "-".to_owned() } else { specs.join("|") },
        ]);
        lines.extend(command_lines(&f[9]));
    }
    lines
}

fn field<'r>(reply: &'r Reply, name: &str) -> &'r Reply {
    let Reply::Map(pairs) = reply else { panic!("{reply:?} is no map") };
    &pairs.iter().find(|(key, _)| key.text() == Some(name.as_bytes())).unwrap_or_else(|| panic!("no {name}")).1
}

fn key_spec(spec: &Reply) -> String {
    let part = |name: &str| {
        let part = field(spec, name);
        let Reply::Map(pairs) = field(part, "spec") else { panic!("no map") };
        let mut pairs: Vec<String> = pairs
            .iter()
            .map(|(key, value)| match value {
                Reply::Int(n) => format!("{}={n}", word(key)),
                text => format!("{}={}", word(key), word(text)),
            })
            .collect();
        pairs.sort();
        format!("{}:{}", word(field(part, "type")), pairs.join("/"))
    };
    format!("{};{};{}", words(field(spec, "flags")).replace(',', "+"), part("begin_search"), part("find_keys"))
}

#[test]
fn no_name_is_taken_twice_and_indexes_are_dense() {
    let entries = catalog().entries();
    let mut names: Vec<&str> = entries.iter().map(|e| e.full_name.as_str()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    for (at, entry) in entries.iter().enumerate() {
        assert_eq!(entry.index, at);
        assert_eq!(entry.full_name, entry.full_name.to_lowercase());
        assert!(!entry.meta.summary.is_empty(), "{} has no summary", entry.full_name);
        let name = entry.full_name.to_uppercase();
        assert_eq!(catalog().lookup_full(name.as_bytes()).map(|e| e.index), Some(at));
        assert!(entry.subcommands.iter().all(|sub| entries[*sub].is_sub));
    }
    assert!(catalog().lookup(b"nosuch").is_none() && catalog().lookup(b"").is_none());
}

#[test]
fn a_line_resolves_to_its_command_or_to_redis_own_error() {
    let resolve = |line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        catalog().resolve(&args).map(|(entry, at)| (entry.full_name.as_str(), at)).map_err(|e| e.to_string())
    };
    assert_eq!(resolve("GET k"), Ok(("get", 1)));
    assert_eq!(resolve("Config GET x"), Ok(("config|get", 2)));
    assert_eq!(resolve("command"), Ok(("command", 1)));
    let wrong = |name: &str| Err(format!("ERR wrong number of arguments for '{name}' command"));
    assert_eq!(resolve("get"), wrong("get"));
    assert_eq!(resolve("config"), wrong("config"));
    assert_eq!(resolve("config get"), wrong("config|get"));
    assert_eq!(resolve("config nosuch"), Err("ERR unknown subcommand 'nosuch'. Try CONFIG HELP.".to_owned()));
    assert!(
        resolve("nosuch a").unwrap_err().starts_with("ERR unknown command 'nosuch', with args beginning with: 'a'")
    );
}

#[tokio::test]
async fn command_answers_in_the_shapes_of_both_protocols() {
    let fake = Fake::new();
    let time = fake.bytes(Proto::Resp3, &["COMMAND", "INFO", "time"]).await;
    assert_eq!(
        &time[..],
        b"*1\r\n*10\r\n$4\r\ntime\r\n:1\r\n~3\r\n+loading\r\n+stale\r\n+fast\r\n:0\r\n:0\r\n:0\r\n~1\r\n+@fast\r\n~1\r\n\
          $23\r\nnondeterministic_output\r\n~0\r\n~0\r\n"
    );
    let two = fake.reply(Proto::Resp2, "command info nosuch config|get").await;
    let two = two.elements().unwrap();
    assert_eq!(two[0], Reply::Null);
    assert_eq!(word(&two[1].elements().unwrap()[0]), "config|get");
    let Reply::Int(count) = fake.reply(Proto::Resp2, "command count").await else { panic!() };
    assert_eq!(fake.reply(Proto::Resp2, "command").await.elements().unwrap().len(), count as usize);
    assert_eq!(fake.reply(Proto::Resp2, "command info").await.elements().unwrap().len(), count as usize);

    let docs = fake.reply(Proto::Resp3, "command docs nosuch config slaveof debug").await;
    let get = field(field(field(&docs, "config"), "subcommands"), "config|get");
    assert_eq!(word(field(get, "group")), "server");
    let parameter = &field(get, "arguments").elements().unwrap()[0];
    assert_eq!(word(field(parameter, "name")), "parameter");
    assert_eq!(words(field(parameter, "flags")), "multiple");
    assert_eq!(word(field(field(&docs, "slaveof"), "deprecated_since")), "5.0.0");
    assert_eq!(words(field(field(&docs, "slaveof"), "doc_flags")), "deprecated");
    assert_eq!(words(field(field(&docs, "debug"), "doc_flags")), "syscmd");
    let Reply::Map(all) = fake.reply(Proto::Resp3, "command docs").await else { panic!() };
    assert_eq!(all.len(), count as usize);
    let Reply::Array(flat) = fake.reply(Proto::Resp2, "command docs get").await else { panic!() };
    assert_eq!(flat.len(), 2);
}

#[tokio::test]
async fn command_list_filters() {
    let fake = Fake::new();
    let names = async |line: &str| words(&fake.reply(Proto::Resp2, line).await);
    assert_eq!(names("command list filterby pattern SLOWLOG|L*").await, "slowlog|len");
    assert_eq!(names("command list filterby module json").await, "-");
    assert_eq!(names("command list filterby aclcat nosuch").await, "-");
    let admin = names("command list filterby aclcat admin").await;
    assert!(admin.contains("config|set") && !admin.contains("config|help"), "{admin}");
    let all = fake.reply(Proto::Resp2, "command list").await;
    assert_eq!(all.elements().unwrap().len(), catalog().entries().len());
    assert_eq!(fake.text("command list filterby").await, "ERR syntax error");
    assert_eq!(fake.text("command list filterby pattern").await, "ERR syntax error");
}

#[tokio::test]
async fn keys_are_found_in_any_command() {
    let fake = Fake::new();
    assert_eq!(words(&fake.reply(Proto::Resp2, "command getkeys mset a 1 b 2").await), "a,b");
    assert_eq!(words(&fake.reply(Proto::Resp2, "command getkeys memory usage foo").await), "foo");
    let flags = fake.reply(Proto::Resp2, "command getkeysandflags set k v").await;
    let first = flags.elements().unwrap()[0].elements().unwrap();
    assert_eq!(word(&first[0]), "k");
    assert!(words(&first[1]).contains("OW"), "{first:?}");
    for (line, error) in [
        ("command getkeys nosuch a", "ERR Invalid command specified"),
        ("command getkeys time", "ERR The command has no key arguments"),
        ("command getkeys get", "ERR Invalid number of arguments specified for command"),
    ] {
        assert_eq!(fake.text(line).await, error);
    }
}

#[tokio::test]
async fn info_shows_the_sections_that_are_asked_for() {
    let fake = Fake::new();
    fake.write(&["set", "k", "v"]);
    let titles =
        |text: &str| -> Vec<String> { text.lines().filter(|l| l.starts_with('#')).map(str::to_owned).collect() };
    let default = fake.text("info").await;
    assert!(default.contains("\r\n\r\n# Raft\r\n"), "{default}");
    assert!(!default.contains("# Commandstats"));
    assert_eq!(titles(&fake.text("info default").await), titles(&default));
    assert_eq!(titles(&fake.text("INFO CPU keyspace cpu").await), ["# CPU", "# Keyspace"]);
    assert_eq!(fake.text("info nosuch").await, "");
    let all = fake.text("info all").await;
    assert!(all.contains("# Commandstats") && !all.contains("# Modules"));
    assert!(fake.text("info everything").await.contains("# Modules"));
    assert!(fake.text("info all server").await.len() >= all.len());
    assert_eq!(fake.text("info keyspace").await, "# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n");
    for line in all.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        assert!(line.split_once(':').is_some_and(|(name, _)| !name.contains(' ')), "{line}");
    }
    assert!(matches!(fake.reply(Proto::Resp3, "info server").await, Reply::Verbatim(_)));
}

#[tokio::test]
async fn info_tells_the_group_as_replication_and_as_raft() {
    let mut fake = Fake::new();
    let text = fake.text("info replication raft").await;
    for line in [
        "role:master",
        "connected_slaves:2",
        "slave0:ip=127.0.0.1,port=7002,state=online,offset=90,lag=0",
        "raft_role:leader",
        "raft_leader:1",
        "raft_voters:2",
        "raft_learners:1",
        "raft_member_3:role=learner,voter=0,client=127.0.0.1:7003,peer=127.0.0.1:17003,admin=127.0.0.1:8003,matched=90,\
         lag=10,health=ok",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    fake.group.role = Role::Follower;
    fake.group.leader = Some(2);
    let text = fake.text("info replication").await;
    assert!(text.contains("role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:7002\r\nmaster_link_status:up\r\n"));
}

#[tokio::test]
async fn counts_reach_info_and_resetstat_empties_them() {
    let fake = Fake::new();
    let get = catalog().lookup(b"get").unwrap().index;
    fake.metrics.commands.called(get, 2, 6_000);
    fake.metrics.commands.failed(get);
    fake.metrics.error_reply(b"WRONGTYPE Operation");
    let text = fake.text("info commandstats errorstats latencystats stats").await;
    for line in [
        "cmdstat_get:calls=2,usec=6,usec_per_call=3.00,rejected_calls=0,failed_calls=1",
        "errorstat_WRONGTYPE:count=1",
        "total_commands_processed:2",
        "total_error_replies:1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("latency_percentiles_usec_get:p50=3."), "{text}");
    let histogram = fake.reply(Proto::Resp3, "latency histogram get nosuch").await;
    let get = field(&histogram, "get");
    assert_eq!(number(field(get, "calls")), 2);
    assert_eq!(*field(get, "histogram_usec"), Reply::Map(vec![(Reply::Int(4), Reply::Int(2))]));
    assert_eq!(fake.text("config resetstat").await, "OK");
    assert!(!fake.text("info commandstats errorstats").await.contains("stat_"));
}

#[tokio::test]
async fn config_passes_pairs_on() {
    let fake = Fake::new();
    let Reply::Map(found) = fake.reply(Proto::Resp3, "config get max* nosuch").await else { panic!() };
    assert_eq!(found.len(), 1);
    assert_eq!(fake.text("config set maxclients 5 timeout 3").await, "OK");
    assert_eq!(fake.asked(), ["set maxclients=5", "set timeout=3"]);
    assert_eq!(fake.text("config set a 1 b").await, "ERR wrong number of arguments for 'config|set' command");
    assert_eq!(fake.text("config rewrite").await, "OK");
    assert_eq!(fake.asked(), ["rewrite"]);
}

#[tokio::test]
async fn durability_commands_ask_for_what_they_say() {
    let fake = Fake::new();
    for (line, reply, asked) in [
        ("save", "OK", "checkpoint"),
        ("bgsave schedule", "Background saving started", "checkpoint soon"),
        ("bgsave nosuch", "ERR syntax error", ""),
        ("wait a 0", "ERR value is not an integer or out of range", ""),
        ("wait 1 -1", "ERR timeout is negative", ""),
        ("wait 1 x", "ERR timeout is not an integer or out of range", ""),
        ("waitaof 2 1 0", "ERR value is out of range, value must between 0 and 1", ""),
        ("function flush async", "OK", ""),
        ("function flush now", "ERR FUNCTION FLUSH only supports SYNC|ASYNC option", ""),
    ] {
        assert_eq!(fake.text(line).await, reply, "{line}");
        assert_eq!(fake.asked().join(" "), asked, "{line}");
    }
    assert_eq!(fake.reply(Proto::Resp2, "wait 2 0").await, Reply::Int(1));
    assert_eq!(fake.reply(Proto::Resp2, "waitaof 1 1 50").await, Reply::Array(vec![Reply::Int(1), Reply::Int(1)]));
    assert_eq!(fake.asked(), ["wait 2 None", "wait 1 Some(50ms)"]);
    assert_eq!(fake.reply(Proto::Resp2, "lastsave").await, Reply::Int(1_600_000_000));
}

#[tokio::test]
async fn shutdown_understands_its_words_and_says_nothing_when_it_works() {
    let mut fake = Fake::new();
    assert!(fake.bytes(Proto::Resp2, &["SHUTDOWN", "NOSAVE", "NOW", "FORCE"]).await.is_empty());
    assert_eq!(fake.asked(), ["ShutdownOptions { save: Some(false), now: true, force: true }"]);
    for line in ["shutdown save nosave", "shutdown abort now", "shutdown later"] {
        assert_eq!(fake.text(line).await, "ERR syntax error", "{line}");
    }
    assert_eq!(fake.text("shutdown abort").await, "ERR No shutdown in progress.");
    fake.stopping = true;
    assert_eq!(fake.text("shutdown abort").await, "OK");
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn role_and_failover_speak_of_the_group() {
    let mut fake = Fake::new();
    let role = fake.reply(Proto::Resp2, "role").await;
    let role = role.elements().unwrap();
    assert_eq!((word(&role[0]).as_str(), number(&role[1])), ("master", 100));
    assert_eq!(words(&role[2].elements().unwrap()[0]), "127.0.0.1,7002,90");
    assert_eq!(fake.text("failover").await, "OK");
    assert_eq!(fake.text("failover to 127.0.0.1 7002 force timeout 500").await, "OK");
    assert_eq!(fake.asked(), ["transfer None", "transfer Some(2)"]);
    assert_eq!(fake.text("failover to 127.0.0.1 9").await, "ERR FAILOVER target HOST and PORT is not a replica.");
    assert_eq!(fake.text("failover timeout 0").await, "ERR FAILOVER timeout must be greater than 0");
    assert_eq!(fake.text("failover abort").await, "ERR No failover in progress.");
    assert!(fake.text("replicaof 10.0.0.1 6379").await.contains("elect"));
    assert_eq!(fake.text("slaveof NO ONE").await, "OK");
    fake.group.role = Role::Follower;
    fake.group.leader = None;
    let role = fake.reply(Proto::Resp2, "role").await;
    assert_eq!(word(&role.elements().unwrap()[3]), "connect");
}

#[tokio::test]
async fn the_slow_log_is_listed_newest_first() {
    let fake = Fake::new();
    for (at, word) in [(1, "one"), (2, "two")] {
        fake.metrics.slowlog.push(at, 20_000, (&["set", word], 0), "1.2.3.4:5".to_owned(), "n".to_owned());
    }
    assert_eq!(fake.reply(Proto::Resp2, "slowlog len").await, Reply::Int(2));
    let log = fake.reply(Proto::Resp2, "slowlog get 1").await;
    let entry = log.elements().unwrap()[0].elements().unwrap();
    assert_eq!((entry.len(), number(&entry[0]), number(&entry[2])), (6, 1, 20_000));
    assert_eq!(words(&entry[3]), "set,two");
    assert_eq!(fake.reply(Proto::Resp2, "slowlog get -1").await.elements().unwrap().len(), 2);
    assert_eq!(fake.text("slowlog get -2").await, "ERR count should be greater than or equal to -1");
    assert_eq!(fake.text("slowlog reset").await, "OK");
    assert_eq!(fake.reply(Proto::Resp2, "slowlog len").await, Reply::Int(0));
}

#[tokio::test]
async fn spikes_are_shown_and_forgotten() {
    let fake = Fake::new();
    fake.metrics.latency.configure(10);
    fake.metrics.latency.record("command", 20, 5);
    fake.metrics.latency.record("command", 30, 6);
    assert_eq!(words_of_first(&fake.reply(Proto::Resp2, "latency latest").await), ["command", "6", "30", "30"]);
    assert_eq!(fake.reply(Proto::Resp2, "latency history COMMAND").await.elements().unwrap().len(), 2);
    assert!(fake.text("latency graph command").await.contains("▁█"));
    assert_eq!(fake.text("latency graph x").await, "ERR No samples available for event 'x'");
    assert!(
        fake.text("latency doctor").await.contains("command: 2 spikes")
            || fake.text("latency doctor").await.contains("off")
    );
    assert_eq!(fake.reply(Proto::Resp2, "latency reset nosuch").await, Reply::Int(0));
    assert_eq!(fake.reply(Proto::Resp2, "latency reset").await, Reply::Int(1));
}

fn words_of_first(reply: &Reply) -> Vec<String> {
    let show = |part: &Reply| match part {
        Reply::Int(n) => n.to_string(),
        text => word(text),
    };
    reply.elements().unwrap()[0].elements().unwrap().iter().map(show).collect()
}

#[tokio::test]
async fn memory_of_a_key() {
    let fake = Fake::new();
    fake.write(&["set", "k", &"v".repeat(1000)]);
    let Reply::Int(bytes) = fake.reply(Proto::Resp2, "memory usage k samples 5").await else { panic!() };
    assert!((1000..1500).contains(&bytes), "{bytes}");
    assert_eq!(fake.reply(Proto::Resp2, "memory usage nosuch").await, Reply::Null);
    assert_eq!(fake.text("memory usage k samples").await, "ERR syntax error");
    assert_eq!(fake.text("memory usage k samples -1").await, "ERR syntax error");
    let stats = fake.reply(Proto::Resp3, "memory stats").await;
    assert_eq!(number(field(&stats, "keys.count")), 1);
    assert!(fake.text("memory doctor").await.contains("resident"));
}

#[tokio::test]
async fn debug_does_only_what_it_was_allowed_to() {
    let fake = Fake::new();
    fake.write(&["set", "a", "1"]);
    fake.write(&["hset", "h", "f", "1", "g", "2"]);
    assert_eq!(fake.text("debug sleep 0.5").await, "OK");
    assert_eq!(fake.text("debug set-active-expire 0").await, "OK");
    assert_eq!(fake.text("debug reload").await, "OK");
    assert_eq!(fake.asked(), ["sleep 500ms", "active expire false", "checkpoint"]);
    assert!(fake.text("debug object a").await.contains("encoding:int"), "{}", fake.text("debug object a").await);
    assert_eq!(fake.text("debug object nosuch").await, "ERR no such key");
    assert!(fake.text("debug listpack h").await.starts_with("Listpack"));
    assert!(fake.text("debug segfault").await.starts_with("ERR unknown subcommand or wrong number of arguments"));
    assert_eq!(fake.text("debug error ERR\u{a0}x").await, "ERR\u{a0}x");
    assert!(fake.text("debug protocol nosuch").await.starts_with("ERR Wrong protocol type name"));

    let before = fake.text("debug digest").await;
    let other = Fake::new();
    other.write(&["hset", "h", "g", "2", "f", "1"]);
    other.write(&["set", "a", "1"]);
    assert_eq!(other.text("debug digest").await, before, "order does not count");
    other.write(&["set", "a", "2"]);
    assert_ne!(other.text("debug digest").await, before);
    assert_eq!(before.len(), 40);
    assert_eq!(fake.reply(Proto::Resp2, "debug digest-value a nosuch").await.elements().unwrap().len(), 2);

    fake.settings.lock()[0].1 = "no".to_owned();
    assert!(fake.text("debug digest").await.starts_with("ERR DEBUG command not allowed."));
    fake.settings.lock()[0].1 = "local".to_owned();
    assert_eq!(fake.text("debug log hello").await, "OK");
}

#[tokio::test]
async fn debug_protocol_replies_as_redis_does() {
    let fake = Fake::new();
    for (kind, two, three) in [
        ("string", "$11\r\nHello World\r\n", "$11\r\nHello World\r\n"),
        ("double", "$5\r\n3.141\r\n", ",3.141\r\n"),
        ("bignum", "$37\r\n1234567999999999999999999999999999999\r\n", "(1234567999999999999999999999999999999\r\n"),
        ("null", "$-1\r\n", "_\r\n"),
        ("set", "*3\r\n:0\r\n:1\r\n:2\r\n", "~3\r\n:0\r\n:1\r\n:2\r\n"),
        ("map", "*6\r\n:0\r\n:0\r\n:1\r\n:1\r\n:2\r\n:0\r\n", "%3\r\n:0\r\n#f\r\n:1\r\n#t\r\n:2\r\n#f\r\n"),
        ("verbatim", "$25\r\nThis is a verbatim\nstring\r\n", "=29\r\ntxt:This is a verbatim\nstring\r\n"),
        ("true", ":1\r\n", "#t\r\n"),
        (
            "push",
            "-ERR RESP2 is not supported by this command\r\n",
            ">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n$40\r\nSome real reply following the push reply\r\n",
        ),
        (
            "attrib",
            "$39\r\nSome real reply following the attribute\r\n",
            "|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n$39\r\nSome real reply following the attribute\r\n",
        ),
    ] {
        let line = ["debug", "protocol", kind];
        assert_eq!(fake.bytes(Proto::Resp2, &line).await, two, "{kind}");
        assert_eq!(fake.bytes(Proto::Resp3, &line).await, three, "{kind}");
    }
}

#[tokio::test]
async fn a_cluster_is_shown_only_where_clients_are_redirected() {
    let mut fake = Fake::new();
    assert!(fake.text("info cluster").await.contains("cluster_enabled:0"));
    for sub in ["info", "slots", "nodes", "myid", "keyslot a", "help", "shards"] {
        let error = fake.text(&format!("cluster {sub}")).await;
        assert_eq!(error, "ERR This instance has cluster support disabled", "{sub}");
    }
    // It may change at run time.
    fake.settings.lock().push(("follower-mode".to_owned(), "redirect".to_owned()));
    assert!(fake.text("info cluster").await.contains("cluster_enabled:1"));
    assert!(fake.text("info server").await.contains("redis_mode:cluster"));
    fake.write(&["mset", "{t}a", "1", "{t}b", "2"]);
    assert!(fake.text("cluster info").await.starts_with("cluster_state:ok\r\n"));
    let id = fake.text("cluster myid").await;
    assert_eq!(id.len(), 40);
    let slots = fake.reply(Proto::Resp2, "cluster slots").await;
    let range = slots.elements().unwrap()[0].elements().unwrap();
    assert_eq!((number(&range[0]), number(&range[1]), range.len()), (0, 16_383, 5));
    let leader = range[2].elements().unwrap();
    assert_eq!((word(&leader[0]), number(&leader[1]), word(&leader[2])), ("127.0.0.1".to_owned(), 7001, id.clone()));
    let nodes = fake.text("cluster nodes").await;
    assert!(
        nodes.starts_with(&format!("{id} 127.0.0.1:7001@17001 myself,master - 0 0 3 connected 0-16383\n")),
        "{nodes}"
    );
    assert_eq!(nodes.lines().count(), 3);
    let shards = fake.reply(Proto::Resp3, "cluster shards").await;
    assert_eq!(word(field(&field(&shards.elements().unwrap()[0], "nodes").elements().unwrap()[1], "role")), "replica");
    assert_eq!(fake.reply(Proto::Resp2, "cluster keyslot {t}x").await, Reply::Int(15_891));
    assert_eq!(fake.reply(Proto::Resp2, "cluster countkeysinslot 15891").await, Reply::Int(2));
    assert_eq!(fake.reply(Proto::Resp2, "cluster getkeysinslot 15891 1").await.elements().unwrap().len(), 1);
    assert_eq!(fake.text("cluster countkeysinslot 16384").await, "ERR Invalid slot");
    assert_eq!(fake.text("cluster getkeysinslot 1 -1").await, "ERR Invalid number of keys");
    fake.group.leader = None;
    assert_eq!(fake.reply(Proto::Resp2, "cluster slots").await, Reply::Array(Vec::new()));
    assert!(fake.text("cluster info").await.starts_with("cluster_state:fail\r\n"));
}

#[tokio::test]
async fn there_is_one_user_and_its_password_is_not_told() {
    let fake = Fake::new();
    assert_eq!(fake.text("acl whoami").await, "default");
    assert!(words(&fake.reply(Proto::Resp2, "acl list").await).contains("on_nopass"));
    fake.settings.lock()[4].1 = "s3cret".to_owned();
    let list = words(&fake.reply(Proto::Resp2, "acl list").await);
    assert!(!list.contains("nopass") && !list.contains("s3cret"), "{list}");
    assert_eq!(fake.reply(Proto::Resp2, "acl getuser nosuch").await, Reply::Null);
    assert_eq!(word(field(&fake.reply(Proto::Resp3, "acl getuser default").await, "keys")), "~*");
    assert_eq!(fake.reply(Proto::Resp2, "acl cat").await.elements().unwrap().len(), 21);
    assert!(words(&fake.reply(Proto::Resp2, "acl cat transaction").await).contains("exec"));
    assert_eq!(fake.text("acl cat nosuch").await, "ERR Unknown category 'nosuch'");
    assert_eq!(fake.text("acl genpass").await.len(), 64);
    assert_eq!(fake.text("acl genpass 5").await.len(), 2);
    assert!(fake.text("acl genpass 5000").await.starts_with("ERR ACL GENPASS"));
}

#[tokio::test]
async fn every_help_has_the_form_of_redis() {
    let fake = Fake::new();
    for container in ["acl", "command", "config", "debug", "latency", "memory", "slowlog"] {
        let help = fake.reply(Proto::Resp2, &format!("{container} help")).await;
        let lines: Vec<String> = help.elements().unwrap().iter().map(word).collect();
        let name = container.to_uppercase();
        assert_eq!(lines[0], format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
        assert_eq!(lines[lines.len() - 2], "HELP");
    }
}

#[tokio::test]
async fn time_and_lolwut() {
    let fake = Fake::new();
    assert_eq!(&fake.bytes(Proto::Resp2, &["TIME"]).await[..], b"*2\r\n$10\r\n1700000000\r\n$6\r\n123456\r\n");
    let art = fake.text("lolwut version 5 20 3").await;
    assert!(art.ends_with(&format!("(Redis ver. {REDIS_VERSION})\n")), "{art}");
    assert_eq!(art.lines().filter(|l| l.contains('│')).count(), 3);
    assert_eq!(fake.text("lolwut version x").await, "ERR value is not an integer or out of range");
}
