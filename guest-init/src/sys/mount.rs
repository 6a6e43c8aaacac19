//! Mounts: mount(2) for what the guest itself mounts by path, and the descriptor-based calls for what is
//! mounted inside a container, where a path is somebody else's to choose.

use core::ptr::null;

use super::{Fd, Result};
use linux_raw_sys::general as c;

pub use linux_raw_sys::general::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME, MS_BIND, MS_DIRSYNC, MS_LAZYTIME, MS_MOVE, MS_NOATIME, MS_NODEV, MS_NODIRATIME,
    MS_NOEXEC, MS_NOSUID, MS_NOSYMFOLLOW, MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME, MS_REMOUNT, MS_SHARED,
    MS_SILENT, MS_SLAVE, MS_STRICTATIME, MS_SYNCHRONOUS, MS_UNBINDABLE,
};

const CLONE: u32 = c::OPEN_TREE_CLONE | c::OPEN_TREE_CLOEXEC | c::AT_EMPTY_PATH;
const SET_FLAG: u32 = c::fsconfig_command::FSCONFIG_SET_FLAG as u32;
const SET_STRING: u32 = c::fsconfig_command::FSCONFIG_SET_STRING as u32;
const CREATE: u32 = c::fsconfig_command::FSCONFIG_CMD_CREATE as u32;
const ATTACH: u32 = c::MOVE_MOUNT_F_EMPTY_PATH | c::MOVE_MOUNT_T_EMPTY_PATH | c::MOVE_MOUNT_T_SYMLINKS;

calls! { Result<Fd>;
    /// Begins a filesystem, to be configured; `ENODEV` when the kernel has no such type.
    pub open_filesystem(fstype: &str) = fsopen(text!(fstype), c::FSOPEN_CLOEXEC);

    /// Mounts one that is created nowhere yet, with `attributes` (`MOUNT_ATTR_*`).
    pub mount_filesystem(filesystem: &Fd, attributes: u32) = fsmount(filesystem.raw(), c::FSMOUNT_CLOEXEC, attributes);

    /// A detached copy of the mount at `path`, for a bind mount.
    pub clone_tree(dir: i32, path: &str, recursive: Recursion) =
        open_tree(dir, text!(path), CLONE | recursive as u32);
}

calls! { Result<()>;
    change_attributes(dir: i32, path: &str, flags: u32, attributes: &c::mount_attr) =
        mount_setattr(dir, text!(path), flags, &raw const *attributes, size_of::<c::mount_attr>());

    /// Sets an option without a value.
    pub set_flag(filesystem: &Fd, key: &str) = fsconfig(filesystem.raw(), SET_FLAG, text!(key), 0, 0);

    /// Sets an option with a value.
    pub set_option(filesystem: &Fd, key: &str, value: &str) =
        fsconfig(filesystem.raw(), SET_STRING, text!(key), text!(value), 0);

    /// Creates a filesystem as it was configured.
    pub create(filesystem: &Fd) = fsconfig(filesystem.raw(), CREATE, 0, 0, 0);

    /// Mounts a detached mount on what is at a path below an open directory; the empty path is what is open itself.
    pub attach(mount: &Fd, dir: i32, path: &str) = move_mount(mount.raw(), c"".as_ptr(), dir, text!(path), ATTACH);

    /// mount(2). Of any data, even none, the kernel would copy a page.
    pub mount(source: &str, target: &str, fstype: &str, flags: u32, data: &str) =
        mount(text!(source), text!(target), text!(fstype), flags, [null(), text!(data)][usize::from(!data.is_empty())]);

    /// Unmounts; lazily, so that what still uses it keeps it until it ends.
    pub detach(target: &str) = umount2(text!(target), c::MNT_DETACH);

    /// Unmounts; `EBUSY` while something uses it.
    pub unmount(target: &str) = umount2(text!(target), c::UMOUNT_NOFOLLOW);

    /// Makes `new_root` the root and puts the old one at `put_old`.
    pub pivot_root(new_root: &str, put_old: &str) = pivot_root(text!(new_root), text!(put_old));
}

/// Whether a call is about one mount or about those below it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Recursion {
    /// This one.
    One = 0,
    /// This one and those below.
    Tree = c::AT_RECURSIVE,
}

/// Changes attributes (`MOUNT_ATTR_*`) and propagation (`MS_*`, or 0) of the mount whose root is at a path below an open
/// directory; the empty path is what is open itself.
pub fn set_attributes(
    dir: i32,
    path: &str,
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
    change_attributes(dir, path, c::AT_EMPTY_PATH | recursive as u32, &attributes)
}
