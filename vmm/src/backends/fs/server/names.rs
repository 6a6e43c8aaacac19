//! Requests about names: finding, making, moving and removing entries of directories.

use super::super::directory::{self, Listing};
use super::super::nodes::{DIRECTORY, FILE, Found, KIND, REGULAR, ROOT};
use super::super::wire::{
    Body, CreateRequest, Entry, LinkRequest, MkdirRequest, MknodRequest, OpenReply, ReadRequest,
    Rename2Request, RenameRequest, RequestHeader, opcode,
};
use super::{Handle, Server, answer_with};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, chmodat, fstat, linkat, mkdirat, mknodat,
    openat, readlinkat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;

/// The bits of a mode that are permissions.
const PERMISSIONS: u32 = 0o7777;
/// The bits that changing an owner takes away.
const PRIVILEGES: u32 = 0o6000;
/// A directory that gives its group to what is made in it.
const SET_GROUP_ID: u32 = 0o2000;

impl Server {
    pub(super) fn look_up(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let found = self.find(head.node, body.name()?)?;
        self.tell(&found, out)
    }

    /// Answers with an entry; the guest knows of its node from now on.
    fn tell(&mut self, found: &Found, out: &mut Vec<u8>) -> Result<(), Errno> {
        match self.entry(found) {
            Ok(entry) => answer_with(&entry, out),
            Err(errno) => {
                self.nodes.forget(found.node, 1);
                Err(errno)
            }
        }
    }

    /// An entry has just been made: it gets its owner, and the answer tells of it.
    fn made(
        &mut self,
        head: &RequestHeader,
        name: &CStr,
        mode: u32,
        in_directory: &OwnedFd,
        out: &mut Vec<u8>,
    ) -> Result<u64, Errno> {
        let directory = fstat(in_directory)?;
        let mut found = self.nodes.look_up(head.node, name)?;
        let owned = self.own(head, mode, &directory, &mut found);
        owned.and_then(|()| self.tell(&found, out)).map(|()| found.node)
    }

    fn own(
        &mut self,
        head: &RequestHeader,
        mode: u32,
        directory: &Stat,
        found: &mut Found,
    ) -> Result<(), Errno> {
        let fd = self.nodes.fd(found.node)?;
        let group = match directory.st_mode & SET_GROUP_ID {
            0 => Some(head.gid),
            _ => None,
        };
        match self.owners.give(self.links, &fd, &found.stat, Some(head.uid), group) {
            // A symbolic link of another owner than its maker's is as good, and so is a file where nobody remembers owners.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {}
            result => result?,
        }
        if mode & PRIVILEGES != 0 && matches!(found.stat.st_mode & KIND, REGULAR) {
            let path = self.links.path(&fd);
            chmodat(CWD, path.as_str(), Mode::from_raw_mode(mode & PERMISSIONS), AtFlags::empty())?;
        }
        found.stat = fstat(&*fd)?;
        Ok(())
    }

    pub(super) fn make_directory(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let MkdirRequest { mode, .. } = body.read()?;
        let (name, directory) = (body.name()?, self.directory_to_change(head.node)?);
        mkdirat(&*directory, name, Mode::from_raw_mode(mode & PERMISSIONS))?;
        self.made(head, name, 0, &directory, out).map(drop)
    }

    pub(super) fn make_node(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let MknodRequest { mode, .. } = body.read()?;
        let (name, directory) = (body.name()?, self.directory_to_change(head.node)?);
        let kind = match FileType::from_raw_mode(mode) {
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            _ => return Err(Errno::PERM),
        };
        mknodat(&*directory, name, kind, Mode::from_raw_mode(mode & PERMISSIONS), 0)?;
        self.made(head, name, mode, &directory, out).map(drop)
    }

    pub(super) fn make_symlink(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let (name, target) = (body.name()?, body.words()?);
        let directory = self.directory_to_change(head.node)?;
        symlinkat(target, &*directory, name)?;
        self.made(head, name, 0, &directory, out).map(drop)
    }

    pub(super) fn make_link(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let LinkRequest { node } = body.read()?;
        let (name, directory) = (body.name()?, self.directory_to_change(head.node)?);
        let fd = self.nodes.fd(node)?;
        linkat(CWD, self.links.path(&fd).as_str(), &*directory, name, AtFlags::SYMLINK_FOLLOW)?;
        let found = self.nodes.look_up(head.node, name)?;
        self.tell(&found, out)
    }

    pub(super) fn create(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let CreateRequest { flags, mode, .. } = body.read()?;
        let (name, directory) = (body.name()?, self.directory_to_change(head.node)?);
        let asked = super::contents::host_flags(flags)?;
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let wanted = OFlags::from_bits_retain(flags);
        let (file, node) =
            match openat(&*directory, name, asked | new, Mode::from_raw_mode(mode & PERMISSIONS)) {
                Ok(file) => (File::from(file), self.made(head, name, mode, &directory, out)?),
                // Somebody else was faster; what is there will do unless the guest wants it new.
                Err(Errno::EXIST) if !wanted.contains(OFlags::EXCL) => {
                    let found = self.nodes.look_up(head.node, name)?;
                    self.tell(&found, out)?;
                    let file = self.open_node(found.node, asked | (wanted & OFlags::TRUNC));
                    (file.inspect_err(|_| self.nodes.forget(found.node, 1))?, found.node)
                }
                Err(errno) => return Err(errno),
            };
        let handle = self.add_handle(file, false).inspect_err(|_| self.nodes.forget(node, 1))?;
        answer_with(&OpenReply { handle, ..OpenReply::default() }, out)
    }

    pub(super) fn remove(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        flags: AtFlags,
    ) -> Result<(), Errno> {
        let (name, directory) = (body.name()?, self.directory_to_change(head.node)?);
        let node = self.nodes.known(head.node, name);
        unlinkat(&*directory, name, flags)?;
        self.nodes.removed(node, head.node, name);
        Ok(())
    }

    pub(super) fn rename(&mut self, head: &RequestHeader, mut body: Body<'_>) -> Result<(), Errno> {
        let (to, flags) = match head.opcode {
            opcode::RENAME => (body.read::<RenameRequest>()?.directory, 0),
            _ => {
                let asked: Rename2Request = body.read()?;
                (asked.directory, asked.flags)
            }
        };
        let (old, new) = (body.name()?, body.name()?);
        let flags = RenameFlags::from_bits_retain(flags);
        // A whiteout is a device.
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL);
        }
        let (from_directory, to_directory) =
            (self.directory_to_change(head.node)?, self.directory_to_change(to)?);
        let (moved, replaced) = (self.nodes.known(head.node, old), self.nodes.known(to, new));
        renameat_with(&*from_directory, old, &*to_directory, new, flags)?;
        if flags.contains(RenameFlags::EXCHANGE) {
            self.nodes.moved(replaced, head.node, old);
        } else if replaced != moved {
            self.nodes.removed(replaced, to, new);
        }
        self.nodes.moved(moved, to, new);
        Ok(())
    }

    pub(super) fn read_link(
        &mut self,
        head: &RequestHeader,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let target = readlinkat(&*self.nodes.fd(head.node)?, "", Vec::new())?;
        let target = target.as_bytes();
        out.extend_from_slice(target.get(..room).unwrap_or(target));
        Ok(())
    }

    pub(super) fn read_directory(
        &mut self,
        head: &RequestHeader,
        mut body: Body<'_>,
        is_plus: bool,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let ReadRequest { handle, offset, size, .. } = body.read()?;
        let room = room.min(size as usize);
        let Some(Handle { file, is_directory: true }) = self.handles.get(&handle) else {
            return Err(Errno::BADF);
        };
        if self.only.is_some() {
            return self.list_only_file(offset, is_plus, Listing::new(out, room));
        }
        // The handle is not the table's while the entries are looked up there.
        let file = file.try_clone().map_err(|error| super::errno(&error))?;
        let mut listing = Listing::new(out, room);
        directory::read(&file, offset, |ino, next, kind, name| {
            if !listing.has_room(name, is_plus) {
                return false;
            }
            let plus = is_plus.then(|| self.plus(head.node, name));
            listing.add(plus.as_ref(), ino, next, kind, name);
            true
        })
    }

    /// What READDIRPLUS tells of an entry: nothing, where looking it up leads nowhere or out.
    fn plus(&mut self, directory: u64, name: &CStr) -> Entry {
        if matches!(name.to_bytes(), b"." | b"..") {
            return Entry::default();
        }
        let Ok(found) = self.nodes.look_up(directory, name) else { return Entry::default() };
        self.entry(&found).unwrap_or_else(|_| {
            self.nodes.forget(found.node, 1);
            Entry::default()
        })
    }

    fn list_only_file(&mut self, offset: u64, is_plus: bool, mut listing: Listing<'_>) -> Result<(), Errno> {
        let name = self.only.clone().unwrap_or_default();
        let entries = [(ROOT, c".", DIRECTORY), (ROOT, c"..", DIRECTORY), (FILE, name.as_c_str(), REGULAR)];
        for (number, (ino, name, kind)) in
            (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            if !listing.has_room(name, is_plus) {
                break;
            }
            let plus = match self.find(ROOT, name) {
                Ok(found) if is_plus => self.entry(&found)?,
                _ => Entry::default(),
            };
            listing.add(is_plus.then_some(&plus), ino, number, kind >> 12, name);
        }
        Ok(())
    }
}
