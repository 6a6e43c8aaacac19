//! Processes: making, joining, limiting and ending them.

use alloc::ffi::CString;

use linux_raw_sys::general as c;
use linux_raw_sys::prctl as p;
use linux_raw_sys::ptrace::SECCOMP_SET_MODE_FILTER;
use syscalls::{Sysno, syscall};

use super::{Fd, Result, Room, uninterrupted};
use crate::prelude::*;
use crate::spec::annotation::Scheduler;

pub use linux_raw_sys::general::{
    CLONE_INTO_CGROUP, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME,
    CLONE_NEWUSER, CLONE_NEWUTS, CLONE_PARENT, LINUX_REBOOT_CMD_CAD_OFF, LINUX_REBOOT_CMD_HALT,
    LINUX_REBOOT_CMD_POWER_OFF, LINUX_REBOOT_CMD_RESTART, SIGCHLD, SIGINT, SIGKILL, SIGPWR, SIGTERM,
};

/// The two sides of a [`fork`].
pub enum Forked {
    /// The new process.
    Child,
    /// The old one: the child's process id, which is the child's until it is collected.
    Parent(i32),
}

/// Forks, into new namespaces (`CLONE_NEW*`) and into a cgroup if one is given. With `CLONE_PARENT` the new process is a
/// sister of this one.
///
/// # Safety
/// The program must have a single thread, so that the child's copy of memory is consistent.
pub unsafe fn fork(flags: u32, cgroup: Option<&Fd>) -> Result<Forked> {
    let (into, cgroup) = cgroup.map_or((0, 0), |cgroup| (c::CLONE_INTO_CGROUP, cgroup.raw() as u64));
    // A sister ends with the signal that this one ends with.
    let signal = if flags & CLONE_PARENT == 0 { SIGCHLD } else { 0 };
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
    // cgroup.
    let arguments = [u64::from(flags) | into, 0, 0, 0, signal.into(), 0, 0, 0, 0, 0, cgroup];
    // SAFETY: without CLONE_VM the child gets a copy of all memory, so returning twice is sound in a program
    // of one thread (the caller's promise); the arguments outlive the call.
    let pid = unsafe { syscall!(Sysno::clone3, arguments.as_ptr(), size_of_val(&arguments)) }?;
    Ok(if pid == 0 { Forked::Child } else { Forked::Parent(pid as i32) })
}

/// The kernel's own struct sigaction: handler (SIG_IGN), flags, restorer, mask.
static IGNORE: [usize; 4] = [1, 0, 0, 0];

/// IOPRIO_WHO_PROCESS (include/uapi/linux/ioprio.h).
const WHO_PROCESS: u32 = 1;

calls! { Result<Fd>;
    /// A descriptor of a process.
    pub process(pid: i32) = pidfd_open(pid, 0);
}

calls! { Result<()>;
    /// Enters namespaces: all of `kinds` (`CLONE_NEW*`) of a process by its descriptor, or the one that a namespace
    /// file stands for.
    pub enter(fd: &Fd, kinds: u32) = setns(fd.raw(), kinds);

    /// Moves into new namespaces.
    pub unshare(kinds: u32) = unshare(kinds);

    signal_process(process: &Fd, signal: u32) = pidfd_send_signal(process.raw(), signal, 0, 0);

    /// Sends a signal; `pid` as kill(2) takes it.
    pub kill(pid: i32, signal: u32) = kill(pid, signal);

    /// Sets which signals are held back.
    pub set_blocked_signals(set: SignalSet) =
        rt_sigprocmask(c::SIG_SETMASK, &raw const set, 0, size_of::<SignalSet>());

    /// Starts a new session with this process as its leader.
    pub new_session() = setsid();

    /// Sets how this process is scheduled.
    pub set_scheduler(scheduler: &Scheduler) = sched_setattr(0, core::ptr::from_ref(scheduler), 0);

    /// Sets the execution domain (`PER_*`).
    pub set_personality(personality: u32) = personality(personality);

    /// Sets the supplementary groups.
    pub set_groups(groups: &[u32]) = setgroups(groups.len(), groups.as_ptr());

    /// Sets all of this process's group ids.
    pub set_gid(gid: u32) = setresgid(gid, gid, gid);

    /// Sets all of this process's user ids.
    pub set_uid(uid: u32) = setresuid(uid, uid, uid);

    /// Sets the host name of this UTS namespace.
    pub set_hostname(name: &str) = sethostname(name.as_ptr(), name.len());

    /// Sets the NIS domain name of this UTS namespace.
    pub set_domainname(name: &str) = setdomainname(name.as_ptr(), name.len());

    /// What is done to the machine (`LINUX_REBOOT_CMD_*`); what is not yet written to disk is lost.
    pub reboot(command: u32) = reboot(c::LINUX_REBOOT_MAGIC1, c::LINUX_REBOOT_MAGIC2, command, 0);

    /// A resource limit of this process (struct rlimit64).
    pub set_limit(resource: u32, soft: u64, hard: u64) = prlimit64(0, resource, [soft, hard].as_ptr(), 0);

    /// Sets this process's I/O priority: the class at bit 13, and the level.
    pub set_io_priority(priority: u32) = ioprio_set(WHO_PROCESS, 0, priority);

    /// Lets children end without being waited for.
    pub ignore_children() = rt_sigaction(c::SIGCHLD, IGNORE.as_ptr(), 0, size_of::<SignalSet>());

    /// Header and two data records, as capset(2) has them.
    set_capability_words(header: &[u32; 2], data: &[[u32; 3]; 2]) = capset(header.as_ptr(), data.as_ptr());

    install_filter(flags: u32, program: &Program) = seccomp(SECCOMP_SET_MODE_FILTER, flags, &raw const *program);

    /// Takes a capability out of the bounding set; `EINVAL` for one that the kernel does not know.
    pub drop_bounding(capability: u32) = prctl(p::PR_CAPBSET_DROP, capability, 0, 0, 0);

    /// Adds a capability to the ambient set.
    pub raise_ambient(capability: u32) = prctl(p::PR_CAP_AMBIENT, p::PR_CAP_AMBIENT_RAISE, capability, 0, 0);

    /// Keeps permitted capabilities over the next change of user.
    pub keep_capabilities() = prctl(p::PR_SET_KEEPCAPS, 1, 0, 0, 0);

    /// Forbids gaining privileges by exec.
    pub no_new_privileges() = prctl(p::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);

    /// Closes this process's memory and /proc files to others of the same user, until its next exec.
    pub close_to_tracers() = prctl(p::PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/// Arguments or an environment for [`execute`].
pub fn c_strings(strings: &[String]) -> Result<Vec<CString>> {
    strings.iter().map(|text| CString::new(text.as_str()).map_err(|_| Errno::EINVAL)).collect()
}

/// Becomes another program; returns only when that fails.
pub fn execute(path: &str, arguments: &[CString], environment: &[CString]) -> Errno {
    let mut room = Room::new();
    let Ok(path) = room.hold(path.as_bytes()) else { return Errno::ENOENT };
    let pointers = |strings: &[CString]| -> Vec<*const i8> {
        strings.iter().map(|string| string.as_ptr()).chain(core::iter::once(core::ptr::null())).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: the arrays hold C strings and end with null.
    let result = unsafe { syscall!(Sysno::execve, path, arguments.as_ptr(), environment.as_ptr()) };
    result.err().unwrap_or(Errno::EINVAL)
}

/// Ends this process.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: the call does not return.
        let _ = unsafe { syscall!(Sysno::exit_group, status) };
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Which process.
    pub pid: i32,
    /// Exit status, or 128+N for signal N.
    pub status: i32,
}

/// Collects a child that has ended, if there is one.
pub fn reap() -> Result<Option<Exit>> {
    let mut status: i32 = 0;
    // SAFETY: the kernel writes one integer into `status`.
    let pid =
        uninterrupted(|| unsafe { syscall!(Sysno::wait4, -1i32, &raw mut status, c::WNOHANG, 0) })? as i32;
    let signal = status & 0x7f;
    let status = if signal == 0 { (status >> 8) & 0xff } else { 128 + signal };
    Ok((pid != 0).then_some(Exit { pid, status }))
}

/// Whether the process that a descriptor stands for has not yet been collected.
pub fn exists(process: &Fd) -> bool {
    // Signal 0 is none.
    signal_process(process, 0).is_ok()
}

/// A set of signals, signal N at bit N-1.
pub type SignalSet = u64;

/// Every signal.
pub const ALL_SIGNALS: SignalSet = !0;

/// Waits for a signal that is held back, and takes it.
pub fn take_signal(set: SignalSet) -> Result<u32> {
    // SAFETY: `set` outlives the call, with its own size given.
    unsafe { syscall!(Sysno::rt_sigtimedwait, &raw const set, 0, 0, size_of::<SignalSet>()) }
        .map(|n| n as u32)
}

/// Sets the effective, permitted and inheritable capabilities, capability N at bit N.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = [c::_LINUX_CAPABILITY_VERSION_3, 0];
    let words = |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) as u32);
    set_capability_words(&header, &[words(0), words(32)])
}

/// One instruction of a system call filter (struct sock_filter).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions to skip when a comparison holds, and when not.
    pub skip: [u8; 2],
    /// What it does it with.
    pub value: u32,
}

/// struct sock_fprog: how many instructions, and where.
#[repr(C)]
struct Program(u16, *const Instruction);

/// Puts a system call filter on this process, for good.
pub fn set_filter(flags: u32, program: &[Instruction]) -> Result<()> {
    let program = Program(u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?, program.as_ptr());
    install_filter(flags, &program)
}

/// This process's id in its own namespace.
pub fn own_pid() -> i32 {
    // SAFETY: the call cannot fail.
    unsafe { syscall!(Sysno::getpid) }.map_or(0, |pid| pid as i32)
}
