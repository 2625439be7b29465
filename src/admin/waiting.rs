//! The admin port of a process that waits to be taken into a group: it is alive, and can't do anything yet.
//!
//! Without an answer, two new members that were told of each other would each wait for the other until their patience
//! ended, whatever the rest of the group would say. It must never promise anything: there is no member behind it yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::api::ApiError;

/// Connections at a time; more are closed without a word.
const CONNECTIONS: usize = 64;
/// For a whole request and its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a request.
const REQUEST_BYTES: usize = 64 << 10;
/// After an accept that failed: out of file descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

const WORDS: &str = "this process waits to be taken into a group itself";

/// Answers until it is dropped.
pub async fn answer(port: &TcpListener) -> std::convert::Infallible {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match (port.accept().await, room.clone().try_acquire_owned()) {
            (Ok((stream, _)), Ok(permit)) => {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, one(stream)).await;
                    drop(permit);
                });
            }
            (Ok(_), Err(_)) => {}
            (Err(_), _) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn one(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !is_complete(&request) && request.len() < REQUEST_BYTES {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let error = ApiError::new(503, "joining", WORDS, "ask a member of the group");
    let (status, kind, body) = if request.starts_with(b"GET /livez") {
        ("200 OK", "text/plain", "ok\n".to_owned())
    } else {
        ("503 Service Unavailable", "application/json", serde_json::to_string(&error).unwrap_or_default())
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await
}

/// Head and body are there: a close with bytes unread would take the answer back.
fn is_complete(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    request.len() >= end + 4 + length.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::{AddMember, WantedRole};
    use crate::admin::join::{JoinError, join};

    #[tokio::test]
    async fn whoever_asks_a_process_that_waits_itself_hears_so_at_once() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", port.local_addr().unwrap());
        let address = |port: u16| format!("127.0.0.1:{port}");
        let wish =
            AddMember { peer: address(17004), client: address(7004), admin: address(8004), role: WantedRole::Voter };
        let urls = [url];
        let error = tokio::select! {
            joined = join(&urls, None, &wish, Some(Duration::from_millis(1))) => joined.unwrap_err(),
            never = answer(&port) => match never {},
        };
        // And not "no answer": the next address is asked without a wait.
        assert!(matches!(&error, JoinError::TimedOut { last, .. } if last == WORDS), "{error}");
    }
}
