//! The server of one shared directory: a request comes in, its answer goes out. It knows nothing of how they travel.
//!
//! Nothing that a request says is believed: lengths are checked, names are one step down and no symbolic link is ever
//! followed, numbers of nodes and handles are looked up, and tables are bounded.

mod attributes;
mod contents;
mod names;

use super::locks::Locks;
use super::nodes::{DIRECTORY, FILE, Found, KIND, Nodes, REGULAR, ROOT};
use super::owners::{Links, Owners};
use super::wire::{
    Attributes, BatchForgetRequest, Body, Entry, ForgetOne, ForgetRequest, InitReply, InitRequest,
    InterruptRequest, LockRequest, MAJOR, MINOR, ReplyHeader, RequestHeader, init, opcode,
};
use super::{MAX_DATA, REPLY_HEADER};
use rustix::fs::{Mode, OFlags, Stat, fstat, major, minor, openat};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use vm_memory::ByteValued;

/// For how many seconds the guest may believe what it was told of a name or of attributes.
const BELIEVED: u64 = 1;
/// The most requests that wait for a lock.
const MOST_WAITING: usize = 64;
/// How many requests the guest may have under way for things that nobody waits for, and from how many on it is busy.
const BACKGROUND: (u16, u16) = (64, 48);
/// A page, as FUSE counts the pages of a message.
const PAGE: usize = 4096;

/// What is shared.
pub struct Share {
    /// The directory; one that is empty where a file is shared.
    pub root: OwnedFd,
    /// The file and its name, where it is only one.
    pub file: Option<(OwnedFd, CString)>,
    /// Whether the guest may change anything.
    pub writable: bool,
    /// Whether the working directory is the proc file system's of this process's descriptors, where paths do not lead there.
    pub in_descriptors: bool,
    /// How many descriptors there may be.
    pub descriptors: usize,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has an answer.
    Reply,
    /// It takes none.
    Nothing,
    /// It waits; its answer comes from [`Server::granted`].
    Later,
}

/// An open file or directory of the guest's.
struct Handle {
    file: File,
    is_directory: bool,
}

/// A request that waits for a lock.
struct Waiting {
    tag: u32,
    unique: u64,
    node: u64,
    lock: LockRequest,
    interrupted: bool,
}

/// The server of one shared directory, or of one file.
pub struct Server {
    nodes: Nodes,
    handles: BTreeMap<u64, Handle>,
    next_handle: u64,
    most_handles: usize,
    locks: Locks,
    waiting: VecDeque<Waiting>,
    owners: Owners,
    links: Links,
    writable: bool,
    only: Option<CString>,
}

impl Server {
    /// A server that no guest has talked to.
    pub fn new(share: Share) -> std::io::Result<Self> {
        let (file, only) = share.file.unzip();
        Ok(Self {
            nodes: Nodes::new(share.root, file, (share.descriptors / 2).max(16))?,
            handles: BTreeMap::new(),
            next_handle: 1,
            most_handles: (share.descriptors / 4).max(16),
            locks: Locks::default(),
            waiting: VecDeque::new(),
            owners: Owners::of_this_process(),
            links: if share.in_descriptors { Links::HERE } else { Links::ABSOLUTE },
            writable: share.writable,
            only,
        })
    }

    /// Answers a request in `reply`, which is at most `room` bytes long afterwards, and empty where there is no answer. `tag` is what [`Server::granted`] calls
    /// the request if it has to wait.
    pub fn answer(&mut self, tag: u32, request: &[u8], room: usize, reply: &mut Vec<u8>) -> Answer {
        reply.clear();
        let mut body = Body(request);
        let Ok(head) = body.read::<RequestHeader>() else { return Answer::Nothing };
        if matches!(head.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
            // What is wrong with these nobody learns.
            let _ = self.take_notice(&head, body);
            return Answer::Nothing;
        }
        // Who cannot hear what has become of it does not get anything done.
        let Some(room) = room.checked_sub(REPLY_HEADER) else { return Answer::Nothing };
        let room = room.min(MAX_DATA);
        reply.resize(REPLY_HEADER, 0);
        let result = match head.opcode {
            _ if head.length as usize != request.len() => Err(Errno::IO),
            opcode::SETLK | opcode::SETLKW => match self.set_lock(tag, &head, body) {
                Ok(true) => return Answer::Later,
                result => result.map(drop),
            },
            _ => self.dispatch(&head, body, room, reply),
        };
        let result = match result {
            Ok(()) if reply.len() - REPLY_HEADER > room => Err(Errno::RANGE),
            result => result,
        };
        finish(reply, head.unique, result);
        Answer::Reply
    }

    fn dispatch(
        &mut self,
        head: &RequestHeader,
        body: Body<'_>,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        match head.opcode {
            opcode::INIT => self.init(body, out),
            opcode::DESTROY => {
                self.clear();
                Ok(())
            }
            opcode::LOOKUP => self.look_up(head, body, out),
            opcode::GETATTR => self.get_attributes(head, out),
            opcode::SETATTR => self.set_attributes(head, body, out),
            opcode::READLINK => self.read_link(head, room, out),
            opcode::SYMLINK => self.make_symlink(head, body, out),
            opcode::MKNOD => self.make_node(head, body, out),
            opcode::MKDIR => self.make_directory(head, body, out),
            opcode::UNLINK => self.remove(head, body, rustix::fs::AtFlags::empty()),
            opcode::RMDIR => self.remove(head, body, rustix::fs::AtFlags::REMOVEDIR),
            opcode::RENAME | opcode::RENAME2 => self.rename(head, body),
            opcode::LINK => self.make_link(head, body, out),
            opcode::CREATE => self.create(head, body, out),
            opcode::OPEN => self.open_file(head, body, out),
            opcode::OPENDIR => self.open_directory(head, out),
            opcode::READ => self.read(body, room, out),
            opcode::WRITE => self.write(head, body, out),
            opcode::READDIR => self.read_directory(head, body, false, room, out),
            opcode::READDIRPLUS => self.read_directory(head, body, true, room, out),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(body),
            opcode::FLUSH => self.flush(head, body),
            opcode::FSYNC | opcode::FSYNCDIR => self.sync(body),
            opcode::SYNCFS => self.sync_all(head),
            opcode::FALLOCATE => self.allocate(body),
            opcode::LSEEK => self.seek(body, out),
            opcode::COPY_FILE_RANGE => self.copy(body, out),
            opcode::GETLK => self.get_lock(head, body, out),
            opcode::STATFS => self.statfs(head, out),
            opcode::GETXATTR => self.get_xattr(head, body, room, out),
            opcode::LISTXATTR => self.list_xattrs(head, body, room, out),
            opcode::SETXATTR => self.set_xattr(head, body),
            opcode::REMOVEXATTR => self.remove_xattr(head, body),
            _ => Err(Errno::NOSYS),
        }
    }

    /// A new guest, or the same from its start: what was before is over.
    fn init(&mut self, mut body: Body<'_>, out: &mut Vec<u8>) -> Result<(), Errno> {
        const WANTED: u32 = init::ASYNC_READ
            | init::POSIX_LOCKS
            | init::BIG_WRITES
            | init::FLOCK_LOCKS
            | init::AUTO_INVAL_DATA
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::MAX_PAGES
            | init::SUBMOUNTS
            | init::HANDLE_KILLPRIV_V2;
        let asked: InitRequest = body.read()?;
        if asked.major < MAJOR || (asked.major == MAJOR && asked.minor < MINOR) {
            return Err(Errno::PROTO);
        }
        self.clear();
        let answer = InitReply {
            major: MAJOR,
            minor: MINOR,
            max_readahead: asked.max_readahead,
            flags: asked.flags & WANTED,
            max_background: BACKGROUND.0,
            congestion_threshold: BACKGROUND.1,
            max_write: MAX_DATA as u32,
            time_granularity: 1,
            max_pages: (MAX_DATA / PAGE) as u16,
            ..InitReply::default()
        };
        answer_with(&answer, out)
    }

    fn clear(&mut self) {
        self.handles.clear();
        self.locks.clear();
        self.nodes.clear();
        self.waiting.iter_mut().for_each(|waiting| waiting.interrupted = true);
    }

    /// Requests without an answer.
    fn take_notice(&mut self, head: &RequestHeader, mut body: Body<'_>) -> Result<(), Errno> {
        match head.opcode {
            opcode::FORGET => {
                let asked: ForgetRequest = body.read()?;
                self.nodes.forget(head.node, asked.lookups);
            }
            opcode::BATCH_FORGET => {
                let asked: BatchForgetRequest = body.read()?;
                for _ in 0..asked.count {
                    let ForgetOne { node, lookups } = body.read()?;
                    self.nodes.forget(node, lookups);
                }
            }
            _ => {
                let asked: InterruptRequest = body.read()?;
                let mut waiting = self.waiting.iter_mut();
                if let Some(waiting) = waiting.find(|waiting| waiting.unique == asked.unique) {
                    waiting.interrupted = true;
                }
            }
        }
        Ok(())
    }

    /// Whether some request waits for a lock.
    pub fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The answer to a request that need not wait any longer, with its tag.
    pub fn granted(&mut self, reply: &mut Vec<u8>) -> Option<u32> {
        for at in 0..self.waiting.len() {
            let Waiting { unique, node, lock, interrupted, .. } = self.waiting[at];
            let result = if interrupted { Err(Errno::INTR) } else { self.try_lock(node, &lock) };
            if result == Err(Errno::AGAIN) {
                continue;
            }
            let waiting = self.waiting.remove(at)?;
            reply.clear();
            reply.resize(REPLY_HEADER, 0);
            finish(reply, unique, result);
            return Some(waiting.tag);
        }
        None
    }

    /// Whether the guest may change anything here.
    fn may_write(&self) -> Result<(), Errno> {
        if self.writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// A directory whose entries are to be changed.
    fn directory_to_change(&mut self, node: u64) -> Result<Rc<OwnedFd>, Errno> {
        self.may_write()?;
        if self.only.is_some() {
            return Err(Errno::PERM);
        }
        self.nodes.fd(node)
    }

    /// Opens what a node stands for: a regular file or a directory, never anything that opening does something to.
    fn open_node(&mut self, node: u64, flags: OFlags) -> Result<File, Errno> {
        let fd = self.nodes.fd(node)?;
        let stat = fstat(&*fd)?;
        match stat.st_mode & KIND {
            REGULAR if !flags.contains(OFlags::DIRECTORY) => {}
            DIRECTORY if flags.contains(OFlags::DIRECTORY) => {}
            DIRECTORY => return Err(Errno::ISDIR),
            _ if flags.contains(OFlags::DIRECTORY) => return Err(Errno::NOTDIR),
            _ => return Err(Errno::NXIO),
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = openat(rustix::fs::CWD, self.links.path(&fd).as_str(), flags, Mode::empty())?;
        Ok(File::from(file))
    }

    fn add_handle(&mut self, file: File, is_directory: bool) -> Result<u64, Errno> {
        if self.handles.len() >= self.most_handles {
            return Err(Errno::NFILE);
        }
        let number = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(number, Handle { file, is_directory });
        Ok(number)
    }

    fn file(&self, handle: u64) -> Result<&File, Errno> {
        match self.handles.get(&handle) {
            Some(Handle { file, is_directory: false }) => Ok(file),
            _ => Err(Errno::BADF),
        }
    }

    /// What the guest is told of a node.
    fn attributes(&self, fd: &OwnedFd, stat: &Stat) -> Attributes {
        let (uid, gid) = self.owners.shown(self.links, &fd, stat);
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        Attributes {
            ino: stat.st_ino,
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            atime: stat.st_atime as u64,
            mtime: stat.st_mtime as u64,
            ctime: stat.st_ctime as u64,
            atime_nsec: stat.st_atime_nsec as u32,
            mtime_nsec: stat.st_mtime_nsec as u32,
            ctime_nsec: stat.st_ctime_nsec as u32,
            mode: stat.st_mode,
            nlink: stat.st_nlink as u32,
            uid,
            gid,
            // As Linux passes device numbers in 32 bits.
            rdev: device.1 & 0xff | device.0 << 8 | (device.1 & !0xff) << 12,
            block_size: stat.st_blksize as u32,
            flags: 0,
        }
    }

    /// What LOOKUP answers of a node that was found.
    fn entry(&mut self, found: &Found) -> Result<Entry, Errno> {
        let fd = self.nodes.fd(found.node)?;
        let mut attributes = self.attributes(&fd, &found.stat);
        if found.is_mount {
            attributes.flags |= super::wire::ATTR_SUBMOUNT;
        }
        Ok(Entry {
            node: found.node,
            entry_valid: BELIEVED,
            attributes_valid: BELIEVED,
            attributes,
            ..Entry::default()
        })
    }

    /// The entry `name` of a directory, which the guest is to be told of.
    fn find(&mut self, parent: u64, name: &std::ffi::CStr) -> Result<Found, Errno> {
        match &self.only {
            None => self.nodes.look_up(parent, name),
            Some(only) if parent == ROOT && only.as_c_str() == name => {
                let stat = fstat(&*self.nodes.fd(FILE)?)?;
                Ok(Found { node: FILE, stat, is_mount: false })
            }
            Some(_) => Err(Errno::NOENT),
        }
    }
}

/// Completes an answer: of one that failed nothing but that is told.
fn finish(reply: &mut Vec<u8>, unique: u64, result: Result<(), Errno>) {
    let error = match result {
        Ok(()) => 0,
        Err(errno) => {
            reply.truncate(REPLY_HEADER);
            -errno.raw_os_error()
        }
    };
    let head = ReplyHeader { length: reply.len() as u32, error, unique };
    reply[..REPLY_HEADER].copy_from_slice(head.as_slice());
}

/// An error of the system as its number.
fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Writes a reply's fixed part, which is all that there is of most.
fn answer_with(answer: &impl ByteValued, out: &mut Vec<u8>) -> Result<(), Errno> {
    out.extend_from_slice(answer.as_slice());
    Ok(())
}

#[cfg(test)]
mod tests;
