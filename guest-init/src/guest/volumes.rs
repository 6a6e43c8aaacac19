//! Volumes: how full they are, and growing them.

use crate::api::guest::{
    AddSwapPathRequest, ResizeVolumeRequest, VolumeStatsRequest, VolumeStatsResponse, VolumeUnit, VolumeUsage,
};
use crate::prelude::*;
use crate::sys::file::{self, CWD, O_DIRECTORY, O_RDONLY, open};

fn open_volume(path: &str) -> Result<Fd, Fault> {
    open(CWD, path, O_RDONLY | O_DIRECTORY, 0).context(format_args!("open the volume {path}"))
}

/// `GetVolumeStats`.
pub fn stats(call: &VolumeStatsRequest) -> Result<VolumeStatsResponse, Fault> {
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
pub fn add_swap(call: &AddSwapPathRequest) -> Result<(), Fault> {
    file::swap_on(&call.path).context(format_args!("swap to {}", call.path))
}

/// `ResizeVolume`: grows an ext4 filesystem, as large as its disk has become or as asked for.
pub fn resize(call: &ResizeVolumeRequest) -> Result<(), Fault> {
    let volume = open_volume(&call.volume_guest_path)?;
    let stat = file::stat_filesystem(&volume).context("read the volume's counters")?;
    if stat.f_type != file::EXT4_MAGIC {
        return Err(fault!(Unimplemented, "only ext4 volumes can be grown"));
    }
    let block = u64::try_from(stat.f_bsize).ok().filter(|block| *block != 0).unwrap_or(4096);
    file::resize_ext4(&volume, call.size / block).context("grow the volume")
}
