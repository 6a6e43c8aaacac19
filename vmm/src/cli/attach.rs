//! `ferry attach`: a detached container's streams, until it ends or the detach keys are typed.

use super::Fault;
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
    /// The keys that leave the container running and give the terminal back
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = DetachKeys::parse)]
    detach_keys: DetachKeys,
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

/// The keys that detach, as the bytes that a terminal sends for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Reads keys with commas between them: a character, or `ctrl-` and a letter or one of `@[\]^_`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = |key: &str| {
            let (control, key) = key.strip_prefix("ctrl-").map_or((false, key), |key| (true, key));
            match (control, key.as_bytes()) {
                (false, &[byte @ 0x20..0x7f]) => Some(byte),
                (true, &[byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => {
                    Some(byte & 0x1f)
                }
                _ => None,
            }
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| {
            format!("'{text}' is no sequence of keys: characters, or ctrl- and a letter, with commas between")
        })
    }
}

/// Looks for the detach keys in what is typed.
#[derive(Debug)]
struct Typed {
    keys: Vec<u8>,
    /// How many of them were typed, and are held back.
    matched: usize,
}

impl Typed {
    /// What goes to the container of these bytes, and whether the keys are complete.
    fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            // What was held back and is no prefix of the keys any more goes on; what may still become them stays.
            while self.matched > 0 && self.keys[self.matched] != byte {
                let held = &self.keys[..self.matched];
                let shorter = (1..self.matched).rev().find(|&length| held.ends_with(&self.keys[..length]));
                let shorter = shorter.unwrap_or(0);
                out.extend_from_slice(&held[..self.matched - shorter]);
                self.matched = shorter;
            }
            if self.keys[self.matched] == byte {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
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
        let typed = Typed { keys: args.detach_keys.0.clone(), matched: 0 };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_written_as_in_docker() {
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q"), Ok(DetachKeys(vec![16, 17])));
        assert_eq!(DetachKeys::parse("a"), Ok(DetachKeys(vec![b'a'])));
        assert_eq!(DetachKeys::parse("ctrl-[,ctrl-@"), Ok(DetachKeys(vec![27, 0])));
        for text in ["", ",", "ab", "ctrl-", "ctrl-A", "ctrl-1", "ä", "a,,b"] {
            assert!(DetachKeys::parse(text).is_err(), "{text}");
        }
    }

    fn typed(keys: &[u8], pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut typed = Typed { keys: keys.to_vec(), matched: 0 };
        let mut out = Vec::new();
        for piece in pieces {
            let (bytes, detached) = typed.take(piece);
            out.extend(bytes);
            if detached {
                return (out, true);
            }
        }
        (out, false)
    }

    #[test]
    fn keys_are_found_wherever_the_pieces_end_and_nothing_else_is_held_back() {
        assert_eq!(typed(&[16, 17], &[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[16, 17], &[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[16, 17], &[b"\x10", b"x\x11"]), (b"\x10x\x11".to_vec(), false));
        assert_eq!(typed(&[16, 17], &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(b"aab", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(typed(b"abab", &[b"abcab", b"ab"]), (b"abc".to_vec(), true));
        assert_eq!(typed(b"q", &[b"xq"]), (b"x".to_vec(), true));
    }
}
