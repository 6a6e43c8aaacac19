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
enum End {
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
    let control = Control::new();
    interrupts.forward_to(control.remote());
    if made.terminal
        && let Some(window) = Window::current()
    {
        control.remote().resize(window);
    }
    let (ended, end) = channel();
    spawn("signals-out", &connection, move |connection| pass_on(connection, &control))?;
    if input {
        let typed = Typed::new(detach_keys);
        let keys = keyboard == Keyboard::Raw;
        let ended = ended.clone();
        spawn("input", &connection, move |connection| feed(connection, typed, keys, &ended))?;
    }
    spawn("output", &connection, move |connection| {
        let _ = ended.send(show(connection));
    })?;
    let end = end.recv().unwrap_or(End::Detached);
    drop(raw);
    match end {
        End::Exit(status) => Ok(status),
        End::Detached => {
            eprintln!("detached from {name}, which runs on (ferry attach {name} comes back)");
            Ok(0)
        }
        End::Failed(fault) => Err(fault),
    }
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
fn feed(connection: &Connection, mut typed: Typed, keys: bool, ended: &Sender<End>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
        let (bytes, detached) =
            if keys { typed.take(&buffer[..length]) } else { (buffer[..length].to_vec(), false) };
        if connection.send(Kind::Stdin, &bytes).is_err() {
            return;
        }
        if detached {
            let _ = ended.send(End::Detached);
            return;
        }
    }
}

fn show(connection: &Connection) -> End {
    loop {
        let shown = match connection.next() {
            Ok(News::Stdout(bytes)) => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
            Ok(News::Stderr(bytes)) => io::stderr().write_all(&bytes),
            Ok(News::Exit(status)) => return End::Exit(status),
            Err(error) => return End::Failed(Fault::new(error)),
        };
        match shown {
            Ok(()) => {}
            // Nobody reads here any more; the container goes on.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return End::Detached,
            Err(error) => {
                return End::Failed(Fault::new(format_args!("the output cannot be written: {error}")));
            }
        }
    }
}
