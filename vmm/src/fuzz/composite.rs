//! Disks joined of files: what is read is what lies there, or an error.

use super::Input;
use crate::backends::disk::{Composite, Disk, Segment};
use std::path::PathBuf;
use std::sync::OnceLock;
use vm_memory::VolatileSlice;

/// Bytes of the one file that all segments are taken from.
const FILE: usize = 64 << 10;
const SECTOR: u64 = 512;

/// A file whose bytes tell their place.
fn file() -> &'static PathBuf {
    static PLACE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let make = || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("segment");
        std::fs::write(&path, pattern(FILE)).expect("a temporary file takes it");
        (directory, path)
    };
    &PLACE.get_or_init(make).1
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at / 512) as u8).collect()
}

/// Segments by their lengths, and then reads by offset and length.
pub fn composite(bytes: &[u8]) {
    let mut input = Input(bytes);
    let count = usize::from(input.byte() % 8);
    let lengths: Vec<u64> = (0..count)
        .map(|_| match input.half() {
            // Now and then one that cannot be.
            odd @ 0xff00.. => u64::from(odd) << 48 | input.double(),
            sectors => u64::from(sectors) % (FILE as u64 / SECTOR + 1) * SECTOR,
        })
        .collect();
    let segments: Vec<Segment> =
        lengths.iter().map(|bytes| Segment { path: file().clone(), bytes: *bytes }).collect();
    let Ok(mut disk) = Composite::open(&segments) else { return };
    let whole: Vec<u8> = lengths.iter().flat_map(|length| pattern(*length as usize)).collect();
    assert_eq!(disk.bytes(), whole.len() as u64);
    while !input.is_empty() {
        let offset = match input.byte() {
            0xff => input.double(),
            _ => u64::from(input.word()) % (whole.len() as u64 + 1024),
        };
        let (first, second) = (usize::from(input.half() % 5000), usize::from(input.half() % 5000));
        let mut read = vec![0u8; first + second];
        let buffers = {
            let (one, two) = read.split_at_mut(first);
            [VolatileSlice::from(one), VolatileSlice::from(two)]
        };
        let result = disk.read(offset, &buffers);
        let expected = usize::try_from(offset).ok().and_then(|at| whole.get(at..)?.get(..read.len()));
        match expected {
            Some(expected) => {
                result.expect("it lies inside of the disk");
                assert_eq!(read, expected);
            }
            None => assert!(result.is_err() || read.is_empty(), "{offset} and {} bytes", read.len()),
        }
        assert!(disk.write(offset, &[]).is_ok() || disk.is_read_only());
    }
}

/// Three segments; reads inside, across and behind.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seed = vec![3];
    for sectors in [8u16, 3, 120] {
        seed.extend(sectors.to_le_bytes());
    }
    for offset in [0u32, 4000, 5600, 67_000] {
        seed.push(0);
        seed.extend(offset.to_le_bytes());
        seed.extend([0, 2, 16, 4]);
    }
    vec![seed]
}
