//! Why an image cannot be had, in a line that names the thing, the cause and the way out.

use std::fmt;
use std::io;

use crate::digest::{Digest, shortened};
use crate::store;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something is wrong with this image.
    #[error("{image}: {cause}")]
    Image {
        /// As the user named it.
        image: String,
        /// What.
        cause: Box<Error>,
    },
    /// A file of the source cannot be read.
    #[error("{what}: {cause}")]
    Read {
        /// Which.
        what: String,
        /// Why.
        cause: io::Error,
    },
    /// An archive that is not one of an image.
    #[error("it is not an image: neither index.json nor manifest.json is in it")]
    NotAnImage,
    /// A file that the image says it has.
    #[error("{what} is not in it: the image is incomplete, copy or save it again")]
    Missing {
        /// Which.
        what: String,
    },
    /// No image by the wanted name.
    #[error("there is no image `{wanted}` in it; there {}", list(.there))]
    NoName {
        /// The name asked for.
        wanted: String,
        /// Those that are there.
        there: Vec<String>,
    },
    /// Several images, and no name.
    #[error("name one of the images in it (PATH:NAME); there {}", list(.there))]
    Ambiguous {
        /// Those that are there.
        there: Vec<String>,
    },
    /// Not for this machine.
    #[error("the image is for {there}, and this machine runs linux/amd64: get it for that platform")]
    Platform {
        /// What it is for.
        there: String,
    },
    /// Content that is not what its digest says.
    #[error("{what} is damaged (expected {expected}, found {found}): copy or save the image again")]
    Digest {
        /// Which content.
        what: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// Content that is not as long as it should be.
    #[error("{what} is {} ({found} of {expected} bytes): copy or save the image again",
        if .found < .expected { "truncated" } else { "too long" })]
    Size {
        /// Which content.
        what: String,
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// Content of the right digest that makes no sense.
    #[error("{what} cannot be used: {why}")]
    Malformed {
        /// Which content.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A layer that cannot be converted.
    #[error("{what}: {cause}")]
    Layer {
        /// Which.
        what: String,
        /// Why.
        cause: crate::layer::Error,
    },
    /// A registry reference that is not in the store.
    #[error("no image `{0}` here: get it with `ferry pull {0}`")]
    NotHere(String),
    /// An image of which only the converted layers are here.
    #[error(
        "`{0}` is here to be run, but its layers are not kept as they came: `ferry pull` or `ferry load` it again"
    )]
    NotKept(String),
    /// A registry's refusal.
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    /// A thread that is needed for it.
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    /// A recipe where there are none.
    #[error("recipe `{0}` is built with `cargo xtask build image {0}` where Ferry's sources are")]
    Recipe(String),
    /// The store itself.
    #[error(transparent)]
    Store(#[from] store::Error),
}

fn list(there: &[String]) -> String {
    // A line, not a screenful.
    const SHOWN: usize = 12;
    match there {
        [] => "are none".into(),
        [one] => format!("is {one}"),
        many if many.len() <= SHOWN => format!("are {}", many.join(", ")),
        many => format!("are {} and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
    }
}

impl Error {
    /// True if the image itself is wrong, wherever it is had.
    pub(super) fn is_of_the_image(&self) -> bool {
        matches!(
            self,
            Self::Layer { .. }
                | Self::Digest { .. }
                | Self::Size { .. }
                | Self::Malformed { .. }
                | Self::Store(store::Error::Join(_))
        )
    }

    pub(super) fn malformed(what: &str, why: impl fmt::Display) -> Self {
        Self::Malformed { what: shortened(what), why: why.to_string() }
    }

    pub(super) fn missing(what: &str) -> Self {
        Self::Missing { what: what.to_owned() }
    }

    pub(super) fn archive(cause: io::Error) -> Self {
        let truncated = cause.kind() == io::ErrorKind::UnexpectedEof;
        if truncated {
            Self::malformed("the archive", "it is truncated: copy or save it again")
        } else {
            Self::Read { what: "the archive".into(), cause }
        }
    }
}
