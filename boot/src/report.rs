//! How a guest tells what became of it: one line a test on the serial port, a last line with the counts, and a reset.
//!
//! ```text
//! ok blk reads what it wrote
//! not ok rng fills a buffer: NotReady
//! done 1 passed, 1 failed
//! ```

use crate::serial::Serial;
use core::fmt::{Debug, Write};
use x86_64::instructions::port::PortWriteOnly;

/// The keyboard controller's command port.
const KEYBOARD_CONTROLLER: u16 = 0x64;
/// Its command that pulses the reset line.
const PULSE_RESET: u8 = 0xfe;

/// Counts results and prints them as they come.
#[derive(Default)]
pub struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Writes down the result of the test called `name`.
    pub fn result<E: Debug>(&mut self, name: &str, result: Result<(), E>) {
        // Writing to the serial port cannot fail.
        let _ = match result {
            Ok(()) => {
                self.passed += 1;
                writeln!(Serial, "ok {name}")
            }
            Err(error) => {
                self.failed += 1;
                writeln!(Serial, "not ok {name}: {error:?}")
            }
        };
    }

    /// Prints the counts and resets the machine.
    pub fn finish(self) -> ! {
        let _ = writeln!(Serial, "done {} passed, {} failed", self.passed, self.failed);
        reset()
    }
}

/// Pulses the reset line. The VMM ends the machine at it; the loop is for one that does not.
pub fn reset() -> ! {
    let mut command: PortWriteOnly<u8> = PortWriteOnly::new(KEYBOARD_CONTROLLER);
    loop {
        // SAFETY: the machine ends here; nothing that memory holds is needed afterwards.
        unsafe { command.write(PULSE_RESET) };
        x86_64::instructions::hlt();
    }
}
