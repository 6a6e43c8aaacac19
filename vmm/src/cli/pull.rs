//! `ferry pull`: an image from its registry, complete, whatever of it is here already.

use super::progress::Show;
use super::settings::Settings;
use super::{Fault, Global, print};
use clap::{Args, ValueEnum};
use ferry_images::source::{self, Access, Keep, Pull};
use ferry_images::{Progress, Reference, Registries};

/// Options and operands of `ferry pull`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct PullArgs {
    /// Print the name alone
    #[arg(short, long)]
    quiet: bool,
    /// The name, as in Docker: [HOST[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST]
    #[arg(value_name = "NAME")]
    name: String,
}

const HELP: &str = "\
Whoever signed in with docker login or podman login is signed in here too. What is
interrupted goes on where it stopped.

Mirrors and registries without a proper certificate stand in config.toml (ferry info
says where it is):
  [registries.\"docker.io\"]
  mirrors = [\"mirror.example:5000\"]
  [registries.\"mirror.example:5000\"]
  insecure = true";

/// The values of `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Every time
    Always,
    /// If the image is not here
    Missing,
    /// Not at all
    Never,
}

impl From<When> for Pull {
    fn from(when: When) -> Self {
        match when {
            When::Always => Self::Always,
            When::Missing => Self::Missing,
            When::Never => Self::Never,
        }
    }
}

/// The registries as the settings have them.
pub fn registries(settings: &Settings) -> Registries {
    Registries::new(settings.registries.clone())
}

/// `ferry pull`.
pub fn pull(global: &Global, args: &PullArgs) -> Result<u8, Fault> {
    let name: ferry_images::reference::Name =
        args.name.strip_prefix("docker://").unwrap_or(&args.name).parse().map_err(Fault::new)?;
    let registries = registries(&Settings::load().map_err(Fault::new)?);
    let access = Access { registries: &registries, pull: Pull::Always, keep: Keep::Packed };
    let store = global.store()?;
    let progress = Show::new();
    let pulled = source::resolve(&store, &Reference::Registry(name.clone()), &access, &progress);
    progress.end();
    let _held = pulled.map_err(Fault::new)?.held;
    let mut lines = String::new();
    if !args.quiet {
        let named = store.name(&name).map_err(Fault::new)?;
        let digest = named.and_then(|named| named.index.or(named.manifest));
        lines.extend(digest.map(|digest| format!("Digest: {digest}\n")));
    }
    print(&format!("{lines}{name}\n"))
}
