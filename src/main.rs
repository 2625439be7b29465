//! The `quorate` binary: the command line over the library, and the allocator.

use std::process::ExitCode;

/// Keys are small objects, and their memory is a figure we are measured by: see `Cargo.toml`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    quorate::cli::main(quorate::node::run)
}
