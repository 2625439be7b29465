//! Who is at the other end: asked before anything else, and in bounds of time and size.
//!
//! ```text
//! dialler → magic, version, group uuid, its id, incarnation and life, whom it wants and which incarnation,
//!           the last connection that it accepted from there, nonce
//! acceptor → version, nonce
//! dialler → proof
//! acceptor → verdict, its life and incarnation, proof (only if the dialler's was right), and words if the verdict is a
//!           refusal
//! ```
//!
//! A proof is an HMAC-SHA256 with the shared secret over everything that was said and a word for the
//! direction. An empty secret runs the same exchange. A stranger without the secret learns the version
//! and nothing else.
//!
//! A life is one run of a process. With the last connection that the dialler knows of it tells the acceptor whether
//! two connections cross, or the one that it has is lost (see `peer`).

use std::io;
use std::time::Duration;

use bytes::Buf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use crate::config::Identity;
use crate::runtime::random_u128;
use crate::types::MemberId;

const MAGIC: [u8; 4] = *b"QRMP";
const VERSION: u16 = 4;
/// Magic and version: what is read of a dialler before it is known to speak the same language.
const GREETING_BYTES: usize = 4 + 2;
const HELLO_BYTES: usize = GREETING_BYTES + 16 + 8 + 16 + 16 + 8 + 16 + 16 + 32;
const MAX_WORDS: usize = 512;
const SAME_SECRET: &str = "set the same 'secret' on all members";
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
    /// There is a connection already, which the dialler has not seen yet.
    Crossed = 8,
}

impl Refusal {
    pub(crate) fn from_u8(n: u8) -> Option<Refusal> {
        use Refusal::*;
        [Secret, Cluster, NotMe, Removed, Incarnation, Unknown, Busy, Crossed].into_iter().find(|r| *r as u8 == n)
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

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    /// One run of a process.
    pub(crate) life: u128,
    pub(crate) incarnation: Uuid,
    /// The connection's name: its dialler's, at random.
    pub(crate) name: u128,
}

/// What the dialler says.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) cluster: Uuid,
    pub(crate) from: MemberId,
    pub(crate) to: MemberId,
    pub(crate) to_incarnation: Uuid,
    /// The last connection that it accepted from the other side in this life.
    pub(crate) seen: u128,
    pub(crate) party: Party,
    bytes: [u8; HELLO_BYTES],
}

fn nonce() -> [u8; 32] {
    let mut out = [0; 32];
    out[..16].copy_from_slice(&random_u128().to_be_bytes());
    out[16..].copy_from_slice(&random_u128().to_be_bytes());
    out
}

impl Hello {
    pub(crate) fn new(me: &Identity, life: u128, to: MemberId, to_incarnation: Uuid, seen: u128) -> Self {
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
        put(&life.to_be_bytes());
        put(&to.to_be_bytes());
        put(to_incarnation.as_bytes());
        put(&seen.to_be_bytes());
        put(&nonce());
        Self::parse(bytes)
    }

    fn parse(bytes: [u8; HELLO_BYTES]) -> Self {
        let mut rest = &bytes[GREETING_BYTES..];
        Self {
            cluster: Uuid::from_u128(rest.get_u128()),
            from: rest.get_u64(),
            party: {
                let (incarnation, life) = (Uuid::from_u128(rest.get_u128()), rest.get_u128());
                // The nonce comes last, and its first half is the name.
                let mut nonce = &bytes[HELLO_BYTES - 32..];
                Party { life, incarnation, name: nonce.get_u128() }
            },
            to: rest.get_u64(),
            to_incarnation: Uuid::from_u128(rest.get_u128()),
            seen: rest.get_u128(),
            bytes,
        }
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

/// The dialler's side; says who answered.
pub(crate) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    hello: &Hello,
    secret: &str,
) -> Result<Party, HandshakeError> {
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
    io.write_all(&mac(secret, DIALLER, hello, &nonce).finalize().into_bytes()).await?;
    io.flush().await?;

    let verdict = io.read_u8().await?;
    if verdict == Refusal::Secret as u8 {
        return Err(HandshakeError::Refused(Refusal::Secret, format!("the shared secrets differ; {SAME_SECRET}")));
    }
    let mut said = [0; 32];
    io.read_exact(&mut said).await?;
    let mut proof = [0; 32];
    io.read_exact(&mut proof).await?;
    let mut expected = mac(secret, ACCEPTOR, hello, &nonce);
    expected.update(&[verdict]);
    expected.update(&said);
    if expected.verify_slice(&proof).is_err() {
        return Err(HandshakeError::Protocol(format!(
            "it could not prove that it knows the shared secret; {SAME_SECRET}"
        )));
    }
    if verdict == 0 {
        let mut said = &said[..];
        let (life, incarnation) = (said.get_u128(), Uuid::from_u128(said.get_u128()));
        return Ok(Party { life, incarnation, name: hello.party.name });
    }
    let refusal = Refusal::from_u8(verdict).ok_or_else(|| HandshakeError::Protocol(format!("verdict {verdict}")))?;
    let n = usize::from(io.read_u16().await?).min(MAX_WORDS);
    let mut words = vec![0; n];
    io.read_exact(&mut words).await?;
    Err(HandshakeError::Refused(refusal, String::from_utf8_lossy(&words).into_owned()))
}

/// A dialler that has proven that it knows the secret, and waits for the verdict.
pub(crate) struct Heard {
    pub(crate) hello: Hello,
    nonce: [u8; 32],
}

/// The acceptor's side, up to the dialler's proof.
pub(crate) async fn hear<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S, secret: &str) -> Result<Heard, HandshakeError> {
    let mut bytes = [0; HELLO_BYTES];
    let (greeting, rest) = bytes.split_at_mut(GREETING_BYTES);
    io.read_exact(greeting).await?;
    if greeting[..4] != MAGIC {
        return Err(HandshakeError::Protocol("these are not the words of a peer".into()));
    }
    let version = u16::from_be_bytes([greeting[4], greeting[5]]);
    let nonce = nonce();
    if version == VERSION {
        io.read_exact(rest).await?;
    }
    io.write_u16(VERSION).await?;
    io.write_all(&nonce).await?;
    io.flush().await?;
    if version != VERSION {
        return Err(HandshakeError::Protocol(format!(
            "it speaks version {version} of the peer protocol and this member {VERSION}"
        )));
    }
    let hello = Hello::parse(bytes);
    let mut proof = [0; 32];
    io.read_exact(&mut proof).await?;
    if mac(secret, DIALLER, &hello, &nonce).verify_slice(&proof).is_err() {
        io.write_u8(Refusal::Secret as u8).await?;
        io.flush().await?;
        return Err(HandshakeError::Refused(
            Refusal::Secret,
            format!("whoever calls itself member {} has another shared secret; {SAME_SECRET}", hello.from),
        ));
    }
    Ok(Heard { hello, nonce })
}

impl Heard {
    /// Tells the dialler whether it is in.
    pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: &mut S,
        secret: &str,
        life: u128,
        incarnation: Uuid,
        refused: Option<(Refusal, &str)>,
    ) -> io::Result<()> {
        let verdict = refused.map_or(0, |(refusal, _)| refusal as u8);
        let mut said = [0; 32];
        said[..16].copy_from_slice(&life.to_be_bytes());
        said[16..].copy_from_slice(incarnation.as_bytes());
        let mut proof = mac(secret, ACCEPTOR, &self.hello, &self.nonce);
        proof.update(&[verdict]);
        proof.update(&said);
        io.write_u8(verdict).await?;
        io.write_all(&said).await?;
        io.write_all(&proof.finalize().into_bytes()).await?;
        if let Some((_, words)) = refused {
            let words = &words[..words.floor_char_boundary(MAX_WORDS)];
            io.write_u16(words.len() as u16).await?;
            io.write_all(words.as_bytes()).await?;
        }
        io.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: Uuid = Uuid::from_u128(90);

    fn hello() -> Hello {
        let me = Identity { cluster: Uuid::from_u128(1), member: 5, incarnation: Uuid::from_u128(50) };
        Hello::new(&me, 7, 9, THERE, 8)
    }

    async fn meet(
        dialler_secret: &'static str,
        acceptor_secret: &'static str,
        refused: Option<(Refusal, &'static str)>,
    ) -> (Result<Party, HandshakeError>, Result<Hello, HandshakeError>) {
        let (mut a, mut b) = tokio::io::duplex(1024);
        let dialler = async move {
            let result = dial(&mut a, &hello(), dialler_secret).await;
            drop(a);
            result
        };
        let acceptor = async move {
            let heard = hear(&mut b, acceptor_secret).await?;
            heard.answer(&mut b, acceptor_secret, 70, THERE, refused).await?;
            Ok(heard.hello)
        };
        tokio::join!(dialler, acceptor)
    }

    #[tokio::test]
    async fn peers_with_the_same_secret_meet() {
        for secret in ["", "hunter2"] {
            let (dialled, accepted) = meet(secret, secret, None).await;
            let (there, here) = (dialled.unwrap(), accepted.unwrap());
            assert_eq!((there.life, there.incarnation), (70, THERE));
            assert_eq!((here.party.life, here.party.incarnation), (7, Uuid::from_u128(50)));
            assert_eq!(there.name, here.party.name, "both call the connection the same");
            assert_eq!((here.from, here.to, here.cluster), (5, 9, Uuid::from_u128(1)));
            assert_eq!((here.to_incarnation, here.seen), (THERE, 8));
        }
    }

    #[tokio::test]
    async fn another_secret_is_refused_before_anything_is_judged() {
        let (dialled, accepted) = meet("a", "b", None).await;
        assert!(matches!(dialled, Err(HandshakeError::Refused(Refusal::Secret, _))));
        assert!(matches!(accepted, Err(HandshakeError::Refused(Refusal::Secret, _))));
    }

    #[tokio::test]
    async fn a_refusal_comes_with_its_words() {
        let (dialled, _) = meet("s", "s", Some((Refusal::Removed, "you were removed"))).await;
        let Err(HandshakeError::Refused(Refusal::Removed, words)) = dialled else { panic!("{dialled:?}") };
        assert_eq!(words, "you were removed");
    }

    #[tokio::test]
    async fn garbage_is_an_error() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        a.write_all(&[b'G'; 300]).await.unwrap();
        assert!(matches!(hear(&mut b, "").await, Err(HandshakeError::Protocol(_))));
    }

    #[tokio::test]
    async fn a_peer_of_another_version_is_told_ours_whatever_the_rest_of_its_words() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        a.write_all(b"QRMP\x00\x02").await.unwrap();
        assert!(matches!(hear(&mut b, "").await, Err(HandshakeError::Protocol(_))));
        assert_eq!(a.read_u16().await.unwrap(), VERSION);
    }
}
