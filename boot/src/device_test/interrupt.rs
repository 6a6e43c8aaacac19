//! Whether a device's interrupt arrives: its line is given a vector, and the local APIC is asked whether it is pending.
//!
//! Interrupts stay disabled, so the request stays visible in the APIC's request register and no handler is needed.

use super::Slot;
use crate::memory::Flat;
use virtio_drivers::device::blk::VirtIOBlk;

/// The I/O APIC of every PC (Intel 82093AA): index and data registers.
const IO_APIC: usize = 0xfec0_0000;
const IO_APIC_DATA: usize = IO_APIC + 0x10;
/// First of the redirection entries, two registers each.
const REDIRECTION: u32 = 0x10;
/// The local APIC (Intel SDM volume 3, table 11-1): spurious-interrupt vector, first interrupt request register.
const LOCAL_APIC_SPURIOUS: usize = 0xfee0_00f0;
const LOCAL_APIC_REQUEST: usize = 0xfee0_0200;
/// The vector the line is given.
const VECTOR: u32 = 0x50;
/// How often the request register is asked. The device answers before it raises its line, and on a busy host the thread
/// that does both may have to wait for a processor in between.
const PATIENCE: usize = 1_000_000;

/// Asks a disk for its serial number and expects the interrupt.
pub fn blk(slot: Slot) -> Result<(), &'static str> {
    enable_local_apic();
    route(slot.line, VECTOR);
    let mut disk = VirtIOBlk::<Flat, _>::new(slot.transport()?).map_err(|_| "does not start")?;
    disk.enable_interrupts();
    disk.device_id(&mut [0; 20]).map_err(|_| "does not tell its serial number")?;
    let pending = (0..PATIENCE).any(|_| requested(VECTOR));
    let status = disk.ack_interrupt();
    if !pending {
        return Err("the interrupt never arrives");
    }
    if status.is_empty() { Err("an interrupt without a status") } else { Ok(()) }
}

fn enable_local_apic() {
    // SAFETY: the local APIC's page is mapped one to one and is this processor's own.
    unsafe { (LOCAL_APIC_SPURIOUS as *mut u32).write_volatile(0x1ff) }
}

/// Sends the line `line`, edge-triggered, to this processor as `vector`.
fn route(line: u32, vector: u32) {
    for (register, value) in [(REDIRECTION + 2 * line + 1, 0), (REDIRECTION + 2 * line, vector)] {
        // SAFETY: the I/O APIC's page is mapped one to one; nobody else programs it.
        unsafe {
            (IO_APIC as *mut u32).write_volatile(register);
            (IO_APIC_DATA as *mut u32).write_volatile(value);
        }
    }
}

fn requested(vector: u32) -> bool {
    let register = LOCAL_APIC_REQUEST + 0x10 * (vector as usize / 32);
    // SAFETY: as in `enable_local_apic`.
    let bits = unsafe { (register as *const u32).read_volatile() };
    bits & 1 << (vector % 32) != 0
}
