//! The life of PID 1: set the machine up, serve, and end it.

use super::storage::Disks;
use super::{Guest, appliance, boot, log, say, transport};
use crate::agent::{Agent, StreamId};
use crate::api::appliance::{Appliance, AtEnd, ENDED};
use crate::fault::reason;
use crate::prelude::*;
use crate::supervise::NO_STATUS;
use crate::sys::event::{Poll, signals, sleep};
use crate::sys::file::*;
use crate::sys::process::*;

/// Tokens of what is no stream; stream ids begin above.
const SIGNALS: u64 = 1;
const LISTENER: u64 = 2;
const FIRST_STREAM: u64 = 16;

/// How long the end waits for killed processes, and before that for the last lines to be written down. In milliseconds.
const END_WAIT: u32 = 5000;
const LOG_WAIT: u32 = 2000;

/// Bytes of a struct signalfd_siginfo, which begins with the signal's number.
const SIGNAL: usize = 128;

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

fn serve() -> SysResult<core::convert::Infallible> {
    let poll = Poll::new()?;
    let set = [SIGCHLD, SIGTERM, SIGINT, SIGPWR].iter().fold(0, |set, signal| set | 1 << (signal - 1));
    set_blocked_signals(set)?;
    let arrived = signals(set)?;
    poll.watch(arrived.raw(), SIGNALS)?;
    let listener = transport::listen(&poll, LISTENER);
    let mut guest = Guest::new(poll, FIRST_STREAM);
    guest.open_serial();
    let mut agent = Agent::new(guest);
    if let Some(appliance) = appliance::find()
        && let Err(fault) = begin(&mut agent, appliance)
    {
        say(format!("<3>ferry-init: {}\n", fault.message).as_bytes());
        end(&mut agent, Some((AtEnd::PowerOff, NO_STATUS)));
    }
    let mut happened = Vec::with_capacity(32);
    loop {
        while let Some(stream) = agent.system.serial_arrival() {
            agent.connected(stream);
        }
        let timeout = agent.tick();
        if agent.is_ending() {
            let outcome = agent.outcome();
            end(&mut agent, outcome);
        }
        agent.system.disks = Disks::default();
        agent.system.poll.wait(timeout, |token| happened.push(token))?;
        for token in happened.drain(..) {
            match token {
                SIGNALS => {
                    let mut record = [0; SIGNAL];
                    while read(arrived.raw(), &mut record) == Ok(SIGNAL) {
                        // The number's other bytes are zero. A child's signal stands for any number of children.
                        match u32::from(record[0]) {
                            SIGCHLD => {}
                            signal => agent.asked_to_end(signal),
                        }
                    }
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

/// Begins the appliance that this guest is.
fn begin(agent: &mut Agent<Guest>, appliance: Result<Appliance>) -> Result {
    // Control-Alt-Delete becomes SIGINT for PID 1.
    let _ = reboot(LINUX_REBOOT_CMD_CAD_OFF);
    let appliance = appliance?;
    if let Err(fault) = appliance::set_up_network(&appliance) {
        // Its services may do without.
        log(&fault.message);
    }
    agent.begin_appliance(appliance)
}

/// Waits until no child is left, at most this long.
fn await_children(milliseconds: u32) {
    for _ in 0..milliseconds {
        match reap() {
            Ok(Some(_)) => {}
            Ok(None) => sleep(1),
            Err(_) => return,
        }
    }
}

/// Ends everything: processes, mounts, the machine. An appliance says on the console what it ended with.
fn end(agent: &mut Agent<Guest>, outcome: Option<(AtEnd, i32)>) -> ! {
    if outcome.is_some() {
        agent.close_logs();
        await_children(LOG_WAIT);
    }
    // Everything but PID 1 itself.
    let _ = kill(-1, SIGKILL);
    await_children(END_WAIT);
    agent.unmount_all();
    sync();
    let (at_end, status) = outcome.unwrap_or((AtEnd::Reboot, 0));
    let (word, command) = match at_end {
        // The kernel would stand still where it cannot switch the machine off; a virtual machine ends by a reset.
        AtEnd::PowerOff if stat_at(CWD, "/sys/firmware/acpi").is_err() => {
            ("poweroff", LINUX_REBOOT_CMD_RESTART)
        }
        AtEnd::PowerOff => ("poweroff", LINUX_REBOOT_CMD_POWER_OFF),
        AtEnd::Reboot => ("reboot", LINUX_REBOOT_CMD_RESTART),
        AtEnd::Halt => ("halt", LINUX_REBOOT_CMD_HALT),
    };
    if outcome.is_some() {
        say(format!("<3>{ENDED}{word}, status {status}\n").as_bytes());
    }
    loop {
        if let Err(errno) = reboot(command) {
            log(reason(errno));
        }
        sleep(1000);
    }
}

/// What a panic does: says what happened, and restarts the machine, which the host sees. PID 1 never ends
/// silently, and the kernel's own "attempted to kill init" would hide the message among its registers.
///
/// Nothing here allocates: the panic may be about memory.
pub fn panicked(message: &[u8]) -> ! {
    say(message);
    let _ = write(2, message);
    let _ = write(2, b"\n");
    loop {
        match reboot(LINUX_REBOOT_CMD_RESTART) {
            // Not PID 1, or not allowed: nothing is left to do.
            Err(Errno::EPERM) => crate::sys::process::exit(255),
            _ => sleep(1000),
        }
    }
}
