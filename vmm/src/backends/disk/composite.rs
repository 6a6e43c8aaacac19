//! A read-only disk made of files joined end to end: an image's metadata followed by its layers.

use super::transfer::transfer;
use super::{Direction, Disk, OpenError, Place};
use crate::backends::scatter::Cursor;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use vm_memory::VolatileSlice;

/// One file of a composite disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// How many of its bytes, from the first on, the disk shows: a multiple of 512.
    pub bytes: u64,
}

/// Read-only files joined end to end.
#[derive(Debug)]
pub struct Composite {
    /// Each file with the disk offset at which it ends, in ascending order.
    parts: Vec<(u64, File)>,
}

impl Composite {
    /// Opens every segment and checks that it is as long as it should be.
    pub fn open(segments: &[Segment]) -> Result<Self, OpenError> {
        let mut parts = Vec::with_capacity(segments.len());
        let mut end = 0u64;
        for Segment { path, bytes } in segments {
            let wrap = |source| OpenError::Unreadable { path: path.clone(), source };
            let mut file = File::open(path).map_err(wrap)?;
            let found = file.seek(SeekFrom::End(0)).map_err(wrap)?;
            if found < *bytes {
                return Err(OpenError::Short { path: path.clone(), found, expected: *bytes });
            }
            end = match end.checked_add(*bytes) {
                Some(end) if bytes % 512 == 0 && end <= i64::MAX as u64 => end,
                _ => return Err(OpenError::Unaligned { path: path.clone(), bytes: *bytes }),
            };
            if *bytes > 0 {
                parts.push((end, file));
            }
        }
        Ok(Self { parts })
    }
}

impl Disk for Composite {
    fn bytes(&self) -> u64 {
        self.parts.last().map_or(0, |(end, _)| *end)
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn read(&mut self, mut offset: u64, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut cursor = Cursor::new(buffers);
        let mut left = cursor.remaining();
        let mut index = self.parts.partition_point(|(end, _)| *end <= offset);
        while left > 0 {
            let Some((end, file)) = self.parts.get(index) else {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the disk ends before the request does",
                ));
            };
            let start = index.checked_sub(1).map_or(0, |before| self.parts[before].0);
            let step = left.min(end - offset);
            transfer(file, Direction::Read, offset - start, &mut cursor, step)?;
            offset += step;
            left -= step;
            index += 1;
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write_zeroes(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.parts.iter().map(|(_, file)| file.as_fd()).collect()
    }

    fn place(&self, direction: Direction, offset: u64, bytes: u64) -> Option<Place> {
        let index = self.parts.partition_point(|(end, _)| *end <= offset);
        let (end, _) = self.parts.get(index).filter(|_| direction == Direction::Read)?;
        let start = index.checked_sub(1).map_or(0, |before| self.parts[before].0);
        let within = offset.checked_add(bytes).is_some_and(|last| last <= *end);
        within.then_some(Place { file: index as u32, offset: offset - start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Files of the given lengths in sectors, each byte telling its place on the disk, and the disk they make.
    fn disk(sectors: &[u64]) -> (tempfile::TempDir, Vec<u8>, Composite) {
        let directory = tempfile::tempdir().unwrap();
        let mut contents = Vec::new();
        let segments: Vec<_> = sectors
            .iter()
            .enumerate()
            .map(|(number, sectors)| {
                let part: Vec<u8> =
                    (0..sectors * 512).map(|n| (((n + contents.len() as u64) * 31) >> 3) as u8).collect();
                let path = directory.path().join(number.to_string());
                // A tail beyond the segment's length must never show.
                std::fs::write(&path, [&part[..], &[0xee; 100]].concat()).unwrap();
                contents.extend(&part);
                Segment { path, bytes: sectors * 512 }
            })
            .collect();
        let disk = Composite::open(&segments).unwrap();
        (directory, contents, disk)
    }

    #[test]
    fn refuses_a_segment_shorter_than_promised() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        std::fs::write(&path, [0; 512]).unwrap();
        let error = Composite::open(&[Segment { path: path.clone(), bytes: 1024 }]).unwrap_err();
        assert!(matches!(error, OpenError::Short { found: 512, expected: 1024, .. }), "{error}");
        let error = Composite::open(&[Segment { path, bytes: 100 }]).unwrap_err();
        assert!(matches!(error, OpenError::Unaligned { .. }), "{error}");
    }

    #[test]
    fn is_empty_without_segments() {
        let (_directory, _, mut disk) = disk(&[]);
        assert_eq!(disk.bytes(), 0);
        assert!(disk.read(0, &[VolatileSlice::from(&mut [0u8; 512][..])]).is_err());
    }

    #[test]
    fn refuses_to_read_past_the_last_segment() {
        let (_directory, _, mut disk) = disk(&[1, 2]);
        assert_eq!(disk.bytes(), 1536);
        assert!(disk.read(1024, &[VolatileSlice::from(&mut [0u8; 1024][..])]).is_err());
        assert!(disk.read(u64::MAX, &[VolatileSlice::from(&mut [0u8; 1024][..])]).is_err());
    }

    #[test]
    fn says_where_ranges_are_that_lie_in_one_segment() {
        let (_directory, _, disk) = disk(&[1, 0, 2]);
        let place = |offset, bytes| disk.place(Direction::Read, offset, bytes);
        assert_eq!(disk.files().len(), 2);
        assert_eq!(place(0, 512), Some(Place { file: 0, offset: 0 }));
        assert_eq!(place(512, 1024), Some(Place { file: 1, offset: 0 }));
        assert_eq!(place(1024, 512), Some(Place { file: 1, offset: 512 }));
        for (offset, bytes) in [(0, 1024), (1024, 1024), (1536, 512), (u64::MAX, 512), (512, u64::MAX)] {
            assert_eq!(place(offset, bytes), None, "{offset} {bytes}");
        }
        assert_eq!(disk.place(Direction::Write, 0, 512), None);
    }

    proptest! {
        #[test]
        fn shows_the_segments_end_to_end(
            sectors in prop::collection::vec(0u64..5, 1..6),
            start in 0usize..20 * 512,
            lengths in prop::collection::vec(0usize..1500, 1..8),
        ) {
            let (_directory, contents, mut disk) = disk(&sectors);
            prop_assert_eq!(disk.bytes(), contents.len() as u64);
            let total: usize = lengths.iter().sum();
            let mut memory: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0u8; *length]).collect();
            let buffers: Vec<_> = memory.iter_mut().map(|part| VolatileSlice::from(&mut part[..])).collect();
            let result = disk.read(start as u64, &buffers);
            if start + total <= contents.len() {
                result.unwrap();
                prop_assert_eq!(&memory.concat()[..], &contents[start..start + total]);
            } else if total > 0 {
                prop_assert!(result.is_err());
            }
        }
    }
}
