//! What a machine has done so far, in numbers: by vCPU and by device, while it runs.
//!
//! Numbers only grow. They are read without stopping anything, so two of them may be a moment apart.

use crate::devices::virtio::transport::Counts;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a vCPU left the guest, counted. Kicks of queues are not here: they cost no exit to this program.
#[derive(Debug, Default)]
pub struct Exits {
    /// Reads of ports.
    pub port_reads: AtomicU64,
    /// Writes to ports.
    pub port_writes: AtomicU64,
    /// Reads of memory-mapped registers.
    pub register_reads: AtomicU64,
    /// Writes to memory-mapped registers.
    pub register_writes: AtomicU64,
    /// Signals, and instructions completed for KVM.
    pub others: AtomicU64,
    /// Processor time of this process, in nanoseconds, when the vCPU was run for the first time.
    pub first_run: AtomicU64,
}

impl Exits {
    /// Counts one.
    pub(super) fn count(counter: &AtomicU64) {
        // The owner is the only one that writes: no locked instruction is needed.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The guest is entered for the first time.
    pub(super) fn first_run(&self) {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the structure is complete. Where the clock is not there, the time stays zero.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
        self.first_run.store(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64, Ordering::Relaxed);
    }

    fn values(&self) -> [(&'static str, u64); 5] {
        [
            ("port_reads", &self.port_reads),
            ("port_writes", &self.port_writes),
            ("register_reads", &self.register_reads),
            ("register_writes", &self.register_writes),
            ("others", &self.others),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

/// A device type's name (virtio specification, section 5).
pub(super) fn name(kind: u32) -> &'static str {
    match kind {
        1 => "net",
        2 => "blk",
        3 => "console",
        4 => "rng",
        5 => "balloon",
        19 => "vsock",
        24 => "mem",
        26 => "fs",
        27 => "pmem",
        _ => "other",
    }
}

fn values(counts: &Counts) -> [(&'static str, u64); 3] {
    [("kicks", counts.kicks), ("requests", counts.requests), ("interrupts", counts.interrupts)]
}

/// A machine's numbers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// For each vCPU its exits, by name.
    pub vcpus: Vec<Vec<(&'static str, u64)>>,
    /// For each device, in the order of their slots.
    pub devices: Vec<Counts>,
    /// Processor time of the machine's process when its first vCPU entered the guest, in nanoseconds; 0 before that.
    pub first_run: u64,
}

impl Metrics {
    pub(super) fn new<'a>(exits: impl Iterator<Item = &'a Exits>, devices: Vec<Counts>) -> Self {
        let mut first_run = 0;
        let vcpus = exits.map(|exits| {
            if first_run == 0 {
                first_run = exits.first_run.load(Ordering::Relaxed);
            }
            exits.values().to_vec()
        });
        Self { vcpus: vcpus.collect(), devices, first_run }
    }

    /// One JSON object: `{"vcpus":[{…}],"devices":[{"device":"blk",…}],"cpu_ns_to_first_run":…}`.
    pub fn to_json(&self) -> String {
        let object = |first: Option<String>, values: &[(&str, u64)]| {
            let values = values.iter().map(|(name, value)| format!("\"{name}\":{value}"));
            format!("{{{}}}", first.into_iter().chain(values).collect::<Vec<_>>().join(","))
        };
        let vcpus: Vec<_> = self.vcpus.iter().map(|values| object(None, values)).collect();
        let device =
            |counts: &Counts| object(Some(format!("\"device\":\"{}\"", name(counts.kind))), &values(counts));
        let devices: Vec<_> = self.devices.iter().map(device).collect();
        format!(
            "{{\"vcpus\":[{}],\"devices\":[{}],\"cpu_ns_to_first_run\":{}}}",
            vcpus.join(","),
            devices.join(","),
            self.first_run
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Metrics {
        let exits = Exits::default();
        Exits::count(&exits.port_writes);
        Exits::count(&exits.port_writes);
        exits.first_run.store(9, Ordering::Relaxed);
        let blk = Counts { kind: 2, kicks: 3, requests: 7, interrupts: 5 };
        Metrics::new([&exits].into_iter(), vec![blk, Counts { kind: 4, ..Counts::default() }])
    }

    #[test]
    fn are_one_json_object() {
        assert_eq!(
            example().to_json(),
            "{\"vcpus\":[{\"port_reads\":0,\"port_writes\":2,\"register_reads\":0,\"register_writes\":0,\"others\":0}],\
             \"devices\":[{\"device\":\"blk\",\"kicks\":3,\"requests\":7,\"interrupts\":5},\
             {\"device\":\"rng\",\"kicks\":0,\"requests\":0,\"interrupts\":0}],\"cpu_ns_to_first_run\":9}"
        );
        assert_eq!(Metrics::default().to_json(), "{\"vcpus\":[],\"devices\":[],\"cpu_ns_to_first_run\":0}");
    }
}
