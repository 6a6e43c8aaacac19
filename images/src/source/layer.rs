//! A layer on its way into the store: hashed as it is, decompressed, hashed again, converted. One thread reads and
//! decompresses, another converts. Nothing of a layer is kept unless every digest is right.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Error;
use crate::compression::Compression;
use crate::digest::{DiffId, Digest, Hashing};
use crate::layer::{self, Limits};
use crate::progress::Progress;
use crate::store::Incoming;

/// Pieces of a layer on the way from one thread to the other: 8 of them, 2 MiB in all.
const PIECE: usize = 1 << 18;
const PIECES: usize = 8;

/// A layer's bytes, and what its source says of them.
pub(super) struct Blob<R> {
    pub(super) reader: R,
    /// How messages call it.
    pub(super) name: String,
    /// Digest of the bytes as they are; Docker's archives do not have it.
    pub(super) digest: Option<Digest>,
    /// Bytes as they are.
    pub(super) size: u64,
}

/// Brings a layer into the store unless it is there. `open` is called only if it is not.
pub(super) fn bring<R: Read + Send>(
    incoming: &Incoming<'_>,
    diff_id: &DiffId,
    open: impl FnOnce() -> Result<Blob<R>, Error>,
    what: &str,
    progress: &dyn Progress,
) -> Result<(), Error> {
    incoming.add_layer(diff_id, |out| {
        let blob = open()?;
        progress.begin(what, Some(blob.size));
        let result = convert(blob, diff_id, out, progress);
        progress.end();
        result
    })
}

fn convert<R: Read + Send>(
    blob: Blob<R>,
    diff_id: &DiffId,
    out: &std::fs::File,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let Blob { reader, name, digest, .. } = blob;
    let (sender, receiver) = sync_channel(PIECES);
    let (packed, converted, found) = std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || unpack(reader, sender, progress));
        let mut plain = Hashing::new(Pieces { receiver, piece: Vec::new(), used: 0 });
        let converted = layer::convert(&mut plain, out, &Limits::default());
        let (found, _) = plain.finish();
        (unpacking.join(), converted, found)
    });
    let packed = packed.unwrap_or_else(|_| Err(io::Error::other("decompression failed")));
    let packed = packed.map_err(|cause| Error::Read { what: name.clone(), cause })?;
    // A wrong digest explains whatever else is wrong.
    if let Some(expected) = digest.filter(|expected| *expected != packed) {
        return Err(Error::Digest { what: name, expected, found: packed });
    }
    converted.map_err(|cause| Error::Layer { what: name.clone(), cause })?;
    if found != diff_id.0 {
        return Err(Error::Digest { what: format!("{name}, uncompressed"), expected: diff_id.0, found });
    }
    Ok(())
}

/// Sends the decompressed layer, and says the digest of what was read. If nobody wants the pieces any more, or they
/// cannot be made, the rest is only hashed.
fn unpack(
    reader: impl Read,
    sender: SyncSender<io::Result<Vec<u8>>>,
    progress: &dyn Progress,
) -> io::Result<Digest> {
    let mut packed = Hashing::new(Counted { inner: reader, progress });
    let mut start = Vec::with_capacity(4);
    packed.by_ref().take(4).read_to_end(&mut start)?;
    match Compression::of(&start).decoder((&start[..]).chain(&mut packed)) {
        Ok(mut plain) => send(&mut *plain, &sender),
        Err(error) => drop(sender.send(Err(error))),
    }
    drop(sender);
    io::copy(&mut packed, &mut io::sink())?;
    Ok(packed.finish().0)
}

fn send(plain: &mut dyn Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let result = plain.take(PIECE as u64).read_to_end(&mut piece);
        let last = piece.is_empty() || result.is_err();
        if !piece.is_empty() && sender.send(Ok(piece)).is_err() {
            return;
        }
        if let Err(error) = result {
            let _ = sender.send(Err(error));
        }
        if last {
            return;
        }
    }
}

/// The receiving end, as a reader.
struct Pieces {
    receiver: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    used: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            match self.receiver.recv() {
                Ok(piece) => (self.piece, self.used) = (piece?, 0),
                Err(_) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len() - self.used);
        buffer[..length].copy_from_slice(&self.piece[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}

/// Reports what passes through.
struct Counted<'a, R> {
    inner: R,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.progress.advance(read as u64);
        Ok(read)
    }
}
