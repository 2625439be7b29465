//! Settings that fit one by one and not together. Everything binds to this machine unless told otherwise; what is
//! opened to others has to be guarded, or the process does not start.

use std::net::IpAddr;

use thiserror::Error;

use super::settings::Settings;
use super::shapes::split_address;
use super::table::Id;

/// Why the settings as a whole are refused, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unsafe {
    /// Others could speak to the peer port, and nothing would make them prove anything.
    #[error(
        "peer = {0} can be reached from other machines and there is no secret: set the same 'secret' on every \
         member, or bind 'peer' to 127.0.0.1"
    )]
    PeerWithoutSecret(String),
    /// Others could administer the group.
    #[error(
        "admin = {0} can be reached from other machines and there is no token: set 'admin-token', or bind 'admin' to \
         127.0.0.1"
    )]
    AdminWithoutToken(String),
    /// Nobody can connect to such an address.
    #[error(
        "others would be told to connect to {address}, which is no machine's address: set '{setting}' to the HOST:PORT \
         where they reach this member"
    )]
    NotReachable {
        /// What would be told.
        address: String,
        /// The setting to set.
        setting: &'static str,
    },
    /// Two servers on one port.
    #[error("'{0}' and '{1}' are the same port {2}")]
    SamePort(&'static str, &'static str, u16),
    /// A port that does not exist.
    #[error("'{0}' is not a port that others could connect to")]
    NoPort(&'static str),
    /// A leader that speaks so seldom would be voted out.
    #[error(
        "election-timeout-ms = {election} is too short for heartbeat-ms = {heartbeat}: at least three heartbeats have \
         to fit"
    )]
    Timings {
        /// `heartbeat-ms`
        heartbeat: i64,
        /// `election-timeout-ms`
        election: i64,
    },
    /// Every run of the log would be one file or none.
    #[error("the directory for the data is empty: set 'dir'")]
    NoDir,
}

impl Settings {
    /// Checks the settings as a whole.
    pub fn check(&self) -> Result<(), Unsafe> {
        let (peer, admin) = (self.peer(), self.admin());
        // The port beside a high client port may not exist.
        let (peer_host, peer_port) = split_address(&peer).ok_or(Unsafe::NoPort("peer"))?;
        let (admin_host, admin_port) = split_address(&admin).ok_or(Unsafe::NoPort("admin"))?;
        if self.port() == 0 {
            return Err(Unsafe::NoPort("port"));
        }
        let ports = [("port", self.port()), ("peer", peer_port), ("admin", admin_port)];
        for (index, (first, port)) in ports.iter().enumerate() {
            if let Some((second, _)) = ports[index + 1..].iter().find(|(_, other)| other == port) {
                return Err(Unsafe::SamePort(first, second, *port));
            }
        }
        if !is_loopback(peer_host) && self.secret().is_empty() {
            return Err(Unsafe::PeerWithoutSecret(peer));
        }
        if !is_loopback(admin_host) && self.admin_token().is_none() {
            return Err(Unsafe::AdminWithoutToken(admin));
        }
        for (setting, address) in [
            ("advertise-client", self.advertise_client()),
            ("advertise-peer", self.advertise_peer()),
            ("advertise-admin", self.advertise_admin()),
        ] {
            if split_address(&address).is_none_or(|(host, _)| is_wildcard(host)) {
                return Err(Unsafe::NotReachable { address, setting });
            }
        }
        let (heartbeat, election) = (self.number(Id::HeartbeatMs), self.number(Id::ElectionTimeoutMs));
        if election < heartbeat * 3 {
            return Err(Unsafe::Timings { heartbeat, election });
        }
        if self.text(Id::Dir).is_empty() { Err(Unsafe::NoDir) } else { Ok(()) }
    }
}

/// Only what is certainly this machine: a name that happens to resolve to it may resolve to something else tomorrow.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

pub(super) fn is_wildcard(host: &str) -> bool {
    host == "*" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified())
}
