//! Disks as other programs read them.

use std::fs;
use std::process::Command;

use super::*;
use crate::layer::fixture::Tar;

const MIB: u64 = 1 << 20;
/// Not a whole number of MiB.
const STATE_BYTES: u64 = 24 * MIB - 1;

/// A store with layers of these tars.
fn store(directory: &Path, tars: &[Vec<u8>]) -> (Store, Vec<DiffId>) {
    let store = Store::open(directory).unwrap();
    let incoming = store.bring(b"{}", None).unwrap();
    let mut layers = Vec::new();
    for tar in tars {
        let layer = DiffId(Digest::of(tar));
        let convert = |out: &File| {
            layer::convert(&tar[..], out, &tempfile::tempfile().unwrap(), &layer::Limits::default()).unwrap();
            Ok::<_, store::Error>(())
        };
        incoming.add_layer(&layer, convert).unwrap();
        layers.push(layer);
    }
    drop(incoming);
    (store, layers)
}

/// Two images on one base, on a disk of their own.
fn disk(directory: &Path, verity: Verity) -> (tempfile::NamedTempFile, Written, Vec<Root>) {
    let tar = |name: &str, bytes: usize| Tar::new().file(name, &vec![b'x'; bytes]).end();
    let tars = [tar("base", 3 << 20), tar("one", 5), tar("two", 1 << 20)];
    let (store, layers) = store(&directory.join("store"), &tars);
    let (one, two) = ([layers[0], layers[1]], [layers[0], layers[2]]);
    let images = Images::of(&store, &[&one, &two, &one], verity).unwrap();
    let out = tempfile::NamedTempFile::new_in(directory).unwrap();
    // What was there before is gone.
    out.as_file().write_all_at(&[0xee; 3 << 20], 0).unwrap();
    let files: [(&str, &[u8]); 2] = [("appliance", b"what to run"), ("b", &[7; 5000])];
    let written = write(&store, &files, &images, STATE_BYTES, out.as_file(), &()).unwrap();
    let roots = (0..3).map(|index| images.root(index).unwrap()).collect();
    assert_eq!(images.root(3), None);
    (out, written, roots)
}

/// What a program says of the disk; `None` where it is not installed.
fn said(program: &str, arguments: &[&str], disk: &Path) -> Option<String> {
    let output = Command::new(program).args(arguments).arg(disk).output();
    let Ok(output) = output else {
        eprintln!("skipped: no {program}");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}");
    Some(text.into_owned())
}

#[test]
fn the_same_contents_make_the_same_bytes_whoever_reads_them() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, written, roots) = disk(here.path(), Verity::Trees);
    let (other, same, _) = disk(there.path(), Verity::Trees);
    assert_eq!(written, same);
    assert!(fs::read(one.path()).unwrap() == fs::read(other.path()).unwrap());
    // The specification, two images, three layers, state.
    assert_eq!(written.partitions, 7);
    assert_eq!(written.bytes, one.as_file().metadata().unwrap().len());
    assert!(is_one(one.path()) && !is_one(here.path()) && !is_one(&here.path().join("none")));
    assert_eq!(roots[0], roots[2]);
    assert_eq!(roots[0].layers[0], roots[1].layers[0]);
}

#[test]
fn what_is_empty_takes_no_room() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let (disk, written, _) = disk(directory.path(), Verity::Without);
    let room = disk.as_file().metadata().unwrap().blocks() * 512;
    assert!(written.bytes > 30 * MIB && room < 6 * MIB, "{room} of {}", written.bytes);
}

#[test]
fn other_programs_find_the_table_in_order_and_every_partition_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, written, roots) = disk(directory.path(), Verity::Trees);
    if let Some(text) = said("sgdisk", &["--verify"], disk.path()) {
        assert!(text.contains("No problems found"), "{text}");
    }
    if let Some(text) = said("sfdisk", &["--verify"], disk.path()) {
        assert!(text.contains("No errors detected"), "{text}");
    }
    let Some(text) = said("sfdisk", &["--json"], disk.path()) else { return };
    let table: serde_json::Value = serde_json::from_str(&text).unwrap();
    let table = &table["partitiontable"];
    assert_eq!((table["label"].as_str(), table["sectorsize"].as_u64()), (Some("gpt"), Some(512)));
    let found = table["partitions"].as_array().unwrap();
    let names: Vec<_> = found.iter().map(|partition| partition["name"].as_str().unwrap()).collect();
    let expected = [
        SPEC,
        &roots[0].metadata.name,
        &roots[1].metadata.name,
        &roots[0].layers[0].name,
        &roots[0].layers[1].name,
        &roots[1].layers[1].name,
        STATE,
    ];
    assert_eq!(names, expected);
    let guids: std::collections::BTreeSet<_> =
        found.iter().map(|partition| partition["uuid"].as_str().unwrap()).collect();
    assert_eq!(guids.len(), found.len());
    let mut end = 0;
    for partition in found {
        let (start, size) = (partition["start"].as_u64().unwrap(), partition["size"].as_u64().unwrap());
        assert!((start * SECTOR).is_multiple_of(MIB) && start >= end, "{partition}");
        end = start + size;
    }
    assert!(end * SECTOR < written.bytes);
    // The partitions hold what their names say.
    let partition = |name: &str| {
        let found = found.iter().find(|partition| partition["name"] == name).unwrap();
        let bytes = found["size"].as_u64().unwrap() * SECTOR;
        let out = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        let mut content = vec![0; bytes as usize];
        disk.as_file().read_exact_at(&mut content, found["start"].as_u64().unwrap() * SECTOR).unwrap();
        out.as_file().write_all_at(&content, 0).unwrap();
        out
    };
    let state = partition(STATE);
    assert_eq!(state.as_file().metadata().unwrap().len(), 24 * MIB);
    said("e2fsck", &["-f", "-n"], state.path());
    for name in [SPEC, &roots[1].layers[1].name] {
        said("fsck.erofs", &[], partition(name).path());
    }
    for place in roots.iter().flat_map(|root| root.layers.iter().chain([&root.metadata])) {
        verify(partition(&place.name).path(), place.sealed.as_ref().unwrap());
    }
    let specification = crate::erofs::read::load(partition(SPEC).as_file()).unwrap();
    assert_eq!(specification.len(), 3);
}

/// A partition's image against the hash tree behind it, by another program.
fn verify(partition: &Path, sealed: &Sealed) {
    let verify = |root: &str| {
        let mut command = Command::new("veritysetup");
        command.arg("verify").args([partition, partition]).arg(root);
        command.arg(format!("--hash-offset={}", sealed.offset)).output()
    };
    let Ok(output) = verify(&sealed.root.hex()) else { return eprintln!("skipped: no veritysetup") };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!verify(&Digest::of(b"other").hex()).unwrap().status.success());
}

#[test]
fn more_partitions_than_linux_looks_at_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let tars: Vec<_> =
        (0..gpt::MOST).map(|number| Tar::new().file(&format!("f{number}"), b"x").end()).collect();
    let (store, layers) = store(&directory.path().join("store"), &tars);
    let out = tempfile::tempfile().unwrap();
    let made = |layers: &[DiffId]| {
        let images = Images::of(&store, &[layers], Verity::Without).unwrap();
        write(&store, &[], &images, STATE_BYTES, &out, &())
    };
    let error = made(&layers).unwrap_err().to_string();
    assert!(error.contains("258 partitions") && error.contains("fewer layers"), "{error}");
    assert_eq!(made(&layers[..gpt::MOST - 3]).unwrap().partitions, gpt::MOST);
}
