//! Holds one direction of a card to its rate: closed until there is something to spend again, which a timer tells.

use super::super::Fault;
use crate::backends::net::rate::{Limiter, Rate};
use crate::devices::reactor::{EventSet, Poller};
use std::io;
use std::time::{Duration, Instant};
use vmm_sys_util::timerfd::TimerFd;

/// The shortest wait. What comes meanwhile passes together afterwards: a timer for every frame would cost more than it gives.
const LEAST: Duration = Duration::from_millis(1);

/// One direction's gate. One that limits nothing is always open.
pub(super) struct Gate(Option<Limited>);

struct Limited {
    limiter: Limiter,
    timer: TimerFd,
    /// What the timer is waited for with.
    token: u32,
    registered: bool,
    closed: bool,
}

impl Gate {
    /// A gate for `rate`, whose timer's events come with `token`.
    pub(super) fn new(rate: Rate, token: u32) -> io::Result<Self> {
        let Some(limiter) = Limiter::new(rate, Instant::now()) else { return Ok(Self(None)) };
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self(Some(Limited { limiter, timer, token, registered: false, closed: false })))
    }

    /// Whether a frame may pass now. If not, the timer is set and the gate closed.
    pub(super) fn lets_pass(&mut self, poller: &Poller) -> Result<bool, Fault> {
        let Some(limited) = &mut self.0 else { return Ok(true) };
        if limited.closed {
            return Ok(false);
        }
        let delay = limited.limiter.delay(Instant::now());
        if delay.is_zero() {
            return Ok(true);
        }
        limited.timer.reset(delay.max(LEAST), None).map_err(|_| Fault("a timer cannot be set"))?;
        if !limited.registered {
            // Setting it again takes its readiness away, so it need not be read.
            poller
                .add(&limited.timer, limited.token, EventSet::IN | EventSet::EDGE_TRIGGERED)
                .map_err(|_| Fault("the host is out of descriptors"))?;
            limited.registered = true;
        }
        limited.closed = true;
        Ok(false)
    }

    /// A frame of so many bytes has passed.
    pub(super) fn passed(&mut self, bytes: usize) {
        if let Some(limited) = &mut self.0 {
            limited.limiter.passed(bytes);
        }
    }

    /// Whether frames wait for the timer.
    pub(super) fn is_closed(&self) -> bool {
        self.0.as_ref().is_some_and(|limited| limited.closed)
    }

    /// The timer's time has come.
    pub(super) fn open(&mut self) {
        if let Some(limited) = &mut self.0 {
            limited.closed = false;
        }
    }

    /// The card is reset: nobody waits for anything. The rate stays what it is.
    pub(super) fn forget(&mut self, poller: &Poller) {
        if let Some(limited) = &mut self.0 {
            if std::mem::take(&mut limited.registered) {
                let _ = poller.remove(&limited.timer);
            }
            limited.closed = false;
        }
    }
}
