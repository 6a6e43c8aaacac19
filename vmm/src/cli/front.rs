//! The terminal's side of `ferry run -it`: the container belongs to a monitor from the beginning, and this command shows it
//! and passes on what is typed, as one that attaches does. So it can be left by the detach keys; until then the two processes
//! are one for the user, and the monitor ends with the command.

use super::Fault;
use super::attach::{End as Followed, Unread, give_input, give_signals, say_that_it_runs_on, take_output};
use super::detach::{self, Waiting, Word};
use super::keys::DetachKeys;
use super::target::{find, request};
use crate::agent::session::Keyboard;
use crate::runtime::interrupt::{Forwarding, Interrupts};
use crate::runtime::monitor::client::Connection;
use crate::runtime::monitor::protocol::Request;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// Shows a container from before its first word until its end, or until it is left.
pub fn show(mut waiting: Waiting, keys: DetachKeys) -> Result<u8, Fault> {
    let monitor = waiting.monitor();
    let result = Interrupts::install(Forwarding::ToContainer)
        .map_err(|error| Fault::new(format_args!("signals cannot be received: {error}")))
        .and_then(|interrupts| {
            // Until the container runs, a signal ends it all.
            interrupts.at_exit(Box::new(move || detach::end(monitor)));
            attached(&mut waiting, keys, &interrupts)
        });
    match result {
        Ok(End::Left(name)) => Ok(say_that_it_runs_on(&name)),
        // Whatever else went wrong, nothing is left running that nobody has seen.
        Ok(End::Over(status)) => {
            waiting.conclude();
            Ok(status)
        }
        Err(fault) => {
            waiting.conclude();
            Err(fault)
        }
    }
}

/// How it ended.
enum End {
    /// The container, with this status.
    Over(u8),
    /// It was left, and has this name.
    Left(String),
}

fn attached(waiting: &mut Waiting, keys: DetachKeys, interrupts: &Interrupts) -> Result<End, Fault> {
    let (ended, end) = channel();
    let (name, connection) = loop {
        match waiting.next()? {
            Word::Listening { id } => break listen(&id, &ended)?,
            Word::Ended { status } => return Ok(End::Over(status)),
            _ => {}
        }
    };
    loop {
        match waiting.next()? {
            Word::Started { .. } => break,
            Word::Ended { status } => return Ok(End::Over(status)),
            _ => {}
        }
    }
    let raw = Keyboard::Raw.take_over().map_err(Fault::new)?;
    give_signals(&connection, interrupts, true)?;
    give_input(&connection, Some(keys), &ended)?;
    let detached = matches!(end.recv(), Ok(Followed::Detached));
    drop(raw);
    interrupts.keep();
    // How it ended is for the monitor to say.
    Ok(match detached {
        true => waiting.leave()?.map_or(End::Left(name), End::Over),
        false => End::Over(waiting.last()?),
    })
}

/// Follows the container before it begins.
fn listen(id: &str, ended: &Sender<Followed>) -> Result<(String, Arc<Connection>), Fault> {
    let container = find(id)?;
    let connection = Arc::new(request(&container, &Request::Own)?);
    take_output(&connection, Unread::Vanishes, ended)?;
    Ok((container.record.name, connection))
}
