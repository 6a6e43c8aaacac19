//! pvpanic: a register through which a guest kernel says that it has panicked.
//!
//! The register is the one of QEMU's docs/specs/pvpanic.rst: reading tells the events that are understood, writing
//! reports them.

use super::bus::Registers;

/// The guest kernel has panicked.
const PANICKED: u8 = 1 << 0;
/// The guest kernel has panicked and a crash kernel takes over. Here that is a panic like any other.
const CRASH_LOADED: u8 = 1 << 1;

/// What is to happen when the guest reports a panic.
pub type OnPanic = Box<dyn Fn() + Send + Sync>;

/// The pvpanic register.
pub struct Pvpanic(OnPanic);

impl Pvpanic {
    /// A register that calls `on_panic` at each report.
    pub fn new(on_panic: OnPanic) -> Self {
        Self(on_panic)
    }
}

impl Registers for Pvpanic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset == 0 {
            data[0] = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 && data[0] & (PANICKED | CRASH_LOADED) != 0 {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn reports_panics_and_ignores_unknown_events() {
        let panics = Arc::new(AtomicUsize::new(0));
        let counter = panics.clone();
        let register = Pvpanic::new(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        let mut events = [0];
        register.read(0, &mut events);
        assert_eq!(events, [3]);
        register.write(0, &[4]);
        register.write(1, &[1]);
        assert_eq!(panics.load(Ordering::Relaxed), 0);
        register.write(0, &[1]);
        assert_eq!(panics.load(Ordering::Relaxed), 1);
    }
}
