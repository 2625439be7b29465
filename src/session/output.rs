//! Replies on their way to the client, and how long one that does not read them is borne.

use std::io::{ErrorKind, Result};
use std::time::Duration;

use quorate_keyspace::reply::ReplyBuf;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::{KEEP_OUTPUT_BYTES, Session};
use crate::config::BufferLimit;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Sends what was answered, and returns when the client has room for all of it. After an error there is nothing
    /// left to send: whoever goes on to close the connection must not begin anew.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let sent = self.flush_all().await;
        if sent.is_err() {
            self.out.clear();
        }
        sent
    }

    async fn flush_all(&mut self) -> Result<()> {
        let bytes = self.out.bytes().len();
        if bytes == 0 {
            return Ok(());
        }
        let large = bytes > KEEP_OUTPUT_BYTES;
        let limit = if large { self.shared.settings.client_output_buffer_limits()[0] } else { BufferLimit::default() };
        if limit.hard_bytes > 0 && bytes as u64 > limit.hard_bytes {
            return Err(self.over_output_limit(bytes));
        }
        self.shared.metrics.net_out.add(bytes as u64);
        if large {
            self.client.update(|view| view.output_bytes = bytes as u64);
        }
        self.send(limit).await?;
        if large {
            self.client.update(|view| view.output_bytes = 0);
            self.out = ReplyBuf::new(self.state.proto);
        } else {
            self.out.clear();
        }
        Ok(())
    }

    /// Piece by piece, so that it shows how much the client has taken. One that takes nothing for `timeout` is idle, and
    /// one that leaves more than the soft limit waiting for that limit's time is too slow: Redis closes both.
    async fn send(&mut self, limit: BufferLimit) -> Result<()> {
        let began = Instant::now();
        let soft_until = (limit.soft_bytes > 0).then(|| began + Duration::from_secs(limit.soft_seconds.max(1)));
        let bytes = self.out.bytes();
        let mut sent = 0;
        loop {
            let rest = &bytes[sent..];
            let soft_until = soft_until.filter(|_| rest.len() as u64 > limit.soft_bytes);
            let idle_until = self.shared.settings.timeout().map(|idle| Instant::now() + idle);
            let until = [soft_until, idle_until].into_iter().flatten().min();
            let step = async {
                match rest {
                    [] => self.stream.flush().await.map(|()| 0),
                    rest => self.stream.write(rest).await,
                }
            };
            let took = tokio::select! {
                biased;
                took = step => took?,
                () = self.client.killed() => return Err(ErrorKind::ConnectionAborted.into()),
                () = tokio::time::sleep_until(until.unwrap_or(began)), if until.is_some() => {
                    if until == soft_until {
                        return Err(self.over_output_limit(rest.len()));
                    }
                    tracing::debug!(client = %self.client.addr, "closed: it has read nothing for 'timeout'");
                    return Err(ErrorKind::TimedOut.into());
                }
            };
            match (rest.len(), took) {
                (0, _) => return Ok(()),
                (_, 0) => return Err(ErrorKind::WriteZero.into()),
                (_, took) => sent += took,
            }
        }
    }

    /// `client-output-buffer-limit`: too many replies wait, now or for too long. Redis closes the connection then.
    fn over_output_limit(&self, bytes: usize) -> std::io::Error {
        self.shared.metrics.output_limit_closed.inc();
        tracing::warn!(client = self.client.id, bytes, "closed: its replies are over client-output-buffer-limit");
        ErrorKind::ConnectionAborted.into()
    }
}
