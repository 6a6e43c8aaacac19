//! `--core-dir` and `--core-size`: what is wanted of the cores of processes that crash.

use crate::runtime::cores::{Cores, USUAL_LIMIT};
use crate::runtime::size::parse_size;
use crate::runtime::supervise::Failure;
use clap::Args;
use std::path::PathBuf;

/// Options of every command that runs containers, pods too.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Container")]
pub struct CoreArgs {
    /// Put what a process leaves that crashes into this directory, as NAME-core.PROGRAM.PID; it needs a writable root
    #[arg(long, value_name = "DIR")]
    pub core_dir: Option<PathBuf>,
    /// The largest such core [default: 256m]
    #[arg(long, value_name = "SIZE", requires = "core_dir", value_parser = parse_core_size)]
    pub core_size: Option<u64>,
}

/// Less says nothing about a process.
const LEAST: u64 = 64 << 10;

fn parse_core_size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(bytes) if bytes < LEAST => Err("that is too little for any core: at least 64k".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

impl CoreArgs {
    /// What they ask for.
    pub fn cores(&self) -> Result<Option<Cores>, Failure> {
        let Some(directory) = &self.core_dir else { return Ok(None) };
        let fault = |error: &dyn std::fmt::Display| {
            Failure::early(format!("--core-dir {}: {error}", directory.display()))
        };
        if !std::fs::metadata(directory).map_err(|error| fault(&error))?.is_dir() {
            return Err(fault(&"it is not a directory"));
        }
        let directory = std::path::absolute(directory).map_err(|error| fault(&error))?;
        Ok(Some(Cores { directory, limit: self.core_size.unwrap_or(USUAL_LIMIT) }))
    }
}
