//! What `docker save` writes: `manifest.json` with configurations and layers by name. Old ones have a directory a layer,
//! with links between equal ones; since Docker 25 the names are those of an OCI layout's blobs, and the archive is both.

use serde::Deserialize;

use super::files::{Files, normalised};
use super::{Error, MAX_CONFIGURATION, MAX_LAYERS, MAX_MANIFEST, Parts, PartsLayer, name};
use crate::digest::{Digest, shortened};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Entry {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

/// True if there is such a manifest.
pub(super) fn is_here(files: &Files) -> Result<bool, Error> {
    Ok(files.open("manifest.json")?.is_some())
}

/// The image called `name` in the archive, or the only one.
pub(super) fn archive(files: &Files, name: Option<&str>) -> Result<Parts, Error> {
    let Some(bytes) = files.read("manifest.json", MAX_MANIFEST)? else {
        return Err(match files.open("repositories")? {
            Some(_) => Error::malformed(
                "the archive",
                "Docker before 1.10 wrote it: save the image again with a newer one",
            ),
            None => Error::missing("manifest.json"),
        });
    };
    let malformed = |error: serde_json::Error| Error::malformed("manifest.json", error);
    let entries: Vec<Entry> = serde_json::from_slice(&bytes).map_err(malformed)?;
    let entry = choose(&entries, name)?;

    let configuration_path = inside(&entry.config)?;
    let configuration = files.read(&configuration_path, MAX_CONFIGURATION)?;
    let configuration =
        configuration.ok_or_else(|| Error::missing(&format!("configuration {configuration_path}")))?;
    // The name is the digest, wherever a tool has put it: HEX.json, blobs/sha256/HEX, sha256:HEX.
    let stem = configuration_path.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if let Ok(expected) = Digest::from_hex(stem.strip_prefix("sha256:").unwrap_or(stem)) {
        let found = Digest::of(&configuration);
        if found != expected {
            return Err(Error::Digest { what: "configuration".into(), expected, found });
        }
    }
    let paths = entry.layers.as_deref().unwrap_or_default();
    if paths.len() > MAX_LAYERS {
        return Err(Error::malformed("manifest.json", format_args!("it has more than {MAX_LAYERS} layers")));
    }
    let mut layers = Vec::with_capacity(paths.len());
    for path in paths {
        let path = inside(path)?;
        // Blobs of an OCI layout are named by what they are; other names say nothing.
        let digest = path.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
        layers.push(PartsLayer { path, digest, size: None });
    }
    let names = entry.tags().iter().filter_map(|tag| tag.parse().ok()).collect();
    Ok(Parts { configuration, manifest: None, index: None, layers, names })
}

fn inside(path: &str) -> Result<String, Error> {
    normalised(path).ok_or_else(|| {
        Error::malformed("manifest.json", format_args!("`{}` leads out of the archive", shortened(path)))
    })
}

fn choose<'a>(entries: &'a [Entry], name: Option<&str>) -> Result<&'a Entry, Error> {
    let names = |entry: &'a Entry| match entry.tags() {
        [] => vec![entry.config.as_str()],
        tags => tags.iter().map(String::as_str).collect(),
    };
    match (name, entries) {
        // A tag may stand at one image only; of images by the same bare tag, the first is as good as any.
        (Some(name), _) => name::called(entries, name, names).map(|found| found[0]),
        (None, [one]) => Ok(one),
        (None, _) => Err(Error::Ambiguous { there: entries.iter().flat_map(names).map(shortened).collect() }),
    }
}
