//! Signals to ferry itself. Until the container's process runs they end ferry, and nothing is left behind; then they are
//! the process's, as if it ran here. A guest that does not answer them can always be ended: the third interrupt in a row
//! that it leaves unanswered ends ferry.

use crate::agent::Signal;
use crate::agent::session::Remote;
use crate::agent::terminal::{self, Window};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// After how many unanswered signals the guest is taken for dead.
const UNANSWERED: u32 = 3;

/// Whom signals are for.
#[derive(Debug)]
enum Phase {
    /// Nobody but ferry.
    Alone,
    /// The container's process.
    Container(Remote),
}

/// Something to undo when a signal ends ferry.
pub type Cleanup = Box<dyn FnOnce() + Send>;

struct Shared {
    phase: Mutex<Phase>,
    cleanups: Mutex<Vec<Cleanup>>,
    forwarding: Forwarding,
    asked_to_end: AtomicBool,
}

/// What becomes of signals while the container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// They go to its process.
    ToContainer,
    /// They end ferry, and the VM with it.
    Never,
}

/// The signals of this process, from its installation on.
#[derive(Clone)]
pub struct Interrupts(Arc<Shared>);

impl std::fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupts").field("phase", &*self.phase()).finish_non_exhaustive()
    }
}

impl Interrupts {
    /// Takes over the signals that a container's process may be sent.
    pub fn install(forwarding: Forwarding) -> io::Result<Self> {
        let interrupts = Self::uninstalled(forwarding);
        let wanted =
            Signal::FORWARDED.iter().chain([&Signal::WINCH]).map(|signal| i32::from(signal.number()));
        let mut signals = signal_hook::iterator::Signals::new(wanted)?;
        let for_thread = interrupts.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for number in signals.forever() {
                if let Some(signal) = Signal::from_number(number) {
                    for_thread.receive(signal);
                }
            }
        })?;
        Ok(interrupts)
    }

    /// The same without the signals: nobody ever interrupts.
    pub(super) fn uninstalled(forwarding: Forwarding) -> Self {
        let shared = Shared {
            phase: Mutex::new(Phase::Alone),
            cleanups: Mutex::new(Vec::new()),
            forwarding,
            asked_to_end: AtomicBool::new(false),
        };
        Self(Arc::new(shared))
    }

    /// Whether a signal has come that asks for the end, wherever it went.
    pub fn asked_to_end(&self) -> bool {
        self.0.asked_to_end.load(Ordering::Relaxed)
    }

    /// From now on signals are for the container.
    pub fn forward_to(&self, remote: Remote) {
        *self.phase() = Phase::Container(remote);
    }

    /// From now on signals end ferry.
    pub fn keep(&self) {
        *self.phase() = Phase::Alone;
    }

    /// Undoes something when a signal ends ferry; what ends otherwise is cleaned up by its owner.
    pub fn at_exit(&self, cleanup: Cleanup) {
        self.0.cleanups.lock().unwrap_or_else(PoisonError::into_inner).push(cleanup);
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, signal: Signal) {
        let urgent = matches!(signal, Signal::INT | Signal::TERM | Signal::QUIT);
        self.0.asked_to_end.fetch_or(urgent, Ordering::Relaxed);
        let phase = self.phase();
        match &*phase {
            Phase::Container(remote) if signal == Signal::WINCH => {
                if let Some(window) = Window::current() {
                    remote.resize(window);
                }
            }
            _ if signal == Signal::WINCH => {}
            Phase::Container(remote) if self.0.forwarding == Forwarding::ToContainer => {
                remote.signal(signal);
                if urgent && remote.unanswered() >= UNANSWERED {
                    drop(phase);
                    self.end(signal, Some("the guest does not answer; the VM is ended"));
                }
            }
            _ => {
                drop(phase);
                self.end(signal, None);
            }
        }
    }

    /// Leaves at once, with the status of a process that the signal has ended.
    fn end(&self, signal: Signal, message: Option<&str>) -> ! {
        terminal::restore();
        let cleanups = std::mem::take(&mut *self.0.cleanups.lock().unwrap_or_else(PoisonError::into_inner));
        for cleanup in cleanups.into_iter().rev() {
            cleanup();
        }
        if let Some(message) = message {
            eprintln!("ferry: {message}");
        }
        std::process::exit(i32::from(signal.exit_status()))
    }
}
