//! From the kernel's first process to a machine in which containers can live.

use super::log_error;
use crate::prelude::*;
use crate::sys::file::{CWD, O_RDWR, chdir, chroot, ensure_dir, open};
use crate::sys::mount::{MS_BIND, MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RELATIME, MS_REMOUNT, mount};
use crate::sys::process;
use crate::sys::process::{close_to_tracers, set_limit};

const SAFE: u32 = MS_NOSUID | MS_NODEV | MS_NOEXEC;

/// What a Linux userland expects (type, place, flags, options), besides /run and /tmp, which are directories of the root (a
/// tmpfs itself). The archive that the kernel has unpacked there has all these places but the one in /dev.
const MOUNTS: [(&str, &str, u32, &str); 5] = [
    ("proc", "/proc", SAFE, ""),
    ("sysfs", "/sys", SAFE, ""),
    ("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=755"),
    ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
    ("cgroup2", "/sys/fs/cgroup", SAFE | MS_RELATIME, "nsdelegate"),
];

/// Open files that PID 1 may have, and the hard limit of every process. In number.
const OPEN_FILES: u64 = 1 << 19;

/// Leaves the initial RAM filesystem and mounts what the guest needs. What fails is logged and left out: the
/// call that needs it will say so to somebody.
pub fn prepare() {
    let note = |what: &str, result: SysResult<()>| result.unwrap_or_else(|errno| log_error(what, errno));
    note("close to tracers", close_to_tracers());
    note("open files", set_limit(linux_raw_sys::general::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES));
    note("new root", leave_initramfs());
    for (fstype, target, flags, options) in MOUNTS {
        if target.starts_with("/dev/") {
            note("directory", ensure_dir(CWD, target, 0o755));
        }
        note(target, mount(fstype, target, fstype, flags, options));
    }
    occupy_standard_streams();
    note("loopback", super::network::loopback_up());
    note("host name", process::set_hostname("localhost"));
}

/// Makes a second mount of the root filesystem the root. The first one cannot be left by pivot_root(2), which containers
/// need, and stays below as in every system that booted from an archive.
fn leave_initramfs() -> SysResult<()> {
    mount("/", "/run", "", MS_BIND, "")?;
    mount("", "/run", "", MS_BIND | MS_REMOUNT | MS_RELATIME, "")?;
    chdir("/run")?;
    mount(".", "/", "", MS_MOVE, "")?;
    chroot(".")
}

/// Sees to it that descriptors 0 to 2 are taken, so that no pipe ever gets one of them.
fn occupy_standard_streams() {
    while let Ok(null) = open(CWD, "/dev/null", O_RDWR, 0) {
        if null.raw() > 2 {
            return;
        }
        core::mem::forget(null);
    }
}
