//! Images back out of the store: an archive of an OCI layout, or that with Docker's `manifest.json` beside it, as Docker
//! writes it since version 25. Configuration and layers are bit for bit what came, so their digests stay what they were;
//! and so is the manifest, unless it is Docker's and has to be OCI's, since not everyone finds the former in a layout.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Error;
use super::oci::{CONFIGURATION_TYPE, CONTAINERD_NAME, LAYER_TYPE, MANIFEST_TYPE, REF_NAME};
use crate::digest::Digest;
use crate::reference::Name;
use crate::store::{Held, Store};

const DOCKER_MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The kind of archive to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI layout in a tar.
    OciArchive,
    /// The same with what Docker looks for.
    DockerArchive,
}

/// A member of the archive.
enum Member {
    Bytes(Vec<u8>),
    File(File, u64),
}

/// An image to be written.
struct Wanted {
    name: Name,
    manifest: Digest,
    document: Manifest,
    size: u64,
    _held: Held,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    media_type: Option<String>,
    config: Blob,
    layers: Vec<Blob>,
}

#[derive(Deserialize)]
struct Blob {
    digest: Digest,
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Writes the images of these names to `out`. Nothing is written unless all of them are here as they came.
pub fn save(store: &Store, names: &[Name], format: Format, out: impl Write) -> Result<(), Error> {
    let mut members = BTreeMap::new();
    let mut images = Vec::with_capacity(names.len());
    for name in names {
        images.push(gather(store, name, format, &mut members)?);
    }
    members.insert("oci-layout".into(), text(&json!({ "imageLayoutVersion": "1.0.0" })));
    members.insert("index.json".into(), text(&index(&images)));
    if format == Format::DockerArchive {
        members.insert("manifest.json".into(), text(&docker(&images)));
    }
    write(members, out).map_err(|cause| Error::Read { what: "the archive cannot be written".into(), cause })
}

fn text(value: &Value) -> Member {
    Member::Bytes(value.to_string().into_bytes())
}

/// Finds everything that belongs to an image.
fn gather(
    store: &Store,
    name: &Name,
    format: Format,
    members: &mut BTreeMap<String, Member>,
) -> Result<Wanted, Error> {
    let shown = name.to_string();
    let named = store.name(name)?.ok_or_else(|| Error::NotHere(shown.clone()))?;
    let (held, configuration) = store.image(&named.image)?.ok_or_else(|| Error::NotHere(shown.clone()))?;
    let not_kept = || Error::NotKept(shown.clone());
    let manifest = named.manifest.ok_or_else(not_kept)?;
    let came = store.manifest(&manifest)?.ok_or_else(not_kept)?;
    let wrong = |error| Error::malformed("the manifest", error);
    let (manifest, bytes) = match format {
        Format::OciArchive => in_ocis_terms(came).map_err(wrong)?,
        Format::DockerArchive => (manifest, came),
    };
    let document: Manifest = serde_json::from_slice(&bytes).map_err(wrong)?;
    for layer in &document.layers {
        let file = store.blob(&layer.digest)?.ok_or_else(not_kept)?;
        let size = file.metadata().map_err(|cause| Error::Read { what: shown.clone(), cause })?.len();
        members.insert(path(&layer.digest), Member::File(file, size));
    }
    let size = bytes.len() as u64;
    members.insert(path(&document.config.digest), Member::Bytes(configuration));
    members.insert(path(&manifest), Member::Bytes(bytes));
    let name = named.name.parse().unwrap_or_else(|_| name.clone());
    Ok(Wanted { name, manifest, document, size, _held: held })
}

/// The manifest as OCI has it: Docker's differs in the names of types.
fn in_ocis_terms(manifest: Vec<u8>) -> serde_json::Result<(Digest, Vec<u8>)> {
    let mut document: Value = serde_json::from_slice(&manifest)?;
    if document["mediaType"] != DOCKER_MANIFEST_TYPE {
        return Ok((Digest::of(&manifest), manifest));
    }
    document["mediaType"] = json!(MANIFEST_TYPE);
    document["config"]["mediaType"] = json!(CONFIGURATION_TYPE);
    for layer in document["layers"].as_array_mut().into_iter().flatten() {
        let packed = match layer["mediaType"].as_str().and_then(|kind| kind.rsplit_once('.')) {
            Some((_, "gzip")) => "+gzip",
            Some((_, "zstd")) => "+zstd",
            _ => "",
        };
        layer["mediaType"] = json!(format!("{LAYER_TYPE}{packed}"));
    }
    let bytes = document.to_string().into_bytes();
    Ok((Digest::of(&bytes), bytes))
}

fn index(images: &[Wanted]) -> Value {
    let entry = |image: &Wanted| {
        let mut annotations = json!({ CONTAINERD_NAME: image.name.to_string() });
        if let Some(tag) = &image.name.tag {
            annotations[REF_NAME] = json!(tag);
        }
        json!({
            "mediaType": image.document.media_type.as_deref().unwrap_or(MANIFEST_TYPE),
            "digest": image.manifest,
            "size": image.size,
            "annotations": annotations,
            "platform": { "architecture": "amd64", "os": "linux" },
        })
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": images.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn docker(images: &[Wanted]) -> Value {
    let entry = |image: &Wanted| {
        let tags: Vec<String> = image.name.tag.iter().map(|_| image.name.to_string()).collect();
        json!({
            "Config": path(&image.document.config.digest),
            "RepoTags": tags,
            "Layers": image.document.layers.iter().map(|layer| path(&layer.digest)).collect::<Vec<_>>(),
        })
    };
    images.iter().map(entry).collect()
}

/// In the order of their names, with no owners and no times: the same images are the same bytes.
fn write(members: BTreeMap<String, Member>, out: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    for directory in ["blobs/", "blobs/sha256/"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, directory, io::empty())?;
    }
    for (name, member) in members {
        let (size, reader): (u64, Box<dyn Read>) = match member {
            Member::Bytes(bytes) => (bytes.len() as u64, Box::new(io::Cursor::new(bytes))),
            Member::File(file, size) => (size, Box::new(file)),
        };
        let mut header = header(tar::EntryType::Regular, 0o444, size);
        tar.append_data(&mut header, name, reader.take(size))?;
    }
    tar.into_inner()?.flush()
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}
