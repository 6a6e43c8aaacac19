//! Paths inside a container's root. The image chooses what is there, so nothing is made or opened except
//! through walks that cannot leave the root.

use crate::prelude::*;
use crate::sys::file;
use crate::sys::file::*;

/// What a mount needs to be mounted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file that is no directory.
    File,
}

impl Kind {
    /// What is at a path below an open directory; the empty path is what is open itself.
    pub fn of(dir: i32, path: &str) -> SysResult<Kind> {
        let is_directory = stat_at(dir, path)?.st_mode & S_IFMT == S_IFDIR;
        Ok(if is_directory { Kind::Directory } else { Kind::File })
    }

    fn flags(self) -> u32 {
        if self == Kind::Directory { O_PATH | O_DIRECTORY } else { O_PATH }
    }
}

/// Most symbolic links on one way, as the kernel has it (MAXSYMLINKS).
const LINK_LIMIT: usize = 40;

/// Opens (with `O_PATH`) what is at `path` below `root`, made when it is missing, with directories above it.
/// `root` is a descriptor, or [`CWD`](crate::sys::file::CWD) for a process whose working directory is the root.
pub fn reach(root: i32, path: &str, kind: Kind, mode: u32) -> SysResult<Fd> {
    let whole = if path.is_empty() { "." } else { path };
    match open_inside(root, whole.as_bytes(), kind.flags(), 0) {
        Err(Errno::ENOENT) => make_last(root, path, kind, mode).or_else(|_| make(root, path, kind, mode)),
        other => other,
    }
}

/// Makes the last part of a path, which is mostly all that is missing, and no link.
fn make_last(root: i32, path: &str, kind: Kind, mode: u32) -> SysResult<Fd> {
    let (above, name) = reach_parent(root, path, 0o755)?;
    make_one(above.raw(), name, kind, mode)?;
    open_inside(above.raw(), name.as_bytes(), kind.flags() | O_NOFOLLOW, 0)
}

fn make_one(at: i32, name: &str, kind: Kind, mode: u32) -> SysResult<()> {
    if kind == Kind::Directory {
        return file::ensure_dir(at, name, mode);
    }
    open_inside(at, name.as_bytes(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode).map(drop)
}

/// Walks a path of which something is missing, and makes that. A link that leads nowhere yet is followed to
/// where it points, in the root, as images have for `/etc/resolv.conf`.
fn make(root: i32, path: &str, kind: Kind, mode: u32) -> SysResult<Fd> {
    // What is still to be walked, last part first, and what was walked: no links.
    let mut rest: Vec<String> = path.rsplit('/').map(String::from).collect();
    let mut here: Vec<Fd> = Vec::new();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        let name = match part.as_str() {
            "" | "." => continue,
            ".." => {
                here.pop();
                continue;
            }
            name => name.as_bytes(),
        };
        let at = here.last().map_or(root, Fd::raw);
        let found = match open_inside(at, name, O_PATH | O_NOFOLLOW, 0) {
            Err(Errno::ENOENT) => {
                let is_last = rest.iter().all(|part| part.is_empty() || part == ".");
                let (kind, mode) = if is_last { (kind, mode) } else { (Kind::Directory, 0o755) };
                make_one(at, &part, kind, mode)?;
                open_inside(at, name, O_PATH | O_NOFOLLOW, 0)?
            }
            other => other?,
        };
        if stat_at(found.raw(), "")?.st_mode & S_IFMT != S_IFLNK {
            here.push(found);
            continue;
        }
        links += 1;
        if links > LINK_LIMIT {
            return Err(Errno::ELOOP);
        }
        let target = String::from_utf8(read_link(&found)?).map_err(|_| Errno::EILSEQ)?;
        if target.starts_with('/') {
            here.clear();
        }
        rest.extend(target.rsplit('/').map(String::from));
    }
    let Some(found) = here.pop() else { return open_inside(root, b".", kind.flags(), 0) };
    match kind {
        Kind::Directory if Kind::of(found.raw(), "")? == Kind::File => Err(Errno::ENOTDIR),
        _ => Ok(found),
    }
}

/// Opens the directory that holds `path` below `root`, made when missing, and gives its last part.
pub fn reach_parent(root: i32, path: &str, mode: u32) -> SysResult<(Fd, &str)> {
    let path = path.trim_end_matches('/');
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    if name.is_empty() || name == ".." || name == "." {
        return Err(Errno::EINVAL);
    }
    Ok((reach(root, above, Kind::Directory, mode)?, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::{CWD, open};
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Fd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let path = dir.path().join("root");
        let path = path.to_str().unwrap();
        let fd = open(CWD, path, O_PATH | O_DIRECTORY, 0).unwrap();
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
    fn a_dangling_link_is_followed_to_where_it_points_inside() {
        let (dir, root) = root();
        let inside = dir.path().join("root");
        std::fs::create_dir(inside.join("etc")).unwrap();
        symlink("../run/resolve/stub.conf", inside.join("etc/resolv.conf")).unwrap();
        symlink(dir.path().join("outside"), inside.join("link")).unwrap();
        reach(root.raw(), "/etc/resolv.conf", Kind::File, 0o644).unwrap();
        assert!(inside.join("run/resolve/stub.conf").is_file());
        reach(root.raw(), "/link/sub", Kind::Directory, 0o755).unwrap();
        assert!(inside.join(dir.path().strip_prefix("/").unwrap()).join("outside/sub").is_dir());
        assert!(!dir.path().join("outside").exists());
    }

    #[test]
    fn links_that_go_round_end() {
        let (dir, root) = root();
        symlink("b/x", dir.path().join("root/a")).unwrap();
        symlink("a/x", dir.path().join("root/b")).unwrap();
        assert_eq!(reach(root.raw(), "/a/y", Kind::Directory, 0o755), Err(Errno::ELOOP));
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
