//! Files, directories and descriptors.

use linux_raw_sys::general as c;
use linux_raw_sys::ioctl::EXT4_IOC_RESIZE_FS;
use syscalls::{Sysno, syscall};

use super::{Fd, Result, Room, uninterrupted};
use crate::prelude::*;

pub use linux_raw_sys::general::{
    AT_FDCWD as CWD, O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH,
    O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, S_IFBLK, S_IFCHR, S_IFDIR,
    S_IFIFO, S_IFLNK, S_IFMT, S_IFREG,
};

/// What `stat` says of a file.
pub type Stat = c::stat;

/// Opens a file; the descriptor does not survive an exec.
pub fn open(dir: i32, path: &str, flags: u32, mode: u32) -> Result<Fd> {
    uninterrupted(|| open_once(dir, path, flags | c::O_CLOEXEC, mode))
}

/// Opens a file below `root` as if `root` were `/`: no symbolic link, absolute or with `..`, leads out of it,
/// and magic links (those of /proc) are refused. `root` may be [`CWD`].
pub fn open_inside(root: i32, path: &[u8], flags: u32, mode: u32) -> Result<Fd> {
    let mut room = Room::new();
    let path = room.hold(path)?;
    let how = c::open_how {
        flags: u64::from(flags | c::O_CLOEXEC),
        mode: u64::from(mode),
        resolve: u64::from(c::RESOLVE_IN_ROOT | c::RESOLVE_NO_MAGICLINKS),
    };
    // EAGAIN: a rename raced with the walk; the kernel asks for another try.
    for _ in 0..16 {
        // SAFETY: `path` is a C string and `how` outlives the call, with its own size given.
        match uninterrupted(|| unsafe {
            syscall!(Sysno::openat2, root, path, &raw const how, size_of::<c::open_how>())
        }) {
            Err(Errno::EAGAIN) => continue,
            other => return other.map(Fd::new),
        }
    }
    Err(Errno::EAGAIN)
}

/// Reads what is there, at most `buffer`'s length.
pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
    uninterrupted(|| unsafe { syscall!(Sysno::read, fd, buffer.as_mut_ptr(), buffer.len()) })
}

/// Reads what is there at an offset, at most `buffer`'s length.
pub fn read_at(fd: i32, buffer: &mut [u8], offset: u64) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
    uninterrupted(|| unsafe { syscall!(Sysno::pread64, fd, buffer.as_mut_ptr(), buffer.len(), offset) })
}

/// Writes all of `data` at an offset.
pub fn write_all_at(fd: i32, mut data: &[u8], mut offset: u64) -> Result<()> {
    while !data.is_empty() {
        // SAFETY: the kernel only reads `data`.
        match uninterrupted(|| unsafe { syscall!(Sysno::pwrite64, fd, data.as_ptr(), data.len(), offset) })? {
            0 => return Err(Errno::EIO),
            written => (data, offset) = (&data[written..], offset.saturating_add(written as u64)),
        }
    }
    Ok(())
}

/// Opens what a descriptor stands for once more, such as one of `O_PATH` to be read.
pub fn reopen(fd: &Fd, flags: u32) -> Result<Fd> {
    open(CWD, &format!("/proc/self/fd/{}", fd.raw()), flags, 0)
}

/// Writes some of `data`.
pub fn write(fd: i32, data: &[u8]) -> Result<usize> {
    // SAFETY: the kernel only reads `data`.
    uninterrupted(|| unsafe { syscall!(Sysno::write, fd, data.as_ptr(), data.len()) })
}

/// Writes all of `data` to a blocking descriptor.
pub fn write_all(fd: i32, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match write(fd, data)? {
            0 => return Err(Errno::EIO),
            written => data = &data[written..],
        }
    }
    Ok(())
}

/// Writes `data` with one call, as files of /proc, /sys and cgroups want it.
pub fn write_control(dir: i32, path: &str, data: &[u8]) -> Result<()> {
    let file = open(dir, path, c::O_WRONLY, 0)?;
    write(file.raw(), data).map(|_| ())
}

/// Makes or replaces a file.
pub fn write_file(dir: i32, path: &str, data: &[u8], mode: u32) -> Result<()> {
    let file = open(dir, path, c::O_WRONLY | c::O_CREAT | c::O_TRUNC, mode)?;
    write_all(file.raw(), data)
}

/// Reads a whole file, of at most `limit` bytes: `EFBIG` when there is more.
pub fn read_file(dir: i32, path: &str, limit: usize) -> Result<Vec<u8>> {
    read_to_end(open(dir, path, c::O_RDONLY, 0)?.raw(), limit)
}

/// As [`read_file`], what an open file has from where it is.
pub fn read_to_end(fd: i32, limit: usize) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    while read_more(fd, &mut data)? > 0 {
        if data.len() > limit {
            return Err(Errno::EFBIG);
        }
    }
    Ok(data)
}

/// Reads what is there, a page at most, behind what was read before. Returns how many bytes.
fn read_more(fd: i32, data: &mut Vec<u8>) -> Result<usize> {
    if data.len() == data.capacity() {
        data.try_reserve(4096).map_err(|_| Errno::ENOMEM)?;
    }
    let free = data.spare_capacity_mut();
    // SAFETY: the kernel writes at most as much as is free, and says how much.
    unsafe {
        let length = uninterrupted(|| syscall!(Sysno::read, fd, free.as_mut_ptr(), free.len()))?;
        data.set_len(data.len() + length);
        Ok(length)
    }
}

/// Reads a small file of /proc or /sys, at most one page.
pub fn read_control(dir: i32, path: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_page(dir, path)?).into_owned())
}

/// The same as bytes.
pub fn read_page(dir: i32, path: &str) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    read_more(open(dir, path, c::O_RDONLY, 0)?.raw(), &mut page)?;
    Ok(page)
}

/// What is at a path below an open directory, symbolic links followed; the empty path is what is open itself.
pub fn stat_at(dir: i32, path: &str) -> Result<Stat> {
    let mut stat = core::mem::MaybeUninit::<Stat>::uninit();
    // SAFETY: the kernel fills the structure, whose every bit pattern is valid.
    unsafe {
        syscall!(Sysno::newfstatat, dir, text!(path), stat.as_mut_ptr(), c::AT_EMPTY_PATH)?;
        Ok(stat.assume_init())
    }
}

/// The major and the minor number in the `st_dev` or `st_rdev` of a file (makedev(3)'s layout).
pub fn device_numbers(device: u64) -> (u32, u32) {
    ((device >> 8 & 0xfff | device >> 32 & !0xfff) as u32, (device & 0xff | device >> 12 & !0xff) as u32)
}

/// The number by which ext4 is known (EXT4_SUPER_MAGIC).
pub const EXT4_MAGIC: i64 = 0xef53;

/// What the filesystem of an open file is, and how full.
pub fn stat_filesystem(fd: &Fd) -> Result<c::statfs> {
    let mut stat = core::mem::MaybeUninit::<c::statfs>::zeroed();
    // SAFETY: the kernel fills the structure, whose every bit pattern is valid.
    unsafe {
        syscall!(Sysno::fstatfs, fd.raw(), stat.as_mut_ptr())?;
        Ok(stat.assume_init())
    }
}

calls! { Result<()>;
    /// Makes a file as long as this, in bytes.
    pub set_length(fd: i32, length: u64) = ftruncate(fd, length);

    /// Makes a directory.
    pub mkdir(dir: i32, path: &str, mode: u32) = mkdirat(dir, text!(path), mode);

    /// Removes a directory.
    pub rmdir(dir: i32, path: &str) = unlinkat(dir, text!(path), c::AT_REMOVEDIR);

    /// Removes a name that is no directory.
    pub unlink(dir: i32, path: &str) = unlinkat(dir, text!(path), 0);

    /// Gives a file another name, in place of what had it.
    pub rename(from: &str, to: &str) = rename(text!(from), text!(to));

    /// Makes a symbolic link.
    pub symlink(target: &[u8], dir: i32, path: &str) =
        symlinkat(text!(target), dir, text!(path));

    /// Changes the owner of an open file.
    pub chown_fd(fd: i32, uid: u32, gid: u32) = fchown(fd, uid, gid);

    /// Changes the owner of a file, not following a last symbolic link.
    pub chown(dir: i32, path: &str, uid: u32, gid: u32) =
        fchownat(dir, text!(path), uid, gid, c::AT_SYMLINK_NOFOLLOW);

    /// Changes the mode of an open file.
    pub chmod_fd(fd: i32, mode: u32) = fchmod(fd, mode & 0o7777);

    /// Changes the mode of a file.
    pub chmod(dir: i32, path: &str, mode: u32) = fchmodat(dir, text!(path), mode & 0o7777);

    /// Changes the working directory to an open one.
    pub chdir_fd(fd: i32) = fchdir(fd);

    /// Changes the working directory.
    pub chdir(path: &str) = chdir(text!(path));

    /// Changes the root directory.
    pub chroot(path: &str) = chroot(text!(path));

    /// Makes the end of a pipe non-blocking; it has no other flags that could be lost.
    pub set_nonblocking(pipe: &Fd) = fcntl(pipe.raw(), c::F_SETFL, c::O_NONBLOCK);

    /// Makes `to` another name of the open file `from`, kept on exec.
    pub duplicate_to(from: i32, to: i32) = dup2(from, to);

    /// Goes to a place in a directory that [`entries`] gave.
    pub seek(fd: i32, offset: u64) = lseek(fd, offset, c::SEEK_SET);

    /// Lets memory be swapped to a disk.
    pub swap_on(path: &str) = swapon(text!(path), 0);

    /// Makes a device node, pipe or file of this number (see [`device`]).
    pub mknod(dir: i32, path: &str, mode: u32, device: u32) = mknodat(dir, text!(path), mode, device);

    /// Grows the ext4 filesystem of an open file to this many blocks (include/uapi/linux/ext4.h).
    pub resize_ext4(fd: &Fd, blocks: u64) = ioctl(fd.raw(), EXT4_IOC_RESIZE_FS, &raw const blocks);
}

calls! { ();
    /// Sets the bits that new files do not get.
    pub umask(mask: u32) = umask(mask);

    /// Closes every descriptor from `first` on: for a process that is about to need none of them.
    pub close_from(first: i32) = close_range(first, u32::MAX, 0);

    /// Writes everything cached to the disks.
    pub sync() = sync();
}

calls! { Result<Fd>;
    open_once(dir: i32, path: &str, flags: u32, mode: u32) = openat(dir, text!(path), flags, mode);

    /// A second descriptor of the same open file, closed on exec.
    pub duplicate(fd: i32) = fcntl(fd, c::F_DUPFD_CLOEXEC, 3);
}

/// The kernel's "new" encoding of a device's major and minor number (include/linux/kdev_t.h).
pub fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Makes a directory that may be there already.
pub fn ensure_dir(dir: i32, path: &str, mode: u32) -> Result<()> {
    mkdir(dir, path, mode).despite(Errno::EEXIST)
}

/// Where a symbolic link, opened itself, points.
pub fn read_link(link: &Fd) -> Result<Vec<u8>> {
    let mut target = vec![0; 4096];
    // SAFETY: the kernel writes at most the buffer's length.
    let length =
        unsafe { syscall!(Sysno::readlinkat, link.raw(), c"".as_ptr(), target.as_mut_ptr(), target.len()) }?;
    target.truncate(length);
    Ok(target)
}

/// A pipe: its reading and its writing end, with `flags` besides close-on-exec.
pub fn pipe(flags: u32) -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    // SAFETY: the kernel writes two descriptors into `ends`.
    unsafe { syscall!(Sysno::pipe2, ends.as_mut_ptr(), flags | c::O_CLOEXEC) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// The names in a directory that are text, `.` and `..` left out, at most `limit` of them.
pub fn list(fd: i32, limit: usize) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while entries(fd, |name, _| names.extend(core::str::from_utf8(name).map(String::from)))? {
        if names.len() > limit {
            return Err(Errno::EOVERFLOW);
        }
    }
    Ok(names)
}

/// Calls `each` with the names (`.` and `..` left out) in the next piece of a directory, and with where the next one
/// begins. `false` at the end.
pub fn entries(fd: i32, mut each: impl FnMut(&[u8], u64)) -> Result<bool> {
    let mut buffer = [0u8; 2048];
    // SAFETY: the kernel writes at most the buffer's length into it.
    let length = unsafe { syscall!(Sysno::getdents64, fd, buffer.as_mut_ptr(), buffer.len()) }?;
    // struct linux_dirent64: ino u64, off u64, reclen u16, type u8, then the name with its NUL.
    let mut rest = &buffer[..length];
    while let Some((&[.., a, b, c, d, e, f, g, h, low, high], _)) = rest.split_first_chunk::<18>() {
        let record = usize::from(u16::from_le_bytes([low, high]));
        let Some(name) = rest.get(19..record).and_then(|name| name.split(|&byte| byte == 0).next()) else {
            break;
        };
        if name != b"." && name != b".." {
            each(name, u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        }
        rest = &rest[record..];
    }
    Ok(length != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Fd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = open(CWD, dir.path().to_str().unwrap(), O_PATH | O_DIRECTORY, 0).unwrap();
        (dir, fd)
    }

    #[test]
    fn absolute_links_stay_inside_the_root() {
        let (dir, fd) = root();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("dots")).unwrap();
        for name in [b"link", b"dots"] {
            let file = open_inside(fd.raw(), name, O_RDONLY, 0).unwrap();
            assert_eq!(read_to_end(file.raw(), 100).unwrap(), b"inside");
        }
    }

    #[test]
    fn magic_links_are_refused() {
        let proc = open(CWD, "/proc", O_PATH | O_DIRECTORY, 0).unwrap();
        assert_eq!(open_inside(proc.raw(), b"self/root", O_PATH, 0).unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn lists_a_directory_larger_than_its_buffer() {
        let (dir, _) = root();
        for n in 0..200 {
            std::fs::write(dir.path().join(format!("file-with-a-name-{n}")), "").unwrap();
        }
        let fd = open(CWD, dir.path().to_str().unwrap(), O_DIRECTORY, 0).unwrap();
        let mut names = list(fd.raw(), 1000).unwrap();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 200);
        let again = open(CWD, dir.path().to_str().unwrap(), O_DIRECTORY, 0).unwrap();
        assert_eq!(list(again.raw(), 199), Err(Errno::EOVERFLOW));
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let (dir, fd) = root();
        std::fs::write(dir.path().join("f"), vec![7; 5000]).unwrap();
        let open = || open(fd.raw(), "f", O_RDONLY, 0).unwrap();
        assert_eq!(read_to_end(open().raw(), 4999), Err(Errno::EFBIG));
        assert_eq!(read_to_end(open().raw(), 5000).unwrap().len(), 5000);
    }
}
