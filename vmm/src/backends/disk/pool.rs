//! Transfers by a few threads, for hosts without io_uring.

use super::engine::{Engine, Job, PUNCH, Work};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What a thread of a pool does until the pool is gone.
pub type Worker = Box<dyn FnOnce() + Send>;

/// As many transfers of a disk are under way at once.
const WORKERS: usize = 4;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    ended: VecDeque<(u32, io::Result<u32>)>,
    over: bool,
}

struct Shared {
    files: Vec<OwnedFd>,
    state: Mutex<State>,
    /// There are jobs, or there will be none.
    work: Condvar,
    /// A job has ended.
    progress: Condvar,
    event: EventFd,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        loop {
            let mut state = self.state();
            let job = loop {
                match state.jobs.pop_front() {
                    Some(job) => break job,
                    None if state.over => return,
                    None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            let result = self.execute(&job);
            self.state().ended.push_back((job.tag, result));
            self.progress.notify_all();
            // The counter is far from its end, so this does not fail.
            let _ = self.event.write(1);
        }
    }

    fn execute(&self, job: &Job) -> io::Result<u32> {
        let bad_file = || io::Error::from_raw_os_error(libc::EBADF);
        let fd = self.files.get(job.file as usize).ok_or_else(bad_file)?.as_raw_fd();
        let offset = libc::off64_t::try_from(job.offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = libc::off64_t::try_from(job.bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = job.count as libc::c_int;
        // SAFETY: the vectors and what they describe stay until this job is told of (see `Engine::start`).
        let done = unsafe {
            match job.work {
                Work::Read => libc::preadv64(fd, job.vectors, count, offset),
                Work::Write => libc::pwritev64(fd, job.vectors, count, offset),
                Work::Flush => libc::fdatasync(fd) as isize,
                Work::Punch => libc::fallocate64(fd, PUNCH, offset, bytes) as isize,
            }
        };
        u32::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

/// A pool for some files. Its threads are its [workers](Engine::workers), started by whoever starts the machine's.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// Taken, and not yet begun.
    waiting: Vec<Job>,
}

impl Pool {
    /// A pool for `files`.
    pub(super) fn new(files: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let files = files.iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<_>>()?;
        let shared = Shared {
            files,
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK)?,
        };
        Ok(Self { shared: Arc::new(shared), waiting: Vec::new() })
    }
}

impl Engine for Pool {
    fn fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    unsafe fn start(&mut self, job: Job) -> io::Result<()> {
        self.waiting.push(job);
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.shared.state().jobs.extend(self.waiting.drain(..));
            self.shared.work.notify_all();
        }
        Ok(())
    }

    fn ended(&mut self) -> Option<(u32, io::Result<u32>)> {
        let mut state = self.shared.state();
        let end = state.ended.pop_front();
        if end.is_none() {
            // With the lock held, so that no end that comes now goes unnoticed.
            let _ = self.shared.event.read();
        }
        end
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()?;
        let nothing = |state: &mut State| state.ended.is_empty();
        let waited = self.shared.progress.wait_while(self.shared.state(), nothing);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn close(&mut self) {
        self.shared.state().over = true;
        self.shared.work.notify_all();
    }

    fn workers(&mut self) -> Vec<Worker> {
        let worker = |shared: Arc<Shared>| -> Worker { Box::new(move || shared.serve()) };
        (0..WORKERS).map(|_| worker(Arc::clone(&self.shared))).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::moves_what_it_is_asked_to;
    use super::*;

    #[test]
    fn moves_bytes() {
        moves_what_it_is_asked_to(|files| Box::new(Pool::new(files).unwrap()));
    }
}
