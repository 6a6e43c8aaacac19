//! Requests about open files: their contents, and the locks on them.

use super::super::nodes::{DIRECTORY, KIND, REGULAR};
use super::super::wire::{
    Body, CopyRequest, FSYNC_DATA, FallocateRequest, FileLock, FlushRequest, FsyncRequest, LOCK_BSD,
    LockRequest, OpenReply, OpenRequest, ReadRequest, ReleaseRequest, RequestHeader, SeekReply, SeekRequest,
    WRITE_KILL_SUIDGID, WriteReply, WriteRequest, opcode,
};
use super::super::{MAX_DATA, REPLY_HEADER};
use super::{MOST_WAITING, Server, Waiting, answer_with, errno};
use rustix::fs::{
    FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom, copy_file_range, fallocate, fchmod, flock, fstat,
    seek,
};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The most that one request copies inside the host: it answers before others wait too long.
const COPY_AT_ONCE: u64 = 64 << 20;

/// What of the guest's flags for opening is the host's affair.
pub(super) fn host_flags(flags: u32) -> Result<OFlags, Errno> {
    let flags = OFlags::from_bits_retain(flags);
    if flags & OFlags::ACCMODE == OFlags::ACCMODE {
        return Err(Errno::INVAL);
    }
    Ok(flags & (OFlags::ACCMODE | OFlags::APPEND | OFlags::DSYNC | OFlags::SYNC))
}

impl Server {
    pub(super) fn open_file(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let OpenRequest { flags, .. } = body.read()?;
        let flags = host_flags(flags)?;
        if flags & OFlags::ACCMODE != OFlags::RDONLY {
            self.may_write()?;
        }
        let file = self.open_node(head.node, flags)?;
        let handle = self.add_handle(file, false)?;
        answer_with(&OpenReply { handle, ..OpenReply::default() }, out)
    }

    pub(super) fn open_directory(&mut self, head: &RequestHeader, out: &mut Vec<u8>) -> Result<(), Errno> {
        let file = self.open_node(head.node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let handle = self.add_handle(file, true)?;
        answer_with(&OpenReply { handle, ..OpenReply::default() }, out)
    }

    pub(super) fn release(&mut self, mut body: Body<'_>) -> Result<(), Errno> {
        let ReleaseRequest { handle, .. } = body.read()?;
        self.handles.remove(&handle).map(drop).ok_or(Errno::BADF)
    }

    pub(super) fn read(&mut self, mut body: Body<'_>, room: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
        let ReadRequest { handle, offset, size, .. } = body.read()?;
        let file = self.file(handle)?;
        let size = room.min(size as usize);
        out.resize(REPLY_HEADER + size, 0);
        let mut done = 0;
        // Less than was asked for is the end of the file to the guest.
        while done < size {
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            match file.read_at(&mut out[REPLY_HEADER + done..], at) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
        out.truncate(REPLY_HEADER + done);
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        _: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let WriteRequest { handle, offset, size, write_flags, .. } = body.read()?;
        self.may_write()?;
        let file = self.file(handle)?;
        let data = body.bytes((size as usize).min(MAX_DATA))?;
        if write_flags & WRITE_KILL_SUIDGID != 0 {
            take_privileges(file)?;
        }
        let written = file.write_at(data, offset).map_err(|error| errno(&error))?;
        answer_with(&WriteReply { size: written as u32, padding: 0 }, out)
    }

    pub(super) fn flush(&mut self, head: &RequestHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let FlushRequest { handle, lock_owner, .. } = body.read()?;
        self.locks.closed(head.node, lock_owner);
        self.file(handle).map(drop)
    }

    pub(super) fn sync(&mut self, mut body: Body<'_>) -> Result<(), Errno> {
        let FsyncRequest { handle, flags, .. } = body.read()?;
        let file = &self.handles.get(&handle).ok_or(Errno::BADF)?.file;
        let synced = if flags & FSYNC_DATA != 0 { file.sync_data() } else { file.sync_all() };
        synced.map_err(|error| errno(&error))
    }

    pub(super) fn sync_all(&mut self, head: &RequestHeader) -> Result<(), Errno> {
        let directory = self.open_node(head.node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::syncfs(&directory)
    }

    pub(super) fn allocate(&mut self, mut body: Body<'_>) -> Result<(), Errno> {
        let FallocateRequest { handle, offset, length, mode, .. } = body.read()?;
        self.may_write()?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        let file = self.file(handle)?;
        take_privileges(file)?;
        fallocate(file, mode, offset, length)
    }

    pub(super) fn seek(&mut self, mut body: Body<'_>, out: &mut Vec<u8>) -> Result<(), Errno> {
        let SeekRequest { handle, offset, whence, .. } = body.read()?;
        i64::try_from(offset).map_err(|_| Errno::INVAL)?;
        let to = match whence as libc::c_int {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let offset = seek(self.file(handle)?, to)?;
        answer_with(&SeekReply { offset }, out)
    }

    pub(super) fn copy(&mut self, mut body: Body<'_>, out: &mut Vec<u8>) -> Result<(), Errno> {
        let asked: CopyRequest = body.read()?;
        self.may_write()?;
        if asked.flags != 0
            || i64::try_from(asked.offset_in).is_err()
            || i64::try_from(asked.offset_out).is_err()
        {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.file(asked.handle_in)?, self.file(asked.handle_out)?);
        take_privileges(to)?;
        let (mut offset_in, mut offset_out) = (asked.offset_in, asked.offset_out);
        let length = asked.length.min(COPY_AT_ONCE) as usize;
        let copied = copy_file_range(from, Some(&mut offset_in), to, Some(&mut offset_out), length)?;
        answer_with(&WriteReply { size: copied as u32, padding: 0 }, out)
    }

    /// SETLK and SETLKW. True if the request waits.
    pub(super) fn set_lock(
        &mut self,
        tag: u32,
        head: &RequestHeader,
        mut body: Body<'_>,
    ) -> Result<bool, Errno> {
        let lock: LockRequest = body.read()?;
        let result = self.try_lock(head.node, &lock);
        if result != Err(Errno::AGAIN) || head.opcode == opcode::SETLK {
            return result.map(|()| false);
        }
        if self.waiting.len() >= MOST_WAITING {
            return Err(Errno::NOLCK);
        }
        let waiting = Waiting { tag, unique: head.unique, node: head.node, lock, interrupted: false };
        self.waiting.push_back(waiting);
        Ok(true)
    }

    /// Takes a lock, or gives one back; `EAGAIN` if somebody else has it.
    pub(super) fn try_lock(&mut self, node: u64, asked: &LockRequest) -> Result<(), Errno> {
        if asked.flags & LOCK_BSD != 0 {
            let operation = match asked.lock.kind as libc::c_int {
                libc::F_RDLCK => FlockOperation::NonBlockingLockShared,
                libc::F_WRLCK => FlockOperation::NonBlockingLockExclusive,
                libc::F_UNLCK => FlockOperation::NonBlockingUnlock,
                _ => return Err(Errno::INVAL),
            };
            let handle = self.handles.get(&asked.handle).ok_or(Errno::BADF)?;
            return flock(&handle.file, operation);
        }
        let mut locks = std::mem::take(&mut self.locks);
        let result = locks.set((node, asked.owner), &asked.lock, || self.open_to_lock(node));
        self.locks = locks;
        match result {
            Err(Errno::ACCESS) => Err(Errno::AGAIN),
            result => result,
        }
    }

    pub(super) fn get_lock(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let asked: LockRequest = body.read()?;
        let mut locks = std::mem::take(&mut self.locks);
        let result = locks.get((head.node, asked.owner), &asked.lock, || self.open_to_lock(head.node));
        self.locks = locks;
        let found: FileLock = result?;
        answer_with(&found, out)
    }

    /// A file for locks alone: for both kinds of them where that is possible.
    fn open_to_lock(&mut self, node: u64) -> Result<File, Errno> {
        let both = if self.writable { self.open_node(node, OFlags::RDWR) } else { Err(Errno::ROFS) };
        both.or_else(|_| self.open_node(node, OFlags::RDONLY))
    }
}

/// A change of a file's contents takes its set-user-id and set-group-id bits away.
pub(super) fn take_privileges(file: &File) -> Result<(), Errno> {
    const SET_USER: u32 = 0o4000;
    const SET_GROUP_AND_EXECUTE: u32 = 0o2010;
    let mode = fstat(file)?.st_mode;
    if mode & KIND == DIRECTORY || mode & KIND != REGULAR {
        return Ok(());
    }
    let mut less = mode & !SET_USER;
    if mode & SET_GROUP_AND_EXECUTE == SET_GROUP_AND_EXECUTE {
        less &= !0o2000;
    }
    match less == mode {
        true => Ok(()),
        false => fchmod(file, Mode::from_raw_mode(less & 0o7777)),
    }
}
