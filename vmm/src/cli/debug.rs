//! `ferry debug`: the tools of another image, in the namespaces of a container that runs.

use super::progress::Show;
use super::pull::{self, When};
use super::run::prepare;
use super::settings::Settings;
use super::target::{agent_of_unpaused, find};
use super::{Fault, Global};
use crate::agent::session::{Control, Keyboard, Progress as Steps, Stdio};
use crate::agent::terminal::Window;
use crate::runtime::debug::{DebugError, Tools};
use crate::runtime::interrupt::{Forwarding, Interrupts};
use crate::runtime::supervise::Failure;
use crate::runtime::{name, oci};
use clap::Args;
use ferry_images::source::{Access, Keep};
use ferry_images::{Grammar, Progress, Reference};
use std::io::IsTerminal;

/// Options and operands of `ferry debug`.
#[derive(Debug, Args)]
#[command(override_usage = "ferry debug [OPTIONS] CONTAINER [COMMAND] [ARG]...", after_help = HELP)]
pub struct DebugArgs {
    /// The image with the tools: named as in ferry run
    #[arg(long, value_name = "TOOLS", default_value = "busybox")]
    image: String,
    /// When to ask its registry
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pull: When,
    /// Give the command our standard input [default: where it is a terminal and no command is given]
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal [default: as for -i]
    #[arg(short, long)]
    tty: bool,
    /// Set a variable; NAME alone takes this shell's value
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user of the tools' image: NAME or UID, with :GROUP or :GID if wanted
    #[arg(short, long)]
    user: Option<String>,
    /// The container, and the command to run instead of the tools' own
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    words: Vec<String>,
}

const HELP: &str = "\
The tools see the container's processes, its network and host name. Its root is at
/mnt, and with everything mounted in it at /proc/1/root. They have every capability,
so that strace and gdb can attach (gdb -p 2, strace -p 2), and they and what they
write are gone with their end.

Examples:
  ferry debug -it web                           a shell beside a container without one
  ferry debug --image ./tools.tar web strace -p 2
  ferry debug web ls -l /mnt/etc";

/// `ferry debug`.
pub fn debug(global: &Global, args: &DebugArgs) -> Result<u8, Fault> {
    let settings = Settings::load().map_err(Fault::new)?;
    let Some((wanted, command)) = args.words.split_first() else {
        return Err(Fault::new("which container? ferry debug CONTAINER"));
    };
    let at_terminal = std::io::stdin().is_terminal();
    let by_itself = at_terminal && std::io::stdout().is_terminal() && command.is_empty();
    let (interactive, tty) = (args.interactive || by_itself, args.tty || by_itself);
    if tty && interactive && !at_terminal {
        return Err(Fault::new("the input device is not a TTY: leave -t out, or run this from a terminal"));
    }
    let container = find(wanted)?;
    let client = agent_of_unpaused(&container)?;
    let progress = Show::new();
    let reference = Reference::parse(&args.image, Grammar::Registry).map_err(Fault::new)?;
    if reference == Reference::Stdin && interactive {
        return Err(Fault::new("standard input cannot be both the tools' image and what -i gives them"));
    }
    let registries = pull::registries(&settings);
    let access = Access { registries: &registries, pull: args.pull.into(), keep: Keep::Converted };
    let image = prepare(&global.store()?, &args.image, &reference, &access, &progress)?;
    let options = oci::Options {
        command: command.to_vec(),
        environment: super::run::environment(&[], &args.env)?,
        working_dir: args.workdir.clone(),
        user: args.user.clone(),
        hostname: Some(container.record.made.hostname.clone()),
        terminal: tty,
        window: tty.then(Window::current).flatten(),
        ..oci::Options::default()
    };
    let failed =
        |error: DebugError| Failure { status: error.exit_status(), ..Failure::early(error.to_string()) };
    let id = format!("debug-{}", &name::id()[..16]);
    progress.begin("copying the tools into the guest", None);
    let interrupts = Interrupts::install(Forwarding::ToContainer)
        .map_err(|error| Fault::new(format_args!("signals cannot be received: {error}")))?;
    let tools = Tools::make(&client, &container.record, &id, &image, &options).map_err(failed)?;
    progress.end();
    let keyboard = if tty && interactive { Keyboard::Raw } else { Keyboard::Untouched };
    let stdio = Stdio::inherited(interactive, keyboard)
        .map_err(|error| Fault::new(format_args!("stdin, stdout or stderr cannot be used: {error}")))?;
    let control = Control::new();
    let remote = control.remote();
    let step = |step| {
        if step == Steps::Started {
            interrupts.forward_to(remote.clone());
        }
    };
    let status = tools.run(&stdio, control, &step).map_err(failed);
    interrupts.keep();
    drop(tools);
    Ok(status?)
}
