//! The one file that users get, in a root where there is nothing else.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::PATIENCE;
use crate::ferry::image;
use crate::road::{size, xtask};

/// One boot for what a plain run promises: what is printed, the stream that goes in and comes out, and the exit status; and
/// the guest's kernel knows where it is told that it goes on as a copy (the shell expands the name only if a driver is bound).
#[test]
fn the_distribution_runs_in_an_empty_root_passes_a_stream_bit_for_bit_and_ends_as_it_is_told() {
    let root = tempfile::tempdir().expect("a directory");
    let built = xtask(&["dist", "--output", &root.path().display().to_string()]).within(PATIENCE).run();
    built.exits(0);
    // The whole of what it finds there: itself, an image, and /dev/kvm.
    copy(&image("hello"), &root.path().join("image"));
    fs::create_dir(root.path().join("dev")).expect("a directory");
    let made = Command::new("mknod").arg(root.path().join("dev/kvm")).args(["c", "10", "232"]).status();
    assert!(
        made.is_ok_and(|status| status.success()),
        "this test makes a device and changes its root: run it as root"
    );
    let ferry = |words: &[&str]| {
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg(root.path()).arg("/ferry").args(words).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("chroot starts")
    };
    let version = ferry(&["version"]).wait_with_output().expect("it ends");
    assert!(version.status.success(), "{}", String::from_utf8_lossy(&version.stderr));

    let bytes: Vec<u8> =
        (0..size(64 << 10, 100 << 20)).map(|n: u32| (n.wrapping_mul(2654435761) >> 24) as u8).collect();
    let script = "echo hi; echo /sys/bus/platform/drivers/vmgenid/*.vmgenid; cat; exit 7";
    let mut run = ferry(&["run", "--rm", "-i", "oci:/image", "sh", "-c", script]);
    let mut stdin = run.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            // One that fails reads nothing, which is seen below.
            let _ = stdin.write_all(&bytes);
            drop(stdin);
        });
        run.wait_with_output().expect("it ends")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    let told = b"hi\n/sys/bus/platform/drivers/vmgenid/d0101000.vmgenid\n";
    let stream = output.stdout.strip_prefix(told).expect("hi and the generation ID, and nothing before them");
    assert!(stream == bytes, "{} of {} bytes, or others", stream.len(), bytes.len());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}
