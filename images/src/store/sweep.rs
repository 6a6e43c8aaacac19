//! What nothing leads to is removed. Roots are the names, the images that others count as theirs (containers), those that a
//! process holds, and those on their way in; from them configurations lead to layers, and manifests to layers as they came.
//!
//! A sweep excludes adding roots, and is short; what is in use it cannot lock and leaves alone. So it is safe beside any
//! other process, and whatever a crash leaves of it, the next one removes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::publish::{Yard, sync_directory_of};
use super::{Error, Store, read_bounded};
use crate::digest::Digest;
use crate::source;

/// What a sweep has removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The directories of what can be reached, those first that lead to others: what a crash leaves then leads nowhere.
const SWEPT: [&str; 5] = ["images", "manifests", "joins", "layers", "blobs"];

/// Of a manifest, what leads on.
#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: Digest,
}

impl Store {
    /// Removes everything that nothing leads to. `also` are images, by their configurations' digests, that are somebody's
    /// although they have no name.
    pub fn sweep(&self, also: &[Digest]) -> Result<Swept, Error> {
        let (path, lock) = self.sweep_lock()?;
        lock.lock().map_err(Error::io(path))?;
        let mut swept = self.sweep_some(also, None)?;
        swept.bytes += self.clear(Yard::Partial, Duration::ZERO)?;
        Ok(swept)
    }

    /// Removes these names of an image, and what only they and the image led to.
    pub fn remove(&self, names: &[String], image: &Digest, also: &[Digest]) -> Result<Swept, Error> {
        let (path, lock) = self.sweep_lock()?;
        lock.lock().map_err(Error::io(path))?;
        let mut manifests = Vec::new();
        for named in self.names()? {
            if named.image == *image && names.contains(&named.name) {
                manifests.extend(named.manifest);
                let path = self.name_path(&named.name);
                fs::remove_file(&path).and_then(|()| sync_directory_of(&path)).map_err(Error::io(path))?;
            }
        }
        let mut theirs = HashSet::new();
        self.reach(&[*image], &manifests, &mut theirs)?;
        self.sweep_some(also, Some(&theirs))
    }

    /// Removes these files unless something leads to them.
    pub(super) fn forget(&self, made: &HashSet<PathBuf>) -> Result<(), Error> {
        let (path, lock) = self.sweep_lock()?;
        lock.lock().map_err(Error::io(path))?;
        self.sweep_some(&[], Some(made)).map(drop)
    }

    /// Removes layers as they came, wherever the converted ones are here: images run as before, and cannot be saved until
    /// they are pulled or loaded again.
    pub fn drop_blobs(&self) -> Result<Swept, Error> {
        let (path, lock) = self.sweep_lock()?;
        lock.lock().map_err(Error::io(path))?;
        let mut kept = HashSet::new();
        self.reach(&[], &self.manifests_on_their_way()?, &mut kept)?;
        let mut swept = Swept::default();
        self.remove_from("blobs", &kept, None, &mut swept)?;
        Ok(swept)
    }

    fn sweep_some(&self, also: &[Digest], only: Option<&HashSet<PathBuf>>) -> Result<Swept, Error> {
        let mut images: Vec<Digest> = also.to_vec();
        let mut manifests = self.manifests_on_their_way()?;
        for named in self.names()? {
            images.push(named.image);
            manifests.extend(named.manifest);
        }
        images.extend(self.images_on_their_way()?);
        // Locks that others would need to begin using what goes: kept until it is gone.
        let mut locks = Vec::new();
        for (path, digest) in self.files("images")? {
            let Ok(file) = File::open(&path) else { continue };
            match file.try_lock() {
                Ok(()) => locks.push(file),
                Err(_) => images.push(digest),
            }
        }
        let mut reached = HashSet::new();
        self.reach(&images, &manifests, &mut reached)?;
        let mut swept = Swept::default();
        for directory in SWEPT {
            self.remove_from(directory, &reached, only, &mut swept)?;
        }
        Ok(swept)
    }

    fn remove_from(
        &self,
        directory: &str,
        reached: &HashSet<PathBuf>,
        only: Option<&HashSet<PathBuf>>,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        for (path, _) in self.files(directory)? {
            if reached.contains(&path) || only.is_some_and(|only| !only.contains(&path)) {
                continue;
            }
            let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            fs::remove_file(&path).map_err(Error::io(&path))?;
            swept.files += 1;
            swept.bytes += bytes;
        }
        Ok(())
    }

    /// The files that images and manifests lead to, themselves included.
    fn reach(
        &self,
        images: &[Digest],
        manifests: &[Digest],
        reached: &mut HashSet<PathBuf>,
    ) -> Result<(), Error> {
        for digest in images {
            let path = self.image_path(digest);
            let unfinished = self.root.join("tmp").join(path.file_name().unwrap_or_default());
            let bytes = match read_bounded(&path)? {
                Some(bytes) => Some(bytes),
                None => read_bounded(&unfinished)?,
            };
            reached.insert(path);
            if let Some(Ok((_, layers))) = bytes.map(|bytes| source::understand(&bytes)) {
                reached.insert(self.join_path(&layers));
                reached.extend(layers.iter().map(|layer| self.layer_path(layer)));
            }
        }
        for digest in manifests {
            let path = self.manifest_path(digest);
            let unfinished = self.root.join("tmp").join(path.file_name().unwrap_or_default());
            let bytes = match read_bounded(&path)? {
                Some(bytes) => Some(bytes),
                None => read_bounded(&unfinished)?,
            };
            reached.insert(path);
            if let Some(Ok(Manifest { layers })) = bytes.map(|bytes| serde_json::from_slice(&bytes)) {
                reached.extend(layers.iter().map(|layer| self.blob_path(&layer.digest)));
            }
        }
        Ok(())
    }

    fn images_on_their_way(&self) -> Result<Vec<Digest>, Error> {
        self.on_their_way("json")
    }

    fn manifests_on_their_way(&self) -> Result<Vec<Digest>, Error> {
        self.on_their_way("manifest")
    }

    fn on_their_way(&self, extension: &str) -> Result<Vec<Digest>, Error> {
        let files = self.files("tmp")?.into_iter();
        let ours = files.filter(|(path, _)| path.extension().is_some_and(|found| found == extension));
        Ok(ours.map(|(_, digest)| digest).collect())
    }

    /// The files of a directory that the store has named, with the digests in their names.
    fn files(&self, directory: &str) -> Result<Vec<(PathBuf, Digest)>, Error> {
        let directory = self.root.join(directory);
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).map_err(Error::io(&directory))? {
            let path = entry.map_err(Error::io(&directory))?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if let Some(Ok(digest)) = stem.map(Digest::from_hex) {
                files.push((path, digest));
            }
        }
        Ok(files)
    }

    /// The images that are here, named or not.
    pub fn images(&self) -> Result<Vec<Digest>, Error> {
        Ok(self.files("images")?.into_iter().map(|(_, digest)| digest).collect())
    }
}
