//! File data on its way into whole blocks of the image: buffered, holes left out, identical files stored once.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufRead;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::Xxh3Default;

use super::tar::{Archive, Entry, Segment};
use super::{Error, Limits};
use crate::erofs::format::{BLOCK, HOLE, LARGEST_CHUNK_BITS};
use crate::erofs::tree::{Chunks, Data};

/// What an ordinary file is looked through for holes by: large enough that a map of such chunks costs the
/// guest nothing, small enough to find most of what is worth leaving out.
const CHUNK: u64 = 64 << 10;

/// Data that is written at once.
const CAPACITY: usize = 1 << 20;

/// The data area of an image being written.
pub(super) struct Blocks<'a> {
    out: &'a File,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs in `out`.
    start: u64,
    /// Everything from here on in `out` was never written, and reads as zeros.
    untouched: u64,
    /// Files by a hash of their size and data. A hash only says where to look: the bytes are compared.
    known: HashMap<u64, (u64, Data)>,
}

impl<'a> Blocks<'a> {
    /// The data area of the image in `out` (an empty file), to begin at block `first`.
    pub fn new(out: &'a File, first: u32) -> Blocks<'a> {
        let start = u64::from(first) * BLOCK as u64;
        let buffer = Vec::with_capacity(CAPACITY + CHUNK as usize);
        Blocks { out, buffer, start, untouched: start, known: HashMap::new() }
    }

    /// Writes what is left; the block behind it.
    pub fn finish(mut self) -> Result<u32, Error> {
        self.flush()?;
        self.block()
    }

    /// Stores the data of `entry`, a file, which `archive` yields next.
    pub fn store<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        entry: &Entry,
        limits: &Limits,
    ) -> Result<Data, Error> {
        if entry.size > limits.file {
            return Err(Error::entry(&entry.path, "a file larger than allowed"));
        }
        let before = self.offset();
        let mut hash = Xxh3Default::new();
        hash.update(&entry.size.to_le_bytes());
        let (data, chunk) = match &entry.segments {
            None => (self.store_chunks(archive, entry.size, &mut hash)?, CHUNK),
            Some(segments) => {
                let stored = segments.iter().map(|segment| segment.length).sum();
                let chunk = sparse_chunk(entry.size, stored);
                (self.store_segments(archive, entry.size, segments, chunk, &mut hash)?, chunk)
            }
        };
        if self.offset() == before || chunk > CHUNK {
            // Nothing was stored; or so thinly that comparing would cost more than it could save.
            return Ok(data);
        }
        let hash = hash.digest();
        match self.known.get(&hash) {
            Some((size, known)) if *size == entry.size => {
                let known = known.clone();
                if self.is_same(&known, &data, self.offset() - before)? {
                    self.rewind(before);
                    return Ok(known);
                }
            }
            Some(_) => {}
            None => drop(self.known.insert(hash, (entry.size, data.clone()))),
        }
        Ok(data)
    }

    /// A file whose data are all in the archive: chunks that hold nothing but zeros become holes.
    fn store_chunks<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        size: u64,
        hash: &mut Xxh3Default,
    ) -> Result<Data, Error> {
        let mut map = Map::new(CHUNK);
        let mut left = size;
        while left != 0 {
            let length = left.min(CHUNK);
            let block = self.begin_chunk()?;
            self.copy(archive, length)?;
            map.push(self.end_chunk(block, length, hash)?);
            left -= length;
        }
        Ok(map.into_data())
    }

    /// A sparse file: chunks without data in the archive become holes, too.
    fn store_segments<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        size: u64,
        segments: &[Segment],
        chunk: u64,
        hash: &mut Xxh3Default,
    ) -> Result<Data, Error> {
        let count = size.div_ceil(chunk);
        let mut map = Map::new(chunk);
        let mut segments = segments.iter().copied().peekable();
        while let Some(first) = segments.peek() {
            let number = first.offset / chunk;
            map.push_holes(number - map.len());
            let base = number * chunk;
            let end = (base + chunk).min(size);
            let block = self.begin_chunk()?;
            let mut at = base;
            while let Some(segment) = segments.peek_mut().filter(|segment| segment.offset < end) {
                let length = segment.length.min(end - segment.offset);
                self.zeros(segment.offset - at)?;
                self.copy(archive, length)?;
                at = segment.offset + length;
                segment.offset += length;
                segment.length -= length;
                if segment.length == 0 {
                    segments.next();
                }
            }
            // The guest reads no further than the file's end.
            self.zeros(end - at)?;
            map.push(self.end_chunk(block, end - base, hash)?);
            // Where data are counts as well as what they are.
            hash.update(&number.to_le_bytes());
        }
        map.push_holes(count - map.len());
        Ok(map.into_data())
    }

    /// Copies so many bytes of the archive's data.
    fn copy<R: BufRead>(&mut self, archive: &mut Archive<R>, mut length: u64) -> Result<(), Error> {
        while length != 0 {
            let piece = archive.data()?;
            let step = piece.len().min(length.min(CHUNK) as usize);
            self.buffer.extend_from_slice(&piece[..step]);
            archive.consume(step);
            length -= step as u64;
            // Chunks of the usual size stay in the buffer until they have been looked at.
            if self.buffer.len() >= CAPACITY + CHUNK as usize {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Room for a chunk; the block it begins at.
    fn begin_chunk(&mut self) -> Result<u32, Error> {
        if self.buffer.len() >= CAPACITY {
            self.flush()?;
        }
        self.block()
    }

    /// Pads the chunk of `length` bytes that was begun at `block`; takes it back if it is all zeros.
    fn end_chunk(&mut self, block: u32, length: u64, hash: &mut Xxh3Default) -> Result<u32, Error> {
        let begin = u64::from(block) * BLOCK as u64;
        if begin >= self.start && length <= CHUNK {
            let at = (begin - self.start) as usize;
            if is_zero(&self.buffer[at..]) {
                self.buffer.truncate(at);
                return Ok(HOLE);
            }
            hash.update(&self.buffer[at..]);
        }
        let end = self.offset().next_multiple_of(BLOCK as u64);
        self.buffer.resize(self.buffer.len() + (end - self.offset()) as usize, 0);
        Ok(block)
    }

    /// Appends zeros. Many are not written: the file has them already where nothing was written before.
    fn zeros(&mut self, mut length: u64) -> Result<(), Error> {
        if length > CAPACITY as u64 {
            self.flush()?;
            while self.start < self.untouched && length != 0 {
                let step = length.min(CHUNK);
                self.buffer.resize(step as usize, 0);
                self.flush()?;
                length -= step;
            }
            self.start += length;
            return Ok(());
        }
        self.buffer.resize(self.buffer.len() + length as usize, 0);
        if self.buffer.len() >= CAPACITY + CHUNK as usize {
            self.flush()?;
        }
        Ok(())
    }

    /// Whether two files, the second just stored in `length` bytes, have the same holes and data.
    fn is_same(&self, known: &Data, stored: &Data, length: u64) -> Result<bool, Error> {
        let (Some((first, holes)), Some((second, other_holes))) = (shape(known), shape(stored)) else {
            return Ok(false);
        };
        if holes != other_holes {
            return Ok(false);
        }
        let (mut one, mut other) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
        let mut done = 0;
        while done < length {
            let step = (length - done).min(CHUNK) as usize;
            self.read(u64::from(first) * BLOCK as u64 + done, &mut one[..step])?;
            self.read(u64::from(second) * BLOCK as u64 + done, &mut other[..step])?;
            if one[..step] != other[..step] {
                return Ok(false);
            }
            done += step as u64;
        }
        Ok(true)
    }

    /// Reads back what was stored, from the file and from the buffer.
    fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Error> {
        let in_file = self.start.saturating_sub(offset).min(to.len() as u64) as usize;
        let (from_file, from_buffer) = to.split_at_mut(in_file);
        self.out.read_exact_at(from_file, offset).map_err(Error::Write)?;
        if !from_buffer.is_empty() {
            let at = (offset + in_file as u64 - self.start) as usize;
            from_buffer.copy_from_slice(&self.buffer[at..at + from_buffer.len()]);
        }
        Ok(())
    }

    /// Forgets what was stored from byte `offset` on.
    fn rewind(&mut self, offset: u64) {
        if offset >= self.start {
            self.buffer.truncate((offset - self.start) as usize);
        } else {
            self.buffer.clear();
            self.start = offset;
        }
    }

    fn offset(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    fn block(&self) -> Result<u32, Error> {
        // The address of a hole is not one of a block.
        let block = u32::try_from(self.offset() / BLOCK as u64).ok().filter(|block| *block != HOLE);
        block.ok_or(Error::TooLarge)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.out.write_all_at(&self.buffer, self.start).map_err(Error::Write)?;
        self.start += self.buffer.len() as u64;
        self.untouched = self.untouched.max(self.start);
        self.buffer.clear();
        Ok(())
    }
}

/// The map of a file being stored.
struct Map {
    /// Bytes in a chunk, a block times a power of two.
    chunk: u64,
    blocks: Vec<u32>,
}

impl Map {
    fn new(chunk: u64) -> Map {
        Map { chunk, blocks: Vec::new() }
    }

    fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn push(&mut self, block: u32) {
        self.blocks.push(block);
    }

    fn push_holes(&mut self, count: u64) {
        // Chunk sizes are chosen to keep maps short.
        self.blocks.extend(std::iter::repeat_n(HOLE, count as usize));
    }

    /// The shortest form: no map where there is no hole, and the largest chunks that tell the same.
    fn into_data(self) -> Data {
        let Map { chunk, mut blocks } = self;
        if !blocks.contains(&HOLE) {
            // Chunks of one file are stored one after another.
            return Data::Plain { device: 0, block: blocks.first().copied().unwrap_or(0) };
        }
        let mut bits = (chunk / BLOCK as u64).trailing_zeros() as u8;
        while blocks.len() > 1 && bits < LARGEST_CHUNK_BITS {
            let joined = |pair: &[u32]| match pair {
                [HOLE, HOLE] => Some(HOLE),
                [HOLE, _] | [_, HOLE] => None,
                [first, second] => (first.checked_add(1 << bits) == Some(*second)).then_some(*first),
                last => last.first().copied(),
            };
            let Some(shorter) = blocks.chunks(2).map(joined).collect() else { break };
            blocks = shorter;
            bits += 1;
        }
        blocks.shrink_to_fit();
        Data::Chunks(Box::new(Chunks { device: 0, bits, blocks }))
    }
}

/// Where the data of a file begin and which chunks are holes, for comparing files: all chunks that are not
/// holes lie one after another.
fn shape(data: &Data) -> Option<(u32, (u8, Vec<bool>))> {
    match data {
        Data::Plain { block, .. } => Some((*block, (0, Vec::new()))),
        Data::Chunks(chunks) => {
            let first = chunks.blocks.iter().find(|block| **block != HOLE)?;
            Some((*first, (chunks.bits, chunks.blocks.iter().map(|block| *block == HOLE).collect())))
        }
    }
}

/// How finely the holes of a sparse file of `size` bytes are kept, `stored` of them being data: the map must
/// stay small beside the data, or an archive of small sparse entries would make an endless image.
fn sparse_chunk(size: u64, stored: u64) -> u64 {
    let entries = 1024 + (stored / 64).min(1 << 18).max(stored / 1024);
    let chunk = size.div_ceil(entries).next_power_of_two();
    chunk.clamp(BLOCK as u64, (BLOCK as u64) << LARGEST_CHUNK_BITS)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    // Almost always the first word says no.
    words.iter().all(|word| word.iter().fold(0, |sum, byte| sum | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::fixture::Tar;

    /// Equal hashes prove nothing, so files are compared byte by byte: in the buffer, in the file, and where
    /// one is here and the other there.
    #[test]
    fn files_are_compared_byte_by_byte() {
        let body: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut other = body.clone();
        other[body.len() - 1] ^= 1;
        let archive = Tar::new().file("a", &body).file("b", &other).file("c", &body).end();
        for flushed in 0..4 {
            let file = tempfile::tempfile().unwrap();
            let mut blocks = Blocks::new(&file, 1);
            let mut archive = Archive::new(&archive[..], u64::MAX);
            let mut stored = Vec::new();
            for number in 0..3 {
                if number == flushed {
                    blocks.flush().unwrap();
                }
                let entry = archive.next().unwrap().unwrap();
                stored.push(blocks.store_chunks(&mut archive, entry.size, &mut Xxh3Default::new()).unwrap());
            }
            assert!(!blocks.is_same(&stored[0], &stored[1], body.len() as u64).unwrap());
            assert!(blocks.is_same(&stored[0], &stored[2], body.len() as u64).unwrap());
        }
    }
}
