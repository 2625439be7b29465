//! The admin service on its own port: axum behind hyper, with every wait and every size bounded.
//!
//! It adds nothing to what the service can do. Health is open to all, everything else asks for the token where there
//! is one. Without a token (then the port is on loopback) requests that a foreign web page could have made are refused.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, RawQuery, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::api::{AddMember, ApiError, Request, TransferTo};
use super::health::Report;
use super::service::AdminService;
use crate::backup::Source;

/// A connection that takes nothing of a backup for so long, and has had its time, is closed.
const STALLED: Duration = Duration::from_secs(60);

/// Bounds and the token.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// What `Authorization: Bearer` must carry.
    pub token: Option<String>,
    /// Connections at a time.
    pub connections: usize,
    /// For the head of a request to arrive, and between two requests.
    pub head_patience: Duration,
    /// For a request to be answered.
    pub request_patience: Duration,
    /// For a connection to last.
    pub connection_patience: Duration,
    /// Bytes of a body.
    pub body_bytes: usize,
}

impl HttpConfig {
    /// The defaults, with that token.
    pub fn new(token: Option<String>) -> Self {
        Self {
            token,
            connections: 256,
            head_patience: Duration::from_secs(10),
            request_patience: Duration::from_secs(60),
            connection_patience: Duration::from_secs(15 * 60),
            body_bytes: 64 << 10,
        }
    }
}

/// Everything that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Status,
    Members,
    Add,
    Promote,
    Remove,
    Leader,
    Snapshot,
    Backup,
    Check,
    Livez,
    Readyz,
    Metrics,
    OpenApi,
}

impl Route {
    const ALL: [Self; 13] = [
        Self::Status,
        Self::Members,
        Self::Add,
        Self::Promote,
        Self::Remove,
        Self::Leader,
        Self::Snapshot,
        Self::Backup,
        Self::Check,
        Self::Livez,
        Self::Readyz,
        Self::Metrics,
        Self::OpenApi,
    ];

    const fn method_and_path(self) -> (&'static str, &'static str) {
        match self {
            Self::Status => ("get", "/v1/status"),
            Self::Members => ("get", "/v1/members"),
            Self::Add => ("post", "/v1/members"),
            Self::Promote => ("post", "/v1/members/{id}/promote"),
            Self::Remove => ("delete", "/v1/members/{id}"),
            Self::Leader => ("post", "/v1/leader"),
            Self::Snapshot => ("post", "/v1/snapshot"),
            Self::Backup => ("get", "/v1/backup"),
            Self::Check => ("post", "/v1/check"),
            Self::Livez => ("get", "/livez"),
            Self::Readyz => ("get", "/readyz"),
            Self::Metrics => ("get", "/metrics"),
            Self::OpenApi => ("get", "/openapi.json"),
        }
    }

    fn handler(self) -> MethodRouter<App> {
        match self {
            Self::Status => get(|app| ask(app, Request::Status)),
            Self::Members => get(|app| ask(app, Request::Members)),
            Self::Add => post(add),
            Self::Promote => post(promote),
            Self::Remove => delete(remove),
            Self::Leader => post(transfer),
            Self::Snapshot => post(|app| ask(app, Request::Snapshot)),
            Self::Backup => get(backup),
            Self::Check => post(|app| ask(app, Request::Check)),
            Self::Livez => get(livez),
            Self::Readyz => get(readyz),
            Self::Metrics => get(metrics),
            Self::OpenApi => get(async || json(StatusCode::OK, OPENAPI.to_owned())),
        }
    }
}

/// The description of the interface. A test holds it to the routes.
pub const OPENAPI: &str = include_str!("openapi.json");

#[derive(Clone)]
struct App {
    service: Arc<AdminService>,
    config: Arc<HttpConfig>,
}

/// All routes, with the guards in front of them.
fn router(service: Arc<AdminService>, config: HttpConfig) -> Router {
    let body_bytes = config.body_bytes;
    let app = App { service, config: Arc::new(config) };
    let routes = Route::ALL
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.method_and_path().1, route.handler()));
    routes
        .fallback(async || {
            refuse(ApiError::new(
                404,
                "not_found",
                "there is nothing at this path",
                "GET /openapi.json lists what there is",
            ))
        })
        .method_not_allowed_fallback(async || {
            refuse(ApiError::new(
                405,
                "method_not_allowed",
                "this path does not take this method",
                "see GET /openapi.json",
            ))
        })
        .layer(DefaultBodyLimit::max(body_bytes))
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Serves until `stop` is ready, then lets what runs end for a moment. Bind and check the address before.
pub async fn serve(
    listener: TcpListener,
    service: Arc<AdminService>,
    config: HttpConfig,
    stop: impl Future<Output = ()>,
) {
    let connections = config.connections;
    let (head, lifetime) = (config.head_patience, config.connection_patience);
    let router = router(service, config);
    let mut open = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if open.len() >= connections => turn_away(stream),
                Ok((stream, _)) => {
                    open.spawn(connection(stream, router.clone(), head, lifetime));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: accepting again at once would spin.
                    tracing::warn!(%error, "the admin port can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async { while open.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
}

async fn connection(stream: TcpStream, router: Router, head: Duration, lifetime: Duration) {
    let _ = stream.set_nodelay(true);
    let flow = Flow::default();
    let router = router.layer(Extension(flow.clone()));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // Whoever has said all it wanted and closed its side (`nc -N`) still gets its answer.
        .half_close(true)
        .header_read_timeout(head)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // What goes wrong here is the other side's: bad bytes, a closed connection, slowness. It concerns nobody else.
    tokio::select! {
        biased;
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, "an admin connection ended");
            }
        }
        () = outlived(&flow, lifetime) => {}
    }
}

/// Pieces of a backup that a connection has taken.
#[derive(Clone, Debug, Default)]
struct Flow(Arc<AtomicU64>);

/// Ends when a connection has had its time. One that takes a backup may have more, as long as it goes on taking.
async fn outlived(flow: &Flow, lifetime: Duration) {
    tokio::time::sleep(lifetime).await;
    let mut before = 0;
    loop {
        let now = flow.0.load(Relaxed);
        if now == before {
            return;
        }
        before = now;
        tokio::time::sleep(STALLED).await;
    }
}

fn turn_away(stream: TcpStream) {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    // It fits into the socket's empty buffer; whoever can't even take that learns it from the close.
    let _ = stream.try_write(answer);
}

/// What takes as long as there is data, and how many times longer it may take than the rest.
const LONG: [&str; 2] = ["/v1/check", "/v1/snapshot"];
const LONGER: u32 = 16;

async fn guard(State(app): State<App>, request: HttpRequest, next: Next) -> Response {
    let path = request.uri().path();
    let open = path == "/livez" || path == "/readyz";
    let headers = request.headers();
    let allowed = match &app.config.token {
        _ if open => Ok(()),
        Some(token) => check_token(headers, token),
        None => check_origin(headers),
    };
    if let Err(error) = allowed {
        return refuse(error);
    }
    let patience = app.config.request_patience * if LONG.contains(&path) { LONGER } else { 1 };
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(ApiError::unknown_outcome("the request took too long")),
    }
}

fn check_token(headers: &HeaderMap, token: &str) -> Result<(), ApiError> {
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
    });
    match given {
        Some(given) if same(given, token.as_bytes()) => Ok(()),
        _ => Err(ApiError::new(
            401,
            "unauthorized",
            "the admin token is missing or wrong",
            "send it as Authorization: Bearer TOKEN (the command line takes it from --token)",
        )),
    }
}

/// Compares without telling by its time how many bytes were right.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    let mut differ = u8::from(given.len() != wanted.len());
    for (at, byte) in given.iter().enumerate() {
        differ |= byte ^ wanted.get(at % wanted.len().max(1)).copied().unwrap_or(0);
    }
    std::hint::black_box(differ) == 0
}

/// A web page in a browser on this machine can reach loopback too: it gives itself away by `Origin`, or, once its name
/// has been rebound to a loopback address, by a `Host` that is a name.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let direct = name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok();
    if direct && !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    Err(ApiError::new(
        403,
        "foreign_origin",
        "without an admin token only requests to an IP address or localhost, and none from web pages, are answered",
        "set admin-token to allow others",
    ))
}

async fn ask(State(app): State<App>, request: Request) -> Response {
    answer(app.service.handle(request).await)
}

async fn add(State(app): State<App>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    match read_body::<AddMember>(&headers, body, None) {
        Ok(add) => answer(app.service.handle(Request::Add(add)).await),
        Err(error) => refuse(error),
    }
}

async fn transfer(State(app): State<App>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    match read_body(&headers, body, Some(TransferTo::default())) {
        Ok(to) => answer(app.service.handle(Request::Transfer(to)).await),
        Err(error) => refuse(error),
    }
}

/// The bytes of a backup, made as the other side takes them.
async fn backup(State(app): State<App>, Extension(flow): Extension<Flow>, RawQuery(query): RawQuery) -> Response {
    let after = match query.as_deref().and_then(|query| query.strip_prefix("after=")) {
        Some(number) => match number.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                let words = format!("{number:?} is no position in the log");
                return refuse(ApiError::bad_request(words, "after is the index of an entry: see GET /v1/status"));
            }
        },
        None => None,
    };
    let source = match app.service.backend().backup(after).await {
        Ok(source) => source,
        Err(error) => return refuse(error.into()),
    };
    let body = Body::from_stream(futures_util::stream::unfold(source, move |source| {
        let flow = flow.clone();
        async move {
            let (piece, source) = next_piece(source).await?;
            flow.0.fetch_add(1, Relaxed);
            Some((Ok::<_, std::io::Error>(piece), source))
        }
    }));
    let kind = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::OK, kind, body).into_response()
}

/// Encoding a piece is work for the processor that nobody else should wait for.
#[cfg(not(madsim))]
async fn next_piece(mut source: Source) -> Option<(Bytes, Source)> {
    tokio::task::spawn_blocking(move || source.next().map(|piece| (piece, source))).await.ok().flatten()
}

/// The simulator has one thread.
#[cfg(madsim)]
async fn next_piece(mut source: Source) -> Option<(Bytes, Source)> {
    source.next().map(|piece| (piece, source))
}

async fn promote(State(app): State<App>, Path(id): Path<String>) -> Response {
    match read_id(&id) {
        Ok(id) => answer(app.service.handle(Request::Promote { id }).await),
        Err(error) => refuse(error),
    }
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> Response {
    match read_id(&id) {
        Ok(id) => answer(app.service.handle(Request::Remove { id }).await),
        Err(error) => refuse(error),
    }
}

async fn livez(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let (verbose, exclude) = health_query(query.as_deref());
    health(app.service.livez(verbose, &exclude).await)
}

async fn readyz(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let (verbose, exclude) = health_query(query.as_deref());
    health(app.service.readyz(verbose, &exclude).await)
}

async fn metrics(State(app): State<App>) -> Response {
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", app.service.metrics().await)
}

fn read_id(id: &str) -> Result<u64, ApiError> {
    id.parse()
        .map_err(|_| ApiError::bad_request(format!("{id:?} is no member id"), "ids are numbers: see GET /v1/members"))
}

fn read_body<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    empty: Option<T>,
) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(413, "too_large", "the body is too large", "send less than 64 KiB")
        }
        _ => ApiError::bad_request("the body could not be read", "send it whole"),
    })?;
    if body.is_empty()
        && let Some(empty) = empty
    {
        return Ok(empty);
    }
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json"));
    if !json {
        return Err(ApiError::new(415, "not_json", "the body must be JSON", "send Content-Type: application/json"));
    }
    serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(format!("the body does not fit: {error}"), "GET /openapi.json has its form")
    })
}

fn health_query(query: Option<&str>) -> (bool, Vec<String>) {
    let mut verbose = false;
    let mut exclude = Vec::new();
    for pair in query.unwrap_or_default().split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "verbose" => verbose = !matches!(value, "false" | "0"),
            "exclude" => exclude.extend(value.split(',').map(str::to_owned)),
            _ => {}
        }
    }
    (verbose, exclude)
}

fn health(report: Report) -> Response {
    let status = if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, "text/plain; charset=utf-8", report.text)
}

fn answer(result: Result<Value, ApiError>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, value.to_string()),
        Err(error) => refuse(error),
    }
}

fn refuse(mut error: ApiError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // The status line says it; in the body it would be a fourth field beside the three that are promised.
    error.status = 0;
    json(status, serde_json::to_string(&error).unwrap_or_default())
}

fn json(status: StatusCode, body: String) -> Response {
    text(status, "application/json", body)
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], Body::from(body)).into_response()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
