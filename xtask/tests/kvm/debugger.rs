//! A debugger on the guest's kernel.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::road::{on_kvm, xtask};

#[test]
fn gdb_shows_a_backtrace_of_the_guests_kernel() {
    if Command::new("gdb").arg("--version").output().is_err() {
        println!("skipped: there is no gdb");
        return;
    }
    let built = xtask(&["build", "kernel"]).run();
    built.exits(0);
    let kernel = built.stderr.split_whitespace().find(|word| word.ends_with("/vmlinux")).expect("a path");
    let place = tempfile::tempdir().expect("a directory");
    let socket = place.path().join("gdb");
    let path = socket.display().to_string();
    let running = on_kvm(&["--gdb", &path, "hello", "--", "true"]).within(PATIENCE).start();
    wait_for(&socket);
    let gdb = Command::new("timeout")
        .args(["300", "gdb", "-nx", "-batch", "-ex", &format!("target remote {path}")])
        .args(["-ex", "hbreak setup_arch", "-ex", "continue", "-ex", "backtrace"])
        .args([
            "-ex",
            "x/s (char *)&linux_banner",
            "-ex",
            "delete",
            "-ex",
            "break early_cpu_init",
            "-ex",
            "continue",
        ])
        .args(["-ex", "stepi", "-ex", "kill"])
        .arg(format!("{kernel}.debug"))
        .output()
        .expect("gdb starts");
    let said = String::from_utf8_lossy(&gdb.stdout);
    println!("{said}{}", String::from_utf8_lossy(&gdb.stderr));
    for words in [
        "#0  0x",
        " in setup_arch ",
        "#1  0x",
        " in start_kernel ",
        "Linux version ",
        "2, 0x",
        " in early_cpu_init ",
    ] {
        assert!(said.contains(words), "no {words:?}");
    }
    // It was the debugger that ended it.
    let outcome = running.finish();
    outcome.exits(125);
    assert!(outcome.stderr.contains("the VM was stopped"), "{}", outcome.stderr);
    assert!(!socket.exists(), "the socket goes with its VM");
}

/// Waits until a file is there.
fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < PATIENCE, "no {}", path.display());
        sleep(Duration::from_millis(50));
    }
}
