//! Whatever is built is built the same in another directory. (Layers are compared where they are converted, in `layers`.)

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::road::image::digest;
use crate::road::{checkout, full, size, xtask};

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

/// Recipes with packages alone, on another, and with nothing of their own from outside.
const RECIPES: [&str; 3] = ["hello", "nginx", "edge-web"];

/// Nobody's number on every Debian.
const NOBODY: &str = "65534";

#[test]
fn recipes_give_the_same_images_from_another_directory_and_cache_to_another_user_on_another_day() {
    let names = &RECIPES[..size(1, RECIPES.len())];
    let elsewhere = tempfile::tempdir().expect("a directory");
    for directory in ["bin", "cache", "home"] {
        fs::create_dir(elsewhere.path().join(directory)).expect("a directory");
    }
    let program = elsewhere.path().join("bin/xtask");
    fs::copy(env!("CARGO_BIN_EXE_xtask"), &program).expect("a copy");
    copy(&checkout().join("images/recipes"), &elsewhere.path().join("recipes"));
    // What another user cannot own he can at least write to.
    let anybody = Command::new("chmod").args(["-R", "a+rwX"]).arg(elsewhere.path()).status();
    assert!(anybody.is_ok_and(|status| status.success()), "chmod");
    for name in names {
        let usual = xtask(&["build", "image", name]).run();
        usual.exits(0);
        let mut words = Vec::new();
        // Only root can be somebody else.
        if is_root() {
            words.extend(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        }
        let dated = ["faketime", "-f", "+1d"];
        match Command::new("faketime").arg("--version").output() {
            Ok(_) => words.extend(dated),
            Err(_) => println!("left out: another day, for which there is no faketime"),
        }
        let (program, recipes) = (program.display().to_string(), elsewhere.path().join("recipes"));
        words.extend([program.as_str(), "build", "image", name, "--recipes"]);
        let other = Command::new(words[0])
            .args(&words[1..])
            .arg(&recipes)
            .arg("--checkout")
            .arg(elsewhere.path())
            .env("FERRY_CACHE", elsewhere.path().join("cache"))
            .env("HOME", elsewhere.path().join("home"))
            .env_remove("XDG_DATA_HOME")
            .output()
            .expect("it starts");
        assert!(other.status.success(), "{name}: {}", String::from_utf8_lossy(&other.stderr));
        let layout = String::from_utf8_lossy(&other.stdout).trim().to_owned();
        // The index names the manifest by digest, and that everything else; beside it is what they are made from.
        let (one, other) = (usual.text().trim().to_owned(), layout);
        for suffix in ["/index.json", ".spdx.json", ".provenance.json"] {
            same_files(Path::new(&format!("{one}{suffix}")), Path::new(&format!("{other}{suffix}")));
        }
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id starts");
    id.stdout == b"0\n"
}

#[test]
fn podman_runs_what_recipes_make() {
    if Command::new("podman").arg("--version").output().is_err() {
        println!("left out: podman is not in the search path");
        return;
    }
    let built = xtask(&["build", "image", "hello"]).run();
    built.exits(0);
    // Its own places, and what a machine without all of systemd needs.
    let place = tempfile::tempdir().expect("a directory");
    let settings = place.path().join("containers.conf");
    let text = "[containers]\ndefault_ulimits=[\"nofile=20000:20000\",\"nproc=20000:20000\"]\n\
                [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n";
    fs::write(&settings, text).expect("settings");
    let podman = |words: &[&str]| {
        let at = |name: &str| place.path().join(name).display().to_string();
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", &settings).args(["--root", &at("root"), "--runroot", &at("run")]);
        command.args(["--storage-driver", "vfs"]).args(words).current_dir(place.path());
        command.output().expect("podman starts")
    };
    // Podman makes a name of the path, which has to look like one.
    copy(Path::new(built.text().trim()), &place.path().join("layout"));
    let script = "echo from $(id -un); exit 3";
    let output = podman(&["run", "--rm", "--network", "none", "oci:layout", "sh", "-c", script]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(3), &b"from root\n"[..]), "{said}");
    // What a container leaves of mounts is podman's to take away.
    podman(&["system", "reset", "--force"]);
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
