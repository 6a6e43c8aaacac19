//! `ferry cp`: files into and out of a container that runs, with Docker's rules for what they are called.

use super::Fault;
use super::target::{agent_of_unpaused, find};
use crate::agent::Client;
use crate::runtime::copy::guest::{self, Files, Found};
use crate::runtime::copy::{CopyError, Keep, base_name, host, join, stream};
use crate::runtime::state::Listed;
use clap::Args;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Options and operands of `ferry cp`.
#[derive(Debug, Args)]
#[command(
    override_usage = "ferry cp [OPTIONS] CONTAINER:PATH DEST|-\n       ferry cp [OPTIONS] SOURCE|- CONTAINER:PATH",
    after_help = EXAMPLES
)]
pub struct CpArgs {
    /// Keep owners, and set-user-ID and set-group-ID bits
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link points to, where SOURCE is one
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// What is copied: a path here or CONTAINER:PATH; or - for a tar stream on standard input
    source: String,
    /// Where to: a path here or CONTAINER:PATH; or - for a tar stream on standard output
    dest: String,
}

const EXAMPLES: &str = "\
Examples:
  ferry cp web:/etc/nginx .            into ./nginx
  ferry cp site/. web:/srv             what is in site, into /srv
  ferry cp web:/var/log - | tar t      as a tar stream

A directory is copied into one that is there, under its own name; SOURCE/. means what is
in it. Where DEST is not there the copy gets that name. Devices, sockets and pipes are
left out, and hard links become files of their own.";

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stream,
    Host(PathBuf),
    Guest { container: String, path: Vec<u8> },
}

impl End {
    /// A container's name has no slash in it, so what has one before its first colon is a path here.
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((container, path))
                if !container.is_empty() && !container.contains('/') && !text.starts_with('.') =>
            {
                // Paths in a container begin at its root, with a slash or without.
                Self::Guest {
                    container: container.to_owned(),
                    path: join(b"/", path.trim_start_matches('/').as_bytes()),
                }
            }
            _ => Self::Host(PathBuf::from(text)),
        }
    }
}

/// What the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Directory,
    Other,
}

/// The path that the source's root gets at the destination; Docker's rules.
fn root_at(dest: &[u8], there: There, source: &[u8], source_is_directory: bool) -> Result<Vec<u8>, String> {
    let contents = source.ends_with(b"/.") || source == b"." || base_name(source).is_empty();
    match there {
        There::Directory if source_is_directory && contents => Ok(dest.to_vec()),
        There::Directory => Ok(join(dest, base_name(source))),
        There::Other if source_is_directory => {
            Err("a directory cannot be copied to what is no directory".to_owned())
        }
        There::Nothing if !source_is_directory && dest.ends_with(b"/") => {
            Err("the directory that the destination names is not there".to_owned())
        }
        There::Other if dest.ends_with(b"/") => Err("the destination is no directory".to_owned()),
        There::Other | There::Nothing => Ok(dest.to_vec()),
    }
}

/// `ferry cp`.
pub fn cp(args: &CpArgs) -> Result<u8, Fault> {
    let keep = if args.archive { Keep::Everything } else { Keep::Permissions };
    match (End::parse(&args.source), End::parse(&args.dest)) {
        (End::Guest { .. }, End::Guest { .. }) => {
            Err(Fault::new("copying between containers is not supported: copy to a directory here first"))
        }
        (End::Guest { container, path }, dest) => {
            let (container, client) = reach(&container)?;
            out(
                &Files { client: &client, container: &container.record.id },
                &path,
                &dest,
                keep,
                args.follow_link,
            )
        }
        (source, End::Guest { container, path }) => {
            let (container, client) = reach(&container)?;
            into(
                &source,
                Files { client: &client, container: &container.record.id },
                &path,
                keep,
                args.follow_link,
            )
        }
        _ => Err(Fault::new("neither end is in a container: write CONTAINER:PATH for one")),
    }
    .map(|()| 0)
}

fn reach(wanted: &str) -> Result<(Listed, Client), Fault> {
    let container = find(wanted)?;
    let client = agent_of_unpaused(&container)?;
    Ok((container, client))
}

fn out(files: &Files<'_>, path: &[u8], dest: &End, keep: Keep, follow: bool) -> Result<(), Fault> {
    let fault = |error: CopyError| Fault::new(error);
    let found = files.look(path).map_err(fault)?;
    if let End::Host(dest) = dest {
        let there = match dest.metadata() {
            Ok(metadata) if metadata.is_dir() => There::Directory,
            Ok(_) => There::Other,
            Err(_) => There::Nothing,
        };
        let at = |reason: String| Fault::new(format_args!("{}: {reason}", dest.display()));
        let root =
            root_at(dest.as_os_str().as_bytes(), there, path, found == Found::Directory).map_err(at)?;
        let root = Path::new(std::ffi::OsStr::from_bytes(&root));
        let mut sink = host::Into::new(root, keep)
            .map_err(|error| Fault::new(format_args!("{}: {error}", root.display())))?;
        return files.copy_out(path, follow, &mut sink).map_err(fault);
    }
    let mut sink = stream::Into::new(io::BufWriter::new(io::stdout().lock()), base_name(path));
    files.copy_out(path, follow, &mut sink).map_err(fault)
}

fn into(source: &End, files: Files<'_>, path: &[u8], keep: Keep, follow: bool) -> Result<(), Fault> {
    let fault = |error: CopyError| Fault::new(error);
    let there = match files.look(path).map_err(fault)? {
        Found::Nothing => There::Nothing,
        Found::Directory => There::Directory,
        Found::Other => There::Other,
    };
    let at = |reason: &str| {
        Fault::new(format_args!("{} in the container: {reason}", crate::runtime::copy::shown(path)))
    };
    let End::Host(source) = source else {
        if there != There::Directory {
            return Err(at("a tar stream is unpacked in a directory, and that is none"));
        }
        let mut sink = guest::Into { files, root: path.to_vec(), keep };
        return stream::copy_out(io::stdin().lock(), &mut sink).map_err(fault);
    };
    let metadata = if follow { source.metadata() } else { source.symlink_metadata() };
    let metadata = metadata.map_err(|error| Fault::new(format_args!("{}: {error}", source.display())))?;
    let name = source.as_os_str().as_bytes();
    let root = root_at(path, there, name, metadata.is_dir()).map_err(|reason| at(&reason))?;
    let mut sink = guest::Into { files, root, keep };
    host::copy_out(source, follow, &mut sink).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        let guest =
            |container: &str, path: &str| End::Guest { container: container.into(), path: path.into() };
        assert_eq!(End::parse("web:/etc/passwd"), guest("web", "/etc/passwd"));
        assert_eq!(End::parse("web:etc"), guest("web", "/etc"));
        assert_eq!(End::parse("web:"), guest("web", "/"));
        assert_eq!(End::parse("-"), End::Stream);
        for path in ["/a:b", "./a:b", "a/b:c", "file", ":x"] {
            assert_eq!(End::parse(path), End::Host(path.into()), "{path}");
        }
    }

    #[test]
    fn the_copy_is_called_what_docker_calls_it() {
        let root = |dest: &str, there, source: &str, directory| {
            root_at(dest.as_bytes(), there, source.as_bytes(), directory)
                .map(|path| String::from_utf8(path).unwrap())
        };
        use There::*;
        assert_eq!(root("/d", Directory, "a/file", false).unwrap(), "/d/file");
        assert_eq!(root("/d", Directory, "a/dir", true).unwrap(), "/d/dir");
        assert_eq!(root("/d", Directory, "a/dir/", true).unwrap(), "/d/dir");
        assert_eq!(root("/d", Directory, "a/dir/.", true).unwrap(), "/d");
        assert_eq!(root("/d", Directory, ".", true).unwrap(), "/d");
        assert_eq!(root("/new", Nothing, "a/dir", true).unwrap(), "/new");
        assert_eq!(root("/new", Nothing, "a/file", false).unwrap(), "/new");
        assert_eq!(root("/old", Other, "a/file", false).unwrap(), "/old");
        assert!(root("/new/", Nothing, "a/file", false).is_err());
        assert!(root("/old", Other, "a/dir", true).is_err());
        assert!(root("/old/", Other, "a/file", false).is_err());
    }
}
