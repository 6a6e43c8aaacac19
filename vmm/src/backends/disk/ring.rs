//! Transfers by io_uring: one system call a batch, none where the kernel has the bytes at hand when they are asked for.
//!
//! What is asked by a ring passes no seccomp filter. So this one is restricted for good before it is used (Linux 5.10): it
//! reads, writes, syncs and gives ranges back, and it does that with the files that it was made with.

use super::engine::{Engine, Job, PUNCH, Work};
use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// The most entries of the submission ring; a longer batch takes several calls.
const ENTRIES: u32 = 128;
/// How often the kernel is asked again that has no room at the moment.
const PATIENCE: usize = 1000;

/// A ring for some files.
pub(super) struct Ring {
    ring: IoUring,
    /// Taken, and not yet handed to the kernel.
    waiting: usize,
}

impl Ring {
    /// A ring for `files`, with room for the ends of `most` transfers; an error where the host has none that will do.
    pub(super) fn new(files: &[BorrowedFd<'_>], most: u32) -> io::Result<Self> {
        let entries = most.clamp(1, ENTRIES).next_power_of_two();
        let ends = most.max(2 * entries).next_power_of_two();
        let ring = IoUring::builder().setup_r_disabled().setup_cqsize(ends).build(entries)?;
        let files: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let fixed = Flags::FIXED_FILE.bits();
        let mut restrictions = [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_op(opcode::Fallocate::CODE),
            Restriction::sqe_flags_allowed(fixed),
            Restriction::sqe_flags_required(fixed),
        ];
        let submitter = ring.submitter();
        submitter.register_files(&files)?;
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self { ring, waiting: 0 })
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> bool {
        // SAFETY: whoever called `start` keeps the buffers.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }
}

impl Engine for Ring {
    fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    unsafe fn start(&mut self, job: Job) -> io::Result<()> {
        let file = types::Fixed(job.file);
        let entry = match job.work {
            Work::Read => opcode::Readv::new(file, job.vectors, job.count).offset(job.offset).build(),
            Work::Write => opcode::Writev::new(file, job.vectors, job.count).offset(job.offset).build(),
            Work::Flush => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
            Work::Punch => opcode::Fallocate::new(file, job.bytes).offset(job.offset).mode(PUNCH).build(),
        };
        let entry = entry.user_data(job.tag.into());
        if !self.push(&entry) {
            self.submit()?;
            if !self.push(&entry) {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
        }
        self.waiting += 1;
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        let mut patience = PATIENCE;
        while self.waiting > 0 {
            match self.ring.submit() {
                Ok(count) => self.waiting = self.waiting.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if patience == 0 => return Err(error),
                Err(error) if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    return Err(error);
                }
                Err(_) => patience -= 1,
            }
        }
        Ok(())
    }

    fn ended(&mut self) -> Option<(u32, io::Result<u32>)> {
        let end = self.ring.completion().next()?;
        let result = u32::try_from(end.result()).map_err(|_| io::Error::from_raw_os_error(-end.result()));
        Some((end.user_data() as u32, result))
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()?;
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::moves_what_it_is_asked_to;
    use super::*;
    use std::os::fd::AsFd;

    /// A ring, unless this host has none.
    fn ring(files: &[BorrowedFd<'_>]) -> Option<Ring> {
        Ring::new(files, 4).inspect_err(|error| println!("skipped: no io_uring: {error}")).ok()
    }

    #[test]
    fn moves_bytes() {
        let file = tempfile::tempfile().unwrap();
        if ring(&[file.as_fd()]).is_some() {
            moves_what_it_is_asked_to(|files| Box::new(ring(files).unwrap()));
        }
    }

    #[test]
    fn takes_more_than_fits_into_it_at_once() {
        let file = tempfile::tempfile().unwrap();
        let Some(mut ring) = ring(&[file.as_fd()]) else { return };
        for tag in 0..20 {
            let flush = Job {
                tag,
                work: Work::Flush,
                file: 0,
                offset: 0,
                vectors: std::ptr::null(),
                count: 0,
                bytes: 0,
            };
            // SAFETY: nothing is read or written.
            unsafe { ring.start(flush).unwrap() };
            if tag % 4 == 3 {
                ring.submit().unwrap();
                for _ in 0..4 {
                    while ring.ended().is_none() {
                        ring.wait().unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn does_nothing_but_what_disks_need() {
        let file = tempfile::tempfile().unwrap();
        let Some(mut ring) = ring(&[file.as_fd()]) else { return };
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
        let other = opcode::Fsync::new(types::Fd(file.as_raw_fd())).build();
        for entry in [open.user_data(1), other.user_data(2)] {
            assert!(ring.push(&entry));
            ring.waiting += 1;
            ring.submit().unwrap();
            let (_, result) = loop {
                match ring.ended() {
                    Some(end) => break end,
                    None => ring.wait().unwrap(),
                }
            };
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES));
        }
    }
}
