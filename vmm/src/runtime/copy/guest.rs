//! A container's files, through the agent in its guest.

use super::{CopyError, Exactly, Item, Keep, Kind, LONGEST_PATH, Sink, checked_name, join, shown};
use crate::agent::{CallError, Client};
use ferry_init::api::ferry::FileInfo;
use ferry_init::api::guest::CopyFileRequest;
use ferry_init::api::ttrpc::Code;
use std::io::{self, Read};

/// Most bytes of one piece of a file; the agent gives no more at once.
const PIECE: u32 = 1 << 20;
/// Most names in one directory: what a guest says is held in memory.
const NAMES: usize = 1 << 20;
/// `S_IFMT` and its values.
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// The mode of directories that are made on the way.
const ON_THE_WAY: u32 = 0o755;

/// The files of one container.
pub struct Files<'a> {
    /// The way to its guest.
    pub client: &'a Client,
    /// Its id.
    pub container: &'a str,
}

/// What is at a path of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A directory, or a link to one.
    Directory,
    /// Something else.
    Other,
}

impl Files<'_> {
    fn fault(path: &[u8]) -> impl Fn(CallError) -> CopyError {
        move |error| CopyError::Guest { path: shown(path), error }
    }

    /// What is at a path, with links followed.
    pub fn look(&self, path: &[u8]) -> Result<Found, CopyError> {
        match self.client.stat_file(self.container, path, true) {
            Ok(info) if info.mode & TYPE == DIRECTORY => Ok(Found::Directory),
            Ok(_) => Ok(Found::Other),
            Err(error) if error.is(Code::NotFound) => Ok(Found::Nothing),
            Err(error) => Err(Self::fault(path)(error)),
        }
    }

    /// Gives everything at and below `path` to the sink.
    pub fn copy_out(&self, path: &[u8], follow: bool, sink: &mut dyn Sink) -> Result<(), CopyError> {
        // Paths below the root that are still to be copied: the tree is walked without recursion.
        let mut left = vec![Vec::new()];
        while let Some(below) = left.pop() {
            let whole = join(path, &below);
            if whole.len() >= LONGEST_PATH {
                return Err(CopyError::Endless(shown(&whole[..40])));
            }
            let follow = follow && below.is_empty();
            let info = self.client.stat_file(self.container, &whole, follow).map_err(Self::fault(&whole))?;
            let item = item(below, &info);
            let length = if let Kind::File(length) = item.kind { length } else { 0 };
            let content =
                Content { files: self, path: &whole, offset: 0, piece: io::Cursor::new(Vec::new()) };
            sink.put(&item, &mut Exactly { from: content, left: length })?;
            if item.kind == Kind::Directory {
                let mut names = self.names(&whole)?;
                // The last is the first to be taken.
                names.sort_unstable_by(|one, other| other.cmp(one));
                left.extend(names.iter().map(|name| join(&item.path, name)));
            }
        }
        sink.finish()
    }

    fn names(&self, directory: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
        let mut names = Vec::new();
        let mut cursor = 0;
        loop {
            let answer =
                self.client.read_dir(self.container, directory, cursor).map_err(Self::fault(directory))?;
            for name in &answer.names {
                checked_name(name)?;
            }
            let more = answer.next != 0 && !answer.names.is_empty();
            names.extend(answer.names);
            if names.len() > NAMES {
                return Err(CopyError::Endless(shown(directory)));
            }
            if !more {
                return Ok(names);
            }
            cursor = answer.next;
        }
    }
}

fn item(path: Vec<u8>, info: &FileInfo) -> Item {
    let kind = match info.mode & TYPE {
        DIRECTORY => Kind::Directory,
        FILE => Kind::File(info.size),
        LINK => Kind::Link(info.link_target.clone()),
        _ => Kind::Other,
    };
    let mtime = info.mtime_ns.div_euclid(1_000_000_000);
    Item { path, kind, mode: info.mode & 0o7777, uid: info.uid, gid: info.gid, mtime }
}

/// A file in the guest, read piece by piece.
struct Content<'a> {
    files: &'a Files<'a>,
    path: &'a [u8],
    offset: u64,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.position() == self.piece.get_ref().len() as u64 {
            let Files { client, container } = self.files;
            let piece =
                client.read_file(container, self.path, self.offset, PIECE).map_err(io::Error::other)?;
            self.offset += piece.len() as u64;
            self.piece = io::Cursor::new(piece);
        }
        self.piece.read(buffer)
    }
}

/// Makes items below a path of a container.
pub struct Into<'a> {
    /// The container.
    pub files: Files<'a>,
    /// What the root of the items becomes.
    pub root: Vec<u8>,
    /// What of them is kept.
    pub keep: Keep,
}

impl Sink for Into<'_> {
    fn put(&mut self, item: &Item, content: &mut dyn Read) -> Result<(), CopyError> {
        let Files { client, container } = self.files;
        let path = join(&self.root, &item.path);
        // The agent's paths are text.
        let Ok(text) = std::str::from_utf8(&path) else {
            tracing::warn!(path = shown(&path), "left out: its name is not UTF-8");
            return Ok(());
        };
        let below = text.trim_start_matches('/');
        let (uid, gid) = match self.keep {
            Keep::Permissions => (0, 0),
            Keep::Everything => (item.uid, item.gid),
        };
        let id = |number: u32| i32::try_from(number).unwrap_or(0);
        let mut request = CopyFileRequest {
            path: format!("/run/kata-containers/{container}/rootfs/{below}"),
            dir_mode: ON_THE_WAY,
            uid: id(uid),
            gid: id(gid),
            ..CopyFileRequest::default()
        };
        let send = |request: &CopyFileRequest| client.copy_file(request).map_err(Files::fault(&path));
        let mode = self.keep.mode(item.mode);
        match &item.kind {
            Kind::Directory => {
                request.file_mode = DIRECTORY | mode;
                send(&request)
            }
            Kind::Link(target) => {
                request.file_mode = LINK | 0o777;
                request.data = target.clone();
                request.file_size = target.len() as i64;
                send(&request)
            }
            Kind::File(length) => {
                request.file_mode = FILE | mode;
                request.file_size = i64::try_from(*length).unwrap_or(i64::MAX);
                loop {
                    let mut piece = Vec::new();
                    let read = content.take(PIECE.into()).read_to_end(&mut piece);
                    read.map_err(|error| CopyError::Host { path: shown(&item.path), error })?;
                    request.offset += request.data.len() as i64;
                    request.data = piece;
                    // An empty file is one empty piece; others end where they are said to.
                    if request.data.is_empty() && request.offset > 0 {
                        return Ok(());
                    }
                    send(&request)?;
                    if request.data.is_empty() {
                        return Ok(());
                    }
                }
            }
            Kind::Other => {
                tracing::warn!(path = shown(&path), "left out: it is no file, directory or symbolic link");
                Ok(())
            }
        }
    }
}
