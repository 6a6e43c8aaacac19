//! How and when a run ends: the first reason given wins, and everyone who waits learns of it.

use super::Exit;
use crate::devices::reactor::Reactor;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How long a guest that has reported a panic gets to print the rest and reset.
const PANIC_GRACE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    exit: Option<Exit>,
    panicked: Option<Instant>,
    kick: bool,
}

/// The end of a run, once it is known.
pub struct Ending {
    state: Mutex<State>,
    /// Rung at every change.
    bell: Arc<EventFd>,
    /// The same as `exit.is_some()`, for threads that look often.
    over: AtomicBool,
}

impl Ending {
    /// The end of a run that has not begun.
    pub fn new() -> io::Result<Self> {
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        Ok(Self { state: Mutex::default(), bell, over: AtomicBool::new(false) })
    }

    /// A reactor for whoever [waits](Self::wait): it stops at every change.
    pub fn reactor(&self) -> io::Result<Reactor> {
        Reactor::stopped_by(self.bell.clone())
    }

    fn ring(&self) {
        // The counter is far from its end, so this does not fail.
        let _ = self.bell.write(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the run, unless it has ended.
    pub fn set(&self, exit: Exit) {
        let mut state = self.state();
        state.exit.get_or_insert(exit);
        self.over.store(true, Ordering::Release);
        self.ring();
    }

    /// The guest has reported a panic: it ends as one, by its own reset or when its time is up.
    pub fn panicked(&self) {
        self.state().panicked.get_or_insert_with(Instant::now);
        self.ring();
    }

    /// Asks whoever waits for the end to take the vCPUs out of the guest for a moment.
    pub fn kick(&self) {
        self.state().kick = true;
        self.ring();
    }

    /// Whether the run has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits for the end, serving what else there is to wait for at this [reactor](Self::reactor), and kicks the vCPUs with
    /// `kick` where somebody asks for that. A reset after a reported panic is a panic, for which `explain` finds the words.
    pub fn wait(&self, reactor: &Reactor, explain: impl Fn() -> String, kick: impl Fn()) -> io::Result<Exit> {
        loop {
            let mut state = self.state();
            if std::mem::take(&mut state.kick) {
                drop(state);
                kick();
                continue;
            }
            let milliseconds = match (&state.exit, state.panicked) {
                (Some(Exit::Reset), Some(_)) => return Ok(Exit::GuestPanic(explain())),
                (Some(exit), _) => return Ok(exit.clone()),
                (None, Some(since)) => {
                    let left = PANIC_GRACE.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        state.exit = Some(Exit::Reset);
                        self.over.store(true, Ordering::Release);
                        continue;
                    }
                    left.as_millis() as i32 + 1
                }
                (None, None) => -1,
            };
            drop(state);
            // What has changed meanwhile has rung the bell, which goes on ringing until it is read.
            if !reactor.turn(milliseconds)? {
                let _ = self.bell.read();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(ending: &Ending, explain: impl Fn() -> String, kick: impl Fn()) -> Exit {
        ending.wait(&ending.reactor().unwrap(), explain, kick).unwrap()
    }

    #[test]
    fn keeps_the_first_reason() {
        let ending = Ending::new().unwrap();
        assert!(!ending.is_over());
        ending.set(Exit::Reset);
        ending.set(Exit::Killed);
        assert!(ending.is_over());
        assert_eq!(wait(&ending, String::new, || ()), Exit::Reset);
    }

    #[test]
    fn a_reset_after_a_panic_is_a_panic() {
        let ending = Ending::new().unwrap();
        ending.panicked();
        ending.set(Exit::Reset);
        assert_eq!(wait(&ending, || "why".into(), || ()), Exit::GuestPanic("why".into()));
    }

    #[test]
    fn a_machine_killed_after_a_panic_was_killed() {
        let ending = Ending::new().unwrap();
        ending.panicked();
        ending.set(Exit::Killed);
        assert_eq!(wait(&ending, String::new, || ()), Exit::Killed);
    }

    #[test]
    fn kicks_when_asked_and_waits_on() {
        let ending = Arc::new(Ending::new().unwrap());
        let waiting = ending.clone();
        let thread = std::thread::spawn(move || wait(&waiting, String::new, || waiting.set(Exit::Reset)));
        ending.kick();
        assert_eq!(thread.join().unwrap(), Exit::Reset);
    }

    #[test]
    fn wakes_who_waits() {
        let ending = Arc::new(Ending::new().unwrap());
        let waiting = ending.clone();
        let thread = std::thread::spawn(move || wait(&waiting, String::new, || ()));
        ending.set(Exit::Killed);
        assert_eq!(thread.join().unwrap(), Exit::Killed);
    }
}
