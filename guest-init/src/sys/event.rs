//! Waiting for many things at once, and the clocks.

use linux_raw_sys::general as c;
use syscalls::{Sysno, syscall};

use super::process::SignalSet;
use super::{Errno, Fd, Result};
use crate::prelude::*;

/// An epoll instance. Everything in it is watched edge-triggered: an event says that something changed, and the reader goes
/// on until the kernel says `EAGAIN`.
pub struct Poll(Fd);

/// struct epoll_event, packed as x86-64 has it.
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy, Default)]
struct Event {
    events: u32,
    token: u64,
}

/// What is watched for, and also, by those who found no room to write.
const INPUT: u32 = c::EPOLLIN | c::EPOLLRDHUP | c::EPOLLET;
const EVERYTHING: u32 = INPUT | c::EPOLLOUT;

/// Most events taken at once.
const BATCH: usize = 32;

calls! { Result<Fd>;
    new_poll(flags: u32) = epoll_create1(flags);

    /// A descriptor that becomes readable when one of these (held back) signals comes.
    pub signals(set: SignalSet) =
        signalfd4(-1i32, &raw const set, size_of::<SignalSet>(), c::O_CLOEXEC | c::O_NONBLOCK);
}

calls! { Result<()>;
    control(poll: &Fd, what: u32, fd: i32, event: &Event) = epoll_ctl(poll.raw(), what, fd, &raw const *event);

    /// Sets the wall clock (struct timespec).
    pub set_clock(seconds: i64, nanoseconds: i64) =
        clock_settime(c::CLOCK_REALTIME, [seconds, nanoseconds].as_ptr());
}

calls! { ();
    nanosleep(seconds: i64, nanoseconds: i64) = nanosleep([seconds, nanoseconds].as_ptr(), 0);
}

impl Poll {
    /// A new one, watching nothing.
    pub fn new() -> Result<Poll> {
        new_poll(c::EPOLL_CLOEXEC).map(Poll)
    }

    /// Watches a descriptor for something to read until it is closed; its events carry `token`.
    pub fn watch(&self, fd: i32, token: u64) -> Result<()> {
        control(&self.0, c::EPOLL_CTL_ADD, fd, &Event { events: INPUT, token })
    }

    /// Changes the token of a watched descriptor, or watches it for room to write too; what is the matter with it now is an
    /// event again.
    pub fn rewatch(&self, fd: i32, token: u64) -> Result<()> {
        control(&self.0, c::EPOLL_CTL_MOD, fd, &Event { events: EVERYTHING, token })
    }

    /// Waits until something happens, at most `timeout` milliseconds, and calls `each` with the tokens.
    pub fn wait(&self, timeout: Option<u32>, mut each: impl FnMut(u64)) -> Result<()> {
        let mut events = [Event::default(); BATCH];
        let timeout = timeout.map_or(-1, |timeout| timeout.min(i32::MAX as u32) as i32);
        // SAFETY: the kernel writes at most BATCH events.
        let count =
            match unsafe { syscall!(Sysno::epoll_wait, self.0.raw(), events.as_mut_ptr(), BATCH, timeout) } {
                Err(Errno::EINTR) => return Ok(()),
                other => other?,
            };
        for event in &events[..count.min(BATCH)] {
            each(event.token);
        }
        Ok(())
    }
}

/// Whether a pipe's writers are all gone and nothing is left to read.
pub fn is_hung_up(fd: i32) -> bool {
    const POLLIN: i16 = 1;
    const POLLHUP: i16 = 0x10;
    // struct pollfd: descriptor, wanted, found.
    #[repr(C)]
    struct Wanted(i32, i16, i16);
    let mut wanted = Wanted(fd, POLLIN, 0);
    // SAFETY: the kernel writes one struct pollfd.
    let found = unsafe { syscall!(Sysno::poll, &raw mut wanted, 1, 0) };
    found.is_ok() && wanted.2 & (POLLIN | POLLHUP) == POLLHUP
}

/// Milliseconds since some moment at boot.
pub fn now() -> u64 {
    read_clock(c::CLOCK_MONOTONIC)
}

/// Milliseconds since boot, suspended time included: what the kernel counts the age of processes in.
pub fn since_boot() -> u64 {
    read_clock(c::CLOCK_BOOTTIME)
}

fn read_clock(clock: u32) -> u64 {
    let mut time = [0i64; 2];
    // SAFETY: struct timespec is these two; the kernel fills it.
    let _ = unsafe { syscall!(Sysno::clock_gettime, clock, time.as_mut_ptr()) };
    time[0] as u64 * 1000 + time[1] as u64 / 1_000_000
}

/// The newest of the kernel's log, `limit` bytes at most.
pub fn kernel_log(limit: usize) -> Result<Vec<u8>> {
    const READ_ALL: u32 = 3;
    let mut text = vec![0; limit];
    // SAFETY: the kernel writes at most `limit` bytes.
    let length = unsafe { syscall!(Sysno::syslog, READ_ALL, text.as_mut_ptr(), limit) }?;
    text.truncate(length);
    Ok(text)
}

/// Does nothing for a while.
pub fn sleep(milliseconds: u32) {
    nanosleep(i64::from(milliseconds / 1000), i64::from(milliseconds % 1000) * 1_000_000);
}
