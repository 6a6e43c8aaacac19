//! Images made by hand: layers with whatever is wanted in them, written as an OCI layout or as `docker save` would.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tarball::Tarball;

/// How a layer is packed.
#[derive(Clone, Copy)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// An image: layers, and the `config` part of its configuration.
pub struct Image {
    pub layers: Vec<(Tarball, Packing)>,
    pub config: Value,
    pub architecture: &'static str,
    pub history: Value,
}

impl Image {
    /// An image that runs `command`.
    pub fn new(command: &[&str]) -> Image {
        let config = json!({"Cmd": command, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]});
        Image { layers: Vec::new(), config, architecture: "amd64", history: json!([]) }
    }

    /// Adds a layer on top.
    pub fn layer(mut self, tarball: Tarball, packing: Packing) -> Image {
        self.layers.push((tarball, packing));
        self
    }

    /// Sets a field of its `config`.
    pub fn with(mut self, field: &str, value: Value) -> Image {
        self.config[field] = value;
        self
    }

    fn configuration(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|(tarball, _)| digest(&tarball.bytes())).collect();
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "history": self.history,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    /// Writes an OCI layout with the image under this name.
    pub fn write_layout(&self, directory: &Path, name: &str) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("the layout's directory");
        let store = |bytes: &[u8], media: &str| {
            let digest = digest(bytes);
            let file = digest.strip_prefix("sha256:").expect("our own digest");
            fs::write(blobs.join(file), bytes).expect("a blob");
            json!({"mediaType": format!("application/vnd.oci.image.{media}"), "digest": digest, "size": bytes.len()})
        };
        let config = store(&self.configuration(), "config.v1+json");
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(tarball, packing)| match packing {
                Packing::Plain => store(&tarball.bytes(), "layer.v1.tar"),
                Packing::Gzip => store(&gzip(&tarball.bytes()), "layer.v1.tar+gzip"),
                Packing::Zstd => store(
                    &zstd::encode_all(&tarball.bytes()[..], 1).expect("zstd packs"),
                    "layer.v1.tar+zstd",
                ),
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let mut descriptor = store(manifest.to_string().as_bytes(), "manifest.v1+json");
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [descriptor],
        });
        fs::write(directory.join("index.json"), index.to_string()).expect("the index");
        fs::write(directory.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())
            .expect("its mark");
    }

    /// Writes what `docker save NAME` writes: a tar archive with `manifest.json`.
    pub fn write_docker_archive(&self, file: &Path, name: &str) {
        let mut archive = Tarball::new();
        let config = self.configuration();
        let config_name = format!("{}.json", &digest(&config)[7..]);
        archive.file(&config_name, &config);
        let mut names = Vec::new();
        for (number, (tarball, _)) in self.layers.iter().enumerate() {
            let name = format!("{number}/layer.tar");
            archive.file(&name, &tarball.bytes());
            names.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": names}]);
        archive.file("manifest.json", manifest.to_string().as_bytes());
        fs::write(file, archive.bytes()).expect("the archive");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).and_then(|()| packer.finish()).expect("gzip packs")
}

/// The digest of these bytes, as OCI writes it.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
