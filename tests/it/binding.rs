//! Safe by default: loopback only; beyond it only with what keeps strangers out.

use crate::BINARY;
use quorate_testkit::ports::PortBlock;
use quorate_testkit::process::Process;
use quorate_testkit::{Cluster, ClusterOptions, Conn, PATIENCE, Value, http};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// Runs `serve` with arguments that it must refuse; gives what it says.
fn refused(args: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("data").display().to_string();
    let mut all = vec!["serve", "--dir", &data, "--bootstrap"];
    all.extend(args);
    let mut process = Process::spawn(Path::new(BINARY), &all, &dir.path().join("output")).expect("it starts");
    let status = process.wait_end(PATIENCE).expect("it ends by itself");
    assert!(!status.success(), "{args:?} must be refused: {}", process.output());
    process.output()
}

#[test]
fn peers_and_admin_beyond_loopback_need_a_secret() {
    let mut ports = PortBlock::take();
    let [port, peer, admin] = [(); 3].map(|()| ports.next_port().to_string());
    let open_peer =
        refused(&["--port", &port, "--peer", &format!("0.0.0.0:{peer}"), "--admin", &format!("127.0.0.1:{admin}")]);
    assert!(open_peer.contains("secret"), "it says why: {open_peer}");
    let open_admin =
        refused(&["--port", &port, "--peer", &format!("127.0.0.1:{peer}"), "--admin", &format!("0.0.0.0:{admin}")]);
    assert!(open_admin.contains("admin-token"), "it says why: {open_admin}");
}

#[test]
fn members_without_the_secret_are_kept_out() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).args("--secret the-right-one"));
    let stranger = cluster.add_member();
    for word in cluster.members[stranger].command_mut() {
        if word == "the-right-one" {
            *word = "a-wrong-one".into();
        }
    }
    cluster.members[stranger].start();
    let mut conn = cluster.members[0].conn();
    for number in 1..=100 {
        assert_eq!(conn.cmd("INCR n").unwrap(), Value::Int(number));
    }
    let ended = cluster.members[stranger].process().wait_end(Duration::from_secs(5));
    assert!(ended.is_none_or(|status| !status.success()));
    assert!(!cluster.members[stranger].is_ready(), "{}", cluster.members[stranger].output());
    let leader = cluster.leader();
    let voters = cluster.members[leader].members().expect("members");
    assert_eq!(voters.iter().filter(|member| member["voter"] == true).count(), 3);
}

#[test]
fn the_admin_port_asks_for_its_token() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1).admin_token("open-sesame"));
    let admin = cluster.members[0].admin;
    let ask = |headers: &[(&str, &str)]| {
        let body = json!({});
        http::request(admin, "POST", "/v1/snapshot", Some(&body), headers, Duration::from_secs(30)).expect("an answer")
    };
    assert_eq!(ask(&[]).status, 401);
    assert_eq!(ask(&[("Authorization", "Bearer wrong")]).status, 401);
    assert!(ask(&[("Authorization", "Bearer open-sesame")]).is_ok());
    assert_eq!(http::get(admin, "/livez").expect("an answer").status, 200, "health needs no token");
}

/// An address of this machine that isn't loopback, if it has one: what a packet to the outside would come from.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent: for UDP this only chooses a route.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

#[test]
fn protected_mode_serves_only_this_machine_until_there_is_a_password() {
    let Some(address) = own_address() else {
        println!("this machine has no address but loopback: nobody could come from elsewhere");
        return;
    };
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1).args("--bind 0.0.0.0"));
    let outside = SocketAddr::from((address, cluster.members[0].client.port()));
    let mut inside = cluster.members[0].conn();
    assert_eq!(inside.cmd("PING").unwrap(), Value::Simple("PONG".into()));
    let mut conn = Conn::open(outside).expect("it listens there");
    let answer = String::from_utf8_lossy(&conn.read_to_end().expect("it closes")).into_owned();
    assert!(answer.starts_with("-DENIED "), "{answer}");
    assert_eq!(inside.cmd("CONFIG SET requirepass sesame").unwrap(), Value::ok());
    let mut conn = Conn::open(outside).expect("it listens there");
    assert!(conn.cmd("GET k").unwrap().error().is_some_and(|text| text.starts_with("NOAUTH")));
    assert_eq!(conn.cmd("AUTH sesame").unwrap(), Value::ok());
    assert_eq!(conn.cmd("SET k v").unwrap(), Value::ok());
}

#[test]
fn a_default_member_listens_on_loopback_only() {
    let Some(address) = own_address() else { return };
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let member = &cluster.members[0];
    for port in [member.client.port(), member.peer.port(), member.admin.port()] {
        assert!(Conn::open(SocketAddr::from((address, port))).is_err(), "port {port} is open to the network");
    }
}
