//! A run's private directory for sockets: mode 0700, short enough a path for `sockaddr_un`, gone after the run.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes of `sun_path`, its terminating zero included.
const SUN_PATH: usize = 108;
/// The longest name of a socket in the directory, with its slash.
const LONGEST_NAME: usize = 24;
/// What a directory's own name takes, with its slash.
const OWN_NAME: usize = 16;

/// The part of a run's directory that its VM's process has for its own, and sees as its root: what other commands use is
/// beside it, out of a hostile machine's reach.
pub fn of_vm(run: &Path) -> PathBuf {
    run.join("vm")
}

/// Makes the part of a run's directory that is its VM's.
pub fn make_for_vm(run: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(of_vm(run))
}

/// Makes the directory, in the first of the usual places that can hold it: `$XDG_RUNTIME_DIR`, `$TMPDIR` or `/tmp`, and
/// `fallback` (which is made where missing: an empty root has nothing of the kind).
pub fn make(fallback: &Path) -> io::Result<tempfile::TempDir> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let places =
        runtime.into_iter().chain([std::env::temp_dir(), PathBuf::from("/tmp"), fallback.to_owned()]);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no place for it");
    for place in places {
        match make_in(&place, place == fallback) {
            Ok(directory) => return Ok(directory),
            Err(error) => last = io::Error::new(error.kind(), format!("{}: {error}", place.display())),
        }
    }
    Err(last)
}

fn make_in(place: &Path, missing_is_made: bool) -> io::Result<tempfile::TempDir> {
    if place.as_os_str().len() + OWN_NAME + LONGEST_NAME >= SUN_PATH {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket"));
    }
    if missing_is_made {
        std::fs::create_dir_all(place)?;
    }
    tempfile::Builder::new()
        .prefix("ferry-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_may_look_in() {
        let place = tempfile::tempdir().unwrap();
        let directory = make_in(&place.path().join("made"), true).unwrap();
        assert_eq!(std::fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(make_in(&place.path().join("missing"), false).is_err());
        make_for_vm(directory.path()).unwrap();
        let of_vm = std::fs::metadata(of_vm(directory.path())).unwrap();
        assert_eq!(of_vm.permissions().mode() & 0o777, 0o700);
        let path = directory.path().to_owned();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        assert!(make_in(&place.path().join("x".repeat(80)), true).is_err());
    }
}
