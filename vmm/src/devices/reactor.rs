//! The one thread that waits: for kicks from the guest and for file descriptors of the host.
//!
//! Whoever has something to wait for is a [`Subscriber`] and gets a [`Poller`] to name its descriptors with tokens of its
//! own. Everything is level-triggered.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use vmm_sys_util::epoll::EventSet;

/// Someone with descriptors to wait for.
pub trait Subscriber: Send + Sync {
    /// The descriptor registered with `token` is ready. It may be a descriptor that has been removed since.
    fn ready(&self, token: u32, events: EventSet);

    /// There will be no more events. Called on the thread that served them, and perhaps once more.
    fn over(&self) {}
}

/// Registers one subscriber's descriptors.
#[derive(Clone)]
pub struct Poller {
    epoll: Arc<Epoll>,
    subscriber: u32,
}

impl Poller {
    fn control(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        token: u32,
        interest: EventSet,
    ) -> io::Result<()> {
        let data = u64::from(self.subscriber) << 32 | u64::from(token);
        self.epoll.ctl(operation, fd, EpollEvent::new(interest, data))
    }

    /// Starts waiting for a descriptor.
    pub fn add(&self, fd: &impl AsRawFd, token: u32, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd.as_raw_fd(), token, interest)
    }

    /// Changes what is waited for.
    pub fn change(&self, fd: &impl AsRawFd, token: u32, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd.as_raw_fd(), token, interest)
    }

    /// Stops waiting for a descriptor. Closing one that has no duplicate does the same.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        self.control(ControlOperation::Delete, fd.as_raw_fd(), 0, EventSet::empty())
    }
}

/// The number that stands for the reactor itself in an event.
const OWN: u32 = u32::MAX;

/// All subscribers, and the loop that serves them.
pub struct Reactor {
    epoll: Arc<Epoll>,
    stop: Arc<EventFd>,
    subscribers: Vec<Arc<dyn Subscriber>>,
}

impl Reactor {
    /// A reactor without subscribers.
    pub fn new() -> io::Result<Self> {
        Self::stopped_by(Arc::new(EventFd::new(EFD_NONBLOCK)?))
    }

    /// The same, stopped by whoever writes to `stop`.
    pub fn stopped_by(stop: Arc<EventFd>) -> io::Result<Self> {
        let reactor = Self { epoll: Arc::new(Epoll::new()?), stop, subscribers: Vec::new() };
        Poller { epoll: reactor.epoll.clone(), subscriber: OWN }.add(&*reactor.stop, 0, EventSet::IN)?;
        Ok(reactor)
    }

    /// The poller for the subscriber that is [`Reactor::push`]ed next.
    pub fn poller(&self) -> Poller {
        Poller { epoll: self.epoll.clone(), subscriber: self.subscribers.len() as u32 }
    }

    /// Adds a subscriber.
    pub fn push(&mut self, subscriber: Arc<dyn Subscriber>) {
        self.subscribers.push(subscriber);
    }

    /// What ends [`Reactor::run`] when it is written to.
    pub fn stopper(&self) -> Arc<EventFd> {
        self.stop.clone()
    }

    /// Serves events until stopped.
    pub fn run(&self) -> io::Result<()> {
        let result = loop {
            match self.turn(-1) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.close();
        result
    }

    /// Tells everybody that there will be no more events, which [`Reactor::run`] has done if it has run.
    pub fn close(&self) {
        self.subscribers.iter().for_each(|subscriber| subscriber.over());
    }

    /// Whether anything is ready.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn is_ready(&self) -> io::Result<bool> {
        Ok(self.epoll.wait(0, &mut [EpollEvent::default(); 1])? > 0)
    }

    /// Waits at most `timeout` milliseconds, for ever if negative, and serves what is ready then. False if stopped.
    pub fn turn(&self, timeout: i32) -> io::Result<bool> {
        let mut events = [EpollEvent::default(); 32];
        let count = match self.epoll.wait(timeout, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        let mut goes_on = true;
        for event in &events[..count] {
            let (subscriber, token) = ((event.data() >> 32) as u32, event.data() as u32);
            match self.subscribers.get(subscriber as usize) {
                Some(subscriber) => subscriber.ready(token, event.event_set()),
                // The rest is served all the same: not every event comes again.
                None => goes_on = false,
            }
        }
        Ok(goes_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Records its events and takes the readiness away.
    struct Recorder {
        fd: EventFd,
        seen: Mutex<Vec<u32>>,
        stop: Arc<EventFd>,
    }

    impl Subscriber for Recorder {
        fn ready(&self, token: u32, _: EventSet) {
            self.fd.read().unwrap();
            self.seen.lock().unwrap().push(token);
            self.stop.write(1).unwrap();
        }
    }

    #[test]
    fn passes_events_to_the_right_subscriber_until_stopped() {
        let mut reactor = Reactor::new().unwrap();
        let recorders: Vec<_> = (0..2)
            .map(|number| {
                let fd = EventFd::new(EFD_NONBLOCK).unwrap();
                let poller = reactor.poller();
                poller.add(&fd, 40 + number, EventSet::IN).unwrap();
                let recorder = Arc::new(Recorder { fd, seen: Mutex::default(), stop: reactor.stopper() });
                reactor.push(recorder.clone());
                recorder
            })
            .collect();
        recorders[1].fd.write(1).unwrap();
        reactor.run().unwrap();
        assert!(recorders[0].seen.lock().unwrap().is_empty());
        assert_eq!(*recorders[1].seen.lock().unwrap(), [41]);
        // It is stopped by now, and goes on serving what comes with that.
        recorders[0].fd.write(1).unwrap();
        assert!(!reactor.turn(0).unwrap());
        assert_eq!(*recorders[0].seen.lock().unwrap(), [40]);
    }
}
