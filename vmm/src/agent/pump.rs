//! A container's standard streams: bytes from the host's stdin to the guest, and from the guest to stdout and stderr, each
//! kept apart, in order and unchanged. Whoever does not read holds the writer back, across the VM's wall too: only a few
//! pieces of each stream are under way. The agent serves the calls on one stream in the order in which they were made.

use super::calls::{OutputStream, Read, Reading, Writing};
use super::client::{CallError, Client, Wait};
use super::signals::Signal;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Most bytes of one `WriteStdin`, and how many of those are under way at once: enough that neither side waits for the
/// other's answer, and little enough for a small guest's memory.
const WRITE: usize = 256 << 10;
const WRITES: usize = 2;
/// Most bytes of one `ReadStdout`, and how many are under way at once. A pipe holds 64 KiB.
const READ: u32 = 64 << 10;
const READS: usize = 4;

/// How long after its process's end a container's output may stay silent without an end before the rest is given up.
/// Everything in it is killed then, so this only matters for a guest that does not do its work.
const DRAIN: Duration = Duration::from_secs(30);

/// Which process of the guest the streams belong to.
pub(super) struct Process<'a> {
    pub client: &'a Client,
    pub container: &'a str,
    pub exec: &'a str,
}

/// Tells the streams that the process has ended, and wakes what waits for the host's stdin.
pub(super) struct Ended {
    at: Mutex<Option<Instant>>,
    over: AtomicBool,
    wake: OwnedFd,
}

impl Ended {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { at: Mutex::new(None), over: AtomicBool::new(false), wake })
    }

    /// The process has ended: its input is not wanted any more, its output is read to the end.
    pub(super) fn announce(&self) {
        self.over.store(true, Ordering::Release);
        *self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
        // A full counter is a set one.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn since(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Process<'_> {
    /// Carries the host's stdin to the process until either ends; then ends the process's.
    pub(super) fn feed(&self, stdin: Option<BorrowedFd<'_>>, ended: &Ended) {
        let over = || ended.is_over();
        let wait = Wait::Until(&over);
        if let Some(stdin) = stdin
            && let Err(error) = self.feed_until_end(stdin, ended, wait)
        {
            // The process has closed its stdin, or is gone: as with a pipe, that is not our failure.
            tracing::debug!(%error, "stdin is not taken any more");
            return;
        }
        if let Err(error) = self.client.close_stdin(self.container, self.exec, wait) {
            tracing::debug!(%error, "closing stdin");
        }
    }

    fn feed_until_end(&self, stdin: BorrowedFd<'_>, ended: &Ended, wait: Wait<'_>) -> Result<(), CallError> {
        let mut buffer = vec![0; WRITE];
        let mut under_way = VecDeque::with_capacity(WRITES);
        while let Some(length) = read_unless(stdin, &mut buffer, ended) {
            if under_way.len() == WRITES
                && let Some(first) = under_way.pop_front()
            {
                Writing::wait(first, wait)?;
            }
            under_way.push_back(self.client.begin_write(
                self.container,
                self.exec,
                buffer[..length].to_vec(),
            )?);
        }
        under_way.into_iter().try_for_each(|writing| writing.wait(wait))
    }

    /// Carries one output stream of the process to `to`, or nowhere, until its end.
    ///
    /// Where nobody reads `to` any more the process gets the SIGPIPE it would have got for writing there itself, and
    /// whatever it still writes is read and dropped, so that it can end.
    pub(super) fn drain(
        &self,
        stream: OutputStream,
        mut to: Option<BorrowedFd<'_>>,
        ended: &Ended,
    ) -> Result<(), DrainError> {
        let mut under_way = VecDeque::with_capacity(READS);
        // One at a time until the process is seen to write in bulk: most never do, and a call is not free in the guest.
        let mut at_once = 1;
        loop {
            let read = self.read_next(stream, &mut under_way, at_once, ended);
            let data = match read {
                Ok(Read::Data(data)) => data,
                Ok(Read::End) => return Ok(()),
                // Whatever a read says after the end, the stream has ended with the process.
                Err(error) if ended.is_over() && !matches!(error, CallError::Closed(_)) => {
                    tracing::debug!(%error, ?stream, "reading after the end");
                    return Ok(());
                }
                Err(error) => return Err(DrainError::Guest(error)),
            };
            if data.len() >= READ as usize / 2 {
                at_once = READS;
            }
            let Some(open) = to else { continue };
            match write_all(open, &data) {
                Ok(()) => {}
                Err(Errno::PIPE) => {
                    to = None;
                    let over = || ended.is_over();
                    let told = self.client.signal_process(
                        self.container,
                        self.exec,
                        Signal::PIPE,
                        Wait::Until(&over),
                    );
                    tracing::debug!(?stream, ?told, "nobody reads this any more");
                }
                Err(error) => return Err(DrainError::Host(error.into())),
            }
        }
    }
}

impl Process<'_> {
    /// The next piece of a stream, with others asked for meanwhile.
    fn read_next(
        &self,
        stream: OutputStream,
        under_way: &mut VecDeque<Reading>,
        at_once: usize,
        ended: &Ended,
    ) -> Result<Read, CallError> {
        while under_way.len() < at_once {
            under_way.push_back(self.client.begin_read(stream, self.container, self.exec, READ)?);
        }
        let Some(first) = under_way.pop_front() else { return Ok(Read::End) };
        let waiting = Instant::now();
        let silent = || ended.since().is_some_and(|end| end.max(waiting).elapsed() > DRAIN);
        first.wait(Wait::Until(&silent))
    }
}

/// Why an output stream ended early.
#[derive(Debug)]
pub(super) enum DrainError {
    /// The guest's side.
    Guest(CallError),
    /// Our own side: a full disk, say.
    Host(io::Error),
}

/// Reads what is there; `None` at the end of the input, at an error, and when the process has ended.
fn read_unless(stdin: BorrowedFd<'_>, buffer: &mut [u8], ended: &Ended) -> Option<usize> {
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&ended.wake, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        // What is typed after the end belongs to the shell that ferry was started from.
        if ended.is_over() {
            return None;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        match rustix::io::read(stdin, &mut *buffer) {
            Ok(0) => return None,
            Ok(length) => return Some(length),
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(_) => return None,
        }
    }
}

/// Writes everything, also to a descriptor that somebody else has made non-blocking.
fn write_all(to: BorrowedFd<'_>, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::write(to.as_fd(), data) {
            Ok(written) => data = &data[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
