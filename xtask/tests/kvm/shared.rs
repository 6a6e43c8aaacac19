//! What a guest has of its host: a shared directory and a shared file, until their helpers die, volumes that ferry keeps, memory, until the process ends
//! that used it or takes all there is, and the host's one copy of the layers. One boot for all of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ferry::{Ferry, children};
use crate::road::{full, size, xtask};

/// What a busy machine may take for anything here.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the guest's kernel may keep of what a process has done, in KiB.
const CACHED: u64 = 16 << 10;

/// The memory that a process has, in KiB: for a VM's, what its guest has touched and not given back.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a number");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// What a process has in memory of the files below a directory that it maps, in KiB.
#[derive(Debug, Default)]
struct Mapped {
    resident: u64,
    /// Its part of that: of a page that two processes map, a half.
    part: u64,
    /// What no other process who maps them has.
    own: u64,
}

fn mapped(pid: u32, directory: &Path) -> Mapped {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process");
    let (mut found, mut is_below) = (Mapped::default(), false);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, _, _, _, _, path] => is_below = Path::new(path).starts_with(directory),
            ["Rss:", number, _] if is_below => found.resident += number.parse::<u64>().expect("a number"),
            ["Pss:", number, _] if is_below => found.part += number.parse::<u64>().expect("a number"),
            ["Private_Dirty:" | "Anonymous:", number, _] if is_below => {
                found.own += number.parse::<u64>().expect("a number");
            }
            // A mapping without a path, or its flags.
            [first, ..] if !first.ends_with(':') => is_below = false,
            _ => {}
        }
    }
    found
}

/// Waits until something has been written to a file.
fn wait_for(path: &Path, mut meanwhile: impl FnMut()) {
    let until = Instant::now() + PATIENCE;
    while !fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        assert!(Instant::now() < until, "{} never comes", path.display());
        meanwhile();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_shared_goes_with_its_helpers_and_memory_is_given_back_until_it_runs_out() {
    let ferry = Ferry::new();
    let image = xtask(&["build", "image", "hello"]).run();
    image.exits(0);
    let image = format!("oci:{}", image.text().trim());
    let host = tempfile::tempdir().expect("a directory");
    let settings = ferry.home.path().join("settings");
    fs::write(&settings, "colour=blue\n").expect("a file");
    fs::write(host.path().join("from-host"), "hello\n").expect("a file");
    // Every program that is started costs seconds where ring 0 is emulated: the shell does what it can itself.
    // The big process is a subshell with a long string, which it has twice while it makes it longer.
    let length = size(2 << 20, 256 << 20);
    let script = format!(
        "trap 'while :; do x=${{x:-xxxxxxxxxxxxxxxx}}$x; done' USR1
         echo aboard; cd /vol; read line < from-host; read setting < /etc/settings
         echo $line $setting > a; mv a b; ln -s b l; read line < l
         exec 3<> gone; rm gone; echo \"$line, still\" >&3
         (echo no > /etc/settings) 2> refused || echo refused >> refused
         for place in /usr/share/doc/*; do echo $place; done > /usr/share/doc/seen; echo $line > /unnamed/file
         echo $line > told
         (x=xxxxxxxxxxxxxxxx; while [ ${{#x}} -lt {length} ]; do x=$x$x; done; echo ${{#x}} > filled)
         while :; do sleep 1000 & wait; done"
    );
    let (shared, file) =
        (format!("{}:/vol", host.path().display()), format!("{}:/etc/settings:ro", settings.display()));
    let run = [
        "run",
        "-it",
        "--name",
        "shared",
        "--network",
        "none",
        "--memory",
        size("64m", "768m"),
        "--layers",
        "pmem",
        "-v",
        &shared,
        "-v",
        &file,
        "-v",
        "kept:/usr/share/doc",
        "--mount",
        "type=volume,target=/unnamed",
        &image,
        "sh",
        "-c",
        &script,
    ];
    // Begun at a terminal, and left to itself.
    ferry.is_left(&run, "aboard");
    let inspected: serde_json::Value =
        serde_json::from_str(&ferry.says(&["inspect", "shared"])).expect("JSON");
    assert_eq!(inspected[0]["Mounts"][1]["Destination"], "/etc/settings");
    let monitor = inspected[0]["State"]["Pid"].as_u64().expect("a process") as u32;

    wait_for(&host.path().join("told"), || {});
    let read = |name: &str| fs::read_to_string(host.path().join(name)).expect("a file");
    assert_eq!((read("b").as_str(), read("told").as_str()), ("hello colour=blue\n", "hello colour=blue\n"));
    assert_eq!(fs::read_link(host.path().join("l")).expect("a link"), PathBuf::from("b"));
    assert!(!host.path().join("a").exists() && !host.path().join("gone").exists());
    assert!(read("refused").contains("Read-only file system"), "{}", read("refused"));
    assert_eq!(fs::read_to_string(&settings).expect("a file"), "colour=blue\n");

    let vm = children(monitor, "ferry-vm");
    assert_eq!(vm.len(), 1, "{vm:?}");
    let layers = mapped(vm[0], ferry.home.path());
    assert!(layers.resident > 500 && layers.own == 0, "{layers:?}");
    let (before, mut peak) = (resident(vm[0]), 0);
    wait_for(&host.path().join("filled"), || peak = peak.max(resident(vm[0])));
    let (until, given_back) = (Instant::now() + PATIENCE, length as u64 / 1024);
    loop {
        let now = resident(vm[0]);
        peak = peak.max(now);
        // Half of it goes when the string has grown for the last time; the rest with the process, but for what stays cached.
        if now + given_back <= peak && now <= before + given_back / 2 + CACHED {
            println!("memory of the VM in KiB: {before} before, {peak} with a big process, {now} after it");
            break;
        }
        assert!(Instant::now() < until, "of {peak} KiB {now} are left when the process has long ended");
        std::thread::sleep(Duration::from_millis(200));
    }

    if full() {
        let words = ["run", "-d", "--name", "other", "--network", "none", "--layers", "pmem"];
        ferry.says(&[&words[..], &[&image, "sleep", "1000"]].concat());
        let monitor = ferry.inspect("other")["State"]["Pid"].as_u64().expect("a process") as u32;
        let other = children(monitor, "ferry-vm");
        // It has started the same system and no more than the first has: of what it has mapped, half is the first's part.
        let layers = mapped(other[0], ferry.home.path());
        println!("another VM of the image: {layers:?}");
        assert!(layers.resident > 100 && layers.own == 0, "{layers:?}");
        assert!(layers.part * 4 < layers.resident * 3, "{layers:?}");
        ferry.says(&["rm", "-f", "other"]);
    }

    for helper in children(monitor, "ferry-share") {
        assert!(
            std::process::Command::new("kill")
                .args(["-KILL", &helper.to_string()])
                .status()
                .is_ok_and(|s| s.success())
        );
    }
    let lost = ferry.run(&["exec", "shared", "sh", "-c", "read line < /vol/from-host"]);
    let said = String::from_utf8_lossy(&lost.stderr);
    assert!(!lost.status.success() && said.contains("not connected"), "{}: {said}", lost.status);
    let id = inspected[0]["Id"].as_str().expect("an id");
    let log = fs::read_to_string(ferry.containers().join(id).join("monitor.log")).expect("the monitor's log");
    assert_eq!(log.matches("the process that shares ").count(), 4, "{log}");

    // The container's own process takes all the memory that there is: minutes where ring 0 is emulated.
    if full() {
        ferry.says(&["kill", "-s", "USR1", "shared"]);
        assert_eq!(ferry.says(&["wait", "shared"]), "137\n");
        let state = ferry.inspect("shared")["State"].clone();
        assert_eq!((&state["Reason"], &state["OOMKilled"]), (&"oom".into(), &true.into()), "{state}");
    }
    volumes_stay_and_go(&ferry, &inspected[0]["Mounts"]);
}

/// What has a name stays until it is removed, with what the image had there and the container wrote; the rest goes with the
/// container.
fn volumes_stay_and_go(ferry: &Ferry, mounts: &serde_json::Value) {
    let place = ferry.says(&["volume", "inspect", "--format", "{{.Mountpoint}}", "kept"]);
    let place = Path::new(place.trim());
    assert_eq!(mounts[2]["Source"], place.display().to_string());
    let seen = fs::read_to_string(place.join("seen")).expect("what the container saw");
    assert_eq!(seen, "/usr/share/doc/busybox-static\n/usr/share/doc/seen\n");
    assert!(place.join("busybox-static/copyright").is_file(), "what the image has there");
    let unnamed = mounts[3]["Name"].as_str().expect("a name");
    assert_eq!(ferry.says(&["volume", "ls", "-q", "-f", "dangling=false"]).lines().count(), 2);
    let refused = ferry.run(&["volume", "rm", "kept"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("in use by container shared"), "{said}");
    let data =
        place.parent().and_then(Path::parent).expect("where volumes are").join(unnamed).join("data/file");
    assert_eq!(fs::read_to_string(&data).expect("a file"), "hello colour=blue\n");
    ferry.says(&["rm", "-f", "-v", "shared"]);
    assert_eq!(ferry.says(&["volume", "ls", "-q"]), "kept\n");
    assert_eq!(ferry.says(&["volume", "rm", "kept"]), "kept\n");
    assert!(!place.exists() && !data.exists());
}
