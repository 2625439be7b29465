//! How long a restart takes with much data: Redis from its RDB, one member of ours from its checkpoint. Both were stopped
//! in good order, and both files are in the system's cache.

use crate::load;
use crate::options::Options;
use quorate_testkit::ports::PortBlock;
use quorate_testkit::{Cluster, ClusterOptions, Conn, RedisServer, Value, wait_for};
use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(600);

/// One side's times, from the start of the process.
#[derive(Debug)]
pub struct Restart {
    pub side: &'static str,
    /// The first GET was answered, one for each restart.
    pub served: Vec<Duration>,
    /// Resident memory then.
    pub resident: u64,
}

pub fn redis(options: &Options) -> anyhow::Result<Restart> {
    let mut ports = PortBlock::take();
    let mut server = RedisServer::start(&mut ports, &[]);
    load::fill(server.addr, options.restart_keys)?;
    let mut served = Vec::new();
    for _ in 0..options.restarts {
        server.conn().cmd("SAVE")?;
        served.push(time(server.addr, || server.restart(&[])));
    }
    Ok(Restart { side: "Redis", served, resident: server.process.resident_bytes().unwrap_or(0) })
}

pub fn ours(options: &Options) -> anyhow::Result<Restart> {
    let mut cluster = Cluster::start(ClusterOptions::new(Path::new(crate::BINARY)).members(1));
    let member = &mut cluster.members[0];
    load::fill(member.client, options.restart_keys)?;
    let mut served = Vec::new();
    for _ in 0..options.restarts {
        // A stop takes a checkpoint, and may take longer than a kit's patience with so much data.
        quorate_testkit::http::post(member.admin, "/v1/snapshot", &serde_json::json!({}))?;
        anyhow::ensure!(member.stop().success(), "{}", member.output());
        served.push(time(member.client, || member.start()));
    }
    Ok(Restart { side: "Quorate", served, resident: member.process().resident_bytes().unwrap_or(0) })
}

fn time(addr: SocketAddr, start: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    start();
    let got = wait_for(PATIENCE, || {
        let mut conn = Conn::open(addr).ok()?;
        loop {
            // Redis and ours refuse it alike while they load.
            match conn.cmd("GET key:000000000007").ok()? {
                Value::Error(_) => sleep(Duration::from_millis(5)),
                _ => return Some(begun.elapsed()),
            }
        }
    });
    got.unwrap_or(PATIENCE)
}

pub fn table(rows: &[Restart], keys: u64, out: &mut String) {
    use std::fmt::Write as _;
    if rows.is_empty() {
        return;
    }
    let median = |row: &Restart| {
        let mut times = row.served.clone();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let _ =
        writeln!(out, "\n| restart with {keys} keys of 100 bytes, until a GET is served | median | all | resident |");
    let _ = writeln!(out, "|---|---:|---:|---:|");
    for row in rows {
        let all: Vec<String> = row.served.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
        let (median, resident) = (median(row).as_secs_f64(), row.resident / 1_000_000);
        let _ = writeln!(out, "| {} | {median:.2} s | {} | {resident} MB |", row.side, all.join(", "));
    }
    if let [redis, ours] = rows {
        let ratio = median(redis).as_secs_f64() / median(ours).as_secs_f64().max(1e-9);
        let _ = writeln!(out, "\nRatio: {ratio:.2} × (above one means that ours is faster). To reach: 1.0 ×.");
    }
}
