//! The `ferry` command: one file a subcommand. Here are the words it knows and what all of them share; the work is done by
//! [`crate::runtime`] and by `ferry_images`.

mod attach;
mod cid_file;
mod completions;
mod containers;
pub mod cores;
mod cp;
mod debug;
mod detach;
pub mod details;
mod dump;
mod exec;
mod filter;
mod format;
mod front;
mod history;
mod image;
mod images;
mod info;
pub(crate) mod keys;
pub(crate) mod lifecycle;
mod log;
mod logs;
mod metrics;
mod monitored;
pub mod pod;
mod port;
mod progress;
mod pull;
mod rmi;
pub mod run;
mod save;
mod settings;
mod stats;
mod tag;
mod target;
mod top;
pub mod values;
mod volume;

#[cfg(test)]
mod tests;

pub use log::LogFormat;
pub use progress::Show;

use crate::runtime::state::Containers;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};
use ferry_images::Store;
use std::path::PathBuf;

/// The status of every failure that is ferry's own.
const FAILED: u8 = 125;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs container images, unmodified, each in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(name = "ferry", version, styles = STYLES, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ferry run --rm -it alpine sh            a shell in an image of a registry
  ferry run --rm -it ./alpine.tar sh      the same in an image saved by docker or skopeo
  ferry run -m 2g --cpus 4 oci:./build    an OCI layout, with more of a machine
  echo hi | ferry run --rm -i IMAGE cat   pipes work as with any program
  ferry run -d --name web ./site.tar      one that stays: then ferry logs -f web,
                                          ferry exec -it web sh, ferry stop web

The exit status is the container's own; 126: its command cannot be executed;
127: it was not found; 125: ferry itself failed, and one line says why.";

/// Options of every subcommand.
#[derive(Debug, Args)]
#[command(next_help_heading = "General")]
pub struct Global {
    /// Say more: once what is done, twice also what the guest's kernel prints
    #[arg(long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// The same, before the command's name: after it, -v is the command's
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    before: u8,
    /// How log lines are written
    #[arg(long, value_enum, default_value_t, global = true, value_name = "FORMAT")]
    log_format: LogFormat,
    /// Where images are kept [default: $XDG_DATA_HOME/ferry or ~/.local/share/ferry]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an image in a virtual machine of its own
    Run(Box<run::RunArgs>),
    /// Run another command in a container that runs
    Exec(exec::ExecArgs),
    /// Look into a container that runs with the tools of another image
    Debug(debug::DebugArgs),
    /// Write the memory and registers of a container's VM to a file, for gdb and crash
    Dump(dump::DumpArgs),
    /// Join a detached container's streams
    Attach(attach::AttachArgs),
    /// Copy files into or out of a container that runs
    Cp(cp::CpArgs),
    /// Show what a detached container has written
    Logs(logs::LogsArgs),
    /// List containers
    #[command(visible_alias = "list")]
    Ps(containers::PsArgs),
    /// Show the processes of a container
    Top(top::TopArgs),
    /// Show which ports of the host lead to a container
    Port(port::PortArgs),
    /// Show what containers use
    Stats(stats::StatsArgs),
    /// Ask containers to end, and kill those that do not
    Stop(lifecycle::StopArgs),
    /// Send containers a signal
    Kill(lifecycle::KillArgs),
    /// Wait until containers have ended, and print their exit statuses
    Wait(target::Names),
    /// Freeze the processes of containers
    Pause(target::Names),
    /// Let the processes of paused containers go on
    Unpause(target::Names),
    /// Change the limits of containers that run
    Update(lifecycle::UpdateArgs),
    /// Remove containers that have ended
    Rm(containers::RmArgs),
    /// Show everything about containers or images, as JSON
    Inspect(containers::InspectArgs),
    /// List the images that have names here
    Images(images::ImagesArgs),
    /// Show what an image's layers are from
    History(history::HistoryArgs),
    /// Take an image into the store, so that its name can be run
    Load(images::LoadArgs),
    /// Get an image from its registry
    Pull(pull::PullArgs),
    /// Give an image that is here another name
    Tag(tag::TagArgs),
    /// Remove images: their names, and what nothing else needs of them
    Rmi(rmi::RmiArgs),
    /// Write images to an archive, bit for bit as they came
    Save(save::SaveArgs),
    /// Remove what no image that has a name and no container needs
    Prune(rmi::PruneArgs),
    /// Make, list and remove volumes, which containers see and which outlive them
    Volume(volume::VolumeArgs),
    /// Show this host, the defaults and where things are kept
    Info,
    /// Show the version
    Version,
    /// Print a shell's completions, to be read by that shell
    Completions(completions::CompletionsArgs),
}

/// Why a command failed: a line for people, with the cause and the way out.
#[derive(Debug)]
pub struct Fault {
    status: u8,
    message: String,
    /// Shown with `-v`, and announced without.
    detail: String,
}

impl Fault {
    /// A failure of ferry's own.
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self { status: FAILED, message: message.to_string(), detail: String::new() }
    }
}

impl From<crate::runtime::supervise::Failure> for Fault {
    fn from(failure: crate::runtime::supervise::Failure) -> Self {
        Self { status: failure.status, message: failure.message, detail: failure.detail }
    }
}

impl Global {
    /// How much is said.
    fn verbosity(&self) -> u8 {
        self.verbose.saturating_add(self.before)
    }

    /// The store that the options or the environment name.
    fn store(&self) -> Result<Store, Fault> {
        Store::open(&self.store_path()?).map_err(Fault::new)
    }

    fn store_path(&self) -> Result<PathBuf, Fault> {
        let system = || rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib/ferry"));
        let path = self.store.clone().or_else(Store::default_path).or_else(system);
        path.ok_or_else(|| {
            Fault::new("there is no place for images: set HOME or XDG_DATA_HOME, or name one with --store")
        })
    }

    fn containers() -> Result<Containers, Fault> {
        let root =
            Containers::default_path().ok_or(crate::runtime::state::Error::NoPlace).map_err(Fault::new)?;
        Ok(Containers::open(&root).with_usual_volumes())
    }
}

/// Runs the command that this process was started as; its exit status.
pub fn main() -> u8 {
    if let Some(status) = crate::runtime::take_over() {
        return status;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures; everything else is ferry's, as in Docker.
            let _ = error.print();
            return if error.use_stderr() { FAILED } else { 0 };
        }
    };
    log::start(cli.global.verbosity(), cli.global.log_format);
    let verbose = cli.global.verbosity() > 0;
    match dispatch(&cli.global, cli.command) {
        Ok(status) => status,
        Err(fault) => {
            report(&fault, verbose);
            fault.status
        }
    }
}

fn dispatch(global: &Global, command: Command) -> Result<u8, Fault> {
    match command {
        Command::Run(args) => run::run(global, *args),
        Command::Exec(args) => exec::exec(&args),
        Command::Debug(args) => debug::debug(global, &args),
        Command::Dump(args) => dump::dump(&args),
        Command::Attach(args) => attach::attach(&args),
        Command::Cp(args) => cp::cp(&args),
        Command::Logs(args) => logs::logs(&args),
        Command::Ps(args) => containers::ps(&args),
        Command::Top(args) => top::top(&args),
        Command::Port(args) => port::port(&args),
        Command::Stats(args) => stats::stats(&args),
        Command::Stop(args) => lifecycle::stop(&args),
        Command::Kill(args) => lifecycle::kill(&args),
        Command::Wait(names) => lifecycle::wait(&names),
        Command::Pause(names) => lifecycle::pause(&names),
        Command::Unpause(names) => lifecycle::unpause(&names),
        Command::Update(args) => lifecycle::update(&args),
        Command::Rm(args) => containers::rm(&args),
        Command::Inspect(args) => containers::inspect(global, &args),
        Command::Images(args) => images::images(global, &args),
        Command::History(args) => history::history(global, &args),
        Command::Load(args) => images::load(global, &args),
        Command::Pull(args) => pull::pull(global, &args),
        Command::Tag(args) => tag::tag(global, &args),
        Command::Rmi(args) => rmi::rmi(global, &args),
        Command::Save(args) => save::save(global, &args),
        Command::Prune(args) => rmi::prune(global, &args),
        Command::Volume(args) => volume::volume(args),
        Command::Info => info::info(global),
        Command::Version => info::version(),
        Command::Completions(args) => completions::completions(&args),
    }
}

/// One line, and under `--verbose` the guest's last words above it.
fn report(fault: &Fault, verbose: bool) {
    let detail = fault.detail.trim();
    if verbose && !detail.is_empty() {
        eprintln!("The guest's last words:");
        for line in detail.lines() {
            eprintln!("  {}", crate::agent::printable(line));
        }
    }
    let more = if !verbose && !detail.is_empty() { " (--verbose shows the guest's last words)" } else { "" };
    // Whatever the message is made of, a line is one line.
    let message = fault.message.trim().replace(['\n', '\r'], " ");
    eprintln!("ferry: {message}{more}");
}

/// Writes to stdout; a reader that has gone away is no failure.
fn print(text: &str) -> Result<u8, Fault> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fault::new(format_args!("writing to standard output: {error}")))
        }
        _ => Ok(0),
    }
}
