//! Files of containers, for the host: looked at, read out, and copied in.
//!
//! Paths are the caller's and what is there is the container's, so every walk stays in the root that it begins in,
//! nothing is opened before it is known to be a file or a directory, and what was looked at is what is opened.

use super::inside::reach_parent;
use super::mounts::{BASE, make_base};
use super::space::Space;
use crate::api::ferry::*;
use crate::api::guest::{CopyFileRequest, GetDiagnosticDataRequest};
use crate::prelude::*;
use crate::sys::file::{self, *};

/// Most bytes that one answer brings.
const READ_LIMIT: usize = 1 << 20;

/// Bytes that Kubernetes reads of what a container has said last.
const LAST_WORDS: u32 = 4096;

/// Names given at once, when there are more.
const NAMES: usize = 1024;

/// The container of a path of the guest's, and the path in that container.
pub fn container_of(path: &str) -> Option<(&str, &str)> {
    let (id, rest) = path.strip_prefix(BASE)?.strip_prefix('/')?.split_once('/')?;
    let inside = rest.strip_prefix("rootfs")?;
    (inside.is_empty() || inside.starts_with('/')).then_some((id, inside))
}

/// Takes hold of what is at a path, without opening it.
fn find(root: &Fd, path: &[u8], flags: u32) -> Result<Fd> {
    let shown = String::from_utf8_lossy(path);
    let path = if path.is_empty() { b"/" } else { path };
    match open_inside(root.raw(), path, O_PATH | flags, 0) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Err(fault!(NotFound, "{shown}: not found")),
        other => other.context(shown),
    }
}

/// What a path is.
pub fn stat(root: &Fd, call: &StatFileRequest) -> Result<FileInfo> {
    let found = find(root, &call.path, if call.follow { 0 } else { O_NOFOLLOW })?;
    let stat = stat_at(found.raw(), "").context("stat")?;
    let is_link = stat.st_mode & S_IFMT == S_IFLNK;
    let (device_major, device_minor) = file::device_numbers(stat.st_rdev);
    Ok(FileInfo {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: (stat.st_mtime as i64)
            .saturating_mul(1_000_000_000)
            .saturating_add(stat.st_mtime_nsec as i64),
        device_major,
        device_minor,
        link_target: if is_link { read_link(&found).context("read the link")? } else { Vec::new() },
        inode: stat.st_ino,
        device: stat.st_dev,
        links: stat.st_nlink,
    })
}

/// The names in a directory.
pub fn list(root: &Fd, call: &ReadDirRequest) -> Result<ReadDirResponse> {
    let found = find(root, &call.path, O_DIRECTORY)?;
    let mut answer = ReadDirResponse::default();
    (|| {
        let directory = reopen(&found, O_RDONLY | O_DIRECTORY)?;
        file::seek(directory.raw(), call.cursor)?;
        let mut next = call.cursor;
        while answer.names.len() < NAMES {
            let more = file::entries(directory.raw(), |name, after| {
                answer.names.push(name.into());
                next = after;
            })?;
            if !more {
                return Ok(());
            }
        }
        answer.next = next;
        Ok(())
    })()
    .context("list the directory")?;
    Ok(answer)
}

/// A part of a regular file.
pub fn read(root: &Fd, call: &ReadFileRequest) -> Result<ReadFileResponse> {
    let found = find(root, &call.path, 0)?;
    let is_file = stat_at(found.raw(), "").context("stat")?.st_mode & S_IFMT == S_IFREG;
    refuse_if!(!is_file, InvalidArgument, "not a regular file");
    let mut data = vec![0; READ_LIMIT.min(call.len as usize)];
    let length = reopen(&found, O_RDONLY | O_NONBLOCK)
        .and_then(|file| file::read_at(file.raw(), &mut data, call.offset))
        .context("read")?;
    data.truncate(length);
    Ok(ReadFileResponse { data })
}

/// `GetDiagnosticData`: what a container has said last, as UTF-8. Its answer is on the wire what that to a read is.
pub fn last_words(space: &Space, call: &GetDiagnosticDataRequest) -> Result<ReadFileResponse> {
    let is_known = call.log_type == "termination_log";
    refuse_if!(!is_known, InvalidArgument, "no log `{}`: there is termination_log", call.log_type);
    let root = match space.words_in_guest {
        false => space.open_root()?,
        true => file::open(file::CWD, "/", O_PATH, 0).context("open the root")?,
    };
    let path = space.last_words.as_bytes().into();
    let said = read(&root, &ReadFileRequest { path, len: LAST_WORDS, ..Default::default() })?;
    Ok(ReadFileResponse { data: String::from_utf8_lossy(&said.data).into_owned().into() })
}

/// Makes a directory, a symbolic link, or a part of a file. The path is of the guest, below [`BASE`]; below a
/// container's `rootfs` it is of that container.
pub fn copy_in(space: Option<&Space>, call: &CopyFileRequest) -> Result {
    let doing = format_args!("copy to {}", call.path);
    let (root, path) = match (space, container_of(&call.path)) {
        (Some(space), Some((_, path))) => (space.open_root()?, path),
        _ => {
            let path = call.path.strip_prefix(BASE).filter(|path| path.starts_with('/'));
            let path = path.ok_or_else(|| fault!(InvalidArgument, "{} is not below {BASE}", call.path))?;
            (make_base().context(doing)?, path)
        }
    };
    let offset = u64::try_from(call.offset).map_err(|_| fault!(InvalidArgument, "the offset is negative"))?;
    let size = u64::try_from(call.file_size).map_err(|_| fault!(InvalidArgument, "the size is negative"))?;
    let end = offset.checked_add(call.data.len() as u64).filter(|end| *end <= size);
    let end = end.ok_or_else(|| fault!(InvalidArgument, "the data ends after the file"))?;
    (|| {
        let above = if call.dir_mode == 0 { 0o755 } else { call.dir_mode & 0o7777 };
        let (parent, name) = reach_parent(root.raw(), path, above)?;
        let owner = (call.uid as u32, call.gid as u32);
        match call.file_mode & S_IFMT {
            S_IFDIR => {
                file::ensure_dir(parent.raw(), name, 0o700)?;
                let made = file::open(parent.raw(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)?;
                give(&made, owner, call.file_mode)
            }
            S_IFLNK => {
                replace(&parent, name)?;
                file::symlink(&call.data, parent.raw(), name)?;
                file::chown(parent.raw(), name, owner.0, owner.1)
            }
            0 | S_IFREG => {
                let file = if offset == 0 { begin(&parent, name)? } else { go_on(&parent, name)? };
                file::write_all_at(file.raw(), &call.data, offset)?;
                if end < size {
                    return Ok(());
                }
                file::set_length(file.raw(), size)?;
                give(&file, owner, call.file_mode)
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    })()
    .context(doing)
}

/// Sets owner and mode, in this order: a change of owner takes set-user-ID bits away.
fn give(file: &Fd, owner: (u32, u32), mode: u32) -> SysResult<()> {
    file::chown_fd(file.raw(), owner.0, owner.1)?;
    file::chmod_fd(file.raw(), mode)
}

/// Makes room for a new file.
fn replace(parent: &Fd, name: &str) -> SysResult<()> {
    file::unlink(parent.raw(), name).despite(Errno::ENOENT)
}

/// A new file in the place of an old one; one that is mounted there (as /etc/hosts is) is written itself.
fn begin(parent: &Fd, name: &str) -> SysResult<Fd> {
    match replace(parent, name) {
        Err(Errno::EBUSY) => {
            let file = go_on(parent, name)?;
            file::set_length(file.raw(), 0).map(|()| file)
        }
        other => other
            .and_then(|()| file::open(parent.raw(), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)),
    }
}

/// A file of which a part is there.
fn go_on(parent: &Fd, name: &str) -> SysResult<Fd> {
    let found = file::open(parent.raw(), name, O_PATH | O_NOFOLLOW, 0)?;
    match stat_at(found.raw(), "")?.st_mode & S_IFMT {
        S_IFREG => reopen(&found, O_WRONLY),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests;
