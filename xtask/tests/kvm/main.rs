//! Whole images in virtual machines on ferry with KVM. A few: the many are on QEMU, and drive the same parts.

#[path = "../road/mod.rs"]
mod road;

mod debugger;
mod detached;
mod devices;
mod distribution;
mod ferry;
mod pods;
mod shared;
mod user;

use std::fs;
use std::process::Command;
use std::time::Duration;

use road::{on_kvm, size};

/// On a KVM that emulates ring 0 a boot alone takes a minute.
const PATIENCE: Duration = Duration::from_secs(900);

/// Where ring 0 is emulated the kernel switches no AVX state, and glibc's string functions would use it.
const WITHOUT_AVX: &str = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX,-AVX512F";

#[test]
fn redis_serves_saves_in_a_fork_and_stops_on_sigterm() {
    let clients = size(1, 50);
    let script = format!(
        "(until redis-cli ping; do sleep 0.2; done
          for n in $(seq {clients}); do echo \"set greeting$n hello\"; done | redis-cli
          echo get greeting{clients} | redis-cli; redis-cli bgsave) &
         exec redis-server --save '' --dir /tmp"
    );
    let mut running =
        on_kvm(&["redis", "-e", WITHOUT_AVX, "--", "sh", "-c", &script]).within(PATIENCE).start();
    for told in ["PONG", "hello", "Background saving terminated with success"] {
        running.wait_for(told);
    }
    running.signal("TERM");
    let outcome = running.finish();
    outcome.exits(0);
    assert!(outcome.text().contains("bye bye"), "{}", outcome.text());
}

#[test]
fn without_the_right_to_use_kvm_the_way_out_is_told() {
    let home = tempfile::tempdir().expect("a directory");
    let closed = home.path().join("closed");
    fs::write(&closed, "").expect("a file");
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o0)).expect("closed to all");
    // In a mount namespace of its own, with a /dev/kvm that opens to nobody, as a root that is stopped by permissions.
    let script = "mount --bind \"$1\" /dev/kvm && exec setpriv --bounding-set=-all --inh-caps=-all \"$2\" run --on kvm hello -- true";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&closed)
        .arg(env!("CARGO_BIN_EXE_xtask"))
        .env("FERRY_CACHE", home.path())
        .output()
        .expect("unshare starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(
        said.contains("no permission on /dev/kvm") && said.contains("usermod --append --groups kvm"),
        "{said}"
    );
}
