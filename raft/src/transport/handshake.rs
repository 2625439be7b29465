//! Who is at the other end: asked before anything else, and in bounds of time and size.
//!
//! ```text
//! dialler → magic, version, group uuid, its id and incarnation, whom it wants and which incarnation, nonce
//! acceptor → version, nonce
//! dialler → proof
//! acceptor → verdict, proof (only if the dialler's was right), and words if the verdict is a refusal
//! ```
//!
//! A proof is an HMAC-SHA256 with the shared secret over everything that was said and a word for the
//! direction. An empty secret runs the same exchange. A stranger without the secret learns the version
//! and nothing else.

use std::io;
use std::time::Duration;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use crate::config::Identity;
use crate::runtime::random_u128;
use crate::types::MemberId;

const MAGIC: [u8; 4] = *b"QRMP";
const VERSION: u16 = 2;
const HELLO_BYTES: usize = 4 + 2 + 16 + 8 + 16 + 8 + 16 + 32;
const MAX_WORDS: usize = 512;
/// All of it must be done within this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Why the acceptor doesn't want the dialler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Refusal {
    /// The proof was wrong.
    Secret = 1,
    /// Another group.
    Cluster = 2,
    /// It wanted somebody else.
    NotMe = 3,
    /// It was removed.
    Removed = 4,
    /// Its disk is not the one that joined.
    Incarnation = 5,
    /// The group gave nobody this id.
    Unknown = 6,
    /// Too much is going on.
    Busy = 7,
}

impl Refusal {
    pub(crate) fn from_u8(n: u8) -> Option<Refusal> {
        use Refusal::*;
        [Secret, Cluster, NotMe, Removed, Incarnation, Unknown, Busy].into_iter().find(|r| *r as u8 == n)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{1}")]
    Refused(Refusal, String),
    #[error("{0}")]
    Protocol(String),
}

/// What the dialler said.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) cluster: Uuid,
    pub(crate) from: MemberId,
    pub(crate) from_incarnation: Uuid,
    pub(crate) to: MemberId,
    pub(crate) to_incarnation: Uuid,
    bytes: [u8; HELLO_BYTES],
}

fn nonce() -> [u8; 32] {
    let mut out = [0; 32];
    out[..16].copy_from_slice(&random_u128().to_be_bytes());
    out[16..].copy_from_slice(&random_u128().to_be_bytes());
    out
}

impl Hello {
    fn new(me: &Identity, to: MemberId, to_incarnation: Uuid) -> Self {
        let mut bytes = [0; HELLO_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&MAGIC);
        put(&VERSION.to_be_bytes());
        put(me.cluster.as_bytes());
        put(&me.member.to_be_bytes());
        put(me.incarnation.as_bytes());
        put(&to.to_be_bytes());
        put(to_incarnation.as_bytes());
        put(&nonce());
        Self { cluster: me.cluster, from: me.member, from_incarnation: me.incarnation, to, to_incarnation, bytes }
    }

    fn parse(bytes: [u8; HELLO_BYTES]) -> Result<Self, String> {
        let part = |at: usize, n: usize| &bytes[at..at + n];
        if part(0, 4) != MAGIC {
            return Err("these are not the words of a peer".into());
        }
        let uuid = |at| Uuid::from_slice(part(at, 16)).unwrap_or(Uuid::nil());
        let id = |at| part(at, 8).iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        Ok(Self {
            cluster: uuid(6),
            from: id(22),
            from_incarnation: uuid(30),
            to: id(46),
            to_incarnation: uuid(54),
            bytes,
        })
    }

    fn version(&self) -> u16 {
        u16::from_be_bytes([self.bytes[4], self.bytes[5]])
    }
}

fn mac(secret: &str, direction: &[u8], hello: &Hello, nonce: &[u8; 32]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(direction);
    mac.update(&hello.bytes);
    mac.update(nonce);
    mac
}

const DIALLER: &[u8] = b"quorate peer: dialler";
const ACCEPTOR: &[u8] = b"quorate peer: acceptor";

/// The dialler's side.
pub(crate) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    me: &Identity,
    secret: &str,
    to: MemberId,
    to_incarnation: Uuid,
) -> Result<(), HandshakeError> {
    let hello = Hello::new(me, to, to_incarnation);
    io.write_all(&hello.bytes).await?;
    io.flush().await?;
    let version = io.read_u16().await?;
    let mut nonce = [0; 32];
    io.read_exact(&mut nonce).await?;
    if version != VERSION {
        return Err(HandshakeError::Protocol(format!(
            "it speaks version {version} of the peer protocol and this member {VERSION}"
        )));
    }
    io.write_all(&mac(secret, DIALLER, &hello, &nonce).finalize().into_bytes()).await?;
    io.flush().await?;

    let verdict = io.read_u8().await?;
    if verdict == Refusal::Secret as u8 {
        return Err(HandshakeError::Refused(Refusal::Secret, "the shared secrets differ".into()));
    }
    let mut proof = [0; 32];
    io.read_exact(&mut proof).await?;
    if mac(secret, ACCEPTOR, &hello, &nonce).verify_slice(&proof).is_err() {
        return Err(HandshakeError::Protocol("it could not prove that it knows the shared secret".into()));
    }
    if verdict == 0 {
        return Ok(());
    }
    let refusal = Refusal::from_u8(verdict).ok_or_else(|| HandshakeError::Protocol(format!("verdict {verdict}")))?;
    let n = usize::from(io.read_u16().await?).min(MAX_WORDS);
    let mut words = vec![0; n];
    io.read_exact(&mut words).await?;
    Err(HandshakeError::Refused(refusal, String::from_utf8_lossy(&words).into_owned()))
}

/// The acceptor's side. `judge` is asked only when the proof was right.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    secret: &str,
    judge: impl FnOnce(&Hello) -> Result<(), (Refusal, String)>,
) -> Result<Hello, HandshakeError> {
    let mut bytes = [0; HELLO_BYTES];
    io.read_exact(&mut bytes).await?;
    let hello = Hello::parse(bytes).map_err(HandshakeError::Protocol)?;
    let nonce = nonce();
    io.write_u16(VERSION).await?;
    io.write_all(&nonce).await?;
    io.flush().await?;
    if hello.version() != VERSION {
        return Err(HandshakeError::Protocol(format!(
            "member {} speaks version {} of the peer protocol and this member {VERSION}",
            hello.from,
            hello.version()
        )));
    }
    let mut proof = [0; 32];
    io.read_exact(&mut proof).await?;
    if mac(secret, DIALLER, &hello, &nonce).verify_slice(&proof).is_err() {
        io.write_u8(Refusal::Secret as u8).await?;
        io.flush().await?;
        return Err(HandshakeError::Refused(
            Refusal::Secret,
            format!("whoever calls itself member {} has another shared secret", hello.from),
        ));
    }
    let verdict = judge(&hello);
    let ours = mac(secret, ACCEPTOR, &hello, &nonce).finalize().into_bytes();
    match verdict {
        Ok(()) => {
            io.write_u8(0).await?;
            io.write_all(&ours).await?;
            io.flush().await?;
            Ok(hello)
        }
        Err((refusal, words)) => {
            let mut cut = words.len().min(MAX_WORDS);
            while !words.is_char_boundary(cut) {
                cut -= 1;
            }
            io.write_u8(refusal as u8).await?;
            io.write_all(&ours).await?;
            io.write_u16(cut as u16).await?;
            io.write_all(&words.as_bytes()[..cut]).await?;
            io.flush().await?;
            Err(HandshakeError::Refused(refusal, words))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity { cluster: Uuid::from_u128(1), member: 5, incarnation: Uuid::from_u128(50) }
    }

    async fn meet(
        dialler_secret: &'static str,
        acceptor_secret: &'static str,
        verdict: Result<(), (Refusal, String)>,
    ) -> (Result<(), HandshakeError>, Result<Hello, HandshakeError>) {
        let (mut a, mut b) = tokio::io::duplex(1024);
        let dialler = async move {
            let result = dial(&mut a, &me(), dialler_secret, 9, Uuid::from_u128(90)).await;
            drop(a);
            result
        };
        let acceptor = async move {
            accept(&mut b, acceptor_secret, |hello| {
                assert_eq!((hello.from, hello.to), (5, 9));
                assert_eq!((hello.cluster, hello.from_incarnation), (Uuid::from_u128(1), Uuid::from_u128(50)));
                assert_eq!(hello.to_incarnation, Uuid::from_u128(90));
                verdict
            })
            .await
        };
        tokio::join!(dialler, acceptor)
    }

    #[tokio::test]
    async fn peers_with_the_same_secret_meet() {
        for secret in ["", "hunter2"] {
            let (dialled, accepted) = meet(secret, secret, Ok(())).await;
            dialled.unwrap();
            assert_eq!(accepted.unwrap().from, 5);
        }
    }

    #[tokio::test]
    async fn another_secret_is_refused_before_anything_is_judged() {
        let (dialled, accepted) = meet("a", "b", Ok(())).await;
        assert!(matches!(dialled, Err(HandshakeError::Refused(Refusal::Secret, _))));
        assert!(matches!(accepted, Err(HandshakeError::Refused(Refusal::Secret, _))));
    }

    #[tokio::test]
    async fn a_refusal_comes_with_its_words() {
        let (dialled, _) = meet("s", "s", Err((Refusal::Removed, "you were removed".into()))).await;
        let Err(HandshakeError::Refused(Refusal::Removed, words)) = dialled else { panic!("{dialled:?}") };
        assert_eq!(words, "you were removed");
    }

    #[tokio::test]
    async fn garbage_is_an_error() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        a.write_all(&[b'G'; 300]).await.unwrap();
        assert!(matches!(accept(&mut b, "", |_| Ok(())).await, Err(HandshakeError::Protocol(_))));
    }
}
