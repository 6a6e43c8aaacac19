//! A machine's memory and registers as an ELF core file (a vmcore), as gdb and crash read it.
//!
//! Memory is there several times by address, in one copy: where Linux on x86-64 has all of it (`page_offset_base`), where it has
//! its own text, which is not moved here, and where it has mapped stacks and the like by pages. The program headers say the physical addresses too. Each vCPU is a thread by an
//! `NT_PRSTATUS` note. The layout is that of the System V ABI and of `linux/elfcore.h`; pages of zeros are left out of the
//! file, which is sparse where they are.

mod mappings;

use super::layout::{HIGH_RAM, PAGE};
use crate::devices::virtio::Memory;
use kvm_bindings::{kvm_regs, kvm_sregs};
use mappings::Mapping;
use std::io;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Where Linux maps all memory with four levels of page tables, and with five.
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
const DIRECT_MAP_5: u64 = 0xff11_0000_0000_0000;
/// Where it maps its text, and how much there.
const TEXT_MAP: u64 = 0xffff_ffff_8000_0000;
const TEXT_SIZE: u64 = 1 << 30;
/// CR4: five levels of page tables.
const CR4_LA57: u64 = 1 << 12;

/// Sizes of the ELF header, of a program header, of a note's header with its name, and of `struct elf_prstatus`.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const NOTE_HEADER: usize = 20;
const STATUS: usize = 336;
/// Where in `struct elf_prstatus` the process's number and the registers are.
const STATUS_PID: usize = 32;
const STATUS_REGISTERS: usize = 112;

/// `PT_LOAD`, `PT_NOTE`, and the flags for reading, writing and executing.
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const ALL_ACCESS: u32 = 7;

/// The most bytes of one piece.
pub const LONGEST_PIECE: usize = 64 << 10;

/// Bytes that a dump of a machine has at most beside its memory.
pub const MOST_OVERHEAD: u64 = 1 << 20;

/// A part of memory in the file.
struct Segment {
    offset: u64,
    virtual_address: u64,
    physical: u64,
    size: u64,
}

/// Writes the dump by pieces, each for its place in the file, and returns the file's length.
pub fn write(
    vcpus: &[(kvm_regs, kvm_sregs)],
    memory: &Memory,
    emit: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let five_levels = vcpus.first().is_some_and(|(_, special)| special.cr4 & CR4_LA57 != 0);
    let direct_map = if five_levels { DIRECT_MAP_5 } else { DIRECT_MAP };
    let regions: Vec<(u64, u64)> =
        memory.iter().map(|region| (region.start_addr().0, region.len())).collect();
    let notes = notes(vcpus);
    let in_text = |start: u64| (HIGH_RAM..TEXT_SIZE).contains(&start);
    let mapped = vcpus.first().map(|(_, special)| mappings::mappings(memory, special)).unwrap_or_default();
    // What is in memory of it, by the region.
    let mapped: Vec<(usize, Mapping)> = mapped
        .into_iter()
        .filter_map(|one| {
            let holds = |(start, size): &(u64, u64)| {
                let end = one.physical.checked_add(one.size);
                (*start..start + size).contains(&one.physical) && end.is_some_and(|end| end <= start + size)
            };
            Some((regions.iter().position(holds)?, one))
        })
        .collect();
    let count =
        1 + regions.len() + regions.iter().filter(|(start, _)| in_text(*start)).count() + mapped.len();
    let head = HEADER + PROGRAM_HEADER * count;
    let mut offset = ((head + notes.len()) as u64).next_multiple_of(PAGE);
    let mut segments = Vec::with_capacity(count);
    let mut places = Vec::with_capacity(regions.len());
    for &(physical, size) in &regions {
        places.push((offset, physical, size));
        if in_text(physical) {
            let size = size.min(TEXT_SIZE - physical);
            segments.push(Segment { offset, virtual_address: TEXT_MAP + physical, physical, size });
        }
        segments.push(Segment { offset, virtual_address: direct_map + physical, physical, size });
        offset = (offset + size).next_multiple_of(PAGE);
    }
    segments.extend(mapped.into_iter().filter_map(|(region, one)| {
        let (offset, start, _) = *places.get(region)?;
        let Mapping { virtual_address, physical, size } = one;
        Some(Segment { offset: offset + (physical - start), virtual_address, physical, size })
    }));
    let mut bytes = header(count);
    bytes.extend(program_header(NOTE, 0, head as u64, 0, 0, notes.len() as u64));
    for Segment { offset, virtual_address, physical, size } in segments {
        bytes.extend(program_header(LOAD, ALL_ACCESS, offset, virtual_address, physical, size));
    }
    bytes.extend(notes);
    for (number, piece) in bytes.chunks(LONGEST_PIECE).enumerate() {
        emit((number * LONGEST_PIECE) as u64, piece)?;
    }
    for (offset, physical, size) in places {
        write_region(memory, offset, physical, size, emit)?;
    }
    Ok(offset)
}

fn write_region(
    memory: &Memory,
    offset: u64,
    physical: u64,
    size: u64,
    emit: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_PIECE];
    let mut at = 0;
    while at < size {
        let length = (size - at).min(LONGEST_PIECE as u64) as usize;
        let piece = &mut buffer[..length];
        memory.read_slice(piece, GuestAddress(physical + at)).map_err(io::Error::other)?;
        // What lies between pages of zeros goes together.
        let mut begin = None;
        for start in (0..=length).step_by(PAGE as usize) {
            let page = &piece[start..length.min(start + PAGE as usize)];
            match (page.iter().any(|byte| *byte != 0), begin) {
                (true, None) => begin = Some(start),
                (false, Some(first)) => {
                    emit(offset + at + first as u64, &piece[first..start])?;
                    begin = None;
                }
                _ => {}
            }
        }
        if let Some(first) = begin {
            emit(offset + at + first as u64, &piece[first..])?;
        }
        at += length as u64;
    }
    Ok(())
}

fn header(program_headers: usize) -> Vec<u8> {
    // ELF64, little-endian, version 1, System V.
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(4u16.to_le_bytes()); // ET_CORE
    bytes.extend(62u16.to_le_bytes()); // EM_X86_64
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes()); // entry
    bytes.extend((HEADER as u64).to_le_bytes()); // program headers
    bytes.extend(0u64.to_le_bytes()); // section headers
    bytes.extend(0u32.to_le_bytes()); // flags
    for half in [HEADER, PROGRAM_HEADER, program_headers, 0, 0, 0] {
        bytes.extend((half as u16).to_le_bytes());
    }
    bytes
}

fn program_header(kind: u32, flags: u32, offset: u64, address: u64, physical: u64, size: u64) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for word in [offset, address, physical, size, size, if kind == LOAD { PAGE } else { 4 }] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

fn notes(vcpus: &[(kvm_regs, kvm_sregs)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(vcpus.len() * (NOTE_HEADER + STATUS));
    for (number, (regs, special)) in vcpus.iter().enumerate() {
        for word in [5u32, STATUS as u32, 1] {
            bytes.extend(word.to_le_bytes()); // name's size, description's size, NT_PRSTATUS
        }
        bytes.extend(b"CORE\0\0\0\0");
        let mut status = [0; STATUS];
        status[STATUS_PID..STATUS_PID + 4].copy_from_slice(&(number as u32 + 1).to_le_bytes());
        for (place, value) in status[STATUS_REGISTERS..].chunks_exact_mut(8).zip(registers(regs, special)) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes.extend(status);
    }
    bytes
}

/// In the order of `struct user_regs_struct`.
fn registers(regs: &kvm_regs, special: &kvm_sregs) -> [u64; 27] {
    [
        regs.r15,
        regs.r14,
        regs.r13,
        regs.r12,
        regs.rbp,
        regs.rbx,
        regs.r11,
        regs.r10,
        regs.r9,
        regs.r8,
        regs.rax,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        u64::MAX, // no system call under way
        regs.rip,
        special.cs.selector.into(),
        regs.rflags,
        regs.rsp,
        special.ss.selector.into(),
        special.fs.base,
        special.gs.base,
        special.ds.selector.into(),
        special.es.selector.into(),
        special.fs.selector.into(),
        special.gs.selector.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::process::Command;

    /// Memory with two regions, and two vCPUs.
    fn dumped() -> (tempfile::NamedTempFile, u64) {
        let ranges = [(GuestAddress(0), 0x9_f000), (GuestAddress(HIGH_RAM), 8 << 20)];
        let memory = Memory::from_ranges(&ranges).unwrap();
        memory.write_obj(0x1122_3344_5566_7788u64, GuestAddress(0x5000)).unwrap();
        memory.write_slice(b"a word in the text\0", GuestAddress(0x20_0ffb)).unwrap();
        // Page tables: an entry for the direct map, and four levels to a stack of two pages that are far apart.
        for (table, index, entry) in [
            (0x1_0000, 273, 0x1_4001u64),
            (0x1_0000, 402, 0x1_1001),
            (0x1_1000, 0, 0x1_2001),
            (0x1_2000, 0, 0x1_3001),
            (0x1_3000, 1, 0x40_0001),
            (0x1_3000, 2, 0x30_0001),
        ] {
            memory.write_obj(entry, GuestAddress(table + 8 * index)).unwrap();
        }
        memory.write_slice(b"a word ", GuestAddress(0x40_0ff9)).unwrap();
        memory.write_slice(b"on a stack\0", GuestAddress(0x30_0000)).unwrap();
        let vcpus: Vec<_> = (0..2)
            .map(|number| {
                let regs = kvm_regs {
                    rip: 0xffff_ffff_8020_0000 + number,
                    rsp: 0x77,
                    r15: 15,
                    ..Default::default()
                };
                (regs, kvm_sregs { cr0: 1 << 31, cr3: 0x1_0000, cr4: 0x20, ..Default::default() })
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        let to: &File = file.as_file();
        let length = write(&vcpus, &memory, &mut |offset, piece| {
            assert!(!piece.is_empty() && piece.len() <= LONGEST_PIECE);
            to.write_all_at(piece, offset)
        })
        .unwrap();
        to.set_len(length).unwrap();
        (file, length)
    }

    #[test]
    fn zeros_take_no_room() {
        let (file, length) = dumped();
        assert!(length > 8 << 20 && length < (9 << 20) + MOST_OVERHEAD);
        let taken = file.as_file().metadata().unwrap().blocks() * 512;
        assert!(taken <= 64 << 10, "{taken} bytes");
    }

    #[test]
    fn gdb_reads_registers_and_memory() {
        let (file, _) = dumped();
        let gdb = Command::new("gdb")
            .args(["-nx", "-batch", "-ex", "core-file"])
            .args(["-ex", &format!("core-file {}", file.path().display())])
            .args([
                "-ex",
                "info threads",
                "-ex",
                "p/x $rip",
                "-ex",
                "p/x $r15",
                "-ex",
                "thread 2",
                "-ex",
                "p/x $rip",
            ])
            .args([
                "-ex",
                "x/gx 0xffff888000005000",
                "-ex",
                "x/s 0xffffffff80200ffb",
                "-ex",
                "x/s 0xffff888000200ffb",
                "-ex",
                "x/s 0xffffc90000001ff9",
            ])
            .output();
        let Ok(output) = gdb else {
            eprintln!("skipped: no gdb");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        for words in [
            "$1 = 0xffffffff80200000",
            "$2 = 0xf",
            "$3 = 0xffffffff80200001",
            "0xffff888000005000:\t0x1122334455667788",
            "0xffffffff80200ffb:\t\"a word in the text\"",
            "0xffff888000200ffb:\t\"a word in the text\"",
            "0xffffc90000001ff9:\t\"a word on a stack\"",
        ] {
            assert!(text.contains(words), "no {words} in {text} {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
