//! The admin service on the simulated network, without axum: one request per connection, the service called directly.
//!
//! `POST /v1/members` is what a joining member sends by itself. Everything else comes from the nemesis as the service's
//! own `Request` in JSON.

use std::sync::Arc;
use std::time::Duration;

use quorate::admin::AdminService;
use quorate::admin::api::{AddMember, ApiError, Request};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const JOIN: &str = "POST /v1/members ";

pub async fn serve(port: TcpListener, admin: Arc<AdminService>) {
    while let Ok((stream, _)) = port.accept().await {
        let admin = admin.clone();
        tokio::spawn(async move {
            let _ = answer(stream, &admin).await;
        });
    }
}

async fn answer(mut stream: TcpStream, admin: &AdminService) -> std::io::Result<()> {
    let Some((head, body)) = read_message(&mut stream).await? else { return Ok(()) };
    let request = if head.starts_with(JOIN) {
        serde_json::from_slice::<AddMember>(&body).map(Request::Add)
    } else {
        serde_json::from_slice::<Request>(&body)
    };
    let answer = match request {
        Ok(request) => admin.handle(request).await,
        Err(error) => Err(ApiError::bad_request(error.to_string(), "")),
    };
    let (status, body) = match answer {
        Ok(value) => (200, value.to_string()),
        Err(error) => (error.status, serde_json::to_string(&error).unwrap_or_default()),
    };
    let text = format!("HTTP/1.1 {status} .\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}

/// Head and body of a message; `None` if the other side went away before it was complete.
async fn read_message(stream: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            let body = &bytes[end + 4..];
            if body.len() >= length.unwrap_or(0) {
                return Ok(Some((head, body.to_vec())));
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await? {
            0 => return Ok(None),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// Asks the admin service of the member at that address, over the simulated network.
pub async fn ask(address: &str, request: &Request, patience: Duration) -> Result<Value, String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let body = serde_json::to_vec(request)?;
        let head = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.flush().await?;
        read_message(&mut stream).await
    };
    match timeout(patience, asked).await {
        Err(_) => Err("no answer in time".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(None)) => Err("it went away".into()),
        Ok(Ok(Some((head, body)))) if head.starts_with("HTTP/1.1 200") => {
            serde_json::from_slice(&body).map_err(|error| error.to_string())
        }
        Ok(Ok(Some((_, body)))) => match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(format!("{}: {}", error.code, error.message)),
            Err(error) => Err(error.to_string()),
        },
    }
}
