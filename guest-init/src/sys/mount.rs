//! Mounts: mount(2) for what the guest itself mounts by path, and the descriptor-based calls for what is
//! mounted inside a container, where a path is somebody else's to choose.

use core::ffi::CStr;
use core::ptr::null;

use linux_raw_sys::general as c;
use syscalls::{Sysno, syscall};

use super::{Fd, Result};

pub use linux_raw_sys::general::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME, MS_BIND, MS_DIRSYNC, MS_LAZYTIME, MS_MOVE, MS_NOATIME, MS_NODEV, MS_NODIRATIME,
    MS_NOEXEC, MS_NOSUID, MS_NOSYMFOLLOW, MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME, MS_REMOUNT, MS_SHARED,
    MS_SILENT, MS_SLAVE, MS_STRICTATIME, MS_SYNCHRONOUS, MS_UNBINDABLE,
};

/// mount(2).
pub fn mount(source: &CStr, target: &CStr, fstype: &CStr, flags: u32, data: &CStr) -> Result<()> {
    // SAFETY: all are C strings; every filesystem takes its data as one.
    unsafe { syscall!(Sysno::mount, source.as_ptr(), target.as_ptr(), fstype.as_ptr(), flags, data.as_ptr()) }
        .map(|_| ())
}

/// Unmounts; lazily, so that what still uses it keeps it until it ends.
pub fn detach(target: &CStr) -> Result<()> {
    // SAFETY: `target` is a C string.
    unsafe { syscall!(Sysno::umount2, target.as_ptr(), c::MNT_DETACH) }.map(|_| ())
}

/// Unmounts; `EBUSY` while something uses it.
pub fn unmount(target: &CStr) -> Result<()> {
    // SAFETY: `target` is a C string.
    unsafe { syscall!(Sysno::umount2, target.as_ptr(), c::UMOUNT_NOFOLLOW) }.map(|_| ())
}

/// Makes `new_root` the root and puts the old one at `put_old`.
pub fn pivot_root(new_root: &CStr, put_old: &CStr) -> Result<()> {
    // SAFETY: both are C strings.
    unsafe { syscall!(Sysno::pivot_root, new_root.as_ptr(), put_old.as_ptr()) }.map(|_| ())
}

/// A filesystem being configured, not yet mounted.
pub struct Filesystem(Fd);

impl Filesystem {
    /// Begins; `ENODEV` when the kernel has no such type.
    pub fn open(fstype: &CStr) -> Result<Filesystem> {
        // SAFETY: `fstype` is a C string.
        unsafe { syscall!(Sysno::fsopen, fstype.as_ptr(), c::FSOPEN_CLOEXEC) }
            .map(|fd| Filesystem(Fd::new(fd)))
    }

    fn configure(&self, command: u32, key: *const i8, value: *const i8) -> Result<()> {
        // SAFETY: `key` and `value` are C strings or null, as `command` wants them.
        unsafe { syscall!(Sysno::fsconfig, self.0.raw(), command, key, value, 0) }.map(|_| ())
    }

    /// Sets an option without a value.
    pub fn set_flag(&self, key: &CStr) -> Result<()> {
        self.configure(c::fsconfig_command::FSCONFIG_SET_FLAG as u32, key.as_ptr(), null())
    }

    /// Sets an option with a value.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<()> {
        self.configure(c::fsconfig_command::FSCONFIG_SET_STRING as u32, key.as_ptr(), value.as_ptr())
    }

    /// Makes it and mounts it nowhere yet, with `attributes` (`MOUNT_ATTR_*`).
    pub fn create(self, attributes: u32) -> Result<Fd> {
        self.configure(c::fsconfig_command::FSCONFIG_CMD_CREATE as u32, null(), null())?;
        // SAFETY: no memory is involved.
        unsafe { syscall!(Sysno::fsmount, self.0.raw(), c::FSMOUNT_CLOEXEC, attributes) }.map(Fd::new)
    }
}

/// A detached copy of the mount at `path`, for a bind mount.
pub fn clone_tree(dir: i32, path: &CStr, recursive: Recursion) -> Result<Fd> {
    let flags = c::OPEN_TREE_CLONE | c::OPEN_TREE_CLOEXEC | c::AT_EMPTY_PATH | recursive.flag();
    // SAFETY: `path` is a C string.
    unsafe { syscall!(Sysno::open_tree, dir, path.as_ptr(), flags) }.map(Fd::new)
}

/// Mounts a detached mount on an open directory or file.
pub fn attach(mount: &Fd, target: i32) -> Result<()> {
    let flags = c::MOVE_MOUNT_F_EMPTY_PATH | c::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are C strings.
    unsafe { syscall!(Sysno::move_mount, mount.raw(), c"".as_ptr(), target, c"".as_ptr(), flags) }.map(|_| ())
}

/// Whether a call is about one mount or about those below it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursion {
    /// This one.
    One,
    /// This one and those below.
    Tree,
}

impl Recursion {
    fn flag(self) -> u32 {
        match self {
            Recursion::One => 0,
            Recursion::Tree => c::AT_RECURSIVE,
        }
    }
}

/// Changes attributes (`MOUNT_ATTR_*`) and propagation (`MS_*`, or 0) of the mount that `mount` is the root of.
pub fn set_attributes(
    mount: i32,
    set: u32,
    clear: u32,
    propagation: u32,
    recursive: Recursion,
) -> Result<()> {
    let attributes = c::mount_attr {
        attr_set: u64::from(set),
        attr_clr: u64::from(clear),
        propagation: u64::from(propagation),
        userns_fd: 0,
    };
    let flags = c::AT_EMPTY_PATH | recursive.flag();
    // SAFETY: the structure outlives the call, with its own size given.
    unsafe {
        syscall!(
            Sysno::mount_setattr,
            mount,
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<c::mount_attr>()
        )
    }
    .map(|_| ())
}
