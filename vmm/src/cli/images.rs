//! `ferry images` and `ferry load`: what is in the store.

use super::containers::table;
use super::progress::Show;
use super::{Fault, Global, print};
use crate::runtime::size::human_size;
use clap::Args;
use ferry_images::source::{self, Access, Keep, Pull};
use ferry_images::{Digest, Grammar, Progress, Reference, Registries, Store};
use std::collections::BTreeMap;
use std::io::IsTerminal;

/// Options of `ferry images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Only image ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
}

/// Options of `ferry load`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  docker save redis:7 | ferry load\n  ferry run --rm redis:7")]
pub struct LoadArgs {
    /// The image: an archive, a directory, or any other source that ferry run takes [default: an archive on standard
    /// input]
    #[arg(short, long, value_name = "IMAGE", default_value = "-", hide_default_value = true)]
    input: String,
}

/// Digits of an image's id that are shown, as in Docker.
const SHOWN: usize = 12;

fn shown(digest: &Digest, whole: bool) -> String {
    if whole { digest.to_string() } else { digest.hex().chars().take(SHOWN).collect() }
}

/// `ferry images`: every name in the store.
pub fn images(global: &Global, args: &ImagesArgs) -> Result<u8, Fault> {
    let store = global.store()?;
    let names = store.names().map_err(Fault::new)?;
    if args.quiet {
        let mut ids: Vec<String> =
            names.iter().map(|named| shown(&named.image, args.no_trunc) + "\n").collect();
        ids.sort();
        ids.dedup();
        return print(&ids.concat());
    }
    let header = ["NAME", "IMAGE ID", "SIZE"].map(str::to_owned);
    let row = |named: &ferry_images::store::Named| {
        [named.name.clone(), shown(&named.image, args.no_trunc), size(&store, &named.name)]
    };
    print(&table(&std::iter::once(header).chain(names.iter().map(row)).collect::<Vec<_>>()))
}

/// The size of an image's disk, layers that others share included.
fn size(store: &Store, name: &str) -> String {
    let bytes = name
        .parse()
        .ok()
        .and_then(|name| source::named(store, &name).ok())
        .and_then(|image| image.disk(store).ok())
        .map(|disk| disk.segments.iter().map(|segment| segment.bytes).sum());
    bytes.map_or_else(|| "incomplete".to_owned(), human_size)
}

/// `ferry load`.
pub fn load(global: &Global, args: &LoadArgs) -> Result<u8, Fault> {
    let reference = Reference::parse(&args.input, Grammar::Registry).map_err(Fault::new)?;
    if reference == Reference::Stdin && std::io::stdin().is_terminal() {
        return Err(Fault::new(
            "there is no image on standard input: name a file (-i FILE), or pipe docker save into this",
        ));
    }
    if let Reference::Registry(name) = &reference {
        return Err(Fault::new(format_args!(
            "{name} is no file: get it from its registry with `ferry pull {name}`"
        )));
    }
    let store = global.store()?;
    let progress = Show::new();
    let registries = Registries::new(BTreeMap::new());
    let access = Access { registries: &registries, pull: Pull::Never, keep: Keep::Packed };
    let loaded = source::resolve(&store, &reference, &access, &progress);
    progress.end();
    let image = loaded.map_err(Fault::new)?;
    let names = store.names().map_err(Fault::new)?;
    let mut lines: String = names
        .iter()
        .filter(|named| named.image == image.digest)
        .map(|n| format!("Loaded image: {}\n", n.name))
        .collect();
    if lines.is_empty() {
        lines = format!("Loaded image ID: {}\n", image.digest);
    }
    print(&lines)
}
