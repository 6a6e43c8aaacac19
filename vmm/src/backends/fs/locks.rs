//! POSIX locks of the guest's processes, held on the host.
//!
//! A lock of the host belongs to an open file (`F_OFD_SETLK`), one of the guest to a process: so each process that locks a file
//! gets an open file for it here, which is closed when the process closes the file, as POSIX wants it. BSD locks need
//! nothing of the kind, they belong to the guest's open file, which is one here too.

use super::wire::FileLock;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;

/// The most processes with a lock on a file, over all files.
const MOST: usize = 1024;

/// The locks of a guest, by node and by the process that holds them.
#[derive(Default)]
pub(super) struct Locks(BTreeMap<(u64, u64), File>);

impl Locks {
    /// Sets, changes or takes back a lock without waiting; `EAGAIN` when somebody else has one. The file is opened when this
    /// process has none on this node.
    pub fn set(
        &mut self,
        (node, owner): (u64, u64),
        lock: &FileLock,
        open: impl FnOnce() -> Result<File, Errno>,
    ) -> Result<(), Errno> {
        let known = self.0.contains_key(&(node, owner));
        if !known {
            if lock.kind == libc::F_UNLCK as u32 {
                return Ok(());
            }
            if self.0.len() >= MOST {
                return Err(Errno::NOLCK);
            }
            self.0.insert((node, owner), open()?);
        }
        let file = self.0.get(&(node, owner)).ok_or(Errno::NOLCK)?;
        let result = control(file, libc::F_OFD_SETLK, lock).map(drop);
        if result.is_err() && !known {
            self.0.remove(&(node, owner));
        }
        result
    }

    /// Who stands in the way of a lock.
    pub fn get(
        &mut self,
        (node, owner): (u64, u64),
        lock: &FileLock,
        open: impl FnOnce() -> Result<File, Errno>,
    ) -> Result<FileLock, Errno> {
        match self.0.get(&(node, owner)) {
            Some(file) => control(file, libc::F_OFD_GETLK, lock),
            None => control(&open()?, libc::F_OFD_GETLK, lock),
        }
    }

    /// A process has closed a file: its locks on it are gone.
    pub fn closed(&mut self, node: u64, owner: u64) {
        self.0.remove(&(node, owner));
    }

    /// All locks are gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn control(file: &File, command: libc::c_int, lock: &FileLock) -> Result<FileLock, Errno> {
    let kind = match lock.kind as libc::c_int {
        kind @ (libc::F_RDLCK | libc::F_WRLCK | libc::F_UNLCK) => kind,
        _ => return Err(Errno::INVAL),
    };
    let start = i64::try_from(lock.start).map_err(|_| Errno::INVAL)?;
    // The last byte of all stands for "to the end, however far that moves".
    let length = match i64::try_from(lock.end) {
        Err(_) => 0,
        Ok(i64::MAX) => 0,
        Ok(end) if end < start => return Err(Errno::INVAL),
        Ok(end) => (end - start).checked_add(1).ok_or(Errno::INVAL)?,
    };
    let mut asked = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    // SAFETY: these commands take a pointer to a complete `flock`, which outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut asked) } != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    let start = asked.l_start as u64;
    let end = match asked.l_len {
        0 => i64::MAX as u64,
        length => start.saturating_add(length as u64 - 1),
    };
    // Locks of open files have no process.
    Ok(FileLock { start, end, kind: asked.l_type as u32, pid: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(kind: libc::c_int, start: u64, end: u64) -> FileLock {
        FileLock { start, end, kind: kind as u32, pid: 1 }
    }

    #[test]
    fn processes_exclude_each_other_until_they_close_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).map_err(|_| Errno::IO);
        let mut locks = Locks::default();
        let write = lock(libc::F_WRLCK, 0, 9);
        locks.set((2, 7), &write, open).unwrap();
        locks.set((2, 7), &write, || panic!("it is open")).unwrap();
        assert_eq!(locks.set((2, 8), &write, open), Err(Errno::AGAIN));
        let found = locks.get((2, 8), &lock(libc::F_RDLCK, 5, u64::MAX), open).unwrap();
        assert_eq!((found.kind, found.start, found.end), (libc::F_WRLCK as u32, 0, 9));
        locks.set((2, 8), &lock(libc::F_WRLCK, 10, i64::MAX as u64), open).unwrap();
        locks.set((2, 7), &lock(libc::F_UNLCK, 0, 4), open).unwrap();
        locks.set((2, 8), &lock(libc::F_RDLCK, 0, 4), open).unwrap();
        locks.closed(2, 7);
        locks.set((2, 8), &write, open).unwrap();
        assert_eq!(locks.0.len(), 1);
    }

    #[test]
    fn locks_that_make_no_sense_are_refused() {
        let open = || tempfile::tempfile().map_err(|_| Errno::IO);
        let mut locks = Locks::default();
        for bad in [lock(9, 0, 1), lock(libc::F_WRLCK, u64::MAX, u64::MAX), lock(libc::F_WRLCK, 5, 4)] {
            assert_eq!(locks.set((2, 1), &bad, open), Err(Errno::INVAL));
        }
        locks.set((2, 1), &lock(libc::F_UNLCK, 0, 1), || panic!("there is nothing to unlock")).unwrap();
        assert!(locks.0.is_empty());
    }
}
