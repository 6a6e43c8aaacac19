//! The life of PID 1: set the machine up, serve, and end it.

use super::{Guest, boot, log, transport};
use crate::agent::{Agent, StreamId};
use crate::sys::event::{Poll, signals, sleep};
use crate::sys::file::{CWD, O_WRONLY, open, read, sync, write};
use crate::sys::process::{SIGCHLD, SIGKILL, kill, own_pid, reap, restart, set_blocked_signals};
use crate::sys::{Errno, Result};

/// Tokens of what is no stream; stream ids begin above.
const CHILDREN: u64 = 1;
const LISTENER: u64 = 2;
const FIRST_STREAM: u64 = 16;

/// How long the end waits for killed processes, in milliseconds.
const END_WAIT: u32 = 5000;

/// PID 1. Returns only when it cannot even begin.
pub fn run() -> &'static str {
    if own_pid() != 1 {
        return "ferry-init is PID 1 of a guest and nothing else";
    }
    boot::prepare();
    match serve() {
        Ok(never) => match never {},
        Err(_) => "cannot wait for events",
    }
}

fn serve() -> Result<core::convert::Infallible> {
    let poll = Poll::new()?;
    let children_set = 1 << (SIGCHLD - 1);
    set_blocked_signals(children_set)?;
    let children = signals(children_set)?;
    poll.watch(children.raw(), CHILDREN)?;
    let listener = transport::listen(&poll, LISTENER);
    let mut guest = Guest::new(poll, FIRST_STREAM);
    guest.open_serial();
    let mut agent = Agent::new(guest);
    let mut happened = alloc::vec::Vec::with_capacity(32);
    loop {
        while let Some(stream) = agent.system.serial_arrival() {
            agent.connected(stream);
        }
        let timeout = agent.tick();
        if agent.is_ending() {
            end(&mut agent);
        }
        agent.system.poll.wait(timeout, |token| happened.push(token))?;
        for token in happened.drain(..) {
            match token {
                CHILDREN => {
                    // The signal is only a hint; one stands for any number of children.
                    let _ = read(children.raw(), &mut [0; 128]);
                    while let Ok(Some(exit)) = reap() {
                        agent.child_ended(exit);
                    }
                }
                LISTENER => {
                    while let Some(stream) =
                        listener.as_ref().and_then(|listener| agent.system.accept(listener))
                    {
                        agent.connected(stream);
                    }
                }
                stream => agent.ready(StreamId(stream)),
            }
        }
    }
}

/// Ends everything: processes, mounts, the machine.
fn end(agent: &mut Agent<Guest>) -> ! {
    // Everything but PID 1 itself.
    let _ = kill(-1, SIGKILL);
    for _ in 0..END_WAIT {
        match reap() {
            Ok(Some(_)) => {}
            Ok(None) => sleep(1),
            Err(_) => break,
        }
    }
    agent.unmount_all();
    sync();
    loop {
        if let Err(errno) = restart() {
            log(crate::fault::reason(errno));
        }
        sleep(1000);
    }
}

/// What a panic does: says what happened, and restarts the machine, which the host sees. PID 1 never ends
/// silently, and the kernel's own "attempted to kill init" would hide the message among its registers.
///
/// Nothing here allocates: the panic may be about memory.
pub fn panicked(message: &[u8]) -> ! {
    if let Ok(log) = open(CWD, c"/dev/kmsg", O_WRONLY, 0) {
        let _ = write(log.raw(), message);
    }
    let _ = write(2, message);
    let _ = write(2, b"\n");
    loop {
        match restart() {
            // Not PID 1, or not allowed: nothing is left to do.
            Err(Errno::EPERM) => crate::sys::process::exit(255),
            _ => sleep(1000),
        }
    }
}
