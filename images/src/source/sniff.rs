//! What kind of image a path holds, told by looking.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// A kind of image at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A directory with `oci-layout` and `index.json`.
    OciLayout,
    /// A directory with `manifest.json` and `version`, blobs beside it.
    Dir,
    /// A tar, perhaps compressed. Which kind of image it holds, if any, is seen when it is read.
    Archive,
}

/// How bytes are compressed, told by their first four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
}

impl Compression {
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame as some writers put in front.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', ..] => Self::Xz,
            _ => Self::None,
        }
    }

    /// A reader of what `inner` holds.
    pub(super) fn decoder<'a>(self, inner: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(inner),
            Self::Gzip => {
                Box::new(flate2::bufread::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 17, inner)))
            }
            Self::Zstd => Box::new(zstd::Decoder::new(inner)?),
            Self::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(inner)),
        })
    }
}

/// `None` if something is there but no image.
pub fn sniff(path: &Path) -> io::Result<Option<Found>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        let has = |name: &str| path.join(name).is_file();
        return Ok(match () {
            () if has("oci-layout") && has("index.json") => Some(Found::OciLayout),
            () if has("manifest.json") && has("version") => Some(Found::Dir),
            () => None,
        });
    }
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut start = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut start)?;
    let tar = start.len() == 512 && &start[257..262] == b"ustar";
    Ok((tar || Compression::of(&start) != Compression::None).then_some(Found::Archive))
}
