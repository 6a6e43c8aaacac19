//! The frame that carries every ttrpc message: ten bytes of header, then the message.
//!
//! Header, big-endian: length of the message (u32), stream id (u32; odd for streams that the client opens),
//! kind (u8), flags (u8). See ttrpc's PROTOCOL.md.

use super::protobuf::enumerations;
use crate::prelude::*;

/// Bytes of a header.
pub const HEADER_LEN: usize = 10;

/// The largest message that ttrpc allows, in bytes (4 MiB).
pub const MAX_MESSAGE: usize = 4 << 20;

enumerations! {
    /// What a frame carries.
    Kind {
        /// An encoded [`Request`](super::ttrpc::Request).
        Request = 1,
        /// An encoded [`Response`](super::ttrpc::Response).
        Response = 2,
        /// Data of a stream; Kata's services have none.
        Data = 3,
    }
}

/// A frame's header. `kind` is the byte as it came: see [`Header::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the message that follows. Anything above [`MAX_MESSAGE`] must be refused.
    pub length: u32,
    /// Which call this belongs to; chosen by the client, odd.
    pub stream_id: u32,
    /// The byte that says the [`Kind`].
    pub kind: u8,
    /// Flags of streaming calls; 0 for a plain call.
    pub flags: u8,
}

impl Header {
    /// Reads a header. Every ten bytes are one; whether it makes sense is for the reader to judge.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Header {
        let [a, b, c, d, e, f, g, h, kind, flags] = *bytes;
        let (length, stream_id) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        Header { length, stream_id, kind, flags }
    }

    /// Writes a header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.length.to_be_bytes();
        let [e, f, g, h] = self.stream_id.to_be_bytes();
        [a, b, c, d, e, f, g, h, self.kind, self.flags]
    }

    /// What the frame carries, if it is a kind that ttrpc has.
    pub fn kind(&self) -> Option<Kind> {
        Kind::try_from(i32::from(self.kind)).ok()
    }
}

/// A whole frame around `message`; `None` when it is longer than [`MAX_MESSAGE`].
pub fn encode(kind: Kind, stream_id: u32, message: &[u8]) -> Option<Vec<u8>> {
    if message.len() > MAX_MESSAGE {
        return None;
    }
    let header = Header { length: message.len() as u32, stream_id, kind: kind as u8, flags: 0 };
    let mut bytes = Vec::with_capacity(HEADER_LEN + message.len());
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(message);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_is_big_endian_in_protocol_order() {
        let header = Header { length: 0x0102_0304, stream_id: 0x0506_0708, kind: 1, flags: 9 };
        assert_eq!(header.encode(), [1, 2, 3, 4, 5, 6, 7, 8, 1, 9]);
    }

    #[test]
    fn refuses_to_encode_more_than_the_limit() {
        assert!(encode(Kind::Response, 1, &vec![0; MAX_MESSAGE + 1]).is_none());
        assert_eq!(encode(Kind::Response, 1, &vec![0; MAX_MESSAGE]).unwrap().len(), MAX_MESSAGE + HEADER_LEN);
    }

    #[test]
    fn unknown_kinds_are_told_apart() {
        let mut header = Header::decode(&[0, 0, 0, 0, 0, 0, 0, 1, 2, 0]);
        assert_eq!(header.kind(), Some(Kind::Response));
        header.kind = 0;
        assert_eq!(header.kind(), None);
    }

    proptest! {
        #[test]
        fn any_header_survives_the_wire(bytes in any::<[u8; HEADER_LEN]>()) {
            prop_assert_eq!(Header::decode(&bytes).encode(), bytes);
        }
    }
}
