//! `ferry rmi` and `ferry prune`: what is in the store and nobody needs any more.

use super::image::{self, Found};
use super::{FAILED, Fault, Global, print};
use crate::runtime::size::human_size;
use crate::runtime::state::{Listed, short};
use clap::Args;
use ferry_images::{Digest, Store};

/// Options and operands of `ferry rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Also all names of an image, and an image that containers were made from
    #[arg(short, long)]
    force: bool,
    /// Names, ids, or beginnings of ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Options of `ferry prune`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct PruneArgs {
    /// Also images that have names, unless a container was made from them
    #[arg(short, long)]
    all: bool,
    /// Also layers as they came from their registry or archive: images run as before, but cannot be saved
    #[arg(long)]
    packed: bool,
}

const HELP: &str = "\
Images that were run from a file or directory and carry no name go, and what half a
pull has left. What other processes are using or bringing stays.";

/// `ferry rmi`: each on its own; one that cannot be removed does not keep the others.
pub fn rmi(global: &Global, args: &RmiArgs) -> Result<u8, Fault> {
    let (store, containers) = (global.store()?, Global::containers()?);
    let mut status = 0;
    for wanted in &args.images {
        let containers = containers.list().map_err(Fault::new)?;
        match remove(&store, &containers, wanted, args.force) {
            Ok(lines) => drop(print(&lines)?),
            Err(fault) => {
                eprintln!("ferry: {}", fault.message);
                status = FAILED;
            }
        }
    }
    Ok(status)
}

fn remove(store: &Store, containers: &[Listed], wanted: &str, force: bool) -> Result<String, Fault> {
    let Found { digest, names, .. } = image::known(store, wanted)?;
    let all = store.names().map_err(Fault::new)?;
    let others = all.iter().filter(|named| named.image == digest && !names.contains(named)).count();
    if names.len() > 1 && !force {
        let list: Vec<&str> = names.iter().map(|named| named.name.as_str()).collect();
        return Err(Fault::new(format_args!(
            "{wanted} has several names ({}): remove one of them, or all with -f",
            list.join(", ")
        )));
    }
    let made_from_it = containers.iter().find(|one| one.record.made.image_digest == digest.to_string());
    if let Some(one) = made_from_it.filter(|_| others == 0 && !force) {
        let (name, id) = (&one.record.name, short(&one.record.id));
        return Err(Fault::new(format_args!(
            "container {name} ({id}) was made from {wanted}: remove it first (ferry rm {name}), or take the names away \
             with -f"
        )));
    }
    let names: Vec<String> = names.into_iter().map(|named| named.name).collect();
    store.remove(&names, &digest, &used(containers)).map_err(Fault::new)?;
    let mut lines: String = names.iter().map(|name| format!("Untagged: {name}\n")).collect();
    if store.image(&digest).map_err(Fault::new)?.is_none() {
        lines += &format!("Deleted: {digest}\n");
    }
    Ok(lines)
}

/// The images that containers were made from.
fn used(containers: &[Listed]) -> Vec<Digest> {
    containers.iter().filter_map(|one| one.record.made.image_digest.parse().ok()).collect()
}

/// `ferry prune`.
pub fn prune(global: &Global, args: &PruneArgs) -> Result<u8, Fault> {
    let store = global.store()?;
    let used = used(&Global::containers()?.list().map_err(Fault::new)?);
    let mut bytes = 0;
    if args.all {
        for named in store.names().map_err(Fault::new)? {
            if !used.contains(&named.image) {
                let swept = store.remove(&[named.name], &named.image, &used).map_err(Fault::new)?;
                bytes += swept.bytes;
            }
        }
    }
    bytes += store.sweep(&used).map_err(Fault::new)?.bytes;
    if args.packed {
        bytes += store.drop_blobs().map_err(Fault::new)?.bytes;
    }
    print(&format!("Total reclaimed space: {}\n", human_size(bytes)))
}
