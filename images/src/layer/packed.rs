//! A layer as it comes: read, hashed, decompressed, hashed again and converted, all at once. Decompressing is the longest of
//! these and cannot be shared out, so a thread does nothing else; hashing has another, and converting the caller's. Where
//! nothing is compressed the converting thread reads, too: there is as much to do for two threads then, and no third to wake.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::{Error, Layer, Limits, convert};
use crate::compression::Compression;
use crate::digest::Digest;

/// What goes from one thread to the next, in bytes: enough that waking the other costs little beside the work.
const PIECE: usize = 512 << 10;
/// Pieces that may wait for a thread: 2 MiB.
const WAITING: usize = 4;
/// What is decompressed at once, in bytes. A decompressor writes little by little, and to memory that another core has just
/// read that is slow: it writes to a buffer of its own, which stays in this core's cache, and whole parts of that are copied.
/// (Of the time of a gzip layer of 112 MB, this took away 50 ms of 300.)
const PART: usize = 64 << 10;

/// What has come of a layer.
#[derive(Debug)]
pub struct Unpacked {
    /// The digest of the bytes that were read.
    pub packed: Digest,
    /// The digest of the uncompressed archive, which is the layer's diff-ID. Of an archive that was not converted it says
    /// nothing.
    pub plain: Digest,
    /// The layer, or why there is none.
    pub converted: Result<Layer, Error>,
}

/// Converts the archive that `packed` yields, in any of the compressions that layers come in, into a layer image in `out`:
/// see [`convert`].
///
/// All of `packed` is read and hashed even if it is no layer: a wrong digest explains whatever else is wrong with it. But
/// nothing is decompressed that nobody wants. The error is that of reading, or of starting a thread.
pub fn convert_packed(
    mut packed: impl Read + Send,
    out: &File,
    scratch: &File,
    limits: &Limits,
) -> io::Result<Unpacked> {
    let pool = Arc::<Pool>::default();
    let (first, result) = pool.fill(&mut packed);
    result?;
    thread::scope(|scope| {
        let lost = |_| io::Error::other("a thread that unpacked the layer has failed");
        let spawn = |name: &str| thread::Builder::new().name(format!("layer-{name}"));
        let (hashes, to_hash) = sync_channel(WAITING);
        let hashing = spawn("hash").spawn_scoped(scope, move || hash(&to_hash))?;
        let compression = Compression::of(&first);
        if compression == Compression::None {
            let mut plain = Source::new(packed, first, hashes, Hash::Plain);
            let converted = convert(&mut plain, out, scratch, limits);
            plain.drain()?;
            let (_, plain) = hashing.join().map_err(lost)?;
            return Ok(Unpacked { packed: plain, plain, converted });
        }
        let (archive, to_convert) = sync_channel(WAITING);
        let unpacking = move || unpack(packed, first, compression, &hashes, archive);
        let unpacking = spawn("unpack").spawn_scoped(scope, unpacking)?;
        // The receiver ends with it, which tells the unpacking thread.
        let converted = convert(Pieces { receiver: to_convert, piece: None, used: 0 }, out, scratch, limits);
        unpacking.join().map_err(lost)??;
        let (packed, plain) = hashing.join().map_err(lost)?;
        Ok(Unpacked { packed, plain, converted })
    })
}

/// Decompresses what `packed` yields and throws it away: how many bytes that were. No layer can be had sooner.
pub fn discard(packed: impl Read) -> io::Result<u64> {
    let mut packed = io::BufReader::with_capacity(PIECE, packed);
    let compression = Compression::of(packed.fill_buf()?);
    let mut plain = compression.buffered(packed)?;
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        match plain.read(&mut piece)? {
            0 => return Ok(bytes),
            read => bytes += read as u64,
        }
    }
}

/// Buffers that are in no thread's hands.
#[derive(Debug, Default)]
struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    /// The next bytes of `reader`: a whole piece unless it ends there, or fails.
    fn fill(self: &Arc<Pool>, reader: &mut dyn Read) -> (Piece, io::Result<()>) {
        let buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bytes = buffer.unwrap_or_else(|| vec![0; PIECE]);
        let mut length = 0;
        let mut result = Ok(());
        while length < bytes.len() {
            match reader.read(&mut bytes[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        (Piece { bytes, length, pool: Arc::clone(self) }, result)
    }
}

/// Some bytes, in a buffer that goes back to its pool.
struct Piece {
    bytes: Vec<u8>,
    length: usize,
    pool: Arc<Pool>,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.bytes);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Bytes to hash.
enum Hash {
    Packed(Arc<Piece>),
    Plain(Arc<Piece>),
}

fn hash(pieces: &Receiver<Hash>) -> (Digest, Digest) {
    let (mut packed, mut plain) = (Sha256::new(), Sha256::new());
    for piece in pieces {
        match piece {
            Hash::Packed(piece) => update(&mut packed, &piece),
            Hash::Plain(piece) => update(&mut plain, &piece),
        }
    }
    (Digest::from_sha256(packed), Digest::from_sha256(plain))
}

/// Hashes bytes that another core has written and that are far away, therefore: each line of the cache is asked for some time
/// before it is needed, or hashing would wait for every page's first ones. (Of the time of hashing 112 MB so, this took away
/// 20 ms of 97.)
fn update(hasher: &mut Sha256, bytes: &[u8]) {
    const STEP: usize = 1 << 10;
    const LINE: usize = 64;
    let ask = |step: &[u8]| {
        for byte in step.iter().step_by(LINE) {
            black_box(*byte);
        }
    };
    let mut ahead = bytes.chunks(STEP);
    ahead.by_ref().take(2).for_each(ask);
    for step in bytes.chunks(STEP) {
        if let Some(later) = ahead.next() {
            ask(later);
        }
        hasher.update(step);
    }
}

/// Reads everything, `first` having been read, and hands on what it holds.
fn unpack(
    packed: impl Read,
    first: Piece,
    compression: Compression,
    hashes: &SyncSender<Hash>,
    archive: SyncSender<io::Result<Arc<Piece>>>,
) -> io::Result<()> {
    let pool = Arc::clone(&first.pool);
    let mut source = Source::new(packed, first, hashes.clone(), Hash::Packed);
    match compression.buffered(&mut source) {
        Ok(plain) => unpack_into(plain, &pool, hashes, archive),
        Err(error) => drop(archive.send(Err(error))),
    }
    source.drain()
}

/// Decompresses for as long as anybody wants it.
fn unpack_into(
    mut plain: Box<dyn Read + '_>,
    pool: &Arc<Pool>,
    hashes: &SyncSender<Hash>,
    archive: SyncSender<io::Result<Arc<Piece>>>,
) {
    let mut plain = InParts { plain: &mut *plain, part: vec![0; PART] };
    loop {
        let (piece, result) = pool.fill(&mut plain);
        let last = piece.is_empty();
        let piece = Arc::new(piece);
        let _ = hashes.send(Hash::Plain(Arc::clone(&piece)));
        if archive.send(Ok(piece)).is_err() {
            return;
        }
        if let Err(error) = result {
            let _ = archive.send(Err(error));
            return;
        }
        if last {
            return;
        }
    }
}

/// A reader that reads into a buffer of its own: see [`PART`].
struct InParts<'a> {
    plain: &'a mut dyn Read,
    part: Vec<u8>,
}

impl Read for InParts<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(PART);
        let read = self.plain.read(&mut self.part[..length])?;
        buffer[..read].copy_from_slice(&self.part[..read]);
        Ok(read)
    }
}

/// What is read, piece by piece, and hashed meanwhile.
struct Source<R> {
    reader: R,
    hashes: SyncSender<Hash>,
    /// Which of the digests it is for.
    kind: fn(Arc<Piece>) -> Hash,
    pool: Arc<Pool>,
    piece: Arc<Piece>,
    used: usize,
    /// Why reading failed: a decompressor may say it in other words.
    failed: Option<io::Error>,
}

impl<R: Read> Source<R> {
    fn new(reader: R, first: Piece, hashes: SyncSender<Hash>, kind: fn(Arc<Piece>) -> Hash) -> Self {
        let pool = Arc::clone(&first.pool);
        let piece = Arc::new(first);
        let _ = hashes.send(kind(Arc::clone(&piece)));
        Source { reader, hashes, kind, pool, piece, used: 0, failed: None }
    }

    /// Hashes the rest.
    fn drain(mut self) -> io::Result<()> {
        while self.failed.is_none() {
            match self.fill_buf() {
                Ok([]) => break,
                Ok(bytes) => {
                    let length = bytes.len();
                    self.consume(length);
                }
                Err(_) => break,
            }
        }
        self.failed.map_or(Ok(()), Err)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.piece.len() && self.failed.is_none() {
            let (piece, result) = self.pool.fill(&mut self.reader);
            (self.piece, self.used) = (Arc::new(piece), 0);
            if !self.piece.is_empty() {
                let _ = self.hashes.send((self.kind)(Arc::clone(&self.piece)));
            }
            self.failed = result.err();
        }
        match &self.failed {
            Some(error) if self.used == self.piece.len() => {
                Err(io::Error::new(error.kind(), error.to_string()))
            }
            _ => Ok(&self.piece[self.used..]),
        }
    }

    fn consume(&mut self, length: usize) {
        self.used += length;
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

/// What reading is for whoever has a buffer.
fn read_buffered(reader: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let bytes = reader.fill_buf()?;
    let length = bytes.len().min(buffer.len());
    buffer[..length].copy_from_slice(&bytes[..length]);
    reader.consume(length);
    Ok(length)
}

/// The archive, where it is converted.
struct Pieces {
    receiver: Receiver<io::Result<Arc<Piece>>>,
    piece: Option<Arc<Piece>>,
    used: usize,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.as_ref().is_none_or(|piece| self.used == piece.len()) {
            self.used = 0;
            // The buffer goes back before the next one is waited for.
            self.piece = None;
            match self.receiver.recv() {
                Ok(piece) => self.piece = Some(piece?),
                Err(_) => break,
            }
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece[self.used..]))
    }

    fn consume(&mut self, length: usize) {
        self.used += length;
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::layer::fixture::Tar;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(packed: impl Read + Send) -> io::Result<Unpacked> {
        let [out, scratch] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        convert_packed(packed, &out, &scratch, &Limits::default())
    }

    /// Larger than all buffers on the way, so that every thread has to wait for every other.
    fn archive() -> Vec<u8> {
        let noise: Vec<u8> = (0..6 << 20).map(|i: u32| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
        Tar::new().file("noise", &noise).file("end", b"end").end()
    }

    #[test]
    fn both_digests_are_right_whatever_the_compression() {
        let plain = archive();
        for packed in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
            let found = unpacked(&packed[..]).unwrap();
            assert_eq!((found.packed, found.plain), (Digest::of(&packed), Digest::of(&plain)));
            assert_eq!(found.converted.unwrap().inodes, 3);
        }
    }

    #[test]
    fn all_is_hashed_even_if_it_is_no_layer() {
        let plain = archive();
        let mut broken = plain.clone();
        broken[0] ^= 1;
        for packed in [
            broken.clone(),
            gzip(&broken),
            [&gzip(&plain)[..1000], &gzip(&plain)].concat(),
            [gzip(&plain), b"behind".to_vec()].concat(),
        ] {
            let found = unpacked(&packed[..]).unwrap();
            assert_eq!(found.packed, Digest::of(&packed));
            assert!(found.converted.is_err());
        }
        assert_eq!(unpacked(&b""[..]).unwrap().packed, Digest::of(b""));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_of_reading() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the cable is out"))
            }
        }
        let plain = archive();
        for packed in [plain.clone(), gzip(&plain)] {
            for length in [0, 1000, packed.len() / 2, packed.len()] {
                let error = unpacked(packed[..length].chain(Failing)).unwrap_err();
                assert_eq!(error.to_string(), "the cable is out", "after {length}");
            }
        }
    }
}
