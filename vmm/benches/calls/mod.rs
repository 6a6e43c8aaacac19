//! System calls of a batch of requests, counted from outside: a child of this process serves batches, and is traced
//! (ptrace(2), `PTRACE_SYSCALL`).

use super::{BATCH, BLOCK, PACKET, file, frame, offer_reads, wait_for_batch};
use ferry_vmm::backends::net::rate::Rates;
use ferry_vmm::backends::net::{Passt, Port};
use ferry_vmm::devices::virtio::blk::Blk;
use ferry_vmm::devices::virtio::console::{Console, PortConfig, Size};
use ferry_vmm::devices::virtio::net::Net;
use ferry_vmm::devices::virtio::testing::{BUFFERS, Driver};
use ferry_vmm::devices::virtio::vsock::Vsock;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

/// Batches that are served before counting begins, and how many count.
const BEFORE: u64 = 8;
const COUNTED: u64 = 32;

/// What serves one batch, of how many requests; and system calls in it that are not the device's.
type Batch = (Box<dyn FnMut()>, u64);

/// A device's name in its metric, and what makes it.
const DEVICES: [(&str, fn() -> Batch); 5] = [
    ("blk_file", blk),
    ("net_passt_send", net_send),
    ("net_passt_receive", net_receive),
    ("vsock_send", vsock),
    ("console_send", console),
];

/// Counts for every device, besides how it is told of a batch and tells of its end: `epoll_wait`, and what is done with event
/// descriptors.
pub fn each(say: impl Fn(&str, &str, f64)) {
    for (name, make) in DEVICES {
        let calls = |batches| {
            traced(move || {
                let (mut serve, _) = make();
                (0..batches).for_each(|_| serve());
            })
        };
        let foreign = make().1;
        let counted = calls(BEFORE + COUNTED).zip(calls(BEFORE));
        match counted {
            Some((all, before)) => {
                let calls = all.saturating_sub(before) as f64 / COUNTED as f64 - foreign as f64;
                say(&format!("{name}_system_calls"), "system calls a batch", calls);
            }
            None => eprintln!("no system calls are counted: a child cannot be traced"),
        }
    }
}

/// How many such system calls `work` makes in a process of its own; those of threads that it starts are not counted.
fn traced(work: impl FnOnce()) -> Option<u64> {
    // SAFETY: this process has one thread now, so its child finds every lock open.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: none of these calls takes a pointer that is used.
        unsafe {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) != 0 {
                libc::_exit(1);
            }
            libc::raise(libc::SIGSTOP);
        }
        work();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let (mut stops, mut status) = (0u64, 0);
    loop {
        // SAFETY: the status is a complete value of this function's, and the child is this process's own.
        if unsafe { libc::waitpid(child, &mut status, 0) } != child {
            return None;
        }
        if !libc::WIFSTOPPED(status) {
            break;
        }
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: all zeroes are a valid set of registers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the request fills in the registers of a child that has stopped.
        unsafe { libc::ptrace(libc::PTRACE_GETREGS, child, none, &raw mut registers) };
        let is_call = libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80;
        let is_event = match registers.orig_rax as libc::c_long {
            libc::SYS_epoll_wait => true,
            libc::SYS_read | libc::SYS_write => registers.rdx == size_of::<u64>() as u64,
            _ => false,
        };
        stops += u64::from(is_call && !is_event);
        // SAFETY: both requests take numbers, for a child that has stopped.
        unsafe {
            libc::ptrace(libc::PTRACE_SETOPTIONS, child, none, libc::PTRACE_O_TRACESYSGOOD as libc::c_long);
            libc::ptrace(libc::PTRACE_SYSCALL, child, none, none);
        }
    }
    // Each call stops twice.
    (libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0).then_some(stops / 2)
}

fn blk() -> Batch {
    let mut driver = Driver::start(Box::new(Blk::new(file(), "bench", 1).unwrap()), u64::MAX);
    let serve = move || {
        offer_reads(&mut driver);
        driver.kick(0);
        wait_for_batch(&mut driver);
    };
    (Box::new(serve), 0)
}

fn card(port: Box<dyn Port>) -> Driver {
    let lost = Box::new(|error: io::Error| panic!("{error}"));
    Driver::start(Box::new(Net::new([2; 6], 1500, vec![port], Rates::default(), lost).unwrap()), u64::MAX)
}

/// Where the buffer of this number lies.
fn place(number: usize) -> u64 {
    BUFFERS + 0x1_0000 + (number * 2 * BLOCK) as u64
}

/// Somebody who reads all that comes, in a thread of its own.
fn drain(mut stream: impl Read + Send + 'static) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(1..) = stream.read(&mut buffer) {}
    });
}

fn net_send() -> Batch {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drain(theirs);
    let mut driver = card(Box::new(Passt::new(ours).unwrap()));
    let frame = frame();
    (0..BATCH).for_each(|number| driver.put(place(number), &frame));
    let serve = move || {
        for number in 0..BATCH {
            driver.add(1, &[(place(number), frame.len() as u32, false)]);
        }
        driver.kick(1);
        assert_eq!(driver.used(1).len(), BATCH);
    };
    (Box::new(serve), 0)
}

fn net_receive() -> Batch {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut driver = card(Box::new(Passt::new(ours).unwrap()));
    let frame = frame();
    let frame = &frame[12..];
    let batch = [&(frame.len() as u32).to_be_bytes()[..], frame].concat().repeat(BATCH);
    let serve = move || {
        for number in 0..BATCH {
            driver.add(0, &[(place(number), 12 + PACKET as u32, true)]);
        }
        theirs.write_all(&batch).unwrap();
        driver.kick(0);
        assert_eq!(driver.used(0).len(), BATCH);
    };
    (Box::new(serve), 1)
}

fn vsock() -> Batch {
    const CREDIT: u32 = 1 << 20;
    let place_of_socket = tempfile::tempdir().unwrap();
    let socket = place_of_socket.path().join("vsock");
    let listener = UnixListener::bind(place_of_socket.path().join("vsock_5")).unwrap();
    let mut driver = Driver::start(Box::new(Vsock::new(3, socket).unwrap()), u64::MAX);
    let packet = |operation: u16, length: u32| {
        let mut packet: Vec<u8> = [3u64, 2].map(u64::to_le_bytes).concat();
        packet.extend([1234u32, 5, length].map(u32::to_le_bytes).concat());
        packet.extend([1u16, operation].map(u16::to_le_bytes).concat());
        packet.extend([0, CREDIT, 0].map(u32::to_le_bytes).concat());
        packet
    };
    driver.put(BUFFERS, &packet(1, 0));
    driver.add(1, &[(BUFFERS, 44, false)]);
    driver.kick(1);
    drain(listener.accept().unwrap().0);
    driver.put(BUFFERS, &packet(5, PACKET as u32));
    let serve = move || {
        let _stays = &place_of_socket;
        // Credit is told now and then: it needs a buffer.
        driver.used(0);
        driver.add(0, &[(BUFFERS + 0x8000, 64, true)]);
        for _ in 0..BATCH {
            driver.add(1, &[(BUFFERS, 44, false), (place(0), PACKET as u32, false)]);
        }
        driver.kick(1);
        assert!(!driver.used(1).is_empty());
    };
    (Box::new(serve), 0)
}

/// Linux writes one chain and waits for it.
fn console() -> Batch {
    let output = File::options().write(true).open("/dev/null").unwrap();
    let port = PortConfig { name: String::new(), is_console: true, input: None, output };
    let mut driver =
        Driver::start(Box::new(Console::new(vec![port], Size::new().unwrap()).unwrap()), u64::MAX);
    let serve = move || {
        driver.add(1, &[(place(0), 80, false)]);
        driver.kick(1);
        assert_eq!(driver.used(1).len(), 1);
    };
    (Box::new(serve), 0)
}
