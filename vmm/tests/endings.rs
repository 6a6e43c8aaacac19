//! How `ferry run` tells of a VM that ends by itself: each kind of end apart, in one line, by exit status and in the report.
//! Where KVM cannot be used, the tests say so and pass.
#![cfg(feature = "cli")]

mod guest;

use ferry_vmm::machine::{Image, probe};
use guest::Script;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Runs a container whose guest is this script, in a home of its own; what ferry said, and its report.
fn run(home: &Path, script: Script) -> (Output, serde_json::Value) {
    let Image::Bytes(kernel) = script.kernel() else { panic!("a script's kernel is bytes") };
    let (kernel_file, initrd, report) = (home.join("kernel"), home.join("initrd"), home.join("report.json"));
    fs::write(&kernel_file, &*kernel).unwrap();
    fs::write(&initrd, [0; 512]).unwrap();
    fs::create_dir_all(home.join("image/bin")).unwrap();
    fs::write(home.join("image/bin/true"), "").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .args(["run", "--network", "none", "--memory", "64m", "--kernel"])
        .arg(&kernel_file)
        .arg("--initrd")
        .arg(&initrd)
        .arg("--report")
        .arg(&report)
        .arg(format!("dir:{}", home.join("image").display()))
        .arg("/bin/true")
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_RUNTIME_DIR", home)
        .output()
        .unwrap();
    let told = fs::read(&report).unwrap_or_else(|error| panic!("no report ({error}): {output:?}"));
    (output, serde_json::from_slice(&told).unwrap())
}

#[test]
fn each_kind_of_end_has_its_words_its_status_and_its_report() {
    match probe() {
        Ok(_) => {}
        Err(error) => return println!("skipped: {error}"),
    }
    let panic = "Kernel panic - not syncing: no reason\n";
    let says = |text: &str| text.bytes().fold(Script::default(), |script, byte| script.out(0x3f8, byte));
    // popcnt is an instruction that a KVM which emulates ring 0 does not know; one that has ring 0 is left out.
    let emulated = probe().unwrap().emulates_ring0;
    let unknown = Script::default().run(&[0xf3, 0x0f, 0xb8, 0xc0]).reset();
    let fault = Script::default().run(&[0x31, 0xc0, 0x0f, 0x22, 0xd8]).spin();
    let mut ends = vec![
        (says(panic).write(0xd010_0000, 1).reset(), "guest-panic", "kernel panicked: Kernel panic"),
        (fault, "triple-fault", "triple fault"),
        (Script::default().reset(), "guest-reset", "reset itself"),
    ];
    if emulated {
        ends.push((unknown, "kvm-internal-error", "KVM could not go on"));
    }
    for (script, reason, words) in ends {
        let home = tempfile::tempdir().unwrap();
        let (output, report) = run(home.path(), script);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{reason}: {said}");
        assert!(said.contains(words), "{reason}: {said}");
        assert_eq!(report["reason"], reason, "{report}");
        assert!(report["metrics"]["cpu_ns_to_first_run"].as_u64().unwrap() > 0, "{report}");
        let detail = report["detail"].as_str().unwrap();
        assert_eq!(detail.is_empty(), reason == "guest-reset", "{report}");
        assert!(reason != "kvm-internal-error" || detail.contains("rip"), "{report}");
    }
}
