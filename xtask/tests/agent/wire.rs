//! Bytes that are no messages, and messages that are too long: each is answered by itself, on a connection that goes on.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ferry_init::api::frame::{self, HEADER_LEN, Header, Kind, MAX_MESSAGE};
use ferry_init::api::protobuf::Message;
use ferry_init::api::ttrpc::{Code, Request, Response};
use ferry_init::api::{health, method};

use crate::calls::SERVED;
use crate::guest::*;

/// A client that says what it likes.
struct Raw(UnixStream);

impl Raw {
    /// One that the agent has heard.
    fn connect(guest: &mut Guest) -> Raw {
        guest.hang_up();
        // What comes at the moment when one client of a serial port follows another may go unanswered.
        let connect = || {
            let socket = UnixStream::connect(&guest.socket).expect("it connects");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            let mut raw = Raw(socket);
            raw.says(&check(1));
            raw.hears().filter(|(stream, _)| *stream == 1).map(|_| raw)
        };
        let raw = (0..20).find_map(|_| connect()).expect("it answers");
        raw.0.set_read_timeout(Some(LONG)).expect("a timeout");
        raw
    }

    fn says(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("it is heard");
    }

    /// The next answer: its stream, and what it says.
    fn hears(&mut self) -> Option<(u32, Response)> {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header).ok()?;
        let header = Header::decode(&header);
        let mut message = vec![0; header.length as usize];
        self.0.read_exact(&mut message).ok()?;
        Some((header.stream_id, Response::decode(&message).expect("a response")))
    }

    /// The code of the next answer, which is for this stream.
    #[track_caller]
    fn code_of(&mut self, stream: u32) -> Code {
        let (answered, response) = self.hears().expect("an answer");
        assert_eq!(answered, stream, "{response:?}");
        let status = response.status.unwrap_or_default();
        assert_eq!(status.code == 0, status.message.is_empty(), "{status:?}");
        Code::try_from(status.code).expect("a code")
    }
}

fn request(stream: u32, service: &str, method: &str, payload: Vec<u8>) -> Vec<u8> {
    let request = Request { service: service.into(), method: method.into(), payload, ..Default::default() };
    frame::encode(Kind::Request, stream, &request.encode_to_vec()).expect("a frame")
}

fn check(stream: u32) -> Vec<u8> {
    request(stream, method::HEALTH_SERVICE, method::CHECK, health::CheckRequest::default().encode_to_vec())
}

#[test]
fn what_is_wrong_with_a_message_is_answered_and_the_next_one_heard() {
    let mut guest = guest();
    let mut raw = Raw::connect(&mut guest);
    raw.says(&frame::encode(Kind::Request, 3, &[0xff; 7]).expect("a frame"));
    assert_eq!(raw.code_of(3), Code::InvalidArgument);
    raw.says(&request(5, method::AGENT_SERVICE, method::CREATE_CONTAINER, vec![0x0a, 0x7f, 1, 2]));
    assert_eq!(raw.code_of(5), Code::InvalidArgument);
    // Containers in containers, as deep as there is room for in a message.
    let nested = (0..10_000).fold(Vec::new(), |inner: Vec<u8>, _| {
        let length = inner.len().min(1000);
        [&[0x32, length as u8 & 0x7f | 0x80, (length >> 7) as u8], &inner[..length]].concat()
    });
    raw.says(&request(7, method::AGENT_SERVICE, method::CREATE_CONTAINER, nested));
    assert_ne!(raw.code_of(7), Code::Ok);
    // Two million storages.
    raw.says(&request(
        9,
        method::AGENT_SERVICE,
        method::CREATE_CONTAINER,
        [0x2a, 0].repeat(MAX_MESSAGE / 2 - 64),
    ));
    assert_eq!(raw.code_of(9), Code::InvalidArgument);
    raw.says(&frame::encode(Kind::Request, 10, &[]).expect("a frame"));
    assert_eq!(raw.code_of(10), Code::InvalidArgument, "a client's streams have odd numbers");
    raw.says(&frame::encode(Kind::Data, 11, &[1, 2]).expect("a frame"));
    assert_eq!(raw.code_of(11), Code::Unimplemented);
    // Answers to nobody, and kinds that there are not.
    for kind in [2, 0, 77, 255] {
        raw.says(&Header { length: 3, stream_id: 13, kind, flags: 255 }.encode());
        raw.says(&[9; 3]);
    }
    raw.says(&check(15));
    assert_eq!(raw.code_of(15), Code::Ok);
}

#[test]
fn a_message_over_the_limit_is_refused_alone() {
    let mut guest = guest();
    let mut raw = Raw::connect(&mut guest);
    for (stream, length) in [(3, MAX_MESSAGE + 1), (5, 3 * MAX_MESSAGE)] {
        raw.says(
            &Header { length: length as u32, stream_id: stream, kind: Kind::Request as u8, flags: 0 }
                .encode(),
        );
        raw.says(&vec![0x0a; length]);
        raw.says(&check(stream + 100));
        assert_eq!(raw.code_of(stream), Code::ResourceExhausted);
        assert_eq!(raw.code_of(stream + 100), Code::Ok);
    }
}

#[test]
fn what_is_no_ttrpc_at_all_ends_its_own_connection() {
    let mut guest = guest();
    let id = running(&guest.client(), "calm", &["sleep", "1000"]);
    for noise in [
        &b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n"[..],
        &[0xff; 4096],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        Raw::connect(&mut guest).says(noise);
    }
    let client = guest.client();
    assert_eq!(output(&client, &id, &["echo", "still here"]), (0, "still here\n".to_owned()));
    client.remove_container(&id, LONG).unwrap();
}

#[test]
fn noise_for_every_call_is_answered() {
    let mut guest = guest();
    let mut raw = Raw::connect(&mut guest);
    // Numbers that look random (xorshift64), the same every time.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    };
    let mut stream = 3;
    for method in SERVED {
        for round in 0..8 {
            // Tags of fields with bytes in them are common, so that it goes further than the first byte.
            let noise: Vec<u8> = (0..next() % 64)
                .map(|_| {
                    if round % 2 == 0 {
                        next() as u8
                    } else {
                        [0x0a, 0x12, 0x1a, 2, 1, 0][next() as usize % 6]
                    }
                })
                .collect();
            raw.says(&request(stream, method::AGENT_SERVICE, method, noise));
            raw.code_of(stream);
            stream += 2;
        }
    }
    raw.says(&check(stream));
    assert_eq!(raw.code_of(stream), Code::Ok);
}
