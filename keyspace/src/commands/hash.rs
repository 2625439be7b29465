//! Commands on hashes.

use crate::spec::{Command, Handler};

/// The family.
pub static COMMANDS: &[Command<Handler>] = &[];
