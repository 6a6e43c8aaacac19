//! Volumes: how full they are, and growing them.

use super::storage::Disks;
use crate::api::guest::*;
use crate::prelude::*;
use crate::sys::file::{self, CWD, O_DIRECTORY, O_RDONLY, open};

fn open_volume(path: &str) -> Result<Fd> {
    open(CWD, path, O_RDONLY | O_DIRECTORY, 0).context(format_args!("open the volume {path}"))
}

/// `GetVolumeStats`.
pub fn stats(call: &VolumeStatsRequest) -> Result<VolumeStatsResponse> {
    let volume = open_volume(&call.volume_guest_path)?;
    let stat = file::stat_filesystem(&volume).context("read the volume's counters")?;
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let usage = |unit: VolumeUnit, total: u64, free: u64, available: u64| VolumeUsage {
        available,
        total,
        used: total.saturating_sub(free),
        unit: unit.into(),
    };
    let bytes = |blocks| number(blocks).saturating_mul(number(stat.f_bsize));
    Ok(VolumeStatsResponse {
        usage: Vec::from([
            usage(VolumeUnit::Bytes, bytes(stat.f_blocks), bytes(stat.f_bfree), bytes(stat.f_bavail)),
            usage(VolumeUnit::Inodes, number(stat.f_files), number(stat.f_ffree), number(stat.f_ffree)),
        ]),
        volume_condition: None,
    })
}

/// `AddSwapPath`: a disk on which there is swap space.
pub fn add_swap(call: &AddSwapPathRequest) -> Result {
    file::swap_on(&call.path).context(format_args!("swap to {}", call.path))
}

/// `AddSwap`: the same, of a virtio disk by its place on the PCI bus: the slots of the bridges that lead to it, and its own.
pub fn add_swap_by_place(call: &AddSwapRequest) -> Result {
    let slots: Vec<String> = call.pci_path.iter().map(|slot| format!("{slot:02x}")).collect();
    let source = format!("pci={}", slots.join("/"));
    match Disks::default().find(&source)? {
        Some(path) => add_swap(&AddSwapPathRequest { path }),
        None => Err(fault!(FailedPrecondition, "no disk is {source}: AddSwapPath takes one by its path")),
    }
}

/// `ResizeVolume`: grows an ext4 filesystem, as large as its disk has become or as asked for.
pub fn resize(call: &ResizeVolumeRequest) -> Result {
    let volume = open_volume(&call.volume_guest_path)?;
    let stat = file::stat_filesystem(&volume).context("read the volume's counters")?;
    refuse_if!(stat.f_type != file::EXT4_MAGIC, Unimplemented, "only ext4 volumes can be grown");
    let block = u64::try_from(stat.f_bsize).ok().filter(|block| *block != 0).unwrap_or(4096);
    let size =
        if call.size == 0 { disk_size(&volume).context("ask for the disk's size")? } else { call.size };
    file::resize_ext4(&volume, size / block).context("grow the volume")
}

/// Bytes of the disk or partition that a file is on.
fn disk_size(file: &Fd) -> SysResult<u64> {
    let (major, minor) = file::device_numbers(file::stat_at(file.raw(), "")?.st_dev);
    let sectors = file::read_control(CWD, &format!("/sys/dev/block/{major}:{minor}/size"))?;
    sectors.trim_ascii().parse::<u64>().map_or(Err(Errno::EINVAL), |sectors| Ok(sectors.saturating_mul(512)))
}
