//! A container's standard streams: bytes from the host's stdin to the guest, and from the guest to stdout and stderr, each
//! kept apart, in order and unchanged. Whoever does not read holds the writer back, across the VM's wall too: at most one
//! piece of each stream is under way.

use super::calls::{OutputStream, Read};
use super::client::{CallError, Client, Wait};
use super::signals::Signal;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of one `WriteStdin` and most bytes of one `ReadStdout`. A ttrpc message holds 4 MiB; a quarter of that keeps the
/// guest's buffer for one call small and the calls for 100 MiB few.
const CHUNK: usize = 1 << 20;

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
        if let Some(stdin) = stdin {
            let mut buffer = vec![0; CHUNK];
            while let Some(length) = read_unless(stdin, &mut buffer, ended) {
                let mut rest = &buffer[..length];
                while !rest.is_empty() {
                    match self.client.write_stdin(self.container, self.exec, rest, wait) {
                        Ok(taken) => rest = &rest[taken..],
                        Err(error) => {
                            // The process has closed its stdin, or is gone: as with a pipe, that is not our failure.
                            tracing::debug!(%error, "stdin is not taken any more");
                            return;
                        }
                    }
                }
            }
        }
        if let Err(error) = self.client.close_stdin(self.container, self.exec, wait) {
            tracing::debug!(%error, "closing stdin");
        }
    }

    /// Carries one output stream of the process to `to` until its end.
    ///
    /// Where nobody reads `to` any more the process gets the SIGPIPE it would have got for writing there itself, and
    /// whatever it still writes is read and dropped, so that it can end.
    pub(super) fn drain(
        &self,
        stream: OutputStream,
        to: BorrowedFd<'_>,
        ended: &Ended,
    ) -> Result<(), DrainError> {
        let mut broken = false;
        loop {
            let asked = Instant::now();
            let silent = || ended.since().is_some_and(|end| end.max(asked).elapsed() > DRAIN);
            let read = self.client.read_stream(
                stream,
                self.container,
                self.exec,
                CHUNK as u32,
                Wait::Until(&silent),
            );
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
            if broken {
                continue;
            }
            match write_all(to, &data) {
                Ok(()) => {}
                Err(Errno::PIPE) => {
                    broken = true;
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
