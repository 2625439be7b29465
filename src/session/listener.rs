//! The client port: accepts connections and starts a session for each.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Shared;

/// Refusal of a connection over `maxclients`; Redis' words.
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";
/// Refusal by protected mode; the prefix is Redis', clients know it.
const PROTECTED: &[u8] = b"-DENIED This member runs in protected mode: it has no password and this connection does \
    not come from its own machine. Set 'requirepass', or set 'protected-mode no' if the network is trusted, or connect \
    from the same machine.\r\n";

/// A running client port.
pub struct Listener {
    /// Where it listens (for port 0, the port that was found).
    pub addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// Takes no more connections. Those that are open go on.
    pub fn stop(&self) {
        self.accepting.abort();
    }
}

/// Serves clients on a port that is open already.
pub fn listen(shared: Arc<Shared>, listener: TcpListener) -> Listener {
    let addr = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let accepting = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => accept(&shared, stream, peer, addr),
                // Out of file descriptors, most likely: wait for some to come free instead of spinning.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Listener { addr, accepting }
}

fn accept(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    shared.clients.accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    shared.metrics.connections.inc();
    let refusal = if !shared.has_room() {
        Some(TOO_MANY)
    } else if shared.settings.protected_mode()
        && shared.settings.requirepass().is_none()
        && !peer.ip().to_canonical().is_loopback()
    {
        Some(PROTECTED)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        shared.count_rejected();
        tokio::spawn(async move {
            let mut stream = stream;
            let _ = stream.write_all(refusal).await;
            let _ = stream.flush().await;
        });
        return;
    }
    prepare(&stream, shared);
    let local = stream.local_addr().unwrap_or(local);
    let client = shared.clients.open(peer, local);
    let shared = shared.clone();
    tokio::spawn(async move {
        let _open = Open { shared: shared.clone(), id: client.id };
        super::serve(shared, stream, client).await;
    });
}

/// Takes the connection out of the registry when its task ends, in whatever way.
struct Open {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.clients.close(self.id);
    }
}

#[cfg(not(madsim))]
fn prepare(stream: &TcpStream, shared: &Shared) {
    // Failing to set an option costs speed, not correctness.
    let _ = stream.set_nodelay(true);
    if let Some(idle) = shared.settings.tcp_keepalive() {
        let keepalive = socket2::TcpKeepalive::new().with_time(idle).with_interval(idle / 3).with_retries(3);
        let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
    }
}

/// The simulated network has no such options.
#[cfg(madsim)]
fn prepare(_stream: &TcpStream, _shared: &Shared) {}
