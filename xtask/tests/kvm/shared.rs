//! What a guest has of its host: a shared directory and a shared file, until their helpers die. One boot for all of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::detached::Ferry;
use crate::road::xtask;

/// What a busy machine may take for anything here.
const PATIENCE: Duration = Duration::from_secs(300);

/// The processes that `parent` has started by the name `name`.
fn children(parent: &str, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).expect("a process").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<String> =
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let is_called = |pid: &String| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(name.as_bytes()))
    };
    pids.into_iter().filter(is_called).collect()
}

/// Waits until something has been written to a file.
fn wait_for(path: &Path) {
    let until = Instant::now() + PATIENCE;
    while !fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        assert!(Instant::now() < until, "{} never comes", path.display());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_directory_and_a_file_are_shared_until_their_helpers_die() {
    let ferry = Ferry::new();
    let image = xtask(&["build", "image", "hello"]).run();
    image.exits(0);
    let image = format!("oci:{}", image.text().trim());
    let host = tempfile::tempdir().expect("a directory");
    let settings = ferry.home.path().join("settings");
    fs::write(&settings, "colour=blue\n").expect("a file");
    fs::write(host.path().join("from-host"), "hello\n").expect("a file");
    // Every program that is started costs seconds where ring 0 is emulated: the shell does what it can itself.
    let script = "cd /vol; read line < from-host; read setting < /etc/settings
         echo $line $setting > a; mv a b; ln -s b l; read line < l
         exec 3<> gone; rm gone; echo \"$line, still\" >&3
         (echo no > /etc/settings) 2> refused || echo refused >> refused
         echo $line > told
         while :; do sleep 1000; done";
    let (shared, file) =
        (format!("{}:/vol", host.path().display()), format!("{}:/etc/settings:ro", settings.display()));
    ferry.says(&[
        "run",
        "-d",
        "--name",
        "shared",
        "--network",
        "none",
        "-v",
        &shared,
        "-v",
        &file,
        &image,
        "sh",
        "-c",
        script,
    ]);
    let inspected: serde_json::Value =
        serde_json::from_str(&ferry.says(&["inspect", "shared"])).expect("JSON");
    assert_eq!(inspected[0]["Mounts"][1]["Destination"], "/etc/settings");
    let monitor = inspected[0]["State"]["Pid"].as_u64().expect("a process").to_string();

    wait_for(&host.path().join("told"));
    let read = |name: &str| fs::read_to_string(host.path().join(name)).expect("a file");
    assert_eq!((read("b").as_str(), read("told").as_str()), ("hello colour=blue\n", "hello colour=blue\n"));
    assert_eq!(fs::read_link(host.path().join("l")).expect("a link"), PathBuf::from("b"));
    assert!(!host.path().join("a").exists() && !host.path().join("gone").exists());
    assert!(read("refused").contains("Read-only file system"), "{}", read("refused"));
    assert_eq!(fs::read_to_string(&settings).expect("a file"), "colour=blue\n");

    for helper in children(&monitor, "ferry-share") {
        assert!(
            std::process::Command::new("kill").args(["-KILL", &helper]).status().is_ok_and(|s| s.success())
        );
    }
    let lost = ferry.run(&["exec", "shared", "sh", "-c", "read line < /vol/from-host"]);
    let said = String::from_utf8_lossy(&lost.stderr);
    assert!(!lost.status.success() && said.contains("not connected"), "{}: {said}", lost.status);
}
