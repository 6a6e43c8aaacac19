//! Limits of a container as files of cgroup v2.
//!
//! The conversions from cgroup v1's terms, which the OCI specification keeps, are those that runc and crun
//! use, so that a limit means the same here.

use alloc::string::ToString;

use crate::api::oci::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use crate::prelude::*;

/// Writes a text into the file of this name in the container's cgroup.
pub type Set<'a> = dyn FnMut(&str, &str) -> Result + 'a;

/// Sets these limits, in order. What cgroup v2 has no file for is refused before anything is written.
pub fn set_limits(resources: &LinuxResources, set: &mut Set<'_>) -> Result {
    refuse(resources)?;
    if let Some(memory) = &resources.memory {
        set_memory(memory, set)?;
    }
    if let Some(cpu) = &resources.cpu {
        set_cpu(cpu, set)?;
    }
    if let Some(pids) = &resources.pids
        && pids.limit != 0
    {
        set("pids.max", &limit(pids.limit))?;
    }
    if let Some(io) = &resources.block_io {
        set_io(io, set)?;
    }
    for huge in &resources.hugepage_limits {
        set(&format!("hugetlb.{}.max", huge.pagesize), &huge.limit.to_string())?;
    }
    Ok(())
}

/// A limit that is said and not kept would be worse than none.
fn refuse(resources: &LinuxResources) -> Result {
    let memory = resources.memory.clone().unwrap_or_default();
    let cpu = resources.cpu.clone().unwrap_or_default();
    let io = resources.block_io.iter();
    let leaf_weights =
        io.flat_map(|io| io.weight_device.iter().map(|device| device.leaf_weight).chain([io.leaf_weight]));
    let network = resources.network.clone().unwrap_or_default();
    let said = [
        ("memory swappiness", memory.swappiness != 0),
        ("a switch for the OOM killer", memory.disable_oom_killer),
        ("limits of kernel memory", memory.kernel > 0 || memory.kernel_tcp > 0),
        ("real-time processor limits", cpu.realtime_runtime != 0 || cpu.realtime_period != 0),
        ("leaf weights", leaf_weights.max() > Some(0)),
        ("network classes and priorities", network.class_id != 0 || !network.priorities.is_empty()),
    ];
    match said.iter().find(|(_, said)| *said) {
        Some((what, _)) => Err(fault!(Unimplemented, "cgroup v2 has no {what}")),
        None => Ok(()),
    }
}

/// A number, or `max` for a negative one.
fn limit(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn set_memory(memory: &LinuxMemory, set: &mut Set<'_>) -> Result {
    // v1 counts memory and swap together; v2 counts swap alone.
    match (memory.swap, memory.limit) {
        (..0, _) => set("memory.swap.max", "max")?,
        (swap, limit @ 1..) if swap >= limit => set("memory.swap.max", &(swap - limit).to_string())?,
        _ => {}
    }
    if memory.limit != 0 {
        set("memory.max", &limit(memory.limit))?;
    }
    if memory.reservation != 0 {
        set("memory.low", &limit(memory.reservation))?;
    }
    Ok(())
}

fn set_cpu(cpu: &LinuxCpu, set: &mut Set<'_>) -> Result {
    if cpu.shares != 0 {
        // 2..262144 onto 1..10000.
        let shares = cpu.shares.clamp(2, 262_144);
        set("cpu.weight", &(1 + (shares - 2) * 9999 / 262_142).to_string())?;
    }
    if cpu.quota != 0 || cpu.period != 0 {
        let quota = if cpu.quota > 0 { cpu.quota.to_string() } else { "max".into() };
        let period = if cpu.period == 0 { 100_000 } else { cpu.period };
        set("cpu.max", &format!("{quota} {period}"))?;
    }
    if !cpu.cpus.is_empty() {
        set("cpuset.cpus", &cpu.cpus)?;
    }
    if !cpu.mems.is_empty() {
        set("cpuset.mems", &cpu.mems)?;
    }
    Ok(())
}

fn set_io(io: &LinuxBlockIo, set: &mut Set<'_>) -> Result {
    // 10..1000 onto 1..10000.
    let scaled = |weight: u32| 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
    if io.weight != 0 {
        set("io.weight", &scaled(io.weight).to_string())?;
    }
    for device in io.weight_device.iter().filter(|device| device.weight != 0) {
        set("io.weight", &format!("{}:{} {}", device.major, device.minor, scaled(device.weight)))?;
    }
    let mut throttle = |devices: &[LinuxThrottleDevice], key: &str| {
        devices.iter().try_for_each(|device| {
            let rate = if device.rate == 0 { "max".into() } else { device.rate.to_string() };
            set("io.max", &format!("{}:{} {key}={rate}", device.major, device.minor))
        })
    };
    throttle(&io.throttle_read_bps_device, "rbps")?;
    throttle(&io.throttle_write_bps_device, "wbps")?;
    throttle(&io.throttle_read_iops_device, "riops")?;
    throttle(&io.throttle_write_iops_device, "wiops")
}

/// The cgroup of a container below cgroup2's mount: the path that the specification gives, or else `name`.
/// `None` when the path would leave the mount.
pub fn path(cgroups_path: &str, name: &str) -> Option<Vec<String>> {
    // systemd's `slice:prefix:name` form: the runtime that would ask systemd for it is not here.
    let path = if cgroups_path.contains(':') { "" } else { cgroups_path };
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(Into::into).collect();
    if parts.iter().any(|part| part == "..") {
        return None;
    }
    Some(if parts.is_empty() { Vec::from([name.into()]) } else { parts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::oci::LinuxPids;

    fn values(resources: &LinuxResources) -> Vec<(String, String)> {
        let mut values = Vec::new();
        set_limits(resources, &mut |file, value| {
            values.push((file.into(), value.into()));
            Ok(())
        })
        .unwrap();
        values
    }

    #[test]
    fn swap_is_counted_alone() {
        let memory = LinuxMemory { limit: 100, swap: 150, ..Default::default() };
        let resources = LinuxResources { memory: Some(memory), ..Default::default() };
        assert_eq!(
            values(&resources),
            [("memory.swap.max".into(), "50".into()), ("memory.max".into(), "100".into())]
        );
    }

    #[test]
    fn shares_map_to_weights_end_to_end() {
        for (shares, weight) in [(2, "1"), (1024, "39"), (262_144, "10000")] {
            let cpu = LinuxCpu { shares, ..Default::default() };
            let resources = LinuxResources { cpu: Some(cpu), ..Default::default() };
            assert_eq!(values(&resources), [("cpu.weight".into(), weight.into())]);
        }
    }

    #[test]
    fn quota_needs_no_period_and_minus_one_is_no_limit() {
        let cpu = LinuxCpu { quota: 50_000, ..Default::default() };
        let pids = LinuxPids { limit: -1 };
        let resources = LinuxResources { cpu: Some(cpu), pids: Some(pids), ..Default::default() };
        assert_eq!(
            values(&resources),
            [("cpu.max".into(), "50000 100000".into()), ("pids.max".into(), "max".into())]
        );
    }

    #[test]
    fn nothing_asked_nothing_written() {
        assert_eq!(values(&LinuxResources::default()), []);
        let resources = LinuxResources {
            memory: Some(Default::default()),
            cpu: Some(Default::default()),
            pids: Some(Default::default()),
            block_io: Some(Default::default()),
            ..Default::default()
        };
        assert_eq!(values(&resources), []);
    }

    #[test]
    fn a_path_that_climbs_out_is_refused() {
        assert_eq!(path("/pod/../..", "c"), None);
        assert_eq!(path("", "c"), Some(vec!["c".into()]));
        assert_eq!(path("/pod/web", "c"), Some(vec!["pod".into(), "web".into()]));
        assert_eq!(path("a.slice:cri:web", "c"), Some(vec!["c".into()]));
    }
}
