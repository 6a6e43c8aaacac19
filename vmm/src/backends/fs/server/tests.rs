//! A guest whose kernel sends what it likes. What one sends that keeps the rules is tested through the helper process, in
//! `tests/share.rs`.

use super::super::wire::{OpenReply, OpenRequest, ReadRequest, RequestHeader, WriteRequest, opcode};
use super::super::{MAX_MESSAGE, REPLY_HEADER};
use super::{Answer, Server, Share};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use vm_memory::ByteValued;

fn server(root: &Path) -> Server {
    let root = File::open(root).unwrap().into();
    Server::new(Share { root, file: None, writable: true, in_descriptors: false, descriptors: 200 }).unwrap()
}

/// A request with its right length.
fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let length = (size_of::<RequestHeader>() + body.len()) as u32;
    let head = RequestHeader { length, opcode, node, unique: 5, ..RequestHeader::default() };
    [head.as_slice(), body].concat()
}

/// The error of an answer, and its body.
fn ask(server: &mut Server, request: &[u8]) -> (i32, Vec<u8>) {
    let mut reply = Vec::new();
    assert_eq!(server.answer(0, request, MAX_MESSAGE, &mut reply), Answer::Reply);
    let word = |at: usize| i32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
    assert_eq!(word(0) as usize, reply.len());
    (-word(4), reply[REPLY_HEADER..].to_vec())
}

#[test]
fn no_name_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("share")).unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink("../secret", outside.path().join("share/link")).unwrap();
    symlink("..", outside.path().join("share/up")).unwrap();
    let mut server = server(&outside.path().join("share"));
    for name in ["..", ".", "../secret", "link/../../secret", "/etc/passwd", ""] {
        let name = [name.as_bytes(), &[0]].concat();
        for opcode in [opcode::LOOKUP, opcode::UNLINK, opcode::RMDIR] {
            assert_eq!(ask(&mut server, &request(opcode, 1, &name)).0, libc::EINVAL);
        }
        let create = [&[0; 16][..], &name].concat();
        assert_eq!(ask(&mut server, &request(opcode::CREATE, 1, &create)).0, libc::EINVAL);
        let rename = [&1u64.to_le_bytes()[..], b"link\0", &name].concat();
        assert_eq!(ask(&mut server, &request(opcode::RENAME, 1, &rename)).0, libc::EINVAL);
    }
    // A symbolic link is a node that nothing is found in and that does not open.
    for name in [&b"link\0"[..], b"up\0"] {
        let (error, entry) = ask(&mut server, &request(opcode::LOOKUP, 1, name));
        assert_eq!(error, 0);
        let node = u64::from_le_bytes(entry[..8].try_into().unwrap());
        let open = OpenRequest::default();
        assert_eq!(ask(&mut server, &request(opcode::OPEN, node, open.as_slice())).0, libc::ENXIO);
        assert_eq!(ask(&mut server, &request(opcode::OPENDIR, node, open.as_slice())).0, libc::ENOTDIR);
        assert_eq!(ask(&mut server, &request(opcode::LOOKUP, node, b"secret\0")).0, libc::ENOTDIR);
    }
}

#[test]
fn numbers_that_were_never_given_lead_nowhere() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "contents").unwrap();
    let mut server = server(root.path());
    for node in [0, 2, 99, u64::MAX] {
        assert_eq!(ask(&mut server, &request(opcode::GETATTR, node, &[0; 16])).0, libc::ESTALE);
        assert_eq!(ask(&mut server, &request(opcode::OPEN, node, &[0; 8])).0, libc::ESTALE);
    }
    let read = |handle, offset, size| {
        request(opcode::READ, 1, ReadRequest { handle, offset, size, ..ReadRequest::default() }.as_slice())
    };
    assert_eq!(ask(&mut server, &read(1, 0, 10)).0, libc::EBADF);
    let (_, directory) = ask(&mut server, &request(opcode::OPENDIR, 1, &[0; 8]));
    let mut opened = OpenReply::default();
    opened.as_mut_slice().copy_from_slice(&directory);
    assert_eq!(ask(&mut server, &read(opened.handle, 0, 10)).0, libc::EBADF, "a directory is no file");

    let create =
        [&(libc::O_RDWR as u32).to_le_bytes()[..], &0o644u32.to_le_bytes(), &[0; 8], b"new\0"].concat();
    let (error, made) = ask(&mut server, &request(opcode::CREATE, 1, &create));
    assert_eq!(error, 0);
    opened.as_mut_slice().copy_from_slice(&made[128..]);
    for offset in [u64::MAX, u64::MAX - 5, 1 << 63] {
        assert_eq!(ask(&mut server, &read(opened.handle, offset, u32::MAX)).0, libc::EINVAL);
        let write = WriteRequest { handle: opened.handle, offset, size: 4, ..WriteRequest::default() };
        let write = [write.as_slice(), b"data"].concat();
        assert_eq!(ask(&mut server, &request(opcode::WRITE, 2, &write)).0, libc::EINVAL);
    }
    let write = WriteRequest { handle: opened.handle, size: u32::MAX, ..WriteRequest::default() };
    assert_eq!(ask(&mut server, &request(opcode::WRITE, 2, write.as_slice())).0, libc::EINVAL);
}

#[test]
fn a_length_that_is_not_the_messages_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let mut server = server(root.path());
    let mut wrong = request(opcode::GETATTR, 1, &[0; 16]);
    wrong[0] += 1;
    assert_eq!(ask(&mut server, &wrong).0, libc::EIO);
    let mut reply = Vec::new();
    assert_eq!(server.answer(0, &wrong[..39], 100, &mut reply), Answer::Nothing);
    let make = request(opcode::MKDIR, 1, b"\xff\x01\0\0\0\0\0\0new\0");
    assert_eq!((server.answer(0, &make, 15, &mut reply), reply.len()), (Answer::Nothing, 0));
    assert!(!root.path().join("new").exists(), "it was done for somebody who cannot hear of it");
}
