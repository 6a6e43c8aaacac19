//! The first serial port, written to without interrupts: the machine's 16550 at port 0x3f8.

use core::fmt;
use x86_64::instructions::port::{Port, PortWriteOnly};

/// COM1's transmit register.
const DATA: u16 = 0x3f8;
/// COM1's line status register.
const LINE_STATUS: u16 = 0x3fd;
/// Line status: the transmit register takes another byte.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// How often the line status is asked before a byte is sent all the same: a port that is never ready must not hang us.
const PATIENCE: usize = 1000;

/// COM1 as a formatter's target.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut status: Port<u8> = Port::new(LINE_STATUS);
        let mut data: PortWriteOnly<u8> = PortWriteOnly::new(DATA);
        for byte in text.bytes() {
            for _ in 0..PATIENCE {
                // SAFETY: reading COM1's line status has no effect on memory.
                if unsafe { status.read() } & TRANSMIT_EMPTY != 0 {
                    break;
                }
            }
            // SAFETY: writing COM1's transmit register has no effect on memory.
            unsafe { data.write(byte) };
        }
        Ok(())
    }
}
