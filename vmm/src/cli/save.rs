//! `ferry save`: images out of the store, bit for bit as they came.

use super::{Fault, Global};
use clap::{Args, ValueEnum};
use ferry_images::reference::Name;
use ferry_images::source;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Options and operands of `ferry save`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ferry save -o redis.tar redis:7\n  ferry save redis:7 | ssh HOST docker load"
)]
pub struct SaveArgs {
    /// Write to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The kind of archive
    #[arg(long, value_enum, default_value = "docker-archive")]
    format: Format,
    /// Images that were pulled or loaded
    #[arg(required = true, value_name = "NAME")]
    names: Vec<Name>,
}

/// The values of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As docker save writes it since version 25; also an OCI layout
    DockerArchive,
    /// An OCI layout and nothing else; Docker's manifests become OCI's
    OciArchive,
}

/// `ferry save`.
pub fn save(global: &Global, args: &SaveArgs) -> Result<u8, Fault> {
    let store = global.store()?;
    let format = match args.format {
        Format::DockerArchive => source::Format::DockerArchive,
        Format::OciArchive => source::Format::OciArchive,
    };
    let write = |out: &mut dyn Write| source::save(&store, &args.names, format, out).map_err(Fault::new);
    match &args.output {
        Some(path) => to_file(path, write)?,
        None if io::stdout().is_terminal() => {
            return Err(Fault::new(
                "an archive is nothing for a terminal: name a file (-o FILE), or pipe it on",
            ));
        }
        None => write(&mut BufWriter::with_capacity(1 << 18, io::stdout().lock()))?,
    }
    Ok(0)
}

/// All of it, or whatever was there before. What is no regular file, such as a pipe, is written to as it is.
fn to_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), Fault>) -> Result<(), Fault> {
    let at = |error: &dyn std::fmt::Display| Fault::new(format_args!("{}: {error}", path.display()));
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        let mut file = std::fs::File::options().write(true).open(path).map_err(|error| at(&error))?;
        return write(&mut file);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let file = tempfile::Builder::new().permissions(readable).tempfile_in(directory);
    let mut file = file.map_err(|error| at(&error))?;
    write(&mut file)?;
    file.as_file().sync_all().map_err(|error| at(&error))?;
    file.persist(path).map_err(|error| at(&error.error))?;
    Ok(())
}
