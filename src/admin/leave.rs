//! The way out of a group for a member that can't go on: it asks the others to remove the one that it was.
//!
//! Only a member that nobody hears may be removed this way: one that answers is alive, and whoever asks is a second
//! process under its name.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::api::{ApiError, MembersView};
use super::join::{ATTEMPT, FIRST_PAUSE, JoinError, LAST_PAUSE, Target, parse};

/// So long a refusal is taken for one of the moment: another member may be on its way back, and the others may still
/// take one for alive that has just stopped.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why an old member was not removed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaveError {
    /// The address can't be used.
    #[error(transparent)]
    Url(#[from] JoinError),
    /// The group can't spare it, or does not know who asks.
    #[error("{url} refused to remove member {id}: {}. {}", error.message, error.hint)]
    Refused {
        /// Who said so.
        url: String,
        /// Whom.
        id: u64,
        /// What it said.
        error: ApiError,
    },
    /// It runs.
    #[error(
        "member {id} at {peer} answers the others: another process runs under its name; stop that first, or give this \
         one other addresses"
    )]
    Alive {
        /// Whom.
        id: u64,
        /// Where.
        peer: String,
    },
}

/// What one attempt came to.
enum Attempt {
    Gone,
    /// They would not do it as things are.
    No(LeaveError),
    /// Done; there may be one more.
    Again,
    /// It could not be asked for.
    Later(String),
}

fn tell(target: &Target, last: &mut String, problem: String) {
    if problem != *last {
        tracing::warn!(url = target.url, "the old member is not removed yet: {problem}");
    }
    *last = problem;
}

/// Has the group remove the member with that id, or the one at that address; returns when there is none. Waits for
/// as long as nobody answers.
pub async fn make_way(urls: &[String], token: Option<&str>, id: Option<u64>, peer: &str) -> Result<(), LeaveError> {
    let targets = urls.iter().map(|url| Target::parse(url)).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut last = String::new();
    loop {
        for target in &targets {
            match attempt(target, token, id, peer).await? {
                Attempt::Gone => return Ok(()),
                Attempt::No(error) if begun.elapsed() >= PATIENCE => return Err(error),
                Attempt::No(error) => tell(target, &mut last, error.to_string()),
                Attempt::Again => {}
                Attempt::Later(problem) => tell(target, &mut last, problem),
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn attempt(target: &Target, token: Option<&str>, id: Option<u64>, peer: &str) -> Result<Attempt, LeaveError> {
    let members = match ask(target, "GET", "/v1/members", token).await {
        Ok(answer) => match serde_json::from_value::<MembersView>(answer) {
            // One that has no leader, or is still loading, doesn't know who is in the group.
            Ok(view) if view.leader.is_none() || view.members.is_empty() => {
                return Ok(Attempt::Later("it does not know who leads".to_owned()));
            }
            Ok(view) => view.members,
            Err(error) => return Ok(Attempt::Later(format!("its answer can't be read: {error}"))),
        },
        Err(error) => return Ok(refused(target, id.unwrap_or(0), error)),
    };
    let old = members.iter().find(|member| Some(member.id) == id || member.peer == peer);
    let Some(old) = old else { return Ok(Attempt::Gone) };
    if matches!(old.health.as_str(), "ok" | "lagging") {
        return Ok(Attempt::No(LeaveError::Alive { id: old.id, peer: old.peer.clone() }));
    }
    tracing::warn!(member = old.id, url = target.url, "asking the group to remove the member that this one was");
    match ask(target, "DELETE", &format!("/v1/members/{}", old.id), token).await {
        // Looked at again: there may be one under the id and another one at the address.
        Ok(_) => Ok(Attempt::Again),
        Err(error) => Ok(refused(target, old.id, error)),
    }
}

fn refused(target: &Target, id: u64, error: ApiError) -> Attempt {
    let later = error.status >= 500 || error.status == 429 || matches!(error.code.as_str(), "busy" | "unknown");
    match error.status {
        404 => Attempt::Again,
        _ if later => Attempt::Later(error.message),
        _ => Attempt::No(LeaveError::Refused { url: target.url.clone(), id, error }),
    }
}

async fn ask(target: &Target, method: &str, path: &str, token: Option<&str>) -> Result<Value, ApiError> {
    let unavailable = |why: String| ApiError::new(503, "unavailable", why, "");
    let (status, body) = match timeout(ATTEMPT, target.request(method, path, token, b"")).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unavailable(error.to_string())),
        Err(_) => return Err(unavailable(format!("no answer within {} s", ATTEMPT.as_secs()))),
    };
    if status == 200 {
        return parse(&body).map_err(unavailable);
    }
    let error: Option<ApiError> = parse(&body).ok();
    Err(match error {
        Some(error) => ApiError { status, ..error },
        None => ApiError::new(status, "unknown", format!("it answered with status {status}"), ""),
    })
}
