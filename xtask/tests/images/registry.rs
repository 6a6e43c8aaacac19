//! Images by way of a real registry: whatever is pushed comes out again as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::road::image::{Image, Packing};
use crate::road::registry::{PASSWORD, Registry, USER, ferry, skopeo, store, succeed};
use crate::road::tarball::Tarball;
use crate::road::{on_qemu, program, xtask};
use crate::tokens::{IDENTITY, PUBLIC, TokenServer};

/// A layer with a file that says its number, and as much that cannot be packed.
fn layer(number: usize, noise: usize) -> Tarball {
    let mut layer = Tarball::new();
    layer.file(&format!("tree/file-{number}"), number.to_string().as_bytes());
    let mut state = number as u64 + 1;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        // Xorshift: bytes that are the same everywhere and no compressor likes.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(noise)
    .collect();
    layer.file(&format!("tree/noise-{number}"), &noise);
    layer
}

pub fn image(layers: usize, noise: usize) -> Image {
    (0..layers).fold(Image::new(&["/lister", "/tree"]), |image, number| {
        image.layer(layer(number, noise), Packing::Gzip)
    })
}

/// What a registry has under that name, as skopeo sees it.
fn manifest_at(reference: &str) -> Value {
    let text = succeed(
        skopeo().args(["inspect", "--raw", "--tls-verify=false"]).arg(format!("docker://{reference}")),
    );
    serde_json::from_str(&text).expect("a manifest")
}

/// The digests of a manifest's layers.
fn layers(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().expect("layers");
    layers.iter().map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect()
}

#[test]
fn every_packing_is_pulled_and_saved_bit_for_bit() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().expect("a directory");
    let layout = directory.path().join("layout");
    image(3, 20_000).write_layout(&layout, "x");
    for (packing, options) in [
        ("gzip", &["--dest-compress-format", "gzip"][..]),
        ("zstd", &["--dest-compress-format", "zstd"]),
        ("docker", &["--format", "v2s2"]),
    ] {
        let reference = registry.push(&layout, "x", &format!("some/app:{packing}"), options);
        let home = directory.path().join(packing);
        let printed = succeed(&mut ferry(&home, &["pull", &reference]));
        assert!(
            printed.contains("Digest: sha256:") && printed.ends_with(&format!("{reference}\n")),
            "{printed}"
        );
        let inspected: Value =
            serde_json::from_str(&succeed(&mut ferry(&home, &["inspect", &reference]))).expect("JSON");
        assert_eq!(inspected[0]["RepoTags"], json!([reference]));
        for format in ["docker-archive", "oci-archive"] {
            let archive = directory.path().join(format!("{packing}.{format}.tar"));
            let path = archive.display().to_string();
            succeed(&mut ferry(&home, &["save", "--format", format, "-o", &path, &reference]));
            let again = directory.path().join(format!("{packing}.{format}"));
            let source = match format {
                "oci-archive" => format!("oci-archive:{path}:{packing}"),
                _ => format!("docker-archive:{path}:{reference}"),
            };
            succeed(skopeo().arg("copy").arg(source).arg(format!("dir:{}", again.display())));
            let text = fs::read_to_string(again.join("manifest.json")).expect("a manifest");
            let saved: Value = serde_json::from_str(&text).expect("JSON");
            let pushed = manifest_at(&reference);
            assert_eq!(saved["config"]["digest"], pushed["config"]["digest"]);
            // skopeo unpacks what it takes out of Docker's archives; an OCI archive it leaves as it is.
            if format == "oci-archive" {
                assert_eq!(layers(&saved), layers(&pushed));
                assert_eq!(saved == pushed, packing != "docker", "Docker's manifest becomes OCI's");
            }
            // And back, into a store that knows nothing.
            let other = directory.path().join(format!("{packing}.{format}.home"));
            let loaded = succeed(&mut ferry(&other, &["load", "-i", &path]));
            assert_eq!(loaded, format!("Loaded image: {reference}\n"));
        }
        // What is gone is gone for good.
        succeed(&mut ferry(&home, &["rmi", &reference]));
        succeed(&mut ferry(&home, &["prune"]));
        assert_eq!(left(&store(&home)), [""; 0]);
    }
}

#[test]
fn another_name_stands_for_the_image_when_the_first_is_gone() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().expect("a directory");
    let (layout, home) = (directory.path().join("layout"), directory.path().join("home"));
    let mut image = image(2, 100);
    image.history = json!([
        { "created": "2020-01-01T00:00:00Z", "created_by": "the first" },
        { "created": "2020-01-01T00:00:00Z", "created_by": "nothing", "empty_layer": true },
        { "created": "2020-01-01T00:00:00Z", "created_by": "the second" },
    ]);
    image.write_layout(&layout, "x");
    let reference = registry.push(&layout, "x", "app:1", &[]);
    let pushed = manifest_at(&reference);
    let run = |words: &[&str]| succeed(&mut ferry(&home, words));
    run(&["pull", &reference]);
    run(&["tag", &reference, "elsewhere.example/app"]);
    let lines = run(&["images"]);
    let cells: Vec<Vec<&str>> = lines
        .lines()
        .map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(cells[0], ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    assert_eq!((cells[1][1], cells[2][0], cells[2][1]), ("1", "elsewhere.example/app", "latest"), "{lines}");
    assert!(cells[1][2..] == cells[2][2..] && cells[1][3].ends_with(" years ago"), "{lines}");
    let only = run(&["images", "--format", "{{.Repository}} {{.Tag}}", "elsewhere.example/app"]);
    assert_eq!(only, "elsewhere.example/app latest\n");
    let steps = run(&["history", &reference]);
    let at = |text: &str| steps.find(text).unwrap_or_else(|| panic!("no {text:?} in {steps}"));
    assert!(at("the second") < at("nothing") && at("nothing") < at("the first"), "{steps}");
    run(&["rmi", &reference]);
    let saved = directory.path().join("saved.tar");
    run(&["save", "--format", "oci-archive", "-o", &saved.display().to_string(), "elsewhere.example/app"]);
    let text = succeed(skopeo().args(["inspect", "--raw"]).arg(format!("oci-archive:{}", saved.display())));
    assert_eq!(serde_json::from_str::<Value>(&text).expect("a manifest"), pushed);
    run(&["rmi", "elsewhere.example/app"]);
    assert_eq!(left(&store(&home)), [""; 0]);
    let output = ferry(&home, &["tag", &reference, "x"]).output().expect("ferry");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(125) && said.lines().count() == 1 && said.contains(&reference),
        "{said}"
    );
}

/// What a store holds, but for its own two files.
pub fn left(store: &Path) -> Vec<String> {
    let mut found = crate::layers::walk(store);
    found.retain(|path| !path.ends_with("/version") && !path.ends_with("/lock"));
    found
}

#[test]
fn who_has_signed_in_with_docker_or_podman_is_let_in_by_his_password() {
    lets_in_whom_it_knows(&Registry::for_user_alone(), None);
}

#[test]
fn who_has_signed_in_with_docker_or_podman_is_given_a_token() {
    let tokens = TokenServer::start();
    let registry = Registry::that_asks(&tokens.settings());
    lets_in_whom_it_knows(&registry, Some(IDENTITY));
    // What everybody may have, nobody has to sign in for; and no more is asked for than is needed.
    let directory = tempfile::tempdir().expect("a directory");
    image(3, 100).write_layout(directory.path(), "x");
    let name = format!("{PUBLIC}app");
    let reference = registry.push(directory.path(), "x", &format!("{name}:1"), &[]);
    tokens.asked();
    succeed(&mut ferry(&directory.path().join("home"), &["pull", &reference]));
    assert_eq!(tokens.asked(), [format!("repository:{name}:pull")], "one token for all requests");
}

/// Pulls from a registry that lets in one user, as he and others have signed in; `identity` is a token that stands for his
/// password, if the registry knows such.
#[track_caller]
fn lets_in_whom_it_knows(registry: &Registry, identity: Option<&str>) {
    let directory = tempfile::tempdir().expect("a directory");
    let layout = directory.path().join("layout");
    image(1, 100).write_layout(&layout, "x");
    let reference = registry.push(&layout, "x", "private/app:1", &[]);
    let host = &registry.host;
    let signed = |text: &str| STANDARD.encode(text);
    let right = signed(&format!("{USER}:{PASSWORD}"));
    // A helper answers `get` with what it knows of the registry on its standard input.
    let helper = directory.path().join("docker-credential-tests");
    let answer = json!({ "ServerURL": host, "Username": USER, "Secret": PASSWORD });
    fs::write(
        &helper,
        format!("#!/bin/sh\nread -r asked\n[ \"$1 $asked\" = 'get {host}' ] && echo '{answer}'\n"),
    )
    .expect("the helper");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("it can be executed");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", directory.path().display());
    let auths = |auth: &str| json!({ "auths": { host: { "auth": auth } } });
    let identified =
        |token: &str| json!({ "auths": { host: { "auth": signed("x:"), "identitytoken": token } } });
    let by_identity = identity.iter().flat_map(|token| {
        [
            (".docker/config.json", identified(token), true),
            (".docker/config.json", identified("another"), false),
        ]
    });
    for (number, (file, content, let_in)) in [
        (".docker/config.json", json!({}), false),
        (".docker/config.json", auths(&signed("tester:wrong")), false),
        (".docker/config.json", auths(&right), true),
        (".docker/config.json", json!({ "credHelpers": { host: "tests" } }), true),
        (".docker/config.json", json!({ "credsStore": "tests" }), true),
        (".config/containers/auth.json", auths(&right), true),
        (
            ".config/containers/auth.json",
            json!({ "auths": { format!("{host}/private"): { "auth": right } } }),
            true,
        ),
    ]
    .into_iter()
    .chain(by_identity)
    .enumerate()
    {
        let home = directory.path().join(number.to_string());
        let file = home.join(file);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::write(&file, content.to_string()).expect("credentials");
        let output = ferry(&home, &["pull", &reference]).env("PATH", &path).output().expect("ferry");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(if let_in { 0 } else { 125 }), "{content}: {said}");
        assert!(let_in || said.contains(host.as_str()) && said.lines().count() == 1, "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

#[test]
fn a_recipe_stands_on_an_image_of_a_registry_as_it_was_locked() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().expect("a directory");
    let push = |number: usize| {
        let layout = directory.path().join(format!("layout-{number}"));
        image(number, 100).write_layout(&layout, "x");
        let reference = registry.push(&layout, "x", "base:1", &[]);
        layers(&manifest_at(&reference))
    };
    let pushed = push(2);
    let recipes = directory.path().join("recipes");
    fs::create_dir(&recipes).expect("a directory");
    let recipe = format!(
        "description = 'x'\nfrom = {{ image = '{}/base:1' }}\n[files.'/own']\ncontent = 'mine'\n",
        registry.host
    );
    fs::write(recipes.join("own.toml"), recipe).expect("the recipe");
    // With a store and a cache that know nothing yet, each time.
    let run = |place: &str, words: &[&str]| {
        let recipes = recipes.display().to_string();
        let at = |name: &str| directory.path().join(place).join(name);
        let xtask = xtask(&[words, &["--recipes", &recipes]].concat());
        xtask.env("XDG_DATA_HOME", at("data")).env("FERRY_CACHE", at("cache")).run()
    };
    let build = |place: &str| {
        let built = run(place, &["build", "image", "own"]);
        built.exits(0);
        let layout = built.text().trim().to_owned();
        let read = |path: &str| fs::read_to_string(path).expect("a document");
        let manifest = succeed(skopeo().args(["inspect", "--raw"]).arg(format!("oci:{layout}")));
        let manifest: Value = serde_json::from_str(&manifest).expect("a manifest");
        (layers(&manifest), read(&format!("{layout}.provenance.json")))
    };
    let unlocked = run("unlocked", &["build", "image", "own"]);
    unlocked.exits(125);
    assert!(unlocked.one_line_of_error().contains("image lock --update own"), "{}", unlocked.stderr);
    run("lock", &["image", "lock", "--update", "own"]).exits(0);
    let first = build("first");
    assert_eq!((first.0.len(), &first.0[..2]), (3, &pushed[..]), "its layers as they came, and one more");
    let named = |digest: &String| first.1.contains(digest.strip_prefix("sha256:").expect("a digest"));
    assert!(pushed.iter().all(named), "{}", first.1);
    // The name moves on, and the recipe with it when it is told to.
    let moved = push(4);
    assert!(build("second") == first, "what is locked is what is built");
    run("lock again", &["image", "lock", "--update", "own"]).exits(0);
    assert_eq!(build("third").0[..4], moved);
}

#[test]
fn a_manifest_list_gives_the_image_for_this_machine() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = Vec::new();
    for (number, architecture) in ["arm64", "amd64"].into_iter().enumerate() {
        let layout = directory.path().join(architecture);
        let mut image = image(number + 1, 10);
        image.architecture = architecture;
        image.write_layout(&layout, "x");
        registry.push(&layout, "x", &format!("app:{architecture}"), &["--preserve-digests"]);
        let text = fs::read_to_string(layout.join("index.json")).expect("the index");
        let index: Value = serde_json::from_str(&text).expect("JSON");
        let mut entry = index["manifests"][0].clone();
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entries.push(entry);
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries });
    registry.put_manifest("app", "all", kind, &index.to_string());
    let home = directory.path().join("home");
    let reference = format!("{}/app:all", registry.host);
    succeed(&mut ferry(&home, &["pull", &reference]));
    let inspected: Value =
        serde_json::from_str(&succeed(&mut ferry(&home, &["inspect", &reference]))).expect("JSON");
    assert_eq!(inspected[0]["Architecture"], "amd64");
    assert_eq!(inspected[0]["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
    let output = ferry(&home, &["pull", &format!("{}/app:arm64", registry.host)]).output().expect("ferry");
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the image is for linux/arm64, and this machine runs linux/amd64"), "{said}");
}

#[test]
fn a_hundred_layers_from_a_registry_are_one_tree_in_the_guest() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().expect("a directory");
    let layout = directory.path().join("layout");
    let mut tools = Tarball::new();
    tools.program("lister", &fs::read(program::lister()).expect("the lister"));
    image(99, 100).layer(tools, Packing::Gzip).write_layout(&layout, "x");
    let reference = registry.push(&layout, "x", "deep:100", &[]);
    let outcome = on_qemu(&[&reference]).env("XDG_DATA_HOME", directory.path().join("data")).run();
    outcome.exits(0);
    let text = outcome.text();
    for number in [0, 50, 98] {
        assert!(
            text.contains(&format!("/file-{number} ")) || text.contains(&format!("file-{number}")),
            "{text}"
        );
    }
    assert_eq!(text.matches("noise-").count(), 99);
}
