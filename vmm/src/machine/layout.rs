//! The machine's contract with its guest: every address, interrupt line and port, in one place.
//!
//! Nothing else in ferry may hold one of these numbers. The guest learns them from the device tree ([`super::fdt`]),
//! the memory map and boot_params; only the ports and KVM's own pages are fixed by convention.
//!
//! ```text
//! 0x0000_0000            RAM: GDT, page tables, boot_params, device tree, command line below 640 KiB;
//! 0x0010_0000            the kernel where its ELF headers say, the initrd as high as it fits
//! 0xc000_0000            end of low RAM, at most: the hole begins
//! 0xd000_0000            virtio-mmio slots, one page each
//! 0xd010_0000            pvpanic
//! 0xd010_1000            VM generation ID
//! 0xfec0_0000            I/O APIC          0xfee0_0000  local APIC
//! 0xfffb_c000            KVM's own pages
//! 0x1_0000_0000          the rest of the RAM; behind it, at the next GiB, room for memory to be plugged, and behind that
//!                        files that are mapped for reading
//! ```

/// Size of a page.
pub const PAGE: u64 = 4096;

/// Where RAM below 4 GiB ends at the latest: the start of the hole for devices.
pub const HOLE_START: u64 = 0xc000_0000;
/// Where RAM goes on after the hole.
pub const HOLE_END: u64 = 1 << 32;

/// What is mapped behind the RAM begins at a multiple of this.
pub const MAPPED_ALIGNMENT: u64 = 1 << 30;
/// What is mapped there is a multiple of this long: Linux describes such memory in pieces of 2 MiB.
pub const MAPPED_UNIT: u64 = 2 << 20;

/// Memory is plugged at multiples of this: Linux's smallest piece of hot-plugged memory.
pub const PLUGGED_ALIGNMENT: u64 = 128 << 20;

/// The most vCPUs a machine can have.
pub const MAX_VCPUS: u8 = 64;
/// The least memory a machine can have, in MiB.
pub const MIN_MEMORY_MIB: u64 = 16;
/// The most memory a machine can have, in MiB: 1 TiB.
pub const MAX_MEMORY_MIB: u64 = 1 << 20;

/// The boot GDT.
pub const GDT: u64 = 0x500;
/// Top of the stack at entry. Linux sets its own; a bare-metal guest may use it.
pub const BOOT_STACK: u64 = 0x6ff0;
/// `struct boot_params`, Linux's zero page.
pub const BOOT_PARAMS: u64 = 0x7000;
/// The page tables at entry: one page of level 4, one of level 3, four of level 2 with 2 MiB pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// How much is identity-mapped at entry.
pub const IDENTITY_MAPPED: u64 = 4 << 30;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// The `setup_data` entry with the random seed.
pub const SETUP_RNG_SEED: u64 = 0x2_1000;
/// The `setup_data` entry with the device tree.
pub const SETUP_DTB: u64 = 0x4_0000;
/// Where the device tree must have ended.
pub const SETUP_DTB_END: u64 = LOW_RAM_END;
/// Where RAM below 1 MiB ends: a PC has its extended BIOS data area here, and kernels take care to look for one.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Where RAM above that area begins: nothing of a kernel may lie lower.
pub const HIGH_RAM: u64 = 0x10_0000;

/// The first virtio-mmio slot.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// The distance between two slots: a page each, so that one can be handed out alone.
pub const VIRTIO_MMIO_STRIDE: u64 = PAGE;
/// The size of a slot's registers, config space included.
pub const VIRTIO_MMIO_SIZE: u64 = 0x200;
/// The pvpanic register.
pub const PVPANIC: u64 = 0xd010_0000;
/// Its size.
pub const PVPANIC_SIZE: u64 = 2;
/// The VM generation ID.
pub const VMGENID: u64 = 0xd010_1000;
/// Its size.
pub const VMGENID_SIZE: u64 = 16;
/// The I/O APIC, where KVM has it.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs, where KVM has them.
pub const LAPIC: u64 = 0xfee0_0000;
/// One page that KVM wants for identity-mapping guests in real mode on old Intel processors.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM wants for a TSS on the same.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// The serial port COM1 and its eight registers.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The keyboard controller's command port, of which only the reset command exists.
pub const KEYBOARD_PORT: u16 = 0x64;
/// What is written to the keyboard controller to reset the machine.
pub const KEYBOARD_RESET: u8 = 0xfe;
/// The port at which a test guest leaves a byte and ends the run.
pub const TEST_EXIT_PORT: u16 = 0x501;

/// The interrupt line of the VM generation ID: a PC's second serial port has it, which is not there.
pub const VMGENID_GSI: u32 = 3;
/// COM1's interrupt line.
pub const SERIAL_GSI: u32 = 4;
/// The first interrupt line of a virtio device.
pub const FIRST_VIRTIO_GSI: u32 = 5;
/// All interrupt lines: the pins of KVM's I/O APIC.
pub const GSIS: u32 = 24;
/// The most virtio devices: each has a line of its own, and 0 to 4 are spoken for (timer, keyboard, cascade, VM
/// generation ID, COM1).
pub const MAX_VIRTIO_DEVICES: usize = (GSIS - FIRST_VIRTIO_GSI) as usize;

/// A virtio-mmio slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u8);

impl Slot {
    /// The slot of the given number, if there are that many.
    pub fn new(number: usize) -> Option<Self> {
        (number < MAX_VIRTIO_DEVICES).then_some(Self(number as u8))
    }

    /// The guest address of its registers.
    pub fn address(self) -> u64 {
        VIRTIO_MMIO + u64::from(self.0) * VIRTIO_MMIO_STRIDE
    }

    /// Its interrupt line.
    pub fn gsi(self) -> u32 {
        FIRST_VIRTIO_GSI + u32::from(self.0)
    }
}

/// The guest's RAM: address and size of each piece, in bytes.
pub fn ram(memory_mib: u64) -> Vec<(u64, u64)> {
    let bytes = memory_mib << 20;
    if bytes <= HOLE_START {
        return vec![(0, bytes)];
    }
    vec![(0, HOLE_START), (HOLE_END, bytes - HOLE_START)]
}

/// What comes behind all RAM begins here: never below 4 GiB.
pub fn behind_ram(memory_mib: u64) -> u64 {
    let end = ram(memory_mib).last().map_or(0, |(start, size)| start + size);
    end.max(HOLE_END).next_multiple_of(MAPPED_ALIGNMENT)
}

/// Where memory can be plugged until a machine of `memory_mib` has `most_mib`: address and size in bytes.
pub fn pluggable(memory_mib: u64, most_mib: u64) -> (u64, u64) {
    let bytes = (most_mib.saturating_sub(memory_mib) << 20).next_multiple_of(PLUGGED_ALIGNMENT);
    (behind_ram(memory_mib), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_lies_behind_all_ram() {
        assert_eq!(behind_ram(512), 4 << 30);
        assert_eq!(behind_ram(3072), 4 << 30);
        assert_eq!(behind_ram(3073), 5 << 30);
        assert_eq!(behind_ram(65536), 65 << 30);
        assert_eq!(pluggable(512, 1024), (4 << 30, 512 << 20));
        assert_eq!(pluggable(64, 65536), (4 << 30, (64 << 30) - (64 << 20) + (64 << 20)));
        assert_eq!(pluggable(512, 512).1, 0);
    }

    #[test]
    fn leaves_the_hole_free_of_ram() {
        assert_eq!(ram(512), [(0, 512 << 20)]);
        assert_eq!(ram(3072), [(0, 3 << 30)]);
        assert_eq!(ram(3073), [(0, 3 << 30), (4 << 30, 1 << 20)]);
        assert_eq!(ram(65536).iter().map(|(_, size)| size).sum::<u64>(), 64 << 30);
    }

    #[test]
    fn has_a_line_and_a_page_for_each_of_nineteen_devices() {
        assert_eq!(MAX_VIRTIO_DEVICES, 19);
        let last = Slot::new(18).unwrap();
        assert_eq!(last.gsi(), 23);
        assert!(last.address() + VIRTIO_MMIO_STRIDE <= PVPANIC);
        assert_eq!(Slot::new(19), None);
    }

    #[test]
    fn keeps_what_is_written_before_boot_apart() {
        let pieces = [
            (GDT, 64),
            (BOOT_PARAMS, PAGE),
            (PAGE_TABLES, 6 * PAGE),
            (CMDLINE, super::super::cmdline::LIMIT as u64),
            (SETUP_RNG_SEED, PAGE),
            (SETUP_DTB, SETUP_DTB_END - SETUP_DTB),
        ];
        for pair in pieces.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:#x} runs into {:#x}", pair[0].0, pair[1].0);
        }
        const { assert!(BOOT_STACK < BOOT_PARAMS) };
    }
}
