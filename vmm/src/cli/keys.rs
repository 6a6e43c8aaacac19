//! Detach keys: what is typed at a terminal to leave its container, or another process of one, running.

use std::fmt::{self, Display, Formatter};

/// The keys that detach, as the bytes that a terminal sends for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Display for DetachKeys {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, &byte) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            match byte {
                0x20.. => write!(f, "{comma}{}", char::from(byte))?,
                // A letter is written small.
                _ => write!(f, "{comma}ctrl-{}", char::from(byte | 0x40).to_ascii_lowercase())?,
            }
        }
        Ok(())
    }
}

/// Docker's.
impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl DetachKeys {
    /// Reads keys with commas between them: a character, or `ctrl-` and a letter or one of `@[\]^_`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = |key: &str| {
            let (control, key) = key.strip_prefix("ctrl-").map_or((false, key), |key| (true, key));
            match (control, key.as_bytes()) {
                (false, &[byte @ 0x20..0x7f]) => Some(byte),
                (true, &[byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => {
                    Some(byte & 0x1f)
                }
                _ => None,
            }
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| {
            format!("'{text}' is no sequence of keys: characters, or ctrl- and a letter, with commas between")
        })
    }
}

/// Looks for the detach keys in what is typed.
#[derive(Debug)]
pub struct Typed {
    keys: Vec<u8>,
    /// How many of them were typed, and are held back.
    matched: usize,
}

impl Typed {
    /// Nothing was typed yet.
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys: keys.0, matched: 0 }
    }

    /// What goes to the container of these bytes, and whether the keys are complete.
    pub fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            // What was held back and is no prefix of the keys any more goes on; what may still become them stays.
            while self.matched > 0 && self.keys[self.matched] != byte {
                let held = &self.keys[..self.matched];
                let shorter = (1..self.matched).rev().find(|&length| held.ends_with(&self.keys[..length]));
                let shorter = shorter.unwrap_or(0);
                out.extend_from_slice(&held[..self.matched - shorter]);
                self.matched = shorter;
            }
            if self.keys[self.matched] == byte {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_written_as_in_docker() {
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q"), Ok(DetachKeys(vec![16, 17])));
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q"), Ok(DetachKeys::default()));
        assert_eq!(DetachKeys::parse("a"), Ok(DetachKeys(vec![b'a'])));
        assert_eq!(DetachKeys::parse("ctrl-[,ctrl-@"), Ok(DetachKeys(vec![27, 0])));
        for text in ["ctrl-p,ctrl-q", "a", "ctrl-@,x,ctrl-_", "ctrl-[,~"] {
            assert_eq!(DetachKeys::parse(text).unwrap().to_string(), text);
        }
        for text in ["", ",", "ab", "ctrl-", "ctrl-A", "ctrl-1", "ä", "a,,b"] {
            assert!(DetachKeys::parse(text).is_err(), "{text}");
        }
    }

    fn typed(keys: &[u8], pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut typed = Typed::new(DetachKeys(keys.to_vec()));
        let mut out = Vec::new();
        for piece in pieces {
            let (bytes, detached) = typed.take(piece);
            out.extend(bytes);
            if detached {
                return (out, true);
            }
        }
        (out, false)
    }

    #[test]
    fn keys_are_found_wherever_the_pieces_end_and_nothing_else_is_held_back() {
        assert_eq!(typed(&[16, 17], &[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[16, 17], &[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[16, 17], &[b"\x10", b"x\x11"]), (b"\x10x\x11".to_vec(), false));
        assert_eq!(typed(&[16, 17], &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(b"aab", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(typed(b"abab", &[b"abcab", b"ab"]), (b"abc".to_vec(), true));
        assert_eq!(typed(b"q", &[b"xq"]), (b"x".to_vec(), true));
    }
}
