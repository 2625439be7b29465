//! Tests that hold a member of ours against a genuine Redis, and genuine tools against a member of ours.
//!
//! They need redis-server and redis-cli and fail, never skip, without them. Cargo leaves this target out unless it
//! is asked for: `cargo test --test peers`.

mod cases;
mod golden;
mod migrate;
mod pair;
mod protocol;
mod sequences;
mod tools;
