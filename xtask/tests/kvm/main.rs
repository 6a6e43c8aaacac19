//! Whole images in virtual machines on ferry with KVM. A few: the many are on QEMU, and drive the same parts.

#[path = "../road/mod.rs"]
mod road;

mod debugger;
mod detached;
mod devices;
mod shared;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use road::{on_kvm, size, xtask};
use sha2::{Digest, Sha256};

/// On a KVM that emulates ring 0 a boot alone takes a minute.
const PATIENCE: Duration = Duration::from_secs(900);

/// One boot for what a plain run promises: what is printed, the stream that goes in and comes out, and the exit status; and
/// the guest's kernel knows where it is told that it goes on as a copy (the shell expands the name only if a driver is bound).
#[test]
fn hello_says_hi_passes_a_stream_bit_for_bit_and_ends_as_it_wants() {
    let bytes: Vec<u8> =
        (0..size(64 << 10, 100 << 20)).map(|n: u32| (n.wrapping_mul(2654435761) >> 24) as u8).collect();
    let script = "echo hi; echo /sys/bus/platform/drivers/vmgenid/*.vmgenid; cat; exit 7";
    let outcome =
        on_kvm(&["hello", "-i", "--", "sh", "-c", script]).input(bytes.clone()).within(PATIENCE).run();
    outcome.exits(7);
    let told = b"hi\n/sys/bus/platform/drivers/vmgenid/d0101000.vmgenid\n";
    let stream =
        outcome.stdout.strip_prefix(told).expect("hi and the generation ID, and nothing before them");
    assert!(stream == bytes, "{} of {} bytes, or others", stream.len(), bytes.len());
}

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
fn python_has_threads_processes_loopback_and_a_published_port() {
    let (threads, processes) = (size(3, 100), size(1, 50));
    let script = format!(
        "
import socket, subprocess, threading
done = []
threads = [threading.Thread(target=lambda n=n: done.append(n)) for n in range({threads})]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(done) == list(range({threads})))
for n in range({processes}):
    print(subprocess.run(['sh', '-c', 'echo process; exit 3'], capture_output=True))
server = socket.create_server(('127.0.0.1', 0))
threading.Thread(target=lambda: server.accept()[0].sendall(b'over tcp')).start()
print(socket.create_connection(server.getsockname()).recv(100), flush=True)
import hashlib, os, sys
if left := int(sys.argv[1]):
    # To whoever connects to the published port, through passt.
    server = socket.create_server(('0.0.0.0', 8000))
    print('serving', flush=True)
    stream, sum = server.accept()[0], hashlib.sha256()
    stream.recv(1)
    piece = os.urandom(1 << 16)
    for n in range(left >> 16):
        stream.sendall(piece)
        sum.update(piece)
    stream.shutdown(socket.SHUT_WR)
    stream.recv(1)
    print(sum.hexdigest())
"
    );
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let has_passt = Command::new("passt").arg("--version").output().is_ok();
    let (network, publish) = match has_passt {
        true => ("user", vec!["-p".to_owned(), format!("{free}:8000")]),
        false => ("none", Vec::new()),
    };
    let mut arguments = vec!["python", "-e", WITHOUT_AVX, "--network", network];
    arguments.extend(publish.iter().map(String::as_str));
    let bytes = if has_passt { size("4194304", "1073741824") } else { "0" };
    arguments.extend(["--", "python3", "-c", &script, bytes]);
    let mut running = on_kvm(&arguments).within(PATIENCE).start();
    running.wait_for("over tcp'\n");
    let mut sum = String::new();
    if has_passt {
        running.wait_for("serving\n");
        let mut received = Vec::new();
        let mut stream = TcpStream::connect(free).expect("the published port");
        // Older passts finish the guest's handshake only with the first data: whoever connects speaks first.
        stream.write_all(b"?").expect("the guest is asked");
        stream.read_to_end(&mut received).expect("the guest sends");
        let digest: String = Sha256::digest(&received).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(received.len().to_string(), bytes);
        sum = format!("serving\n{digest}\n");
    }
    let outcome = running.finish();
    let process = "CompletedProcess(args=['sh', '-c', 'echo process; exit 3'], returncode=3, stdout=b'process\\n', stderr=b'')\n";
    outcome.exits(0).prints(&format!("True\n{}b'over tcp'\n{sum}", process.repeat(processes)));
}

#[test]
fn the_distribution_runs_in_an_empty_root() {
    let root = tempfile::tempdir().expect("a directory");
    let built = xtask(&["dist", "--output", &root.path().display().to_string()]).within(PATIENCE).run();
    built.exits(0);
    let image = xtask(&["build", "image", "hello"]).run();
    image.exits(0);
    // The whole of what it finds there: itself, an image, and /dev/kvm.
    copy(Path::new(image.text().trim()), &root.path().join("image"));
    fs::create_dir(root.path().join("dev")).expect("a directory");
    let made = Command::new("mknod").arg(root.path().join("dev/kvm")).args(["c", "10", "232"]).status();
    assert!(
        made.is_ok_and(|status| status.success()),
        "this test makes a device and changes its root: run it as root"
    );
    let ferry = |words: &[&str]| {
        Command::new("/usr/sbin/chroot")
            .arg(root.path())
            .arg("/ferry")
            .args(words)
            .env_clear()
            .output()
            .expect("chroot starts")
    };
    let version = ferry(&["version"]);
    assert!(version.status.success(), "{}", String::from_utf8_lossy(&version.stderr));
    let run = ferry(&["run", "--rm", "oci:/image", "echo", "out of nowhere"]);
    assert_eq!(
        String::from_utf8_lossy(&run.stdout),
        "out of nowhere\n",
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert_eq!(run.status.code(), Some(0));
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

#[test]
fn without_the_right_to_use_kvm_the_way_out_is_told() {
    let home = tempfile::tempdir().expect("a directory");
    let closed = home.path().join("closed");
    fs::write(&closed, "").expect("a file");
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0)).expect("closed to all");
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
