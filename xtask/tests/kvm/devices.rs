//! Devices as Linux and its programs use them, every byte looked at: a network through a tap, vsock in both directions, a
//! shared directory's mappings and locks, a disk. One guest for all of them, since on a KVM that emulates ring 0 its boot is the dearest part.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use sha2::{Digest, Sha256};

use crate::road::{on_kvm, size};
use crate::{PATIENCE, WITHOUT_AVX};

/// What runs in the guest; every line it says is compared. The host's end of the tap has the address 10.77.0.1.
const PROGRAM: &str = r#"
import fcntl, hashlib, mmap, os, random, socket, sys
size, connections, blocks, port, queues = map(int, sys.argv[1:])
wanted = {f'{way}-{n}' for way in ('rx', 'tx') for n in range(queues)}
print('queues', set(os.listdir('/sys/class/net/eth0/queues')) == wanted, flush=True)

# In through the tap, and out again.
stream, sum, left = socket.create_connection(('10.77.0.1', port)), hashlib.sha256(), size
while left:
    piece = stream.recv(min(left, 1 << 16))
    sum.update(piece)
    left -= len(piece)
print('in', sum.hexdigest(), flush=True)
piece, sum = os.urandom(1 << 16), hashlib.sha256()
for n in range(size >> 18):
    stream.sendall(piece)
    sum.update(piece)
stream.shutdown(socket.SHUT_WR)
print('out', sum.hexdigest(), flush=True)
stream.recv(1)

# To the host by vsock: as many connections at once, and then each says its number and gets it back.
streams = [socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) for n in range(connections)]
for stream in streams:
    stream.connect((2, 5000))
for n, stream in enumerate(streams):
    stream.sendall(b'%08d' % n)
right = 0
for n, stream in enumerate(streams):
    right += stream.recv(8, socket.MSG_WAITALL) == b'%08d' % n
print('echoes', right, flush=True)
[stream.close() for stream in streams]

# A shared directory: what is mapped is the host's, and so are its locks of both kinds.
file = os.open('/share/file', os.O_RDWR)
with mmap.mmap(file, 4096) as memory:
    print('mapped', memory[:4], flush=True)
    memory[:5] = b'guest'
    memory.flush()
def locks(*how):
    for lock in how:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
print('locks', *locks(fcntl.flock, fcntl.lockf), flush=True)

# From the host: it closes its half first, and is answered all the same.
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, 6000))
listener.listen()
print('listening', flush=True)
stream, peer = listener.accept()
text = b''
while piece := stream.recv(100):
    text += piece
stream.sendall(text.upper())
stream.close()
print('peer', peer[0], 'locks', *locks(fcntl.flock, fcntl.lockf), flush=True)

# A disk: blocks that tell their own numbers, in any order, read back from the disk and not from the page cache.
file = os.open('/verify', os.O_RDWR | os.O_CREAT)
block = lambda n, round: hashlib.sha256(b'%d %d' % (n, round)).digest() * 128
for round in range(2):
    order = random.sample(range(blocks), blocks)
    for n in order:
        os.pwrite(file, block(n, round), n * 4096)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    wrong = [n for n in random.sample(order, blocks) if os.pread(file, 4096, n * 4096) != block(n, round)]
    print('wrong blocks', wrong, flush=True)
"#;

/// A tap of the host, with an address. It goes with this.
struct Tap(String);

impl Tap {
    /// None where this user may not make one.
    fn new(queues: u32) -> Option<Tap> {
        let name = format!("fy{}", std::process::id());
        let ip =
            |words: &[&str]| Command::new("ip").args(words).status().is_ok_and(|status| status.success());
        let several: &[&str] = if queues > 1 { &["multi_queue"] } else { &[] };
        if !ip(&[&["tuntap", "add", &name, "mode", "tap", "vnet_hdr"], several].concat()) {
            return None;
        }
        let tap = Tap(name);
        assert!(ip(&["address", "add", "10.77.0.1/24", "dev", &tap.0]) && ip(&["link", "set", &tap.0, "up"]));
        Some(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.0]).status();
    }
}

/// Locks a whole file as programs do that know nothing of each other's threads (fcntl(2), `F_OFD_SETLK`).
fn lock_ranges(file: &File) {
    // SAFETY: all zeroes are a lock: from the file's beginning to its end, whatever that is.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: the structure is complete.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The host's end of the transfer: sends the bytes, and returns the sum of what comes back.
fn transfer(listener: TcpListener, bytes: Vec<u8>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the guest connects");
        stream.write_all(&bytes).expect("the guest reads");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("the guest writes");
        sum(&back)
    })
}

/// Sends back to every connection what comes, with a thread for each.
fn echo(at: &Path) {
    let listener = UnixListener::bind(at).expect("a socket");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    let _ = stream.write_all(&bytes[..length]);
                }
            });
        }
    });
}

#[test]
fn linux_uses_a_tap_vsock_and_a_disk_and_loses_nothing() {
    let queues = size(1, 2);
    let Some(tap) = Tap::new(queues) else {
        println!("left out: making a tap takes root");
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let vsock = directory.path().join("v");
    std::fs::create_dir(&vsock).expect("a directory");
    std::fs::set_permissions(&vsock, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("closed to others");
    echo(&vsock.join("vsock_5000"));
    let shared = directory.path().join("share");
    std::fs::create_dir(&shared).expect("a directory");
    std::fs::write(shared.join("file"), [&b"host"[..], &[0; 4092]].concat()).expect("a file");
    let locked = File::options().write(true).open(shared.join("file")).expect("a file");
    locked.lock().expect("a lock");
    lock_ranges(&locked);
    let listener = TcpListener::bind("10.77.0.1:0").expect("the tap's address");
    let port = listener.local_addr().expect("an address").port().to_string();
    let bytes: Vec<u8> =
        (0..size(4 << 20, 1 << 30)).map(|n: u32| (n.wrapping_mul(2654435761) >> 24) as u8).collect();
    let (length, in_sum) = (bytes.len().to_string(), sum(&bytes));
    let host = transfer(listener, bytes);

    let network = format!("tap={},ip=10.77.0.2/24,gateway=10.77.0.1,queues={queues}", tap.0);
    let queues = queues.to_string();
    let (connections, blocks) = (size("60", "1000"), size("128", "100000"));
    let vsock_directory = vsock.display().to_string();
    let volume = format!("{}:/share", shared.display());
    let mut running =
        on_kvm(&["python", "-e", WITHOUT_AVX, "--network", &network, "--vsock", &vsock_directory])
            .args(&["--cpus", &queues, "-v", &volume, "--"])
            .args(&["python3", "-c", PROGRAM, &length, connections, blocks, &port, &queues])
            .within(PATIENCE)
            .start();
    running.wait_for("listening\n");
    let written = std::fs::read(shared.join("file")).expect("a file");
    assert_eq!((&written[..5], written.len()), (&b"guest"[..], 4096));
    // Both of its locks go with the file.
    drop(locked);
    let mut stream = UnixStream::connect(vsock.join("vsock")).expect("the VM's socket");
    stream.write_all(b"CONNECT 6000\nfrom the host").expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("a half");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (greeting, answer) = answer.split_once('\n').unwrap_or_default();
    assert!(greeting.starts_with("OK "), "{greeting}");
    assert_eq!(answer, "FROM THE HOST");

    let outcome = running.finish();
    let out_sum = host.join().expect("the transfer ends");
    let wanted = format!(
        "queues True\nin {in_sum}\nout {out_sum}\nechoes {connections}\nmapped b'host'\nlocks False False\nlistening\n\
         peer 2 locks True True\nwrong blocks []\nwrong blocks []\n"
    );
    outcome.exits(0).prints(&wanted);
    assert!(!vsock.join("vsock").exists(), "the VM's socket goes with it");
}
