//! The admin interface: status, membership, leadership, health and metrics of a member.
//!
//! [`service::AdminService`] does the work and knows no HTTP: the simulator calls it directly. [`http`] is its face on
//! a port of its own, and the only place that names axum. [`mod@join`] and [`leave`] are the other end: a new member that
//! asks a group to take it in, and one that asks it to forget who it was; [`waiting`] is the port of one that is not in yet.
//!
//! Every member answers everything. What needs the leader goes to the leader as a call between peers, at most one hop:
//! a member that was asked by a peer never asks another one.

pub mod api;
pub mod backend;
pub mod health;
// The simulator has a face of its own: axum does not run in it.
#[cfg(not(madsim))]
pub mod http;
pub mod join;
pub mod leave;
pub mod service;
pub mod waiting;

pub use api::{ApiError, MemberView, MembersView, StatusView};
pub use backend::{Backend, LiveBackend, Local};
pub use join::{Identity, join};
pub use service::AdminService;
