//! Images as others hand them over, checked digest by digest, and brought into the store.

mod docker;
mod files;
mod layer;
mod name;
mod oci;
pub mod sniff;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::{Arch, ImageConfiguration, Os};

use crate::config::ImageConfig;
use crate::digest::{DiffId, Digest, shortened};
use crate::progress::Progress;
use crate::reference::{Name, Reference};
use crate::store::{self, Store};
use files::Files;

/// Bytes of a manifest or index, as Docker and containerd bound them.
const MAX_MANIFEST: u64 = 4 << 20;

/// Bytes of an image's configuration; a history of thousands of steps fits.
const MAX_CONFIGURATION: u64 = 8 << 20;

/// Layers of an image. Docker builds no more than 127.
const MAX_LAYERS: usize = 1024;

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
    #[error(
        "no image `{0}` here, and this version does not pull from registries: save it to a file with `skopeo copy \
         docker://{0} oci-archive:image.tar` or `docker save -o image.tar {0}`, then run ./image.tar"
    )]
    NotHere(String),
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
    fn malformed(what: &str, why: impl fmt::Display) -> Self {
        Self::Malformed { what: shortened(what), why: why.to_string() }
    }

    fn missing(what: &str) -> Self {
        Self::Missing { what: what.to_owned() }
    }

    fn archive(cause: io::Error) -> Self {
        let truncated = cause.kind() == io::ErrorKind::UnexpectedEof;
        if truncated {
            Self::malformed("the archive", "it is truncated: copy or save it again")
        } else {
            Self::Read { what: "the archive".into(), cause }
        }
    }
}

/// What a source says an image consists of: the configuration and small things checked, layers still to be read.
#[derive(Debug)]
struct Parts {
    configuration: Vec<u8>,
    manifest: Option<Digest>,
    layers: Vec<PartsLayer>,
    /// Registry names that it goes by.
    names: Vec<Name>,
}

#[derive(Debug)]
struct PartsLayer {
    path: String,
    digest: Option<Digest>,
    size: Option<u64>,
}

/// Finds the image that `reference` names, checks it, and converts those of its layers that the store lacks.
///
/// The names that the image carries in its source stand for it in the store from now on.
pub fn resolve(store: &Store, reference: &Reference, progress: &dyn Progress) -> Result<Image, Error> {
    let result = match reference {
        Reference::Registry(name) => return named(store, name),
        Reference::Recipe(name) => return Err(Error::Recipe(name.clone())),
        Reference::OciLayout { path, name } => {
            let files = directory(path);
            files.and_then(|files| {
                load(store, &files, oci::layout(&files, name.as_deref()), reference, progress)
            })
        }
        Reference::Dir { path } => {
            let files = directory(path);
            files.and_then(|files| load(store, &files, oci::flat(&files), reference, progress))
        }
        Reference::OciArchive { path, name } => archive(store, path)
            .and_then(|files| load(store, &files, oci::layout(&files, name.as_deref()), reference, progress)),
        Reference::DockerArchive { path, name } => archive(store, path).and_then(|files| {
            load(store, &files, docker::archive(&files, name.as_deref()), reference, progress)
        }),
        Reference::Archive { path, name } => archive(store, path)
            .and_then(|files| load(store, &files, either(&files, name.as_deref()), reference, progress)),
        Reference::Stdin => Files::open_archive(io::stdin().lock(), None, store)
            .and_then(|files| load(store, &files, either(&files, None), reference, progress)),
    };
    result.map_err(|cause| Error::Image { image: image_name(reference), cause: Box::new(cause) })
}

fn image_name(reference: &Reference) -> String {
    match reference {
        Reference::Stdin => "standard input".into(),
        other => other.to_string(),
    }
}

fn directory(path: &Path) -> Result<Files, Error> {
    // A path that is not there says so itself, instead of missing a file that should be in it.
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Files::Directory(path.to_owned())),
        Ok(_) => Err(Error::malformed("the path", "it is not a directory")),
        Err(cause) => Err(Error::Read { what: path.display().to_string(), cause }),
    }
}

fn archive(store: &Store, path: &Path) -> Result<Files, Error> {
    let file = files::open_file(path)?;
    let metadata = file.metadata().map_err(Error::archive)?;
    if metadata.is_dir() {
        return Err(Error::malformed("the path", "it is a directory, not an archive"));
    }
    // A pipe can be read once, from here on.
    let seekable = metadata.is_file().then(|| files::open_file(path)).transpose()?;
    Files::open_archive(file, seekable, store)
}

/// Docker's manifest first: an archive that has both was made by Docker, which puts the names there.
fn either(files: &Files, name: Option<&str>) -> Result<Parts, Error> {
    if docker::is_here(files)? {
        docker::archive(files, name)
    } else if files.open("index.json")?.is_some() {
        oci::layout(files, name)
    } else {
        Err(Error::NotAnImage)
    }
}

fn load(
    store: &Store,
    files: &Files,
    parts: Result<Parts, Error>,
    reference: &Reference,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let Parts { configuration, manifest, layers, names } = parts?;
    let (config, diff_ids) = understand(&configuration)?;
    if diff_ids.len() != layers.len() {
        let why = format!("it lists {} layers and the manifest {}", diff_ids.len(), layers.len());
        return Err(Error::malformed("the configuration", why));
    }
    for (number, (layer, diff_id)) in (1..).zip(layers.iter().zip(&diff_ids)) {
        let what = format!("layer {number} of {} of {}", layers.len(), image_name(reference));
        layer::bring(store, diff_id, || layer.open(files), &what, progress)?;
    }
    let digest = store.add_image(&configuration)?;
    for name in &names {
        store.set_name(name, digest, manifest)?;
    }
    Ok(Image { digest, config, layers: diff_ids })
}

/// What a configuration says, if it is for this machine.
fn understand(configuration: &[u8]) -> Result<(ImageConfig, Vec<DiffId>), Error> {
    let malformed = |why: &dyn fmt::Display| Error::malformed("the configuration", why);
    let parsed = ImageConfiguration::from_reader(configuration).map_err(|error| malformed(&error))?;
    if *parsed.os() != Os::Linux || *parsed.architecture() != Arch::Amd64 {
        return Err(Error::Platform {
            there: shortened(&format!("{}/{}", parsed.os(), parsed.architecture())),
        });
    }
    let diff_ids = parsed.rootfs().diff_ids().iter().map(|text| text.parse().map(DiffId));
    let diff_ids = diff_ids.collect::<Result<Vec<_>, _>>().map_err(|error| malformed(&error))?;
    Ok((ImageConfig::from(&parsed), diff_ids))
}

/// An image that was loaded by that name before.
fn named(store: &Store, name: &Name) -> Result<Image, Error> {
    let not_here = || Error::NotHere(name.to_string());
    let named = store.name(name)?.ok_or_else(not_here)?;
    let configuration = store.image(&named.image)?.ok_or_else(not_here)?;
    let (config, layers) = understand(&configuration)?;
    match layers.iter().all(|layer| store.has_layer(layer)) {
        true => Ok(Image { digest: named.image, config, layers }),
        false => Err(not_here()),
    }
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
