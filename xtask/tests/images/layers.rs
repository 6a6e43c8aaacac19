//! Images as they come: what is in them must be in the guest, and what is wrong with them must be said.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::road::image::{Image, Packing, digest};
use crate::road::tarball::{Entry, Tarball, record};
use crate::road::{on_qemu, program};
use serde_json::json;

/// File capabilities as the kernel keeps them (`struct vfs_cap_data`, revision 2): cap_net_raw, permitted and effective.
const NET_RAW: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// How a file with holes is put into a layer.
#[derive(Clone, Copy, PartialEq)]
enum Holes {
    /// In GNU's old way, which the independent unpacker does not know.
    Gnu,
    /// As zeros.
    Filled,
}

/// What layers can hold and must keep, in three of them so that each can change what the one below says.
fn oddities(holes: Holes) -> [Tarball; 3] {
    let [mut first, mut second, mut third] = [Tarball::new(), Tarball::new(), Tarball::new()];
    for layer in [&mut first, &mut second, &mut third] {
        layer.directory("odd/");
    }
    // Modes and owners.
    for mode in [0o0, 0o4755, 0o2755, 0o1777, 0o7777, 0o600] {
        first.add(&Entry { mode, data: b"mode".to_vec(), ..Entry::new(b'0', format!("odd/mode-{mode:o}")) });
    }
    first.add(&Entry { mode: 0o1777, ..Entry::new(b'5', "odd/sticky/") });
    for owner in [(1, 2), (65_535, 65_534), (65_536, 100_000), (4_000_000_000, 3_999_999_999)] {
        first.add(&Entry { owner, ..Entry::new(b'0', format!("odd/owner-{}", owner.0)) });
    }
    // Times.
    for (name, time) in
        [("nano", (1_600_000_000, 123_456_789)), ("epoch", (0, 0)), ("late", (4_102_444_800, 1))]
    {
        first.add(&Entry { time, ..Entry::new(b'0', format!("odd/time-{name}")) });
        first.add(&Entry { time, ..Entry::new(b'5', format!("odd/time-{name}-directory/")) });
        first.add(&Entry {
            time,
            target: b"x".to_vec(),
            mode: 0o777,
            ..Entry::new(b'2', format!("odd/time-{name}-link"))
        });
    }
    // Types.
    first.add(&Entry { device: (1, 3), mode: 0o666, ..Entry::new(b'3', "odd/null") });
    first.add(&Entry { device: (259, 4_000), ..Entry::new(b'3', "odd/character") });
    first.add(&Entry { device: (8, 17), ..Entry::new(b'4', "odd/block") });
    first.add(&Entry::new(b'6', "odd/fifo"));
    first.symlink("odd/dangling", "/no/where");
    // Names.
    first.add(&Entry { data: b"latin".to_vec(), ..Entry::new(b'0', b"odd/caf\xe9") });
    first.add(&Entry { data: b"raw".to_vec(), ..Entry::new(b'0', b"odd/\x01\xff\xfe \"'$\\") });
    first.file(&format!("odd/{}", "n".repeat(255)), b"as long as a name can be");
    let deep = format!("odd/{}", "directory-of-many-letters/".repeat(12));
    // Every directory on the way: what an implied one is like, everyone may decide for himself.
    for depth in 1..=12 {
        first.directory(&deep[..4 + depth * 26]);
    }
    first.file(&format!("{deep}file"), b"deep");
    first.symlink("odd/long-target", &"t".repeat(1000));
    // Contents.
    for length in [0_usize, 1, 511, 512, 4095, 4096, 4097, 300_000] {
        let data: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        first.file(&format!("odd/size-{length}"), &data);
    }
    let (pieces, size) = ([(8192, &b"middle"[..]), (1 << 20, b"end")], (1 << 20) + 4096);
    if holes == Holes::Gnu {
        first.gnu_sparse("odd/sparse-gnu", &pieces, size);
    } else {
        let mut data = vec![0; size as usize];
        pieces.iter().for_each(|(at, piece)| data[*at as usize..][..piece.len()].copy_from_slice(piece));
        first.file("odd/sparse-gnu", &data);
    }
    first.pax_sparse("odd/sparse-pax", &[(0, b"start"), (65_536, b"more")], 1 << 18);
    // Extended attributes.
    first.add(&Entry {
        xattrs: vec![(b"security.capability".to_vec(), NET_RAW.to_vec())],
        mode: 0o755,
        ..Entry::new(b'0', "odd/capable")
    });
    first.add(&Entry {
        xattrs: vec![(b"user.binary".to_vec(), vec![0, 10, 61, 255])],
        ..Entry::new(b'0', "odd/attributes")
    });
    first.add(&Entry {
        xattrs: vec![(b"user.of".to_vec(), b"a directory".to_vec())],
        ..Entry::new(b'5', "odd/attributed/")
    });
    // Hardlinks: in a layer, and to a file of a layer below.
    first.file("odd/one", b"linked").hardlink("odd/two", "odd/one").hardlink("odd/three", "odd/two");
    second.hardlink("odd/from-above", "odd/size-4097");
    // Whiteouts and opaque directories.
    for directory in ["odd/emptied/", "odd/emptied/sub/", "odd/replaced/"] {
        first.directory(directory);
    }
    first
        .file("odd/gone", b"")
        .file("odd/emptied/a", b"")
        .file("odd/emptied/sub/b", b"")
        .file("odd/replaced/old", b"");
    second.file("odd/.wh.gone", b"").directory("odd/emptied/").file("odd/emptied/.wh..wh..opq", b"");
    second.file("odd/emptied/new", b"new");
    second.file("odd/.wh.replaced", b"");
    third.directory("odd/replaced/").file("odd/replaced/young", b"young");
    third.file("odd/gone", b"back again");
    // Type changes from one layer to the next.
    first
        .file("odd/file-to-directory", b"file")
        .directory("odd/directory-to-file/")
        .file("odd/directory-to-file/x", b"");
    first.symlink("odd/link-to-file", "one").file("odd/file-to-link", b"file");
    second.directory("odd/file-to-directory/").file("odd/file-to-directory/inside", b"inside");
    second.file("odd/directory-to-file", b"now a file");
    second.file("odd/link-to-file", b"now a file").symlink("odd/file-to-link", "one");
    // A directory's own attributes from above, its contents from below.
    first.directory("odd/kept/").file("odd/kept/inside", b"kept");
    second.add(&Entry {
        mode: 0o700,
        owner: (7, 8),
        time: (1_500_000_000, 5),
        ..Entry::new(b'5', "odd/kept/")
    });
    // The same name twice in one layer: the later one counts.
    second.file("odd/twice", b"first").file("odd/twice", b"second");
    // A PAX header that overrides what the old header says.
    let mut records = Vec::new();
    record(&mut records, b"mtime", b"1234567890.5");
    record(&mut records, b"uid", b"77");
    third.pax(&records).file("odd/overridden", b"pax");
    [first, second, third]
}

fn with_lister(packing: Packing, holes: Holes) -> Image {
    let mut tools = Tarball::new();
    tools.program("lister", &fs::read(program::lister()).expect("the lister"));
    let [first, second, third] = oddities(holes);
    Image::new(&["/lister", "/odd"])
        .layer(first, packing)
        .layer(second, packing)
        .layer(third, packing)
        .layer(tools, packing)
}

/// The first line that differs, for people.
#[track_caller]
pub fn same(inside: &str, outside: &str) {
    let differing: Vec<String> = outside
        .lines()
        .filter(|line| !inside.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"))
        .chain(
            inside
                .lines()
                .filter(|line| !outside.lines().any(|other| other == *line))
                .map(|line| format!("+ {line}")),
        )
        .collect();
    assert!(differing.is_empty() && inside == outside, "the trees differ:\n{}", differing.join("\n"));
    assert!(outside.lines().count() > 5, "there is nothing to compare: {outside}");
}

#[test]
fn the_guest_sees_the_tree_that_an_independent_unpacker_makes() {
    let directory = tempfile::tempdir().expect("a directory");
    let layout = directory.path().join("layout");
    with_lister(Packing::Gzip, Holes::Gnu).write_layout(&layout, "odd");
    let filled = directory.path().join("filled");
    with_lister(Packing::Gzip, Holes::Filled).write_layout(&filled, "odd");
    let outside = unpacked(&filled, directory.path());
    let reference = format!("oci:{}:odd", layout.display());
    let outcome = on_qemu(&[&reference]).run();
    outcome.exits(0);
    same(&outcome.text(), &outside);
}

#[test]
fn the_guest_sees_an_unpacked_directory_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let layout = directory.path().join("layout");
    with_lister(Packing::Gzip, Holes::Filled).write_layout(&layout, "odd");
    let outside = unpacked(&layout, directory.path());
    let reference = format!("dir:{}", directory.path().join("rootfs").display());
    let outcome = on_qemu(&[&reference, "--", "/lister", "/odd"]).run();
    outcome.exits(0);
    same(&outcome.text(), &outside);
}

/// The tree as umoci, which is none of ours, unpacks it.
pub fn unpacked(layout: &Path, scratch: &Path) -> String {
    let rootfs = scratch.join("rootfs");
    let image = format!("{}:odd", layout.display());
    let output = Command::new("umoci")
        .args(["raw", "unpack", "--image", &image])
        .arg(&rootfs)
        .output()
        .expect("umoci starts");
    assert!(output.status.success(), "umoci: {}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(program::lister()).arg(rootfs.join("odd")).output().expect("the lister starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn packing_and_container_format_make_no_difference() {
    let directory = tempfile::tempdir().expect("a directory");
    let archive = directory.path().join("saved.tar");
    with_lister(Packing::Plain, Holes::Gnu).write_docker_archive(&archive, "odd:saved");
    let mut references = vec![format!("docker-archive:{}", archive.display())];
    for (name, packing) in [("plain", Packing::Plain), ("gzip", Packing::Gzip), ("zstd", Packing::Zstd)] {
        let layout = directory.path().join(name);
        with_lister(packing, Holes::Gnu).write_layout(&layout, "odd");
        references.push(format!("oci:{}:odd", layout.display()));
    }
    let (mut trees, mut stores) = (Vec::new(), Vec::new());
    for reference in &references {
        // A store of its own each time: nothing may be found ready.
        let store = tempfile::tempdir().expect("a directory");
        let outcome = on_qemu(&[reference]).env("XDG_DATA_HOME", store.path()).run();
        outcome.exits(0);
        trees.push(outcome.text());
        stores.push(digests(store.path()));
    }
    for (tree, store) in trees.iter().zip(&stores) {
        same(tree, &trees[0]);
        assert_eq!(store, &stores[0], "the same layers become the same files");
    }
    assert!(stores[0].len() >= 4, "four layers are converted: {:?}", stores[0]);
}

/// The layers of a store: their names and what is in them.
fn digests(store: &Path) -> Vec<(String, String)> {
    let mut layers: Vec<_> = walk(store)
        .into_iter()
        .filter(|path| path.ends_with(".erofs"))
        .map(|path| {
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            (name, digest(&fs::read(&path).expect("a layer")))
        })
        .collect();
    layers.sort();
    layers
}

#[test]
fn an_image_for_another_architecture_is_refused_before_boot() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut image = with_lister(Packing::Plain, Holes::Gnu);
    image.architecture = "arm64";
    image.write_layout(directory.path(), "odd");
    let outcome = on_qemu(&[&format!("oci:{}:odd", directory.path().display())]).run();
    outcome.exits(125).prints("");
    let line = outcome.one_line_of_error();
    assert!(line.contains("arm64") && line.contains("amd64"), "{line}");
}

#[test]
fn a_missing_image_is_told_in_one_line() {
    let outcome = on_qemu(&["oci:/no/such/layout:latest"]).run();
    outcome.exits(125).prints("");
    assert!(outcome.one_line_of_error().contains("/no/such/layout"));
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_refused() {
    damaged(|blob| {
        let last = blob.len() - 1;
        blob[last] ^= 1;
    });
}

#[test]
fn a_truncated_layer_is_refused() {
    damaged(|blob| blob.truncate(blob.len() / 2));
}

/// Runs an image whose biggest blob has been changed; it must be refused in one line, and leave nothing behind.
#[track_caller]
fn damaged(change: impl Fn(&mut Vec<u8>)) {
    let directory = tempfile::tempdir().expect("a directory");
    let layout = directory.path().join("layout");
    with_lister(Packing::Gzip, Holes::Gnu)
        .with("Labels", json!({"damaged": "yes"}))
        .write_layout(&layout, "odd");
    let blobs = fs::read_dir(layout.join("blobs/sha256")).expect("the blobs").flatten();
    let biggest =
        blobs.max_by_key(|entry| entry.metadata().map(|m| m.len()).unwrap_or(0)).expect("a blob").path();
    let mut bytes = fs::read(&biggest).expect("the blob");
    change(&mut bytes);
    fs::write(&biggest, bytes).expect("the blob again");
    let store = directory.path().join("store");
    let outcome = on_qemu(&[&format!("oci:{}:odd", layout.display())]).env("XDG_DATA_HOME", &store).run();
    outcome.exits(125).prints("");
    let line = outcome.one_line_of_error();
    assert!(line.contains("sha256:") || line.contains("digest"), "{line}");
    let left = walk(&store);
    let layers = left.iter().filter(|path| path.ends_with(".erofs")).count();
    let rest: Vec<_> = left
        .iter()
        .filter(|path| ![".erofs", "/version", "/lock"].iter().any(|end| path.ends_with(end)))
        .collect();
    assert!(layers <= 3 && rest.is_empty(), "the layers that were right may stay, nothing else: {left:?}");
}

/// The files below a directory.
pub fn walk(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.path().is_dir() {
            true => walk(&entry.path()),
            false => vec![entry.path().display().to_string()],
        })
        .collect()
}
