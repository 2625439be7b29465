//! Groups of several nodes in one process, over real TCP and real disks.

mod cluster;
mod toy;

mod basics;
mod elections;
mod members;
mod snapshots;
mod strangers;
