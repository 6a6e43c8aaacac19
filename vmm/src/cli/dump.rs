//! `ferry dump`: a VM's memory and registers, as a file that debuggers read.

use super::Fault;
use super::target::{find, request};
use crate::runtime::monitor::protocol::Request;
use clap::Args;
use std::path::PathBuf;

/// Operands of `ferry dump`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct DumpArgs {
    /// Name, id, or beginning of an id
    container: String,
    /// The file: an ELF core, new, sparse where memory is empty
    file: PathBuf,
}

const HELP: &str = "\
The VM stands still meanwhile. Its memory holds whatever its programs know, passwords
too: the file can be read by its owner alone.

Examples:
  ferry dump web web.core
  gdb vmlinux web.core        each vCPU is a thread";

/// `ferry dump`.
pub fn dump(args: &DumpArgs) -> Result<u8, Fault> {
    let container = find(&args.container)?;
    let file = std::path::absolute(&args.file)
        .map_err(|error| Fault::new(format_args!("{}: {error}", args.file.display())))?;
    request(&container, &Request::Dump { file })?;
    Ok(0)
}
