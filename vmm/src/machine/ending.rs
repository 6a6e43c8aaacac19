//! How and when a run ends: the first reason given wins, and everyone who waits learns of it.

use super::Exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a guest that has reported a panic gets to print the rest and reset.
const PANIC_GRACE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    exit: Option<Exit>,
    panicked: Option<Instant>,
    kick: bool,
}

/// The end of a run, once it is known.
#[derive(Default)]
pub struct Ending {
    state: Mutex<State>,
    changed: Condvar,
    /// The same as `exit.is_some()`, for threads that look often.
    over: AtomicBool,
}

impl Ending {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the run, unless it has ended.
    pub fn set(&self, exit: Exit) {
        let mut state = self.state();
        state.exit.get_or_insert(exit);
        self.over.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// The guest has reported a panic: it ends as one, by its own reset or when its time is up.
    pub fn panicked(&self) {
        self.state().panicked.get_or_insert_with(Instant::now);
        self.changed.notify_all();
    }

    /// Asks whoever waits for the end to take the vCPUs out of the guest for a moment.
    pub fn kick(&self) {
        self.state().kick = true;
        self.changed.notify_all();
    }

    /// Whether the run has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits for the end, and kicks the vCPUs with `kick` where somebody asks for that. A reset after a reported panic is a
    /// panic, for which `explain` finds the words.
    pub fn wait(&self, explain: impl Fn() -> String, kick: impl Fn()) -> Exit {
        let mut state = self.state();
        loop {
            if std::mem::take(&mut state.kick) {
                drop(state);
                kick();
                state = self.state();
            }
            match (&state.exit, state.panicked) {
                (Some(Exit::Reset), Some(_)) => return Exit::GuestPanic(explain()),
                (Some(exit), _) => return exit.clone(),
                (None, Some(since)) => {
                    let left = PANIC_GRACE.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        state.exit = Some(Exit::Reset);
                        self.over.store(true, Ordering::Release);
                        continue;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                (None, None) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_reason() {
        let ending = Ending::default();
        assert!(!ending.is_over());
        ending.set(Exit::Reset);
        ending.set(Exit::Killed);
        assert!(ending.is_over());
        assert_eq!(ending.wait(String::new, || ()), Exit::Reset);
    }

    #[test]
    fn a_reset_after_a_panic_is_a_panic() {
        let ending = Ending::default();
        ending.panicked();
        ending.set(Exit::Reset);
        assert_eq!(ending.wait(|| "why".into(), || ()), Exit::GuestPanic("why".into()));
    }

    #[test]
    fn a_machine_killed_after_a_panic_was_killed() {
        let ending = Ending::default();
        ending.panicked();
        ending.set(Exit::Killed);
        assert_eq!(ending.wait(String::new, || ()), Exit::Killed);
    }

    #[test]
    fn kicks_when_asked_and_waits_on() {
        let ending = std::sync::Arc::new(Ending::default());
        let waiting = ending.clone();
        let thread = std::thread::spawn(move || waiting.wait(String::new, || waiting.set(Exit::Reset)));
        ending.kick();
        assert_eq!(thread.join().unwrap(), Exit::Reset);
    }

    #[test]
    fn wakes_who_waits() {
        let ending = std::sync::Arc::new(Ending::default());
        let waiting = ending.clone();
        let thread = std::thread::spawn(move || waiting.wait(String::new, || ()));
        ending.set(Exit::Killed);
        assert_eq!(thread.join().unwrap(), Exit::Killed);
    }
}
