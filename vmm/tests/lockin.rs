//! What happens to a machine whose own code turns hostile after it is locked in. Where KVM cannot be used, the tests say so
//! and pass.

mod guest;

use ferry_vmm::backends::disk::{Access, Raw};
use ferry_vmm::backends::net::Port;
use ferry_vmm::backends::net::rate::Rates;
use ferry_vmm::machine::{Config, DiskConfig, Machine, NetworkConfig, ProbeError, Sandbox, probe};
use ferry_vmm::sandbox::{Lock, Role, STOPPED};
use guest::Script;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;

/// A backend that, at the guest's first kick, does what this process was started for.
struct Planted {
    deed: String,
    fd: UnixStream,
}

impl Port for Planted {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn receive(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.deed.as_str() {
            "open" => drop(std::fs::File::open("/etc/passwd")),
            // SAFETY: takes no pointer.
            "kill" => drop(unsafe { libc::kill(libc::getppid(), 0) }),
            // SAFETY: this request takes no pointer.
            "trace" => drop(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }),
            "nothing" => {}
            other => panic!("{other}"),
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a machine with a planted deed, in a process of its own.
#[test]
#[ignore = "run by the other tests"]
fn part() {
    let Ok(deed) = std::env::var("FERRY_PLANTED") else { return };
    // Behind the disk.
    const CARD: u64 = 0xd000_1000;
    const RINGS: u64 = 0x20_0000;
    // The card is set up with its receive queue alone, which is kicked; then there is time for the deed.
    let mut script = Script::default();
    for status in [0, 1, 3] {
        script = script.write(CARD + 0x70, status);
    }
    script = script.write(CARD + 0x24, 1).write(CARD + 0x20, 1).write(CARD + 0x70, 0xb).write(CARD + 0x38, 8);
    for (register, page) in [(0x80, 0), (0x90, 0x1000), (0xa0, 0x2000)] {
        script = script.write(CARD + register, (RINGS + page) as u32).write(CARD + register + 4, 0);
    }
    script = script.write(CARD + 0x44, 1).write(CARD + 0x70, 0xf).write(CARD + 0x50, 0);
    for _ in 0..5000 {
        script = script.read(CARD);
    }
    let (fd, _far) = UnixStream::pair().unwrap();
    let mut config = Config { memory_mib: 16, ..Config::new(script.reset().kernel()) };
    config.networks.push(NetworkConfig {
        mac: [2; 6],
        mtu: 1500,
        ports: vec![Box::new(Planted { deed, fd })],
        rates: Rates::default(),
        on_lost: Box::new(|error| panic!("{error}")),
    });
    // What gives no ranges back has a thread of its own, which serves devices and does nothing else.
    let file = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let backend = Box::new(Raw::from_file(file, Access::ReadWrite).unwrap());
    config.disks.push(DiskConfig { serial: "disk".into(), backend });
    config.sandbox = Sandbox::WholeProcess;
    let exit = Machine::new(config).unwrap().run();
    println!("came through: {exit:?}");
    // This thread is locked in and can do nothing for the test runner any more.
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(0) }
}

/// The environment of such a process. The test runner's threads have heaps of their own, which a machine's never have: the C
/// library looks into a file before it makes one smaller.
fn planted(deed: &str) -> [(&'static str, &str); 2] {
    [("FERRY_PLANTED", deed), ("MALLOC_ARENA_MAX", "1")]
}

#[test]
fn a_forbidden_call_ends_the_process_and_is_reported() {
    if let Err(error @ (ProbeError::Absent | ProbeError::Forbidden)) = probe() {
        println!("skipped: {error}");
        return;
    }
    for (deed, status) in [("nothing", 0), ("open", STOPPED), ("kill", STOPPED), ("trace", STOPPED)] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "part", "--ignored", "--nocapture"])
            .envs(planted(deed))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{deed}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        let reported = text.contains("the sandbox stopped a thread of the machine at system call");
        assert_eq!(reported, status == STOPPED, "{deed}: {text}");
    }
}

/// What strace, told to name threads and number calls, has seen of each thread once it was locked in: the thread's name
/// and the numbers of its calls.
fn calls_of_locked_threads(trace: &str) -> HashMap<String, HashSet<i64>> {
    let mut locked: HashMap<String, HashSet<i64>> = HashMap::new();
    for line in trace.lines() {
        // `1234<vcpu0> [ 16] ioctl(…) = 0`
        let Some((thread, rest)) = line.split_once("> [") else { continue };
        let Some((number, call)) = rest.split_once("] ") else { continue };
        let Ok(number) = number.trim().parse() else { continue };
        if call.contains("SECCOMP_SET_MODE_FILTER") {
            locked.entry(thread.to_owned()).or_default();
        } else if let Some(calls) = locked.get_mut(thread)
            && !call.starts_with("<... seccomp resumed")
        {
            calls.insert(number);
        }
    }
    locked
}

#[test]
fn a_machine_asks_for_nothing_that_its_locks_forbid() {
    if let Err(error @ (ProbeError::Absent | ProbeError::Forbidden)) = probe() {
        println!("skipped: {error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let output = Command::new("strace")
        .args(["--follow-forks", "--decode-pids=comm", "--syscall-number", "--output"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "part", "--ignored", "--nocapture"])
        .envs(planted("nothing"))
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return println!("skipped: no strace: {error}"),
    };
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let threads = calls_of_locked_threads(&trace);
    let roles = [("<vcpu", Role::Vcpu), ("<io", Role::Devices), ("<part", Role::Main)];
    for (name, role) in roles {
        let of_role: Vec<_> = threads.iter().filter(|(thread, _)| thread.contains(name)).collect();
        assert!(!of_role.is_empty(), "no thread {name} was locked in: {:?}", threads.keys());
        let allowed = Lock::allowed(role);
        for (thread, calls) in of_role {
            let outside: Vec<_> = calls.iter().filter(|call| !allowed.contains(call)).collect();
            assert!(outside.is_empty(), "{thread}> made calls {outside:?}");
            assert!(!calls.is_empty(), "{thread}> made none, so that this shows nothing");
        }
    }
}
