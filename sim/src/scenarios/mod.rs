//! Runs that follow a script instead of a swarm of faults: one or more for each failure that stores like this one have
//! had, named by how this one behaves. All oracles look on, and the script says itself what must come out.
//!
//! The vocabulary is in `script.rs`. A scenario must never pass because nothing happened: it asserts what it waited for.

mod clients;
mod crashes;
mod leaders;
mod members;
mod reads;
pub mod script;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::plan::Plan;
use crate::run::Run;
use script::Stage;

pub const NAME: &str = "the scenario's outcome";

/// How a script ended: `Err` says what was not as it ought to be.
pub type Ended = Result<(), String>;

/// A script, and the sizes that it needs.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    tune: fn(&mut Plan),
    play: fn(Stage) -> Pin<Box<dyn Future<Output = Ended> + Send>>,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! scenario {
    ($room:ident :: $name:ident) => {
        scenario!($room::$name, |_| ())
    };
    ($room:ident :: $name:ident, $tune:expr) => {
        Scenario { name: stringify!($name), tune: $tune, play: |stage| Box::pin($room::$name(stage)) }
    };
}

pub const ALL: &[Scenario] = &[
    scenario!(clients::a_request_passed_on_during_hand_overs_runs_once),
    scenario!(clients::a_write_that_failed_never_appears),
    scenario!(clients::a_failed_exec_leaves_the_connection_usable),
    scenario!(clients::replies_behind_one_proxy_reach_their_clients),
    scenario!(clients::a_redirected_client_finds_the_leader, |plan| plan.tuning.follower_mode = "redirect"),
    scenario!(leaders::after_the_leaders_death_the_others_serve_everything),
    scenario!(leaders::a_group_that_was_killed_comes_back_and_stays_calm, |plan| plan.clients = 4),
    scenario!(leaders::a_leader_cut_off_and_killed_forks_no_history),
    scenario!(leaders::a_leader_that_hangs_is_not_waited_for, |plan| plan.clients = 0),
    scenario!(leaders::all_kinds_of_faults_at_once_lose_nothing, |plan| {
        plan.machines = 5;
        plan.clients = 6;
    }),
    scenario!(reads::a_leader_that_slept_serves_no_stale_read),
    // Long promises and short pauses between them: a voter that forgets its own has all the time to do harm.
    scenario!(reads::a_restarted_voter_keeps_the_lease_that_it_granted, |plan| plan.tuning.election_ms = 600),
    scenario!(reads::a_restart_never_shows_an_empty_store),
    scenario!(reads::a_change_with_a_crash_never_shows_an_empty_store),
    scenario!(reads::what_has_expired_stays_gone_under_a_slower_clock),
    scenario!(reads::keys_past_due_by_the_groups_time_alone_hold_nobody_up),
    scenario!(reads::local_reads_never_go_back_while_a_snapshot_comes, with_snapshots),
    scenario!(crashes::a_follower_that_restarts_keeps_what_is_committed, |plan| plan.clients = 4),
    scenario!(crashes::entries_behind_an_installed_snapshot_leave_no_gap, with_snapshots),
    scenario!(crashes::a_snapshot_slower_than_any_timeout_arrives, |plan| {
        with_snapshots(plan);
        plan.clients = 0;
        plan.latency_ms = (5, 40);
        plan.tuning.heartbeat_ms = 80;
        plan.tuning.election_ms = 400;
        plan.tuning.snapshot_frame_bytes = 512;
    }),
    scenario!(crashes::a_power_cut_at_any_step_of_a_checkpoint_loses_nothing, with_snapshots),
    scenario!(crashes::a_power_cut_while_a_snapshot_is_installed_loses_nothing, with_snapshots),
    scenario!(crashes::a_torn_tail_is_cut_off, |plan| plan.clients = 4),
    scenario!(crashes::a_flipped_bit_is_refused),
    scenario!(crashes::a_leader_that_cannot_read_its_log_sends_nothing_wrong, |plan| {
        plan.tuning.log_cache_bytes = 1 << 10;
    }),
    scenario!(crashes::a_full_disk_refuses_and_a_failed_sync_stops),
    scenario!(crashes::a_damaged_checkpoint_of_a_running_member_is_written_anew, with_snapshots),
    scenario!(members::an_isolated_leader_cannot_remove_the_others),
    scenario!(members::a_leader_that_was_removed_while_alone_has_no_power),
    scenario!(members::a_machine_that_comes_first_waits_for_the_group),
    scenario!(members::two_that_are_to_join_do_not_wait_for_each_other, |plan| plan.machines = 5),
    scenario!(members::a_removed_leader_acknowledges_nothing_more),
    scenario!(members::an_empty_disk_under_an_old_id_is_not_counted),
    scenario!(members::half_of_an_even_group_is_no_majority, |plan| plan.machines = 4),
    scenario!(members::a_change_survives_the_death_of_its_leader),
    scenario!(members::members_are_the_same_after_replay_and_snapshot, with_snapshots),
];

/// Checkpoints all the time, and a log that is cut right behind them: whoever was away needs a snapshot.
fn with_snapshots(plan: &mut Plan) {
    plan.clients = 4;
    plan.tuning.checkpoint_log_bytes = 8 << 10;
    plan.tuning.checkpoint_interval = Duration::from_secs(1);
    plan.tuning.keep_log_bytes = 0;
    plan.tuning.segment_bytes = 32 << 10;
    plan.tuning.snapshot_frame_bytes = 1 << 10;
}

impl Scenario {
    /// The plan that it is played under.
    pub fn plan(self) -> Plan {
        let mut plan = Plan::calm();
        (self.tune)(&mut plan);
        plan.scenario = Some(self);
        plan
    }

    /// Plays it, from where the operator sits.
    pub async fn play(self, run: &Arc<Run>) {
        let played = run.operator().spawn((self.play)(Stage::new(run.clone())));
        let ended = played.await.unwrap_or_else(|_| Err("the script was interrupted".into()));
        if let Err(text) = ended {
            run.story.broken(NAME, text);
        }
    }
}
