//! Program headers of ELF files: the System V ABI, chapter 5, as far as little-endian 64-bit files go.

use anyhow::{Context, Result, ensure};

/// Bytes of the file's header.
pub const HEADER: usize = 64;
/// Bytes of one program header.
pub const PROGRAM_HEADER: usize = 56;
/// The kinds of program headers that something here looks at.
pub const PT_LOAD: u32 = 1;
pub const PT_DYNAMIC: u32 = 2;
pub const PT_INTERP: u32 = 3;
pub const PT_NOTE: u32 = 4;

/// One program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub offset: usize,
    pub virtual_address: u64,
    pub physical_address: u64,
    pub in_file: usize,
    pub in_memory: u64,
}

/// The file's header and its segments, all of which lie inside of the file.
pub fn parse(elf: &[u8]) -> Result<(&[u8], Vec<Segment>)> {
    let header = elf.get(..HEADER).context("it is too short")?;
    ensure!(header.starts_with(b"\x7fELF\x02\x01"), "it is not a little-endian 64-bit ELF file");
    let (table, size, count) = (number(header, 32, 8), number(header, 54, 2), number(header, 56, 2));
    ensure!(size as usize == PROGRAM_HEADER, "its program headers have {size} bytes");
    let table = usize::try_from(table)?;
    let mut segments = Vec::new();
    for index in 0..count as usize {
        let at = table.saturating_add(index * PROGRAM_HEADER);
        let bytes =
            elf.get(at..at.saturating_add(PROGRAM_HEADER)).context("its program headers end early")?;
        let segment = Segment {
            kind: number(bytes, 0, 4) as u32,
            flags: number(bytes, 4, 4) as u32,
            offset: usize::try_from(number(bytes, 8, 8))?,
            virtual_address: number(bytes, 16, 8),
            physical_address: number(bytes, 24, 8),
            in_file: usize::try_from(number(bytes, 32, 8))?,
            in_memory: number(bytes, 40, 8),
        };
        let end = segment.offset.checked_add(segment.in_file);
        ensure!(end.is_some_and(|end| end <= elf.len()), "segment {index} is longer than the file");
        segments.push(segment);
    }
    Ok((header, segments))
}

/// The first and the last address that is loaded.
pub fn addresses(elf: &[u8]) -> Result<(u64, u64)> {
    let (_, segments) = parse(elf)?;
    let loaded = || segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let first = loaded().map(|segment| segment.virtual_address).min();
    let last = loaded().map(|segment| segment.virtual_address.saturating_add(segment.in_memory)).max();
    first.zip(last).context("nothing of it is loaded")
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

impl Segment {
    /// The program header as it stands in the file.
    pub fn bytes(&self, align: u64) -> [u8; PROGRAM_HEADER] {
        let mut bytes = [0; PROGRAM_HEADER];
        bytes[0..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_le_bytes());
        let fields = [
            self.offset as u64,
            self.virtual_address,
            self.physical_address,
            self.in_file as u64,
            self.in_memory,
            align,
        ];
        for (field, at) in fields.into_iter().zip((8..).step_by(8)) {
            bytes[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_program_loads() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (first, last) = addresses(&this).unwrap();
        assert!(first < last);
        let (_, segments) = parse(&this).unwrap();
        assert!(segments.iter().any(|segment| segment.kind == PT_DYNAMIC), "test programs are dynamic");
    }

    #[test]
    fn what_is_no_elf_file_or_ends_early_is_refused() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(parse(b"#!/bin/sh").is_err());
        assert!(parse(b"\x7fELF\x02\x01 and no more").is_err());
        assert!(parse(&this[..200]).is_err());
    }
}
