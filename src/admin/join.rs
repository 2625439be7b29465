//! The way into a group: `--join URL…` asks the admin port of any member to take this one in.
//!
//! Asking again after a lost answer is safe: a group answers the same to the same addresses until it has heard the new
//! member. A refusal is final; anything else is tried again at the next address.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::api::{AddMember, AddedView, ApiError};

/// What a new member keeps on its disk.
pub type Identity = AddedView;

/// An answer is a few hundred bytes a member.
const ANSWER_BYTES: u64 = 4 << 20;
/// One attempt: a change of membership may wait for an election.
pub(super) const ATTEMPT: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(3);
/// Between two rounds over all addresses.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(300);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Why a member was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The address can't be used.
    #[error("cannot use the address {url:?}: {why}")]
    Url {
        /// It.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The group does not want it.
    #[error("{url} refused: {}. {}", error.message, error.hint)]
    Refused {
        /// Who said so.
        url: String,
        /// What it said.
        error: ApiError,
    },
    /// Nobody took it in before the time was over.
    #[error("no member took this one in within {} s; the last problem was: {last}", patience.as_secs())]
    TimedOut {
        /// How long was tried.
        patience: Duration,
        /// What went wrong last.
        last: String,
    },
}

/// Asks the members behind the addresses in turn, until one has taken this member in or `patience` is over
/// (`None`: for ever).
pub async fn join(
    urls: &[String],
    token: Option<&str>,
    wish: &AddMember,
    patience: Option<Duration>,
) -> Result<Identity, JoinError> {
    let targets = urls.iter().map(|url| Target::parse(url)).collect::<Result<Vec<_>, _>>()?;
    if targets.is_empty() {
        return Err(JoinError::Url { url: String::new(), why: "at least one address is needed" });
    }
    let body = serde_json::to_vec(wish).unwrap_or_default();
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut last = String::new();
    loop {
        for target in &targets {
            tracing::info!(url = target.url, "asking to be taken into the group");
            match ask(target, token, &body).await {
                Ok(added) => {
                    tracing::info!(member = added.id, group = added.group, "taken into the group");
                    return Ok(added);
                }
                Err(Failure::Refused(error)) => {
                    return Err(JoinError::Refused { url: target.url.clone(), error });
                }
                Err(Failure::Later(problem)) => {
                    if problem != last {
                        tracing::warn!(url = target.url, "not yet taken into the group: {problem}");
                    }
                    last = problem;
                }
            }
        }
        if let Some(patience) = patience.filter(|patience| begun.elapsed() + pause >= *patience) {
            return Err(JoinError::TimedOut { patience, last });
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

enum Failure {
    /// Asking again would not change the answer.
    Refused(ApiError),
    Later(String),
}

async fn ask(target: &Target, token: Option<&str>, body: &[u8]) -> Result<AddedView, Failure> {
    let answer = timeout(ATTEMPT, target.request("POST", "/v1/members", token, body));
    let (status, body) = match answer.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(Failure::Later(error.to_string())),
        Err(_) => {
            return Err(Failure::Later(format!("no answer within {} s", ATTEMPT.as_secs())));
        }
    };
    if status == 200 {
        return parse(&body).map_err(Failure::Later);
    }
    let error: ApiError = parse(&body).unwrap_or_else(|_| {
        ApiError::new(status, "unknown", format!("it answered with status {status}"), "is this a member's admin port?")
    });
    let again = status >= 500 || status == 429 || error.code == "busy" || error.code == "unknown";
    if again { Err(Failure::Later(error.message)) } else { Err(Failure::Refused(error)) }
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("its answer can't be read: {error}"))
}

/// Where to ask: plain HTTP only, for the admin port speaks nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) url: String,
    address: String,
    prefix: String,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, JoinError> {
        let bad = |why| Err(JoinError::Url { url: url.to_owned(), why });
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => {
                return bad("the admin port speaks plain HTTP; put http:// in front");
            }
            Some(_) => return bad("it does not begin with http://"),
            None => url,
        };
        let (address, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            return bad("it must be http://HOST:PORT with the port of a member's admin interface");
        }
        if rest.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return bad("it holds a blank or a control character");
        }
        Ok(Self { url: url.to_owned(), address: address.to_owned(), prefix: prefix.trim_end_matches('/').to_owned() })
    }

    /// One request; status and body of the answer.
    pub(super) async fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &[u8],
    ) -> std::io::Result<(u16, Vec<u8>)> {
        let mut stream = timeout(CONNECT, TcpStream::connect(self.address.as_str()))
            .await
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection within 3 s"))??;
        let authorization = match token {
            // A token with a line end in it would be another header.
            Some(token) if token.bytes().all(|b| b > b' ' && b < 0x7f) => {
                format!("authorization: Bearer {token}\r\n")
            }
            _ => String::new(),
        };
        let head = format!(
            "{method} {}{path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             {authorization}connection: close\r\n\r\n",
            self.prefix,
            self.address,
            body.len(),
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
        split_answer(&answer)
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer is not HTTP"))
    }
}

/// Status and body of a whole answer. Our own server always tells the length, so chunks need no reader here.
fn split_answer(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let head_end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..head_end]).ok()?;
    let mut words = head.split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let status = words.next()?.get(..3)?.parse().ok()?;
    Some((status, answer[head_end + 4..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::WantedRole;
    use tokio::net::TcpListener;

    fn wish() -> AddMember {
        let address = |port: u16| format!("127.0.0.1:{port}");
        AddMember { peer: address(17004), client: address(7004), admin: address(8004), role: WantedRole::Voter }
    }

    /// Answers one connection after the other with what it is given, and returns what was sent to it.
    async fn answering(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut seen = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let mut len = 0;
                while !String::from_utf8_lossy(&request[..len]).ends_with('}') {
                    len += stream.read(&mut request[len..]).await.unwrap();
                }
                seen.push(String::from_utf8_lossy(&request[..len]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
            seen
        });
        (url, task)
    }

    fn http(status: u16, body: &str) -> String {
        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn tries_the_next_address_and_again_until_it_is_taken_in() {
        let (url, task) = answering(vec![
            http(503, r#"{"code":"no_leader","message":"no leader","hint":""}"#),
            http(200, r#"{"id":4,"group":"g","incarnation":"i","members":[]}"#),
        ])
        .await;
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        let added = join(&[closed, url], Some("s3cret"), &wish(), None).await.unwrap();
        assert_eq!((added.id, added.incarnation.as_str()), (4, "i"));
        let seen = task.await.unwrap();
        assert_eq!(seen.len(), 2);
        assert!(seen[1].starts_with("POST /v1/members HTTP/1.1\r\n"), "{}", seen[1]);
        assert!(seen[1].contains("\r\nauthorization: Bearer s3cret\r\n"));
        assert!(seen[1].ends_with(r#""role":"voter"}"#));
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_says_what_to_do() {
        let (url, _task) = answering(vec![http(
            409,
            r#"{"code":"address_in_use","message":"member 2 has it","hint":"remove it first"}"#,
        )])
        .await;
        let error = join(&[url], None, &wish(), None).await.unwrap_err();
        assert!(error.to_string().ends_with("refused: member 2 has it. remove it first"), "{error}");
    }

    #[tokio::test]
    async fn patience_ends() {
        let (url, _task) = answering(vec![]).await;
        let error = join(&[url], None, &wish(), Some(Duration::from_millis(10))).await.unwrap_err();
        assert!(matches!(error, JoinError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(Target::parse("http://a:1/x/").unwrap().prefix, "/x");
        assert_eq!(Target::parse("a:1").unwrap().address, "a:1");
        for bad in ["https://a:1", "http://a", "ftp://a:1", "http://:1", "http://a:99999", "http://a:1/ b"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        assert!(split_answer(b"SSH-2.0\r\n\r\n").is_none());
    }
}
