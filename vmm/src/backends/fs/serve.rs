//! The helper's loop: requests come through a socket, one after the other, and their answers go back.

use super::frame::{HEAD, Head};
use super::server::{Answer, Server};
use super::{MAX_MESSAGE, REQUEST_HEADER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// How often locks that somebody waits for are asked for again.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Serves until the other end of the socket closes.
pub fn serve(mut socket: UnixStream, server: &mut Server) -> io::Result<()> {
    let mut request = vec![0; MAX_MESSAGE];
    let mut reply = Vec::with_capacity(MAX_MESSAGE);
    loop {
        if server.is_waited_for() {
            while let Some(tag) = server.granted(&mut reply) {
                send(&mut socket, tag, &reply)?;
            }
        }
        let patience = server.is_waited_for().then_some(&RETRY);
        let mut waited = [PollFd::new(&socket, PollFlags::IN)];
        match poll(&mut waited, patience) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let mut head = [0; HEAD];
        match socket.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let wrong =
            || io::Error::new(io::ErrorKind::InvalidData, "what the VM's process sends is no message");
        let head =
            Head::from_bytes(head).filter(|head| head.length as usize >= REQUEST_HEADER).ok_or_else(wrong)?;
        let message = &mut request[..head.length as usize];
        socket.read_exact(message)?;
        match server.answer(head.tag, message, head.room as usize, &mut reply) {
            Answer::Reply => send(&mut socket, head.tag, &reply)?,
            Answer::Nothing => send(&mut socket, head.tag, &[])?,
            Answer::Later => {}
        }
    }
}

fn send(socket: &mut UnixStream, tag: u32, reply: &[u8]) -> io::Result<()> {
    let head = Head { length: reply.len() as u32, tag, room: 0 }.to_bytes();
    let mut pieces = [io::IoSlice::new(&head), io::IoSlice::new(reply)];
    let mut left = &mut pieces[..];
    while !left.is_empty() {
        match socket.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => io::IoSlice::advance_slices(&mut left, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
