//! A run's private directory for sockets: mode 0700, short enough a path for `sockaddr_un`, gone after the run.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
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

/// Makes the part of a run's directory that is its VM's. Where `given` names a directory for the VM's sockets, that is it,
/// and is found here all the same.
pub fn make_for_vm(run: &Path, given: Option<&Path>) -> io::Result<()> {
    match given {
        None => std::fs::DirBuilder::new().mode(0o700).create(of_vm(run)),
        Some(given) => std::os::unix::fs::symlink(given_to_vm(given)?, of_vm(run)),
    }
}

/// Makes sure of a directory that is given to a VM, and makes it if it is missing; its path from the root. Since the VM's
/// process sees nothing else, and may remove what is there, there must be nothing there but sockets.
fn given_to_vm(given: &Path) -> io::Result<PathBuf> {
    let wrong =
        |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", given.display()));
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", given.display()));
    match std::fs::DirBuilder::new().mode(0o700).create(given) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(error)),
        _ => {}
    }
    let path = given.canonicalize().map_err(at)?;
    // The name of a port's socket is the longest.
    if path.as_os_str().len() + LONGEST_NAME >= SUN_PATH {
        return Err(wrong("the path is too long for a socket"));
    }
    let found = std::fs::metadata(&path).map_err(at)?;
    // SAFETY: takes nothing.
    let own = unsafe { libc::geteuid() };
    if own != 0 && found.uid() != own {
        return Err(wrong("it belongs to somebody else"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(wrong("others may enter it: make it for this alone (mode 0700)"));
    }
    for entry in std::fs::read_dir(&path).map_err(at)? {
        let entry = entry.map_err(at)?;
        if !entry.file_type().map_err(at)?.is_socket() {
            return Err(wrong("there is more than sockets in it: give the VM a directory of its own"));
        }
    }
    if std::os::unix::net::UnixStream::connect(path.join(super::vm_process::SOCKET)).is_ok() {
        return Err(wrong("another VM has it"));
    }
    Ok(path)
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
        make_for_vm(directory.path(), None).unwrap();
        let of_vm = std::fs::metadata(of_vm(directory.path())).unwrap();
        assert_eq!(of_vm.permissions().mode() & 0o777, 0o700);
        let path = directory.path().to_owned();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_is_given_to_a_vm_is_for_that_alone() {
        let place = tempfile::tempdir().unwrap();
        let run = |name: &str| {
            let run = place.path().join(name);
            std::fs::create_dir(&run).unwrap();
            run
        };
        let given = place.path().join("given");
        let first = run("first");
        make_for_vm(&first, Some(&given)).unwrap();
        assert_eq!(of_vm(&first).canonicalize().unwrap(), given.canonicalize().unwrap());
        assert_eq!(std::fs::metadata(&given).unwrap().permissions().mode() & 0o777, 0o700);
        let error = |name| make_for_vm(&run(name), Some(&given)).unwrap_err().to_string();
        let listener = std::os::unix::net::UnixListener::bind(given.join("vsock")).unwrap();
        assert!(error("second").contains("another VM has it"));
        drop(listener);
        // A socket that nobody listens at is no obstacle, nor are those of the host's programs.
        make_for_vm(&run("third"), Some(&given)).unwrap();
        std::fs::write(given.join("file"), "").unwrap();
        assert!(error("fourth").contains("more than sockets"));
        std::fs::remove_file(given.join("file")).unwrap();
        std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(error("fifth").contains("mode 0700"));
        std::fs::remove_dir_all(first).unwrap();
        assert!(given.exists(), "it stays");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        assert!(make_in(&place.path().join("x".repeat(80)), true).is_err());
    }
}
