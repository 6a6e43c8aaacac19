//! Where images live on this host: content-addressed files below one directory, shared by every image, VM and process.
//!
//! ```text
//! version                the format's number
//! layers/HEX.erofs       a layer, by its diff-ID
//! joins/HEX.erofs        the metadata that joins layers, by the digest of their list
//! images/HEX.json        an image's configuration as it came, by its digest
//! manifests/HEX.manifest an image's manifest as it came, by its digest
//! blobs/HEX              a layer as it came, by its digest
//! names/HEX.json         what a registry name stands for, by the digest of the name
//! tmp/                   what is being made
//! partial/               what is being downloaded; the next process goes on with it
//! lock                   held by whoever adds roots, and alone by whoever removes what none leads to
//! ```
//!
//! A file appears under its name complete and on disk, or not at all; but for names, it never changes again.
//!
//! Layers as they came are kept besides the converted ones, because no conversion leads back to the same bytes and `ferry
//! save` has to give them back. `ferry prune --packed` drops them.

mod held;
mod publish;
mod sweep;
#[cfg(test)]
mod tests;

pub use held::Held;
pub(crate) use held::Incoming;
use publish::Yard;
pub use publish::{is_at, sync_directory_of};
pub use sweep::Swept;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};
use crate::join;
use crate::reference::Name;
use crate::source::Segment;

/// The format of the store and of the layers in it.
const VERSION: &str = "1\n";

/// A configuration larger than this is none.
const MAX_RECORD: u64 = 8 << 20;

/// The store's directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// What a registry name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The complete name.
    pub name: String,
    /// The image, by its configuration's digest.
    pub image: Digest,
    /// The manifest that it came with, if it had one.
    pub manifest: Option<Digest>,
    /// The index in which the manifest was found, if the name stood for one.
    #[serde(default)]
    pub index: Option<Digest>,
}

impl Named {
    /// True if the name, pinned to this digest, means the same image.
    fn is(&self, digest: &Digest) -> bool {
        [self.manifest, self.index].contains(&Some(*digest))
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of it.
    #[error("image store {path}: {cause}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Made by another version.
    #[error("image store {path} has format {found}, this version knows {known}: move it away, and images are loaded anew",
        path = .path.display(), known = VERSION.trim())]
    Version {
        /// The store.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// A file whose content is not what its name says.
    #[error("image store: {path} is damaged: remove it, and load the image again", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Layers that do not fit together.
    #[error(transparent)]
    Join(#[from] join::Error),
}

impl Error {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |cause| Self::Io { path, cause }
    }
}

impl Store {
    /// `$XDG_DATA_HOME/ferry`, or `~/.local/share/ferry`; `None` without a home.
    pub fn default_path() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
        Some(data.join("ferry"))
    }

    /// Uses the store at `root`, and makes it if there is none. What crashed processes left is removed.
    pub fn open(root: &Path) -> Result<Self, Error> {
        // A layer holds what its image keeps from other users, and its file knows nothing of that.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(Error::io(root))?;
        for directory in ["layers", "joins", "images", "manifests", "blobs", "names", "tmp", "partial"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(Error::io(path))?;
        }
        // Symlinks of now must not be others later.
        let store = Self { root: fs::canonicalize(root).map_err(Error::io(root))? };
        let version = store.root.join("version");
        match fs::read_to_string(&version) {
            Ok(found) if found == VERSION => {}
            Ok(found) => {
                return Err(Error::Version {
                    path: store.root,
                    found: crate::digest::shortened(found.trim()),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                store.replace(&version, VERSION.as_bytes())?
            }
            Err(cause) => return Err(Error::Io { path: version, cause }),
        }
        store.clean()?;
        Ok(store)
    }

    fn layer_path(&self, layer: &DiffId) -> PathBuf {
        self.root.join("layers").join(format!("{}.erofs", layer.0.hex()))
    }

    /// True if the layer is here.
    pub fn has_layer(&self, layer: &DiffId) -> bool {
        self.layer_path(layer).exists()
    }

    /// The file of a layer.
    pub fn layer(&self, layer: &DiffId) -> Result<Segment, Error> {
        segment(self.layer_path(layer))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    /// The layer of that digest as it came, if it is here.
    pub fn blob(&self, digest: &Digest) -> Result<Option<File>, Error> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::Io { path, cause }),
        }
    }

    /// Removes a blob that is not what it should be.
    pub(crate) fn discard_blob(&self, digest: &Digest) {
        // If it cannot be removed, it is found damaged again.
        let _ = fs::remove_file(self.blob_path(digest));
    }

    /// The metadata image that joins `layers`, made unless it is here.
    pub fn joined(&self, layers: &[DiffId]) -> Result<Segment, Error> {
        let path = self.join_path(layers);
        self.once(&path, Yard::Tmp, |out| {
            let open = |layer| {
                let path = self.layer_path(layer);
                File::open(&path).map_err(Error::io(path))
            };
            let files = layers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            join::join_for_containers(&files, out, &self.temporary()?)?;
            Ok::<_, Error>(())
        })?;
        segment(path)
    }

    fn join_path(&self, layers: &[DiffId]) -> PathBuf {
        let mut list = format!("places {}\n", join::places::VERSION);
        list.extend(layers.iter().map(|layer| format!("{layer}\n")));
        self.root.join("joins").join(format!("{}.erofs", Digest::of(list.as_bytes()).hex()))
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.root.join("names").join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    /// From now on `name` is this image. A name with a digest stands for what has that digest and nothing else.
    pub(crate) fn set_name(
        &self,
        name: &Name,
        image: Digest,
        manifest: Option<Digest>,
        index: Option<Digest>,
    ) -> Result<(), Error> {
        let tag = name.tag.clone().filter(|_| name.digest.is_none());
        let named = Named { name: Name { tag, ..name.clone() }.to_string(), image, manifest, index };
        if name.digest.is_some_and(|digest| !named.is(&digest)) {
            return Ok(());
        }
        let path = self.name_path(&named.name);
        let text = serde_json::to_vec(&named);
        let text = text.map_err(|cause| Error::Io { path: path.clone(), cause: cause.into() })?;
        let _adding = self.adding()?;
        self.replace(&path, &text)
    }

    /// From now on `name`, which has no digest, is the image that also has the name `like`, or that has none. Whoever calls
    /// this holds the image.
    pub fn tag(&self, name: &Name, image: &Digest, like: Option<&Named>) -> Result<(), Error> {
        let of = |digest: fn(&Named) -> Option<Digest>| {
            like.filter(|named| named.image == *image).and_then(digest)
        };
        self.set_name(name, *image, of(|named| named.manifest), of(|named| named.index))
    }

    /// What `name` stands for here. A name with a digest is that image whatever its tag.
    pub fn name(&self, name: &Name) -> Result<Option<Named>, Error> {
        let Some(digest) = name.digest else {
            let path = self.name_path(&name.to_string());
            return read_bounded(&path)?.map(|bytes| parse_name(&path, &bytes)).transpose();
        };
        let repository = format!("{}/{}", name.registry, name.repository);
        let fits = |named: &Named| {
            let rest = named.name.strip_prefix(&repository);
            rest.is_some_and(|rest| rest.starts_with([':', '@'])) && named.is(&digest)
        };
        Ok(self.names()?.into_iter().find(fits))
    }

    /// All names, sorted.
    pub fn names(&self) -> Result<Vec<Named>, Error> {
        let directory = self.root.join("names");
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).map_err(Error::io(&directory))? {
            let path = entry.map_err(Error::io(&directory))?.path();
            if let Some(bytes) = read_bounded(&path)? {
                names.push(parse_name(&path, &bytes)?);
            }
        }
        names.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(names)
    }
}

fn parse_name(path: &Path, bytes: &[u8]) -> Result<Named, Error> {
    serde_json::from_slice(bytes).map_err(|_| Error::Damaged { path: path.to_owned() })
}

fn segment(path: PathBuf) -> Result<Segment, Error> {
    match fs::metadata(&path) {
        Ok(metadata) => Ok(Segment { bytes: metadata.len(), path }),
        Err(cause) => Err(Error::Io { path, cause }),
    }
}

fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    match File::open(path)
        .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, MAX_RECORD), &mut bytes))
    {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::Io { path: path.to_owned(), cause }),
    }
}
