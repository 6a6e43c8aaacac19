//! From the kernel's first process to a machine in which containers can live.

use core::ffi::CStr;

use super::log;
use crate::fault::reason;
use crate::sys::file::{CWD, O_RDWR, chdir, chroot, ensure_dir, open};
use crate::sys::mount::{MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RELATIME, mount};
use crate::sys::process;
use crate::sys::process::{close_to_tracers, set_limit};

/// A mount of the guest's own.
struct Mount {
    fstype: &'static CStr,
    target: &'static CStr,
    flags: u32,
    options: &'static CStr,
}

const fn entry(fstype: &'static CStr, target: &'static CStr, flags: u32, options: &'static CStr) -> Mount {
    Mount { fstype, target, flags, options }
}

const SAFE: u32 = MS_NOSUID | MS_NODEV | MS_NOEXEC;

/// What a Linux userland expects, besides /run and /tmp, which are directories of the root (a tmpfs itself).
const MOUNTS: [Mount; 7] = [
    entry(c"proc", c"/proc", SAFE, c""),
    entry(c"sysfs", c"/sys", SAFE, c""),
    entry(c"devtmpfs", c"/dev", MS_NOSUID | MS_NOEXEC, c"mode=755"),
    entry(c"devpts", c"/dev/pts", MS_NOSUID | MS_NOEXEC, c"gid=5,mode=620,ptmxmode=666"),
    entry(c"tmpfs", c"/dev/shm", MS_NOSUID | MS_NODEV, c"mode=1777"),
    entry(c"mqueue", c"/dev/mqueue", SAFE, c""),
    entry(c"cgroup2", c"/sys/fs/cgroup", SAFE | MS_RELATIME, c"nsdelegate"),
];

/// Open files that PID 1 may have, and the hard limit of every process. In number.
const OPEN_FILES: u64 = 1 << 19;

/// Leaves the initial RAM filesystem and mounts what the guest needs. What fails is logged and left out: the
/// call that needs it will say so to somebody.
pub fn prepare() {
    let note = |what: &str, result: crate::sys::Result<()>| {
        if let Err(errno) = result {
            log(&alloc::format!("{what}: {}", reason(errno)));
        }
    };
    note("close to tracers", close_to_tracers());
    note("open files", set_limit(linux_raw_sys::general::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES));
    note("new root", leave_initramfs());
    for (directory, mode) in
        [(c"/proc", 0o755), (c"/sys", 0o755), (c"/dev", 0o755), (c"/run", 0o755), (c"/tmp", 0o777)]
    {
        note("directory", ensure_dir(CWD, directory, mode));
    }
    note("/tmp", crate::sys::file::chmod(CWD, c"/tmp", 0o1777));
    for each in MOUNTS {
        if each.target.to_bytes().starts_with(b"/dev/") {
            note("directory", ensure_dir(CWD, each.target, 0o755));
        }
        let result = mount(each.fstype, each.target, each.fstype, each.flags, each.options);
        note(each.target.to_str().unwrap_or_default(), result);
    }
    occupy_standard_streams();
    note("loopback", super::network::loopback_up());
    note("host name", process::set_hostname("localhost"));
}

/// Makes a tmpfs the root. The initial RAM filesystem cannot be left by pivot_root(2), which containers need,
/// and stays below as in every system that booted from one.
fn leave_initramfs() -> crate::sys::Result<()> {
    ensure_dir(CWD, c"/root", 0o700)?;
    mount(c"root", c"/root", c"tmpfs", 0, c"mode=755")?;
    chdir(c"/root")?;
    mount(c".", c"/", c"", MS_MOVE, c"")?;
    chroot(c".")?;
    chdir(c"/")
}

/// Sees to it that descriptors 0 to 2 are taken, so that no pipe ever gets one of them.
fn occupy_standard_streams() {
    while let Ok(null) = open(CWD, c"/dev/null", O_RDWR, 0) {
        if null.raw() > 2 {
            return;
        }
        core::mem::forget(null);
    }
}
