//! The device tests: every virtio device that the device tree names, used as it should be and then as it should not.
//!
//! Words of the command line: `vsock=PORT` asks for a connection to that port of the host, which must answer what it is
//! sent. A network card's other end must send every frame back with the two addresses at its start exchanged; what else it
//! sends is ignored.

mod asked;
mod behaved;
mod hostile;
mod interrupt;
mod raw;

use crate::boot_params::{IdentityMap, command_line, device_tree};
use crate::report::Report;
use crate::virtio_mmio::{Registers, register};
use core::ptr::NonNull;
use flat_device_tree::Fdt;
use hostile::Victim;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};

/// Where a device is: its registers, their size in bytes, and its interrupt line.
#[derive(Clone, Copy, Debug)]
struct Slot {
    base: NonNull<u8>,
    size: usize,
    line: u32,
}

impl Slot {
    /// The device for a driver that keeps the rules.
    fn transport(self) -> Result<MmioTransport<'static>, &'static str> {
        // SAFETY: the device tree names this region as virtio-mmio; one driver at a time is made for it.
        unsafe { MmioTransport::new(self.base.cast::<VirtIOHeader>(), self.size) }
            .map_err(|_| "no virtio device behind its node")
    }

    /// The device for a driver that breaks them.
    fn registers(self) -> Registers {
        // SAFETY: as in `transport`.
        unsafe { Registers::new(self.base) }
    }
}

/// Runs every test and ends the machine.
pub fn run(zero_page: u64) -> ! {
    let mut report = Report::default();
    if let Err(why) = all(zero_page, &mut report) {
        report.result("finds the devices in the device tree", Err(why));
    }
    report.finish()
}

fn all(zero_page: u64, report: &mut Report) -> Result<(), &'static str> {
    let blob = device_tree(&IdentityMap, zero_page).ok_or("no device tree in setup_data")?;
    let tree = Fdt::new(blob).map_err(|_| "the device tree cannot be read")?;
    let vsock_port = command_line(&IdentityMap, zero_page)
        .and_then(|line| line.split(' ').find_map(|word| word.strip_prefix("vsock=")))
        .and_then(|port| port.parse().ok());
    for node in tree.all_nodes() {
        let named = node.compatible().is_some_and(|names| names.all().any(|name| name == "virtio,mmio"));
        if !named {
            continue;
        }
        let slot = slot(&node).ok_or("a virtio node without registers or interrupt")?;
        // Some the drivers' crate does not know.
        if let Some(asked::Kind { name, promise, works, .. }) =
            asked::kind(slot.registers().read(register::DEVICE_ID))
        {
            report.result(promise, works(slot));
            hostile::all(&Victim { name, slot, queue: 0, works: *works }, report);
            continue;
        }
        let kind = slot.transport()?.device_type();
        match kind {
            DeviceType::Block => {
                report.result("blk reads what it wrote", behaved::blk(slot));
                report.result("blk raises its interrupt", interrupt::blk(slot));
                report.result("blk flushes, zeroes and discards on both queues", raw::blk(slot));
                let works = behaved::blk;
                hostile::all(&Victim { name: "blk", slot, queue: 0, works }, report);
                hostile::all(&Victim { name: "blk, second queue,", slot, queue: 1, works }, report);
            }
            DeviceType::Network => {
                report.result("net carries frames both ways", behaved::net(slot));
                let works = behaved::net;
                hostile::all(&Victim { name: "net, receiving,", slot, queue: 0, works }, report);
                hostile::all(&Victim { name: "net, sending,", slot, queue: 1, works }, report);
            }
            DeviceType::EntropySource => {
                report.result("rng fills a buffer", behaved::rng(slot));
                hostile::all(&Victim { name: "rng", slot, queue: 0, works: behaved::rng }, report);
            }
            DeviceType::MemoryBalloon => {
                report.result("balloon takes pages", raw::balloon(slot));
                let works = raw::balloon;
                hostile::all(&Victim { name: "balloon", slot, queue: 0, works }, report);
                hostile::all(&Victim { name: "balloon, reporting,", slot, queue: 2, works }, report);
            }
            DeviceType::Console => {
                report.result("console takes a line", behaved::console(slot));
                report.result("console introduces its ports", raw::console(slot));
                let works = behaved::console;
                hostile::all(&Victim { name: "console, receiving,", slot, queue: 0, works }, report);
                hostile::all(&Victim { name: "console, sending,", slot, queue: 1, works }, report);
                let works = raw::console;
                hostile::all(&Victim { name: "console, messages for it,", slot, queue: 2, works }, report);
                hostile::all(&Victim { name: "console, its messages,", slot, queue: 3, works }, report);
            }
            DeviceType::Socket => {
                if let Some(port) = vsock_port {
                    report.result("vsock carries a conversation", behaved::vsock(slot, port));
                }
                let works = |slot: Slot| slot.transport().map(drop);
                hostile::all(&Victim { name: "vsock, receiving,", slot, queue: 0, works }, report);
                hostile::all(&Victim { name: "vsock, sending,", slot, queue: 1, works }, report);
                if let Some(port) = vsock_port {
                    report.result("vsock carries another", behaved::vsock(slot, port));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn slot(node: &flat_device_tree::node::FdtNode<'_, '_>) -> Option<Slot> {
    let region = node.reg().next()?;
    let interrupts = node.property("interrupts")?.value;
    Some(Slot {
        base: NonNull::new(region.starting_address.cast_mut())?,
        size: region.size?,
        line: u32::from_be_bytes(interrupts.get(..4)?.try_into().ok()?),
    })
}
