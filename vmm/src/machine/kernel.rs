//! Loading the kernel: an x86-64 ELF executable whose segments go to their physical addresses.
//!
//! Segments are mapped from the file where they are page-aligned, so loading costs nothing and pages that no guest
//! writes are shared by every machine on the host. See the System V ABI, chapter 5, for the layout.

use super::layout::{HIGH_RAM, PAGE};
use super::memory::{MemoryError, Source, low_end};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;

/// Room that a kernel needs above its own image, for its first allocations.
const HEADROOM: u64 = 8 << 20;
/// More program headers than any kernel has.
const MAX_HEADERS: u16 = 64;

/// Why a kernel could not be loaded.
#[derive(Debug, Error)]
pub enum KernelError {
    /// It is not an ELF file for x86-64.
    #[error("the kernel is not an x86-64 ELF executable (vmlinux): {0}")]
    Format(&'static str),
    /// Its headers contradict themselves or the machine.
    #[error("the kernel's ELF headers are wrong: {0}")]
    Headers(&'static str),
    /// It cannot be read or does not fit.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A loaded kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Physical address of its first instruction, in 64-bit mode.
    pub entry: u64,
    /// The first address after its image.
    pub end: u64,
}

/// The little-endian integer of `N` bytes at `at`. The caller knows that it is inside.
fn field<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Loads the kernel into guest memory.
pub fn load(source: &Source<'_>, memory: &GuestMemoryMmap) -> Result<Kernel, KernelError> {
    let mut header = [0; 64];
    if source.length() < header.len() as u64 {
        return Err(KernelError::Format("it is too short"));
    }
    source.read(0, &mut header)?;
    if header[..4] != *b"\x7fELF" {
        return Err(KernelError::Format("it does not begin as one"));
    }
    // ELFCLASS64, ELFDATA2LSB, ET_EXEC (or ET_DYN for a firmware), EM_X86_64.
    if header[4..6] != [2, 1] || !matches!(field::<2>(&header, 16), 2 | 3) || field::<2>(&header, 18) != 62 {
        return Err(KernelError::Format("it is one for another machine, or not an executable"));
    }
    let entry = field::<8>(&header, 24);
    let (table, size, count) = (field::<8>(&header, 32), field::<2>(&header, 54), field::<2>(&header, 56));
    if size != 56 || count == 0 || count > u64::from(MAX_HEADERS) {
        return Err(KernelError::Headers("the program header table has an unknown shape"));
    }
    let mut headers = vec![0; (size * count) as usize];
    source.read(table, &mut headers)?;

    let ram_end = low_end(memory);
    let (mut end, mut holds_entry) = (0, false);
    for header in headers.chunks_exact(size as usize).filter(|header| field::<4>(header, 0) == 1) {
        let [offset, _, address, in_file, in_memory] = [8, 16, 24, 32, 40].map(|at| field::<8>(header, at));
        if in_memory == 0 {
            continue;
        }
        let last = address.checked_add(in_memory).ok_or(KernelError::Headers("a segment wraps around"))?;
        if in_file > in_memory || offset.checked_add(in_file).is_none_or(|end| end > source.length()) {
            return Err(KernelError::Headers("a segment is longer than the file"));
        }
        if address < HIGH_RAM {
            return Err(KernelError::Headers("a segment lies below 1 MiB"));
        }
        let needed = last.saturating_add(HEADROOM);
        if needed > ram_end {
            return Err(
                MemoryError::TooLittle { what: "the kernel", needed_mib: needed.div_ceil(1 << 20) }.into()
            );
        }
        // What follows a segment's bytes is zero already: nothing has been in this memory before.
        source.place(memory, address, offset, in_file)?;
        end = end.max(last);
        holds_entry |= (address..last).contains(&entry);
    }
    if !holds_entry {
        return Err(KernelError::Headers("the entry point is in none of the segments"));
    }
    Ok(Kernel { entry, end })
}

/// Puts the initrd as high as it can lie and returns where that is. Linux wants it below 2 GiB.
pub fn load_initrd(
    source: &Source<'_>,
    memory: &GuestMemoryMmap,
    kernel: Kernel,
) -> Result<u64, MemoryError> {
    let length = source.length();
    let address = low_end(memory).min(1 << 31).checked_sub(length).map(|address| address / PAGE * PAGE);
    match address {
        Some(address) if address >= kernel.end + HEADROOM => {
            source.place(memory, address, 0, length)?;
            Ok(address)
        }
        _ => {
            let needed = kernel.end.saturating_add(HEADROOM).saturating_add(length);
            Err(MemoryError::TooLittle {
                what: "the kernel with its initrd",
                needed_mib: needed.div_ceil(1 << 20) + 1,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Image;
    use super::super::memory::allocate;
    use super::*;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    /// An ELF executable with one segment: 64 + 56 bytes of headers, then the contents on the next page.
    fn elf(address: u64, contents: &[u8], in_memory: u64, entry: u64) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend(entry.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
        for value in [4096, address, address, contents.len() as u64, in_memory, 4096] {
            file.extend(value.to_le_bytes());
        }
        file.resize(4096, 0);
        file.extend(contents);
        file
    }

    fn load_bytes(bytes: Vec<u8>, mib: u64) -> Result<(Kernel, GuestMemoryMmap), KernelError> {
        let memory = allocate(mib).unwrap();
        let image = Image::Bytes(bytes.into());
        load(&Source::open(&image, "kernel").unwrap(), &memory).map(|kernel| (kernel, memory))
    }

    #[test]
    fn loads_a_segment_and_its_zeroes() {
        let (kernel, memory) = load_bytes(elf(0x10_0000, &[0x90; 5000], 9000, 0x10_0010), 16).unwrap();
        assert_eq!(kernel, Kernel { entry: 0x10_0010, end: 0x10_0000 + 9000 });
        let mut loaded = [1; 5001];
        memory.read_slice(&mut loaded, GuestAddress(0x10_0000)).unwrap();
        assert_eq!(loaded[..5000], [0x90; 5000]);
        assert_eq!(loaded[5000], 0);
    }

    #[test]
    fn maps_a_kernel_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinux");
        std::fs::write(&path, elf(0x20_0000, &[0xcc; 10_000], 10_000, 0x20_0000)).unwrap();
        let memory = allocate(16).unwrap();
        let image = Image::File(path);
        let kernel = load(&Source::open(&image, "kernel").unwrap(), &memory).unwrap();
        assert_eq!(kernel.entry, 0x20_0000);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x20_0000 + 9999)).unwrap(), 0xcc);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x20_0000 + 10_000)).unwrap(), 0);
    }

    #[test]
    fn says_how_much_memory_a_kernel_needs() {
        let error = load_bytes(elf(0x10_0000, &[0; 16], 20 << 20, 0x10_0000), 16).unwrap_err();
        let KernelError::Memory(MemoryError::TooLittle { needed_mib, .. }) = error else { panic!("{error}") };
        assert_eq!(needed_mib, 29);
    }

    #[test]
    fn refuses_wrong_headers() {
        let good = elf(0x10_0000, &[0; 16], 16, 0x10_0000);
        let with = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            load_bytes(file, 16).unwrap_err()
        };
        assert!(matches!(with(0, b"\x7fELX"), KernelError::Format(_)));
        assert!(matches!(with(18, &[183]), KernelError::Format(_)), "another architecture");
        assert!(matches!(with(24, &[0; 8]), KernelError::Headers(_)), "entry outside");
        assert!(matches!(with(64 + 24, &[0; 8]), KernelError::Headers(_)), "segment at 0");
        assert!(matches!(with(64 + 32, &[0xff; 8]), KernelError::Headers(_)), "longer than the file");
        assert!(matches!(with(64 + 24, &[0xff; 8]), KernelError::Headers(_)), "wraps around");
        assert!(matches!(load_bytes(b"#!/bin/sh".to_vec(), 16), Err(KernelError::Format(_))));
    }

    #[test]
    fn puts_the_initrd_on_top_and_above_the_kernel() {
        let memory = allocate(32).unwrap();
        let kernel = Kernel { entry: 0x10_0000, end: 0x20_0000 };
        let image = Image::Bytes(vec![7; 5000].into());
        let address = load_initrd(&Source::open(&image, "initrd").unwrap(), &memory, kernel).unwrap();
        assert_eq!(address, (32 << 20) - 8192);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(address + 4999)).unwrap(), 7);
        let image = Image::Bytes(vec![7; 25 << 20].into());
        let error = load_initrd(&Source::open(&image, "initrd").unwrap(), &memory, kernel).unwrap_err();
        assert!(matches!(error, MemoryError::TooLittle { needed_mib: 36, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn never_panics_on_changed_headers(changes in prop::collection::vec((0usize..120, any::<u8>()), 0..12)) {
            let mut file = elf(0x10_0000, &[0; 600], 1000, 0x10_0000);
            for (at, byte) in changes {
                file[at] = byte;
            }
            let _ = load_bytes(file, 16);
        }
    }
}
