//! What a thread may ask of the system: an allow list for each role, enforced by seccomp.

use super::SandboxError;
use super::filter::{self, Condition, Rules};
use libc::sock_filter;
use std::io;
use std::ptr;
use std::sync::Arc;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs a vCPU and answers for its accesses to registers.
    Vcpu,
    /// Serves the devices' queues.
    Devices,
    /// Serves devices' queues, waits for the machine's end, stops its threads and tells of it. Only where the process is the
    /// machine's own.
    Main,
    /// Waits at a descriptor.
    Quiet,
    /// Speaks with a debugger that connects to its socket.
    Debugger,
    /// Serves files of a directory that the process is enclosed in.
    Files,
}

/// What every role needs: memory, locks, events, their own end, and descriptors that are open already.
const COMMON: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_futex,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_clock_gettime,
    // The C library's allocator counts the processors when a process has many threads.
    libc::SYS_sched_getaffinity,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What devices need besides: waiting, files, and the sockets behind vsock.
const DEVICES: &[libc::c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_restart_syscall,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_pwrite64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    // Rings that are restricted to the disks' files; no others can be made.
    libc::SYS_io_uring_enter,
    libc::SYS_getrandom,
    // The timers of rate limits.
    libc::SYS_timerfd_settime,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
];

/// What serving files takes: everything that is done with a file, and nothing else.
const FILES: &[libc::c_long] = &[
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_recvfrom,
    libc::SYS_writev,
    libc::SYS_getrandom,
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_fstatfs,
    libc::SYS_flock,
    libc::SYS_getxattr,
    libc::SYS_listxattr,
    libc::SYS_setxattr,
    libc::SYS_removexattr,
];

/// What serving files does with descriptors besides: locks, and duplicates for itself.
const FILE_CONTROLS: [libc::c_int; 3] = [libc::F_OFD_SETLK, libc::F_OFD_GETLK, libc::F_DUPFD_CLOEXEC];

/// What a vCPU's thread asks of KVM: `KVM_RUN`, and the state that explains or repairs an exit (`linux/kvm.h`).
mod kvm {
    pub const RUN: u64 = 0xae80;
    pub const GET_REGS: u64 = 0x8090_ae81;
    pub const SET_REGS: u64 = 0x4090_ae82;
    pub const GET_SREGS: u64 = 0x8138_ae83;
    pub const GET_VCPU_EVENTS: u64 = 0x8040_ae9f;
    pub const SET_VCPU_EVENTS: u64 = 0x4040_aea0;
    pub const KVMCLOCK_CTRL: u64 = 0xaead;
    // What a debugger asks of a vCPU besides.
    pub const GET_FPU: u64 = 0x81a0_ae8c;
    pub const SET_FPU: u64 = 0x41a0_ae8d;
    pub const SET_GUEST_DEBUG: u64 = 0x4048_ae9b;
    pub const ALL: [u64; 10] = [
        RUN,
        GET_REGS,
        SET_REGS,
        GET_SREGS,
        GET_VCPU_EVENTS,
        SET_VCPU_EVENTS,
        KVMCLOCK_CTRL,
        GET_FPU,
        SET_FPU,
        SET_GUEST_DEBUG,
    ];
}

/// What the devices' thread asks of its descriptors: sockets that do not block, which frames a tap's guest takes, and that KVM
/// learns of memory that is plugged (`KVM_SET_USER_MEMORY_REGION`).
const DEVICE_REQUESTS: [u64; 4] = [libc::FIONBIO, libc::TUNSETOFFLOAD, libc::TUNSETQUEUE, 0x4020_ae46];

/// A filter, ready to be entered by any number of threads.
#[derive(Clone, Debug)]
pub struct Lock(Arc<[sock_filter]>);

impl Lock {
    /// Builds the lock for a role.
    pub fn new(role: Role) -> Result<Self, SandboxError> {
        Ok(Self(filter::compile(&rules(role))?.into()))
    }

    /// The numbers of the system calls that a role may make, some with certain arguments only.
    pub fn allowed(role: Role) -> Vec<i64> {
        rules(role).into_keys().collect()
    }

    /// Locks the calling thread in, for good.
    pub fn enter(&self) -> Result<(), SandboxError> {
        drop_capabilities()?;
        self.enter_with_capabilities()
    }

    /// The same, for a thread that goes on having the few capabilities that its enclosure has left it.
    pub fn enter_with_capabilities(&self) -> Result<(), SandboxError> {
        Ok(filter::install(&self.0)?)
    }
}

fn rules(role: Role) -> Rules {
    let mut rules: Rules = COMMON.iter().map(|number| (*number, Vec::new())).collect();
    // Memory, but none that can be executed.
    let not_executable = Condition { argument: 2, mask: libc::PROT_EXEC as u32, value: 0 };
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![not_executable]);
    }
    // Rust's library checks that a descriptor is open before it closes it, in builds with assertions.
    rules.insert(libc::SYS_fcntl, vec![is(1, libc::F_GETFD as u64)]);
    let requests: &[u64] = match role {
        Role::Vcpu => &kvm::ALL,
        Role::Devices | Role::Main => {
            rules.extend(DEVICES.iter().map(|number| (*number, Vec::new())));
            rules.insert(libc::SYS_socket, vec![is(0, libc::AF_UNIX as u64)]);
            // Who is at the other end of a socket.
            rules.insert(libc::SYS_getsockopt, vec![is(2, libc::SO_PEERCRED as u64)]);
            if role == Role::Main {
                // Signals to the process's own threads, and the sockets' files.
                rules.insert(libc::SYS_getpid, Vec::new());
                rules.insert(libc::SYS_unlink, Vec::new());
                let own = u64::from(std::process::id());
                rules.insert(libc::SYS_tgkill, vec![is(0, own)]);
            }
            &DEVICE_REQUESTS
        }
        Role::Quiet => &[],
        Role::Debugger => {
            rules.extend([libc::SYS_poll, libc::SYS_accept4].map(|number| (number, Vec::new())));
            rules.insert(libc::SYS_getsockopt, vec![is(2, libc::SO_PEERCRED as u64)]);
            &[]
        }
        Role::Files => {
            rules.extend(FILES.iter().map(|number| (*number, Vec::new())));
            let controls = rules.entry(libc::SYS_fcntl).or_default();
            for control in FILE_CONTROLS {
                controls.push(is(1, control as u64));
            }
            &[]
        }
    };
    // A rule without conditions would allow every request.
    if !requests.is_empty() {
        rules.insert(libc::SYS_ioctl, requests.iter().map(|request| is(1, *request)).collect());
    }
    rules
}

/// That an argument's low 32 bits are those of `value`.
fn is(argument: u8, value: u64) -> Condition {
    Condition { argument, mask: u32::MAX, value: value as u32 }
}

/// Gives up every capability of the calling thread, those it could regain included.
pub(super) fn drop_capabilities() -> io::Result<()> {
    keep_capabilities(0)
}

/// The same but for those of the first 32 that are in `kept`, as far as the thread has them.
pub(super) fn keep_capabilities(kept: u32) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two sets of 32 bits each.
    const VERSION: u32 = 0x2008_0522;
    let check = |result| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let header = [VERSION, 0];
    let mut sets = [0u32; 6];
    // SAFETY: the two arrays are what `capget` and `capset` of that version read and write: version and thread (0: this
    // one), then effective, permitted and inheritable bits, twice.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    let permitted = sets[1] & kept;
    let sets = [permitted, permitted, 0, 0, 0, 0];
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

/// The exit status of a process that its sandbox has stopped: as of one that a SIGSYS ended.
pub const STOPPED: i32 = 128 + libc::SIGSYS;

/// Installs, for the whole process, what happens at a system call that a lock forbids: a line on standard error, and the
/// end of the process with status [`STOPPED`].
pub fn install_report() -> io::Result<()> {
    extern "C" fn forbidden(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel passes a complete siginfo of a SIGSYS: signal, errno and code are followed by the
        // address of the call, the number of the call and the architecture, in 4-byte units from offset 16.
        let number = unsafe { *info.cast::<u32>().add(6) };
        let mut text = *b"ferry: the sandbox stopped a thread of the machine at system call      \n";
        let (mut rest, mut at) = (number, text.len() - 2);
        loop {
            text[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 || text[at - 1] != b' ' {
                break;
            }
            at -= 1;
        }
        // SAFETY: both calls are allowed in a signal handler and by every lock; the text is as long as said.
        unsafe {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
            libc::_exit(STOPPED);
        }
    }
    // SAFETY: an all-zero sigaction is a valid one, filled in below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = forbidden as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is complete, and its handler does only what handlers may.
    match unsafe { libc::sigaction(libc::SIGSYS, &action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    #[test]
    fn a_vcpu_gets_by_with_twenty_system_calls() {
        assert!(Lock::allowed(Role::Vcpu).len() <= 20);
    }

    /// Plays the part named in the environment, in a process of its own.
    #[test]
    #[ignore = "run by the other tests"]
    fn part() {
        let Ok(part) = std::env::var("FERRY_SANDBOX_PART") else { return };
        install_report().unwrap();
        let role = if part.starts_with("vcpu") { Role::Vcpu } else { Role::Devices };
        let lock = Lock::new(role).unwrap();
        std::thread::spawn(move || {
            let file = tempfile::tempfile().unwrap();
            lock.enter().unwrap();
            match part.split('-').nth(1).unwrap() {
                "open" => drop(std::fs::File::open("/etc/hostname")),
                "exec" => drop(Command::new("/bin/true").status()),
                // SAFETY: neither call touches memory of this process.
                "kill" => drop(unsafe { libc::kill(1, 0) }),
                // SAFETY: a mapping that nobody uses.
                "executable" => drop(unsafe {
                    libc::mmap(
                        ptr::null_mut(),
                        4096,
                        libc::PROT_EXEC,
                        libc::MAP_PRIVATE | libc::MAP_ANON,
                        -1,
                        0,
                    )
                }),
                // SAFETY: `socket` takes no pointers.
                "netlink" => drop(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) }),
                // SAFETY: as above; the request reads and writes a number that is not given.
                "interfaces" => drop(unsafe {
                    let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
                    libc::ioctl(socket, libc::SIOCGIFINDEX, ptr::null_mut::<libc::c_void>())
                }),
                // SAFETY: as above.
                "internet" => drop(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }),
                "work" => {
                    let mut memory = vec![1u8; 10 << 20];
                    memory.resize(30 << 20, 2);
                    if role == Role::Devices {
                        file.sync_data().unwrap();
                    }
                    assert_eq!(std::thread::current().name(), None);
                }
                other => panic!("{other}"),
            }
        })
        .join()
        .unwrap();
        println!("came through");
    }

    fn play(part: &str) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sandbox::lock::tests::part", "--ignored", "--nocapture"])
            .env("FERRY_SANDBOX_PART", part)
            .output()
            .unwrap()
    }

    #[test]
    fn work_comes_through() {
        for part in ["vcpu-work", "devices-work"] {
            let output = play(part);
            assert!(String::from_utf8_lossy(&output.stdout).contains("came through"), "{output:?}");
        }
    }

    #[test]
    fn what_is_forbidden_ends_the_process_and_is_reported() {
        let vcpu = ["vcpu-open", "vcpu-kill", "vcpu-executable"];
        let devices = ["devices-open", "devices-internet", "devices-netlink", "devices-interfaces"];
        for part in vcpu.into_iter().chain(devices) {
            let output = play(part);
            assert_eq!(output.status.code(), Some(STOPPED), "{part}: {output:?}");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(
                text.contains("ferry: the sandbox stopped a thread of the machine at system call"),
                "{text}"
            );
        }
    }

    #[test]
    fn no_program_can_be_started() {
        // The library holds signals back while it starts a program, so there is no report, only the end.
        let output = play("devices-exec");
        assert!(
            !output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("came through")
        );
    }
}
