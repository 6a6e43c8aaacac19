//! What a process can reach at all: landlock, namespaces of its own, an empty root.
//!
//! Each of these is taken where the system grants it, since none of them is everywhere: user namespaces may be forbidden,
//! and landlock knows more with every kernel. What always holds is the lock of every thread.

use super::SandboxError;
use super::lock::{drop_capabilities, keep_capabilities};
use super::user::become_user;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// The newest landlock whose rights are asked for. An older kernel gives those that it knows.
const NEWEST: ABI = ABI::V6;

/// The version of landlock that refuses abstract sockets and signals to others, which is the newest one asked for.
const SCOPES: libc::c_long = NEWEST as libc::c_long;
/// The namespaces that every process here has of its own, where it may.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// What was put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enclosed {
    /// Whether the process has namespaces and a root of its own: paths outside its directory mean nothing any more.
    pub root: bool,
    /// Whether landlock refuses files, and whatever else this kernel's version of it knows.
    pub landlock: bool,
}

/// Encloses this process, which has one thread, in `directory`: afterwards that is its root and its working directory, it
/// may only remove files there, and it has no capabilities. Root becomes `user`, if one is given, whose the directory is to
/// be. Descriptors that are open stay so.
pub fn enclose(directory: &Path, user: Option<u32>) -> Result<Enclosed, SandboxError> {
    no_core_dumps()?;
    std::env::set_current_dir(directory)?;
    // A network namespace takes more of a start than all the rest of this, and a lock that the host has once: of all networks,
    // none can be made by two VMs at once. It would keep the process from abstract sockets, from TCP and from what other sockets
    // reach. Landlock refuses the first two, and the lock of every thread has no sockets but those of the file system and
    // no request by which a socket tells of networks. So it is made where landlock is too old for that.
    let scoped = landlock_version() >= SCOPES;
    let network = if scoped { 0 } else { libc::CLONE_NEWNET };
    let root = unshare(NAMESPACES | network)? && change_root().is_ok();
    bound_capabilities();
    if let Some(id) = user {
        become_user(id)?;
    }
    not_traceable()?;
    let here = PathFd::new(".").ok();
    let status = restrict(&[(here.as_ref().map(AsFd::as_fd), AccessFs::RemoveFile.into())])?;
    if scoped && status != RulesetStatus::FullyEnforced {
        return Err(io::Error::other("landlock does less than its version says").into());
    }
    drop_capabilities()?;
    Ok(Enclosed { root, landlock: status != RulesetStatus::NotEnforced })
}

/// What a process that serves files has besides what everybody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads them.
    Read,
    /// It changes them, for whoever owns them.
    Write,
}

/// Encloses this process, which has one thread, in the directory `root`, where it may do what `access` says: with everything
/// below, or with one `file` alone. Where it runs as root, here or in a namespace of its own, it goes on passing over the
/// permissions of files and giving them to others.
pub fn enclose_with_files(
    root: &Path,
    file: Option<BorrowedFd<'_>>,
    access: Access,
) -> Result<Enclosed, SandboxError> {
    no_core_dumps()?;
    std::env::set_current_dir(root)?;
    let root = unshare(NAMESPACES | libc::CLONE_NEWNET)? && (pivot_root().is_ok() || change_root().is_ok());
    not_traceable()?;
    let devices = AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::IoctlDev;
    let rights = match (file, access) {
        (None, Access::Read) => AccessFs::ReadFile | AccessFs::ReadDir,
        (None, Access::Write) => AccessFs::from_all(NEWEST) & !(devices | AccessFs::Execute),
        (Some(_), Access::Read) => AccessFs::ReadFile.into(),
        (Some(_), Access::Write) => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate,
    };
    let here = PathFd::new(".").ok();
    let here = here.as_ref().map(AsFd::as_fd);
    let status = match file {
        // The directory it is shown in can be listed, which says nothing.
        Some(_) => restrict(&[(here, AccessFs::ReadDir.into()), (file, rights)])?,
        None => restrict(&[(here, rights)])?,
    };
    keep_capabilities(FILE_CAPABILITIES)?;
    Ok(Enclosed { root, landlock: status != RulesetStatus::NotEnforced })
}

/// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER` and `CAP_FSETID` (linux/capability.h).
const FILE_CAPABILITIES: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 4;

fn not_traceable() -> io::Result<()> {
    // SAFETY: this option takes a number.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The guest's memory is in this process's: it must not end up in a file.
fn no_core_dumps() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is complete.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) })
}

/// Which version of landlock this kernel has; 0 for none.
fn landlock_version() -> libc::c_long {
    /// `LANDLOCK_CREATE_RULESET_VERSION` (linux/landlock.h).
    const VERSION: libc::c_int = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag nothing is read.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) }.max(0)
}

/// Namespaces of its own; where only a user namespace brings the right to them, in one of those. False where there are
/// none; an error when this process is left in one half-way.
fn unshare(namespaces: libc::c_int) -> io::Result<bool> {
    // SAFETY: `unshare` takes a number; this process has one thread.
    if check(unsafe { libc::unshare(namespaces) }).is_ok() {
        return Ok(true);
    }
    // SAFETY: neither call takes pointers.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: as above.
    if check(unsafe { libc::unshare(namespaces | libc::CLONE_NEWUSER) }).is_err() {
        return Ok(false);
    }
    // Its own ids keep their numbers: by them it tells who is at the other end of a socket.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    Ok(true)
}

/// No program that this process might become can have capabilities either. Who may not say so has none to give.
fn bound_capabilities() {
    /// More than there are (linux/capability.h).
    const CAPABILITIES: libc::c_ulong = 64;
    for capability in 0..CAPABILITIES {
        // SAFETY: this option takes a number. It fails behind the last one that this kernel has, and at once without the right.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
}

/// Makes the working directory the root.
fn change_root() -> io::Result<()> {
    // SAFETY: the path ends in a zero.
    check(unsafe { libc::chroot(c".".as_ptr()) })?;
    std::env::set_current_dir("/")
}

/// Makes the working directory the root, and leaves no way to what was the root before: for a process that has descriptors
/// of directories, from which it could walk up and out of a mere `chroot`.
fn pivot_root() -> io::Result<()> {
    let none = std::ptr::null();
    let (here, root) = (c".".as_ptr(), c"/".as_ptr());
    // SAFETY: all paths end in a zero, and what is not given is null.
    unsafe {
        check(libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        let whole = std::env::current_dir()?;
        check(libc::mount(here, here, none, libc::MS_REC | libc::MS_BIND, none.cast()))?;
        // The mount lies on top of the directory: it is reached by its name only.
        std::env::set_current_dir(whole)?;
        check(libc::syscall(libc::SYS_pivot_root, here, here) as libc::c_int)?;
        // The old root lies on top of the new one.
        check(libc::umount2(here, libc::MNT_DETACH))?;
    }
    std::env::set_current_dir("/")
}

/// Nothing of the file system but these rights below these places, no TCP, no abstract sockets and no signals to others.
fn restrict(places: &[(Option<BorrowedFd<'_>>, BitFlags<AccessFs>)]) -> Result<RulesetStatus, SandboxError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    let rules = places.iter().filter_map(|(place, rights)| Some(PathBeneath::new((*place)?, *rights)));
    let ruleset = rules.into_iter().try_fold(ruleset, |ruleset, rule| ruleset.add_rule(rule))?;
    Ok(ruleset.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
    use std::process::Command;

    /// What a process that has turned hostile tries, with the files of another VM and of the store at `other`.
    fn attempts(other: &Path, tcp: &str, parent: u32) -> Vec<(&'static str, bool)> {
        let name = other.to_str().unwrap().replace('/', "-");
        let abstract_datagrams = SocketAddr::from_abstract_name(format!("{name}-datagrams")).unwrap();
        let abstract_socket = SocketAddr::from_abstract_name(name).unwrap();
        let datagram = UnixDatagram::unbound().unwrap();
        // SAFETY: none of these calls takes a pointer that is used.
        let (kill, trace) = unsafe {
            let parent = parent as libc::pid_t;
            let none = std::ptr::null_mut::<libc::c_void>();
            (libc::kill(parent, 0) == 0, libc::ptrace(libc::PTRACE_ATTACH, parent, none, none) == 0)
        };
        // SAFETY: takes no pointers.
        let become_root = unsafe { libc::geteuid() != 0 && libc::setresuid(0, 0, 0) == 0 };
        vec![
            ("become root", become_root),
            ("open a disk", fs::File::open(other.join("disk")).is_ok()),
            ("write the store", fs::OpenOptions::new().write(true).open(other.join("disk")).is_ok()),
            ("make a file in the store", fs::File::create(other.join("new")).is_ok()),
            ("make a file at home", fs::File::create("new").is_ok()),
            ("remove a file of the store", fs::remove_file(other.join("disk")).is_ok()),
            ("connect to another's socket", UnixStream::connect(other.join("vsock")).is_ok()),
            ("connect to an abstract socket", UnixStream::connect_addr(&abstract_socket).is_ok()),
            ("send to an abstract socket", datagram.send_to_addr(b"x", &abstract_datagrams).is_ok()),
            ("connect to TCP", std::net::TcpStream::connect(tcp).is_ok()),
            ("signal another", kill),
            ("trace another", trace),
            ("read a secret of the host", fs::read("/etc/passwd").is_ok()),
        ]
    }

    /// Encloses itself and attempts everything, in a process of its own.
    #[test]
    #[ignore = "run by the other tests"]
    fn part() {
        let Some(other) = std::env::var_os("FERRY_ENCLOSURE_OTHER") else { return };
        let tcp = std::env::var("FERRY_ENCLOSURE_TCP").unwrap();
        let parent = std::os::unix::process::parent_id();
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("vsock"), "").unwrap();
        let output = std::io::stdout();
        // The test runner has threads, and namespaces are for processes with one: a child has one.
        // SAFETY: the child only calls what follows and ends.
        match unsafe { libc::fork() } {
            0 => {
                let user = std::env::var("FERRY_ENCLOSURE_USER").ok().map(|id| id.parse().unwrap());
                if user.is_some() {
                    std::os::unix::fs::chown(home.path(), user, user).unwrap();
                }
                let enclosed = enclose(home.path(), user).unwrap();
                let mut output = output.lock();
                writeln!(output, "{enclosed:?}").unwrap();
                // SAFETY: this option takes a number.
                if enclosed.root && unsafe { libc::prctl(libc::PR_CAPBSET_READ, 0, 0, 0, 0) } == 1 {
                    writeln!(output, "possible: regain a capability").unwrap();
                }
                for (what, possible) in attempts(Path::new(&other), &tcp, parent) {
                    // Landlock without a root of its own knows nothing of the sockets in the file system.
                    if possible && (enclosed.root || what != "connect to another's socket") {
                        writeln!(output, "possible: {what}").unwrap();
                    }
                }
                if fs::remove_file("vsock").is_err() {
                    writeln!(output, "impossible: remove its own socket").unwrap();
                }
                writeln!(output, "the end").unwrap();
                output.flush().unwrap();
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) }
            }
            child => {
                // SAFETY: waits for the child just made.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            }
        }
    }

    #[test]
    fn a_process_that_turns_hostile_reaches_nothing_of_others() {
        reaches_nothing(None);
    }

    #[test]
    fn nor_does_one_that_root_has_made_a_user_of_its_own() {
        // SAFETY: takes nothing.
        match unsafe { libc::geteuid() } {
            0 => reaches_nothing(Some("1900000123")),
            _ => println!("skipped: only root gives a VM a user of its own"),
        }
    }

    fn reaches_nothing(user: Option<&str>) {
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("disk"), "contents").unwrap();
        let _listener = UnixListener::bind(other.path().join("vsock")).unwrap();
        let name = other.path().to_str().unwrap().replace('/', "-");
        let datagrams = SocketAddr::from_abstract_name(format!("{name}-datagrams")).unwrap();
        let _datagrams = UnixDatagram::bind_addr(&datagrams).unwrap();
        let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sandbox::enclosure::tests::part", "--ignored", "--nocapture"])
            .env("FERRY_ENCLOSURE_OTHER", other.path())
            .env("FERRY_ENCLOSURE_TCP", tcp.local_addr().unwrap().to_string())
            .envs(user.map(|user| ("FERRY_ENCLOSURE_USER", user)))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        assert!(text.contains("the end"), "{output:?}");
        if !text.contains("landlock: true") {
            println!("skipped: this kernel has no landlock");
            return;
        }
        assert!(!text.contains("possible: "), "{text}");
        assert!(other.path().join("disk").exists() && !other.path().join("new").exists());
    }
}
