//! `ferry exec`: another process in a container that runs.

use super::Fault;
use super::target::{agent_of_unpaused, find, request};
use crate::agent::session::{Control, ExecSpec, Keyboard, Progress, Stdio, run_exec, start_exec};
use crate::agent::terminal::Window;
use crate::runtime::command::Entrypoint;
use crate::runtime::interrupt::{Forwarding, Interrupts};
use crate::runtime::monitor::protocol::Request;
use crate::runtime::supervise::Failure;
use crate::runtime::{name, oci};
use clap::Args;
use std::io::IsTerminal;
use std::path::PathBuf;

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
    let failed = |error: crate::agent::session::RunError| Failure {
        status: error.exit_status(),
        ..Failure::early(error.to_string())
    };
    if args.detach {
        start_exec(&client, &spec).map_err(failed)?;
        request(&container, &Request::Drain { exec: spec.id, terminal: args.tty })?;
        return Ok(0);
    }
    let keyboard = if args.tty && args.interactive { Keyboard::Raw } else { Keyboard::Untouched };
    let stdio = Stdio::inherited(args.interactive, keyboard)
        .map_err(|error| Fault::new(format_args!("stdin, stdout or stderr cannot be used: {error}")))?;
    // As in Docker, a signal ends this command and not the container's; only the window's size goes on.
    let interrupts = Interrupts::install(Forwarding::Never)
        .map_err(|error| Fault::new(format_args!("signals cannot be received: {error}")))?;
    let control = Control::new();
    let remote = control.remote();
    let step = |step| {
        if step == Progress::Started && args.tty {
            interrupts.forward_to(remote.clone());
        }
    };
    Ok(run_exec(&client, &spec, &stdio, control, &step).map_err(failed)?)
}
