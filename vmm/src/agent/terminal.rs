//! The host's terminal while a container has it: raw mode, restored on every way out (return, panic, a signal that ends
//! ferry), and the window's size.

use rustix::termios::{self, OptionalActions, Termios};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, Once, PoisonError};

/// How the terminal was before raw mode; `None` while it is as the user left it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// A window's size in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl Window {
    /// The size of the terminal that `fd` is; `None` where it is none or does not know.
    pub fn of(fd: impl AsFd) -> Option<Self> {
        let size = termios::tcgetwinsize(fd).ok()?;
        (size.ws_row > 0 && size.ws_col > 0).then_some(Self { rows: size.ws_row, columns: size.ws_col })
    }

    /// The size of the terminal ferry was started in: that of stdin, else of stdout.
    pub fn current() -> Option<Self> {
        Self::of(io::stdin()).or_else(|| Self::of(io::stdout()))
    }
}

/// The terminal of stdin in raw mode, until dropped.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts stdin's terminal into raw mode: keys go to the container one by one, Ctrl-C included.
    pub fn enter() -> io::Result<Self> {
        // The process aborts on a panic, so no destructor runs then: the hook does its work.
        PANIC_HOOK.call_once(|| {
            let earlier = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                earlier(info);
            }));
        });
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        BEFORE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(before);
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was before [`RawMode::enter`]; does nothing where it is.
pub fn restore() {
    // A panic while the lock is held must not hang in its own hook.
    let Ok(mut before) = BEFORE.try_lock() else { return };
    if let Some(before) = before.take() {
        // Nothing is left to do about a terminal that has gone away.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}
