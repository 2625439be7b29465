//! The conversation with the server that takes the keys. Each step of it may take so long and no longer.
//!
//! What it says is not trusted: its lines are bounded, and only `+OK` means that it has a key.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_keyspace::error::CmdError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::Plan;

/// What is sent in one step, and gathered for it.
const STEP_BYTES: usize = 64 << 10;
/// The longest line that an answer may be.
const LINE_BYTES: usize = 4 << 10;

/// Why the conversation is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// The words are Redis'.
    #[error("IOERR error or timeout connecting to the client")]
    Connect,
    /// The words are Redis'.
    #[error("IOERR error or timeout writing to target instance")]
    Write,
    /// The words are Redis'.
    #[error("IOERR error or timeout reading to target instance")]
    Read,
    /// It does not want to talk to us.
    #[error("{}", replied_with(.0))]
    Refused(Bytes),
}

impl From<Broken> for CmdError {
    fn from(broken: Broken) -> Self {
        Self::new(broken.to_string())
    }
}

/// Redis' words for an error of the target.
pub(super) fn replied_with(line: &[u8]) -> String {
    format!("ERR Target instance replied with error: {}", String::from_utf8_lossy(line))
}

/// What the target says of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Ok,
    /// The line, without its dash.
    Error(Bytes),
}

/// A server that takes keys.
pub(super) struct Target<S> {
    stream: S,
    patience: Duration,
    out: BytesMut,
    input: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Target<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, out: BytesMut::new(), input: BytesMut::new() }
    }

    /// Authenticates and selects the database. No key is sent before both are done: it would come into a wrong one.
    pub(super) async fn greet(&mut self, plan: &Plan) -> Result<(), Broken> {
        if let Some(password) = &plan.password {
            let words = [Some(&b"AUTH"[..]), plan.user.as_deref(), Some(&password[..])];
            let words: Vec<&[u8]> = words.into_iter().flatten().collect();
            self.command(&words).await?;
        }
        self.command(&[b"SELECT", plan.db.to_string().as_bytes()]).await?;
        self.flush().await?;
        for _ in 0..1 + usize::from(plan.password.is_some()) {
            if let Answer::Error(line) = self.answer().await? {
                return Err(Broken::Refused(line));
            }
        }
        Ok(())
    }

    /// Sends a command, or gathers it to be sent; a long argument is not copied for it.
    pub(super) async fn command(&mut self, words: &[&[u8]]) -> Result<(), Broken> {
        self.put(format!("*{}\r\n", words.len()).as_bytes()).await?;
        for word in words {
            self.put(format!("${}\r\n", word.len()).as_bytes()).await?;
            self.put(word).await?;
            self.put(b"\r\n").await?;
        }
        Ok(())
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        if self.out.len() + bytes.len() <= STEP_BYTES {
            self.out.extend_from_slice(bytes);
            return Ok(());
        }
        let gathered = self.out.split();
        for step in std::iter::once(&gathered[..]).chain(bytes.chunks(STEP_BYTES)) {
            self.write(step).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(self.patience, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Broken::Write),
        }
    }

    /// Sends what was gathered.
    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        let gathered = self.out.split();
        self.write(&gathered).await
    }

    /// The next answer. What is neither `+OK` nor an error is no answer to any command of ours: then nothing that follows
    /// can be relied on.
    pub(super) async fn answer(&mut self) -> Result<Answer, Broken> {
        let line = self.line().await?;
        match &line[..] {
            b"+OK" => Ok(Answer::Ok),
            [b'-', ..] => Ok(Answer::Error(line.slice(1..))),
            _ => Err(Broken::Refused(line)),
        }
    }

    async fn line(&mut self) -> Result<Bytes, Broken> {
        let mut searched = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.input[searched..]) {
                let line = self.input.split_to(searched + end + 1).freeze();
                let end = line.len() - if line.ends_with(b"\r\n") { 2 } else { 1 };
                return Ok(line.slice(..end));
            }
            searched = self.input.len();
            if searched > LINE_BYTES {
                return Err(Broken::Read);
            }
            match timeout(self.patience, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(read)) if read > 0 => {}
                _ => return Err(Broken::Read),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn pair(patience: Duration) -> (Target<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        (Target::new(ours, patience), theirs)
    }

    fn plan(line: &str) -> Plan {
        let line: Vec<Bytes> = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        Plan::parse(&line).unwrap()
    }

    async fn greeted(line: &str, answers: &[u8]) -> (Result<(), Broken>, String) {
        let (mut target, mut theirs) = pair(PATIENCE);
        theirs.write_all(answers).await.unwrap();
        let done = target.greet(&plan(line)).await;
        drop(target);
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        (done, heard)
    }

    #[tokio::test]
    async fn it_authenticates_and_selects_before_anything_else() {
        let (done, heard) = greeted("migrate h 1 k 7 0", b"+OK\r\n").await;
        assert_eq!((done, &heard[..]), (Ok(()), "*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n"));
        let (done, heard) = greeted("migrate h 1 k 0 0 auth pw", b"+OK\r\n+OK\r\n").await;
        assert_eq!(done, Ok(()));
        assert!(heard.starts_with("*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n*2\r\n$6\r\nSELECT"), "{heard}");
        let (done, heard) = greeted("migrate h 1 k 0 0 auth2 me pw", b"-WRONGPASS no\r\n-NOAUTH no\r\n").await;
        assert_eq!(done, Err(Broken::Refused(Bytes::from_static(b"WRONGPASS no"))));
        assert!(heard.starts_with("*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$2\r\npw\r\n"), "{heard}");
        let (done, _) = greeted("migrate h 1 k 99 0", b"-ERR DB index is out of range\r\n").await;
        let error = CmdError::from(done.unwrap_err());
        assert_eq!(error.text(), "ERR Target instance replied with error: ERR DB index is out of range");
    }

    #[tokio::test]
    async fn only_ok_means_ok() {
        let (mut target, mut theirs) = pair(PATIENCE);
        theirs.write_all(b"+OK\r\n-BUSYKEY no\r\n+OK\n+QUEUED\r\n").await.unwrap();
        assert_eq!(target.answer().await, Ok(Answer::Ok));
        assert_eq!(target.answer().await, Ok(Answer::Error(Bytes::from_static(b"BUSYKEY no"))));
        assert_eq!(target.answer().await, Ok(Answer::Ok));
        assert_eq!(target.answer().await, Err(Broken::Refused(Bytes::from_static(b"+QUEUED"))));
        theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        assert!(matches!(target.answer().await, Err(Broken::Refused(_))));
        theirs.write_all(b"+O").await.unwrap();
        drop(theirs);
        assert_eq!(target.answer().await, Err(Broken::Read), "half a line");
    }

    #[tokio::test]
    async fn a_line_that_never_ends_is_given_up() {
        let (mut target, mut theirs) = pair(PATIENCE);
        let endless = tokio::spawn(async move { while theirs.write_all(b"-aaaaaaaaaaaaaaa").await.is_ok() {} });
        assert_eq!(target.answer().await, Err(Broken::Read));
        drop(target);
        endless.await.unwrap();
    }

    #[tokio::test]
    async fn silence_is_given_up() {
        let (mut target, _theirs) = pair(Duration::from_millis(1));
        assert_eq!(target.answer().await, Err(Broken::Read));
        // More than the pipe holds, and nobody takes it out.
        let long = vec![b'x'; 3 * STEP_BYTES];
        assert_eq!(target.command(&[b"RESTORE", &long]).await, Err(Broken::Write));
    }

    #[tokio::test]
    async fn long_arguments_arrive_whole() {
        let (mut target, mut theirs) = pair(PATIENCE);
        let long: Vec<u8> = (0..3 * STEP_BYTES + 5).map(|at| at as u8).collect();
        let words: [&[u8]; 3] = [b"RESTORE", b"k", &long];
        let mut wanted = BytesMut::new();
        crate::resp::encode_command(&words, &mut wanted);
        crate::resp::encode_command(&[b"PING"], &mut wanted);
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            theirs.read_to_end(&mut heard).await.unwrap();
            heard
        });
        target.command(&words).await.unwrap();
        target.command(&[b"PING"]).await.unwrap();
        target.flush().await.unwrap();
        drop(target);
        assert_eq!(heard.await.unwrap(), wanted);
    }
}
