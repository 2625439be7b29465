//! A client of the admin HTTP.

use std::io::Read;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

use crate::admin::api::ApiError;

/// For one request: a change of membership may have to wait for an election.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// For one that takes as long as there is data.
pub(super) const LONG_PATIENCE: Duration = Duration::from_secs(17 * 60);
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER_BYTES: u64 = 64 << 20;

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("cannot use the address {url}: {why}")]
    Url { url: String, why: &'static str },
    #[error("no answer from {url}: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} gave an answer that is not one of a member's admin port: {why}")]
    Strange { url: String, why: String },
    #[error("{0}")]
    Refused(ApiError),
}

impl Problem {
    /// In the shape in which a member tells an error.
    pub(super) fn as_api(&self) -> ApiError {
        let (code, hint) = match self {
            Problem::Refused(error) => return ApiError { status: 0, ..error.clone() },
            Problem::Url { .. } => ("bad_address", "give --admin http://HOST:PORT, the admin port of any member"),
            Problem::Unreachable { .. } => {
                ("unreachable", "is the member running? Give --admin URL, the admin port of any other member")
            }
            Problem::Strange { .. } => {
                ("not_a_member", "is this the admin port, and not the one for clients or peers?")
            }
        };
        ApiError::new(0, code, self.to_string(), hint)
    }
}

/// Speaks to one member.
#[derive(Debug)]
pub(super) struct Client {
    base: String,
    token: Option<String>,
    agent: Agent,
}

impl Client {
    pub(super) fn new(url: &str, token: Option<String>, patience: Duration) -> Result<Self, Problem> {
        Self::with_patience(url, token, Some(patience))
    }

    /// For answers that take as long as they take.
    pub(super) fn streaming(url: &str, token: Option<String>) -> Result<Self, Problem> {
        Self::with_patience(url, token, None)
    }

    fn with_patience(url: &str, token: Option<String>, patience: Option<Duration>) -> Result<Self, Problem> {
        let bad = |why| Err(Problem::Url { url: url.to_owned(), why });
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return bad("the admin port speaks plain HTTP"),
            Some(_) => return bad("it does not begin with http://"),
            None => url,
        };
        let port = rest.trim_end_matches('/').rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if rest.bytes().any(|byte| byte <= b' ' || byte == 0x7f) || !matches!(port, Some(Ok(_))) {
            return bad("it must be http://HOST:PORT");
        }
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return bad("the token may only hold visible ASCII characters");
        }
        let config = Agent::config_builder()
            .timeout_global(patience)
            .timeout_connect(Some(patience.map_or(CONNECT, |patience| CONNECT.min(patience))))
            .timeout_recv_response(Some(patience.unwrap_or(PATIENCE)))
            .http_status_as_error(false)
            // Members speak for themselves: a proxy for the web must not stand between.
            .proxy(None)
            .max_redirects(0)
            .build();
        Ok(Client { base: format!("http://{}", rest.trim_end_matches('/')), token, agent: config.into() })
    }

    /// `http://HOST:PORT`
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Problem> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = self.bearer() {
            request = request.header("authorization", token);
        }
        self.read(request.call())
    }

    /// An answer that is no JSON, read as it comes.
    pub(super) fn stream(&self, path: &str) -> Result<impl Read + use<>, Problem> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = self.bearer() {
            request = request.header("authorization", token);
        }
        match request.call() {
            Ok(answer) if answer.status().is_success() => Ok(answer.into_body().into_reader()),
            answer => match self.read(answer) {
                Err(problem) => Err(problem),
                Ok(_) => Err(Problem::Strange { url: self.base.clone(), why: "no stream".to_owned() }),
            },
        }
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, Problem> {
        let mut request = self.agent.delete(format!("{}{path}", self.base));
        if let Some(token) = self.bearer() {
            request = request.header("authorization", token);
        }
        self.read(request.call())
    }

    pub(super) fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, Problem> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Problem::Strange { url: self.base.clone(), why: error.to_string() })?;
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        if let Some(token) = self.bearer() {
            request = request.header("authorization", token);
        }
        self.read(request.send(&body[..]))
    }

    fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    fn read(&self, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Problem> {
        let unreachable = |error: ureq::Error| {
            let why = match error {
                ureq::Error::Io(error) => error.to_string(),
                error => error.to_string(),
            };
            Problem::Unreachable { url: self.base.clone(), why }
        };
        let strange = |why: String| Problem::Strange { url: self.base.clone(), why };
        let mut answer = answer.map_err(|error| match error {
            ureq::Error::Protocol(error) => strange(error.to_string()),
            error => unreachable(error),
        })?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec().map_err(unreachable)?;
        if status.is_success() {
            if body.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&body).map_err(|error| strange(error.to_string()));
        }
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(Problem::Refused(error)),
            Err(_) => Err(strange(format!("status {status}"))),
        }
    }
}

/// Takes an answer apart.
pub(super) fn view<T: DeserializeOwned>(client: &Client, answer: Value) -> Result<T, Problem> {
    serde_json::from_value(answer)
        .map_err(|error| Problem::Strange { url: client.base().to_owned(), why: error.to_string() })
}

/// Prints an answer for a program.
pub(super) fn print_json(answer: &Value) {
    println!("{}", serde_json::to_string_pretty(answer).unwrap_or_default());
}
