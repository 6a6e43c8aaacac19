//! The state in which a kernel is entered: 64-bit mode, identity-mapped, as Linux's boot protocol asks.
//!
//! See Documentation/arch/x86/boot.rst, "64-bit boot protocol": flat segments `__BOOT_CS` (0x10) and `__BOOT_DS` (0x18),
//! interrupts off, RSI pointing at boot_params.

use super::layout::{self, PAGE};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap};

const CR0_PROTECTION: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

/// The descriptors: two unused, 64-bit code, data, and a task state segment.
const DESCRIPTORS: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];

/// Writes the page tables and the GDT into guest memory.
pub fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let [level4, level3, level2] = [0, 1, 2].map(|page| layout::PAGE_TABLES + page * PAGE);
    memory.write_obj(level3 | PRESENT_WRITABLE, GuestAddress(level4))?;
    for gigabyte in 0..layout::IDENTITY_MAPPED >> 30 {
        let table = level2 + gigabyte * PAGE;
        memory.write_obj(table | PRESENT_WRITABLE, GuestAddress(level3 + gigabyte * 8))?;
        let entries: [u64; 512] =
            std::array::from_fn(|n| gigabyte << 30 | (n as u64) << 21 | PRESENT_WRITABLE | LARGE_PAGE);
        memory.get_slice(GuestAddress(table), PAGE as usize)?.copy_from(&entries);
    }
    for (number, descriptor) in DESCRIPTORS.into_iter().enumerate() {
        memory.write_obj(descriptor, GuestAddress(layout::GDT + number as u64 * 8))?;
    }
    Ok(())
}

/// The general registers at `entry`.
pub fn registers(entry: u64) -> kvm_regs {
    kvm_regs {
        rip: entry,
        rsi: layout::BOOT_PARAMS,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    }
}

/// Changes the special registers to 64-bit mode over the tables of [`write_tables`].
pub fn enter_long_mode(registers: &mut kvm_sregs) {
    let segment = |selector: u16, type_: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    registers.cs = kvm_segment { l: 1, ..segment(0x10, 0b1011) };
    let data = kvm_segment { db: 1, ..segment(0x18, 0b0011) };
    (registers.ds, registers.es, registers.fs, registers.gs, registers.ss) = (data, data, data, data, data);
    registers.tr = kvm_segment { s: 0, ..segment(0x20, 0b1011) };
    registers.gdt.base = layout::GDT;
    registers.gdt.limit = (DESCRIPTORS.len() * 8 - 1) as u16;
    registers.idt.base = 0;
    registers.idt.limit = 0;
    registers.cr3 = layout::PAGE_TABLES;
    registers.cr4 |= CR4_PAE;
    registers.cr0 = CR0_PROTECTION | CR0_EXTENSION_TYPE | CR0_NUMERIC_ERROR | CR0_PAGING;
    registers.efer |= EFER_LONG_MODE | EFER_LONG_MODE_ACTIVE;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::allocate;

    #[test]
    fn maps_every_address_below_4_gib_to_itself() {
        let memory = allocate(16).unwrap();
        write_tables(&memory).unwrap();
        let read = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        for address in [0, 0x10_0000, 0xc000_0000, layout::VIRTIO_MMIO, layout::LAPIC, 0xffff_ffff] {
            let level3 = read(layout::PAGE_TABLES + (address >> 39) * 8) & !0xfff;
            let level2 = read(level3 + (address >> 30 & 511) * 8) & !0xfff;
            let page = read(level2 + (address >> 21 & 511) * 8);
            assert_eq!(page & 0xfff, 0x83);
            assert_eq!(page & !0xfff, address & !0x1f_ffff);
        }
    }
}
