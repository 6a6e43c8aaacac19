//! Whole images of every kind, made here, and everything that can be wrong with them.

use std::fs;
use std::io::{Read, Write};

use serde_json::{Value, json};

use super::*;
use crate::reference::Grammar;

/// A layer's tar with one file.
fn tar_with(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Two members, as parallel compressors write them.
    let (one, other) = bytes.split_at(bytes.len() / 2);
    for part in [one, other] {
        flate2::read::GzEncoder::new(part, flate2::Compression::fast()).read_to_end(&mut out).unwrap();
    }
    out
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

type Pack = fn(&[u8]) -> Vec<u8>;

/// A store, and a layout that is being made.
struct Made {
    dir: tempfile::TempDir,
    store: Store,
    index: Vec<Value>,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        fs::create_dir_all(dir.path().join("layout/blobs/sha256")).unwrap();
        Self { dir, store, index: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn blob_path(&self, digest: &Value) -> PathBuf {
        self.path("layout/blobs/sha256").join(&digest.as_str().unwrap()[7..])
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.path("layout/blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
    }

    fn json(&self, kind: &str, value: &Value) -> Value {
        self.blob(kind, value.to_string().as_bytes())
    }

    /// A manifest over layers of these tars, each packed by `pack`.
    fn manifest(&self, tars: &[Vec<u8>], pack: Pack, architecture: &str) -> Value {
        let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["run"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let layer =
            |tar: &Vec<u8>| self.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", &pack(tar));
        let manifest = json!({
            "schemaVersion": 2,
            "config": self.json("application/vnd.docker.container.image.v1+json", &config),
            "layers": tars.iter().map(layer).collect::<Vec<_>>(),
        });
        self.json("application/vnd.docker.distribution.manifest.v2+json", &manifest)
    }

    fn named(mut self, mut descriptor: Value, name: &str) -> Self {
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        self.index.push(descriptor);
        self
    }

    /// Writes the layout's index.
    fn finish(&self) {
        let index = json!({ "schemaVersion": 2, "manifests": self.index });
        fs::write(self.path("layout/index.json"), index.to_string()).unwrap();
        fs::write(self.path("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }

    fn resolve(&self, text: &str) -> Result<Image, Error> {
        self.resolve_keeping(text, Keep::Converted)
    }

    fn resolve_keeping(&self, text: &str, keep: Keep) -> Result<Image, Error> {
        let registries = Registries::new(Default::default());
        let access = Access { registries: &registries, pull: Pull::Never, keep };
        let text = text.replace('%', self.dir.path().to_str().unwrap());
        resolve(&self.store, &Reference::parse(&text, Grammar::Registry).unwrap(), &access, &())
    }

    fn message(&self, text: &str) -> String {
        let message = self.resolve(text).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message:?} is more than a line");
        message
    }

    fn nothing_kept(&self) {
        for directory in ["layers", "images", "manifests", "blobs", "names", "tmp", "partial"] {
            let left: Vec<_> = fs::read_dir(self.path("store").join(directory)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    /// The layout as a tar.
    fn archived(&self, name: &str) {
        let mut tar = tar::Builder::new(fs::File::create(self.path(name)).unwrap());
        tar.append_dir_all(".", self.path("layout")).unwrap();
        tar.finish().unwrap();
    }
}

/// One image of two layers.
fn simple(pack: Pack) -> Made {
    let made = Made::new();
    let manifest = made.manifest(&[tar_with("a", b"first"), tar_with("b", b"second")], pack, "amd64");
    let made = made.named(manifest, "latest");
    made.finish();
    made
}

#[test]
fn a_layout_with_every_compression_is_the_same_image() {
    let packs: [Pack; 3] = [<[u8]>::to_vec, gzip, zstd];
    let images = packs.map(|pack| {
        let made = simple(pack);
        let image = made.resolve("%/layout").unwrap();
        let disk = image.disk(&made.store).unwrap();
        assert_eq!(disk.segments.len(), 3);
        for segment in &disk.segments {
            assert_eq!(segment.bytes, fs::metadata(&segment.path).unwrap().len());
            assert_eq!(segment.bytes % 4096, 0);
        }
        assert_eq!(made.resolve("oci:%/layout:latest").unwrap(), image);
        image
    });
    assert_eq!(images[0].config.cmd, ["run"]);
    assert_eq!(
        images[0].layers,
        [DiffId(Digest::of(&tar_with("a", b"first"))), DiffId(Digest::of(&tar_with("b", b"second")))]
    );
    assert!(images.iter().all(|image| *image == images[0]));
}

#[test]
fn an_archive_of_a_layout_is_read_in_place_or_compressed() {
    let made = simple(gzip);
    made.archived("plain.tar");
    fs::write(made.path("packed.tar.gz"), gzip(&fs::read(made.path("plain.tar")).unwrap())).unwrap();
    let image = made.resolve("%/layout").unwrap();
    for text in ["%/plain.tar", "oci-archive:%/plain.tar:latest", "%/packed.tar.gz", "%/packed.tar.gz:latest"]
    {
        assert_eq!(made.resolve(text).unwrap(), image, "{text}");
    }
}

#[test]
fn chooses_by_name_and_says_which_there_are() {
    let made = Made::new();
    let one = made.manifest(&[tar_with("a", b"1")], gzip, "amd64");
    let two = made.manifest(&[tar_with("a", b"2")], gzip, "amd64");
    let digest = two["digest"].as_str().unwrap().to_owned();
    let made = made.named(one, "docker.io/library/one:7").named(two, "two");
    made.finish();
    let first = made.resolve("%/layout:one:7").unwrap();
    assert_ne!(first, made.resolve("%/layout:two").unwrap());
    assert_eq!(made.resolve("oci:%/layout:docker.io/library/one:7").unwrap(), first);
    assert_eq!(made.resolve("oci:%/layout:7").unwrap(), first);
    assert_eq!(
        made.resolve(&format!("oci:%/layout:{digest}")).unwrap(),
        made.resolve("%/layout:two").unwrap()
    );
    let message = made.message("%/layout");
    assert!(
        message.contains("name one of the images") && message.contains("docker.io/library/one:7, two"),
        "{message}"
    );
    let message = made.message("%/layout:three");
    assert!(
        message.ends_with("there is no image `three` in it; there are docker.io/library/one:7, two"),
        "{message}"
    );
    // What was loaded under a registry's name is found by it.
    assert_eq!(made.resolve("one:7").unwrap(), first);
    assert!(made.message("two").contains("no image `docker.io/library/two:latest` here"));
}

#[test]
fn an_index_is_entered_for_this_machine() {
    let made = Made::new();
    let arm = made.manifest(&[tar_with("a", b"arm")], gzip, "arm64");
    let amd = made.manifest(&[tar_with("a", b"amd")], gzip, "amd64");
    let with = |mut descriptor: Value, os: &str, architecture: &str, variant: &str| {
        descriptor["platform"] = json!({ "os": os, "architecture": architecture, "variant": variant });
        descriptor
    };
    let entries = [
        with(arm.clone(), "linux", "arm64", "v8"),
        with(arm.clone(), "linux", "amd64", "v3"),
        with(amd.clone(), "linux", "amd64", ""),
        with(arm.clone(), "unknown", "unknown", ""),
    ];
    let kind = "application/vnd.oci.image.index.v1+json";
    let inner = made.json(kind, &json!({ "schemaVersion": 2, "manifests": entries }));
    let outer = made.json(kind, &json!({ "schemaVersion": 2, "manifests": [inner] }));
    let only = made.json(kind, &json!({ "schemaVersion": 2, "manifests": [&entries[0], &entries[3]] }));
    let made = made.named(outer, "both").named(only, "arm").named(arm, "alone");
    made.finish();
    assert_eq!(made.resolve("%/layout:both").unwrap().layers, [DiffId(Digest::of(&tar_with("a", b"amd")))]);
    assert!(
        made.message("%/layout:arm").contains("is for linux/arm64/v8, and this machine runs linux/amd64")
    );
    assert!(made.message("%/layout:alone").contains("is for linux/arm64, and"));
}

#[test]
fn indexes_without_end_end() {
    let made = Made::new();
    let mut inner = made.manifest(&[], gzip, "amd64");
    for _ in 0..5 {
        inner = made.json("application/vnd.oci.image.index.v1+json", &json!({ "manifests": [inner] }));
    }
    let made = made.named(inner, "deep");
    made.finish();
    assert!(made.message("%/layout").contains("indexes in indexes"));
    let huge = format!("{{\"manifests\":[],\"x\":\"{}\"}}", "x".repeat(5 << 20));
    fs::write(made.path("layout/index.json"), huge).unwrap();
    assert!(made.message("%/layout").contains("too large"));
    fs::write(made.path("layout/index.json"), "[".repeat(100_000)).unwrap();
    assert!(made.message("%/layout").contains("index.json cannot be used"));
}

/// Changes one blob of a fresh image, and says what comes of it.
fn broken(which: &str, change: impl Fn(&std::path::Path)) -> String {
    let made = simple(gzip);
    let digest = &made.index[0]["digest"];
    let manifest: Value = serde_json::from_slice(&fs::read(made.blob_path(digest)).unwrap()).unwrap();
    change(&made.blob_path(match which {
        "manifest" => digest,
        "config" => &manifest["config"]["digest"],
        _ => &manifest["layers"][0]["digest"],
    }));
    let message = made.message("%/layout");
    assert!(message.starts_with(&format!("oci:{}: ", made.path("layout").display())), "{message}");
    made.nothing_kept();
    message
}

#[test]
fn refuses_damaged_truncated_and_missing_blobs_and_keeps_nothing() {
    let flip = |path: &std::path::Path| {
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let truncate = |path: &std::path::Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let extend = |path: &std::path::Path| {
        fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap()
    };
    let remove = |path: &std::path::Path| fs::remove_file(path).unwrap();
    for which in ["manifest", "config", "layer"] {
        assert!(broken(which, flip).contains("is damaged (expected sha256:"), "{which}");
        assert!(broken(which, truncate).contains("is truncated ("), "{which}");
        assert!(broken(which, extend).contains("is too long ("), "{which}");
        assert!(broken(which, remove).contains("is not in it: the image is incomplete"), "{which}");
    }
}

#[test]
fn a_layer_must_be_what_the_configuration_says_it_is() {
    let made = Made::new();
    let (tar, other) = (tar_with("a", b"1"), tar_with("a", b"2"));
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&other).to_string()] },
    });
    let manifest = json!({
        "config": made.json("application/vnd.oci.image.config.v1+json", &config),
        "layers": [made.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&tar))],
    });
    let manifest = made.json("application/vnd.oci.image.manifest.v1+json", &manifest);
    let made = made.named(manifest, "x");
    made.finish();
    assert!(made.message("%/layout").contains(", uncompressed is damaged"), "{}", made.message("%/layout"));
    made.nothing_kept();
}

#[test]
fn refuses_what_is_no_container_image() {
    let made = Made::new();
    let chart = made.json(
        "m",
        &json!({ "config": made.json("application/vnd.cncf.helm.config.v1+json", &json!({})), "layers": [] }),
    );
    let mut layer = made.blob("application/vnd.oci.image.layer.v1.tar+encrypted", b"secret");
    let rootfs = json!({ "type": "layers", "diff_ids": [] });
    let config = made.json(
        "application/vnd.oci.image.config.v1+json",
        &json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }),
    );
    let encrypted = made.json("m", &json!({ "config": config, "layers": [layer] }));
    layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    let uneven = made.json("m", &json!({ "config": config, "layers": [layer] }));
    layer["digest"] = json!("sha256:../../../../etc/passwd");
    let escaping = made.json("m", &json!({ "config": config, "layers": [layer] }));
    layer["digest"] = json!(Digest::of(b"vast").to_string());
    layer["size"] = json!(u64::MAX);
    let vast = made.json("m", &json!({ "config": config, "layers": [layer.clone(), layer] }));
    let old = made.json("m", &json!({ "schemaVersion": 1, "fsLayers": [] }));
    let empty = made.json("m", &json!({}));
    let made = made
        .named(chart, "chart")
        .named(encrypted, "encrypted")
        .named(uneven, "uneven")
        .named(escaping, "escaping")
        .named(vast, "vast")
        .named(old, "old")
        .named(empty, "empty");
    made.finish();
    for (name, expected) in [
        ("chart", "not of a container image but `application/vnd.cncf.helm"),
        ("encrypted", "layers are encrypted"),
        ("uneven", "it lists 0 layers and the manifest 1"),
        ("escaping", "is not a digest"),
        ("vast", "it has a layer of 18446744073709551615 bytes"),
        ("old", "schema 1"),
        ("empty", "no config or no layers"),
    ] {
        let message = made.message(&format!("%/layout:{name}"));
        assert!(message.contains(expected), "{message}");
    }
    made.nothing_kept();
}

/// `docker save` of old: a directory a layer, and a link where a layer repeats.
fn docker_archive(made: &Made, name: &str, change: impl Fn(&mut Value)) -> DiffId {
    let layer = tar_with("a", b"content");
    let diff_id = Digest::of(&layer);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["run"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string(), diff_id.to_string()] },
    })
    .to_string();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let mut manifest = json!([{
        "Config": config_name, "RepoTags": ["redis:7", "someone/redis:latest"], "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    change(&mut manifest);
    let mut tar = tar::Builder::new(fs::File::create(made.path(name)).unwrap());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add(&config_name, config.as_bytes());
    add("one/layer.tar", &layer);
    add("manifest.json", manifest.to_string().as_bytes());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "two/layer.tar", "../one/layer.tar").unwrap();
    tar.finish().unwrap();
    DiffId(diff_id)
}

#[test]
fn reads_what_docker_save_wrote() {
    let made = Made::new();
    let layer = docker_archive(&made, "image.tar", |_| {});
    let image = made.resolve("%/image.tar").unwrap();
    assert_eq!(image.layers, [layer, layer]);
    assert_eq!(image.disk(&made.store).unwrap().segments.len(), 3);
    for text in
        ["docker-archive:%/image.tar", "docker-archive:%/image.tar:redis:7", "%/image.tar:someone/redis"]
    {
        assert_eq!(made.resolve(text).unwrap(), image, "{text}");
    }
    for text in ["redis:7", "docker.io/someone/redis"] {
        assert_eq!(made.resolve(text).unwrap(), image, "{text}");
    }
    let message = made.message("%/image.tar:redis:8");
    assert!(
        message.contains("no image `redis:8` in it; there are redis:7, someone/redis:latest"),
        "{message}"
    );
    assert!(made.message("oci-archive:%/image.tar").contains("index.json is not in it"));
}

#[test]
fn reads_what_docker_saves_today_by_its_docker_names() {
    let made = Made::new();
    let tar = tar_with("a", b"1");
    let manifest = made.manifest(std::slice::from_ref(&tar), <[u8]>::to_vec, "amd64");
    let document: Value =
        serde_json::from_slice(&fs::read(made.blob_path(&manifest["digest"])).unwrap()).unwrap();
    let blob = |descriptor: &Value| format!("blobs/sha256/{}", &descriptor["digest"].as_str().unwrap()[7..]);
    let docker = json!([{ "Config": blob(&document["config"]), "RepoTags": ["a:1"], "Layers": [blob(&document["layers"][0])] }]);
    fs::write(made.path("layout/manifest.json"), docker.to_string()).unwrap();
    let made = made.named(manifest, "1");
    made.finish();
    made.archived("image.tar");
    let image = made.resolve("%/image.tar:a:1").unwrap();
    assert_eq!(image, made.resolve("oci-archive:%/image.tar:1").unwrap());
    assert_eq!(image.layers, [DiffId(Digest::of(&tar))]);
}

#[test]
fn docker_archives_cannot_lead_out_or_lie() {
    let wrong = |change: fn(&mut Value)| {
        let made = Made::new();
        docker_archive(&made, "image.tar", change);
        let message = made.message("%/image.tar");
        made.nothing_kept();
        message
    };
    assert!(wrong(|m| m[0]["Layers"][0] = json!("../../etc/passwd")).contains("leads out of the archive"));
    assert!(wrong(|m| m[0]["Config"] = json!("/../x")).contains("leads out of the archive"));
    assert!(wrong(|m| m[0]["Config"] = json!("one/layer.tar")).contains("configuration cannot be used"));
    assert!(
        wrong(|m| m[0]["Layers"] = json!(["one/layer.tar"])).contains("lists 2 layers and the manifest 1")
    );
    assert!(wrong(|m| m[0]["Layers"][0] = json!("gone/layer.tar")).contains("gone/layer.tar is not in it"));
    assert!(wrong(|m| *m = json!({})).contains("manifest.json cannot be used"));
    assert!(wrong(|m| *m = json!([])).contains("there are none"));
}

#[test]
fn a_configuration_is_checked_by_whatever_name_has_its_digest() {
    for name in ["%.json", "sha256:%", "blobs/sha256/%"] {
        let made = Made::new();
        let rootfs = json!({ "type": "layers", "diff_ids": [] });
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string();
        let name = name.replace('%', &Digest::of(config.as_bytes()).hex());
        for (content, right) in [(config.clone(), true), (config + " ", false)] {
            let mut tar = tar::Builder::new(fs::File::create(made.path("image.tar")).unwrap());
            let manifest = json!([{ "Config": name, "RepoTags": null, "Layers": [] }]).to_string();
            for (path, text) in [("manifest.json", &manifest), (&name, &content)] {
                let mut header = tar::Header::new_ustar();
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
            tar.finish().unwrap();
            assert_eq!(made.resolve("%/image.tar").is_ok(), right, "{name}");
        }
    }
}

#[test]
fn reads_a_flat_directory() {
    let made = simple(gzip);
    let image = made.resolve("%/layout").unwrap();
    fs::create_dir(made.path("flat")).unwrap();
    for entry in fs::read_dir(made.path("layout/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, made.path("flat").join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(made.blob_path(&made.index[0]["digest"]), made.path("flat/manifest.json")).unwrap();
    fs::write(made.path("flat/version"), "Directory Transport Version: 1.1\n").unwrap();
    assert_eq!(made.resolve("%/flat").unwrap(), image);
    assert_eq!(made.resolve("dir:%/flat").unwrap(), image);
}

#[test]
fn an_unpacked_directory_is_an_image_of_one_layer() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let made = Made::new();
    let root = made.path("rootfs");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/tool"), b"program").unwrap();
    fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/again")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    symlink("/etc/passwd", root.join("out")).unwrap();
    fs::write(root.join("n".repeat(255)), b"long").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let image = made.resolve("dir:%/rootfs").unwrap();
    assert_eq!(made.resolve("dir:%/rootfs").unwrap(), image, "the same tree is the same image");
    let disk = image.disk(&made.store).unwrap();
    assert_eq!(disk.segments.len(), 2);
    let layer = fs::File::open(&disk.segments[1].path).unwrap();
    let told = crate::layer::fixture::told(&[&layer], &crate::erofs::read::load(&layer).unwrap());
    assert!(
        told["/usr/bin/again"].starts_with("104755 ") && told["/usr/bin/tool"] == "= /usr/bin/again",
        "{told:#?}"
    );
    assert!(told["/out"].ends_with("-> /etc/passwd") && told["/bin"].ends_with("-> usr/bin"), "{told:#?}");
    assert!(
        told.contains_key(&format!("/{}", "n".repeat(255))) && !told.contains_key("/socket"),
        "{told:#?}"
    );
    fs::write(root.join(".wh.hidden"), b"").unwrap();
    assert!(made.message("dir:%/rootfs").contains(".wh.hidden: in a layer this name would hide another"));
    fs::remove_file(root.join(".wh.hidden")).unwrap();
    fs::write(root.join("usr/bin/tool"), b"changed").unwrap();
    assert_ne!(made.resolve("dir:%/rootfs").unwrap(), image);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn changed_documents_never_panic_and_leave_nothing(
        at in proptest::prelude::any::<proptest::sample::Index>(),
        cut in proptest::prelude::any::<proptest::sample::Index>(),
        with in "[0-9a-z{}\\[\\]\",:\\\\ -]{0,12}",
    ) {
        let made = simple(<[u8]>::to_vec);
        // The index is the document that no digest protects.
        let path = made.path("layout/index.json");
        let text = fs::read_to_string(&path).unwrap();
        let (one, other) = (at.index(text.len()), cut.index(text.len()));
        let (start, end) = (one.min(other), one.max(other));
        fs::write(&path, format!("{}{with}{}", &text[..start], &text[end..])).unwrap();
        if made.resolve("oci:%/layout").is_err() {
            made.nothing_kept();
        }
    }
}

#[test]
fn says_that_nothing_is_there() {
    let made = Made::new();
    assert!(made.message("oci:%/gone").contains("No such file"));
    assert!(made.message("docker-archive:%/gone.tar").contains("No such file"));
    assert!(made.message("nowhere").contains("no image `docker.io/library/nowhere:latest` here"));
    assert!(made.message("recipe:hello").contains("cargo xtask build image hello"));
    fs::write(made.path("other.tar"), tar_with("unrelated", b"x")).unwrap();
    assert!(made.message("%/other.tar").contains("it is not an image"));
    fs::write(made.path("text.gz"), gzip(b"no tar at all, but long enough to look at")).unwrap();
    assert!(made.message("%/text.gz").contains("archive"));
}

#[test]
fn an_image_already_here_is_not_converted_again() {
    let made = simple(gzip);
    let image = made.resolve("%/layout").unwrap();
    let manifest: Value =
        serde_json::from_slice(&fs::read(made.blob_path(&made.index[0]["digest"])).unwrap()).unwrap();
    fs::remove_file(made.blob_path(&manifest["layers"][0]["digest"])).unwrap();
    assert_eq!(made.resolve("%/layout").unwrap(), image);
}

#[test]
fn the_same_tree_lies_on_every_disk() {
    let bytes = |made: &Made| {
        let disk = made.resolve("%/layout").unwrap().disk(&made.store).unwrap();
        disk.segments.iter().flat_map(|segment| fs::read(&segment.path).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&simple(gzip)), bytes(&simple(zstd)));
}
