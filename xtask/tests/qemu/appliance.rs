//! Appliances: a disk whose containers a machine runs by itself.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::road::web::{ask, free_port};
use crate::road::{checkout, on_qemu, xtask};

#[test]
fn three_containers_start_in_order_answer_from_outside_and_stop_when_told() {
    if Command::new("passt").arg("--version").output().is_err() {
        println!("left out: passt, which the network without privileges needs, is not in the search path");
        return;
    }
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let running = on_qemu(&["edge-demo", "--network", "user", "-p", &publish]).start();
    let began = Instant::now();
    // nginx, which starts last, asks the application, which asks redis.
    let first = loop {
        match ask(port, "/") {
            Ok(answer) if answer.contains("visit ") => break answer,
            _ => assert!(began.elapsed() < Duration::from_secs(240), "nobody answers on port {port}"),
        }
        thread::sleep(Duration::from_millis(500));
    };
    assert!(first.starts_with("HTTP/1.1 200 OK") && first.contains("nginx"), "{first}");
    let again = ask(port, "/").expect("an answer");
    let visit = |answer: &str| -> u32 { answer.rsplit_once("visit ").unwrap().1.trim().parse().unwrap() };
    assert_eq!(visit(&again), visit(&first) + 1);
    running.signal("TERM");
    let outcome = running.finish();
    outcome.exits(0);
    let at =
        |text: &str| outcome.stderr.find(text).unwrap_or_else(|| panic!("no {text:?}: {}", outcome.stderr));
    assert!(at("redis: ") < at("web: "), "{}", outcome.stderr);
    assert!(
        !outcome.stderr.contains("overcommit"),
        "redis warns of the kernel's settings: {}",
        outcome.stderr
    );
    // The one that others wait for ends last.
    assert!(at("bye bye") > at("worker process"), "{}", outcome.stderr);
}

#[test]
fn what_services_keep_is_there_after_a_reboot_and_after_the_power_has_failed() {
    let recipes = tempfile::tempdir().expect("a directory");
    for file in ["hello.toml", "hello.lock"] {
        fs::copy(checkout().join("images/recipes").join(file), recipes.path().join(file)).expect("a copy");
    }
    // A volume that the image knows nothing of, one over a directory of the image, and the rest of the root.
    let places = ["/kept", "/usr/bin", "/srv"];
    let recipe = format!(
        r#"
description = "Counts its boots, and does not survive the second"
[appliance]
at-end = "reboot"
[services.keeper]
image = "hello"
writable = "disk"
volumes = ["/kept", "/usr/bin"]
command = ["sh", "-c", """
mkdir -p {0}
for place in {0}; do
    boots=$(($(cat $place/boots 2>/dev/null || echo 0) + 1))
    echo $boots >$place/boots
    echo boot $boots in $place
done
sync
[ $boots != 2 ] || {{ echo lights out; while :; do echo more >>/kept/more; done; }}
"""]
[services.fresh]
image = "hello"
command = ["sh", "-c", "ls -d /memory || mkdir /memory"]
"#,
        places.join(" ")
    );
    fs::write(recipes.path().join("keeper.toml"), recipe).expect("the recipe");
    let words = ["build", "image", "keeper", "--state", "64m", "--recipes"];
    let built = xtask(&words).args(&[&recipes.path().display().to_string()]).run();
    built.exits(0);
    let cached = built.text().trim().to_owned();
    // One that others may find in the cache is not written to.
    let refused = on_qemu(&[&cached, "--keep", "--network", "none"]).run();
    refused.exits(125);
    assert!(refused.one_line_of_error().contains("copy it"), "{}", refused.stderr);
    let disk = recipes.path().join("keeper.img");
    fs::copy(&cached, &disk).expect("a copy");
    let run = || on_qemu(&[&disk.display().to_string(), "--keep", "--network", "none"]);
    let all = |boot: u32, said: &str| {
        // A console's lines end in two characters.
        let has = |line: &str| said.lines().any(|other| other.trim_end().ends_with(line));
        let there = places.iter().all(|place| has(&format!("keeper: boot {boot} in {place}")));
        assert!(there && !has("fresh: /memory"), "boot {boot}: {said}");
    };
    let outcome = run().run();
    assert!(outcome.stderr.contains("ended: reboot, status 0"), "{}", outcome.stderr);
    all(1, &outcome.stderr);
    // The second is cut off in the middle of writing; what had been synced before is whole.
    all(2, &run().start().killed_when_it_says("lights out"));
    all(3, &run().run().stderr);
}

#[test]
fn an_ordinary_image_is_a_disk_too_and_its_hash_trees_are_checked_as_it_is_read() {
    let built = xtask(&["build", "image", "hello", "--format", "disk", "--verity", "--state", "64m"]).run();
    built.exits(0);
    let disk = built.text().trim().to_owned();
    for (program, arguments, words) in
        [("sfdisk", "--verify", "No errors detected"), ("sgdisk", "--verify", "No problems found")]
    {
        let output = Command::new(program).arg(arguments).arg(&disk).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(words), "{program}: {text}");
    }
    // Its one container is a shell that has nothing to read, and the machine ends with it.
    let outcome = on_qemu(&[&disk, "--network", "none"]).run();
    outcome.exits(0);
    assert!(outcome.stderr.contains("ended: poweroff, status 0"), "{}", outcome.stderr);
    // A byte of a layer that is another than it was sealed with is not executed.
    let damaged = tempfile::NamedTempFile::new().expect("a file");
    fs::copy(&disk, damaged.path()).expect("a copy");
    let bytes = fs::read(damaged.path()).expect("the disk");
    let program =
        bytes.windows(20).position(|bytes| bytes.starts_with(b"\x7fELF")).expect("busybox is on it");
    damaged.as_file().write_all_at(b"\x7fBAD", program as u64).expect("it is written");
    let outcome = on_qemu(&[&damaged.path().display().to_string(), "--network", "none"]).run();
    assert_ne!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("corrupted"), "{}", outcome.stderr);
}
