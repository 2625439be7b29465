//! Whoever doesn't belong is refused, and disturbs nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_raft::{BoxFuture, CallError, Identity, MemberId, Pieces, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::cluster::{Cluster, Home, LONG, addresses, eventually};

/// Starts somebody who thinks that he is in the group, and waits for what he is told.
async fn refused(cluster: &Cluster, change: impl FnOnce(&mut Home)) -> String {
    let mut home = Home {
        identity: Identity { cluster: Uuid::from_u128(0xC1), member: 9, incarnation: Uuid::from_u128(9) },
        member: addresses(),
        dir: cluster.fresh_dir(),
        secret: "s3cret".into(),
    };
    change(&mut home);
    let (verdict, mut stream) = dial(cluster, &home).await;
    if verdict == 1 {
        return "secret".into();
    }
    // Who it is, and its proof.
    let mut said = [0; 64];
    stream.read_exact(&mut said).await.unwrap();
    if verdict == 0 {
        return "welcome".into();
    }
    let n = stream.read_u16().await.unwrap();
    let mut words = vec![0; usize::from(n)];
    stream.read_exact(&mut words).await.unwrap();
    String::from_utf8(words).unwrap()
}

/// Dials member 1 by hand, up to its verdict: the handshake is the first thing on the wire.
async fn dial(cluster: &Cluster, home: &Home) -> (u8, TcpStream) {
    let mut stream = TcpStream::connect(&cluster.homes[&1].member.peer).await.unwrap();
    let mut hello = Vec::new();
    hello.extend_from_slice(b"QRMP\x00\x04");
    hello.extend_from_slice(home.identity.cluster.as_bytes());
    hello.extend_from_slice(&home.identity.member.to_be_bytes());
    hello.extend_from_slice(home.identity.incarnation.as_bytes());
    // Its life.
    hello.extend_from_slice(&[5; 16]);
    hello.extend_from_slice(&1u64.to_be_bytes());
    // No matter which incarnation, no connection seen, and a nonce.
    hello.extend_from_slice(&[0; 32]);
    hello.extend_from_slice(&[7; 32]);
    stream.write_all(&hello).await.unwrap();
    let mut head = [0; 34];
    stream.read_exact(&mut head).await.unwrap();
    let mut mac = <hmac::Hmac<sha2::Sha256> as hmac::Mac>::new_from_slice(home.secret.as_bytes()).unwrap();
    hmac::Mac::update(&mut mac, b"quorate peer: dialler");
    hmac::Mac::update(&mut mac, &hello);
    hmac::Mac::update(&mut mac, &head[2..]);
    stream.write_all(&hmac::Mac::finalize(mac).into_bytes()).await.unwrap();
    let verdict = stream.read_u8().await.unwrap();
    (verdict, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_wrong_secret_group_id_and_disk_are_refused_with_clear_words() {
    let cluster = Cluster::new(2).await;
    assert_eq!(refused(&cluster, |h| h.secret = "other".into()).await, "secret");
    assert_eq!(refused(&cluster, |h| h.secret = String::new()).await, "secret");
    let words = refused(&cluster, |h| h.identity.cluster = Uuid::from_u128(0xDEAD)).await;
    assert!(words.contains("belongs to group"), "{words}");
    let words = refused(&cluster, |h| h.identity.member = 1).await;
    assert!(words.contains("two processes use one identity"), "{words}");
    let words = refused(&cluster, |h| h.identity.member = 2).await;
    assert!(words.contains("join again"), "{words}");
    let second = cluster.homes[&2].identity.incarnation;
    let words = refused(&cluster, |h| {
        h.identity.member = 2;
        h.identity.incarnation = second;
    })
    .await;
    assert_eq!(words, "welcome");
    // Nobody has heard of it, but it knows the secret: it may have joined while this member lagged.
    assert_eq!(refused(&cluster, |_| {}).await, "welcome");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn garbage_on_the_peer_port_closes_that_connection_and_nothing_else() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let address = cluster.homes[&leader].member.peer.clone();
    let term = cluster.running[&leader].group.status().await.term;
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xFF; 4096], b"QRMP\x00\x03", b"QRMP\x00\x04", b""] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it is closed");
        drop(closed);
        assert!(answer.len() <= 34, "a stranger learns no more than the version");
    }
    // Many at a time, saying nothing.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    for i in 1..=20 {
        assert_eq!(cluster.add("n", 1).await.unwrap(), i);
    }
    assert_eq!(cluster.running[&leader].group.status().await.term, term);
}

/// A peer that has come in honestly and then sends what it must not.
async fn misbehave(cluster: &Cluster, frames: &[u8]) -> usize {
    let (verdict, mut stream) = dial(cluster, &cluster.homes[&2]).await;
    assert_eq!(verdict, 0);
    let mut said = [0; 64];
    stream.read_exact(&mut said).await.unwrap();
    let _ = stream.write_all(frames).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it is closed");
    answer.len()
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = ((17 + body.len()) as u32).to_be_bytes().to_vec();
    out.push(kind);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&1u64.to_be_bytes());
    out.extend_from_slice(body);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn malformed_frames_of_a_peer_close_its_connection_and_nothing_else() {
    let cluster = Cluster::new(2).await;
    cluster.add("n", 1).await.unwrap();
    let mut too_long = u32::MAX.to_be_bytes().to_vec();
    too_long.extend_from_slice(&[1; 64]);
    for bad in [
        too_long,
        4u32.to_be_bytes().to_vec(),
        frame(77, b""),
        frame(1, b"not an append"),
        frame(3, b"not a vote"),
        frame(5, b""),
        frame(6, &[0xFF; 100]),
        frame(10, b""),
        frame(32, b"an answer to nothing"),
    ] {
        let mut bad = bad;
        bad.extend_from_slice(&[0; 32]);
        misbehave(&cluster, &bad).await;
    }
    assert_eq!(cluster.add("n", 1).await.unwrap(), 2);
    cluster.agree().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_pair_of_members_has_one_connection() {
    let mut cluster = Cluster::new(3).await;
    // Sockets that were accepted on a peer port; each connection has one such end.
    let accepted = |cluster: &Cluster| {
        let port = |home: &Home| home.member.peer.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let ports: Vec<u16> = cluster.homes.values().map(port).collect();
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let established = table.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some("01"));
        let local = |line: &str| {
            let address = line.split_whitespace().nth(1)?;
            u16::from_str_radix(address.rsplit(':').next()?, 16).ok()
        };
        established.filter_map(local).filter(|port| ports.contains(port)).count()
    };
    eventually("one connection for each pair", || (accepted(&cluster) == 3).then_some(())).await;
    let victim = cluster.voters(1).into_iter().find(|id| !cluster.running[id].group.is_leader()).unwrap();
    cluster.kill(victim);
    eventually("the connection of the two that are left", || (accepted(&cluster) == 1).then_some(())).await;
    cluster.start(victim).await;
    eventually("one connection for each pair again", || (accepted(&cluster) == 3).then_some(())).await;
    for i in 1..=20 {
        assert_eq!(cluster.add("n", 1).await.unwrap(), i);
    }
    assert_eq!(accepted(&cluster), 3);
}

struct Echo(Duration);

impl Service for Echo {
    fn call(&self, from: MemberId, body: Bytes) -> BoxFuture<Pieces> {
        let pause = self.0;
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            vec![Bytes::from(format!("{from}:{}", String::from_utf8_lossy(&body)))]
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_between_members_say_whether_they_may_have_been_done() {
    let mut cluster = Cluster::new(2).await;
    cluster.running[&2].node.serve(7, Arc::new(Echo(Duration::ZERO)));
    cluster.running[&2].node.serve(8, Arc::new(Echo(Duration::from_secs(600))));
    let node = cluster.running[&1].node.clone();
    let call = |service, timeout| {
        let node = node.clone();
        async move { node.call(2, service, Bytes::from_static(b"hi"), timeout).await }
    };
    assert_eq!(call(7, LONG).await.unwrap(), Bytes::from_static(b"1:hi"));
    assert!(matches!(call(9, LONG).await, Err(CallError::NotSent(_))), "no such service");
    assert!(matches!(node.call(5, 7, Bytes::new(), LONG).await, Err(CallError::NotSent(_))), "no such member");
    assert!(matches!(call(8, Duration::from_millis(100)).await, Err(CallError::Unknown(_))), "it may be at work");
    let many: Vec<_> = (0..500).map(|_| tokio::spawn(call(7, LONG))).collect();
    for one in many {
        one.await.unwrap().unwrap();
    }
    let hanging = tokio::spawn(call(8, LONG));
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.kill(2);
    assert!(matches!(hanging.await.unwrap(), Err(CallError::Unknown(_))), "it was sent before the kill");
    eventually("the loss", || {
        let status = cluster.running[&1].group.members().len();
        (status == 2).then_some(())
    })
    .await;
    let lost = call(7, Duration::from_millis(300)).await;
    assert!(matches!(lost, Err(CallError::NotSent(_))), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_member_that_is_removed_still_gives_the_answers_that_it_owes() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let mut others = cluster.voters(leader).into_iter().filter(|id| *id != leader);
    let (out, asker) = (others.next().unwrap(), others.next().unwrap());
    cluster.running[&out].node.serve(7, Arc::new(Echo(Duration::from_secs(1))));
    let node = cluster.running[&asker].node.clone();
    let asked = tokio::spawn(async move { node.call(out, 7, Bytes::from_static(b"hi"), LONG).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.running[&leader].group.remove(out).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), Bytes::from(format!("{asker}:hi")));
}
