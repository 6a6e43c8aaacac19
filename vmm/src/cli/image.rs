//! An image of the store as people mean it: by a name, by its id, or by the beginning of its id.

use super::Fault;
use crate::runtime::clock;
use ferry_images::store::{Held, Named};
use ferry_images::{Digest, Store, source};
use serde_json::{Value, json};

/// Digits of an image's id that are shown, as in Docker.
const SHOWN: usize = 12;

/// Digits of an id that are enough to mean one.
const LEAST_DIGITS: usize = 4;

/// An image that was found.
pub struct Found {
    /// Its configuration's digest, which is its id.
    pub digest: Digest,
    /// What it is called; the name that it was found by alone, if it was found by a name.
    pub names: Vec<Named>,
    configuration: Vec<u8>,
    /// The files of its disk, the joining metadata first; nothing of an image that is not complete.
    files: Option<Vec<u64>>,
    /// Keeps it from being removed meanwhile.
    _held: Held,
}

/// The image that a person means; `None` if there is none.
pub fn find(store: &Store, wanted: &str) -> Result<Option<Found>, Fault> {
    let by_name = match wanted.parse() {
        Ok(name) => store.name(&name).map_err(Fault::new)?,
        Err(_) => None,
    };
    let (digest, names) = match by_name {
        Some(named) => (named.image, vec![named]),
        None => match by_id(store, wanted)? {
            Some(digest) => {
                let names = store.names().map_err(Fault::new)?;
                (digest, names.into_iter().filter(|named| named.image == digest).collect())
            }
            None => return Ok(None),
        },
    };
    of(store, digest, names)
}

/// The image that a person means, where there has to be one.
pub fn known(store: &Store, wanted: &str) -> Result<Found, Fault> {
    find(store, wanted)?.ok_or_else(|| Fault::new(format_args!("no image `{wanted}` here")))
}

/// The image that has this name in the store; `None` if its configuration is not here.
pub fn named(store: &Store, named: &Named) -> Result<Option<Found>, Fault> {
    of(store, named.image, vec![named.clone()])
}

fn of(store: &Store, digest: Digest, names: Vec<Named>) -> Result<Option<Found>, Fault> {
    let Some((held, configuration)) = store.image(&digest).map_err(Fault::new)? else { return Ok(None) };
    let disk = source::here(store, &digest).ok().flatten().and_then(|image| image.disk(store).ok());
    let files = disk.map(|disk| disk.segments.iter().map(|segment| segment.bytes).collect());
    Ok(Some(Found { digest, names, configuration, files, _held: held }))
}

/// An id, whole or as far as people look at it.
pub fn shown(digest: &Digest, whole: bool) -> String {
    if whole { digest.to_string() } else { digest.hex().chars().take(SHOWN).collect() }
}

/// How long ago that was, in RFC 3339, and `N/A` where nobody has said it or the zero of a clock stands for that.
pub fn since(created: &Value) -> String {
    let created = created.as_str().and_then(clock::parse).filter(|time| *time > 0);
    created.map_or_else(|| "N/A".to_owned(), clock::ago)
}

fn by_id(store: &Store, wanted: &str) -> Result<Option<Digest>, Fault> {
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    if digits.len() < LEAST_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let mut matching = store.images().map_err(Fault::new)?.into_iter();
    let mut matching = matching.by_ref().filter(|digest| digest.hex().starts_with(digits));
    match (matching.next(), matching.next()) {
        (Some(_), Some(_)) => {
            Err(Fault::new(format_args!("several images have ids that begin with {wanted}")))
        }
        (found, _) => Ok(found),
    }
}

impl Found {
    /// Its configuration.
    pub fn said(&self) -> Result<Value, Fault> {
        serde_json::from_slice(&self.configuration).map_err(Fault::new)
    }

    /// Bytes of its disk, layers that others share included.
    pub fn bytes(&self) -> Option<u64> {
        self.files.as_ref().map(|files| files.iter().sum())
    }

    /// Bytes of each of its layers, lowest first.
    pub fn layers(&self) -> &[u64] {
        self.files.as_deref().and_then(|files| files.get(1..)).unwrap_or_default()
    }

    /// As `docker image inspect` has it.
    pub fn inspect(&self) -> Result<Value, Fault> {
        let said = self.said()?;
        let (mut tags, mut digests) = (Vec::new(), Vec::new());
        for named in &self.names {
            let (repository, tag) = split(&named.name);
            tags.extend(tag.map(|_| named.name.clone()));
            let of = |digest: &Digest| format!("{repository}@{digest}");
            digests.extend(named.index.or(named.manifest).as_ref().map(of));
        }
        digests.sort();
        digests.dedup();
        Ok(json!({
            "Id": self.digest.to_string(),
            "RepoTags": tags,
            "RepoDigests": digests,
            "Created": said["created"],
            "Author": said["author"],
            "Architecture": said["architecture"],
            "Variant": said["variant"],
            "Os": said["os"],
            "Size": self.bytes(),
            "Config": said["config"],
            "RootFS": { "Type": said["rootfs"]["type"], "Layers": said["rootfs"]["diff_ids"] },
        }))
    }
}

/// A complete name without what says which image of the repository it is, and its tag.
pub fn split(name: &str) -> (&str, Option<&str>) {
    if let Some((repository, _)) = name.split_once('@') {
        return (repository, None);
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split("localhost:5000/a/b:c"), ("localhost:5000/a/b", Some("c")));
        assert_eq!(split("localhost:5000/a/b@sha256:00"), ("localhost:5000/a/b", None));
    }

    #[test]
    fn an_image_without_a_date_has_no_age() {
        assert_eq!(since(&json!("1970-01-01T00:00:00Z")), "N/A");
        assert_eq!(since(&json!("0001-01-01T00:00:00Z")), "N/A");
        assert_eq!(since(&Value::Null), "N/A");
        assert!(since(&json!("2001-01-01T00:00:00+01:00")).ends_with(" years ago"));
    }
}
