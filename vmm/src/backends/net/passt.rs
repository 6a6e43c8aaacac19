//! The connection to `passt`, a program that speaks to the host's sockets for a guest without any privilege.
//!
//! Frames go over a stream socket, each preceded by its length as 32 bits in network order (passt(1), the protocol it shares
//! with QEMU's `-netdev stream`). They have no header and no offloads.

use super::{ETHERNET, HEADER, MAX_FRAME, Port};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Bytes of a frame's length.
const LENGTH: usize = 4;
/// What is read at once at most: a few of the longest frames.
const BUFFER: usize = 4 * (LENGTH + MAX_FRAME);
/// From how many bytes on what is taken is passed on at once: more would only lie in memory twice.
const BATCH: usize = 128 << 10;

/// One end of a stream of frames.
pub struct Passt {
    stream: UnixStream,
    /// What has been read and not yet given to the guest: `input[start..end]`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// The stream had no more than was read last: it is not asked again before it was found readable.
    is_drained: bool,
    /// Frames on their way to the other end, the first of them perhaps without its beginning.
    unsent: Vec<u8>,
}

impl Passt {
    /// Takes a socket whose other end speaks the protocol.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, input: vec![0; BUFFER], start: 0, end: 0, is_drained: false, unsent: Vec::new() })
    }

    /// The next frame, if it has arrived whole.
    fn peek(&self) -> io::Result<Option<&[u8]>> {
        let waiting = &self.input[self.start..self.end];
        let Some((length, rest)) = waiting.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(ETHERNET..=MAX_FRAME - HEADER).contains(&length) {
            let text = format!("passt sent a frame of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(rest.get(..length))
    }

    /// Reads more, behind what is there already.
    fn fill(&mut self) -> io::Result<()> {
        if self.is_drained {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match self.stream.read(&mut self.input[self.end..])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "passt has ended")),
            count => {
                self.end += count;
                self.is_drained = self.end < self.input.len();
                Ok(())
            }
        }
    }
}

impl Port for Passt {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(next) = self.peek()? {
                let length = HEADER + next.len();
                frame[..HEADER].fill(0);
                frame[HEADER..length].copy_from_slice(next);
                self.start += LENGTH + length - HEADER;
                return Ok(length);
            }
            self.fill()?;
        }
    }

    fn readable(&mut self) {
        self.is_drained = false;
    }

    fn holds_frame(&self) -> bool {
        // What is no frame is to be found out, too.
        !matches!(self.peek(), Ok(None))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.unsent.len() >= BATCH && !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let frame = &frame[HEADER..];
        self.unsent.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        self.unsent.extend_from_slice(frame);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Passt, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Passt::new(ours).unwrap(), theirs)
    }

    fn framed(frame: &[u8]) -> Vec<u8> {
        [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
    }

    #[test]
    fn finds_frames_however_the_stream_is_cut() {
        let frames: Vec<Vec<u8>> = (0u8..50).map(|n| vec![n; 14 + usize::from(n) * 1300]).collect();
        let (mut port, mut peer) = pair();
        let bytes = frames.iter().flat_map(|frame| framed(frame)).collect::<Vec<_>>();
        let writer = std::thread::spawn(move || {
            for piece in bytes.chunks(997) {
                peer.write_all(piece).unwrap();
            }
            peer
        });
        let mut buffer = vec![0xee; MAX_FRAME];
        for frame in &frames {
            let length = loop {
                match port.receive(&mut buffer) {
                    Ok(length) => break length,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                std::thread::yield_now();
                port.readable();
            };
            assert_eq!(buffer[..HEADER], [0; HEADER]);
            assert!(buffer[HEADER..length] == frame[..], "a frame of {} bytes", frame.len());
        }
        drop(writer.join().unwrap());
        port.readable();
        assert_eq!(port.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stream_that_was_drained_is_read_again_when_it_is_readable() {
        let (mut port, mut peer) = pair();
        let (first, second) = ([1; 60], [2; 60]);
        peer.write_all(&framed(&first).repeat(2)).unwrap();
        let mut buffer = vec![0; MAX_FRAME];
        assert!(!port.holds_frame());
        assert_eq!(port.receive(&mut buffer).unwrap(), HEADER + 60);
        assert!(port.holds_frame(), "the second came with the first");
        assert_eq!(port.receive(&mut buffer).unwrap(), HEADER + 60);
        assert!(!port.holds_frame());
        peer.write_all(&framed(&second)).unwrap();
        // Asking costs a system call, and there is somebody who will tell.
        assert_eq!(port.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        port.readable();
        assert_eq!(port.receive(&mut buffer).unwrap(), HEADER + 60);
        assert_eq!(buffer[HEADER..HEADER + 60], second);
    }

    #[test]
    fn lengths_that_no_frame_has_end_the_connection() {
        for length in [0, 13, MAX_FRAME as u32, u32::MAX] {
            let (mut port, mut peer) = pair();
            peer.write_all(&length.to_be_bytes()).unwrap();
            let error = port.receive(&mut vec![0; MAX_FRAME]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{length}");
        }
    }

    #[test]
    fn keeps_what_the_other_end_has_no_room_for() {
        let (mut port, mut peer) = pair();
        let frame: Vec<u8> = (0..HEADER + 60_000).map(|n| n as u8).collect();
        let mut sent = 0;
        while port.send(&frame).is_ok() {
            sent += 1;
        }
        assert!(sent > 1);
        peer.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        while !port.flush().unwrap() {
            let _ = peer.read_to_end(&mut all);
        }
        let _ = peer.read_to_end(&mut all);
        assert!(all == framed(&frame[HEADER..]).repeat(sent), "{} bytes for {sent} frames", all.len());
    }

    #[test]
    fn a_batch_of_frames_goes_as_a_whole() {
        let (mut port, mut peer) = pair();
        let frames: Vec<Vec<u8>> = (0u8..40).map(|n| vec![n; HEADER + 1500]).collect();
        frames.iter().for_each(|frame| port.send(frame).unwrap());
        peer.set_nonblocking(true).unwrap();
        assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(port.flush().unwrap());
        let all: Vec<u8> = frames.iter().flat_map(|frame| framed(&frame[HEADER..])).collect();
        let mut found = vec![0; all.len()];
        peer.read_exact(&mut found).unwrap();
        assert!(found == all);
    }

    #[test]
    fn a_peer_that_is_gone_takes_nothing() {
        let (mut port, peer) = pair();
        drop(peer);
        port.send(&[0; 100]).unwrap();
        assert_eq!(port.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
