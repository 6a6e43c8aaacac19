//! Whatever is built is built the same in another directory. (Layers are compared where they are converted, in `layers`.)

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::road::image::digest;
use crate::road::{checkout, full, xtask};

/// Optimised builds of everything, beside other tests.
const PATIENCE: Duration = Duration::from_secs(1500);

/// A copy of the checkout without what was built in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name();
        if ["target", "dist", ".git"].iter().any(|skipped| name == *skipped) {
            continue;
        }
        // Links are followed: the copy has to stand alone.
        if source.is_dir() {
            copy(&source, &target);
        } else if source.is_file() {
            fs::copy(&source, &target).expect("a copy");
        }
    }
}

/// Takes everything out of a checkout but what was built in it.
fn clear(checkout: &Path) {
    for entry in fs::read_dir(checkout).into_iter().flatten().flatten() {
        let path = entry.path();
        let gone = match (entry.file_name() == "target", path.is_dir()) {
            (true, _) => continue,
            (false, true) => fs::remove_dir_all(&path),
            (false, false) => fs::remove_file(&path),
        };
        gone.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[track_caller]
fn same_files(one: &Path, other: &Path) {
    let read =
        |path: &Path| digest(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    assert_eq!(read(one), read(other), "{} and {} differ", one.display(), other.display());
}

#[test]
fn pid_1_and_ferry_are_the_same_from_another_checkout() {
    let directory = tempfile::tempdir().expect("a directory");
    // What the dependencies of the other one were built to is kept from run to run; its sources are always new.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let _lock = fs::File::create(kept.join("elsewhere.lock")).and_then(|file| file.lock().map(|()| file));
    let elsewhere = kept.join("a checkout with a longer name");
    clear(&elsewhere);
    copy(&checkout(), &elsewhere);
    let other = elsewhere.display().to_string();
    // In the copy, and in the checkout itself, which `--checkout` keeps apart from what cargo is doing there.
    let [here, there] = [directory.path().join("here"), directory.path().join("there")];
    xtask(&["dist", "--output", &here.display().to_string()]).within(PATIENCE).run().exits(0);
    xtask(&["--checkout", &other, "dist", "--output", &there.display().to_string()])
        .within(PATIENCE)
        .run()
        .exits(0);
    // PID 1 is inside.
    same_files(&here.join("ferry"), &there.join("ferry"));
    let first = fs::read(here.join("ferry")).expect("ferry");
    for path in [&checkout(), &elsewhere] {
        let path = path.display().to_string();
        let told = first.windows(path.len()).any(|bytes| bytes == path.as_bytes());
        assert!(!told, "ferry tells that it was built in {path}");
    }
}

#[test]
fn a_recipe_gives_the_same_image_in_another_cache() {
    let index = |cache: Option<&Path>| {
        let mut build = xtask(&["build", "image", "hello"]);
        if let Some(cache) = cache {
            build = build.env("FERRY_CACHE", cache);
        }
        let built = build.run();
        built.exits(0);
        fs::read_to_string(Path::new(built.text().trim()).join("index.json")).expect("the index")
    };
    let cache = tempfile::tempdir().expect("a directory");
    // The index names the manifest by digest, and that everything else.
    assert_eq!(index(None), index(Some(cache.path())));
}

#[test]
fn the_kernel_is_the_same_from_another_cache() {
    if !full() {
        // It takes as long as building it does; `cargo xtask test --full` asks for it.
        return;
    }
    let cache = tempfile::tempdir().expect("a directory");
    let path = |outcome: crate::road::Outcome| {
        outcome.exits(0);
        let line = outcome
            .stderr
            .lines()
            .find(|line| line.starts_with("xtask: kernel: "))
            .expect("its path")
            .to_owned();
        line["xtask: kernel: ".len()..].rsplit_once(" (").expect("its size").0.to_owned()
    };
    let usual = path(xtask(&["build", "kernel"]).within(PATIENCE).run());
    let other = path(xtask(&["build", "kernel"]).env("FERRY_CACHE", cache.path()).within(PATIENCE * 3).run());
    same_files(Path::new(&usual), Path::new(&other));
}
