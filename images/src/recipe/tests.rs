//! Recipes over packages that the tests make; the shipped recipes are only read here, and built where there is a mirror.

use std::collections::BTreeMap;
use std::io::Read;

use tar::{EntryType, Header};

use super::describe::LockedBase;
use super::*;
use crate::debian::deb::tests::deb_of;

/// Name, type, mode, link target, content.
type Item<'a> = (&'a str, EntryType, u32, &'a str, &'a [u8]);

fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, mode, link, content) in items {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(42);
        header.set_mtime(5_000);
        header.set_size(content.len() as u64);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn stage(name: &str, text: &str) -> Stage {
    let lock = Lock { suite: "trixie".into(), epoch: 4_000, ..Lock::default() };
    Stage { name: name.into(), recipe: toml::from_str(text).unwrap(), lock, locked: true }
}

/// A directory to work in, and the layout that these stages and packages make.
fn assembled(
    stages: &[Stage],
    packages: &[&[(&str, &[Item])]],
) -> (tempfile::TempDir, Result<Digest, Error>) {
    let dir = tempfile::tempdir().unwrap();
    let mut debs = Vec::new();
    for (number, packages) in packages.iter().enumerate() {
        let mut of_stage = Vec::new();
        for (name, items) in *packages {
            let path = dir.path().join(format!("{number}-{name}.deb"));
            fs::write(&path, deb_of("data.tar", &tar_of(items))).unwrap();
            of_stage.push(((*name).to_owned(), path));
        }
        debs.push(of_stage);
    }
    fs::write(dir.path().join("beside.txt"), "from beside").unwrap();
    let result = assemble(dir.path(), stages, &debs, None, &dir.path().join("out/layout"));
    (dir, result)
}

#[derive(Debug, PartialEq)]
struct Member {
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    link: String,
    content: Vec<u8>,
}

/// The members of each layer by path, and the image's configuration.
fn layers(dir: &Path) -> (Vec<BTreeMap<String, Member>>, serde_json::Value) {
    let layout = dir.join("out/layout");
    let blob = |descriptor: &serde_json::Value| {
        let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        let bytes = fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
        assert_eq!((Digest::of(&bytes), Some(bytes.len() as u64)), (digest, descriptor["size"].as_u64()));
        bytes
    };
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let index = json(&fs::read(layout.join("index.json")).unwrap());
    let manifest = json(&blob(&index["manifests"][0]));
    let mut layers = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let mut members = BTreeMap::new();
        for entry in tar::Archive::new(&blob(layer)[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            let member = Member {
                kind: header.entry_type(),
                mode: header.mode().unwrap(),
                owner: (header.uid().unwrap(), header.gid().unwrap()),
                mtime: header.mtime().unwrap(),
                link: entry
                    .link_name_bytes()
                    .map(|name| String::from_utf8(name.into_owned()).unwrap())
                    .unwrap_or_default(),
                content: Vec::new(),
            };
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert!(members.insert(path, Member { content, ..member }).is_none());
        }
        layers.push(members);
    }
    (layers, json(&blob(&manifest["config"])))
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;

#[test]
fn the_same_recipe_makes_the_same_bytes_anywhere() {
    let text = r#"
        [image]
        cmd = ["sh"]
        env = { B = "2", A = "1" }
        volumes = ["/y", "/x"]
        [files."/etc/x"]
        source = "beside.txt"
    "#;
    let items: &[Item] =
        &[("./usr/bin/a", FILE, 0o755, "", b"a"), ("./usr/bin/b", EntryType::Symlink, 0o777, "a", b"")];
    let (one, first) = assembled(&[stage("x", text)], &[&[("a", items)]]);
    let (other, second) = assembled(&[stage("x", text)], &[&[("a", items)]]);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(layers(one.path()), layers(other.path()));
    let index = |dir: &Path| fs::read(dir.join("out/layout/index.json")).unwrap();
    assert_eq!(index(one.path()), index(other.path()));
    assert_eq!(layers(one.path()).0[0]["etc/x"].content, b"from beside");
    assert_eq!(layers(one.path()).1["config"]["Env"], serde_json::json!(["A=1", "B=2"]));
}

#[test]
fn owners_and_modes_are_the_packages_and_no_time_is_younger_than_the_lock() {
    let (dir, result) =
        assembled(&[stage("x", "")], &[&[("a", &[("./usr/bin/su", FILE, 0o4755, "", b"s")])]]);
    result.unwrap();
    let su = &layers(dir.path()).0[0]["usr/bin/su"];
    assert_eq!((su.mode, su.owner, su.mtime), (0o4755, (0, 42), 4_000));
}

#[test]
fn what_a_package_has_in_bin_is_in_usr_bin() {
    let items: &[Item] = &[
        ("./bin/", DIRECTORY, 0o755, "", b""),
        ("./bin/tool", FILE, 0o755, "", b"t"),
        ("./lib64", EntryType::Symlink, 0o777, "usr/lib64", b""),
        ("./lib64/ld.so", FILE, 0o755, "", b"l"),
        ("./var/run/state", FILE, 0o644, "", b"s"),
        ("./bin/hard", EntryType::Link, 0o755, "./bin/tool", b""),
    ];
    let (dir, result) = assembled(&[stage("x", "")], &[&[("a", items)]]);
    result.unwrap();
    let layer = &layers(dir.path()).0[0];
    assert_eq!((layer["bin"].kind, layer["bin"].link.as_str()), (EntryType::Symlink, "usr/bin"));
    // Of hard links, the first in order holds the content.
    assert_eq!(layer["usr/bin/hard"].content, b"t");
    assert_eq!(
        (layer["usr/bin/tool"].kind, layer["usr/bin/tool"].link.as_str()),
        (EntryType::Link, "usr/bin/hard")
    );
    assert!(layer.contains_key("usr/lib64/ld.so") && layer.contains_key("run/state"));
}

#[test]
fn a_file_can_be_the_files_of_a_directory_joined_in_the_order_of_their_names() {
    let text = r#"
        [files."/etc/all"]
        joined = "/usr/share/parts"
        [files."/etc/none"]
        joined = "/usr/share/nothing/"
    "#;
    let items: &[Item] = &[
        ("./usr/share/parts/b", FILE, 0o644, "", b"second\n"),
        ("./usr/share/parts/a", FILE, 0o644, "", b"first\n"),
        ("./usr/share/parts/a.d/x", FILE, 0o644, "", b"elsewhere\n"),
        ("./usr/share/parts.txt", FILE, 0o644, "", b"beside\n"),
    ];
    let (dir, result) = assembled(&[stage("x", text)], &[&[("a", items)]]);
    result.unwrap();
    let layer = &layers(dir.path()).0[0];
    assert_eq!(layer["etc/all"].content, b"first\nsecond\n");
    assert_eq!(layer["etc/none"].content, b"");
}

#[test]
fn leaves_out_documentation_but_not_licences() {
    let items: &[Item] = &[
        ("./usr/share/doc/a/", DIRECTORY, 0o755, "", b""),
        ("./usr/share/doc/a/copyright", FILE, 0o644, "", b"c"),
        ("./usr/share/doc/a/README", FILE, 0o644, "", b"r"),
        ("./usr/share/doc/a/examples/copyright", FILE, 0o644, "", b"r"),
        ("./usr/share/man/man1/a.1.gz", FILE, 0o644, "", b"m"),
        ("./usr/share/manual", FILE, 0o644, "", b"kept"),
        ("./etc/default/a", FILE, 0o644, "", b"d"),
    ];
    let (dir, result) = assembled(&[stage("x", r#"drop = ["/etc/default"]"#)], &[&[("a", items)]]);
    result.unwrap();
    let layer = &layers(dir.path()).0[0];
    let mut found: Vec<_> =
        layer.keys().filter(|path| path.starts_with("usr/share/") || path.contains("default")).collect();
    found.sort();
    assert_eq!(
        found,
        ["usr/share/", "usr/share/doc/", "usr/share/doc/a/", "usr/share/doc/a/copyright", "usr/share/manual"]
    );
}

#[test]
fn accounts_stand_after_those_of_base_passwd_and_of_the_recipe_below() {
    let masters: &[Item] = &[
        ("./usr/share/base-passwd/passwd.master", FILE, 0o644, "", b"root:*:0:0:root:/root:/bin/bash\n"),
        ("./usr/share/base-passwd/group.master", FILE, 0o644, "", b"root:*:0:\n"),
    ];
    let below = stage("below", "[users.one]\nuid = 1\ngid = 1");
    let above = stage(
        "above",
        "[users.two]\nuid = 2\ngid = 3\nhome = \"/data\"\n[groups.three]\ngid = 4\nmembers = [\"two\"]",
    );
    let (dir, result) = assembled(&[below, above], &[&[("base-passwd", masters)], &[]]);
    result.unwrap();
    let (layers, _) = layers(dir.path());
    let text = |layer: usize, path: &str| String::from_utf8(layers[layer][path].content.clone()).unwrap();
    assert_eq!(text(0, "etc/passwd"), "root:*:0:0:root:/root:/bin/sh\none:x:1:1::/:/usr/sbin/nologin\n");
    assert_eq!(text(1, "etc/passwd"), text(0, "etc/passwd") + "two:x:2:3::/data:/usr/sbin/nologin\n");
    assert_eq!(text(1, "etc/group"), "root:*:0:\none:x:1:\ntwo:x:3:\nthree:x:4:two\n");
    // The upper layer repeats nothing but the directories on the way.
    assert_eq!(layers[1].keys().collect::<Vec<_>>(), ["etc/", "etc/group", "etc/passwd"]);
}

#[test]
fn recipes_on_one_base_share_its_layer() {
    let base = || stage("base", "[files.\"/etc/base\"]\ncontent = \"base\"\n[image]\nenv = { A = \"1\" }");
    let packages: &[(&str, &[Item])] = &[("a", &[("./usr/bin/a", FILE, 0o755, "", b"a")])];
    let descriptors = |own: &str| {
        let (dir, result) = assembled(&[base(), stage("own", own)], &[packages, &[]]);
        result.unwrap();
        let (_, config) = layers(dir.path());
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().clone();
        (diff_ids, config["config"].clone())
    };
    let (one, config) = descriptors("[image]\nenv = { B = \"2\" }\n[directories.\"/srv/one\"]");
    let (other, _) = descriptors("[directories.\"/srv/other\"]");
    assert_eq!((one.len(), &one[0]), (2, &other[0]));
    assert_ne!(one[1], other[1]);
    // What it leaves open is as below.
    assert_eq!(config["Env"], serde_json::json!(["A=1", "B=2"]));
}

#[test]
fn a_recipe_stands_on_an_image_whose_layers_stay_as_they_are() {
    let made = "[files.\"/etc/passwd\"]\ncontent = \"root:x:0:0::/:/bin/sh\\n\"\n\
                [files.\"/usr/lib/os-release\"]\ncontent = \"VERSION_CODENAME=trixie\\n\"\n\
                [files.\"/var/lib/dpkg/status\"]\n\
                content = \"Package: a\\nStatus: install ok installed\\nVersion: 1\\n\"\n\
                [symlinks]\n\"/data\" = \"srv/data\"\n[directories.\"/srv/data\"]\nmode = \"0700\"\n\
                [image]\ncmd = [\"run\"]\nentrypoint = [\"entry\"]\nenv = { A = \"1\" }\nvolumes = [\"/v\"]";
    let (below, result) = assembled(&[stage("below", made)], &[&[]]);
    let manifest = result.unwrap();
    let store = crate::store::Store::open(&below.path().join("store")).unwrap();
    let registries = crate::Registries::new(Default::default());
    let images = Images { store: &store, registries: &registries };
    let base = base::current("oci:out/layout", below.path(), images, &()).unwrap();
    let lock = base.lock("oci:out/layout").unwrap();
    assert_eq!((lock.manifest, base.created()), (manifest, 4_000));
    assert_eq!(base.packages("it").unwrap(), [("a".to_owned(), "1".to_owned())]);
    let own = "from = { image = \"oci:out/layout\" }\n[users.me]\nuid = 7\ngid = 7\n\
               [files.\"/data/own\"]\ncontent = \"own\"\n[image]\ncmd = [\"other\"]";
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("out/layout");
    let build = || assemble(dir.path(), &[stage("own", own)], &[vec![]], Some(&base), &layout).unwrap();
    let digest = build();
    assert_eq!(build(), digest);
    let (layers, config) = layers(dir.path());
    assert_eq!(layers[0], self::layers(below.path()).0[0]);
    let passwd = String::from_utf8(layers[1]["etc/passwd"].content.clone()).unwrap();
    assert_eq!(passwd, "root:x:0:0::/:/bin/sh\nme:x:7:7::/:/usr/sbin/nologin\n");
    // The link below is followed, and the directory that it leads to is as below.
    assert_eq!(layers[1]["srv/data/own"].content, b"own");
    assert_eq!(layers[1]["srv/data/"].mode, 0o700);
    let config = &config["config"];
    assert_eq!((&config["Entrypoint"][0], &config["Cmd"][0]), (&"entry".into(), &"other".into()));
    assert_eq!((&config["Env"][0], &config["Volumes"]["/v"]), (&"A=1".into(), &serde_json::json!({})));

    // Another image by that name is not the locked one.
    let moved = LockedBase { manifest: Digest::of(b"other"), ..lock };
    let Err(error) = base::locked(&moved, below.path(), images, &()) else { panic!("it was taken") };
    assert!(error.to_string().contains("lock it anew"), "{error}");
    for wrong in ["dir:x", "-", "UPPER"] {
        let Err(error) = base::current(wrong, below.path(), images, &()) else { panic!("{wrong}") };
        assert!(error.to_string().contains("is not an image"), "{error}");
    }
}

#[test]
fn a_health_check_that_docker_knows_is_in_the_image() {
    let text = "[service]\nhealth = { exec = [\"check\", \"it\"], interval = \"5s\", failures = 4 }";
    let (dir, result) = assembled(&[stage("x", text)], &[&[]]);
    result.unwrap();
    let expected =
        serde_json::json!({ "Test": ["CMD", "check", "it"], "Interval": 5_000_000_000_u64, "Retries": 4 });
    assert_eq!(layers(dir.path()).1["config"]["Healthcheck"], expected);
}

#[test]
fn two_packages_cannot_both_have_a_file() {
    let (_dir, result) = assembled(
        &[stage("x", "")],
        &[&[("one", &[("./etc/f", FILE, 0o644, "", b"1")]), ("two", &[("./etc/f", FILE, 0o644, "", b"2")])]],
    );
    let message = result.unwrap_err().to_string();
    assert!(message.contains("etc/f is both in one and in two"), "{message}");
}

#[test]
fn a_recipe_wins_over_packages_and_keeps_their_own_programs() {
    let text = r#"
        [files."/usr/bin/a"]
        content = "ours"
        mode = "0700"
        owner = "7:8"
        [symlinks]
        "/usr/bin/s" = "a"
        [[links]]
        target = "/usr/bin/box"
        directory = "/bin"
        names = "a new"
    "#;
    let (dir, result) =
        assembled(&[stage("x", text)], &[&[("a", &[("./usr/bin/a", FILE, 0o755, "", b"theirs")])]]);
    result.unwrap();
    let layer = &layers(dir.path()).0[0];
    let a = &layer["usr/bin/a"];
    assert_eq!((a.content.as_slice(), a.mode, a.owner), (&b"ours"[..], 0o700, (7, 8)));
    assert_eq!((layer["usr/bin/new"].link.as_str(), layer["usr/bin/s"].link.as_str()), ("/usr/bin/box", "a"));
}

#[test]
fn names_longer_than_a_header_survive() {
    let long = format!("/srv/{}", "n".repeat(200));
    let target = "t".repeat(150);
    let text = format!("[symlinks]\n\"{long}\" = \"{target}\"\n[directories.\"{long}-d\"]\n");
    let (dir, result) = assembled(&[stage("x", &text)], &[&[]]);
    result.unwrap();
    let layer = &layers(dir.path()).0[0];
    assert_eq!(layer[&long[1..]].link, target);
    assert!(layer.contains_key(&format!("{}-d/", &long[1..])));
}

#[test]
fn hostile_packages_end_in_an_error() {
    let circle: &[Item] = &[
        ("./a", EntryType::Symlink, 0o777, "b", b""),
        ("./b", EntryType::Symlink, 0o777, "a", b""),
        ("./a/file", FILE, 0o644, "", b""),
    ];
    for (items, expected) in [
        (circle, "too many links"),
        (&[("../../etc/x", FILE, 0o644, "", &b""[..])][..], "has a .."),
        (&[("./dev/x", EntryType::Char, 0o644, "", b"")], "packages do not have"),
        (&[("./h", EntryType::Link, 0o644, "./gone", b"")], "hard link to gone"),
        (&[("./etc", FILE, 0o644, "", b"")], "both in x and in a"),
    ] {
        let (dir, result) = assembled(&[stage("x", "")], &[&[("a", items)]]);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(!dir.path().join("out/layout").exists());
        assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 0, "something is left behind");
    }
}

#[test]
fn says_what_is_wrong_with_a_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let message = |name: &str| key(dir.path(), name).unwrap_err().to_string();
    write("a.toml", "packages = [\"p\"]");
    assert!(message("b").contains("no recipe `b`") && message("b").ends_with("there are: a"));
    assert!(message("../a").contains("no recipe"));
    assert!(message("a").contains("has no lock file"));
    write("a.lock", "suite = \"trixie\"\nepoch = 1\npackages = []\nexclude = []\n");
    assert!(message("a").contains("has changed since it was locked"));
    write("a.toml", "from = \"a\"");
    assert!(message("a").contains("or on itself"));
    write("a.toml", "from = { image = \"x\" }");
    assert!(message("a").contains("has changed since it was locked"));
    write("a.toml", "[services.s]\nimage = \"t\"");
    assert!(message("a").contains("--format disk"));
    write("t.toml", "[service]\nrestart = \"always\"");
    let services = appliance(dir.path(), "a").unwrap().services;
    assert_eq!(services["s"].restart, Some(service::Restart::Always));
    write("a.toml", "from = \"t\"\n[services.s]\nimage = \"t\"");
    assert!(appliance(dir.path(), "a").unwrap_err().to_string().contains("a recipe of its own"));
    write("a.toml", "package = [\"p\"]");
    assert!(message("a").contains("unknown field"));
    // A recipe that asks for nothing from outside needs no lock.
    assert!(key(dir.path(), "t").is_ok());
    write("a.toml", "");
    let before = key(dir.path(), "a").unwrap();
    write("a.toml", "description = \"x\"");
    assert_ne!(key(dir.path(), "a").unwrap(), before);
}

#[test]
fn the_shipped_recipes_are_whole_and_locked() {
    let recipes = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("recipes");
    let names = names(&recipes);
    for name in ["edge-demo", "hello", "nginx", "node", "postgres", "python", "redis"] {
        assert!(names.iter().any(|there| there == name), "{name} is missing");
    }
    for name in names {
        if has_services(&recipes, &name).unwrap() {
            for image in images(&recipes, &name).unwrap() {
                stages(&recipes, &image).unwrap();
            }
            continue;
        }
        let stages = stages(&recipes, &name).unwrap();
        let top = stages.last().unwrap();
        assert!(
            !top.recipe.description.is_empty()
                && stages.iter().any(|stage| !stage.recipe.image.cmd.is_empty()),
            "{name}"
        );
        for package in &top.recipe.packages {
            assert!(top.lock.closure.iter().any(|locked| locked.name == *package), "{name} lacks {package}");
        }
    }
}
