//! Two nodes, or a node and somebody who plays one by hand, without consensus between them.

use std::collections::BTreeSet;
use std::sync::mpsc::{Sender, channel};

use tokio::net::TcpStream;
use uuid::Uuid;

use super::handshake::{Heard, Party, hear};
use super::*;
use crate::api::{BoxFuture, Pieces};
use crate::config::Identity;
use crate::runtime::Instant;

const LONG: Duration = Duration::from_secs(30);
const GROUP: Uuid = Uuid::from_u128(1);

/// Bytes that show where they belong.
fn numbers(len: usize) -> Bytes {
    (0..len.div_ceil(8)).flat_map(|n| n.to_be_bytes()).take(len).collect()
}

/// Answers with its own name, who asked, and the question, or at length.
struct Echo(&'static str);

impl Service for Echo {
    fn call(&self, from: MemberId, body: Bytes) -> BoxFuture<Pieces> {
        let name = self.0;
        Box::pin(async move {
            if let Some(ms) = std::str::from_utf8(&body).ok().and_then(|body| body.strip_prefix("wait ")) {
                tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
            }
            if let Some(n) = std::str::from_utf8(&body).ok().and_then(|body| body.strip_prefix("long ")) {
                return vec![Bytes::from_static(b"head"), numbers(n.parse().unwrap())];
            }
            vec![Bytes::from(format!("{name} to {from}: {}", String::from_utf8_lossy(&body)))]
        })
    }
}

fn identity(member: MemberId) -> Identity {
    Identity { cluster: GROUP, member, incarnation: Uuid::from_u128(100 + u128::from(member)) }
}

fn member(id: MemberId, peer: impl ToString) -> Member {
    Member { peer: peer.to_string(), incarnation: identity(id).incarnation, ..Member::default() }
}

async fn node(id: MemberId, name: &'static str) -> Transport {
    let node = Transport::listen(Directory::new(identity(id)), "127.0.0.1:0", "s".into(), 8 << 20).await.unwrap();
    node.serve(7, Arc::new(Echo(name)));
    node
}

/// Tells a node who the members are: itself, and these.
fn tell(node: &Transport, others: &[(MemberId, Member)]) {
    let me = node.directory().me().member;
    let mut members: BTreeMap<_, _> = others.iter().cloned().collect();
    members.insert(me, member(me, node.local_addr()));
    node.directory().update(0, GroupView { members, removed: BTreeSet::new(), next_member: 3 });
    node.refresh();
}

fn introduce(one: &Transport, two: &Transport) {
    tell(one, &[(2, member(2, two.local_addr()))]);
    tell(two, &[(1, member(1, one.local_addr()))]);
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < deadline, "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn carried(node: &Transport) -> usize {
    node.shared.carried.load(SeqCst)
}

async fn call(node: &Transport, to: MemberId, text: impl Into<String>) -> Result<String, CallError> {
    let answer = node.call(to, 7, Bytes::from(text.into()), LONG).await?;
    Ok(String::from_utf8(answer.to_vec()).unwrap())
}

/// Asks until there is a connection.
async fn call_again(node: &Transport, to: MemberId, text: &str) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        match call(node, to, text).await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_held_stays_although_the_directory_does_not_know_the_peer() {
    let transport = node(1, "one").await;
    let member = member(2, "127.0.0.1:1");
    // openraft makes two clients of a member that joins before its entry is applied here.
    let (one, two) = (transport.hold(2, &member), transport.hold(2, &member));
    transport.refresh();
    assert!(!one.is_stopped());
    drop(one);
    transport.refresh();
    assert!(!two.is_stopped());
    let peer = two.peer.clone();
    drop(two);
    assert!(peer.is_stopped(), "nobody needs it any more");
    let again = transport.hold(2, &member);
    assert!(!again.is_stopped(), "and whoever needs it again gets a new one");
    transport.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_dial_each_other_end_with_one_connection_that_serves_both() {
    for _ in 0..50 {
        let (one, two) = (node(1, "one").await, node(2, "two").await);
        introduce(&one, &two);
        let (there, back) = tokio::join!(call_again(&one, 2, "hi"), call_again(&two, 1, "ho"));
        assert_eq!((&there[..], &back[..]), ("two to 1: hi", "one to 2: ho"));
        eventually("one connection", || carried(&one) == 1 && carried(&two) == 1).await;
        let name = |node: &Transport, other| node.shared.known(other).unwrap().connection().unwrap().party.name;
        assert_eq!(name(&one, 2), name(&two, 1), "both have the same");
        one.stop();
        two.stop();
        eventually("the end", || carried(&one) + carried(&two) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_both_sides_share_a_connection_and_their_numbers_do_not_meet() {
    let (one, two) = (node(1, "one").await, node(2, "two").await);
    introduce(&one, &two);
    call_again(&one, 2, "hi").await;
    eventually("one connection", || carried(&one) == 1 && carried(&two) == 1).await;
    let name = one.shared.known(2).unwrap().connection().unwrap().party.name;
    let mut calls = Vec::new();
    for i in 0..300 {
        for (from, to, there) in [(one.clone(), 2, "two to 1"), (two.clone(), 1, "one to 2")] {
            calls.push(tokio::spawn(async move {
                assert_eq!(call(&from, to, format!("{i}")).await.unwrap(), format!("{there}: {i}"));
            }));
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!((carried(&one), carried(&two)), (1, 1));
    assert_eq!(one.shared.known(2).unwrap().connection().unwrap().party.name, name, "it is still the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_enough_that_one_reaches_the_other() {
    for (reaching, reached) in [(1, 2), (2, 1)] {
        let (a, b) = (node(reaching, "a").await, node(reached, "b").await);
        // Nobody listens there.
        tell(&b, &[(reaching, member(reaching, "127.0.0.1:1"))]);
        tell(&a, &[(reached, member(reached, b.local_addr()))]);
        call_again(&b, reaching, "hi").await;
        call_again(&a, reached, "ho").await;
        assert_eq!((carried(&a), carried(&b)), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_dials_before_he_is_known_is_served_and_asked_as_soon_as_he_is() {
    let (one, nine) = (node(1, "one").await, node(9, "nine").await);
    tell(&one, &[]);
    tell(&nine, &[(1, member(1, one.local_addr()))]);
    assert_eq!(call_again(&nine, 1, "hi").await, "one to 9: hi");
    assert!(matches!(call(&one, 9, "who").await, Err(CallError::NotSent(_))));
    tell(&one, &[(9, member(9, "127.0.0.1:1"))]);
    assert_eq!(call_again(&one, 9, "ho").await, "nine to 1: ho");
    assert_eq!(carried(&one), 1);
    nine.stop();
    tell(&one, &[]);
    eventually("that nothing is kept of it", || one.shared.known(9).is_none()).await;
}

/// A node on a thread of its own, which stands still as soon as this is told: its sockets stay open, and nobody reads.
fn node_that_can_hang(id: MemberId) -> (Transport, impl Fn(), Sender<()>) {
    let (made, wait) = channel();
    let (hang, hung) = channel::<()>();
    let (hangs, still) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            made.send(node(id, "old").await).unwrap();
            while hung.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // As a process that is stopped, or a machine that is gone, as far as others see.
            hangs.send(()).unwrap();
            let _ = hung.recv();
        });
    });
    let node = wait.recv().unwrap();
    let now = hang.clone();
    let stop = move || {
        now.send(()).unwrap();
        still.recv().unwrap();
    };
    (node, stop, hang)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_life_of_a_peer_takes_the_place_of_a_connection_that_hangs() {
    for (stays, restarts) in [(1, 2), (2, 1)] {
        let here = node(stays, "here").await;
        let (old, hang, ends_with_this) = node_that_can_hang(restarts);
        tell(&here, &[(restarts, member(restarts, old.local_addr()))]);
        tell(&old, &[(stays, member(stays, here.local_addr()))]);
        assert!(call_again(&here, restarts, "hi").await.starts_with("old"));
        hang();
        let waiting = tokio::spawn({
            let here = here.clone();
            async move { call(&here, restarts, "anybody there?").await }
        });
        let before = here.shared.known(restarts).unwrap().connection().unwrap();
        eventually("the question", || before.is_asked()).await;
        let new = node(restarts, "new").await;
        tell(&new, &[(stays, member(stays, here.local_addr()))]);
        assert_eq!(call_again(&new, stays, "ho").await, format!("here to {restarts}: ho"));
        assert!(call_again(&here, restarts, "hi").await.starts_with("new"));
        let why = waiting.await.unwrap().unwrap_err().to_string();
        assert!(why.contains("another connection took its place"), "{why}");
        assert_eq!(carried(&here), 1);
        drop(ends_with_this);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_comes_whole_whatever_else_is_asked_meanwhile() {
    let (one, two) = (node(1, "one").await, node(2, "two").await);
    introduce(&one, &two);
    call_again(&one, 2, "hi").await;
    let mut long = Vec::new();
    // Around what one frame holds, and more than a frame may have.
    for len in [parts::PART_BYTES - 5, parts::PART_BYTES - 4, parts::PART_BYTES - 3, 3 * parts::PART_BYTES, 20 << 20] {
        let one = one.clone();
        long.push(tokio::spawn(async move {
            let answer = one.call(2, 7, Bytes::from(format!("long {len}")), LONG).await.unwrap();
            assert!(answer.strip_prefix(b"head").is_some_and(|rest| rest == numbers(len)), "{len} bytes");
        }));
    }
    for i in 0..200 {
        assert_eq!(call(&one, 2, format!("{i}")).await.unwrap(), format!("two to 1: {i}"));
    }
    for one in long {
        one.await.unwrap();
    }
}

/// Somebody who plays member 2 by hand, and whom this node has dialled.
async fn dialled_by(node: &Transport) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tell(node, &[(2, member(2, listener.local_addr().unwrap()))]);
    let (mut stream, _) = listener.accept().await.unwrap();
    let heard: Heard = hear(&mut stream, "s").await.unwrap();
    heard.answer(&mut stream, "s", 77, identity(2).incarnation, None).await.unwrap();
    stream
}

#[tokio::test]
async fn what_was_in_the_queue_of_a_connection_that_breaks_was_not_sent_and_the_rest_nobody_knows() {
    let one = node(1, "one").await;
    let stream = dialled_by(&one).await;
    eventually("the connection", || one.is_connected(2)).await;
    // Far more than the buffers of a socket take. Nobody reads.
    let body = Bytes::from(vec![0; 4 << 20]);
    let mut calls = Vec::new();
    for _ in 0..30 {
        let (one, body) = (one.clone(), body.clone());
        calls.push(tokio::spawn(async move { one.call(2, 7, body, LONG).await }));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(stream);
    let mut lost = Vec::new();
    for call in calls {
        lost.push(call.await.unwrap().unwrap_err());
    }
    assert!(matches!(lost.first(), Some(CallError::Unknown(_))), "{:?}", lost.first());
    assert!(matches!(lost.last(), Some(CallError::NotSent(_))), "{:?}", lost.last());
    let sent = lost.iter().take_while(|lost| matches!(lost, CallError::Unknown(_))).count();
    assert!(lost[sent..].iter().all(|lost| matches!(lost, CallError::NotSent(_))), "in the order of the queue");
}

#[tokio::test]
async fn a_call_that_is_given_up_tells_whether_it_had_left() {
    let one = node(1, "one").await;
    let stream = dialled_by(&one).await;
    eventually("the connection", || one.is_connected(2)).await;
    let give_up = Arc::new(Notify::new());
    let mut calls = Vec::new();
    // The first fills the buffers of the socket, for nobody reads; the last stays in the queue.
    for len in [4, 8 << 19, 8 << 19, 8 << 19, 8 << 19, 4] {
        let (one, over) = (one.clone(), give_up.clone());
        calls.push(tokio::spawn(async move {
            let over = async move {
                over.notified().await;
                "another leads".to_owned()
            };
            one.call_unless(2, 7, Bytes::from(vec![0; len]), LONG, over).await.unwrap_err()
        }));
        tokio::task::yield_now().await;
    }
    // The first has left.
    stream.readable().await.unwrap();
    give_up.notify_waiters();
    let mut lost = Vec::new();
    for call in calls {
        lost.push(call.await.unwrap());
    }
    assert!(lost.iter().all(|lost| lost.to_string().ends_with("another leads")), "{lost:?}");
    assert!(matches!(lost.first(), Some(CallError::Unknown(_))), "{lost:?}");
    assert!(matches!(lost.last(), Some(CallError::NotSent(_))), "{lost:?}");
    drop(stream);
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_heard_ends() {
    let one = node(1, "one").await;
    let stream = dialled_by(&one).await;
    eventually("the connection", || one.is_connected(2)).await;
    eventually("its end", || !one.is_connected(2)).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_hears_goodbye_and_gives_the_answers_that_it_owes() {
    let (one, two) = (node(1, "one").await, node(2, "two").await);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    two.on_refused(Box::new(move |by, refusal, _| told.lock().push((by, refusal))));
    introduce(&one, &two);
    call_again(&one, 2, "hi").await;
    call_again(&two, 1, "ho").await;
    let ask = |node: &Transport, to| {
        let node = node.clone();
        tokio::spawn(async move { call(&node, to, "wait 700").await })
    };
    let (owed, lost) = (ask(&one, 2), ask(&two, 1));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let members = BTreeMap::from([(1, member(1, one.local_addr()))]);
    one.directory().update(0, GroupView { members, removed: BTreeSet::from([2]), next_member: 3 });
    one.refresh();
    assert_eq!(owed.await.unwrap().unwrap(), "two to 1: wait 700");
    let lost = lost.await.unwrap();
    assert!(matches!(&lost, Err(CallError::Unknown(why)) if why.contains("was removed")), "{lost:?}");
    eventually("the end of the connection", || carried(&one) + carried(&two) == 0).await;
    assert_eq!(heard.lock().first(), Some(&(1, Refusal::Removed)));
    assert!(one.shared.known(2).is_none());
}

fn party(life: u128, name: u128) -> Party {
    Party { life, incarnation: Uuid::nil(), name }
}

fn hello(from: MemberId, to: MemberId, life: u128, seen: u128) -> Hello {
    Hello::new(&identity(from), life, to, Uuid::nil(), seen)
}

#[test]
fn of_two_that_cross_the_one_that_the_smaller_id_dialled_stays() {
    // Member 1 has dialled, and member 2 has said yes.
    let peer = Peer::new(2, 1);
    let (there, _queues) = Connection::new(party(20, 500), true);
    assert!(peer.gives_way_to(&hello(2, 1, 20, 0)) && peer.adopt(&there));
    assert!(!peer.gives_way_to(&hello(2, 1, 20, 0)), "it began before it knew");
    assert!(!peer.gives_way_to(&hello(2, 1, 20, 499)), "it knew an older one");
    assert!(peer.gives_way_to(&hello(2, 1, 20, 500)), "it has lost this one");
    assert!(peer.gives_way_to(&hello(2, 1, 21, 0)), "it has started anew");
    // It had let member 2 in before its own dial came through.
    let (late, _queues) = Connection::new(party(20, 501), false);
    let (own, _queues) = Connection::new(party(20, 502), true);
    assert!(peer.adopt(&late) && peer.gives_way_to(&hello(2, 1, 20, 0)), "who dials again has lost the last");
    assert!(peer.adopt(&own) && !late.is_open() && own.is_open());

    // Member 2 takes whatever member 1 dials, and drops its own.
    let peer = Peer::new(1, 2);
    let (mine, _queues) = Connection::new(party(10, 600), true);
    assert!(peer.adopt(&mine) && peer.gives_way_to(&hello(1, 2, 10, 0)));
    let (its, _queues) = Connection::new(party(10, 601), false);
    let (late, _queues) = Connection::new(party(10, 602), true);
    assert!(peer.adopt(&its) && !mine.is_open());
    assert!(!peer.adopt(&late) && its.is_open());
    // What has ended stands in nobody's way.
    peer.release(&its);
    assert!(peer.adopt(&late));
}
