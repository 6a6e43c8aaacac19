//! Paths inside a container's root. The image chooses what is there, so nothing is made or opened except
//! through walks that cannot leave the root.

use alloc::string::String;
use alloc::vec::Vec;

use crate::sys::file::{CWD, O_CREAT, O_DIRECTORY, O_EXCL, O_PATH, O_WRONLY, open_inside};
use crate::sys::{Errno, Fd, Result, cstr, file};

/// What a mount needs to be mounted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file that is no directory.
    File,
}

/// The parts of a path, with `.` and `..` resolved as text.
fn parts(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

/// Opens (with `O_PATH`) what is at `path` below `root`, made when it is missing, with directories above it.
/// `root` is a descriptor, or [`CWD`] for a process whose working directory is the root.
pub fn reach(root: i32, path: &str, kind: Kind, mode: u32) -> Result<Fd> {
    let flags = match kind {
        Kind::Directory => O_PATH | O_DIRECTORY,
        Kind::File => O_PATH,
    };
    let whole = cstr(match path {
        "" => ".",
        path => path,
    })?;
    match open_inside(root, &whole, flags, 0) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let parts = parts(path);
    let Some((last, above)) = parts.split_last() else { return Err(Errno::ENOENT) };
    let mut walked = String::new();
    let mut parent = open_inside(root, c".", O_PATH | O_DIRECTORY, 0)?;
    for part in above {
        parent = step(root, &parent, &mut walked, part, 0o755)?;
    }
    match kind {
        Kind::Directory => step(root, &parent, &mut walked, last, mode),
        Kind::File => {
            let name = cstr(last)?;
            let made = open_inside(parent.raw(), &name, O_WRONLY | O_CREAT | O_EXCL, mode);
            made.and_then(|_| open_inside(parent.raw(), &name, O_PATH, 0))
        }
    }
}

/// Goes one directory down, making it when it is missing.
fn step(root: i32, parent: &Fd, walked: &mut String, part: &str, mode: u32) -> Result<Fd> {
    walked.push('/');
    walked.push_str(part);
    // From the root each time, so that a link on the way is followed as the container would follow it.
    match open_inside(root, &cstr(walked)?, O_PATH | O_DIRECTORY, 0) {
        Err(Errno::ENOENT) => {
            file::ensure_dir(parent.raw(), &cstr(part)?, mode)?;
            open_inside(parent.raw(), &cstr(part)?, O_PATH | O_DIRECTORY, 0)
        }
        other => other,
    }
}

/// Opens the directory that holds `path`, made when missing, and gives its last part.
pub fn reach_parent(path: &str) -> Result<(Fd, &str)> {
    let path = path.trim_end_matches('/');
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    if name.is_empty() || name == ".." || name == "." {
        return Err(Errno::EINVAL);
    }
    Ok((reach(CWD, above, Kind::Directory, 0o755)?, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::open;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Fd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let path = cstr(dir.path().join("root").to_str().unwrap()).unwrap();
        let fd = open(CWD, &path, O_PATH | O_DIRECTORY, 0).unwrap();
        (dir, fd)
    }

    #[test]
    fn makes_what_is_missing() {
        let (dir, root) = root();
        reach(root.raw(), "/a/b/c", Kind::Directory, 0o755).unwrap();
        reach(root.raw(), "/a/b/file", Kind::File, 0o644).unwrap();
        reach(root.raw(), "/a/b/file", Kind::File, 0o644).unwrap();
        assert!(dir.path().join("root/a/b/c").is_dir());
        assert!(dir.path().join("root/a/b/file").is_file());
        reach(root.raw(), "", Kind::Directory, 0o755).unwrap();
    }

    #[test]
    fn nothing_is_made_outside_the_root() {
        let (dir, root) = root();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, dir.path().join("root/absolute")).unwrap();
        symlink("../outside", dir.path().join("root/relative")).unwrap();
        for path in ["/absolute/x", "/relative/x", "/../outside/x", "/absolute/../../outside/x"] {
            let _ = reach(root.raw(), path, Kind::Directory, 0o755);
            let _ = reach(root.raw(), &format!("{path}-file"), Kind::File, 0o644);
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_dangling_link_is_an_error_not_a_way_out() {
        let (dir, root) = root();
        symlink(dir.path().join("outside"), dir.path().join("root/link")).unwrap();
        assert!(reach(root.raw(), "/link", Kind::Directory, 0o755).is_err());
        assert!(reach(root.raw(), "/link", Kind::File, 0o644).is_err());
        assert!(!dir.path().join("outside").exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_path_leaves_the_root(path in "(/|[.]{1,2}|[ab]|up|abs){0,8}") {
            let (dir, root) = root();
            symlink("..", dir.path().join("root/up")).unwrap();
            symlink(dir.path(), dir.path().join("root/abs")).unwrap();
            let _ = reach(root.raw(), &path, Kind::Directory, 0o755);
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
