//! Writes the kernel's image anew without what nobody needs in it: symbols, sections, and megabytes of padding.
//!
//! The linker aligns parts of the kernel to 1 and 2 MiB, for page tables and for speculation mitigations, and the file
//! holds every byte between them. Here long runs of pages that are all zero, or all `int3` between functions, are left
//! out: the image becomes more segments than it was, at the same addresses. See the System V ABI, chapter 5.

use anyhow::{Context, Result, ensure};

use crate::elf::{self, HEADER, PROGRAM_HEADER, PT_LOAD, PT_NOTE, Segment};

/// Granularity of segments: what a loader can map.
const PAGE: usize = 4096;
/// A shorter run of padding is not worth another segment.
const SHORTEST_RUN: usize = 16;
const INT3: u8 = 0xcc;

/// The compact form of a little-endian 64-bit ELF executable.
pub fn compact(elf: &[u8]) -> Result<Vec<u8>> {
    let (header, segments) = elf::parse(elf)?;
    let mut pieces = Vec::new();
    for segment in segments.iter().filter(|s| s.kind == PT_LOAD) {
        check(segment)?;
        split(segment, &elf[segment.offset..segment.offset + segment.in_file], &mut pieces);
    }
    let notes: Vec<_> = segments.iter().filter(|s| s.kind == PT_NOTE).collect();
    let count = pieces.len() + notes.len();
    let mut out = header.to_vec();
    out.resize((HEADER + count * PROGRAM_HEADER).next_multiple_of(PAGE), 0);
    let mut headers = Vec::with_capacity(count);
    for piece in pieces {
        headers.push(Segment { offset: out.len(), ..piece });
        out.extend_from_slice(&elf[piece.offset..piece.offset + piece.in_file]);
        out.resize(out.len().next_multiple_of(PAGE), 0);
    }
    for note in notes {
        // A note lies inside of a segment: it is found there by its address.
        let holder = headers.iter().find(|s| {
            s.kind == PT_LOAD
                && note.virtual_address >= s.virtual_address
                && note.virtual_address + note.in_file as u64 <= s.virtual_address + s.in_file as u64
        });
        let holder = holder.context("a note lies in no segment")?;
        let offset = holder.offset + (note.virtual_address - holder.virtual_address) as usize;
        headers.push(Segment { offset, ..*note });
    }
    for (number, segment) in headers.iter().enumerate() {
        let at = HEADER + number * PROGRAM_HEADER;
        out[at..at + PROGRAM_HEADER].copy_from_slice(&segment.bytes(alignment(segment)));
    }
    // No sections; the program headers follow the header.
    out[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
    out[40..48].fill(0);
    out[56..58].copy_from_slice(&(count as u16).to_le_bytes());
    out[58..64].fill(0);
    Ok(out)
}

/// What a program header promises about its segment's address.
fn alignment(segment: &Segment) -> u64 {
    if segment.kind == PT_LOAD { PAGE as u64 } else { 4 }
}

/// Refuses what no kernel's segment is: out of line with pages, or with more in the file than in memory.
fn check(segment: &Segment) -> Result<()> {
    let aligned = segment.physical_address.is_multiple_of(PAGE as u64)
        && segment.virtual_address.is_multiple_of(PAGE as u64);
    ensure!(aligned && segment.in_memory >= segment.in_file as u64, "a segment of it is malformed");
    Ok(())
}

/// The part from page `first` to page `end` of a segment's file content.
fn part(segment: &Segment, first: usize, end: usize) -> Segment {
    let (from, to) = (first * PAGE, (end * PAGE).min(segment.in_file));
    Segment {
        offset: segment.offset + from,
        virtual_address: segment.virtual_address + from as u64,
        physical_address: segment.physical_address + from as u64,
        in_file: to - from,
        in_memory: (to - from) as u64,
        ..*segment
    }
}

/// Splits a segment at its long runs of padding.
fn split(segment: &Segment, content: &[u8], pieces: &mut Vec<Segment>) {
    let first_of_segment = pieces.len();
    let padding: Vec<Option<u8>> = content.chunks(PAGE).map(padding_of).collect();
    let (mut kept_from, mut page) = (0, 0);
    while page < padding.len() {
        let run = padding[page..].iter().take_while(|&&p| p.is_some() && p == padding[page]).count();
        // What runs astray in the text's padding still meets an int3 before it meets the next function.
        let skipped = run - usize::from(padding[page] == Some(INT3) && run > 0);
        if skipped >= SHORTEST_RUN {
            if kept_from < page {
                pieces.push(part(segment, kept_from, page));
            }
            kept_from = page + skipped;
        }
        page += run.max(1);
    }
    if kept_from < padding.len() || pieces.len() == first_of_segment {
        pieces.push(part(segment, kept_from, padding.len()));
    }
    // Memory beyond the file content (bss) stays with the last piece.
    if let Some(last) = pieces.last_mut() {
        last.in_memory = segment.virtual_address + segment.in_memory - last.virtual_address;
    }
}

/// The byte that this page is full of, if it is padding.
fn padding_of(page: &[u8]) -> Option<u8> {
    let byte = *page.first()?;
    ((byte == 0 || byte == INT3) && page.iter().all(|&b| b == byte)).then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8100_0000;
    const LOW: u64 = 0x100_0000;

    /// An ELF file of one segment with this content and bss, and perhaps a note at this page.
    fn elf(content: &[u8], bss: u64, note: Option<usize>) -> Vec<u8> {
        let mut out = vec![0; PAGE];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[24..32].copy_from_slice(&LOW.to_le_bytes());
        out[32..40].copy_from_slice(&64u64.to_le_bytes());
        out[40..48].copy_from_slice(&9999u64.to_le_bytes());
        out[54..56].copy_from_slice(&56u16.to_le_bytes());
        let load = Segment {
            kind: PT_LOAD,
            flags: 5,
            offset: PAGE,
            virtual_address: BASE,
            physical_address: LOW,
            in_file: content.len(),
            in_memory: content.len() as u64 + bss,
        };
        let mut segments = vec![load];
        if let Some(page) = note {
            let at = (page * PAGE) as u64;
            segments.push(Segment {
                kind: PT_NOTE,
                offset: load.offset + page * PAGE,
                virtual_address: BASE + at,
                physical_address: LOW + at,
                in_file: 20,
                in_memory: 20,
                ..load
            });
        }
        out[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (number, segment) in segments.iter().enumerate() {
            out[64 + number * 56..][..56].copy_from_slice(&segment.bytes(alignment(segment)));
        }
        out.extend_from_slice(content);
        out
    }

    fn pages(parts: &[(u8, usize)]) -> Vec<u8> {
        parts.iter().flat_map(|&(byte, pages)| vec![byte; pages * PAGE]).collect()
    }

    /// Memory as a loader makes it, from the first segment's address on.
    fn load(elf: &[u8]) -> Vec<u8> {
        let mut memory = Vec::new();
        for segment in elf::parse(elf).unwrap().1.iter().filter(|s| s.kind == PT_LOAD) {
            let at = (segment.physical_address - LOW) as usize;
            let end = at + segment.in_memory as usize;
            memory.resize(memory.len().max(end), 0);
            memory[at..at + segment.in_file].copy_from_slice(&elf[segment.offset..][..segment.in_file]);
        }
        memory
    }

    #[test]
    fn zero_padding_goes_and_memory_is_the_same() {
        let content = pages(&[(1, 3), (0, 100), (2, 1), (0, 3), (3, 2)]);
        let original = elf(&content, 5000, None);
        let compacted = compact(&original).unwrap();
        assert_eq!(compacted.len(), (1 + 3 + 1 + 3 + 2) * PAGE);
        assert_eq!(load(&compacted), load(&original));
        assert_eq!(compacted[24..32], original[24..32]);
    }

    #[test]
    fn a_page_of_int3_stays_before_the_next_function() {
        let content = pages(&[(1, 1), (INT3, 50), (2, 1)]);
        let compacted = compact(&elf(&content, 0, None)).unwrap();
        let memory = load(&compacted);
        assert_eq!(compacted.len(), (1 + 1 + 2) * PAGE);
        assert_eq!(memory[50 * PAGE..], content[50 * PAGE..]);
    }

    #[test]
    fn a_segment_that_ends_in_zeros_keeps_its_size_in_memory() {
        let content = pages(&[(1, 1), (0, 30)]);
        let original = elf(&content, 123, None);
        let compacted = compact(&original).unwrap();
        assert_eq!(compacted.len(), 2 * PAGE);
        assert_eq!(load(&compacted), load(&original));
        let nothing_else = elf(&pages(&[(0, 30)]), 7, None);
        assert_eq!(load(&compact(&nothing_else).unwrap()), load(&nothing_else));
    }

    #[test]
    fn a_note_is_still_found() {
        let mut content = pages(&[(1, 1), (0, 40), (2, 2)]);
        content[42 * PAGE..42 * PAGE + 20].copy_from_slice(b"a note of 20 bytes..");
        let compacted = compact(&elf(&content, 0, Some(42))).unwrap();
        let note = *elf::parse(&compacted).unwrap().1.iter().find(|s| s.kind == PT_NOTE).unwrap();
        assert_eq!(&compacted[note.offset..][..note.in_file], b"a note of 20 bytes..");
    }

    #[test]
    fn what_is_no_executable_or_is_cut_short_is_refused() {
        let whole = elf(&pages(&[(1, 4)]), 0, None);
        assert!(compact(b"#!/bin/sh").is_err());
        assert!(compact(&whole[..whole.len() - 1]).is_err());
        assert!(compact(&whole[..100]).is_err());
        let mut other = whole.clone();
        other[4] = 1;
        assert!(compact(&other).is_err());
    }
}
