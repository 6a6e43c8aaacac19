//! What an image is made of and what it was made from, for people and programs that check it: a bill of materials (SPDX 2.3)
//! and a provenance statement (in-toto Statement 1, SLSA provenance 1). Both name every input by its digest, and like the
//! image they are a function of recipe and lock.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::layout::rfc3339;
use super::{Error, FORMAT};
use crate::debian::{Package, SUITE};
use crate::digest::Digest;

/// What both documents are about.
pub(super) struct Subject<'a> {
    /// The recipe's name.
    pub(super) name: &'a str,
    /// The image's manifest.
    pub(super) manifest: Digest,
    /// Seconds since 1970 that the image is dated.
    pub(super) epoch: u64,
    /// Recipes, locks and the files beside them, by name.
    pub(super) inputs: Vec<(String, Digest)>,
    /// The image below all of it, which is from no recipe.
    pub(super) base: Option<Base<'a>>,
    /// Debian packages, lowest layer first.
    pub(super) packages: Vec<&'a Package>,
}

/// An image that is an input.
pub(super) struct Base<'a> {
    /// What the recipe calls it.
    pub(super) image: &'a str,
    /// Its manifest.
    pub(super) manifest: Digest,
    /// Its layers as they came, lowest first.
    pub(super) layers: Vec<Digest>,
}

/// Where the two documents about the image or the disk at `layout` are: beside it, under its name and `.spdx.json` and
/// `.provenance.json`.
pub fn beside(layout: &Path) -> [PathBuf; 2] {
    ["spdx.json", "provenance.json"].map(|kind| {
        let mut name = layout.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(kind);
        layout.with_file_name(name)
    })
}

/// Writes both.
pub(super) fn write(layout: &Path, subject: &Subject) -> Result<(), Error> {
    for (path, document) in beside(layout).into_iter().zip([spdx(subject), provenance(subject)]) {
        let text = format!("{document:#}\n");
        fs::write(&path, text).map_err(|cause| Error::Write { path, cause })?;
    }
    Ok(())
}

/// The package's name in the package-url scheme.
fn purl(package: &Package) -> String {
    // Versions and names have no character that needs escaping there but these.
    let version = package.version.replace('+', "%2B").replace(':', "%3A");
    let name = package.name.replace('+', "%2B");
    format!("pkg:deb/debian/{name}@{version}?arch={}&distro={SUITE}", package.arch)
}

pub(super) fn checksum(hex: &str) -> Value {
    json!([{ "algorithm": "SHA256", "checksumValue": hex }])
}

pub(super) fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn spdx(subject: &Subject) -> Value {
    let image = "SPDXRef-Image";
    let mut packages = vec![json!({
        "SPDXID": image,
        "name": subject.name,
        "versionInfo": subject.manifest.to_string(),
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": checksum(&subject.manifest.hex()),
    })];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", image)];
    if let Some(base) = &subject.base {
        let id = "SPDXRef-Base";
        relations.push(relation(image, "DESCENDANT_OF", id));
        packages.push(json!({
            "SPDXID": id,
            "name": base.image,
            "versionInfo": base.manifest.to_string(),
            "primaryPackagePurpose": "CONTAINER",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "checksums": checksum(&base.manifest.hex()),
        }));
    }
    for (number, package) in subject.packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{number}");
        relations.push(relation(image, "CONTAINS", &id));
        packages.push(json!({
            "SPDXID": id,
            "name": package.name,
            "versionInfo": package.version,
            "packageFileName": package.filename,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "checksums": checksum(&package.sha256),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl(package),
            }],
        }));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("image {}", subject.name),
        "documentNamespace": format!("urn:ferry:image:{}", subject.manifest),
        "creationInfo": {
            "created": rfc3339(subject.epoch),
            "creators": [format!("Tool: ferry-images-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relations,
    })
}

fn provenance(subject: &Subject) -> Value {
    let files = subject
        .inputs
        .iter()
        .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest.hex() } }));
    let packages = subject
        .packages
        .iter()
        .map(|package| json!({ "uri": purl(package), "digest": { "sha256": package.sha256 } }));
    let base = subject.base.iter().flat_map(|base| {
        let named = |digest: &Digest| json!({ "name": base.image, "digest": { "sha256": digest.hex() } });
        std::iter::once(&base.manifest).chain(&base.layers).map(named).collect::<Vec<_>>()
    });
    let inputs = files.chain(base).chain(packages).collect();
    statement(subject.name, &subject.manifest.hex(), &format!("urn:ferry:recipe:{FORMAT}"), inputs)
}

/// That what has this digest was built in this way from these.
pub(super) fn statement(name: &str, sha256: &str, build_type: &str, inputs: Vec<Value>) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": name, "digest": { "sha256": sha256 } }],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": build_type,
                "externalParameters": { "recipe": name },
                "resolvedDependencies": inputs,
            },
            "runDetails": { "builder": { "id": format!("urn:ferry:images:{}", env!("CARGO_PKG_VERSION")) } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_is_named_by_its_digest_in_the_same_words_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        let package = Package {
            name: "libstdc++6".into(),
            version: "1:14.2+b1-2~x".into(),
            arch: "amd64".into(),
            filename: "pool/main/g/gcc/x.deb".into(),
            size: 7,
            sha256: "5".repeat(64),
        };
        let subject = || Subject {
            name: "x",
            manifest: Digest::of(b"manifest"),
            epoch: 0,
            inputs: vec![("x.toml".into(), Digest::of(b"recipe"))],
            base: Some(Base {
                image: "below:1",
                manifest: Digest::of(b"below"),
                layers: vec![Digest::of(b"layer")],
            }),
            packages: vec![&package],
        };
        let written = || {
            write(&layout, &subject()).unwrap();
            beside(&layout).map(|path| fs::read_to_string(path).unwrap())
        };
        let documents = written();
        assert_eq!(documents, written());
        for text in &documents {
            serde_json::from_str::<Value>(text).unwrap();
            assert!(
                text.contains(&package.sha256) && text.contains(&Digest::of(b"manifest").hex()),
                "{text}"
            );
            assert!(
                text.contains("pkg:deb/debian/libstdc%2B%2B6@1%3A14.2%2Bb1-2~x?arch=amd64&distro=trixie"),
                "{text}"
            );
        }
        for input in [&b"recipe"[..], b"below", b"layer"] {
            assert!(documents[1].contains(&Digest::of(input).hex()), "{}", documents[1]);
        }
        assert!(documents[0].contains(&Digest::of(b"below").hex()), "{}", documents[0]);
        assert!(documents[0].contains("1970-01-01T00:00:00Z"), "{}", documents[0]);
    }
}
