//! Requests about what is known of a file besides its name and its contents.

use super::super::nodes::{DIRECTORY, KIND};
use super::super::owners::OWN_XATTRS;
use super::super::wire::{
    AttributesReply, Body, GetXattrReply, GetXattrRequest, RequestHeader, SetAttributesRequest,
    SetXattrRequest, StatfsReply, valid,
};
use super::contents::take_privileges;
use super::{BELIEVED, Server, answer_with};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, chmodat, fstat,
    fstatvfs, ftruncate, getxattr, listxattr, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;

/// The longest value or list of extended attributes that Linux knows.
const LONGEST_XATTR: usize = 64 << 10;
/// What makes a file's capabilities: it may be read here, and nothing more.
const CAPABILITIES: &[u8] = b"security.capability";

impl Server {
    pub(super) fn get_attributes(&mut self, head: &RequestHeader, out: &mut Vec<u8>) -> Result<(), Errno> {
        let fd = self.nodes.fd(head.node)?;
        self.tell_attributes(&fd, out)
    }

    fn tell_attributes(&self, fd: &OwnedFd, out: &mut Vec<u8>) -> Result<(), Errno> {
        let attributes = self.attributes(fd, &fstat(fd)?);
        let answer = AttributesReply { valid: BELIEVED, attributes, ..AttributesReply::default() };
        answer_with(&answer, out)
    }

    pub(super) fn set_attributes(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let asked: SetAttributesRequest = body.read()?;
        self.may_write()?;
        let fd = self.nodes.fd(head.node)?;
        let has = |bits| asked.valid & bits != 0;
        let path = self.links.path(&fd);
        if has(valid::MODE) {
            let mode = Mode::from_raw_mode(asked.mode & 0o7777);
            chmodat(CWD, path.as_str(), mode, AtFlags::empty())?;
        }
        if has(valid::UID | valid::GID) {
            let stat = fstat(&*fd)?;
            let (user, group) = (has(valid::UID).then_some(asked.uid), has(valid::GID).then_some(asked.gid));
            self.owners.give(self.links, &fd, &stat, user, group)?;
        }
        if has(valid::SIZE) {
            let of_handle = has(valid::FH).then(|| self.file(asked.handle).and_then(clone)).transpose()?;
            let file = match of_handle {
                Some(file) => file,
                None => self.open_node(head.node, OFlags::WRONLY)?,
            };
            ftruncate(&file, asked.size)?;
        }
        if has(valid::KILL_SUIDGID) && fstat(&*fd)?.st_mode & KIND != DIRECTORY {
            take_privileges(&self.open_node(head.node, OFlags::RDONLY)?)?;
        }
        if has(valid::ATIME | valid::MTIME | valid::ATIME_NOW | valid::MTIME_NOW) {
            let time = |is_set, is_now, seconds: u64, nanoseconds: u32| match (is_now, is_set) {
                (true, _) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
                (_, true) => Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds.into() },
                _ => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            };
            let times = Timestamps {
                last_access: time(has(valid::ATIME), has(valid::ATIME_NOW), asked.atime, asked.atime_nsec),
                last_modification: time(
                    has(valid::MTIME),
                    has(valid::MTIME_NOW),
                    asked.mtime,
                    asked.mtime_nsec,
                ),
            };
            utimensat(&*fd, "", &times, AtFlags::EMPTY_PATH)?;
        }
        self.tell_attributes(&fd, out)
    }

    pub(super) fn statfs(&mut self, head: &RequestHeader, out: &mut Vec<u8>) -> Result<(), Errno> {
        let found = fstatvfs(&*self.nodes.fd(head.node)?)?;
        let answer = StatfsReply {
            blocks: found.f_blocks,
            free: found.f_bfree,
            available: found.f_bavail,
            files: found.f_files,
            files_free: found.f_ffree,
            block_size: found.f_bsize as u32,
            name_length: found.f_namemax as u32,
            fragment_size: found.f_frsize as u32,
            ..StatfsReply::default()
        };
        answer_with(&answer, out)
    }

    pub(super) fn get_xattr(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let GetXattrRequest { size, .. } = body.read()?;
        let name = body.words()?;
        if name.to_bytes() != CAPABILITIES {
            check_name(name)?;
        }
        let path = self.links.path(&self.nodes.fd(head.node)?);
        let mut value = vec![0; LONGEST_XATTR];
        let length = getxattr(path.as_str(), name, &mut value[..])?;
        give_xattr(&value[..length], size, room, out)
    }

    pub(super) fn list_xattrs(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let GetXattrRequest { size, .. } = body.read()?;
        let path = self.links.path(&self.nodes.fd(head.node)?);
        let mut names = vec![0; LONGEST_XATTR];
        let length = listxattr(path.as_str(), &mut names[..])?;
        let shown: Vec<u8> = names[..length]
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| is_shown(name))
            .flatten()
            .copied()
            .collect();
        give_xattr(&shown, size, room, out)
    }

    pub(super) fn set_xattr(&mut self, head: &RequestHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let SetXattrRequest { size, flags } = body.read()?;
        let name = body.words()?;
        let value = body.bytes(size as usize)?;
        self.may_write()?;
        check_name(name)?;
        let flags = XattrFlags::from_bits_retain(flags);
        if !(XattrFlags::CREATE | XattrFlags::REPLACE).contains(flags) {
            return Err(Errno::INVAL);
        }
        setxattr(self.links.path(&self.nodes.fd(head.node)?).as_str(), name, value, flags)
    }

    pub(super) fn remove_xattr(&mut self, head: &RequestHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let name = body.words()?;
        self.may_write()?;
        check_name(name)?;
        removexattr(self.links.path(&self.nodes.fd(head.node)?).as_str(), name)
    }
}

fn clone(file: &File) -> Result<File, Errno> {
    file.try_clone().map_err(|error| super::errno(&error))
}

/// Extended attributes are the guest's as far as they are users'; what means something to the host's kernel or to ferry is not.
fn is_shown(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(OWN_XATTRS)
}

fn check_name(name: &CStr) -> Result<(), Errno> {
    if is_shown(name.to_bytes()) { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

/// A value, or its length if that is all that is asked for.
fn give_xattr(value: &[u8], size: u32, room: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
    match size as usize {
        0 => answer_with(&GetXattrReply { size: value.len() as u32, padding: 0 }, out),
        size if value.len() <= size.min(room) => {
            out.extend_from_slice(value);
            Ok(())
        }
        _ => Err(Errno::RANGE),
    }
}
