//! Room for what may be more than should be in memory: a layer of ten million files has gigabytes of names and attributes.
//!
//! The first of it is ordinary memory, and most layers need no more. What comes after is in pages of a file, some of which
//! are in memory at a time. Nothing but speed depends on which it is.
//!
//! Reading a page back can fail. Whoever reads then sees zeros, as nothing that is stored here is believed without need, and
//! the error is told to whoever asks for room next, or whether all went well ([`Space::check`]).

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::format::BLOCK as PAGE;

/// Bytes of ordinary memory that are taken at once.
const CHUNK: usize = 64 << 10;

/// Chunks of ordinary memory where there is a file for the rest: 32 MiB, a third of a million files.
const CHUNKS: usize = 512;

/// Pages of the file that are in memory: 16 MiB.
const WINDOW: usize = 4096;

/// The room from which [`Table`]s and [`Texts`] take what they need. What they no longer need they give back.
#[derive(Debug)]
pub struct Space {
    /// Chunks of ordinary memory that may still be taken.
    chunks: Cell<usize>,
    pages: Option<RefCell<Pages>>,
}

impl Space {
    /// Memory alone, without a limit.
    pub fn memory() -> Rc<Space> {
        Rc::new(Space { chunks: Cell::new(usize::MAX), pages: None })
    }

    /// Memory, and what is too much for it in `file`, which nobody else uses.
    pub fn in_file(file: &File) -> io::Result<Rc<Space>> {
        Self::of(file, CHUNKS, WINDOW)
    }

    /// The same with so many chunks of memory, and so many pages of the file.
    pub(crate) fn of(file: &File, chunks: usize, window: usize) -> io::Result<Rc<Space>> {
        let pages = Pages {
            window,
            file: file.try_clone()?,
            slots: Vec::new(),
            kept: Vec::new(),
            free: Vec::new(),
            hand: 0,
            error: None,
        };
        Ok(Rc::new(Space { chunks: Cell::new(chunks), pages: Some(RefCell::new(pages)) }))
    }

    /// Whether everything that was read was what had been written.
    pub fn check(&self) -> io::Result<()> {
        self.pages.as_ref().map_or(Ok(()), |pages| pages.borrow_mut().check())
    }

    /// True if a chunk of memory may be taken.
    fn take_chunk(&self) -> bool {
        let left = self.chunks.get();
        self.chunks.set(left.saturating_sub(1));
        left != 0
    }

    fn take_page(&self) -> io::Result<u32> {
        let mut pages = self.pages().borrow_mut();
        pages.check()?;
        pages.take()
    }

    fn give_back(&self, chunks: usize, pages: &[u32]) {
        self.chunks.set(self.chunks.get().saturating_add(chunks));
        if let Some(all) = &self.pages {
            all.borrow_mut().free.extend(pages);
        }
    }

    fn pages(&self) -> &RefCell<Pages> {
        self.pages.as_ref().expect("memory without a limit never asks for pages")
    }

    /// Bytes of a page.
    fn read<T>(&self, page: u32, read: impl FnOnce(&[u8]) -> T) -> T {
        let mut pages = self.pages().borrow_mut();
        let slot = pages.slot(page);
        read(&pages.slots[slot].bytes)
    }

    fn write(&self, page: u32, write: impl FnOnce(&mut [u8])) {
        let mut pages = self.pages().borrow_mut();
        let slot = pages.slot(page);
        let slot = &mut pages.slots[slot];
        slot.changed = true;
        write(&mut slot.bytes);
    }
}

/// The pages of a file.
#[derive(Debug)]
struct Pages {
    file: File,
    /// How many pages may be in memory: the window.
    window: usize,
    slots: Vec<Slot>,
    /// By page: its place in the window, counted from 1; 0 where it is in the file alone.
    kept: Vec<u32>,
    /// Pages that were given back.
    free: Vec<u32>,
    /// Where in the window to look next for a page that has not been used of late.
    hand: usize,
    error: Option<io::Error>,
}

#[derive(Debug)]
struct Slot {
    page: u32,
    bytes: Box<[u8]>,
    used: bool,
    changed: bool,
}

impl Pages {
    fn check(&mut self) -> io::Result<()> {
        match &self.error {
            None => Ok(()),
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    /// A page, of zeros.
    fn take(&mut self) -> io::Result<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let page = u32::try_from(self.kept.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
                self.kept.push(0);
                page
            }
        };
        let slot = match self.kept[page as usize] {
            0 => self.vacate(page),
            kept => kept as usize - 1,
        };
        let slot = &mut self.slots[slot];
        slot.bytes.fill(0);
        slot.changed = true;
        Ok(page)
    }

    /// Where in the window the page is, read if it was not there.
    fn slot(&mut self, page: u32) -> usize {
        if let Some(slot) = (self.kept[page as usize] as usize).checked_sub(1) {
            self.slots[slot].used = true;
            return slot;
        }
        let slot = self.vacate(page);
        let read = self.file.read_exact_at(&mut self.slots[slot].bytes, offset(page));
        if let Err(error) = read {
            self.slots[slot].bytes.fill(0);
            self.error.get_or_insert(error);
        }
        slot
    }

    /// A place in the window that is the page's from now on.
    fn vacate(&mut self, page: u32) -> usize {
        let slot = if self.slots.len() < self.window {
            let bytes = vec![0; PAGE].into_boxed_slice();
            self.slots.push(Slot { page, bytes, used: true, changed: false });
            self.slots.len() - 1
        } else {
            while std::mem::take(&mut self.slots[self.hand].used) {
                self.hand = (self.hand + 1) % self.window;
            }
            let slot = &mut self.slots[self.hand];
            self.kept[slot.page as usize] = 0;
            if std::mem::take(&mut slot.changed)
                && let Err(error) = self.file.write_all_at(&slot.bytes, offset(slot.page))
            {
                self.error.get_or_insert(error);
            }
            (slot.page, slot.used) = (page, true);
            self.hand
        };
        self.kept[page as usize] = slot as u32 + 1;
        slot
    }
}

fn offset(page: u32) -> u64 {
    u64::from(page) * PAGE as u64
}

/// What a [`Table`] holds.
pub trait Record: Copy {
    /// Bytes in a page.
    const SIZE: usize;
    /// Stores it in so many bytes.
    fn put(self, to: &mut [u8]);
    /// From such bytes; from zeros, too.
    fn get(from: &[u8]) -> Self;
}

/// Numbers are records.
macro_rules! number {
    ($($number:ty),*) => {$(
        impl Record for $number {
            const SIZE: usize = size_of::<$number>();
            fn put(self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_le_bytes());
            }
            fn get(from: &[u8]) -> Self {
                Self::from_le_bytes(from.try_into().unwrap_or_default())
            }
        }
    )*};
}
number!(u16, u32, u64, i64);

/// A struct that is a record of records, one behind another.
#[macro_export]
#[doc(hidden)]
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $kind:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $kind),*
        }

        impl $crate::erofs::space::Record for $name {
            const SIZE: usize = 0 $(+ <$kind as $crate::erofs::space::Record>::SIZE)*;
            fn put(self, to: &mut [u8]) {
                let rest = to;
                $(
                    let (field, rest) = rest.split_at_mut(<$kind as $crate::erofs::space::Record>::SIZE);
                    $crate::erofs::space::Record::put(self.$field, field);
                )*
                let _ = rest;
            }
            fn get(from: &[u8]) -> Self {
                let rest = from;
                $(
                    let ($field, rest) = rest.split_at(<$kind as $crate::erofs::space::Record>::SIZE);
                    let $field = <$kind as $crate::erofs::space::Record>::get($field);
                )*
                let _ = rest;
                Self { $($field),* }
            }
        }
    };
}

/// A growing array.
#[derive(Debug)]
pub struct Table<T> {
    space: Rc<Space>,
    memory: Vec<Vec<T>>,
    pages: Vec<u32>,
    length: usize,
}

impl<T: Record> Table<T> {
    const IN_CHUNK: usize = CHUNK / size_of::<T>();
    const IN_PAGE: usize = PAGE / T::SIZE;

    /// An empty one.
    pub fn new(space: &Rc<Space>) -> Table<T> {
        Table { space: Rc::clone(space), memory: Vec::new(), pages: Vec::new(), length: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// One more; what number it has.
    pub fn push(&mut self, record: T) -> io::Result<u32> {
        let number = self.length;
        if let Some(last) = self.memory.last_mut().filter(|last| last.len() < Self::IN_CHUNK) {
            last.push(record);
        } else if self.pages.is_empty() && self.space.take_chunk() {
            let mut chunk = Vec::with_capacity(Self::IN_CHUNK);
            chunk.push(record);
            self.memory.push(chunk);
        } else {
            let at = number - self.memory.len() * Self::IN_CHUNK;
            if at.is_multiple_of(Self::IN_PAGE) {
                self.pages.push(self.space.take_page()?);
            }
            self.put_in_page(at, record);
        }
        self.length += 1;
        // Node numbers are 32 bits on disk, and nothing is counted here that has none of its own.
        u32::try_from(number).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    /// So many of the same.
    pub fn filled(space: &Rc<Space>, record: T, count: usize) -> io::Result<Table<T>> {
        let mut table = Table::new(space);
        for _ in 0..count {
            table.push(record)?;
        }
        Ok(table)
    }

    /// The record of that number.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, number: usize) -> T {
        assert!(number < self.length, "record {number} of {}", self.length);
        if let Some(chunk) = self.memory.get(number / Self::IN_CHUNK) {
            return chunk[number % Self::IN_CHUNK];
        }
        let at = number - self.memory.len() * Self::IN_CHUNK;
        let start = at % Self::IN_PAGE * T::SIZE;
        self.space.read(self.pages[at / Self::IN_PAGE], |page| T::get(&page[start..start + T::SIZE]))
    }

    /// Replaces the record of that number.
    ///
    /// # Panics
    /// If there is none.
    pub fn set(&mut self, number: usize, record: T) {
        assert!(number < self.length, "record {number} of {}", self.length);
        match self.memory.get_mut(number / Self::IN_CHUNK) {
            Some(chunk) => chunk[number % Self::IN_CHUNK] = record,
            None => self.put_in_page(number - self.memory.len() * Self::IN_CHUNK, record),
        }
    }

    fn put_in_page(&self, at: usize, record: T) {
        let start = at % Self::IN_PAGE * T::SIZE;
        self.space
            .write(self.pages[at / Self::IN_PAGE], |page| record.put(&mut page[start..start + T::SIZE]));
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        self.space.give_back(self.memory.len(), &self.pages);
    }
}

/// Byte strings that are written once: names, and targets of links.
#[derive(Debug)]
pub struct Texts {
    space: Rc<Space>,
    memory: Vec<Vec<u8>>,
    pages: Vec<u32>,
    /// Bytes used of the last page.
    used: usize,
}

record! {
    /// A string in [`Texts`].
    #[derive(PartialEq, Eq)]
    pub struct Text {
        at: u32,
        length: u16,
    }
}

impl Text {
    /// Bytes.
    pub fn length(self) -> usize {
        usize::from(self.length)
    }

    /// Where it is and how long, to be kept elsewhere.
    pub(super) fn parts(self) -> (u32, u16) {
        (self.at, self.length)
    }

    /// From its parts.
    pub(super) fn of_parts(at: u32, length: u16) -> Text {
        Text { at, length }
    }
}

impl Texts {
    /// The longest string, in bytes.
    pub const LONGEST: usize = PAGE;

    /// None yet.
    pub fn new(space: &Rc<Space>) -> Texts {
        Texts { space: Rc::clone(space), memory: Vec::new(), pages: Vec::new(), used: PAGE }
    }

    /// One more, of at most [`Texts::LONGEST`] bytes.
    pub fn push(&mut self, text: &[u8]) -> io::Result<Text> {
        let room = |chunk: &&mut Vec<u8>| chunk.len() + text.len() <= CHUNK;
        let chunks = self.memory.len();
        let address = if let Some(last) = self.memory.last_mut().filter(room) {
            last.extend_from_slice(text);
            chunks * CHUNK - CHUNK + last.len() - text.len()
        } else if self.pages.is_empty() && self.space.take_chunk() {
            let mut chunk = Vec::with_capacity(CHUNK);
            chunk.extend_from_slice(text);
            self.memory.push(chunk);
            chunks * CHUNK
        } else {
            if self.used + text.len() > PAGE {
                self.pages.push(self.space.take_page()?);
                self.used = 0;
            }
            let (page, at) = (self.pages.len() - 1, self.used);
            self.space.write(self.pages[page], |page| page[at..at + text.len()].copy_from_slice(text));
            self.used += text.len();
            chunks * CHUNK + page * PAGE + at
        };
        let too_much = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        Ok(Text {
            at: u32::try_from(address).map_err(too_much)?,
            length: u16::try_from(text.len()).map_err(too_much)?,
        })
    }

    /// The string's bytes.
    pub fn get(&self, text: Text) -> Cow<'_, [u8]> {
        let (at, length) = (text.at as usize, text.length());
        if let Some(chunk) = self.memory.get(at / CHUNK) {
            return Cow::Borrowed(&chunk[at % CHUNK..][..length]);
        }
        let at = at - self.memory.len() * CHUNK;
        let start = at % PAGE;
        Cow::Owned(self.space.read(self.pages[at / PAGE], |page| page[start..start + length].to_vec()))
    }
}

impl Drop for Texts {
    fn drop(&mut self) {
        self.space.give_back(self.memory.len(), &self.pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        #[derive(PartialEq)]
        struct Three {
            a: u16,
            b: u64,
            c: u32,
        }
    }

    fn three(number: u64) -> Three {
        Three { a: number as u16, b: number << 20, c: !number as u32 }
    }

    /// More than fits into memory and the window together.
    #[test]
    fn what_is_stored_comes_back_from_wherever_it_is() {
        let file = tempfile::tempfile().unwrap();
        let space = Space::of(&file, 4, 16).unwrap();
        let (mut table, mut texts) = (Table::new(&space), Texts::new(&space));
        let count = 100_000;
        let text = |number: u64| format!("{number}").repeat(1 + number as usize % 3).into_bytes();
        let mut places = Vec::new();
        for number in 0..count {
            assert_eq!(table.push(three(number)).unwrap(), number as u32);
            places.push(texts.push(&text(number)).unwrap());
        }
        for number in (0..count).step_by(7) {
            table.set(number as usize, three(number + 1));
        }
        for number in (0..count).rev() {
            let expected = three(number + u64::from(number % 7 == 0));
            assert_eq!(table.get(number as usize), expected);
            assert_eq!(*texts.get(places[number as usize]), text(number));
        }
        space.check().unwrap();
        assert!(file.metadata().unwrap().len() > 1 << 20, "it is in the file");
    }

    #[test]
    fn room_that_is_given_back_is_used_again() {
        let file = tempfile::tempfile().unwrap();
        let space = Space::of(&file, 1, 16).unwrap();
        let mut lengths = Vec::new();
        for round in 0..3u32 {
            let table = Table::filled(&space, round, 100_000).unwrap();
            assert!((0..100_000).all(|number| table.get(number) == round));
            lengths.push(space.pages().borrow().kept.len());
        }
        assert_eq!(lengths, [lengths[0]; 3]);
    }

    #[test]
    fn what_cannot_be_read_back_is_told() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let for_writing_alone = File::options().write(true).open(path.path()).unwrap();
        let space = Space::of(&for_writing_alone, 0, 16).unwrap();
        let table = Table::filled(&space, 7u64, 2 * 16 * PAGE / 8).unwrap();
        space.check().unwrap();
        assert_eq!((table.get(table.len() - 1), table.get(0)), (7, 0));
        assert!(space.check().is_err());
        let mut other = Table::new(&space);
        assert!(other.push(1u32).is_err());
    }
}
