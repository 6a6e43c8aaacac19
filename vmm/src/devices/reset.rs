//! The one thing a guest wants of a PC's keyboard controller: the reset line.

use super::bus::Registers;

/// What is to happen when the guest asks for a reset.
pub type OnReset = Box<dyn Fn() + Send + Sync>;

/// A keyboard controller without a keyboard.
pub struct KeyboardController {
    command: u8,
    on_reset: OnReset,
}

impl KeyboardController {
    /// A controller that calls `on_reset` when `command` is written to it.
    pub fn new(command: u8, on_reset: OnReset) -> Self {
        Self { command, on_reset }
    }
}

impl Registers for KeyboardController {
    fn read(&self, _: u64, data: &mut [u8]) {
        // Both buffers empty: a guest that waits until it may write goes on at once.
        data.fill(0);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data == [self.command] {
            (self.on_reset)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn resets_on_its_command_and_on_nothing_else() {
        let resets = Arc::new(AtomicUsize::new(0));
        let counter = resets.clone();
        let count = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let controller = KeyboardController::new(0xfe, Box::new(count));
        controller.write(0, &[0xd1]);
        controller.write(0, &[0xfe, 0]);
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        let mut status = [0xff];
        controller.read(0, &mut status);
        assert_eq!(status[0] & 2, 0, "may be written to");
        controller.write(0, &[0xfe]);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
    }
}
