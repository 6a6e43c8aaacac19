//! `ferry completions SHELL`.

use super::{Cli, Fault, print};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Operands of `ferry completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  ferry completions bash > ~/.local/share/bash-completion/completions/ferry"
)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// `ferry completions`.
pub fn completions(args: &CompletionsArgs) -> Result<u8, Fault> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ferry", &mut text);
    print(&String::from_utf8_lossy(&text))
}
