//! How FUSE's messages travel between the device and the helper: each behind a head of three numbers.
//!
//! The device numbers its requests; the helper answers each once, in any order. What the guest calls its requests is the
//! guest's affair, and so nothing by which an answer finds its way.

use super::MAX_MESSAGE;

/// Bytes of a head.
pub const HEAD: usize = 12;

/// What stands before a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The message's length in bytes. An answer without any is to a request that takes none.
    pub length: u32,
    /// The device's number for the request.
    pub tag: u32,
    /// How long the answer may be, in bytes; zero in an answer.
    pub room: u32,
}

impl Head {
    /// As it travels.
    pub fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        for (part, value) in bytes.chunks_exact_mut(4).zip([self.length, self.tag, self.room]) {
            part.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads one; none if the message would be longer than any.
    pub fn from_bytes(bytes: [u8; HEAD]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let head = Self { length: word(0), tag: word(4), room: word(8) };
        (head.length as usize <= MAX_MESSAGE).then_some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_unless_it_is_too_long() {
        let head = Head { length: 56, tag: 7, room: 4096 };
        assert_eq!(Head::from_bytes(head.to_bytes()), Some(head));
        let long = Head { length: MAX_MESSAGE as u32 + 1, ..head };
        assert_eq!(Head::from_bytes(long.to_bytes()), None);
    }
}
