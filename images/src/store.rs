//! Where images live on this host: content-addressed files below one directory, shared by every image, VM and process.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::DiffId;
use crate::source::Segment;

/// The store's directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
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
}

impl Store {
    /// `$XDG_DATA_HOME/ferry`, or `~/.local/share/ferry`; `None` without a home.
    pub fn default_path() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
        Some(data.join("ferry"))
    }

    /// Uses the store at `root`, and makes it if there is none.
    pub fn open(root: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(root.join("layers"))
            .map_err(|cause| Error::Io { path: root.to_owned(), cause })?;
        Ok(Self { root: root.to_owned() })
    }

    /// The file of a layer.
    pub fn layer(&self, layer: &DiffId) -> Result<Segment, Error> {
        let path = self.root.join("layers").join(format!("{}.erofs", layer.0.hex()));
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(Segment { bytes: metadata.len(), path }),
            Err(cause) => Err(Error::Io { path, cause }),
        }
    }
}
