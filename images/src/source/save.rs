//! Images back out of the store: an archive of an OCI layout, or that with Docker's `manifest.json` beside it, as Docker
//! writes it since version 25. Manifest, configuration and layers are bit for bit what came, so digests stay what they were.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Error;
use super::oci::{CONTAINERD_NAME, MANIFEST_TYPE, REF_NAME};
use crate::digest::Digest;
use crate::reference::Name;
use crate::store::{Held, Store};

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
        images.push(gather(store, name, &mut members)?);
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
fn gather(store: &Store, name: &Name, members: &mut BTreeMap<String, Member>) -> Result<Wanted, Error> {
    let shown = name.to_string();
    let named = store.name(name)?.ok_or_else(|| Error::NotHere(shown.clone()))?;
    let (held, configuration) = store.image(&named.image)?.ok_or_else(|| Error::NotHere(shown.clone()))?;
    let not_kept = || Error::NotKept(shown.clone());
    let manifest = named.manifest.ok_or_else(not_kept)?;
    let bytes = store.manifest(&manifest)?.ok_or_else(not_kept)?;
    let parsed = serde_json::from_slice(&bytes);
    let document: Manifest = parsed.map_err(|error| Error::malformed("the manifest", error))?;
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
