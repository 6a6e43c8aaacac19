//! A stretch of a file, read as it is needed: an image's metadata may be larger than what should be in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Pieces that are in memory: 16 MiB, which is all of the metadata of a quarter of a million files.
const PIECES: usize = 256;

/// The stretch.
#[derive(Debug)]
pub(super) struct Window<'f> {
    file: &'f File,
    start: u64,
    length: usize,
    most: usize,
    /// By number of piece: its place in `pieces`, counted from 1; 0 where it is not in memory.
    kept: Vec<u16>,
    pieces: Vec<Piece>,
    /// Where to look next for a piece that has not been used of late.
    hand: usize,
}

#[derive(Debug)]
struct Piece {
    number: usize,
    bytes: Vec<u8>,
    used: bool,
}

impl<'f> Window<'f> {
    /// `length` bytes of `file` from byte `start`.
    pub(super) fn new(file: &'f File, start: u64, length: usize) -> Window<'f> {
        Self::of(file, start, length, PIECES)
    }

    fn of(file: &'f File, start: u64, length: usize, most: usize) -> Window<'f> {
        let kept = vec![0; length.div_ceil(PIECE)];
        Window { file, start, length, most, kept, pieces: Vec::new(), hand: 0 }
    }

    /// Bytes of the whole stretch.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Replaces what is in `into` by `length` bytes from byte `at`; `None` where the stretch does not have them.
    pub(super) fn read(&mut self, at: usize, length: usize, into: &mut Vec<u8>) -> io::Result<Option<()>> {
        into.clear();
        let Some(end) = at.checked_add(length).filter(|end| *end <= self.length) else { return Ok(None) };
        let mut at = at;
        while at < end {
            let within = at % PIECE;
            let wanted = (end - at).min(PIECE - within);
            let bytes = self.piece(at / PIECE)?;
            into.extend_from_slice(&bytes[within..within + wanted]);
            at += wanted;
        }
        Ok(Some(()))
    }

    fn piece(&mut self, number: usize) -> io::Result<&[u8]> {
        let place = match usize::from(self.kept[number]).checked_sub(1) {
            Some(place) => place,
            None => self.bring(number)?,
        };
        let piece = &mut self.pieces[place];
        piece.used = true;
        Ok(&piece.bytes)
    }

    fn bring(&mut self, number: usize) -> io::Result<usize> {
        let place = if self.pieces.len() < self.most {
            self.pieces.push(Piece { number, bytes: vec![0; PIECE], used: false });
            self.pieces.len() - 1
        } else {
            while std::mem::take(&mut self.pieces[self.hand].used) {
                self.hand = (self.hand + 1) % self.most;
            }
            self.hand
        };
        let piece = &mut self.pieces[place];
        self.kept[piece.number] = 0;
        piece.number = number;
        let length = PIECE.min(self.length - number * PIECE);
        self.file.read_exact_at(&mut piece.bytes[..length], self.start + (number * PIECE) as u64)?;
        self.kept[number] = place as u16 + 1;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_read_is_what_is_in_the_file_however_little_is_in_memory() {
        let bytes: Vec<u8> =
            (0..PIECE as u32 * 5 + 77).map(|n| (n.wrapping_mul(2654435761) >> 24) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let mut into = Vec::new();
        for (start, most) in [(0, 1), (0, 2), (4096, 3), (100, 100)] {
            let stretch = &bytes[start..bytes.len() - 7];
            let mut window = Window::of(&file, start as u64, stretch.len(), most);
            for round in 0..400 {
                let at = round * 7919 % stretch.len();
                let length = (round * 997 % (2 * PIECE)).min(stretch.len() - at);
                window.read(at, length, &mut into).unwrap().unwrap();
                assert!(into == stretch[at..at + length], "{length} bytes from {at} of {most} pieces");
            }
            assert!(window.read(stretch.len() - 1, 2, &mut into).unwrap().is_none());
            assert!(window.read(usize::MAX, 2, &mut into).unwrap().is_none());
            assert!(window.pieces.len() <= most);
        }
    }

    #[test]
    fn a_file_that_has_become_shorter_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(&[1; 100]).unwrap();
        let mut window = Window::of(&file, 0, 200, 1);
        assert!(window.read(0, 1, &mut Vec::new()).is_err());
        (&file).write_all(&[1; 100]).unwrap();
        assert!(window.read(150, 1, &mut Vec::new()).is_ok(), "nothing of the attempt is left");
    }
}
