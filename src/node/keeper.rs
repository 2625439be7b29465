//! What has to be done now and then: founding a new group's keyspace, removing keys past due, keeping the member's copy
//! of the group's settings fresh, and sampling rates.

use std::sync::Arc;
use std::time::Duration;

use quorate_keyspace::{encode_found_unit, encode_setting_unit};
use tokio::time::sleep;

use super::shell::Factory;
use crate::config::Settings;
use crate::env::Env;
use crate::executor::Executor;
use crate::metrics::Metrics;

/// How often keys past due are looked for, and rates are sampled.
const TICK: Duration = Duration::from_millis(100);

/// Starts the work; it goes on for the life of the process.
pub(super) fn start(
    executor: Arc<Executor>,
    settings: Settings,
    shell: Arc<Factory>,
    env: Arc<dyn Env>,
    metrics: Arc<Metrics>,
) {
    tokio::spawn(async move {
        loop {
            if executor.group().is_leader() {
                found(&executor, &settings, &*env).await;
                if shell.active_expire() {
                    executor.expire().await;
                }
            }
            follow_settings(&executor, &settings);
            metrics.tick(env.wall_ms());
            sleep(TICK).await;
        }
    });
}

/// Gives a new group its secret seed, its databases and the settings of the member that began it.
pub(super) async fn found(executor: &Executor, settings: &Settings, env: &dyn Env) {
    if executor.engine().with(|keyspace| keyspace.is_founded()) {
        return;
    }
    // Zero means "not founded".
    let seed = [env.random() | 1, env.random()];
    let mut units = vec![encode_found_unit(settings.databases(), seed)];
    for (name, text) in settings.replicated() {
        if let Ok(value) = text.parse() {
            units.push(encode_setting_unit(name, value));
        }
    }
    for unit in units {
        // A failure is not the end: the next leader, or the next tick, does it.
        if let Err(error) = executor.write(unit).await {
            tracing::warn!(%error, "the keyspace is not founded yet");
            return;
        }
    }
}

fn follow_settings(executor: &Executor, settings: &Settings) {
    let values: Vec<(&'static str, i64)> = executor.engine().with(|keyspace| {
        let names = settings.replicated().into_iter();
        names.filter_map(|(name, _)| Some((name, keyspace.get_setting(name)?))).collect()
    });
    for (name, value) in values {
        settings.set_replicated(name, &value.to_string());
    }
}
