//! `ferry info` and `ferry version`.

use super::settings::Settings;
use super::{Fault, Global, print};
use crate::machine;
use crate::machine::Image;
use crate::payload;
use crate::runtime::logs::Capacity;
use crate::runtime::shape::LEAST_MEMORY_MIB;
use crate::runtime::size::{MIB, human_size};
use crate::runtime::state::Containers;
use crate::runtime::volumes::Volumes;
use std::path::PathBuf;

/// `ferry info`.
pub fn info(global: &Global) -> Result<u8, Fault> {
    let kvm = match machine::probe() {
        Ok(kvm) if kvm.emulates_ring0 => {
            "usable, but it interprets the guest's kernel mode: booting takes a minute or more".to_owned()
        }
        Ok(_) => "usable".to_owned(),
        Err(error) => error.to_string(),
    };
    let settings = Settings::load().map_err(Fault::new)?;
    let shape = settings.shape();
    let place =
        |path: Option<PathBuf>| path.map_or("none: set HOME".to_owned(), |path| path.display().to_string());
    let payload = |image: Option<Image>| match image {
        Some(Image::File(path)) => path.display().to_string(),
        Some(Image::Embedded(image)) => format!("built in, {}", human_size(image.bytes().len() as u64)),
        Some(Image::Bytes(bytes)) => human_size(bytes.len() as u64),
        None => "none: name one when running an image".to_owned(),
    };
    let rows = [
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("KVM", kvm),
        ("Guest kernel", payload(payload::kernel())),
        ("Initial RAM disk", payload(payload::initrd())),
        ("Images", global.store_path().map_or_else(|fault| fault.message, |path| path.display().to_string())),
        ("Containers", place(Containers::default_path())),
        ("Volumes", place(Volumes::default_path())),
        ("Settings", place(Settings::path())),
        ("vCPUs", format!("{} (--cpus)", shape.vcpus)),
        (
            "Memory",
            format!(
                "{}, at least {LEAST_MEMORY_MIB} MiB (--memory)",
                human_size(shape.memory_mib.saturating_mul(MIB))
            ),
        ),
        ("Writable layer", writable(&settings, shape.scratch_bytes)),
        ("Logs", logs(settings.log_capacity(&[]))),
        ("Network", network().to_owned()),
        ("Detach keys", format!("{} (--detach-keys)", settings.detach_keys(None))),
    ];
    print(&rows.iter().map(|(name, value)| format!("{name:17} {value}\n")).collect::<String>())
}

fn writable(settings: &Settings, scratch: u64) -> String {
    match settings.overlay {
        Some(super::values::Overlay::Tmpfs) => "the guest's memory (--overlay)".to_owned(),
        _ => format!("a sparse disk of {} (--overlay)", human_size(scratch)),
    }
}

fn network() -> &'static str {
    match crate::runtime::network::passt_is_installed() {
        true => "user, by passt (--network)",
        false => "none, since passt is not installed (--network)",
    }
}

fn logs(capacity: Capacity) -> String {
    format!("{} files of {} (--log-opt)", capacity.files, human_size(capacity.bytes))
}

/// `ferry version`.
pub fn version() -> Result<u8, Fault> {
    print(&format!("ferry {}\n", env!("CARGO_PKG_VERSION")))
}
