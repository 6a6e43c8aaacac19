//! Sparse files: which parts of a file the archive's data are. Old GNU maps are in headers, pax 0.0 and 0.1
//! maps in extended headers, pax 1.0 maps before the data ("Storing Sparse Files" in the GNU tar manual).

use super::header::BLOCK;
use super::number;

type Result<T> = std::result::Result<T, &'static str>;

/// A part of a file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub offset: u64,
    pub length: u64,
}

/// More segments than this are refused: their map alone would take 16 MiB of memory.
const MOST_SEGMENTS: usize = 1 << 20;

/// A map being put together.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub segments: Vec<Segment>,
}

impl Map {
    pub fn push(&mut self, offset: u64, length: u64) -> Result<()> {
        if self.segments.len() == MOST_SEGMENTS {
            return Err("a sparse file of more than a million pieces");
        }
        // Writers mark a hole at the end with an empty segment.
        if length != 0 {
            self.segments.push(Segment { offset, length });
        }
        Ok(())
    }

    /// Segments of an old GNU header: pairs of numbers in 12 bytes each, up to one that is empty.
    pub fn old_gnu(&mut self, pairs: &[u8]) -> Result<()> {
        for pair in pairs.chunks_exact(24) {
            if pair[0] == 0 || pair[12] == 0 {
                break;
            }
            let number = |field| u64::try_from(number::field(field)?).map_err(|_| "a negative segment");
            self.push(number(&pair[..12])?, number(&pair[12..])?)?;
        }
        Ok(())
    }
}

/// A block of further segments after an old GNU header; whether another follows.
pub(super) fn old_gnu_extension(block: &[u8; BLOCK], map: &mut Map) -> Result<bool> {
    map.old_gnu(&block[..504])?;
    Ok(block[504] != 0)
}

/// A pax 1.0 map: decimal numbers, one a line (how many segments, then offset and length of each), padded to
/// whole blocks.
#[derive(Debug, Default)]
pub(super) struct TextMap {
    pub map: Map,
    digits: Vec<u8>,
    count: Option<u64>,
    seen: u64,
    offset: Option<u64>,
}

impl TextMap {
    /// Takes the next block; whether the map is complete.
    pub fn block(&mut self, block: &[u8; BLOCK]) -> Result<bool> {
        for byte in block {
            if self.is_complete() {
                break;
            }
            if *byte != b'\n' {
                if self.digits.len() == 20 {
                    return Err("a sparse map with an impossible number");
                }
                self.digits.push(*byte);
                continue;
            }
            let number = number::decimal(&self.digits)?;
            self.digits.clear();
            match (self.count, self.offset.take()) {
                (None, _) if number > MOST_SEGMENTS as u64 => {
                    return Err("a sparse file of more than a million pieces");
                }
                (None, _) => self.count = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => {
                    self.map.push(offset, number)?;
                    self.seen += 1;
                }
            }
        }
        Ok(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.count == Some(self.seen)
    }
}

/// Whether the segments are in order, apart, inside a file of `size` bytes, and as long as the `stored` data.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> Result<()> {
    if size > i64::MAX as u64 {
        return Err("a file of impossible size");
    }
    let (mut end, mut total) = (0, 0);
    for segment in segments {
        let next = segment.offset.checked_add(segment.length);
        let next = next.filter(|next| segment.offset >= end && *next <= size);
        end = next.ok_or("a sparse file whose pieces overlap or go beyond its end")?;
        // Pieces that do not overlap cannot be longer than the file together.
        total += segment.length;
    }
    if total == stored { Ok(()) } else { Err("a sparse file whose map and data differ in length") }
}
