//! Groups of several nodes in one process, over real TCP and real disks.

mod cluster;
mod toy;

mod basics;
mod disk;
mod elections;
mod members;
mod power;
mod snapshots;
mod strangers;
