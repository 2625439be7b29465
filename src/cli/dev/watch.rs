//! Threads that look at the members from outside, and one that waits for signals.

use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::Message;
use crate::admin::api::{MembersView, StatusView};
use crate::cli::http::{self, Client};

const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(500);
/// Every so many looks the leader is asked for the members.
const MEMBERS_EVERY: u32 = 5;

/// One look at one member.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) number: u16,
    /// When the question was asked: a late answer must not count for a process that was started meanwhile.
    pub(super) asked: Instant,
    pub(super) status: Option<StatusView>,
    pub(super) members: Option<MembersView>,
}

/// Looks at a member again and again, for as long as anybody listens.
pub(super) fn member(number: u16, url: String, to: Sender<Message>) -> anyhow::Result<()> {
    let token = std::env::var("QUORATE_ADMIN_TOKEN").ok();
    let client = Client::new(&url, token, PATIENCE)?;
    let look = move || {
        for count in 0_u32.. {
            let asked = Instant::now();
            let status = client.get("/v1/status").and_then(|answer| http::view::<StatusView>(&client, answer)).ok();
            let leads = status.as_ref().is_some_and(|status| status.role == "leader");
            let members = if leads && count.is_multiple_of(MEMBERS_EVERY) {
                client.get("/v1/members").and_then(|answer| http::view(&client, answer)).ok()
            } else {
                None
            };
            let seen = Seen { number, asked, status, members };
            if to.send(Message::Seen(Box::new(seen))).is_err() {
                return;
            }
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new().name(format!("watch-{number}")).spawn(look).context("cannot start a thread")?;
    Ok(())
}

/// Turns SIGINT, SIGTERM and SIGHUP into messages. The handlers stand when this returns.
pub(super) fn signals(to: Sender<Message>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    let wait = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if to.send(Message::Stop).is_err() {
                    return;
                }
            }
        });
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}
