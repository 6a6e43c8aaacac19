//! What a disk is made of and what it was made from: the same two documents as for an image (see [`super::statements`]),
//! about a disk. They hold all that those of its images say, so that every input has its digest in one place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::statements::{beside, checksum, relation, statement};
use super::{Error, FORMAT};
use crate::digest::Digest;

/// A disk, and what it was made from.
#[derive(Debug)]
pub struct DiskSubject<'a> {
    /// The recipe's name.
    pub name: &'a str,
    /// The disk's file; the documents are written beside it.
    pub disk: &'a Path,
    /// The directory with the recipe.
    pub recipes: &'a Path,
    /// The recipes of its images by name, and their layouts, which have their own documents beside them.
    pub images: &'a BTreeMap<&'a str, PathBuf>,
}

/// What an image's documents say.
struct Said {
    name: String,
    manifest: String,
    bill: Value,
    provenance: Value,
}

/// Writes both documents, [`beside`] the disk.
pub fn write_for_disk(subject: &DiskSubject<'_>) -> Result<(), Error> {
    let digest =
        Digest::of_file(subject.disk).map_err(|cause| Error::Write { path: subject.disk.into(), cause })?;
    let recipe = format!("{}.toml", subject.name);
    let path = subject.recipes.join(&recipe);
    let recipe = (recipe, Digest::of_file(&path).map_err(|cause| Error::Write { path, cause })?);
    let images =
        subject.images.iter().map(|(name, layout)| read(name, layout)).collect::<Result<Vec<_>, _>>()?;
    let documents = [spdx(subject.name, digest, &images), provenance(subject.name, digest, &recipe, &images)];
    for (path, document) in beside(subject.disk).into_iter().zip(documents) {
        fs::write(&path, format!("{document:#}\n")).map_err(|cause| Error::Write { path, cause })?;
    }
    Ok(())
}

/// The digest of what the image at `layout` is, for those who ask whether it is still the same.
pub fn manifest_of(layout: &Path) -> Result<String, Error> {
    read("", layout).map(|said| said.manifest)
}

fn read(name: &str, layout: &Path) -> Result<Said, Error> {
    let [bill, provenance] = beside(layout).map(|path| {
        let parsed = fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Value>(&text)?));
        parsed.map_err(|cause| Error::Write { path, cause })
    });
    let (bill, provenance) = (bill?, provenance?);
    let manifest = provenance["subject"][0]["digest"]["sha256"].as_str().map(str::to_owned);
    let nothing = || Error::Write {
        path: layout.to_owned(),
        cause: io::Error::new(io::ErrorKind::InvalidData, "its provenance names no manifest"),
    };
    Ok(Said { name: name.to_owned(), manifest: manifest.ok_or_else(nothing)?, bill, provenance })
}

/// The elements of an array, none where there is no array.
fn all(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn spdx(name: &str, digest: Digest, images: &[Said]) -> Value {
    const DISK: &str = "SPDXRef-Disk";
    let mut packages = vec![json!({
        "SPDXID": DISK,
        "name": name,
        "versionInfo": digest.to_string(),
        "primaryPackagePurpose": "FILE",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": checksum(&digest.hex()),
    })];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", DISK)];
    for (number, image) in images.iter().enumerate() {
        // Names are good within one document only.
        let renamed = |id: &Value| match id.as_str() {
            Some("SPDXRef-DOCUMENT") => DISK.to_owned(),
            id => format!("{}-{number}", id.unwrap_or_default()),
        };
        packages.extend(all(&image.bill["packages"]).iter().cloned().map(|mut package| {
            package["SPDXID"] = json!(renamed(&package["SPDXID"]));
            package
        }));
        relations.extend(all(&image.bill["relationships"]).iter().map(|one| {
            let kind = match &one["relationshipType"] {
                kind if kind == "DESCRIBES" => "CONTAINS",
                kind => kind.as_str().unwrap_or_default(),
            };
            relation(&renamed(&one["spdxElementId"]), kind, &renamed(&one["relatedSpdxElement"]))
        }));
    }
    let dates = images.iter().filter_map(|image| image.bill["creationInfo"]["created"].as_str());
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("disk {name}"),
        "documentNamespace": format!("urn:ferry:disk:{digest}"),
        "creationInfo": {
            // Dates in this form are in order of time when they are in order of letters.
            "created": dates.max().unwrap_or("1970-01-01T00:00:00Z"),
            "creators": [format!("Tool: ferry-images-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relations,
    })
}

fn provenance(name: &str, digest: Digest, recipe: &(String, Digest), images: &[Said]) -> Value {
    let mut inputs = vec![json!({ "name": recipe.0, "digest": { "sha256": recipe.1.hex() } })];
    for image in images {
        inputs.push(json!({ "name": image.name, "digest": { "sha256": image.manifest } }));
        let own = &image.provenance["predicate"]["buildDefinition"]["resolvedDependencies"];
        inputs.extend(all(own).iter().cloned());
    }
    // What several images share is one input.
    let mut seen = std::collections::HashSet::new();
    inputs.retain(|input| seen.insert(input.to_string()));
    statement(name, &digest.hex(), &format!("urn:ferry:disk:{FORMAT}"), inputs)
}

#[cfg(test)]
mod tests {
    use super::super::statements::{Subject, write};
    use super::*;
    use crate::debian::Package;

    #[test]
    fn a_disk_s_documents_name_all_that_its_images_name_and_the_images() {
        let directory = tempfile::tempdir().unwrap();
        let package = |name: &str| Package {
            name: name.into(),
            version: "1".into(),
            arch: "amd64".into(),
            filename: format!("pool/{name}.deb"),
            size: 1,
            sha256: Digest::of(name.as_bytes()).hex(),
        };
        let [libc, nginx, redis] = ["libc6", "nginx", "redis"].map(package);
        let mut images = BTreeMap::new();
        for (name, epoch, packages) in [("web", 86_400, [&libc, &nginx]), ("store", 0, [&libc, &redis])] {
            let layout = directory.path().join(name);
            let subject = Subject {
                name,
                manifest: Digest::of(name.as_bytes()),
                epoch,
                inputs: vec![(format!("{name}.toml"), Digest::of(b"recipe"))],
                base: None,
                packages: packages.to_vec(),
            };
            write(&layout, &subject).unwrap();
            images.insert(name, layout);
        }
        let disk = directory.path().join("both.img");
        fs::write(&disk, b"a disk").unwrap();
        fs::write(directory.path().join("both.toml"), b"services").unwrap();
        let subject = DiskSubject { name: "both", disk: &disk, recipes: directory.path(), images: &images };
        write_for_disk(&subject).unwrap();
        let documents = || beside(&disk).map(|path| fs::read_to_string(path).unwrap());
        let [bill, provenance] = documents();
        for input in [&b"a disk"[..], b"web", b"store", b"libc6", b"nginx", b"redis"] {
            let hex = Digest::of(input).hex();
            assert!(bill.contains(&hex) && provenance.contains(&hex), "{}", input.escape_ascii());
        }
        for input in [&b"services"[..], b"recipe"] {
            assert!(provenance.contains(&Digest::of(input).hex()), "{}", input.escape_ascii());
        }
        assert!(bill.contains("1970-01-02T00:00:00Z"), "the younger image's date: {bill}");
        assert_eq!(provenance.matches(&Digest::of(b"libc6").hex()).count(), 1, "one input: {provenance}");
        // Every relation is between elements that there are, and no two have one name.
        let bill: Value = serde_json::from_str(&bill).unwrap();
        let ids: Vec<&str> =
            all(&bill["packages"]).iter().map(|one| one["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 7, "{ids:?}");
        for one in all(&bill["relationships"]) {
            assert!(ids.contains(&one["relatedSpdxElement"].as_str().unwrap()), "{one}");
        }
        assert_eq!(manifest_of(&images["web"]).unwrap(), Digest::of(b"web").hex());
        write_for_disk(&subject).unwrap();
        assert_eq!(documents()[1], provenance, "the same words each time");
    }
}
