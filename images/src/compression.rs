//! The compressions that layers, archives and packages come in.

use std::io::{self, BufRead, BufReader, Read};

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
}

impl Compression {
    /// Told by the first four bytes.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame as some writers put in front.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', ..] => Self::Xz,
            _ => Self::None,
        }
    }

    /// A reader of what `inner` holds, all its members or frames one after another.
    pub(crate) fn decoder<'a>(self, inner: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        match self {
            Self::None => Ok(Box::new(inner)),
            _ => self.buffered(BufReader::with_capacity(1 << 17, inner)),
        }
    }

    /// The same of what is in a buffer already.
    pub(crate) fn buffered<'a>(self, inner: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(inner),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(inner)),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(inner)?),
            Self::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(inner)),
        })
    }
}
