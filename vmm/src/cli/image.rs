//! An image of the store as people mean it: by a name, by its id, or by the beginning of its id.

use super::Fault;
use ferry_images::store::Named;
use ferry_images::{Digest, Store, source};
use serde_json::{Value, json};

/// Digits of an id that are enough to mean one.
const LEAST_DIGITS: usize = 4;

/// An image that was found.
pub struct Found {
    /// Its configuration's digest, which is its id.
    pub digest: Digest,
    /// What it is called; the name that it was found by alone, if it was found by a name.
    pub names: Vec<Named>,
    configuration: Vec<u8>,
    bytes: Option<u64>,
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
    let Some((_held, configuration)) = store.image(&digest).map_err(Fault::new)? else { return Ok(None) };
    let disk = source::here(store, &digest).ok().flatten().and_then(|image| image.disk(store).ok());
    let bytes = disk.map(|disk| disk.segments.iter().map(|segment| segment.bytes).sum());
    Ok(Some(Found { digest, names, configuration, bytes }))
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
    /// As `docker image inspect` has it.
    pub fn inspect(&self) -> Result<Value, Fault> {
        let said: Value = serde_json::from_slice(&self.configuration).map_err(Fault::new)?;
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
            "Size": self.bytes,
            "Config": said["config"],
            "RootFS": { "Type": said["rootfs"]["type"], "Layers": said["rootfs"]["diff_ids"] },
        }))
    }
}

/// A complete name without what says which image of the repository it is, and its tag.
fn split(name: &str) -> (&str, Option<&str>) {
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
}
