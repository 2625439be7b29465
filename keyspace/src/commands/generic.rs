//! Commands on keys of any type.

use crate::spec::{Command, Handler};

/// The family.
pub static COMMANDS: &[Command<Handler>] = &[];
