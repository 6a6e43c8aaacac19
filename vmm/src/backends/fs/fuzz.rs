//! The server under arbitrary messages: what a fuzzer calls, and a test on fixed inputs.

use super::MAX_MESSAGE;
use super::server::{Answer, Server, Share};
use super::wire::RequestHeader;
use std::fs::{self, File};
use vm_memory::ByteValued;

/// Sends messages made of `data` to a server of a small directory: each is four bytes (opcode, node, room, length), then its
/// body. Panics where an answer is longer than its room.
pub fn fuzz(mut data: &[u8]) {
    let Ok(root) = tempfile::tempdir() else { return };
    let made =
        fs::create_dir(root.path().join("d")).and_then(|()| fs::write(root.path().join("f"), [1; 5000]));
    let (Ok(()), Ok(directory)) = (made, File::open(root.path())) else { return };
    let share =
        Share { root: directory.into(), file: None, writable: true, in_descriptors: false, descriptors: 100 };
    let Ok(mut server) = Server::new(share) else { return };
    let mut reply = Vec::new();
    while let Some(([opcode, node, room, length], rest)) = data.split_first_chunk() {
        let (body, rest) = rest.split_at(rest.len().min((*length).into()));
        data = rest;
        // Little room is of interest too.
        let room = if *room < 32 { usize::from(*room) } else { usize::from(*room) * 32 };
        let head = RequestHeader {
            length: (size_of::<RequestHeader>() + body.len()) as u32,
            opcode: (*opcode).into(),
            node: (*node).into(),
            ..RequestHeader::default()
        };
        let request = [head.as_slice(), body].concat();
        let answer = server.answer(0, &request[..request.len().min(MAX_MESSAGE)], room, &mut reply);
        assert!(reply.len() <= room && (answer == Answer::Reply) != reply.is_empty());
        server.granted(&mut reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_messages_get_answers_that_fit(
            messages in prop::collection::vec(
                (0u8..55, 0u8..6, any::<u8>(), prop::collection::vec(any::<u8>(), 0..120), any::<bool>()), 1..20)
        ) {
            let mut data = Vec::new();
            for (opcode, node, room, mut body, plain) in messages {
                if plain {
                    // Numbers that may mean something, and names.
                    body.iter_mut().for_each(|byte| *byte = if *byte < 200 { 0 } else { *byte % 4 });
                    body.extend_from_slice(if room % 2 == 0 { b"d\0new\0" } else { b"f\0d\0" });
                }
                data.extend([opcode, node, room, body.len() as u8]);
                data.extend(body);
            }
            fuzz(&data);
        }
    }
}
