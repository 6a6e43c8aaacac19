//! FUSE's messages, byte for byte: requests, answers and their numbers (Linux, include/uapi/linux/fuse.h).

use rustix::io::Errno;
use std::ffi::CStr;
use vm_memory::ByteValued;

/// The version that is spoken: 7.31, which Linux has had since 5.4.
pub(super) const MAJOR: u32 = 7;
/// See [`MAJOR`].
pub(super) const MINOR: u32 = 31;

/// What a request asks for.
pub(super) mod opcode {
    #![allow(missing_docs, reason = "the names are Linux's")]
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const GETLK: u32 = 31;
    pub const SETLK: u32 = 32;
    pub const SETLKW: u32 = 33;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
}

/// What both sides can do, as INIT negotiates it.
pub(super) mod init {
    #![allow(missing_docs, reason = "the names are Linux's")]
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const POSIX_LOCKS: u32 = 1 << 1;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const FLOCK_LOCKS: u32 = 1 << 10;
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub const ASYNC_DIO: u32 = 1 << 15;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const SUBMOUNTS: u32 = 1 << 27;
    pub const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
}

/// What SETATTR sets.
pub(super) mod valid {
    #![allow(missing_docs, reason = "the names are Linux's")]
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// WRITE takes the file's set-user-id and set-group-id bits away.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// FSYNC is of the data alone.
pub(super) const FSYNC_DATA: u32 = 1;
/// GETLK and its like mean a BSD lock.
pub(super) const LOCK_BSD: u32 = 1;
/// An attribute flag: another file system is mounted here.
pub(super) const ATTR_SUBMOUNT: u32 = 1;

/// Declares layouts and proves that they have no padding.
macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        #[repr(C)]
        pub(super) struct $name { $(pub $field: $kind),* }
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$kind>())*);
        // SAFETY: integers and structures of integers whose sizes add up to the whole: there is no padding.
        unsafe impl ByteValued for $name {}
    )*};
}

layouts! {
    /// What every request begins with.
    RequestHeader {
        length: u32, opcode: u32, unique: u64, node: u64, uid: u32, gid: u32, pid: u32, extensions: u16, padding: u16,
    }
    /// What every answer begins with.
    ReplyHeader { length: u32, error: i32, unique: u64 }
    /// A file's attributes.
    Attributes {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atime_nsec: u32, mtime_nsec: u32,
        ctime_nsec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, block_size: u32, flags: u32,
    }
    /// The answer to LOOKUP and to what makes files.
    Entry {
        node: u64, generation: u64, entry_valid: u64, attributes_valid: u64, entry_valid_nsec: u32,
        attributes_valid_nsec: u32, attributes: Attributes,
    }
    /// The answer to GETATTR and SETATTR.
    AttributesReply { valid: u64, valid_nsec: u32, padding: u32, attributes: Attributes }
    InitRequest { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    InitReply {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
        max_write: u32, time_granularity: u32, max_pages: u16, map_alignment: u16, flags2: u32, unused: [u32; 7],
    }
    ForgetRequest { lookups: u64 }
    BatchForgetRequest { count: u32, padding: u32 }
    ForgetOne { node: u64, lookups: u64 }
    SetAttributesRequest {
        valid: u32, padding: u32, handle: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atime_nsec: u32, mtime_nsec: u32, ctime_nsec: u32, mode: u32, unused: u32, uid: u32, gid: u32, unused2: u32,
    }
    MknodRequest { mode: u32, rdev: u32, umask: u32, padding: u32 }
    MkdirRequest { mode: u32, umask: u32 }
    RenameRequest { directory: u64 }
    Rename2Request { directory: u64, flags: u32, padding: u32 }
    LinkRequest { node: u64 }
    OpenRequest { flags: u32, open_flags: u32 }
    CreateRequest { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    OpenReply { handle: u64, flags: u32, padding: u32 }
    ReleaseRequest { handle: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    FlushRequest { handle: u64, unused: u32, padding: u32, lock_owner: u64 }
    ReadRequest { handle: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    WriteRequest { handle: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    WriteReply { size: u32, padding: u32 }
    StatfsReply {
        blocks: u64, free: u64, available: u64, files: u64, files_free: u64, block_size: u32, name_length: u32,
        fragment_size: u32, padding: u32, spare: [u32; 6],
    }
    FsyncRequest { handle: u64, flags: u32, padding: u32 }
    SetXattrRequest { size: u32, flags: u32 }
    GetXattrRequest { size: u32, padding: u32 }
    GetXattrReply { size: u32, padding: u32 }
    FileLock { start: u64, end: u64, kind: u32, pid: u32 }
    LockRequest { handle: u64, owner: u64, lock: FileLock, flags: u32, padding: u32 }
    InterruptRequest { unique: u64 }
    FallocateRequest { handle: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    SeekRequest { handle: u64, offset: u64, whence: u32, padding: u32 }
    SeekReply { offset: u64 }
    CopyRequest {
        handle_in: u64, offset_in: u64, node_out: u64, handle_out: u64, offset_out: u64, length: u64, flags: u64,
    }
    DirectoryEntry { ino: u64, offset: u64, name_length: u32, kind: u32 }
}

/// What is left of a request's body to be read. What is missing, too long or no name is an invalid argument.
pub(super) struct Body<'a>(pub &'a [u8]);

impl<'a> Body<'a> {
    /// The next structure.
    pub fn read<T: ByteValued>(&mut self) -> Result<T, Errno> {
        let (bytes, rest) = self.0.split_at_checked(size_of::<T>()).ok_or(Errno::INVAL)?;
        let mut value = T::zeroed();
        value.as_mut_slice().copy_from_slice(bytes);
        self.0 = rest;
        Ok(value)
    }

    /// Words up to the next zero byte.
    pub fn words(&mut self) -> Result<&'a CStr, Errno> {
        let words = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[words.count_bytes() + 1..];
        Ok(words)
    }

    /// The name of an entry of a directory: nothing that leads out of it.
    pub fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.words()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > 255 => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Errno> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_as_long_as_linux_has_them() {
        assert_eq!(size_of::<RequestHeader>(), super::super::REQUEST_HEADER);
        assert_eq!(size_of::<ReplyHeader>(), super::super::REPLY_HEADER);
        assert_eq!(
            (size_of::<Entry>(), size_of::<AttributesReply>(), size_of::<InitReply>()),
            (128, 104, 64)
        );
        assert_eq!((size_of::<SetAttributesRequest>(), size_of::<StatfsReply>()), (88, 80));
        assert_eq!((size_of::<LockRequest>(), size_of::<CopyRequest>()), (48, 56));
    }

    #[test]
    fn a_name_is_one_step_down() {
        assert_eq!(Body(b"file\0rest").name().unwrap(), c"file");
        for bad in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"/\0", b"unended", b""] {
            assert_eq!(Body(bad).name(), Err(Errno::INVAL), "{bad:?}");
        }
        let long = [&[b'x'; 256][..], &[0]].concat();
        assert_eq!(Body(&long).name(), Err(Errno::NAMETOOLONG));
        assert!(Body(b"..x\0").name().is_ok());
    }
}
