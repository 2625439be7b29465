//! `quorate serve`: one member.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::flags::SettingFlags;
use super::{Leash, logging, parent};
use crate::config::Settings;
use crate::node::Start;

/// Run one member of a group.
///
/// A new group begins with one member that is started with --bootstrap; others ask it, or any other member, with
/// --join to be taken in. These flags may stay on the command line for ever, --rebuild too: a member whose data directory
/// belongs to a group, and is sound, comes back as who it was.
#[derive(Debug, Args)]
#[command(after_help = "Every setting can stand in the file as well, by the same name: port = 7001. Flags win.")]
pub(super) struct Serve {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings, say what is wrong, and do nothing else
    #[arg(long)]
    check_config: bool,
    /// Make a new group with this member alone, if its directory is empty
    #[arg(long, conflicts_with = "join")]
    bootstrap: bool,
    /// Ask the members at these admin addresses to take this one in, if its directory is empty
    #[arg(long, value_name = "URL", num_args = 1..)]
    join: Vec<String>,
    /// If the log or the checkpoint turns out to be damaged, begin again as a new member out of what the others have: the
    /// old one is removed from the group, what it had is set aside
    #[arg(long, requires = "join")]
    rebuild: bool,
    /// Stop in good order when standard input ends
    #[arg(long, hide = true)]
    exit_with_parent: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Serve {
    pub(super) fn run(self, run: impl FnOnce(Settings, Start, Leash) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let settings = Settings::load(self.config.as_deref(), &self.settings.0)?;
        if self.check_config {
            let mut out = std::io::stdout().lock();
            for name in settings.without_effect() {
                let _ = writeln!(out, "warning: '{name}' is a setting of Redis that has no effect here");
            }
            let _ = writeln!(out, "the settings are valid");
            return Ok(());
        }
        logging::init(&settings).context("the log cannot be written")?;
        for name in settings.without_effect() {
            tracing::warn!(setting = name, "a setting of Redis that has no effect here");
        }
        let leash: Leash =
            if self.exit_with_parent { Box::pin(parent::gone()?) } else { Box::pin(std::future::pending()) };
        let start = match (self.bootstrap, self.join.is_empty()) {
            (true, _) => Start::Bootstrap,
            (false, false) if self.rebuild => Start::Rebuild(self.join),
            (false, false) => Start::Join(self.join),
            (false, true) => Start::Resume,
        };
        run(settings, start, leash)
    }
}
