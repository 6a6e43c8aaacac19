//! `ferry attach`: a detached container's streams, until it ends or the detach keys are typed.

use super::Fault;
use super::keys::{DetachKeys, Typed};
use super::settings::Settings;
use super::target::{find, request};
use crate::agent::session::{Control, Event, Keyboard};
use crate::agent::terminal::Window;
use crate::runtime::interrupt::{Forwarding, Interrupts};
use crate::runtime::monitor::client::{Connection, News};
use crate::runtime::monitor::protocol::{Kind, Request};
use crate::runtime::monitor::window_bytes;
use crate::runtime::state::Status;
use clap::Args;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// Options of `ferry attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The keys that leave the container running and give the terminal back [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = DetachKeys::parse)]
    detach_keys: Option<DetachKeys>,
    /// Do not give the container our standard input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the container's process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL")]
    sig_proxy: bool,
    /// Name, id, or beginning of an id
    container: String,
}

/// How it ended.
pub(super) enum End {
    /// The container's process has ended.
    Exit(u8),
    /// The detach keys were typed.
    Detached,
    /// Something failed.
    Failed(Fault),
}

/// `ferry attach`.
pub fn attach(args: &AttachArgs) -> Result<u8, Fault> {
    let detach_keys = Settings::load().map_err(Fault::new)?.detach_keys(args.detach_keys.as_ref());
    let container = find(&args.container)?;
    let made = &container.record.made;
    let name = &container.record.name;
    if container.record.status == Status::Paused {
        return Err(Fault::new(format_args!("container {name} is paused: ferry unpause {name} first")));
    }
    let input = made.interactive && !args.no_stdin;
    if made.terminal && input && !io::stdin().is_terminal() {
        return Err(Fault::new(
            "the input device is not a TTY: run this from a terminal, or with --no-stdin",
        ));
    }
    let forwarding = if args.sig_proxy { Forwarding::ToContainer } else { Forwarding::Never };
    let interrupts = Interrupts::install(forwarding)
        .map_err(|error| Fault::new(format_args!("signals cannot be received: {error}")))?;
    let connection = Arc::new(request(&container, &Request::Attach)?);
    let keyboard = if made.terminal && input { Keyboard::Raw } else { Keyboard::Untouched };
    let raw = keyboard.take_over().map_err(Fault::new)?;
    let (ended, end) = channel();
    give_signals(&connection, &interrupts, made.terminal)?;
    if input {
        give_input(&connection, (keyboard == Keyboard::Raw).then_some(detach_keys), &ended)?;
    }
    take_output(&connection, Unread::Leaves, &ended)?;
    let end = end.recv().unwrap_or(End::Detached);
    drop(raw);
    match end {
        End::Exit(status) => Ok(status),
        End::Detached => Ok(say_that_it_runs_on(name)),
        End::Failed(fault) => Err(fault),
    }
}

/// What was left runs on; the status of having left it.
pub(super) fn say_that_it_runs_on(name: &str) -> u8 {
    eprintln!("detached from {name}, which runs on (ferry attach {name} comes back)");
    0
}

/// From now on this process's signals, and the sizes of its window if that is the container's, are the container's.
pub(super) fn give_signals(
    connection: &Arc<Connection>,
    interrupts: &Interrupts,
    terminal: bool,
) -> Result<(), Fault> {
    let control = Control::new();
    interrupts.forward_to(control.remote());
    if terminal && let Some(window) = Window::current() {
        control.remote().resize(window);
    }
    spawn("signals-out", connection, move |connection| pass_on(connection, &control))
}

/// From now on the container reads what is typed here, until these keys are.
pub(super) fn give_input(
    connection: &Arc<Connection>,
    detach_keys: Option<DetachKeys>,
    ended: &Sender<End>,
) -> Result<(), Fault> {
    let (typed, ended) = (detach_keys.map(Typed::new), ended.clone());
    spawn("input", connection, move |connection| feed(connection, typed, &ended))
}

/// What becomes of output that nobody reads any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is left, and the container with it.
    Leaves,
    /// It goes nowhere.
    Vanishes,
}

/// From now on the container's output is this process's.
pub(super) fn take_output(
    connection: &Arc<Connection>,
    unread: Unread,
    ended: &Sender<End>,
) -> Result<(), Fault> {
    let ended = ended.clone();
    spawn("output", connection, move |connection| {
        let _ = ended.send(show(connection, unread));
    })
}

fn spawn(
    name: &str,
    connection: &Arc<Connection>,
    work: impl FnOnce(&Connection) + Send + 'static,
) -> Result<(), Fault> {
    let connection = Arc::clone(connection);
    let begun = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&connection));
    begun.map(drop).map_err(|error| Fault::new(format_args!("cannot start a thread: {error}")))
}

/// Signals and sizes, in order.
fn pass_on(connection: &Connection, control: &Control) {
    loop {
        let sent = match control.next() {
            Event::Signal(signal) => connection.send(Kind::Signal, &[signal.number()]),
            Event::Resize(window) => connection.send(Kind::Resize, &window_bytes(window)),
            Event::Over => return,
        };
        match sent {
            Ok(()) => control.answered(),
            Err(_) => return,
        }
    }
}

/// What is typed. Its end is no end for the container, to which others may attach.
fn feed(connection: &Connection, mut typed: Option<Typed>, ended: &Sender<End>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
        let (bytes, detached) = match &mut typed {
            Some(typed) => typed.take(&buffer[..length]),
            None => (buffer[..length].to_vec(), false),
        };
        if connection.send(Kind::Stdin, &bytes).is_err() {
            return;
        }
        if detached {
            let _ = ended.send(End::Detached);
            return;
        }
    }
}

fn show(connection: &Connection, unread: Unread) -> End {
    let mut is_read = true;
    loop {
        let shown = match connection.next() {
            Ok(News::Stdout(_) | News::Stderr(_)) if !is_read => Ok(()),
            Ok(News::Stdout(bytes)) => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
            Ok(News::Stderr(bytes)) => io::stderr().write_all(&bytes),
            Ok(News::Exit(status)) => return End::Exit(status),
            Err(error) => return End::Failed(Fault::new(error)),
        };
        match shown {
            Ok(()) => {}
            // Nobody reads here any more; the container goes on.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => match unread {
                Unread::Leaves => return End::Detached,
                Unread::Vanishes => is_read = false,
            },
            Err(error) => {
                return End::Failed(Fault::new(format_args!("the output cannot be written: {error}")));
            }
        }
    }
}
