//! The way from C's `main` to a program's own.
//!
//! What Rust's library does before it calls a `main` of Rust takes a part of a machine's start that can be measured: it looks
//! up in the process's map where the stack ends, and gives this thread and every other a second stack, to tell of overflows
//! on. An overflow ends the process all the same. So programs of this crate begin at C's `main`, and what else the library
//! does there is done here.

use std::io;

/// Prepares the process, runs `main`, and ends with its result as the exit status. To be called at the very beginning.
pub fn begin(main: fn() -> u8) -> ! {
    if open_standard_descriptors().is_err() {
        std::process::abort();
    }
    // SAFETY: takes no pointers. Who writes where nobody reads gets an error, and not a signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // What is still to be written is written by this.
    std::process::exit(main().into())
}

/// Opens `/dev/null` in place of standard streams that are closed, so that no file of ours takes their numbers.
fn open_standard_descriptors() -> io::Result<()> {
    let mut standard = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the array is as long as said.
    if unsafe { libc::poll(standard.as_mut_ptr(), standard.len() as libc::nfds_t, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // The lowest number that is free is what a file gets: theirs, in their order.
    for _ in standard.iter().filter(|entry| entry.revents & libc::POLLNVAL != 0) {
        // SAFETY: the path ends in a zero.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
