//! Processes that are killed while they bring an image: whoever comes next finds nothing wrong and nothing left over.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::registry::{image, left};
use crate::road::image::digest;
use crate::road::registry::{Registry, ferry, store, succeed};
use crate::road::size;

/// A number nobody has chosen.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Everything in a store, by what it is.
fn contents(home: &Path) -> Vec<(String, String)> {
    let root = store(home);
    let mut all: Vec<_> = left(&root)
        .into_iter()
        .map(|path| {
            let name = Path::new(&path).strip_prefix(&root).expect("below the store").display().to_string();
            (name, digest(&fs::read(&path).expect("a file of the store")))
        })
        .collect();
    all.sort();
    all
}

/// Kills this command at random points; what comes after must be as if that had never been.
#[track_caller]
fn survives_being_killed(words: &[&str], name: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = directory.path().join("whole");
    let began = Instant::now();
    succeed(&mut ferry(&whole, words));
    let takes = began.elapsed();
    let expected = contents(&whole);
    assert!(expected.len() > 10, "{expected:?}");
    let mut interrupted = 0;
    for round in 0..size(5, 50) {
        let home = directory.path().join(round.to_string());
        for _ in 0..2 {
            let mut child = ferry(&home, words)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("ferry starts");
            let after = takes.mul_f64((random() % 1000) as f64 / 1000.0);
            std::thread::sleep(after.max(Duration::from_millis(1)));
            let _ = child.kill();
            let status = child.wait().expect("it is our child");
            interrupted += usize::from(!status.success());
        }
        succeed(&mut ferry(&home, words));
        assert_eq!(contents(&home), expected, "round {round}");
        succeed(&mut ferry(&home, &["rmi", name]));
        assert_eq!(left(&store(&home)), [""; 0], "round {round}");
        fs::remove_dir_all(&home).expect("the store is removed");
    }
    assert!(interrupted > 0, "nothing was ever interrupted");
}

/// Large enough to be hit in the middle.
const LAYERS: usize = 6;
const NOISE: usize = 1 << 20;

#[test]
fn a_pull_that_is_killed_leaves_nothing_wrong() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().expect("a directory");
    image(LAYERS, NOISE).write_layout(directory.path(), "x");
    let reference = registry.push(directory.path(), "x", "killed:1", &[]);
    survives_being_killed(&["pull", &reference], &reference);
}

#[test]
fn a_conversion_that_is_killed_leaves_nothing_wrong() {
    let directory = tempfile::tempdir().expect("a directory");
    let archive = directory.path().join("image.tar");
    image(LAYERS, NOISE).write_docker_archive(&archive, "killed:2");
    survives_being_killed(&["load", "-i", &archive.display().to_string()], "killed:2");
}
