//! `ferry exec`: another process in a container that runs.

use super::Fault;
use super::keys::{DetachKeys, Typed};
use super::settings::Settings;
use super::target::{agent_of_unpaused, find, request};
use crate::agent::session::{Control, ExecSpec, Keyboard, Progress, RunError, Stdio, run_exec, start_exec};
use crate::agent::terminal::{self, Window};
use crate::runtime::command::Entrypoint;
use crate::runtime::interrupt::{Forwarding, Interrupts};
use crate::runtime::monitor::protocol::Request;
use crate::runtime::supervise::Failure;
use crate::runtime::{name, oci};
use clap::Args;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

/// Options and operands of `ferry exec`.
#[derive(Debug, Args)]
#[command(override_usage = "ferry exec [OPTIONS] CONTAINER COMMAND [ARG]...", after_help = EXAMPLES)]
pub struct ExecArgs {
    /// Give the command our standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The keys that leave the command running and give the terminal back [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = DetachKeys::parse)]
    detach_keys: Option<DetachKeys>,
    /// Do not wait for the command; what it writes is dropped
    #[arg(short, long, conflicts_with = "interactive")]
    detach: bool,
    /// Set a variable; NAME alone takes this shell's value
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Start in this directory [default: the container's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user: NAME or UID, with :GROUP or :GID if wanted [default: the container's]
    #[arg(short, long)]
    user: Option<String>,
    /// Give the command every capability
    #[arg(long)]
    privileged: bool,
    /// The container, and the command to run in it
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    words: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  ferry exec -it web sh               a shell in a container that runs
  ferry exec -u root -w / web ls -l
  ferry exec web sh -c 'kill -HUP 1'

The exit status is the command's own; 126: it cannot be executed; 127: it was not
found; 125: ferry itself failed. The command ends with its container.";

/// `ferry exec`.
pub fn exec(args: &ExecArgs) -> Result<u8, Fault> {
    let Some((wanted, command)) = args.words.split_first() else {
        return Err(Fault::new("which container? ferry exec CONTAINER COMMAND"));
    };
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        return Err(Fault::new("the input device is not a TTY: leave -t out, or run this from a terminal"));
    }
    let container = find(wanted)?;
    let options = oci::Options {
        command: command.to_vec(),
        // The container's entrypoint belongs to its first process.
        entrypoint: Entrypoint::Cleared,
        environment: super::run::environment(&args.env_file, &args.env)?,
        working_dir: args.workdir.clone(),
        user: args.user.clone(),
        terminal: args.tty,
        window: args.tty.then(Window::current).flatten(),
        privileged: args.privileged,
        ..oci::Options::default()
    };
    let record = &container.record;
    let spec = ExecSpec {
        container: record.id.clone(),
        id: format!("exec-{}", name::id()),
        process: oci::exec_for(&record.made, &options).map_err(Fault::new)?,
    };
    let client = agent_of_unpaused(&container)?;
    let failed =
        |error: RunError| Failure { status: error.exit_status(), ..Failure::early(error.to_string()) };
    if args.detach {
        start_exec(&client, &spec).map_err(failed)?;
        request(&container, &Request::Drain { exec: spec.id, terminal: args.tty })?;
        return Ok(0);
    }
    let at_keyboard = args.tty && args.interactive;
    let keyboard = if at_keyboard { Keyboard::Raw } else { Keyboard::Untouched };
    let mut stdio = Stdio::inherited(args.interactive, keyboard)
        .map_err(|error| Fault::new(format_args!("stdin, stdout or stderr cannot be used: {error}")))?;
    // As in Docker, a signal ends this command and not the container's; only the window's size goes on.
    let interrupts = Interrupts::install(Forwarding::Never)
        .map_err(|error| Fault::new(format_args!("signals cannot be received: {error}")))?;
    let (ended, end) = channel();
    if at_keyboard {
        let keys = Settings::load().map_err(Fault::new)?.detach_keys(args.detach_keys.as_ref());
        stdio.stdin = Some(feed(keys, ended.clone()).map_err(Fault::new)?);
    }
    let control = Control::new();
    let remote = control.remote();
    let (exec, tty) = (spec.id.clone(), args.tty);
    let attend = move || {
        let step = |step| {
            if step == Progress::Started && tty {
                interrupts.forward_to(remote.clone());
            }
        };
        let _ = ended.send(End::Over(run_exec(&client, &spec, &stdio, control, &step)));
    };
    // It is left where it stands when somebody detaches.
    std::thread::Builder::new().name("session".to_owned()).spawn(attend).map_err(Fault::new)?;
    match end.recv().map_err(Fault::new)? {
        End::Over(status) => Ok(status.map_err(failed)?),
        End::Detached => {
            terminal::restore();
            request(&container, &Request::Drain { exec, terminal: tty })?;
            eprintln!("detached from a process of {}, which runs on", container.record.name);
            Ok(0)
        }
    }
}

/// How it ended here.
enum End {
    /// The command has ended, or did not run.
    Over(Result<u8, RunError>),
    /// The detach keys were typed.
    Detached,
}

/// What is typed, without the detach keys.
fn feed(keys: DetachKeys, ended: Sender<End>) -> io::Result<OwnedFd> {
    let (from, mut to) = io::pipe()?;
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut typed = Typed::new(keys);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
            let (bytes, detached) = typed.take(&buffer[..length]);
            if to.write_all(&bytes).is_err() {
                return;
            }
            if detached {
                // The pipe stays open as long as this process: its end would be that of the command's input.
                std::mem::forget(to);
                let _ = ended.send(End::Detached);
                return;
            }
        }
    })?;
    Ok(from.into())
}
