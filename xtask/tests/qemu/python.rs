//! Python: threads, processes, and a network of the guest's own.

use crate::road::{on_qemu, size};

#[test]
fn threads_run_and_join() {
    let script = "
import threading, queue
q = queue.Queue()
threads = [threading.Thread(target=lambda n=n: q.put(sum(range(n * 1000)))) for n in range(50)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(q.get() for _ in threads) == sum(sum(range(n * 1000)) for n in range(50)))
";
    on_qemu(&["python", "--cpus", "2", "--", "python3", "-c", script]).run().exits(0).prints("True\n");
}

#[test]
fn subprocesses_start_and_their_statuses_come_back() {
    let rounds = size(5, 200);
    let script = format!(
        "
import subprocess, sys
for n in range({rounds}):
    done = subprocess.run([sys.executable, '-Sc', f'import sys; print({{n}}); sys.exit({{n}} % 100)'], capture_output=True)
    assert done.stdout == b'%d\\n' % n and done.returncode == n % 100, done
print('all', {rounds})
"
    );
    on_qemu(&["python", "--", "python3", "-c", &script]).run().exits(0).prints(&format!("all {rounds}\n"));
}

#[test]
fn a_tcp_server_on_loopback_answers() {
    let bytes = size(4 << 20, 1 << 30);
    let script = format!(
        "
import hashlib, socket, threading
size = {bytes}
chunk = bytes(range(256)) * 256
server = socket.create_server(('127.0.0.1', 0))
def serve():
    peer, _ = server.accept()
    left = size
    while left:
        left -= peer.send(chunk[:min(left, len(chunk))])
    peer.close()
threading.Thread(target=serve).start()
got = 0
with socket.create_connection(server.getsockname()) as client:
    while data := client.recv(1 << 16):
        got += len(data)
print(got == size)
with socket.create_server(('::1', 0), family=socket.AF_INET6) as six:
    print(six.getsockname()[0])
"
    );
    on_qemu(&["python", "--", "python3", "-c", &script]).run().exits(0).prints("True\n::1\n");
}
