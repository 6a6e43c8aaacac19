//! An ordinary user who may open /dev/kvm, and no more: a python with threads, processes, loopback, and a port that is
//! published through passt.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sha2::{Digest, Sha256};

use crate::WITHOUT_AVX;
use crate::ferry::{Ferry, children, image};
use crate::road::size;

/// Somebody who is nobody else, and a group whose members may open /dev/kvm.
const USER: u32 = 54321;
const GROUP: u32 = 54322;

/// What runs in the guest: how many threads, how many processes, and how many bytes to whoever connects to port 8000.
const PROGRAM: &str = r#"
import hashlib, os, socket, subprocess, sys, threading
threads, processes, left = map(int, sys.argv[1:])
done = []
started = [threading.Thread(target=lambda n=n: done.append(n)) for n in range(threads)]
[t.start() for t in started]; [t.join() for t in started]
print(sorted(done) == list(range(threads)))
for n in range(processes):
    print(subprocess.run(['sh', '-c', 'echo process; exit 3'], capture_output=True))
server = socket.create_server(('127.0.0.1', 0))
threading.Thread(target=lambda: server.accept()[0].sendall(b'over tcp')).start()
print(socket.create_connection(server.getsockname()).recv(100), flush=True)
if left:
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
"#;

/// Makes what the user finds: a home of its own, and below it by bind mounts what lies where only root looks. In a mount
/// namespace of its own, /dev/kvm is its group's.
const BECOME_USER: &str = r#"
set -e
mount --bind "$1/kvm" /dev/kvm
shift
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"#;

/// Starts `ferry run` of this image as the user.
fn run(ferry: &Ferry, image: &Path, words: &[&str]) -> Child {
    let place = ferry.home.path();
    let [home, program, kernel, initrd, layout] =
        ["home", "ferry", "vmlinux", "initrd", "image"].map(|name| place.join(name));
    fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("open to others");
    fs::DirBuilder::new().mode(0o700).create(&home).expect("a directory");
    chown(&home, Some(USER), Some(USER)).expect("this test becomes another user: run it as root");
    fs::create_dir(&layout).expect("a directory");
    for file in [&program, &kernel, &initrd] {
        fs::write(file, "").expect("a file");
    }
    let device = place.join("kvm");
    let made = Command::new("mknod").arg("--mode=0660").arg(&device).args(["c", "10", "232"]).status();
    assert!(made.is_ok_and(|status| status.success()), "this test makes a device: run it as root");
    chown(&device, Some(0), Some(GROUP)).expect("the group's");

    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", BECOME_USER, "sh"]).arg(place);
    for (from, to) in [
        (&ferry.program, &program),
        (&ferry.kernel, &kernel),
        (&ferry.initrd, &initrd),
        (&image.to_owned(), &layout),
    ] {
        command.arg(from).arg(to);
    }
    let (user, group) = (USER.to_string(), GROUP.to_string());
    command.args(["--", "setpriv", "--reuid", &user, "--regid", &user, "--groups", &group]);
    command.args(["--inh-caps=-all", "--bounding-set=-all", "--"]).arg(&program).arg("run").args(words);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", &home).current_dir(&home);
    command.env("FERRY_KERNEL", &kernel).env("FERRY_INITRD", &initrd);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("unshare starts")
}

/// What the kernel says of a process, by name.
fn status_of(process: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The VM's process is locked in as far as this host lets an ordinary user; where it does not, that is said.
fn is_locked_in(ferry: u32) {
    let vms = children(ferry, "ferry-vm");
    let [vm] = vms[..] else { panic!("one VM: {vms:?}") };
    let user = USER.to_string();
    assert_eq!(status_of(vm, "Uid"), [user.as_str(); 4].join(" "));
    assert_eq!(status_of(vm, "NoNewPrivs"), "1");
    for name in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status_of(vm, name), 16), Ok(0), "{name}");
    }
    for task in fs::read_dir(format!("/proc/{vm}/task")).expect("a process").flatten() {
        let status = fs::read_to_string(task.path().join("status")).expect("a thread");
        assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    }
    let root: Vec<_> = fs::read_dir(format!("/proc/{vm}/root")).expect("a root").flatten().collect();
    // The run's own directory: the sockets of its vsock, and nothing else.
    let names: Vec<_> = root.iter().map(|entry| entry.file_name()).collect();
    assert!(names.iter().all(|name| name == "vsock" || name == "empty"), "{names:?}");
}

#[test]
fn an_ordinary_users_python_has_threads_processes_loopback_and_a_published_port() {
    let ferry = Ferry::new();
    let (threads, processes) = (size(3, 100), size(1, 50));
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let has_passt = Command::new("passt").arg("--version").output().is_ok();
    let network = if has_passt { "user" } else { "none" };
    let published = format!("{free}:8000");
    let mut words = vec!["--rm", "-e", WITHOUT_AVX, "--network", network];
    if has_passt {
        words.extend(["-p", published.as_str()]);
    }
    let bytes = if has_passt { size(4 << 20, 1 << 30) } else { 0 };
    let numbers = [threads, processes, bytes].map(|number: usize| number.to_string());
    let layout = image("python");
    let place = format!("oci:{}", ferry.home.path().join("image").display());
    words.extend([place.as_str(), "python3", "-c", PROGRAM]);
    words.extend(numbers.iter().map(String::as_str));

    let mut running = run(&ferry, &layout, &words);
    let mut stdout = BufReader::new(running.stdout.take().expect("a pipe"));
    let mut told = String::new();
    while !told.ends_with("over tcp'\n") && stdout.read_line(&mut told).is_ok_and(|read| read > 0) {}
    if !told.ends_with("over tcp'\n") {
        let output = running.wait_with_output().expect("it ends");
        panic!("{}: {told}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    is_locked_in(running.id());
    let mut sum = String::new();
    if has_passt {
        stdout.read_line(&mut told).expect("its word");
        let mut received = Vec::new();
        let mut stream = TcpStream::connect(free).expect("the published port");
        // Older passts finish the guest's handshake only with the first data: whoever connects speaks first.
        stream.write_all(b"?").expect("the guest is asked");
        stream.read_to_end(&mut received).expect("the guest sends");
        let digest: String = Sha256::digest(&received).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(received.len(), bytes);
        sum = format!("serving\n{digest}\n");
    }
    stdout.read_to_string(&mut told).expect("the rest");
    let output = running.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let process = "CompletedProcess(args=['sh', '-c', 'echo process; exit 3'], returncode=3, stdout=b'process\\n', stderr=b'')\n";
    assert_eq!(told, format!("True\n{}b'over tcp'\n{sum}", process.repeat(processes)), "{said}");
    println!("{said}");
}
