//! Images as others hand them over, checked digest by digest, and brought into the store.

pub mod contents;
mod docker;
mod error;
mod files;
mod layer;
mod load;
mod name;
mod oci;
mod pull;
mod rootfs;
mod save;
pub mod sniff;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use oci_spec::image::{Arch, ImageConfiguration, Os};

use crate::config::ImageConfig;
use crate::digest::{DiffId, Digest, shortened};
use crate::progress::Progress;
use crate::reference::{Name, Reference};
use crate::registry::Registries;
use crate::store::{Held, Incoming, Store};

pub use error::Error;
pub use save::{Format, save};

/// Bytes of a manifest or index, as Docker and containerd bound them.
const MAX_MANIFEST: u64 = 4 << 20;

/// Bytes of an image's configuration; a history of thousands of steps fits.
const MAX_CONFIGURATION: u64 = 8 << 20;

/// Layers of an image. Docker builds no more than 127.
const MAX_LAYERS: usize = 1024;

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration, which is what Docker calls the image's ID.
    pub digest: Digest,
    /// The manifest that it came with, where that is known.
    pub manifest: Option<Digest>,
    /// How to run it.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<DiffId>,
    /// Keeps it from being removed meanwhile.
    pub held: Held,
}

impl PartialEq for Image {
    /// By what it is, not by how it came.
    fn eq(&self, other: &Self) -> bool {
        (&self.digest, &self.config, &self.layers) == (&other.digest, &other.config, &other.layers)
    }
}

impl Eq for Image {}

/// Files whose concatenation is an image's read-only disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// In the order of the disk: the joining metadata first, then the layers.
    pub segments: Vec<Segment>,
}

/// A whole file of a [`Disk`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Segment {
    /// The file, which never changes once it is there.
    pub path: PathBuf,
    /// Its size, a multiple of 4096.
    pub bytes: u64,
}

/// When to ask a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// Every time: the name may stand for something else by now.
    Always,
    /// If the image is not here.
    #[default]
    Missing,
    /// Not at all.
    Never,
}

/// Whether layers are also kept as they came, which is what `ferry save` needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of them.
    Packed,
    /// Those that had to be downloaded.
    Converted,
}

/// How images that are not here are had.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// The registries.
    pub registries: &'a Registries,
    /// When to ask them.
    pub pull: Pull,
    /// What to keep.
    pub keep: Keep,
}

/// What a source says an image consists of: the configuration and small things checked, layers still to be read.
#[derive(Debug)]
struct Parts {
    configuration: Vec<u8>,
    manifest: Option<Vec<u8>>,
    /// The index in which the manifest was found.
    index: Option<Digest>,
    layers: Vec<PartsLayer>,
    /// Registry names that it goes by.
    names: Vec<Name>,
}

#[derive(Debug, Clone)]
struct PartsLayer {
    path: String,
    digest: Option<Digest>,
    size: Option<u64>,
}

/// Finds the image that `reference` names, checks it, and converts those of its layers that the store lacks.
///
/// The names that the image carries in its source stand for it in the store from now on.
pub fn resolve(
    store: &Store,
    reference: &Reference,
    access: &Access<'_>,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let name = match reference {
        Reference::Registry(name) => name,
        Reference::Recipe(name) => return Err(Error::Recipe(name.clone())),
        _ => return load::load(store, reference, access.keep, progress),
    };
    if access.pull != Pull::Always {
        match named(store, name) {
            Err(Error::NotHere(_)) if access.pull == Pull::Missing => {}
            found => return found,
        }
    }
    pull::pull(store, name, access, progress)
}

/// What a configuration says, if it is for this machine.
pub(crate) fn understand(configuration: &[u8]) -> Result<(ImageConfig, Vec<DiffId>), Error> {
    let malformed = |why: &dyn fmt::Display| Error::malformed("the configuration", why);
    let parsed = ImageConfiguration::from_reader(configuration).map_err(|error| malformed(&error))?;
    if *parsed.os() != Os::Linux || *parsed.architecture() != Arch::Amd64 {
        return Err(Error::Platform {
            there: shortened(&format!("{}/{}", parsed.os(), parsed.architecture())),
        });
    }
    let diff_ids = parsed.rootfs().diff_ids().iter().map(|text| text.parse().map(DiffId));
    let diff_ids = diff_ids.collect::<Result<Vec<_>, _>>().map_err(|error| malformed(&error))?;
    let config = ImageConfig::of(&parsed, configuration).map_err(|error| malformed(&error))?;
    Ok((config, diff_ids))
}

/// An image that has that name here.
pub fn named(store: &Store, name: &Name) -> Result<Image, Error> {
    let not_here = || Error::NotHere(name.to_string());
    let named = store.name(name)?.ok_or_else(not_here)?;
    let image = here(store, &named.image)?.ok_or_else(not_here)?;
    Ok(Image { manifest: named.manifest, ..image })
}

/// The image whose configuration has that digest, if all of it is here.
pub fn here(store: &Store, digest: &Digest) -> Result<Option<Image>, Error> {
    let Some((held, configuration)) = store.image(digest)? else { return Ok(None) };
    let (config, layers) = understand(&configuration)?;
    let complete = layers.iter().all(|layer| store.has_layer(layer));
    Ok(complete.then_some(Image { digest: *digest, manifest: None, config, layers, held }))
}

/// What was brought becomes an image, if its layers fit together. Of one that is wrong nothing is kept; if it was the way
/// here that failed, the next attempt goes on with what has come.
fn finish(
    store: &Store,
    incoming: Incoming<'_>,
    manifest: Option<Digest>,
    config: ImageConfig,
    layers: Vec<DiffId>,
    brought: Result<(), Error>,
) -> Result<Image, Error> {
    let joined = brought.and_then(|()| Ok(store.joined(&layers)?));
    if let Err(error) = joined {
        if error.is_of_the_image() {
            incoming.forget();
        }
        return Err(error);
    }
    let (digest, held) = incoming.finish()?;
    Ok(Image { digest, manifest, config, layers, held })
}

impl Image {
    /// The files that make the image's disk, joining its layers if that was not done before.
    pub fn disk(&self, store: &Store) -> Result<Disk, Error> {
        let mut segments = vec![store.joined(&self.layers)?];
        for layer in &self.layers {
            segments.push(store.layer(layer)?);
        }
        Ok(Disk { segments })
    }
}
