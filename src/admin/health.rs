//! Liveness and readiness, told the way etcd tells them, and the group's part of the metrics page.

use std::time::Duration;

use quorate_raft::{GroupStatus, HistogramSnapshot, Role};

use super::api::Request;
use super::service::AdminService;
use crate::metrics::text::Page;

/// What the leader is given to confirm that it leads.
const BARRIER_PATIENCE: Duration = Duration::from_secs(2);
/// Entries that a ready member may still have to apply.
const APPLY_LAG: u64 = 10_000;

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, as `exclude` takes it.
    pub name: &'static str,
    /// Why it fails, if it does.
    pub failure: Option<String>,
    /// It is told, and what is asked for holds all the same.
    pub warning: bool,
}

impl Check {
    fn new(name: &'static str, failure: Option<String>) -> Self {
        Self { name, failure, warning: false }
    }
}

/// The answer of a health endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// No check failed that was not excluded.
    pub healthy: bool,
    /// The text.
    pub text: String,
}

impl AdminService {
    /// `/livez`: a member that fails this should be started anew.
    pub async fn livez(&self, verbose: bool, exclude: &[String]) -> Report {
        let status = self.backend().status().await;
        report("livez", &live(&status, self.backend().local().disk_failure()), verbose, exclude)
    }

    /// `/readyz`: clients should not be sent to a member that fails this.
    pub async fn readyz(&self, verbose: bool, exclude: &[String]) -> Report {
        let status = self.backend().status().await;
        let mut checks = live(&status, self.backend().local().disk_failure());
        checks.push(Check::new("running", self.stopping().then(|| "an orderly stop is under way".into())));
        let loading = self.backend().loading().then(|| "the data is not loaded yet".to_owned());
        checks.push(Check::new("loading", loading));
        checks.push(Check::new("leader", no_leader(&status)));
        let behind = status.committed.unwrap_or(0).saturating_sub(status.applied.unwrap_or(0));
        let lags = (behind > APPLY_LAG).then(|| format!("{behind} committed entries are not applied yet"));
        checks.push(Check::new("applied", lags));
        if !exclude.iter().any(|name| name == "read") {
            checks.push(Check::new("read", self.check_read(&status).await));
        }
        report("readyz", &checks, verbose, exclude)
    }

    async fn check_read(&self, status: &GroupStatus) -> Option<String> {
        if status.removed {
            return no_leader(status);
        }
        let result = if status.role == Role::Leader {
            match tokio::time::timeout(BARRIER_PATIENCE, self.backend().barrier()).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("no majority confirmed in time".to_owned()),
            }
        } else {
            match status.leader {
                None => Err("no leader is known".to_owned()),
                Some(leader) => self
                    .ask(leader, &Request::Barrier, BARRIER_PATIENCE)
                    .await
                    .map(|_| ())
                    .map_err(|error| error.message),
            }
        };
        result.err()
    }
}

/// Why nobody leads this member.
fn no_leader(status: &GroupStatus) -> Option<String> {
    match status.leader {
        _ if status.removed => Some("this member was removed from its group".to_owned()),
        None => Some("no leader is known".to_owned()),
        Some(_) => None,
    }
}

fn live(status: &GroupStatus, disk: Option<String>) -> Vec<Check> {
    // A full disk stops nothing but writes: who was sent elsewhere for it could not even read.
    let warning = disk.is_none();
    let full = || status.no_room.then(|| "the disk has no room: reads go on, writes do when there is room".to_owned());
    vec![Check { name: "disk", failure: disk.or_else(full), warning }, Check::new("group", status.failed.clone())]
}

fn report(endpoint: &str, checks: &[Check], verbose: bool, exclude: &[String]) -> Report {
    let excluded = |check: &Check| exclude.iter().any(|name| name == check.name);
    let healthy = checks.iter().all(|check| check.failure.is_none() || check.warning || excluded(check));
    if healthy && !verbose {
        return Report { healthy, text: "ok\n".to_owned() };
    }
    let mut text = String::new();
    for check in checks {
        match &check.failure {
            _ if excluded(check) => text.push_str(&format!("[+]{} excluded: ok\n", check.name)),
            None => text.push_str(&format!("[+]{} ok\n", check.name)),
            Some(why) if check.warning => text.push_str(&format!("[-]{} warning: {why}\n", check.name)),
            Some(why) => text.push_str(&format!("[-]{} failed: {why}\n", check.name)),
        }
    }
    text.push_str(&format!("{endpoint} check {}\n", if healthy { "passed" } else { "failed" }));
    Report { healthy, text }
}

/// Adds what the group knows to the metrics page.
pub(super) fn group_metrics(page: &mut Page, status: &GroupStatus) {
    let index = |value: Option<u64>| value.unwrap_or(0) as f64;
    page.gauge("quorate_raft_term", "The term.", status.term as f64);
    page.gauge("quorate_raft_is_leader", "1 while this member leads.", f64::from(status.role == Role::Leader));
    page.gauge("quorate_raft_has_leader", "1 while a leader is known.", f64::from(status.leader.is_some()));
    page.gauge("quorate_raft_leader_id", "Who leads; 0 if nobody is known to.", index(status.leader));
    page.gauge("quorate_raft_lease", "1 while reads are served under the lease.", f64::from(status.lease));
    page.gauge("quorate_raft_last_log_index", "Last entry in the log.", index(status.last_log));
    page.gauge("quorate_raft_committed_index", "Last committed entry.", index(status.committed));
    page.gauge("quorate_raft_applied_index", "Last applied entry.", index(status.applied));
    page.gauge("quorate_raft_checkpoint_index", "Entry that the last checkpoint holds.", index(status.checkpoint));
    page.gauge("quorate_raft_purged_index", "Last entry cut off the front of the log.", index(status.purged));
    page.gauge("quorate_raft_proposals_waiting", "Units that wait for the proposer.", status.proposals_waiting as f64);
    page.gauge(
        "quorate_raft_entries_in_flight",
        "Entries proposed and not applied yet.",
        status.entries_in_flight as f64,
    );
    page.gauge(
        "quorate_data_damaged",
        "1 when this member's data was found not to be what the log says.",
        f64::from(status.damaged),
    );
    page.gauge(
        "quorate_check_good_index",
        "Entry at which all members last held the same.",
        index(status.check.last_good),
    );
    page.gauge("quorate_raft_members", "Members of the group.", status.members.len() as f64);
    page.gauge("quorate_raft_voters", "Voters of the group.", status.members.iter().filter(|m| m.voter).count() as f64);
    let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
    let took = seconds(status.checkpoint_took);
    page.gauge("quorate_checkpoint_duration_seconds", "How long the last checkpoint took.", took);
    let running = seconds(status.checkpoint_running);
    page.gauge("quorate_checkpoint_running_seconds", "Age of the checkpoint being written; 0: none is.", running);
    let full = f64::from(status.no_room);
    page.gauge("quorate_disk_full", "1 while the disk has no room for the log, a checkpoint or a snapshot.", full);
    let counters = [
        ("quorate_checkpoint_failures_total", "Checkpoints that could not be written.", status.checkpoint_failures),
        ("quorate_raft_proposals_total", "Units handed to the log.", status.proposals),
        ("quorate_raft_proposals_unknown_total", "Units whose outcome is unknown.", status.proposals_unknown),
        ("quorate_raft_elections_total", "Elections this member stood in.", status.elections),
        ("quorate_raft_leader_changes_total", "Changes of the leader seen.", status.leader_changes),
        ("quorate_raft_checkpoints_total", "Checkpoints taken.", status.checkpoints),
        ("quorate_checks_total", "Comparisons of the members' data that this member led.", status.check.runs),
        ("quorate_check_differences_total", "Members found that differed from the majority.", status.check.differences),
        (
            "quorate_checks_undecided_total",
            "Comparisons without a majority to say who is right.",
            status.check.undecided,
        ),
        ("quorate_raft_snapshots_sent_total", "Snapshots sent.", status.snapshots_sent),
        ("quorate_raft_snapshot_sent_bytes_total", "Bytes of snapshots sent.", status.snapshot_bytes_sent),
        ("quorate_raft_snapshots_received_total", "Snapshots received.", status.snapshots_received),
        ("quorate_raft_snapshot_received_bytes_total", "Bytes of snapshots received.", status.snapshot_bytes_received),
    ];
    for (name, help, value) in counters {
        page.counter(name, help, value);
    }
    power_histogram(page, "quorate_raft_commit_seconds", "From hand-in to applied.", &status.commit_us, 1e-6);
    power_histogram(page, "quorate_raft_apply_seconds", "Apply of one entry.", &status.apply_us, 1e-6);
    power_histogram(page, "quorate_raft_batch_units", "Units in one entry.", &status.batch_units, 1.0);
    power_histogram(page, "quorate_raft_batch_bytes", "Bytes of one entry.", &status.batch_bytes, 1.0);
    peer_metrics(page, status);
}

fn peer_metrics(page: &mut Page, status: &GroupStatus) {
    type Value = fn(&quorate_raft::MemberStatus) -> Option<f64>;
    let families: [(&str, &str, Value); 6] = [
        ("quorate_raft_peer_matched_index", "Last entry known to be on the peer's disk.", |m| {
            m.matched.map(|v| v as f64)
        }),
        ("quorate_raft_peer_lag_entries", "Entries the peer lacks.", |m| m.lag.map(|v| v as f64)),
        ("quorate_raft_peer_last_ack_seconds", "Age of what the peer last answered.", |m| {
            m.last_ack_age.map(|age| age.as_secs_f64())
        }),
        ("quorate_raft_peer_snapshot_bytes", "Bytes of the snapshot on its way to the peer.", |m| {
            m.snapshot.map(|s| s.bytes_sent as f64)
        }),
        ("quorate_raft_peer_snapshot_ratio", "Part of that snapshot that is sent.", |m| {
            m.snapshot.map(|s| s.chunks_done as f64 / s.chunks_total.max(1) as f64)
        }),
        ("quorate_raft_peer_healthy", "1 while the peer answers.", |m| m.healthy.map(f64::from)),
    ];
    for (name, help, value) in families {
        let peers = status.members.iter().filter(|m| m.id != status.id);
        page.gauges(name, help, peers.filter_map(|m| Some((vec![("peer", m.id.to_string())], value(m)?))));
    }
}

/// The raft room counts `[2^(i-1), 2^i)` in bucket `i`.
pub fn power_histogram(page: &mut Page, name: &str, help: &str, snapshot: &HistogramSnapshot, scale: f64) {
    let last = snapshot.buckets.iter().rposition(|n| *n > 0).unwrap_or(0);
    let mut below = 0;
    let buckets: Vec<(f64, u64)> = snapshot.buckets[..snapshot.buckets.len().min(last + 1)]
        .iter()
        .enumerate()
        .map(|(power, n)| {
            below += n;
            (((1u64 << power) - 1) as f64 * scale, below)
        })
        .collect();
    page.buckets(name, help, &buckets, snapshot.sum as f64 * scale, snapshot.count);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![Check::new("disk", None), Check::new("leader", Some("no leader is known".into()))]
    }

    #[test]
    fn a_failure_is_told_even_without_verbose() {
        let told = report("readyz", &checks(), false, &[]);
        assert!(!told.healthy);
        assert_eq!(told.text, "[+]disk ok\n[-]leader failed: no leader is known\nreadyz check failed\n");
    }

    #[test]
    fn a_removed_member_has_no_leader_whoever_it_remembers() {
        let mut status = crate::admin::service::tests::quiet_status(1);
        status.leader = Some(2);
        assert_eq!(no_leader(&status), None);
        status.removed = true;
        assert_eq!(no_leader(&status).as_deref(), Some("this member was removed from its group"));
    }

    #[test]
    fn a_full_disk_is_told_and_changes_nothing() {
        let status = GroupStatus { no_room: true, ..GroupStatus::loading(1) };
        let told = report("readyz", &live(&status, None), true, &[]);
        assert!(told.healthy && told.text.starts_with("[-]disk warning: the disk has no room"), "{}", told.text);
        assert!(!report("livez", &live(&status, Some("a sync has failed".into())), true, &[]).healthy);
    }

    #[test]
    fn an_excluded_failure_does_not_count() {
        let told = report("readyz", &checks(), true, &["leader".to_owned()]);
        assert!(told.healthy);
        assert_eq!(told.text, "[+]disk ok\n[+]leader excluded: ok\nreadyz check passed\n");
        assert_eq!(report("livez", &checks()[..1], false, &[]).text, "ok\n");
    }
}
