//! Everything a person or CI starts: build, run, test, bench, dist.
//!
//! `cargo xtask run IMAGE` turns a fresh machine into one that runs container images in virtual machines: it finds
//! what is missing, says what it will do about it, builds the guest's kernel and PID 1 once, and starts the image.
//! Nothing but the guest's own output goes to standard output; everything xtask has to say goes to standard error.

mod apt;
mod bench;
mod build;
mod cache;
mod cli;
mod elf;
mod fuzz;
mod kernel;
mod report;
mod run;
mod setup;
mod test;
mod tools;
mod workshop;

use std::process::ExitCode;

use clap::Parser;

/// The status of every failure that is not the container's own: see `ferry`'s exit statuses.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    // Its guests on KVM are processes of this program.
    if let Some(status) = ferry_vmm::runtime::take_over() {
        return ExitCode::from(status);
    }
    let cli = cli::Cli::parse();
    match cli::dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
