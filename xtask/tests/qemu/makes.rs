//! Images of other makes, as other people build them, put together here from Debian's packages or by hand.

use std::process::Command;

use serde_json::json;

use crate::road::image::{Image, Packing};
use crate::road::tarball::Tarball;
use crate::road::{Outcome, checkout, on_qemu, program, xtask};

/// Runs an image of `tests/recipes`.
pub fn made(recipe: &str, options: &[&str], command: &[&str]) -> Outcome {
    let recipes = checkout().join("xtask/tests/recipes");
    let built = xtask(&["build", "image", "--recipes", &recipes.display().to_string(), recipe]).run();
    built.exits(0);
    let image = format!("oci:{}", built.text().trim());
    on_qemu(&[options, &[&image, "--"], command].concat()).run()
}

#[test]
fn a_static_musl_program_alone_in_its_image() {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, binary) = (directory.path().join("hello.c"), directory.path().join("hello"));
    let text = "#include <stdio.h>\nint main(int n, char **words) { printf(\"musl %d %s\\n\", n, words[1]); return 5; }\n";
    std::fs::write(&source, text).expect("the program's source");
    let status = Command::new("musl-gcc").args(["-static", "-O2", "-o"]).args([&binary, &source]).status();
    assert!(status.is_ok_and(|status| status.success()), "musl-gcc");
    let mut layer = Tarball::new();
    layer.program("hello", &std::fs::read(&binary).expect("the program"));
    let archive = directory.path().join("image.tar");
    Image::new(&[])
        .with("Entrypoint", json!(["/hello"]))
        .layer(layer, Packing::Plain)
        .write_docker_archive(&archive, "musl:1");
    on_qemu(&[&archive.display().to_string(), "--", "there"]).run().exits(5).prints("musl 2 there\n");
}

#[test]
fn an_image_without_passwd_runs_as_the_numbers_it_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut layer = Tarball::new();
    layer.program("whoami", &std::fs::read(program::whoami()).expect("the program"));
    let image =
        Image::new(&["/whoami"]).with("User", json!("65532:65533")).with("WorkingDir", json!("/work/here"));
    image.layer(layer, Packing::Zstd).write_layout(directory.path(), "distroless");
    let reference = format!("oci:{}:distroless", directory.path().display());
    on_qemu(&[&reference]).run().exits(0).prints("uid 65532 gid 65533 groups [] in /work/here home /\n");
    on_qemu(&[&reference, "-u", "0"]).run().exits(0).prints("uid 0 gid 0 groups [] in /work/here home /\n");
}

#[test]
fn an_entrypoint_that_drops_privileges_goes_on_without_them() {
    for with in ["gosu", "setpriv"] {
        let variable = format!("DROP_WITH={with}");
        let command = [
            "sh",
            "-c",
            "id -u; touch /data/mine && stat -c %U /data/mine; touch /etc/x 2>/dev/null || echo refused",
        ];
        made("dropping", &["-e", &variable], &command).exits(0).prints("999\nservice\nrefused\n");
    }
    made("dropping", &["-u", "service"], &["id", "-un"]).exits(0).prints("service\n");
}

#[test]
fn go_serves_and_answers() {
    let script = "caddy respond --listen 127.0.0.1:8080 --body 'hi from Go' >/tmp/log 2>&1 &
        until wget -q -O - http://127.0.0.1:8080/ 2>/dev/null; do sleep 0.2; done";
    made("go", &[], &["sh", "-c", script]).exits(0).prints("hi from Go");
}

#[test]
fn a_java_virtual_machine_starts_and_works() {
    let outcome = made("java", &["--memory", "1g", "--cpus", "2"], &["-Xmx256m", "-version"]);
    outcome.exits(0);
    assert!(outcome.stderr.contains("OpenJDK 64-Bit Server VM"), "{}", outcome.stderr);
    // Its own tools are Java programs: this one makes a key, with threads, a collector and files.
    let script = "keytool -genkeypair -alias k -keyalg EC -dname CN=ferry -keystore /tmp/s -storepass secret >/dev/null 2>&1
        keytool -list -keystore /tmp/s -storepass secret | grep -c PrivateKeyEntry";
    let options = ["--memory", "1g", "--cpus", "2", "--entrypoint", ""];
    made("java", &options, &["sh", "-c", script]).exits(0).prints("1\n");
}

#[test]
fn systemd_boots_to_its_default_target_and_ends_with_its_own_status() {
    // Any other status is the number of a check in the recipe.
    made("systemd", &[], &[]).exits(7);
}

#[test]
fn sshd_lets_its_client_in() {
    let script = "set -e
        ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
        mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
        cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
        /usr/sbin/sshd -f /dev/null -o StrictModes=no -o PermitRootLogin=yes 2>/tmp/log
        to='-o StrictHostKeyChecking=no -o LogLevel=ERROR root@127.0.0.1'
        ssh $to 'echo in as $(id -un); exit 6' || echo status $?
        ssh -tt $to 'test -t 0 && echo on a terminal' | tr -d '\\r'";
    made("sshd", &[], &["sh", "-c", script]).exits(0).prints("in as root\nstatus 6\non a terminal\n");
}
