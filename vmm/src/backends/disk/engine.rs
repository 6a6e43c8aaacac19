//! Transfers in the background: what a disk's files are asked for while the device goes on.
//!
//! [`Ring`](super::ring::Ring) hands a whole batch to the kernel with one system call, [`Pool`](super::pool::Pool) has a few
//! threads for hosts that have no io_uring or forbid it. Which of them it is, is decided once, when a disk is opened.

use super::pool::{Pool, Worker};
use super::ring::Ring;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// What is asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Filling buffers.
    Read,
    /// Writing buffers.
    Write,
    /// Making what was written durable.
    Flush,
    /// Giving a range back to the file system, as [`PUNCH`] has it: it reads as zeroes afterwards.
    Punch,
}

/// The mode of `fallocate(2)` that gives a range back and leaves the file as long as it is.
pub(super) const PUNCH: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// One transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// What its end is told by.
    pub(crate) tag: u32,
    /// What is to be done.
    pub(crate) work: Work,
    /// The number of the file.
    pub(crate) file: u32,
    /// Where in it.
    pub(crate) offset: u64,
    /// The buffers: nothing for what moves no bytes.
    pub(crate) vectors: *const libc::iovec,
    /// How many of them.
    pub(crate) count: u32,
    /// The length of a range that is given back, in bytes.
    pub(crate) bytes: u64,
}

// SAFETY: whoever makes a job keeps its buffers until it is done, in whatever thread that happens (see `Engine::start`).
unsafe impl Send for Job {}

/// Carries transfers out.
pub(crate) trait Engine: Send {
    /// Readable when a transfer may have ended.
    fn fd(&self) -> RawFd;

    /// Takes a transfer, to be begun with the next [`Engine::submit`].
    ///
    /// # Safety
    ///
    /// The vectors and the memory they describe stay until [`Engine::ended`] has told of this job.
    unsafe fn start(&mut self, job: Job) -> io::Result<()>;

    /// Begins what was taken, all at once.
    fn submit(&mut self) -> io::Result<()>;

    /// The next transfer that has ended: its tag, and the bytes moved or an error.
    fn ended(&mut self) -> Option<(u32, io::Result<u32>)>;

    /// Waits until a transfer has ended.
    fn wait(&mut self) -> io::Result<()>;

    /// There will be no transfers any more, and none is under way.
    fn close(&mut self) {}

    /// Threads that it needs, to be started once. They end with [`Engine::close`].
    fn workers(&mut self) -> Vec<Worker> {
        Vec::new()
    }
}

/// The engine that this host has for transfers from and to `files`, of which at most `most` are under way at a time.
pub(crate) fn choose(files: &[BorrowedFd<'_>], most: u32) -> io::Result<Box<dyn Engine>> {
    match Ring::new(files, most) {
        Ok(ring) => Ok(Box::new(ring)),
        // No io_uring (ENOSYS), none for this user (EPERM, EACCES), too old a one (EINVAL), no memory for it (ENOMEM).
        Err(_) => Ok(Box::new(Pool::new(files)?)),
    }
}

/// The engine of hosts without io_uring, for tests on hosts with it.
#[cfg(test)]
pub(crate) fn threads(files: &[BorrowedFd<'_>]) -> Box<dyn Engine> {
    Box::new(Pool::new(files).unwrap())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    /// What every engine must do, shown with two files.
    pub(in super::super) fn moves_what_it_is_asked_to(make: impl Fn(&[BorrowedFd<'_>]) -> Box<dyn Engine>) {
        let files: Vec<File> = (0..2).map(|_| tempfile::tempfile().unwrap()).collect();
        files[1].write_all_at(&[7; 8192], 0).unwrap();
        let mut engine = make(&files.iter().map(AsFd::as_fd).collect::<Vec<_>>());
        let threads: Vec<_> = engine.workers().into_iter().map(std::thread::spawn).collect();
        let (mut read, mut written) = (vec![0u8; 4096], vec![9u8; 1000]);
        let vector =
            |bytes: &mut [u8]| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let vectors = [vector(&mut read), vector(&mut written)];
        let job = |tag, work, file, offset, vector: usize| Job {
            tag,
            work,
            file,
            offset,
            vectors: vectors.get(vector).map_or(std::ptr::null(), |vector| vector),
            count: if vector < 2 { 1 } else { 0 },
            bytes: 4096,
        };
        let jobs = [
            job(10, Work::Read, 1, 4096 + 96, 0),
            job(11, Work::Write, 0, 512, 1),
            job(12, Work::Flush, 0, 0, 2),
            job(13, Work::Read, 0, 1 << 40, 2),
        ];
        for job in jobs {
            // SAFETY: the buffers live longer than the loop below.
            unsafe { engine.start(job).unwrap() };
        }
        engine.submit().unwrap();
        let mut ended = Vec::new();
        while ended.len() < jobs.len() {
            match engine.ended() {
                Some((tag, result)) => ended.push((tag, result.unwrap())),
                None => engine.wait().unwrap(),
            }
        }
        ended.sort();
        assert_eq!(ended, [(10, 4000), (11, 1000), (12, 0), (13, 0)], "the file ends within the first read");
        assert!(read[..4000].iter().all(|byte| *byte == 7));
        let mut found = [0; 1512];
        files[0].read_exact_at(&mut found, 0).unwrap();
        assert_eq!((&found[..512], &found[512..]), (&[0; 512][..], &[9; 1000][..]));
        assert!(engine.ended().is_none());

        // A file that there is none of is an error of that transfer alone.
        // SAFETY: nothing is read or written.
        unsafe { engine.start(job(20, Work::Flush, 2, 0, 2)).unwrap() };
        engine.submit().unwrap();
        let result = loop {
            match engine.ended() {
                Some((20, result)) => break result,
                Some(other) => panic!("{other:?}"),
                None => engine.wait().unwrap(),
            }
        };
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
        drop(engine);
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn every_host_has_one() {
        let file = tempfile::tempfile().unwrap();
        assert!(choose(&[file.as_fd()], 128).unwrap().fd() >= 0);
    }
}
