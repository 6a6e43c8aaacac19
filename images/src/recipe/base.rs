//! Images that are not from recipes and that recipes stand on: their layers go into the new image as they came, and their
//! files count as what is below.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Deserialize;

use super::Error;
use super::describe::{ImageSection, LockedBase};
use super::layout::{self, Layer};
use crate::config::ImageConfig;
use crate::debian;
use crate::digest::{DiffId, Digest};
use crate::erofs::space::Text;
use crate::erofs::tree::{Node, NodeId, Tree};
use crate::progress::Progress;
use crate::reference::{Grammar, Reference};
use crate::registry::Registries;
use crate::source::contents::Contents;
use crate::source::{self, Access, Image, Keep, Pull};
use crate::store::Store;

/// Bytes of a file that is read out of an image: lists of accounts and packages.
const MAX_FILE: u64 = 16 << 20;

/// Where images come from.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// Those that are here.
    pub store: &'a Store,
    /// Those that are not.
    pub registries: &'a Registries,
}

/// An image that is here.
pub(super) struct Base {
    image: Image,
    layers: Vec<Stored>,
    /// The manifest, and seconds since 1970 that the image says it was made.
    manifest: Digest,
    created: u64,
    contents: Contents,
}

/// A layer as it came.
struct Stored {
    media_type: String,
    digest: Digest,
    diff_id: DiffId,
    file: File,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
}

#[derive(Deserialize)]
struct Created {
    created: Option<String>,
}

/// The image that `text` names now, for a lock.
pub(super) fn current(
    text: &str,
    recipes: &Path,
    images: Images<'_>,
    progress: &dyn Progress,
) -> Result<Base, Error> {
    bring(text, &reference(text, recipes)?, images, Pull::Always, progress)
}

/// The image that was locked.
pub(super) fn locked(
    lock: &LockedBase,
    recipes: &Path,
    images: Images<'_>,
    progress: &dyn Progress,
) -> Result<Base, Error> {
    let mut reference = reference(&lock.image, recipes)?;
    if let Reference::Registry(name) = &mut reference {
        name.digest = Some(lock.manifest);
    }
    let here = bring(&lock.image, &reference, images, Pull::Missing, progress);
    // It may be here without its layers as they came.
    let base = match here {
        Err(Error::Unpacked { .. }) => bring(&lock.image, &reference, images, Pull::Always, progress)?,
        other => other?,
    };
    match base.manifest == lock.manifest {
        true => Ok(base),
        false => Err(Error::Moved { image: lock.image.clone(), locked: lock.manifest, found: base.manifest }),
    }
}

/// What the recipe says, paths taken from where it is.
fn reference(text: &str, recipes: &Path) -> Result<Reference, Error> {
    let wrong = || Error::Value {
        value: text.to_owned(),
        what: "an image: a registry's name, or oci:, oci-archive: or \
        docker-archive: with a path beside the recipe",
    };
    let mut reference = Reference::parse(text, Grammar::Registry).map_err(|_| wrong())?;
    match &mut reference {
        Reference::Registry(_) => {}
        Reference::OciLayout { path, .. }
        | Reference::OciArchive { path, .. }
        | Reference::DockerArchive { path, .. } => *path = recipes.join(&path),
        _ => return Err(wrong()),
    }
    Ok(reference)
}

fn bring(
    text: &str,
    reference: &Reference,
    images: Images<'_>,
    pull: Pull,
    progress: &dyn Progress,
) -> Result<Base, Error> {
    let Images { store, registries } = images;
    let access = Access { registries, pull, keep: Keep::Packed };
    let image = source::resolve(store, reference, &access, progress)?;
    let unpacked = || Error::Unpacked { image: text.to_owned() };
    let manifest = image.manifest.ok_or_else(unpacked)?;
    let document = store.manifest(&manifest)?.ok_or_else(unpacked)?;
    let document: Manifest = serde_json::from_slice(&document).map_err(|_| unpacked())?;
    let configuration = store.image(&image.digest)?.map(|(_, bytes)| bytes).unwrap_or_default();
    let created = serde_json::from_slice::<Created>(&configuration).ok().and_then(|parsed| parsed.created);

    let mut layers = Vec::with_capacity(document.layers.len());
    for (descriptor, diff_id) in document.layers.into_iter().zip(&image.layers) {
        let Descriptor { media_type, digest } = descriptor;
        let file = store.blob(&digest)?.ok_or_else(unpacked)?;
        layers.push(Stored { media_type: ocis(&media_type), digest, diff_id: *diff_id, file });
    }
    let contents = Contents::open(&image.disk(store)?.segments).map_err(|cause| broken(text, cause))?;
    let created = created.as_deref().and_then(seconds).unwrap_or(0);
    Ok(Base { image, layers, manifest, created, contents })
}

fn broken(name: &str, cause: io::Error) -> Error {
    Error::Package { name: name.to_owned(), cause }
}

/// Docker's media types of layers in OCI's words.
fn ocis(media_type: &str) -> String {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar".to_owned(),
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip".to_owned()
        }
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd".to_owned()
        }
        other => other.to_owned(),
    }
}

impl Base {
    /// What a lock says of it.
    pub(super) fn lock(&self, image: &str) -> io::Result<LockedBase> {
        let mut size = 0;
        for layer in &self.layers {
            size += layer.file.metadata()?.len();
        }
        Ok(LockedBase { image: image.to_owned(), manifest: self.manifest, size })
    }

    /// Seconds since 1970 that it is dated.
    pub(super) fn created(&self) -> u64 {
        self.created
    }

    /// How it is run.
    pub(super) fn section(&self) -> ImageSection {
        section(&self.image.config)
    }

    /// Its layers' digests as they came, lowest first.
    pub(super) fn digests(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.digest).collect()
    }

    /// Puts its layers into a layout, lowest first.
    pub(super) fn add_layers(&self, to: &Path) -> Result<Vec<Layer>, Error> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let blob = layout::add_blob(to, |out| {
                // The same open file may be read more than once.
                let mut reader = At { file: &layer.file, at: 0 };
                io::copy(&mut reader, out).map(drop)
            })?;
            let (media_type, diff_id) = (layer.media_type.clone(), layer.diff_id.0);
            layers.push(Layer { blob, media_type, diff_id });
        }
        Ok(layers)
    }

    /// The whole tree: every path, without a slash in front, and its node.
    pub(super) fn walk(&self, mut visit: impl FnMut(&[u8], &Node)) {
        let mut left: Vec<(Vec<u8>, NodeId)> = vec![(Vec::new(), Tree::ROOT)];
        let tree = self.contents.tree();
        while let Some((path, id)) = left.pop() {
            for (name, below) in tree.entries(id) {
                let path = [&path[..], if path.is_empty() { b"" } else { b"/" }, &name].concat();
                visit(&path, &tree.node(below));
                left.push((path, below));
            }
        }
    }

    /// A symbolic link's target.
    pub(super) fn target(&self, target: Text) -> Vec<u8> {
        self.contents.tree().text(target).into_owned()
    }

    /// A regular file's content.
    pub(super) fn content(&self, name: &str, node: &Node) -> Result<Vec<u8>, Error> {
        self.contents.read(node, MAX_FILE).map_err(|cause| broken(name, cause))
    }

    /// The Debian packages in it, by name and version. It must be of the release that packages are taken from.
    pub(super) fn packages(&self, image: &str) -> Result<Vec<(String, String)>, Error> {
        let text = |path: &str| -> Result<String, Error> {
            let mut names = path.split('/');
            let tree = self.contents.tree();
            let found = names.try_fold(Tree::ROOT, |at, name| tree.child(at, name.as_bytes()));
            let bytes = found.map(|id| self.content(image, &tree.node(id))).transpose()?;
            Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
        };
        let release = text("usr/lib/os-release")?;
        if !release.lines().any(|line| line == format!("VERSION_CODENAME={}", debian::SUITE)) {
            return Err(Error::Release { image: image.to_owned() });
        }
        Ok(installed(&text("var/lib/dpkg/status")?))
    }
}

/// Names and versions of the packages that dpkg's status file calls installed.
fn installed(status: &str) -> Vec<(String, String)> {
    let stanzas = status.split("\n\n").filter_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
        };
        let whole = field("Status")?.ends_with(" installed");
        whole.then_some((field("Package")?.to_owned(), field("Version")?.to_owned()))
    });
    stanzas.collect()
}

fn section(config: &ImageConfig) -> ImageSection {
    let variable = |entry: &String| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.to_owned())
    };
    ImageSection {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.iter().map(variable).collect(),
        user: config.user.clone(),
        workdir: config.working_dir.clone(),
        volumes: config.volumes.clone(),
        ports: config.exposed_ports.clone(),
        stop_signal: config.stop_signal.clone(),
        labels: config.labels.clone(),
    }
}

/// Seconds since 1970 of an RFC 3339 date; the time's zone is taken for UTC, which is what builders write.
fn seconds(date: &str) -> Option<u64> {
    let number = |from: usize, to: usize| date.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Howard Hinnant's `days_from_civil`.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (days.checked_sub(719_468)?.checked_mul(86_400)?).checked_add(hour * 3_600 + minute * 60 + second)
}

/// Reads a file from its beginning, whoever else reads it.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_they_are_written() {
        for epoch in [0, 951_782_399, 951_782_400, 1_740_787_200, 4_107_542_400] {
            assert_eq!(seconds(&layout::rfc3339(epoch)), Some(epoch));
        }
        assert_eq!(seconds("2025-03-01T00:00:00.123456789Z"), Some(1_740_787_200));
        for none in ["", "2025-03-01", "1969-12-31T00:00:00Z", "2025-13-01T00:00:00Z", "x025-03-01T00:00:00Z"]
        {
            assert_eq!(seconds(none), None, "{none}");
        }
    }

    #[test]
    fn packages_that_are_only_configured_are_not_installed() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\n\n\
                      Package: b\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: c\nArchitecture: all\nVersion: 4\nStatus: hold ok installed\n";
        assert_eq!(installed(status), [("a".into(), "1:2-3".into()), ("c".into(), "4".into())]);
    }
}
