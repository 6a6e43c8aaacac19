//! Whatever is built is built the same in another directory. (Layers are compared where they are converted, in `layers`.)

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::road::image::digest;
use crate::road::{checkout, full, on_qemu, size, xtask};

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

/// Gives a target directory that nothing was built in yet the dependencies as they were built in another: both have their
/// sources from the same place. Nothing of the project itself is among them.
fn lend_dependencies(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    // Cargo goes by the files' times, so they have to come along.
    let copied = Command::new("cp").arg("-a").arg(from.join("dist")).arg(to).status().expect("cp starts");
    assert!(copied.success(), "cp: {copied}");
    forget_own(&to.join("dist"));
}

/// Takes what is built of the project's own packages out of a target directory.
fn forget_own(directory: &Path) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let own = ["ferry", "libferry"].iter().any(|own| name.as_encoded_bytes().starts_with(own.as_bytes()));
        match (own, path.is_dir()) {
            (true, true) => fs::remove_dir_all(&path).expect("it goes"),
            (true, false) => fs::remove_file(&path).expect("it goes"),
            (false, true) => forget_own(&path),
            (false, false) => {}
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
    let at = |name: &str| directory.path().join(name);
    // In the checkout itself, which `--checkout` keeps apart from what cargo is doing there, and in the copy.
    let dist = |checkout: &[&str], output: &str| {
        let output = at(output).display().to_string();
        xtask(&[checkout, &["dist", "--output", &output]].concat()).within(PATIENCE).run().exits(0);
    };
    let here = || dist(&[], "here");
    let there = || dist(&["--checkout", other.as_str()], "there");
    let built_there = elsewhere.join("target");
    if full() && built_there.exists() {
        // All of it twice.
        fs::remove_dir_all(&built_there).expect("it goes");
    }
    if full() || built_there.exists() {
        // Side by side, since the longest step of each, the last one, is work for one processor.
        thread::scope(|scope| {
            scope.spawn(here);
            there();
        });
    } else {
        here();
        lend_dependencies(kept.parent().expect("cargo's target directory"), &built_there);
        there();
    }
    // PID 1 is inside.
    same_files(&at("here/ferry"), &at("there/ferry"));
    let first = fs::read(at("here/ferry")).expect("ferry");
    for path in [&checkout(), &elsewhere] {
        let path = path.display().to_string();
        let told = first.windows(path.len()).any(|bytes| bytes == path.as_bytes());
        assert!(!told, "ferry tells that it was built in {path}");
    }
}

/// All recipes with images, one with packages alone first.
const RECIPES: [&str; 9] =
    ["hello", "debian", "redis", "nginx", "postgres", "python", "node", "edge-app", "edge-web"];

/// Nobody's number on every Debian.
const NOBODY: &str = "65534";

/// Another directory with another cache, where another user builds on another day.
struct Elsewhere(tempfile::TempDir);

impl Elsewhere {
    fn new() -> Elsewhere {
        let place = tempfile::tempdir().expect("a directory");
        for directory in ["bin", "cache", "home"] {
            fs::create_dir(place.path().join(directory)).expect("a directory");
        }
        fs::copy(env!("CARGO_BIN_EXE_xtask"), place.path().join("bin/xtask")).expect("a copy");
        copy(&checkout().join("images/recipes"), &place.path().join("recipes"));
        // What another user cannot own he can at least write to.
        let anybody = Command::new("chmod").args(["-R", "a+rwX"]).arg(place.path()).status();
        assert!(anybody.is_ok_and(|status| status.success()), "chmod");
        Elsewhere(place)
    }

    /// Builds an image there; where it is.
    fn builds(&self, words: &[&str]) -> String {
        let at = |name: &str| self.0.path().join(name);
        let mut command: Vec<&str> = Vec::new();
        // Only root can be somebody else.
        if is_root() {
            command.extend(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        }
        match Command::new("faketime").arg("--version").output() {
            Ok(_) => command.extend(["faketime", "-f", "+1d"]),
            Err(_) => println!("left out: another day, for which there is no faketime"),
        }
        let program = at("bin/xtask").display().to_string();
        command.extend([program.as_str(), "build", "image"]);
        let other = Command::new(command[0])
            .args(&command[1..])
            .args(words)
            .arg("--recipes")
            .arg(at("recipes"))
            .arg("--checkout")
            .arg(self.0.path())
            .env("FERRY_CACHE", at("cache"))
            .env("HOME", at("home"))
            .env_remove("XDG_DATA_HOME")
            .output()
            .expect("it starts");
        assert!(other.status.success(), "{words:?}: {}", String::from_utf8_lossy(&other.stderr));
        String::from_utf8_lossy(&other.stdout).trim().to_owned()
    }
}

/// Builds it here; where it is.
fn build(words: &[&str]) -> String {
    let built = xtask(&["build", "image"]).args(words).within(PATIENCE).run();
    built.exits(0);
    built.text().trim().to_owned()
}

#[test]
fn recipes_give_the_same_images_and_disks_from_another_directory_and_cache_to_another_user_on_another_day() {
    let elsewhere = Elsewhere::new();
    let same = |words: &[&str], suffixes: &[&str]| {
        let (one, other) = (build(words), elsewhere.builds(words));
        for suffix in suffixes {
            same_files(Path::new(&format!("{one}{suffix}")), Path::new(&format!("{other}{suffix}")));
        }
    };
    for name in &RECIPES[..size(1, RECIPES.len())] {
        // The index names the manifest by digest, and that everything else; beside it is what they are made from.
        same(&[name], &["/index.json", ".spdx.json", ".provenance.json"]);
    }
    let disk = [size("hello", "edge-demo"), "--format", "disk", "--state", "16m"];
    same(&disk, &["", ".spdx.json", ".provenance.json"]);
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id starts");
    id.stdout == b"0\n"
}

/// What is run of each recipe's image, and what comes of it.
const RUNS: [(&str, &str, &str); 9] = [
    ("hello", "echo from $(id -un)", "from root\n"),
    ("debian", "sed -n 's/^ID=//p' /etc/os-release; echo $LANG", "debian\nC.UTF-8\n"),
    (
        "redis",
        "redis-server --save '' --dir /tmp --daemonize yes >/tmp/log
         until redis-cli ping 2>/dev/null | grep PONG; do sleep 0.1; done",
        "PONG\n",
    ),
    (
        "nginx",
        "nginx && until [ -s /run/nginx.pid ]; do sleep 0.1; done; kill -QUIT $(cat /run/nginx.pid) && echo ended",
        "ended\n",
    ),
    (
        "postgres",
        "export POSTGRES_PASSWORD=secret PGPASSWORD=secret; serve postgres >/tmp/log 2>&1 &
         export PGPASSWORD=secret; until pg_isready -q -h 127.0.0.1; do sleep 0.2; done
         psql -qAt -h 127.0.0.1 -c 'select 6 * 7'; kill -INT $!; wait $!",
        "42\n",
    ),
    ("python", "python3 -c 'import ssl, sqlite3; print(sum(range(10)))'", "45\n"),
    ("node", "node -e 'console.log(6 * 7)'", "42\n"),
    (
        "edge-app",
        "python3 -c 'import ast; ast.parse(open(\"app.py\").read())'; id -u; pwd",
        "1000\n/srv/app\n",
    ),
    ("edge-web", "nginx -t 2>&1 | grep -c successful", "1\n"),
];

#[test]
fn podman_runs_what_recipes_make_as_ferry_does() {
    if !is_root() || Command::new("podman").arg("--version").output().is_err() {
        println!("left out: podman as root");
        return;
    }
    // Its own places, and what a machine without all of systemd needs.
    let place = tempfile::tempdir().expect("a directory");
    let settings = place.path().join("containers.conf");
    let text = "[containers]\ndefault_ulimits=[\"nofile=20000:20000\",\"nproc=20000:20000\"]\n\
                [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\nruntime=\"runc\"\n";
    fs::write(&settings, text).expect("settings");
    let podman = |words: &[&str]| {
        let at = |name: &str| place.path().join(name).display().to_string();
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", &settings).args(["--root", &at("root"), "--runroot", &at("run")]);
        command.args(["--storage-driver", "vfs"]).args(words).current_dir(place.path());
        command.output().expect("podman starts")
    };
    for (name, script, printed) in &RUNS[..size(1, RUNS.len())] {
        // Podman makes a name of the path, which has to look like one.
        copy(Path::new(&build(&[name])), &place.path().join(name));
        let words = ["--network", "none", "--entrypoint", ""];
        let command = ["sh", "-c", &format!("{script}\nexit 3")];
        let image = format!("oci:{name}");
        let output = podman(&[&["run", "--rm"], &words[..], &[&image], &command].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((output.status.code(), &*out), (Some(3), *printed), "{name}: {said}");
        // The small size runs with ferry elsewhere.
        if full() {
            on_qemu(&[&[*name, "--memory", "1g"], &words[..], &["--"], &command].concat())
                .run()
                .exits(3)
                .prints(printed);
        }
        fs::remove_dir_all(place.path().join(name)).expect("the layout's copy");
    }
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
