//! The simulator: the real server under partitions, crashes and bad disks, decided by one seed.
//!
//! See `sim/README.md`. Built without `--cfg madsim` this is only a launcher that builds itself with it and runs that.

#[cfg(madsim)]
mod admin;
#[cfg(madsim)]
mod batches;
#[cfg(madsim)]
mod cli;
#[cfg(madsim)]
mod client;
#[cfg(madsim)]
mod disk_faults;
#[cfg(madsim)]
mod faults;
#[cfg(madsim)]
mod history;
#[cfg(madsim)]
mod invariants;
#[cfg(madsim)]
mod machine;
#[cfg(madsim)]
mod membership;
#[cfg(madsim)]
mod mutants;
#[cfg(madsim)]
mod page;
#[cfg(madsim)]
mod plan;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
mod scenarios;
#[cfg(madsim)]
mod schedules;
#[cfg(madsim)]
mod seen;
#[cfg(madsim)]
mod story;
#[cfg(madsim)]
mod workload;
#[cfg(madsim)]
mod world;

use std::process::ExitCode;

#[cfg(madsim)]
fn main() -> ExitCode {
    cli::main()
}

/// Builds the simulator as it has to be built, in a target folder of its own, and runs it.
#[cfg(not(madsim))]
fn main() -> ExitCode {
    use std::process::Command;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let target = std::env::var("QUORATE_SIM_TARGET").unwrap_or_else(|_| format!("{root}/target/sim"));
    let status = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["run", "--quiet", "--profile", "sim", "-p", "quorate-sim", "--"])
        .args(std::env::args_os().skip(1))
        .current_dir(root)
        .env("RUSTFLAGS", format!("{flags} --cfg madsim"))
        .env("CARGO_TARGET_DIR", target)
        .status();
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("cannot start cargo, which has to build the simulator: {error}");
            ExitCode::FAILURE
        }
    }
}
