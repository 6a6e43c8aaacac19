//! What Ferry makes of layers, read by programs that are none of ours: trees as erofs-utils extracts them, hash trees as
//! veritysetup writes them.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::process::Command;

use ferry_images::layer::{self, Limits};
use ferry_images::verity::{self, Salt};
use ferry_images::{Digest, join};

use crate::layers::{same, unpacked};
use crate::road::image::{Image, Packing};
use crate::road::program::{foreign, lister};
use crate::road::tarball::{Entry, Tarball};
use crate::road::{on_qemu, size};

/// Xorshift from a seed, which is told when a test fails.
struct Random(u64);

/// Whether files may end in zeros: fsck.erofs 1.8 cuts off what it extracts where a hole begins that nothing follows.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    InZeros,
    InData,
}

impl Random {
    fn new() -> Random {
        let seed = RandomState::new().build_hasher().finish() | 1;
        println!("seed {seed:#x}");
        Random(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    /// Attributes as anything can have them.
    fn attributes(&mut self, entry: Entry) -> Entry {
        Entry {
            mode: self.of(&[0o644, 0o755, 0o600, 0o4755, 0o2711, 0o1777, 0]),
            owner: (self.of(&[0, 1000, 65_535, 65_536, 4_000_000_000]), self.of(&[0, 5, 70_000])),
            time: (self.of(&[0, 1, 1_700_000_000, 4_102_444_800]), self.below(1_000_000_000) as u32),
            ..entry
        }
    }

    /// What a file may hold: little or much, with and without stretches of zeros.
    fn data(&mut self, ends: Ends) -> Vec<u8> {
        let length = self.of(&[0, 1, 100, 4095, 4096, 4097, 70_000, 300_000]);
        let mut data: Vec<u8> = (0..length).map(|_| 1 + self.below(251) as u8).collect();
        if length > 70_000 && self.below(2) == 0 {
            let end = if ends == Ends::InZeros && self.below(2) == 0 { data.len() } else { 200_000 };
            data[65_536..end].fill(0);
        }
        data
    }
}

const DIRECTORIES: [&str; 5] = ["", "a/", "a/deep/", "b/", "caf\u{e9}/"];

/// Adds a layer's worth of random entries below `root`. `there` are the files of the layers below, which it hides some of.
fn random_entries(tar: &mut Tarball, random: &mut Random, root: &str, ends: Ends, there: &mut Vec<String>) {
    let number = random.below(1 << 32);
    let directories = DIRECTORIES.map(|directory| format!("{root}{directory}"));
    for directory in &directories {
        tar.add(&random.attributes(Entry::new(b'5', directory)));
    }
    for _ in 0..random.below(4).min(there.len() as u64) {
        let hidden = there.swap_remove(random.below(there.len() as u64) as usize);
        let (directory, name) = hidden.rsplit_once('/').expect("a path");
        tar.file(&format!("{directory}/.wh.{name}"), b"");
    }
    let mut plain: Vec<Entry> = Vec::new();
    for entry in 0..4 + random.below(24) {
        let directory = &directories[random.below(directories.len() as u64) as usize];
        let name = format!("{directory}{number}-{entry}");
        let new = Entry::new(random.of(b"000002136"), &name);
        let mut new = random.attributes(new);
        match new.kind {
            b'0' => new.data = random.data(ends),
            b'1' => match plain.last() {
                Some(target) => {
                    // A link says the same of the file as the file.
                    let kind = new.kind;
                    new = Entry {
                        name: new.name,
                        kind,
                        target: target.name.clone(),
                        data: Vec::new(),
                        ..target.clone()
                    };
                }
                None => continue,
            },
            b'2' => (new.mode, new.target) = (0o777, vec![b't'; 1 + random.below(300) as usize]),
            b'3' => new.device = (random.of(&[1, 8, 259]), 1 + random.below(70_000) as u32),
            _ => {}
        }
        if new.kind == b'0' && random.below(3) == 0 {
            // What has an empty value the unpacker, as Go's archives do, takes for no attribute at all.
            let value = random.data(ends).into_iter().take(100).chain([7]).collect();
            new.xattrs.push((b"user.random".to_vec(), value));
        } else if new.kind == b'0' {
            plain.push(new.clone());
        }
        tar.add(&new);
        there.push(name);
    }
}

/// The images of these layers, and the metadata that joins them, below `directory`.
fn joined(layers: &[Tarball], directory: &Path) -> Vec<std::path::PathBuf> {
    let scratch = || tempfile::tempfile().expect("a temporary file");
    let create = |name: String| {
        let path = directory.join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).expect("an image");
        (path, file)
    };
    let (mut paths, mut files) = (Vec::new(), Vec::new());
    for (number, tar) in layers.iter().enumerate() {
        let (path, file) = create(format!("layer-{number}"));
        layer::convert(&tar.bytes()[..], &file, &scratch(), &Limits::default()).expect("a layer");
        paths.push(path);
        files.push(file);
    }
    let (path, file) = create("joined".to_owned());
    join::join(&files, &file, &scratch()).expect("layers that fit together");
    paths.insert(0, path);
    paths
}

#[test]
fn random_layers_are_extracted_as_an_independent_unpacker_unpacks_them() {
    let mut random = Random::new();
    for _ in 0..size(6, 200) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut there = Vec::new();
        let count = 1 + random.below(4) as usize;
        let mut layers = vec![Tarball::new(); count];
        for tar in &mut layers {
            random_entries(tar, &mut random, "odd/", Ends::InData, &mut there);
        }
        let paths = joined(&layers, directory.path());
        let mut fsck = foreign("fsck.erofs");
        fsck.args(paths[1..].iter().map(|path| format!("--device={}", path.display())));
        fsck.arg(format!("--extract={}", directory.path().join("extracted").display()));
        fsck.args(["--preserve", "--xattrs"]).arg(&paths[0]);
        let output = fsck.output().expect("fsck.erofs starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let layout = directory.path().join("layout");
        let image =
            layers.iter().fold(Image::new(&["none"]), |image, tar| image.layer(tar.clone(), Packing::Gzip));
        image.write_layout(&layout, "odd");
        let outside = unpacked(&layout, directory.path());
        let extracted = Command::new(lister()).arg(directory.path().join("extracted/odd")).output();
        same(&String::from_utf8_lossy(&extracted.expect("the lister starts").stdout), &outside);
    }
}

/// Trees of random layers, one beside the other in an image of as many layers as the largest has: a boot costs seconds.
#[test]
fn random_layers_are_in_the_guest_as_an_independent_unpacker_unpacks_them() {
    const LAYERS: usize = 5;
    let mut random = Random::new();
    for _ in 0..size(1, 20) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut layers = vec![Tarball::new(); LAYERS];
        for tar in &mut layers {
            tar.directory("odd/");
        }
        for tree in 0..12 {
            let (mut there, root) = (Vec::new(), format!("odd/{tree}/"));
            let first = random.below(LAYERS as u64) as usize;
            for tar in &mut layers[first..] {
                random_entries(tar, &mut random, &root, Ends::InZeros, &mut there);
            }
        }
        let mut tools = Tarball::new();
        tools.program("lister", &fs::read(lister()).expect("the lister"));
        layers.push(tools);
        let image = layers.into_iter().fold(Image::new(&["/lister", "/odd"]), |image, tar| {
            image.layer(tar, random.of(&[Packing::Plain, Packing::Gzip]))
        });
        let layout = directory.path().join("layout");
        image.write_layout(&layout, "odd");
        let outside = unpacked(&layout, directory.path());
        let store = directory.path().join("data");
        let outcome = on_qemu(&[&format!("oci:{}:odd", layout.display())]).env("XDG_DATA_HOME", store).run();
        outcome.exits(0);
        same(&outcome.text(), &outside);
    }
}

#[test]
fn hash_trees_are_those_of_veritysetup() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut tar = Tarball::new();
    for number in 0..9 {
        tar.file(&format!("file-{number}"), &vec![number; 600_000]);
    }
    for image in joined(&[tar], directory.path()) {
        for salt in [Vec::new(), vec![7], random.data(Ends::InData), Digest::of(b"layer").bytes().to_vec()] {
            let salt = Salt::new(&salt[..salt.len().min(Salt::LONGEST)]).expect("short enough");
            let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
            let hashes = File::options().read(true).write(true).create(true).truncate(true).open(&ours);
            let image_file = File::open(&image).expect("the image");
            let sealed =
                verity::seal(&image_file, salt.clone(), &hashes.expect("a file"), 0).expect("a hash tree");
            let bytes = fs::read(&ours).expect("our hash tree");
            let uuid: Vec<String> = bytes[16..32].iter().map(|byte| format!("{byte:02x}")).collect();
            let uuid =
                [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]].map(|part| part.concat());
            let mut format = foreign("veritysetup");
            format.arg("format").arg(format!("--salt={salt}")).arg(format!("--uuid={}", uuid.join("-")));
            let output = format.arg(&image).arg(&theirs).output().expect("veritysetup starts");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(said.contains(&sealed.root.hex()), "{said} should name {}", sealed.root);
            assert!(fs::read(&theirs).expect("their hash tree") == bytes, "salt {salt}");
        }
    }
}
