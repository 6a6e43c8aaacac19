//! What a pod's containers write, on our own standard streams: each line with the name of its container before it.

use crate::runtime::logs::Lines;
use crate::runtime::monitor::Hub;
use crate::runtime::monitor::protocol::{Kind, receive};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Shows the output of one life of a container until its end is told.
pub(super) fn follow(hub: &Arc<Hub>, prefix: String) -> io::Result<JoinHandle<()>> {
    let (ours, theirs) = UnixStream::pair()?;
    hub.add(theirs, crate::runtime::monitor::Interest::Everything)?;
    std::thread::Builder::new().name("show".into()).spawn(move || {
        let (mut out, mut err) = (Lines::default(), Lines::default());
        let to_stdout = |line: &[u8]| print(&mut io::stdout().lock(), &prefix, line);
        let to_stderr = |line: &[u8]| print(&mut io::stderr().lock(), &prefix, line);
        while let Ok(Some((kind, bytes))) = receive(&ours) {
            match kind {
                Kind::Stdout => out.take(&bytes, to_stdout),
                Kind::Stderr => err.take(&bytes, to_stderr),
                _ => break,
            }
        }
        out.finish(to_stdout);
        err.finish(to_stderr);
    })
}

/// A reader that has gone away misses what its log still has.
fn print(to: &mut impl Write, prefix: &str, line: &[u8]) {
    let end: &[u8] = if line.ends_with(b"\n") { b"" } else { b"\n" };
    let _ = to.write_all(&[prefix.as_bytes(), line, end].concat()).and_then(|()| to.flush());
}
