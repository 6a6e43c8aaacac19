//! A blob on its way to a file: goes on where an earlier attempt or an earlier process stopped (RFC 9110, range requests),
//! hashed as it passes, and not believed before size and digest are right.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::{Response, header};

use super::endpoint::Endpoint;
use super::http::{self, Attempts, Failure};
use super::{Document, Error};
use crate::digest::Digest;
use crate::progress::Progress;

/// How much is read at a time.
const PIECE: usize = 1 << 17;

/// What has arrived so far.
struct Arrived<'a> {
    file: &'a File,
    hasher: Sha256,
    bytes: u64,
}

impl<'a> Arrived<'a> {
    /// What an earlier process has left in the file.
    fn before(file: &'a File, size: u64, wanted: &dyn Fn() -> bool) -> Result<Self, Error> {
        let mut arrived = Self { file, hasher: Sha256::new(), bytes: 0 };
        if file.metadata().map_err(Error::Keep)?.len() > size {
            arrived.start_over()?;
        }
        let mut reader = file;
        reader.seek(SeekFrom::Start(0)).map_err(Error::Keep)?;
        let mut piece = vec![0; PIECE];
        loop {
            if !wanted() {
                return Err(Error::Abandoned);
            }
            match reader.read(&mut piece).map_err(Error::Keep)? {
                0 => return Ok(arrived),
                length => {
                    arrived.hasher.update(&piece[..length]);
                    arrived.bytes += length as u64;
                }
            }
        }
    }

    fn start_over(&mut self) -> Result<(), Error> {
        self.file.set_len(0).map_err(Error::Keep)?;
        let mut file = self.file;
        file.seek(SeekFrom::Start(0)).map_err(Error::Keep)?;
        (self.hasher, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Error> {
        let mut file = self.file;
        file.write_all(piece).map_err(Error::Keep)?;
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn digest(&self) -> Digest {
        Digest::from_sha256(self.hasher.clone())
    }
}

pub(super) fn download(
    endpoint: &Endpoint<'_>,
    digest: &Digest,
    size: u64,
    file: &File,
    wanted: &dyn Fn() -> bool,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut arrived = Arrived::before(file, size, wanted)?;
    let mut inherited = arrived.bytes > 0;
    progress.advance(arrived.bytes);
    let mut attempts = Attempts::default();
    loop {
        let before = arrived.bytes;
        let complete = before == size && size > 0;
        if !complete && let Err(failure) = more(endpoint, digest, size, &mut arrived, wanted, progress) {
            if arrived.bytes > before {
                attempts = Attempts::default();
            }
            endpoint.http.pause(&mut attempts, failure)?;
            continue;
        }
        let found = arrived.digest();
        if found == *digest {
            return Ok(());
        }
        arrived.start_over()?;
        // What an earlier process had left may have been spoilt by a power cut.
        if !inherited {
            return Err(endpoint.damaged(endpoint.name(Document::Blob(digest)), found));
        }
        inherited = false;
    }
}

/// One attempt to get the rest.
fn more(
    endpoint: &Endpoint<'_>,
    digest: &Digest,
    size: u64,
    arrived: &mut Arrived<'_>,
    wanted: &dyn Fn() -> bool,
    progress: &dyn Progress,
) -> Result<(), Failure<Error>> {
    let what = || endpoint.name(Document::Blob(digest));
    let lasting = Failure::Lasting;
    if !wanted() {
        return Err(lasting(Error::Abandoned));
    }
    let response = match endpoint.get(Document::Blob(digest), arrived.bytes) {
        // The rest is not what it thinks: from the start, then.
        Err(Failure::Lasting(error @ Error::Status { status: 416, .. })) if arrived.bytes > 0 => {
            arrived.start_over().map_err(lasting)?;
            return Err(Failure::Passing(error, None));
        }
        other => other?,
    };
    if arrived.bytes > 0 && !goes_on_at(&response, arrived.bytes) {
        // It sends everything, whatever it was asked for.
        arrived.start_over().map_err(lasting)?;
    }
    let mut body = http::reader(response);
    let mut piece = vec![0; PIECE];
    loop {
        if !wanted() {
            return Err(lasting(Error::Abandoned));
        }
        let length = match body.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Passing(endpoint.unreachable(error), None)),
        };
        if arrived.bytes + length as u64 > size {
            arrived.start_over().map_err(lasting)?;
            return Err(lasting(endpoint.answer(what(), format_args!("it is longer than {size} bytes"))));
        }
        arrived.take(&piece[..length]).map_err(lasting)?;
        progress.advance(length as u64);
    }
    match arrived.bytes == size {
        true => Ok(()),
        false => {
            let why = format_args!("the connection ended after {} of {size} bytes", arrived.bytes);
            Err(Failure::Passing(endpoint.answer(what(), why), None))
        }
    }
}

/// True if the answer starts with the byte that was asked for.
fn goes_on_at(response: &Response<Body>, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
    response.status().as_u16() == 206 && start == Some(from)
}
