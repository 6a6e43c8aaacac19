//! A layer on its way into the store. Nothing of it is kept unless every digest is right.

use std::fs::File;
use std::io::{self, Read};

use super::Error;
use crate::digest::{DiffId, Digest};
use crate::layer::{self, Limits, Unpacked};
use crate::progress::Progress;
use crate::store::Incoming;

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
        let result = incoming
            .temporary()
            .map_err(Error::from)
            .and_then(|scratch| convert(blob, diff_id, out, &scratch, progress));
        progress.end();
        result
    })
}

fn convert<R: Read + Send>(
    blob: Blob<R>,
    diff_id: &DiffId,
    out: &File,
    scratch: &File,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let Blob { reader, name, digest, .. } = blob;
    let packed = Counted { inner: reader, progress };
    let unpacked = layer::convert_packed(packed, out, scratch, &Limits::default());
    let Unpacked { packed, plain, converted } =
        unpacked.map_err(|cause| Error::Read { what: name.clone(), cause })?;
    // A wrong digest explains whatever else is wrong.
    if let Some(expected) = digest.filter(|expected| *expected != packed) {
        return Err(Error::Digest { what: name, expected, found: packed });
    }
    converted.map_err(|cause| Error::Layer { what: name.clone(), cause })?;
    if plain != diff_id.0 {
        let what = format!("{name}, uncompressed");
        return Err(Error::Digest { what, expected: diff_id.0, found: plain });
    }
    Ok(())
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
