//! File data on its way into whole blocks of the image: buffered, holes left out, identical files stored once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use xxhash_rust::xxh3::Xxh3Default;

use super::tar::{Archive, Entry, Segment};
use super::{Error, Limits};
use crate::erofs::format::{BLOCK, HOLE, LARGEST_CHUNK_BITS};
use crate::erofs::space::{Space, Table};
use crate::erofs::tree::Chunks;
use crate::record;

/// What an ordinary file is looked through for holes by: large enough that a map of such chunks costs the
/// guest nothing, small enough to find most of what is worth leaving out.
const CHUNK: u64 = 64 << 10;

/// Data that is written at once, in bytes: little enough to be in the processor's cache still when it is.
const CAPACITY: usize = 256 << 10;

/// Where a file's data are.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    /// In consecutive blocks from this one on; of an empty file nowhere.
    Plain(u32),
    /// In chunks, some of which are holes.
    Chunks(Rc<Chunks>),
}

/// The data area of an image being written.
pub(super) struct Blocks<'a> {
    out: &'a File,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs in `out`.
    start: u64,
    /// Everything from here on in `out` was never written, and reads as zeros.
    untouched: u64,
    /// Files by a hash of their size and data. A hash only says where to look: the bytes are compared.
    plain: Known,
    with_holes: HashMap<u64, Rc<Chunks>>,
}

impl<'a> Blocks<'a> {
    /// The data area of the image in `out` (an empty file), to begin at block `first`.
    pub fn new(out: &'a File, space: &Rc<Space>, first: u32) -> io::Result<Blocks<'a>> {
        let start = u64::from(first) * BLOCK as u64;
        let buffer = Vec::with_capacity(CAPACITY + CHUNK as usize);
        let plain = Known::new(space)?;
        Ok(Blocks { out, buffer, start, untouched: start, plain, with_holes: HashMap::new() })
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
    ) -> Result<Stored, Error> {
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
        let known = match &data {
            Stored::Plain(_) => self.plain.get(hash).map(Stored::Plain),
            Stored::Chunks(_) => self.with_holes.get(&hash).cloned().map(Stored::Chunks),
        };
        match known {
            Some(known) => {
                if self.is_same(&known, &data, self.offset() - before)? {
                    self.rewind(before);
                    return Ok(known);
                }
            }
            None => match &data {
                Stored::Plain(block) => self.plain.insert(hash, *block).map_err(Error::Write)?,
                Stored::Chunks(chunks) => drop(self.with_holes.insert(hash, Rc::clone(chunks))),
            },
        }
        Ok(data)
    }

    /// A file whose data are all in the archive: chunks that hold nothing but zeros become holes.
    fn store_chunks<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        size: u64,
        hash: &mut Xxh3Default,
    ) -> Result<Stored, Error> {
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
    ) -> Result<Stored, Error> {
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

    /// Whether two files, the second just stored in `length` bytes, have the same holes and data; the first may have more
    /// behind them.
    fn is_same(&self, known: &Stored, stored: &Stored, length: u64) -> Result<bool, Error> {
        let (Some((first, holes)), Some((second, other_holes))) = (shape(known), shape(stored)) else {
            return Ok(false);
        };
        // What lies beyond the second's beginning is about to be taken back.
        if holes != other_holes || u64::from(first) * BLOCK as u64 + length > u64::from(second) * BLOCK as u64
        {
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

/// Blocks by a hash of what begins there.
struct Known {
    /// As many as a power of two, of which at most half are taken.
    slots: Table<Slot>,
    taken: usize,
    space: Rc<Space>,
}

record! {
    struct Slot {
        hash: u64,
        /// 0, where the superblock is, if the slot is free.
        block: u32,
    }
}

/// Slots that are looked at for one hash: more are taken only by hashes that were made to meet, and such files are stored as
/// often as they come.
const LOOKED_AT: usize = 32;

impl Known {
    fn new(space: &Rc<Space>) -> io::Result<Known> {
        let slots = Table::filled(space, Slot { hash: 0, block: 0 }, 1 << 10)?;
        Ok(Known { slots, taken: 0, space: Rc::clone(space) })
    }

    /// Where the hash is, or where it may be put.
    fn slot(&self, hash: u64) -> Option<(usize, Slot)> {
        let mask = self.slots.len() - 1;
        let places = (0..LOOKED_AT).map(|step| (hash as usize).wrapping_add(step) & mask);
        places.map(|at| (at, self.slots.get(at))).find(|(_, slot)| slot.block == 0 || slot.hash == hash)
    }

    fn get(&self, hash: u64) -> Option<u32> {
        self.slot(hash).map(|(_, slot)| slot.block).filter(|block| *block != 0)
    }

    fn insert(&mut self, hash: u64, block: u32) -> io::Result<()> {
        if 2 * self.taken >= self.slots.len() {
            let count = 2 * self.slots.len();
            let larger = Table::filled(&self.space, Slot { hash: 0, block: 0 }, count)?;
            let old = std::mem::replace(&mut self.slots, larger);
            (0..old.len())
                .map(|at| old.get(at))
                .filter(|slot| slot.block != 0)
                .for_each(|slot| self.put(slot));
        }
        self.put(Slot { hash, block });
        self.taken += 1;
        Ok(())
    }

    fn put(&mut self, slot: Slot) {
        if let Some((at, _)) = self.slot(slot.hash) {
            self.slots.set(at, slot);
        }
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
    fn into_data(self) -> Stored {
        let Map { chunk, mut blocks } = self;
        if !blocks.contains(&HOLE) {
            // Chunks of one file are stored one after another.
            return Stored::Plain(blocks.first().copied().unwrap_or(0));
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
        Stored::Chunks(Rc::new(Chunks { device: 0, bits, blocks }))
    }
}

/// Where the data of a file begin and which chunks are holes, for comparing files: all chunks that are not
/// holes lie one after another.
fn shape(data: &Stored) -> Option<(u32, (u8, Vec<bool>))> {
    match data {
        Stored::Plain(block) => Some((*block, (0, Vec::new()))),
        Stored::Chunks(chunks) => {
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
            let mut blocks = Blocks::new(&file, &Space::memory(), 1).unwrap();
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
