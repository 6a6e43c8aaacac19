//! One client: bytes in, calls out; answers in, bytes out. Nothing that a client sends is believed.

use crate::api::frame::{HEADER_LEN, Header, Kind, MAX_MESSAGE};
use crate::api::protobuf::{encode, put_length, varint_len};
use crate::api::ttrpc::{Code, Request, Response, Status};
use crate::fault::Words;
use crate::prelude::*;

/// With this many bytes of answers not yet taken by the client, no more of its calls are read and none of its
/// reads are answered. In bytes.
pub const OUTPUT_LIMIT: usize = 256 << 10;

/// Most calls of one client that may wait for their answer at once.
pub const CALL_LIMIT: usize = 4096;

/// A message this long is no mistake about the limit: ttrpc keeps the first byte of a frame zero.
const NONSENSE: usize = 1 << 24;

/// One client.
#[derive(Default)]
pub struct Connection {
    input: Vec<u8>,
    /// How much of `input` is done with.
    taken: usize,
    /// Bytes of a refused message still to come.
    skip: usize,
    output: Vec<u8>,
    /// How much of `output` is sent.
    sent: usize,
    /// Calls not yet answered.
    calls: usize,
}

/// What a client says.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    /// A call, to be answered with this stream id.
    Call(u32, Request),
    /// Something that is answered with a fault at once.
    Refused(u32, Fault),
    /// No ttrpc at all: the connection is of no use any more.
    Nonsense,
}

impl Connection {
    /// Takes bytes from the client; `false` when there is no memory for them.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        if self.taken > 0 {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let bytes = &bytes[skipped..];
        if self.input.try_reserve(bytes.len()).is_err() {
            return false;
        }
        self.input.extend_from_slice(bytes);
        true
    }

    /// The next whole message, if there is one.
    pub fn take_message(&mut self) -> Option<Incoming> {
        loop {
            let rest = &self.input[self.taken..];
            let header = Header::decode(rest.first_chunk::<HEADER_LEN>()?);
            let length = header.length as usize;
            if length >= NONSENSE {
                return Some(Incoming::Nonsense);
            }
            let refused =
                |code, why| Incoming::Refused(header.stream_id, Fault::new(code, format_args!("{why}")));
            let present = length.min(rest.len() - HEADER_LEN);
            // Room for all of it, so that a message for which there is none fails alone.
            let why = if length > MAX_MESSAGE {
                "a message is over 4 MiB"
            } else if self.input.try_reserve(length - present).is_err() {
                "no memory for a message"
            } else {
                ""
            };
            if !why.is_empty() {
                self.skip = length - present;
                self.taken += HEADER_LEN + present;
                return Some(refused(Code::ResourceExhausted, why));
            }
            let rest = &self.input[self.taken..];
            let message = rest.get(HEADER_LEN..HEADER_LEN + length)?;
            let request = (header.kind() == Some(Kind::Request)).then(|| Request::decode(message));
            self.taken += HEADER_LEN + length;
            if self.taken == self.input.len() && self.input.capacity() > OUTPUT_LIMIT {
                // A large message came: its room is not kept for small ones.
                self.input = Vec::new();
                self.taken = 0;
            }
            return Some(match (header.kind(), request) {
                (_, Some(_)) if header.stream_id.is_multiple_of(2) => {
                    refused(Code::InvalidArgument, "a client's stream ids are odd")
                }
                (_, Some(_)) if self.calls >= CALL_LIMIT => {
                    refused(Code::ResourceExhausted, "too many calls wait for their answers")
                }
                (_, Some(Ok(request))) => {
                    self.calls += 1;
                    Incoming::Call(header.stream_id, request)
                }
                (_, Some(Err(_))) => refused(Code::InvalidArgument, "a request does not decode"),
                (Some(Kind::Data), None) => {
                    refused(Code::Unimplemented, "no method takes a stream of messages")
                }
                // An answer to nobody's question, or a kind of the future.
                (_, None) => continue,
            });
        }
    }

    /// Queues the answer to a call.
    pub fn answer(&mut self, stream_id: u32, answer: Result<Vec<u8>>) {
        self.calls = self.calls.saturating_sub(1);
        self.refuse(stream_id, answer);
    }

    /// Queues the answer to something that was no call.
    pub fn refuse(&mut self, stream_id: u32, answer: Result<Vec<u8>>) {
        let (code, message, payload) = match answer {
            Ok(payload) => (Code::Ok, String::new(), payload),
            Err(fault) => {
                let Words { code, message } = fault.into_words();
                (code, message, Vec::new())
            }
        };
        // What a response has besides these two is a few bytes.
        if self.output.try_reserve(HEADER_LEN + 2 * (message.len() + payload.len()) + 64).is_err() {
            if !payload.is_empty() {
                self.refuse(stream_id, Err(fault!(ResourceExhausted, "no memory for the answer")));
            }
            return;
        }
        let response = Response { status: Some(Status { code: code as i32, message }), payload };
        let begin = self.output.len();
        self.output.extend_from_slice(&[0; HEADER_LEN]);
        encode(&response, &mut self.output);
        let length = self.output.len() - begin - HEADER_LEN;
        // Everything answered here is far below the limit; a fault's sentence could quote a large request.
        if length > MAX_MESSAGE {
            self.output.truncate(begin);
            return self.refuse(stream_id, Err(fault!(Internal, "the answer is over 4 MiB")));
        }
        let header = Header { length: length as u32, stream_id, kind: Kind::Response as u8, flags: 0 };
        self.output[begin..begin + HEADER_LEN].copy_from_slice(&header.encode());
    }

    /// Queues data read for a `ReadStdout` or `ReadStderr`, without copying it through messages.
    pub fn answer_data(&mut self, stream_id: u32, data: &[u8]) {
        // Response.payload (field 2) of ReadStreamResponse.data (field 1), both length-delimited. No status is
        // success.
        const PAYLOAD: u32 = 2;
        const DATA: u32 = 1;
        self.calls = self.calls.saturating_sub(1);
        let inner = 1 + varint_len(data.len() as u64) + data.len();
        let length = 1 + varint_len(inner as u64) + inner;
        let header = Header { length: length as u32, stream_id, kind: Kind::Response as u8, flags: 0 };
        if self.output.try_reserve(HEADER_LEN + length).is_err() {
            return;
        }
        self.output.extend_from_slice(&header.encode());
        put_length(PAYLOAD, inner, &mut self.output);
        put_length(DATA, data.len(), &mut self.output);
        self.output.extend_from_slice(data);
    }

    /// What is to be sent.
    pub fn to_send(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Says that so much of [`to_send`](Self::to_send) is sent.
    pub fn mark_sent(&mut self, length: usize) {
        self.sent += length;
        if self.sent == self.output.len() {
            self.sent = 0;
            if self.output.capacity() > OUTPUT_LIMIT {
                self.output = Vec::new();
            } else {
                self.output.clear();
            }
        } else if self.sent > OUTPUT_LIMIT {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Whether the client takes its answers.
    pub fn has_room(&self) -> bool {
        self.to_send().len() < OUTPUT_LIMIT
    }
}

#[cfg(test)]
pub mod tests {
    //! A client's half of the wire.

    use super::*;
    use crate::api::agent::ReadStreamResponse;
    use crate::api::frame;
    use proptest::prelude::*;

    /// A whole frame around a request.
    pub fn frame_of(stream_id: u32, request: &Request) -> Vec<u8> {
        frame::encode(Kind::Request, stream_id, &request.encode_to_vec()).unwrap()
    }

    fn request(method: &str) -> Request {
        Request { service: "s".into(), method: method.into(), ..Default::default() }
    }

    #[test]
    fn calls_come_out_however_the_bytes_are_cut() {
        let bytes: Vec<u8> = (0..3).flat_map(|n| frame_of(2 * n + 1, &request("m"))).collect();
        for size in [1, 3, 10, 11, bytes.len()] {
            let mut connection = Connection::default();
            let mut calls = 0;
            for chunk in bytes.chunks(size) {
                assert!(connection.feed(chunk));
                while let Some(Incoming::Call(id, call)) = connection.take_message() {
                    assert_eq!((id, call), (2 * calls + 1, request("m")));
                    calls += 1;
                }
            }
            assert_eq!(calls, 3);
        }
    }

    #[test]
    fn a_message_over_the_limit_fails_alone() {
        let mut connection = Connection::default();
        let header = Header { length: MAX_MESSAGE as u32 + 1, stream_id: 1, kind: 1, flags: 0 };
        connection.feed(&header.encode());
        assert!(
            matches!(connection.take_message(), Some(Incoming::Refused(1, fault)) if fault.code == Code::ResourceExhausted)
        );
        for chunk in vec![0u8; MAX_MESSAGE + 1].chunks(60_000) {
            connection.feed(chunk);
            assert_eq!(connection.take_message(), None);
        }
        connection.feed(&frame_of(3, &request("after")));
        assert_eq!(connection.take_message(), Some(Incoming::Call(3, request("after"))));
    }

    #[test]
    fn what_is_no_ttrpc_is_nonsense() {
        let mut connection = Connection::default();
        connection.feed(b"GET / HTTP/1.1\r\n");
        assert_eq!(connection.take_message(), Some(Incoming::Nonsense));
    }

    #[test]
    fn even_stream_ids_and_broken_requests_are_refused() {
        let mut connection = Connection::default();
        connection.feed(&frame_of(2, &request("m")));
        assert!(matches!(connection.take_message(), Some(Incoming::Refused(2, _))));
        connection.feed(&frame::encode(Kind::Request, 5, &[0xff; 7]).unwrap());
        assert!(matches!(connection.take_message(), Some(Incoming::Refused(5, _))));
    }

    #[test]
    fn waiting_calls_are_counted_and_limited() {
        let mut connection = Connection::default();
        for n in 0..CALL_LIMIT as u32 {
            connection.feed(&frame_of(2 * n + 1, &request("m")));
            assert!(matches!(connection.take_message(), Some(Incoming::Call(..))));
        }
        connection.feed(&frame_of(9, &request("m")));
        assert!(matches!(connection.take_message(), Some(Incoming::Refused(9, _))));
        connection.answer(1, Ok(Vec::new()));
        connection.feed(&frame_of(9, &request("m")));
        assert!(matches!(connection.take_message(), Some(Incoming::Call(9, _))));
    }

    #[test]
    fn data_answers_decode_as_the_messages_they_are() {
        for length in [0, 1, 127, 128, 65536] {
            let mut connection = Connection::default();
            let data = vec![7; length];
            connection.answer_data(11, &data);
            let bytes = connection.to_send();
            let header = Header::decode(bytes.first_chunk().unwrap());
            assert_eq!((header.stream_id, header.kind()), (11, Some(Kind::Response)));
            assert_eq!(header.length as usize, bytes.len() - HEADER_LEN);
            let response = Response::decode(&bytes[HEADER_LEN..]).unwrap();
            assert_eq!(ReadStreamResponse::decode(&response.payload[..]).unwrap().data, data);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(chunks in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..40), 0..40)) {
            let mut connection = Connection::default();
            for chunk in chunks {
                prop_assert!(connection.feed(&chunk));
                while let Some(incoming) = connection.take_message() {
                    if incoming == Incoming::Nonsense {
                        return Ok(());
                    }
                }
            }
        }
    }
}
