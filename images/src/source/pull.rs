//! Images from registries: documents first, then layers, several at a time; each is converted as soon as it is here, while
//! the next ones are still on their way.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::oci::{self, Documents, Kind};
use super::{Access, Error, Image, Keep, MAX_MANIFEST, Parts, PartsLayer, finish, layer, understand};
use crate::digest::{DiffId, Digest};
use crate::progress::Progress;
use crate::reference::Name;
use crate::registry::{Document, Repository};
use crate::store::{Incoming, Store};

/// Layers on their way at once, as Docker has it.
const AT_ONCE: usize = 3;

pub(super) fn pull(
    store: &Store,
    name: &Name,
    access: &Access<'_>,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let repository = access.registries.repository(name);
    let pulled = image(store, &repository, name, access.keep, progress);
    pulled.map_err(|cause| Error::Image { image: name.to_string(), cause: Box::new(cause) })
}

fn image(
    store: &Store,
    repository: &Repository<'_>,
    name: &Name,
    keep: Keep,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let parts = parts(repository, name)?;
    let (config, layers) = understand(&parts.configuration)?;
    parts.check_layers(layers.len())?;
    let incoming = store.bring(&parts.configuration, parts.manifest.as_deref())?;
    let brought = Layers {
        store,
        incoming: &incoming,
        repository,
        keep,
        name,
        progress,
        abandoned: AtomicBool::new(false),
    }
    .bring(&parts.layers, &layers);
    let manifest = parts.manifest.as_deref().map(Digest::of);
    let image = finish(store, incoming, manifest, config, layers, brought)?;
    store.set_name(name, image.digest, manifest, parts.index)?;
    Ok(image)
}

/// What the registry says the name stands for.
fn parts(repository: &Repository<'_>, name: &Name) -> Result<Parts, Error> {
    let pinned = name.digest.map(|digest| digest.to_string());
    let wanted = pinned.as_deref().or(name.tag.as_deref()).unwrap_or("latest");
    let bytes = repository.document(Document::Manifest(wanted), MAX_MANIFEST)?;
    if let Some(expected) = name.digest {
        let found = Digest::of(&bytes);
        if found != expected {
            return Err(Error::Digest { what: format!("manifest {expected}"), expected, found });
        }
    }
    oci::image(repository, bytes, Vec::new())
}

impl Documents for Repository<'_> {
    fn document(&self, kind: Kind, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let text = digest.to_string();
        let document = match kind {
            Kind::Manifest => Document::Manifest(&text),
            Kind::Configuration => Document::Blob(digest),
        };
        Ok(Some(Repository::document(self, document, limit)?))
    }

    fn layer(&self, digest: &Digest) -> String {
        digest.to_string()
    }
}

/// Layers being brought.
struct Layers<'a> {
    store: &'a Store,
    incoming: &'a Incoming<'a>,
    repository: &'a Repository<'a>,
    keep: Keep,
    name: &'a Name,
    progress: &'a dyn Progress,
    /// One has failed: the others are not waited for.
    abandoned: AtomicBool,
}

impl Layers<'_> {
    fn bring(&self, layers: &[PartsLayer], diff_ids: &[DiffId]) -> Result<(), Error> {
        let wanted: Vec<&PartsLayer> = self.missing(layers, diff_ids)?;
        let total = wanted.iter().filter_map(|layer| layer.size).fold(0, u64::saturating_add);
        if !wanted.is_empty() {
            self.progress.begin(&format!("pulling {}", self.name), Some(total));
        }
        let (next, (sender, arrivals)) = (AtomicUsize::new(0), channel());
        let result = std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(wanted.len()) {
                let (sender, wanted, next) = (sender.clone(), &wanted, &next);
                let download = move || self.download(wanted, next, &sender);
                if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, download) {
                    self.abandoned.store(true, Ordering::Relaxed);
                    return Err(Error::Thread(error));
                }
            }
            drop(sender);
            let converted = self.convert(layers, diff_ids, wanted.len(), &arrivals);
            self.abandoned.store(converted.is_err(), Ordering::Relaxed);
            converted
        });
        self.progress.end();
        result
    }

    /// The layers to download, each once.
    fn missing<'l>(
        &self,
        layers: &'l [PartsLayer],
        diff_ids: &[DiffId],
    ) -> Result<Vec<&'l PartsLayer>, Error> {
        let mut wanted: Vec<&PartsLayer> = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let needed = self.keep == Keep::Packed || !self.store.has_layer(diff_id);
            let twice = wanted.iter().any(|other| other.digest == layer.digest);
            if needed && !twice && self.blob(layer)?.is_none() {
                wanted.push(layer);
            }
        }
        Ok(wanted)
    }

    fn blob(&self, layer: &PartsLayer) -> Result<Option<File>, Error> {
        Ok(layer.digest.map(|digest| self.store.blob(&digest)).transpose()?.flatten())
    }

    /// One of the threads that download.
    fn download(&self, wanted: &[&PartsLayer], next: &AtomicUsize, arrived: &Sender<Result<Digest, Error>>) {
        while let Some(layer) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (Some(digest), Some(size)) = (layer.digest, layer.size) else { continue };
            let wanted = || !self.abandoned.load(Ordering::Relaxed);
            let result = self.incoming.add_blob(&digest, |file| {
                Ok(self.repository.blob(&digest, size, file, &wanted, self.progress)?)
            });
            let failed = result.is_err();
            if arrived.send(result.map(|()| digest)).is_err() || failed {
                return;
            }
        }
    }

    /// Converts the layers, the lowest first, each as soon as it has arrived.
    fn convert(
        &self,
        layers: &[PartsLayer],
        diff_ids: &[DiffId],
        mut expected: usize,
        arrivals: &Receiver<Result<Digest, Error>>,
    ) -> Result<(), Error> {
        for (number, (layer, diff_id)) in (1..).zip(layers.iter().zip(diff_ids)) {
            while self.blob(layer)?.is_none() && !self.store.has_layer(diff_id) {
                let arrival = arrivals.recv().map_err(|_| Error::missing(&layer.path))?;
                expected -= 1;
                arrival?;
            }
            // As long as layers arrive, that is what is shown.
            let shown: &dyn Progress = if expected > 0 { &() } else { self.progress };
            let what = format!("layer {number} of {} of {}", layers.len(), self.name);
            let brought = layer::bring(self.incoming, diff_id, || self.open(layer), &what, shown);
            if let Err(Error::Digest { expected, .. }) = &brought
                && layer.digest == Some(*expected)
            {
                // It was right when it came: the disk has changed it, and the next attempt must get it again.
                self.store.discard_blob(expected);
            }
            brought?;
        }
        // Those that are only to be kept.
        for arrival in arrivals {
            arrival?;
        }
        Ok(())
    }

    fn open(&self, layer: &PartsLayer) -> Result<layer::Blob<File>, Error> {
        let name = format!("layer {}", layer.path);
        let reader = self.blob(layer)?.ok_or_else(|| Error::missing(&name))?;
        let size = reader.metadata().map_err(|cause| Error::Read { what: name.clone(), cause })?.len();
        Ok(layer::Blob { reader, name, digest: layer.digest, size })
    }
}
