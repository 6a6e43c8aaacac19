//! Images from files: layouts, archives, directories, standard input.

use std::io;
use std::path::Path;

use super::files::{self, Files};
use super::sniff::{Found, sniff};
use super::{Error, Image, Keep, Parts, PartsLayer, docker, finish, layer, oci, rootfs, understand};
use crate::digest::{DiffId, Digest, Hashing};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::{Incoming, Store};

pub(super) fn load(
    store: &Store,
    reference: &Reference,
    keep: Keep,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let image = match reference {
        Reference::Stdin => "standard input".into(),
        other => other.to_string(),
    };
    let loaded = match reference {
        Reference::Dir { path }
            if path.is_dir() && sniff(path).is_ok_and(|found| found != Some(Found::Dir)) =>
        {
            rootfs::bring(store, path, progress)
        }
        _ => open(store, reference)
            .and_then(|(files, parts)| bring(store, &files, parts, keep, &image, progress)),
    };
    loaded.map_err(|cause| Error::Image { image, cause: Box::new(cause) })
}

fn open(store: &Store, reference: &Reference) -> Result<(Files, Parts), Error> {
    type Find = fn(&Files, Option<&str>) -> Result<Parts, Error>;
    let (files, name, find): (_, _, Find) = match reference {
        Reference::OciLayout { path, name } => (directory(path)?, name.as_deref(), oci::layout),
        Reference::Dir { path } => (directory(path)?, None, |files, _| oci::flat(files)),
        Reference::OciArchive { path, name } => (archive(store, path)?, name.as_deref(), oci::layout),
        Reference::DockerArchive { path, name } => (archive(store, path)?, name.as_deref(), docker::archive),
        Reference::Archive { path, name } => (archive(store, path)?, name.as_deref(), either),
        Reference::Stdin => (Files::open_archive(io::stdin().lock(), None, store)?, None, either),
        Reference::Registry(name) => return Err(Error::NotHere(name.to_string())),
        Reference::Recipe(name) => return Err(Error::Recipe(name.clone())),
    };
    let parts = find(&files, name)?;
    Ok((files, parts))
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

fn bring(
    store: &Store,
    files: &Files,
    mut parts: Parts,
    keep: Keep,
    image: &str,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let (config, layers) = understand(&parts.configuration)?;
    parts.check_layers(layers.len())?;
    if keep == Keep::Packed {
        parts.complete(files)?;
    }
    let incoming = store.bring(&parts.configuration, parts.manifest.as_deref())?;
    let bring = |(number, (layer, diff_id)): (usize, (&PartsLayer, &DiffId))| {
        let what = format!("layer {number} of {} of {image}", layers.len());
        if keep == Keep::Packed {
            layer.keep(&incoming, files)?;
        }
        layer::bring(&incoming, diff_id, || layer.open(files), &what, progress)
    };
    let brought = (1..).zip(parts.layers.iter().zip(&layers)).try_for_each(bring);
    let manifest = parts.manifest.as_deref().map(Digest::of);
    let image = finish(store, incoming, manifest, config, layers, brought)?;
    for name in &parts.names {
        store.set_name(name, image.digest, manifest, parts.index)?;
    }
    Ok(image)
}

impl Parts {
    /// The configuration and the manifest must speak of the same layers.
    pub(super) fn check_layers(&self, configured: usize) -> Result<(), Error> {
        if configured == self.layers.len() {
            return Ok(());
        }
        let why = format!("it lists {configured} layers and the manifest {}", self.layers.len());
        Err(Error::malformed("the configuration", why))
    }

    /// Docker's archives have no manifest that says digests and sizes: it is made here.
    fn complete(&mut self, files: &Files) -> Result<(), Error> {
        for layer in &mut self.layers {
            if layer.digest.is_none() {
                let mut reader = Hashing::new(layer.open(files)?.reader);
                let read = io::copy(&mut reader, &mut io::sink());
                read.map_err(|cause| Error::Read { what: layer.path.clone(), cause })?;
                layer.digest = Some(reader.finish().0);
            }
            if layer.size.is_none() {
                layer.size = Some(layer.open(files)?.size);
            }
        }
        if self.manifest.is_none() {
            self.manifest = Some(oci::manifest(&self.configuration, &self.layers));
        }
        Ok(())
    }
}

impl PartsLayer {
    /// Keeps the layer as it is.
    fn keep(&self, incoming: &Incoming<'_>, files: &Files) -> Result<(), Error> {
        let Some(expected) = self.digest else { return Ok(()) };
        incoming.add_blob(&expected, |mut out| {
            let layer::Blob { reader, name, .. } = self.open(files)?;
            let full = |cause| Error::Read { what: format!("{name}, to be kept"), cause };
            // Copying is fast: what an earlier attempt has left is not looked at.
            out.set_len(0).map_err(full)?;
            let mut reader = Hashing::new(reader);
            let copied = io::copy(&mut reader, &mut out);
            let (found, _) = reader.finish();
            if copied.is_err() || found != expected {
                out.set_len(0).map_err(full)?;
            }
            copied.map_err(full)?;
            match found == expected {
                true => Ok(()),
                false => Err(Error::Digest { what: name, expected, found }),
            }
        })
    }
}
