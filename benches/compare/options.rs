//! What can be asked for on the command line.

use clap::Parser;
use std::path::PathBuf;

/// Quorate beside Redis on the same machine.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub struct Options {
    /// Rounds; each runs every workload on both sides.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Measured seconds of each workload (one more goes before it, unmeasured).
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// One short round, few kills: whether it works, not how fast it is.
    #[arg(long)]
    pub quick: bool,
    /// Kills of the leader.
    #[arg(long, default_value_t = 50)]
    pub kills: usize,
    /// Planned hand-overs of leadership.
    #[arg(long, default_value_t = 20)]
    pub hand_overs: usize,
    /// Keys for the memory figure.
    #[arg(long, default_value_t = 1_000_000)]
    pub memory_keys: u64,
    /// Keys for the restart.
    #[arg(long, default_value_t = 5_000_000)]
    pub restart_keys: u64,
    /// Restarts of each side.
    #[arg(long, default_value_t = 3)]
    pub restarts: usize,
    /// Keys that the load reads and writes.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Keys for the latency beside checkpoints.
    #[arg(long, default_value_t = 1_000_000)]
    pub checkpoint_keys: u64,
    /// Checkpoints of the soak.
    #[arg(long, default_value_t = 200)]
    pub soak_checkpoints: usize,
    /// Keys of the soak.
    #[arg(long, default_value_t = 1_500_000)]
    pub soak_keys: u64,
    /// Only these parts: load, memory, restart, checkpoint, kill, handover; and soak, which runs only if it is named.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Only workloads whose name contains this.
    #[arg(long)]
    pub workload: Option<String>,
    /// Only one side, `redis` or `ours`: for a profile. There are no ratios then.
    #[arg(long)]
    pub side: Option<String>,
    /// Where the report (compare.md, compare.svg) goes.
    #[arg(long, default_value = "target/compare")]
    pub out: PathBuf,
    /// Cargo says so when it runs this as a benchmark.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    /// The options, with what `--quick` means worked in.
    pub fn parse() -> Options {
        let mut options = <Options as Parser>::parse();
        if options.quick {
            options.rounds = options.rounds.min(1);
            options.seconds = options.seconds.min(1.0);
            options.kills = options.kills.min(3);
            options.hand_overs = options.hand_overs.min(3);
            options.memory_keys = options.memory_keys.min(200_000);
            options.restart_keys = options.restart_keys.min(200_000);
            options.checkpoint_keys = options.checkpoint_keys.min(200_000);
            options.soak_keys = options.soak_keys.min(100_000);
            options.soak_checkpoints = options.soak_checkpoints.min(20);
        }
        options
    }

    pub fn wants_side(&self, side: &str) -> bool {
        self.side.as_deref().is_none_or(|wanted| wanted == side)
    }

    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == part)
    }
}
