//! Real sockets against the admin port: routes, token, limits, and bytes that are no HTTP.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::service::tests::group;
use super::*;

async fn start(config: HttpConfig) -> SocketAddr {
    let (_world, services) = group(3);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, services[1].clone(), config, std::future::pending()));
    addr
}

async fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may answer and close before all of it is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn send(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let answer = raw(addr, request.as_bytes()).await;
    let status = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

const JSON: &str = "content-type: application/json\r\n";

#[test]
fn the_description_has_every_route_and_no_other() {
    let api: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut described = BTreeSet::new();
    for (path, operations) in api["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string() && operation["responses"].is_object(), "{method} {path}");
            described.insert((method.clone(), path.clone()));
        }
    }
    let routed = Route::ALL.map(Route::method_and_path).map(|(method, path)| (method.to_owned(), path.to_owned()));
    assert_eq!(described, BTreeSet::from(routed));
}

#[test]
fn every_reference_in_the_description_leads_somewhere() {
    let api: Value = serde_json::from_str(OPENAPI).unwrap();
    for part in OPENAPI.split("\"$ref\": \"").skip(1) {
        let name = part.split('"').next().unwrap().strip_prefix("#/components/schemas/").unwrap();
        assert!(api["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[tokio::test]
async fn every_route_answers_and_views_have_the_described_fields() {
    let addr = start(HttpConfig::new(None)).await;
    let api: Value = serde_json::from_str(OPENAPI).unwrap();
    let has_required = |value: &Value, schema: &str| {
        for field in api["components"]["schemas"][schema]["required"].as_array().unwrap() {
            assert!(value.get(field.as_str().unwrap()).is_some(), "{schema} lacks {field}: {value}");
        }
    };
    let (status, body) = send(addr, "GET", "/v1/status", "", "").await;
    assert_eq!(status, 200);
    has_required(&serde_json::from_str(&body).unwrap(), "Status");
    let (status, body) = send(addr, "GET", "/v1/members", "", "").await;
    assert_eq!(status, 200);
    let members: Value = serde_json::from_str(&body).unwrap();
    has_required(&members, "Members");
    has_required(&members["members"][0], "Member");
    let wish = r#"{"peer":"127.0.0.1:17009","client":"127.0.0.1:7009","admin":"127.0.0.1:8009","role":"learner"}"#;
    let (status, body) = send(addr, "POST", "/v1/members", JSON, wish).await;
    assert_eq!(status, 200, "{body}");
    has_required(&serde_json::from_str(&body).unwrap(), "Added");
    for (method, path, body) in [
        ("POST", "/v1/members/3/promote", ""),
        ("DELETE", "/v1/members/3", ""),
        ("POST", "/v1/snapshot", ""),
        ("POST", "/v1/leader", ""),
        ("POST", "/v1/leader", r#"{"to":null}"#),
        ("POST", "/v1/check", ""),
        ("GET", "/v1/backup", ""),
        ("GET", "/v1/backup?after=100", ""),
        ("GET", "/livez", ""),
        ("GET", "/readyz?verbose", ""),
        ("GET", "/metrics", ""),
        ("GET", "/openapi.json", ""),
    ] {
        let (status, answer) = send(addr, method, path, JSON, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn errors_are_json_with_code_message_and_hint() {
    let addr = start(HttpConfig::new(None)).await;
    let large = "x".repeat(70_000);
    for (method, path, headers, body, status, code) in [
        ("GET", "/nowhere", "", "", 404, "not_found"),
        ("PUT", "/v1/status", "", "", 405, "method_not_allowed"),
        ("POST", "/v1/members", "", "{}", 415, "not_json"),
        ("POST", "/v1/members", JSON, "{", 400, "bad_request"),
        ("POST", "/v1/members", JSON, "", 400, "bad_request"),
        ("POST", "/v1/members", JSON, r#"{"peer":1}"#, 400, "bad_request"),
        ("POST", "/v1/leader", JSON, r#"{"too":1}"#, 400, "bad_request"),
        ("POST", "/v1/members", JSON, large.as_str(), 413, "too_large"),
        ("GET", "/v1/backup?after=x", "", "", 400, "bad_request"),
        ("GET", "/v1/backup?after=101", "", "", 409, "refused"),
        ("DELETE", "/v1/members/one", "", "", 400, "bad_request"),
        ("DELETE", "/v1/members/99", "", "", 404, "no_such_member"),
    ] {
        let (got, body) = send(addr, method, path, headers, body).await;
        assert_eq!(got, status, "{method} {path}: {body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["code"], code, "{method} {path}");
        let fields: BTreeSet<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(["code", "hint", "message"]));
    }
}

#[tokio::test]
async fn the_token_guards_everything_but_health() {
    let addr = start(HttpConfig::new(Some("right-token".to_owned()))).await;
    for (header, status) in [
        ("", 401),
        ("authorization: Bearer wrong-token\r\n", 401),
        ("authorization: Bearer right-toke\r\n", 401),
        ("authorization: Bearer right-tokenright-token\r\n", 401),
        ("authorization: Basic right-token\r\n", 401),
        ("authorization: Bearer \r\n", 401),
        ("authorization: bearer right-token\r\n", 200),
    ] {
        for path in ["/v1/status", "/metrics", "/openapi.json"] {
            assert_eq!(send(addr, "GET", path, header, "").await.0, status, "{header} {path}");
        }
    }
    let (status, words) = send(addr, "GET", "/nowhere", "", "").await;
    assert!(status == 401 && words.contains("from --token"), "{words}");
    assert_eq!(send(addr, "GET", "/livez", "", "").await, (200, "ok\n".to_owned()));
    assert_eq!(send(addr, "GET", "/readyz", "", "").await.0, 200);
}

#[tokio::test]
async fn a_web_page_cannot_use_the_port_of_the_machine_it_is_shown_on() {
    let addr = start(HttpConfig::new(None)).await;
    assert_eq!(send(addr, "POST", "/v1/snapshot", "origin: https://evil.example\r\n", "").await.0, 403);
    let rebound = format!("GET /v1/status HTTP/1.1\r\nhost: evil.example:{}\r\nconnection: close\r\n\r\n", addr.port());
    assert!(raw(addr, rebound.as_bytes()).await.starts_with("HTTP/1.1 403"));
    for host in ["localhost:8001", "127.0.0.1", "[::1]:8001"] {
        let request = format!("GET /v1/status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert!(raw(addr, request.as_bytes()).await.starts_with("HTTP/1.1 200"), "{host}");
    }
}

#[tokio::test]
async fn malformed_bytes_close_their_connection_and_disturb_no_other() {
    let addr = start(HttpConfig::new(None)).await;
    let endless = format!("GET / HTTP/1.1\r\nx: {}\r\n", "y".repeat(200_000));
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/members HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /v1/leader HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        endless.as_bytes(),
    ] {
        let answer = raw(addr, bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(send(addr, "GET", "/v1/status", "", "").await.0, 200);
}

#[tokio::test]
async fn slow_and_idle_connections_are_closed_and_too_many_turned_away() {
    let config = HttpConfig {
        connections: 2,
        head_patience: Duration::from_millis(200),
        request_patience: Duration::from_millis(300),
        ..HttpConfig::new(None)
    };
    let addr = start(config).await;
    let mut slow = [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
    for stream in &mut slow {
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nho").await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(raw(addr, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.starts_with("HTTP/1.1 503"));
    for stream in &mut slow {
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "a slow head is waited for no longer");
    }
    assert_eq!(send(addr, "GET", "/livez", "", "").await.0, 200);
    // A body that never comes.
    let answer = raw(
        addr,
        b"POST /v1/leader HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
}
