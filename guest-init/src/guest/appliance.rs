//! An appliance's specification: where it is, and what of it is set up before the first service.

use super::{network, storage};
use crate::api::appliance::{Appliance, BOOT_WORD, DEFAULT_SOURCE, FILE_NAME};
use crate::api::frame::MAX_MESSAGE;
use crate::prelude::*;
use crate::sys::event::{now, sleep};
use crate::sys::file::{CWD, read_control, read_file};
use crate::sys::mount::{MS_RDONLY, MS_SILENT, mount, unmount};

/// How long disks are waited for that come late, in milliseconds.
const DISK_WAIT: u64 = 30_000;

/// Between two looks for a disk, in milliseconds.
const RETRY: u32 = 10;

/// Where the specification's filesystem is mounted for as long as it is read.
const PLACE: &str = "/run/ferry/spec";

/// Where the kernel's command line says that the specification is; `None` in a guest that has a host.
fn source(words: &str) -> Option<&str> {
    words.split_ascii_whitespace().find_map(|word| match word.strip_prefix(BOOT_WORD)? {
        "" => Some(DEFAULT_SOURCE),
        rest => rest.strip_prefix('='),
    })
}

/// Whether this guest is an appliance, and what its image says of it.
pub fn find() -> Option<Result<Appliance>> {
    let words = read_control(CWD, "/proc/cmdline").unwrap_or_default();
    let source = source(&words)?;
    Some(load(source).map_err(|fault| fault.while_doing(format_args!("the appliance on {source}"))))
}

fn load(source: &str) -> Result<Appliance> {
    let disk = wait_for(source)?;
    let bytes = (|| {
        storage::make_directories(PLACE)?;
        mount(&disk, PLACE, "erofs", MS_RDONLY | MS_SILENT, "")?;
        let bytes = read_file(CWD, &format!("{PLACE}/{FILE_NAME}"), MAX_MESSAGE);
        unmount(PLACE)?;
        bytes
    })();
    let bytes = bytes.context(format_args!("read the file {FILE_NAME}"))?;
    let appliance = Appliance::decode(&bytes)
        .map_err(|_| fault!(InvalidArgument, "the file {FILE_NAME} does not decode"))?;
    let storages = appliance.sandbox.iter().flat_map(|sandbox| &sandbox.storages);
    for storage in storages.filter(|storage| storage::is_on_disk(&storage.driver)) {
        wait_for(&storage.source)?;
    }
    Ok(appliance)
}

/// Nothing is served yet, and nothing can be done without this disk.
fn wait_for(source: &str) -> Result<String> {
    let until = now() + DISK_WAIT;
    loop {
        match storage::Disks::default().find(source)? {
            Some(disk) => return Ok(disk),
            None if now() > until => return Err(fault!(NotFound, "{source} has not appeared in 30 seconds")),
            None => sleep(RETRY),
        }
    }
}

/// Sets the network up.
pub fn set_up_network(appliance: &Appliance) -> Result {
    for interface in appliance.interfaces.iter().flat_map(|list| &list.interfaces) {
        network::update_interface(interface)?;
    }
    if let Some(routes) = &appliance.routes {
        network::update_routes(&routes.routes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_itself_makes_an_appliance() {
        assert_eq!(source("quiet ferry.appliance panic=-1\n"), Some("partname=ferry-spec"));
        assert_eq!(source("ferry.appliance=serial=spec"), Some("serial=spec"));
        assert_eq!(source("ferry.appliances ferry.applianc noferry.appliance"), None);
        assert_eq!(source(""), None);
    }
}
