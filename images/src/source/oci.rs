//! OCI layouts: `index.json`, manifests, blobs by digest (image-spec: image-layout.md, image-index.md, manifest.md), and
//! Docker's schema 2, which differs in the names of media types only. `dir:` sources too, where the same blobs lie
//! side by side.

use serde::Deserialize;
use serde_json::json;

use super::files::Files;
use super::layer::Blob;
use super::{Error, MAX_CONFIGURATION, MAX_LAYERS, MAX_MANIFEST, Parts, PartsLayer, name};
use crate::digest::{Digest, shortened};
use crate::reference::Name;

/// Bytes of a layer as it comes: what it may be uncompressed. More would fill a disk before anyone notices.
const MAX_LAYER: u64 = 256 << 30;

/// Indexes in indexes, at most.
const MAX_DEPTH: u32 = 4;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIGURATION_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Of an index or a manifest, what matters here. Unlike `oci-spec`'s types these tell missing, null and foreign fields
/// apart only where it makes a difference.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Platform {
    /// How well an image for it runs here; lower is better. Plain amd64 comes before those that ask for more of the CPU.
    fn rank(&self) -> Option<u32> {
        if self.os != "linux" || self.architecture != "amd64" {
            return None;
        }
        match self.variant.as_deref() {
            None | Some("" | "v1") => Some(0),
            Some("v2") => Some(1),
            Some("v3") => Some(2),
            Some(_) => Some(3),
        }
    }

    fn text(&self) -> String {
        let variant = self.variant.as_deref().filter(|variant| !variant.is_empty());
        let variant = variant.map(|variant| format!("/{variant}")).unwrap_or_default();
        shortened(&format!("{}/{}{variant}", self.os, self.architecture))
    }
}

impl Descriptor {
    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// What people may call it.
    fn names(&self) -> impl Iterator<Item = &str> {
        [REF_NAME, CONTAINERD_NAME].into_iter().filter_map(|key| self.annotation(key))
    }

    fn shown(&self) -> String {
        shortened(self.names().last().unwrap_or(&self.digest))
    }

    fn digest(&self) -> Result<Digest, Error> {
        self.digest
            .parse()
            .map_err(|error: crate::digest::ParseDigestError| Error::malformed("the manifest", error))
    }
}

/// Where a blob of that digest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Layout,
    Flat,
}

impl Place {
    fn of(self, digest: &Digest) -> String {
        match self {
            Self::Layout => format!("blobs/sha256/{}", digest.hex()),
            Self::Flat => digest.hex(),
        }
    }
}

/// What a document is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Manifest,
    Configuration,
}

/// Where an image's documents are had by their digests.
pub(super) trait Documents {
    /// A document of at most `limit` bytes, not checked yet; `None` if it is not there.
    fn document(&self, kind: Kind, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Error>;
    /// Where the layer of that digest is.
    fn layer(&self, digest: &Digest) -> String;
}

struct InFiles<'a> {
    files: &'a Files,
    place: Place,
}

impl Documents for InFiles<'_> {
    fn document(&self, kind: Kind, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let found = self.files.read(&self.place.of(digest), limit)?;
        if found.is_some() || kind != Kind::Manifest || self.place != Place::Flat {
            return Ok(found);
        }
        self.files.read(&format!("{}.manifest.json", digest.hex()), limit)
    }

    fn layer(&self, digest: &Digest) -> String {
        self.place.of(digest)
    }
}

/// The image called `name` in the layout, or the only one.
pub(super) fn layout(files: &Files, name: Option<&str>) -> Result<Parts, Error> {
    let bytes = files.read("index.json", MAX_MANIFEST)?.ok_or_else(|| Error::missing("index.json"))?;
    let index: Document = parse("index.json", &bytes)?;
    let entries = index.manifests.ok_or_else(|| Error::malformed("index.json", "it lists no images"))?;
    let chosen = choose(&entries, name)?;
    let names = chosen
        .names()
        .filter(|name| name.contains([':', '/']))
        .filter_map(|name| name.parse::<Name>().ok())
        .collect();
    let documents = InFiles { files, place: Place::Layout };
    let bytes = read(&documents, chosen, Kind::Manifest)?;
    image(&documents, bytes, names)
}

/// The image that `skopeo copy … dir:` wrote.
pub(super) fn flat(files: &Files) -> Result<Parts, Error> {
    let bytes = files.read("manifest.json", MAX_MANIFEST)?.ok_or_else(|| Error::missing("manifest.json"))?;
    image(&InFiles { files, place: Place::Flat }, bytes, Vec::new())
}

/// Among the images of a layout: by name, and without one the only image for this machine.
fn choose<'a>(entries: &'a [Descriptor], name: Option<&str>) -> Result<&'a Descriptor, Error> {
    let there = || entries.iter().map(Descriptor::shown).collect::<Vec<_>>();
    let names = |entry: &'a Descriptor| match entry.names().collect::<Vec<_>>() {
        none if none.is_empty() => vec![entry.digest.as_str()],
        names => names,
    };
    let pinned = |name: &str| entries.iter().filter(|entry| entry.digest == name).collect::<Vec<_>>();
    let mut candidates = match name {
        None => entries.iter().collect(),
        Some(name) => match pinned(name) {
            none if none.is_empty() => name::called(entries, name, names)?,
            pinned => pinned,
        },
    };
    candidates.dedup_by(|one, other| one.digest == other.digest);
    if candidates.len() > 1 && candidates.iter().any(|entry| entry.platform.is_some()) {
        let fits =
            |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|platform| platform.rank().is_some());
        candidates.retain(fits);
    }
    match candidates[..] {
        [one] => Ok(one),
        [] => Err(Error::NoName { wanted: name.map_or("linux/amd64".into(), shortened), there: there() }),
        _ => Err(Error::Ambiguous { there: there() }),
    }
}

/// From a manifest or index to the image.
pub(super) fn image(documents: &dyn Documents, bytes: Vec<u8>, names: Vec<Name>) -> Result<Parts, Error> {
    let (mut bytes, mut index) = (bytes, None);
    let mut document: Document = parse("the manifest", &bytes)?;
    let mut depth = 0;
    while let Some(manifests) = document.manifests.take() {
        // Two readers must not see two images, one the index and one the manifest.
        if document.config.is_some() || document.layers.is_some() {
            return Err(Error::malformed("the manifest", "it is a manifest and an index at once"));
        }
        depth += 1;
        if depth > MAX_DEPTH {
            return Err(Error::malformed("the index", "it has indexes in indexes in indexes"));
        }
        index = index.or_else(|| Some(Digest::of(&bytes)));
        bytes = read(documents, for_this_machine(&manifests)?, Kind::Manifest)?;
        document = parse("the manifest", &bytes)?;
    }
    if document.schema_version == Some(1) {
        let why = "it is of Docker's schema 1, which registries have not written since 2017: convert it with skopeo";
        return Err(Error::malformed("the manifest", why));
    }
    let (Some(config), Some(layers)) = (document.config, document.layers) else {
        return Err(Error::malformed("the manifest", "it has no config or no layers"));
    };
    let kind = config.media_type.as_str();
    if !matches!(kind, "" | CONFIGURATION_TYPE | "application/vnd.docker.container.image.v1+json") {
        return Err(Error::malformed(
            "the manifest",
            format_args!("it is not of a container image but `{}`", shortened(kind)),
        ));
    }
    if layers.len() > MAX_LAYERS {
        return Err(Error::malformed("the manifest", format_args!("it has more than {MAX_LAYERS} layers")));
    }
    let configuration = read(documents, &config, Kind::Configuration)?;
    let mut parts = Vec::with_capacity(layers.len());
    for layer in &layers {
        if layer.media_type.ends_with("+encrypted") {
            return Err(Error::malformed("the image", "its layers are encrypted"));
        }
        let digest = layer.digest()?;
        if layer.size > MAX_LAYER {
            return Err(Error::malformed(
                "the manifest",
                format_args!("it has a layer of {} bytes", layer.size),
            ));
        }
        parts.push(PartsLayer {
            path: documents.layer(&digest),
            digest: Some(digest),
            size: Some(layer.size),
        });
    }
    Ok(Parts { configuration, manifest: Some(bytes), index, layers: parts, names })
}

fn for_this_machine(manifests: &[Descriptor]) -> Result<&Descriptor, Error> {
    let ranked = manifests.iter().filter_map(|entry| match &entry.platform {
        Some(platform) => Some((platform.rank()?, entry)),
        None => Some((9, entry)),
    });
    let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    best.ok_or_else(|| {
        let platforms = manifests.iter().filter_map(|entry| entry.platform.as_ref());
        // Attestations travel as images for `unknown/unknown`.
        let mut there: Vec<_> =
            platforms.filter(|platform| platform.os != "unknown").map(Platform::text).collect();
        there.dedup();
        Error::Platform { there: there.join(", ") }
    })
}

/// A small blob, its size and digest checked.
fn read(documents: &dyn Documents, descriptor: &Descriptor, kind: Kind) -> Result<Vec<u8>, Error> {
    let expected = descriptor.digest()?;
    let (what, limit) = match kind {
        Kind::Manifest => (format!("manifest {expected}"), MAX_MANIFEST),
        Kind::Configuration => (format!("configuration {expected}"), MAX_CONFIGURATION),
    };
    let bytes = documents.document(kind, &expected, limit)?.ok_or_else(|| Error::missing(&what))?;
    check_size(&what, descriptor.size, bytes.len() as u64)?;
    match Digest::of(&bytes) {
        found if found == expected => Ok(bytes),
        found => Err(Error::Digest { what, expected, found }),
    }
}

/// The manifest of an image that has come without one.
pub(super) fn manifest(configuration: &[u8], layers: &[PartsLayer]) -> Vec<u8> {
    let layer =
        |layer: &PartsLayer| json!({ "mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIGURATION_TYPE,
            "digest": Digest::of(configuration),
            "size": configuration.len(),
        },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}

fn check_size(what: &str, expected: u64, found: u64) -> Result<(), Error> {
    match expected == found {
        true => Ok(()),
        false => Err(Error::Size { what: what.to_owned(), expected, found }),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::malformed(what, error))
}

impl PartsLayer {
    /// Opens the layer and checks its size before anything is read.
    pub(super) fn open(&self, files: &Files) -> Result<Blob<impl std::io::Read + Send + use<>>, Error> {
        let name = match &self.digest {
            Some(digest) => format!("layer {digest}"),
            None => format!("layer {}", shortened(&self.path)),
        };
        let section = files.open(&self.path)?.ok_or_else(|| Error::missing(&name))?;
        if let Some(expected) = self.size {
            check_size(&name, expected, section.size())?;
        }
        Ok(Blob { size: section.size(), reader: section, name, digest: self.digest })
    }
}
