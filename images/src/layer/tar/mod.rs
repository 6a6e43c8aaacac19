//! Reads tar archives as a stream: v7, ustar, GNU and pax (POSIX.1-2008), with long names, binary numbers,
//! global headers, extended attributes and all four ways of writing sparse files.
//!
//! Strict where leniency would let two readers see two trees, and never trusting: whatever a header declares
//! is checked before memory is set aside for it.

mod header;
mod input;
mod number;
mod pax;
mod sparse;

use std::io::BufRead;

use super::Error;
use header::{BLOCK, Header};
use input::Input;
use pax::{Globals, Records, View};
pub(super) use sparse::Segment;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
}

/// An entry of the archive, all headers that precede its data taken together.
#[derive(Debug)]
pub(super) struct Entry {
    /// As written: not normalised, perhaps absolute.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub permissions: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds after them.
    pub mtime: (i64, u32),
    /// Bytes of a file, its holes included.
    pub size: u64,
    /// Target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Names and values, as the archive has them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file: what the data in the archive are data of, in order and apart.
    pub segments: Option<Vec<Segment>>,
}

/// An archive being read.
pub(super) struct Archive<R> {
    input: Input<R>,
    globals: Globals,
    /// Bytes of the current entry's data that are still to be read, and padding after them.
    left: u64,
    padding: u64,
}

/// The largest extended header or long name that is read, in bytes: the same as Go's archive/tar, and so as
/// every container engine's.
const LARGEST_EXTENSION: u64 = 1 << 20;

/// More extended headers than this before one entry are refused: they would be an endless archive of nothing.
const MOST_EXTENSIONS: usize = 64;

impl<R: BufRead> Archive<R> {
    /// The archive that `reader` yields; at most `limit` bytes are taken from it.
    pub fn new(reader: R, limit: u64) -> Archive<R> {
        Archive { input: Input::new(reader, limit), globals: Globals::default(), left: 0, padding: 0 }
    }

    /// The next entry; what is left of the last one's data is skipped. After the last, the stream has been
    /// read to its end.
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        self.skip_data()?;
        let mut long_name = None;
        let mut long_link = None;
        let mut locals = Records::default();
        let mut extended = false;
        for _ in 0..MOST_EXTENSIONS {
            let Some(header) = self.header()? else {
                return if extended { Err(self.input.truncated()) } else { Ok(None) };
            };
            extended |= matches!(header.kind(), b'x' | b'L' | b'K');
            match header.kind() {
                b'x' => locals = Records::parse(&self.extension(&header)?, self.input.offset())?,
                b'g' => {
                    let records = Records::parse(&self.extension(&header)?, self.input.offset())?;
                    self.globals.update(records).map_err(|what| self.input.broken(what))?;
                }
                b'L' => long_name = Some(until_nul(self.extension(&header)?)),
                b'K' => long_link = Some(until_nul(self.extension(&header)?)),
                // A volume's label names no file.
                b'V' => self.start_data(header.size().map_err(|what| self.input.broken(what))?),
                _ => {
                    // Lent to the entry while it moves the archive on.
                    let globals = std::mem::take(&mut self.globals);
                    let records = View { locals: &locals, globals: &globals };
                    let entry = self.entry(&header, long_name, long_link, records);
                    self.globals = globals;
                    return entry.map(Some);
                }
            }
            self.skip_data()?;
        }
        Err(self.input.broken("an entry with too many extended headers"))
    }

    /// How far it has been read, in bytes.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// The next piece of the current entry's data; empty at their end. Say with [`Archive::consume`] how much
    /// of it was used.
    pub fn data(&mut self) -> Result<&[u8], Error> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = self.left;
        let available = self.input.fill()?;
        let length = (available.len() as u64).min(left) as usize;
        Ok(&available[..length])
    }

    /// Takes `length` bytes from what [`Archive::data`] showed.
    pub fn consume(&mut self, length: usize) {
        self.left -= length as u64;
        self.input.consume(length);
    }

    fn start_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        self.input.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header that is not zeros; nothing at the archive's end.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let mut zeros = 0;
        loop {
            let Some(block) = self.input.block()? else {
                // Two blocks of zeros should end an archive. Many writers' archives simply end.
                return Ok(None);
            };
            if block != [0; BLOCK] {
                let header = Header::new(block).map_err(|what| self.input.broken(what))?;
                return Ok(Some(header));
            }
            zeros += 1;
            if zeros == 2 {
                self.input.drain()?;
                return Ok(None);
            }
        }
    }

    /// What an extended header or a long name holds.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let size = header.size().map_err(|what| self.input.broken(what))?;
        if size > LARGEST_EXTENSION {
            return Err(self.input.broken("an extended header of more than 1 MiB"));
        }
        self.start_data(size);
        let mut content = Vec::with_capacity(size as usize);
        self.read_data(&mut content)?;
        Ok(content)
    }

    fn read_data(&mut self, to: &mut Vec<u8>) -> Result<(), Error> {
        while self.left != 0 {
            let piece = self.data()?;
            to.extend_from_slice(piece);
            let length = piece.len();
            self.consume(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        records: View,
    ) -> Result<Entry, Error> {
        let at = self.input.offset();
        let broken = |what| Error::Archive { what, offset: at };
        let mut path = long_name.or_else(|| records.text(b"path")).unwrap_or_else(|| header.path());
        let link = long_link.or_else(|| records.text(b"linkpath")).unwrap_or_else(|| header.link());
        let typeflag = header.kind();
        let kind = match typeflag {
            // Before there was a type for directories, a slash said it.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(broken("an entry of a type that is none of a file's")),
        };
        // Links, devices and directories carry no data, whatever their size says; a dump directory does.
        let stored = match kind {
            Kind::File => match records.number(b"size").map_err(broken)? {
                Some(size) => size,
                None => header.size().map_err(broken)?,
            },
            _ if typeflag == b'D' => header.size().map_err(broken)?,
            _ => 0,
        };
        if stored > i64::MAX as u64 {
            return Err(broken("a file of impossible size"));
        }
        self.input.announced(stored)?;

        let mut size = if kind == Kind::File { stored } else { 0 };
        let mut segments = None;
        if typeflag == b'S' {
            let (real, found) = self.old_gnu_sparse(header)?;
            (size, segments) = (real, Some(found));
            self.start_data(stored);
        } else {
            self.start_data(stored);
            if kind == Kind::File
                && let Some(sparse) = records.sparse().map_err(broken)?
            {
                if let Some(name) = sparse.name {
                    path = name;
                }
                size = sparse.size;
                segments = Some(match sparse.map {
                    Some(map) => map,
                    None => self.sparse_map_in_data()?,
                });
            }
        }
        if let Some(segments) = &segments {
            sparse::check(segments, size, self.left).map_err(broken)?;
        }

        let owner = |key: &[u8], field: Result<i64, &'static str>| {
            let number = match records.number(key).map_err(broken)? {
                Some(number) => number,
                None => u64::try_from(field.map_err(broken)?).map_err(|_| broken("a negative owner"))?,
            };
            // The last number stands for "no owner" in the kernel's interfaces.
            u32::try_from(number)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or(broken("an owner of more than 32 bits"))
        };
        Ok(Entry {
            kind,
            permissions: header.permissions().map_err(broken)?,
            uid: owner(b"uid", header.uid())?,
            gid: owner(b"gid", header.gid())?,
            mtime: match records.time(b"mtime").map_err(broken)? {
                Some(time) => time,
                None => (header.mtime().map_err(broken)?, 0),
            },
            device: match kind {
                Kind::Character | Kind::Block => header.device().map_err(broken)?,
                _ => (0, 0),
            },
            xattrs: records.xattrs().map_err(broken)?,
            path,
            size,
            link,
            segments,
        })
    }

    /// The map of an old GNU sparse file: in the header, and in as many further blocks as it takes.
    fn old_gnu_sparse(&mut self, header: &Header) -> Result<(u64, Vec<Segment>), Error> {
        let broken = |input: &Input<R>, what| input.broken(what);
        let size = header.sparse_size().map_err(|what| broken(&self.input, what))?;
        let mut map = sparse::Map::default();
        let mut more = header.sparse_map(&mut map).map_err(|what| broken(&self.input, what))?;
        while more {
            let block = self.input.block()?.ok_or_else(|| self.input.truncated())?;
            more = sparse::old_gnu_extension(&block, &mut map).map_err(|what| broken(&self.input, what))?;
        }
        Ok((size, map.segments))
    }

    /// The map of a sparse file in pax format 1.0: the first blocks of its data, as text.
    fn sparse_map_in_data(&mut self) -> Result<Vec<Segment>, Error> {
        let mut parser = sparse::TextMap::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(self.input.broken("a sparse file without its map"));
            }
            let block = self.input.block()?.ok_or_else(|| self.input.truncated())?;
            self.left -= BLOCK as u64;
            if parser.block(&block).map_err(|what| self.input.broken(what))? {
                return Ok(parser.map.segments);
            }
        }
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}
