use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::layer::fixture::{Tar, converted, told};

/// The joined tree as the metadata image has it, as text.
fn joined(archives: &[Vec<u8>]) -> BTreeMap<String, String> {
    let layers: Vec<File> = archives.iter().map(|archive| converted(archive).unwrap().0).collect();
    let image = tempfile::tempfile().unwrap();
    let joined = join(&layers, &image, &tempfile::tempfile().unwrap()).unwrap();
    assert_eq!(image.metadata().unwrap().len(), joined.bytes);
    let disks: Vec<&File> = std::iter::once(&image).chain(&layers).collect();
    let told = told(&disks, &read::load(&image).unwrap());
    for (path, line) in &told {
        assert!(!line.contains("trusted.overlay"), "{path} {line}");
    }
    told
}

fn refusal(archives: &[Vec<u8>]) -> String {
    let layers: Vec<File> = archives.iter().map(|archive| converted(archive).unwrap().0).collect();
    join(&layers, &tempfile::tempfile().unwrap(), &tempfile::tempfile().unwrap()).unwrap_err().to_string()
}

/// The paths alone, as one line.
fn paths(archives: &[Vec<u8>]) -> String {
    joined(archives).into_keys().collect::<Vec<_>>().join(" ")
}

/// The tree for containers that an archive makes.
fn for_containers(archive: &[u8]) -> BTreeMap<String, String> {
    let layers = [converted(archive).unwrap().0];
    let image = tempfile::tempfile().unwrap();
    join_for_containers(&layers, &image, &tempfile::tempfile().unwrap()).unwrap();
    told(&[&image, &layers[0]], &read::load(&image).unwrap())
}

#[test]
fn what_is_mounted_on_is_there_for_containers() {
    let archive = Tar::new().file("etc/hosts", b"127.0.0.1 mine").end();
    let told = for_containers(&archive);
    let paths: Vec<&str> = told.keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        ["/", "/dev", "/etc", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc", "/sys"]
    );
    assert!(told["/etc/hosts"].ends_with(" 127.0.0.1 mine"), "{}", told["/etc/hosts"]);
    assert!(told["/etc/resolv.conf"].starts_with("100644 0:0 "), "{}", told["/etc/resolv.conf"]);
}

#[test]
fn what_stands_where_something_is_mounted_stays_as_it_is() {
    let archive = Tar::new().symlink("etc", "usr/etc").file("dev", b"").file("usr/etc/passwd", b"").end();
    let told = for_containers(&archive);
    let paths: Vec<&str> = told.keys().map(String::as_str).collect();
    assert_eq!(paths, ["/", "/dev", "/etc", "/proc", "/sys", "/usr", "/usr/etc", "/usr/etc/passwd"]);
    assert!(told["/etc"].starts_with("12"), "{}", told["/etc"]);
}

#[test]
fn no_layers_are_an_empty_root() {
    assert_eq!(joined(&[]), BTreeMap::from([("/".into(), "40755 0:0 0.000000000".into())]));
}

#[test]
fn upper_layers_win_and_hide() {
    let lower = Tar::new()
        .directory("d")
        .file("d/a", b"old")
        .file("d/b", b"")
        .file("gone", b"")
        .directory("opaque")
        .file("opaque/hidden", b"")
        .directory("tree")
        .file("tree/x/y", b"")
        .file("file", b"")
        .end();
    let upper = Tar::new()
        .file("d/a", b"new")
        .file(".wh.gone", b"")
        .file("opaque/own", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("tree", b"a file now")
        .file("file/now/a/directory", b"")
        .file(".wh.never-there", b"")
        .end();
    let told = joined(&[lower, upper]);
    let paths: Vec<&str> = told.keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "/",
            "/d",
            "/d/a",
            "/d/b",
            "/file",
            "/file/now",
            "/file/now/a",
            "/file/now/a/directory",
            "/opaque",
            "/opaque/own",
            "/tree"
        ]
    );
    assert!(told["/d/a"].ends_with(" new"));
    assert!(told["/tree"].ends_with(" a file now"));
}

#[test]
fn a_whiteout_spares_its_own_layer_wherever_it_stands() {
    let lower = Tar::new().directory("d").file("d/lower", b"").file("f", b"old").end();
    for upper in [
        Tar::new().file(".wh.d", b"").file("d/own", b"").file(".wh.f", b"").file("f", b"new"),
        Tar::new().file("d/own", b"").file(".wh.d", b"").file("f", b"new").file(".wh.f", b""),
        Tar::new().directory("d").file("d/own", b"").file("d/.wh..wh..opq", b"").file("f", b"new"),
    ] {
        let told = joined(&[lower.clone(), upper.end()]);
        assert_eq!(told.keys().cloned().collect::<Vec<_>>().join(" "), "/ /d /d/own /f");
        assert!(told["/f"].ends_with(" new"));
    }
}

#[test]
fn directories_without_an_entry_keep_what_lower_layers_say_of_them() {
    let lower = Tar::new().pax(b'x', &[("uid", b"7"), ("mtime", b"5.5")]).directory("d").end();
    let upper = Tar::new().file("d/e/f", b"").end();
    let told = joined(&[lower, upper]);
    assert_eq!(told["/d"], "40755 7:0 5.500000000");
    assert_eq!(told["/d/e"], "40755 0:0 0.000000000");
}

#[test]
fn directories_with_an_entry_are_as_it_says() {
    let lower = Tar::new()
        .pax(b'x', &[("uid", b"7"), ("SCHILY.xattr.user.a", b"b")])
        .directory("d")
        .file("d/f", b"")
        .end();
    let upper = Tar::new().pax(b'x', &[("gid", b"8")]).directory("d").end();
    let told = joined(&[lower, upper]);
    assert_eq!(told["/d"], "40755 0:8 0.000000000");
    assert!(told.contains_key("/d/f"));
}

#[test]
fn hard_links_reach_into_lower_layers() {
    let lower = Tar::new()
        .directory("usr/lib")
        .file("usr/lib/a", b"body")
        .symlink("lib", "usr/lib")
        .symlink("s", "t")
        .end();
    let upper = Tar::new()
        .hard_link("b", "usr/lib/a")
        .hard_link("c", "b")
        .hard_link("through", "lib/a")
        .hard_link("symlink", "s")
        .file(".wh.s", b"")
        .file("usr/lib/.wh.a", b"")
        .end();
    let told = joined(&[lower.clone(), upper]);
    assert!(told["/b"].ends_with(" body"));
    assert_eq!(told["/c"], "= /b");
    assert_eq!(told["/through"], "= /b");
    assert!(told["/symlink"].ends_with("-> t"));
    assert!(!told.contains_key("/usr/lib/a") && !told.contains_key("/s"));

    let missing = Tar::new().hard_link("d/x", "usr/lib/nothing").end();
    let error = refusal(&[lower.clone(), missing]);
    assert_eq!(error, "layer 2 has a hard link d/x to usr/lib/nothing, which no lower layer has");
    let to_directory = Tar::new().hard_link("x", "usr").end();
    assert!(refusal(&[lower, to_directory]).contains("which no lower layer has"));
}

#[test]
fn entries_go_through_symlinks_of_lower_layers() {
    let lower = Tar::new()
        .directory("usr/lib")
        .file("usr/lib/old", b"")
        .symlink("lib", "/usr/lib")
        .symlink("new", "made/here")
        .end();
    let upper = Tar::new().file("lib/a", b"").file("lib/.wh.old", b"").file("new/b", b"").end();
    assert_eq!(
        paths(&[lower.clone(), upper]),
        "/ /lib /made /made/here /made/here/b /new /usr /usr/lib /usr/lib/a"
    );
    // An entry of its own for the directory replaces the link.
    let upper = Tar::new().directory("lib").file("lib/a", b"").end();
    assert_eq!(paths(&[lower.clone(), upper]), "/ /lib /lib/a /new /usr /usr/lib /usr/lib/old");
    let looped = Tar::new().symlink("x", "y").symlink("y", "x").end();
    assert!(refusal(&[looped, Tar::new().file("x/f", b"").end()]).contains("layer 2 has x below"));
}

#[test]
fn two_hundred_layers_join() {
    let layer = |number: usize| {
        let body = vec![number as u8; number * 100];
        let tar = Tar::new().file(&format!("own-{number:03}"), &body).file("common", &body);
        if number > 0 { tar.file(&format!(".wh.own-{:03}", number - 1), b"") } else { tar }.end()
    };
    let told = joined(&(0..200).map(layer).collect::<Vec<_>>());
    assert_eq!(told.keys().cloned().collect::<Vec<_>>().join(" "), "/ /common /own-199");
    assert!(told["/own-199"].contains("19900 bytes"));
}

#[test]
fn a_file_that_is_no_layer_is_named() {
    let layer = converted(&Tar::new().end()).unwrap().0;
    let other = tempfile::tempfile().unwrap();
    other.set_len(8192).unwrap();
    let error = join(&[layer, other], &tempfile::tempfile().unwrap(), &tempfile::tempfile().unwrap());
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "cannot read layer 2: not an intact EROFS layer: no superblock");
}

/// One entry of a random layer.
#[derive(Debug, Clone)]
enum Op {
    Directory(String, u32),
    File(String, u8, u32),
    Symlink(String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (path(), 0..3u32).prop_map(|(path, uid)| Op::Directory(path, uid)),
        4 => (path(), any::<u8>(), 0..3u32).prop_map(|(path, byte, uid)| Op::File(path, byte, uid)),
        1 => path().prop_map(Op::Symlink),
        2 => (path(), path()).prop_map(|(path, target)| Op::HardLink(path, target)),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

/// An inode of the model; files are told apart by a number.
#[derive(Debug, Clone, PartialEq)]
enum Inode {
    Directory { uid: u32, implicit: bool, opaque: bool },
    File { number: usize, text: String },
    Whiteout,
}

/// A filesystem as a list of paths: as plain as can be, to compare with.
type Model = BTreeMap<String, Inode>;

fn below(path: &str, top: &str) -> bool {
    path.len() > top.len() && path.starts_with(top) && path.as_bytes()[top.len()] == b'/'
}

fn remove(model: &mut Model, path: &str) {
    model.retain(|other, _| other != path && !below(other, path));
}

/// What an archive of `ops` makes by itself, and the ops that make sense.
fn model_layer(ops: &[Op], lower: &Model, next: &mut usize) -> (Tar, Model) {
    let mut own = Model::new();
    let mut tar = Tar::new();
    for op in ops {
        let (Op::Directory(path, _)
        | Op::File(path, ..)
        | Op::Symlink(path)
        | Op::HardLink(path, _)
        | Op::Whiteout(path)
        | Op::Opaque(path)) = op;
        let parents: Vec<String> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        let in_the_way = |model: &Model, path: &String| matches!(model.get(path), Some(Inode::File { .. }));
        // Entries below a file or through a symlink are tested by themselves.
        let mut needed = parents.clone();
        if matches!(op, Op::Opaque(_)) {
            needed.push(path.clone());
        }
        if needed.iter().any(|parent| {
            in_the_way(&own, parent) || (!own.contains_key(parent) && in_the_way(lower, parent))
        }) {
            continue;
        }
        if let Op::HardLink(_, target) = op {
            let found =
                own.get(target).filter(|inode| **inode != Inode::Whiteout).or_else(|| lower.get(target));
            if !matches!(found, Some(Inode::File { .. })) || target == path || below(path, target) {
                continue;
            }
        }
        for parent in needed {
            let opaque = own.get(&parent) == Some(&Inode::Whiteout);
            if opaque || !own.contains_key(&parent) {
                own.insert(parent, Inode::Directory { uid: 0, implicit: !opaque, opaque });
            }
        }
        let make = |own: &mut Model, text: String, next: &mut usize| {
            remove(own, path);
            *next += 1;
            own.insert(path.clone(), Inode::File { number: *next, text });
        };
        tar = match op {
            Op::Directory(_, uid) => {
                let opaque = match own.get(path) {
                    Some(Inode::Directory { opaque, .. }) => *opaque,
                    Some(_) => true,
                    None => false,
                };
                own.insert(path.clone(), Inode::Directory { uid: *uid, implicit: false, opaque });
                tar.pax(b'x', &[("uid", uid.to_string().as_bytes())]).directory(path)
            }
            Op::File(_, byte, uid) => {
                make(&mut own, format!("{uid} {byte}"), next);
                tar.pax(b'x', &[("uid", uid.to_string().as_bytes())]).file(path, &[*byte; 9])
            }
            Op::Symlink(_) => {
                make(&mut own, "link".to_owned(), next);
                tar.symlink(path, "nowhere")
            }
            Op::HardLink(_, target) => {
                let found =
                    own.get(target).filter(|inode| **inode != Inode::Whiteout).or_else(|| lower.get(target));
                let found = found.unwrap().clone();
                remove(&mut own, path);
                own.insert(path.clone(), found);
                tar.hard_link(path, target)
            }
            Op::Whiteout(_) => {
                match own.get_mut(path) {
                    Some(Inode::Directory { opaque, implicit, .. }) => (*opaque, *implicit) = (true, false),
                    Some(_) => {}
                    None => drop(own.insert(path.clone(), Inode::Whiteout)),
                }
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                tar.file(&format!("{parent}/.wh.{name}"), b"")
            }
            Op::Opaque(_) => {
                if let Some(Inode::Directory { opaque, .. }) = own.get_mut(path) {
                    *opaque = true;
                }
                tar.file(&format!("{path}/.wh..wh..opq"), b"")
            }
        };
    }
    (tar, own)
}

/// The layer on top of what is below it.
fn model_join(lower: &Model, own: &Model) -> Model {
    let hidden = |path: &String| {
        own.iter().any(|(over, inode)| match inode {
            Inode::Directory { opaque, .. } => *opaque && below(path, over),
            Inode::File { .. } | Inode::Whiteout => path == over || below(path, over),
        })
    };
    let mut joined: Model =
        lower.iter().filter(|(path, _)| !hidden(path)).map(|(p, i)| (p.clone(), i.clone())).collect();
    for (path, inode) in own {
        match inode {
            Inode::Whiteout => {}
            Inode::Directory { implicit: true, .. } if joined.contains_key(path) => {}
            _ => {
                if matches!(inode, Inode::Directory { .. })
                    && matches!(joined.get(path), Some(Inode::File { .. }))
                {
                    remove(&mut joined, path);
                }
                joined.insert(path.clone(), inode.clone());
            }
        }
    }
    joined
}

fn model_told(model: &Model) -> BTreeMap<String, String> {
    let mut first: BTreeMap<usize, &String> = BTreeMap::new();
    let told = model.iter().map(|(path, inode)| {
        let text = match inode {
            Inode::Directory { uid, .. } => format!("directory {uid}"),
            Inode::File { number, text } => {
                let first = first.entry(*number).or_insert(path);
                if *first == path { text.clone() } else { format!("= /{first}") }
            }
            Inode::Whiteout => unreachable!("joined"),
        };
        (format!("/{path}"), text)
    });
    told.collect()
}

/// What [`told`] says, in the model's words.
fn simplified(told: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let simple = told.into_iter().filter(|(path, _)| path != "/").map(|(path, line)| {
        let words: Vec<&str> = line.split(' ').collect();
        let text = match &words[..] {
            ["=", first] => format!("= {first}"),
            [mode, ..] if mode.starts_with("12") => "link".to_owned(),
            [mode, owner, ..] if mode.starts_with("40") => {
                format!("directory {}", owner.split_once(':').unwrap().0)
            }
            [_, owner, .., content] => {
                let uid = owner.split_once(':').unwrap().0;
                // Nine times the same byte, escaped.
                let escaped = &content[..content.len() / 9];
                let byte = (0..=255u8).find(|byte| [*byte].escape_ascii().to_string() == escaped);
                format!("{uid} {}", byte.unwrap_or(b' '))
            }
            _ => line.clone(),
        };
        (path, text)
    });
    simple.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn joins_like_the_model(layers in prop::collection::vec(prop::collection::vec(op(), 1..14), 1..5)) {
        let (mut model, mut archives, mut next) = (Model::new(), Vec::new(), 0);
        for ops in &layers {
            let (tar, own) = model_layer(ops, &model, &mut next);
            archives.push(tar.end());
            model = model_join(&model, &own);
        }
        prop_assert_eq!(simplified(joined(&archives)), model_told(&model));
    }
}
