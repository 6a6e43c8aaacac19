//! The last of what a service wrote.

use crate::prelude::*;

/// Most that is kept of one service, in bytes.
const LARGEST: usize = 1 << 20;

/// Keeps at least the last `limit` bytes, and at most a quarter more.
#[derive(Debug)]
pub struct Ring {
    bytes: Vec<u8>,
    limit: usize,
    lost: u64,
}

impl Ring {
    /// One of this size in bytes; 0 for 64 KiB.
    pub fn new(limit: u32) -> Ring {
        let limit = if limit == 0 { 64 << 10 } else { limit as usize };
        Ring { bytes: Vec::new(), limit: limit.min(LARGEST), lost: 0 }
    }

    /// Adds what was written. What there is no memory for is lost.
    pub fn add(&mut self, text: &[u8]) {
        let kept = &text[text.len().saturating_sub(self.limit)..];
        if kept.len() < text.len() {
            self.lost += (self.bytes.len() + text.len() - kept.len()) as u64;
            self.bytes.clear();
        }
        if self.bytes.len() + kept.len() > self.limit + self.limit / 4 {
            let gone = self.bytes.len() + kept.len() - self.limit;
            self.lost += gone as u64;
            self.bytes.drain(..gone);
        }
        match self.bytes.try_reserve(kept.len()) {
            Ok(()) => self.bytes.extend_from_slice(kept),
            Err(_) => self.lost += kept.len() as u64,
        }
    }

    /// The last of it, from the beginning of a line where that can be told, and how much came before.
    pub fn text(&self) -> (&[u8], u64) {
        let line = self.bytes.iter().position(|byte| *byte == b'\n');
        let begin = if self.lost == 0 { 0 } else { line.map_or(0, |end| end + 1) };
        (&self.bytes[begin..], self.lost + begin as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn begins_with_a_whole_line() {
        let mut ring = Ring::new(10);
        ring.add(b"one\ntwo\n");
        assert_eq!(ring.text(), (&b"one\ntwo\n"[..], 0));
        ring.add(b"three\n");
        assert_eq!(ring.text(), (&b"three\n"[..], 8));
    }

    proptest! {
        #[test]
        fn keeps_the_end_within_its_bound(limit in 1u32..40, writes in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), any::<u8>()], 0..60), 0..20)) {
            let mut ring = Ring::new(limit);
            let mut all = Vec::new();
            for write in writes {
                ring.add(&write);
                all.extend(write);
                let limit = limit as usize;
                prop_assert!(ring.bytes.len() <= limit + limit / 4);
                prop_assert!(ring.bytes.len() >= all.len().min(limit));
                let (text, lost) = ring.text();
                prop_assert!(all.ends_with(text));
                prop_assert_eq!(lost as usize + text.len(), all.len());
            }
        }
    }
}
