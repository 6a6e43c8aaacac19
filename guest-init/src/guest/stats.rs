//! A container's counters, from the files of its cgroup, and the sandbox's network counters.

use super::cgroup::Cgroup;
use crate::api::stats::*;
use crate::prelude::*;
use crate::sys::file::{CWD, read_file};

/// Most bytes read of one file of counters.
const FILE_LIMIT: usize = 1 << 20;

/// Reads everything there is; a counter that the kernel does not have is 0.
pub fn read(cgroup: Option<&Cgroup>) -> StatsContainerResponse {
    let devices = read_file(CWD, "/proc/net/dev", FILE_LIMIT);
    StatsContainerResponse {
        cgroup_stats: cgroup.map(|cgroup| of_files(|name| cgroup.read(name))),
        network_stats: network(&devices.unwrap_or_default()),
    }
}

/// How many processes of a cgroup, and of those below it, were killed because memory ran out.
pub fn memory_kills(cgroup: &Cgroup) -> u64 {
    keyed(&cgroup.read("memory.events"), "oom_kill")
}

/// The counters of a cgroup whose files `file` reads (empty for one that is not there).
fn of_files(file: impl Fn(&str) -> Vec<u8>) -> CgroupStats {
    let cpu = file("cpu.stat");
    let nanoseconds = |key| keyed(&cpu, key) * 1000;
    let memory_stat = file("memory.stat");
    let mut memory_counters = Table::default();
    for (key, value) in pairs(&memory_stat) {
        memory_counters.insert(key.into(), value);
    }
    let data = |current, peak, max, failures| MemoryData {
        usage: number(&file(current)),
        max_usage: number(&file(peak)),
        failcnt: failures,
        limit: limit(&file(max)),
    };
    let failures = keyed(&file("memory.events"), "max");
    CgroupStats {
        cpu_stats: Some(CpuStats {
            cpu_usage: Some(CpuUsage {
                total_usage: nanoseconds("usage_usec"),
                percpu_usage: Vec::new(),
                usage_in_kernelmode: nanoseconds("system_usec"),
                usage_in_usermode: nanoseconds("user_usec"),
            }),
            throttling_data: Some(ThrottlingData {
                periods: keyed(&cpu, "nr_periods"),
                throttled_periods: keyed(&cpu, "nr_throttled"),
                throttled_time: nanoseconds("throttled_usec"),
            }),
        }),
        memory_stats: Some(MemoryStats {
            cache: keyed(&memory_stat, "file"),
            usage: Some(data("memory.current", "memory.peak", "memory.max", failures)),
            swap_usage: Some(data("memory.swap.current", "memory.swap.peak", "memory.swap.max", 0)),
            kernel_usage: None,
            use_hierarchy: true,
            stats: memory_counters,
        }),
        pids_stats: Some(PidsStats {
            current: number(&file("pids.current")),
            // `max` is no number, and 0 is no limit here.
            limit: number(&file("pids.max")),
        }),
        blkio_stats: Some(block(&file("io.stat"))),
        hugetlb_stats: Vec::new(),
    }
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or_default()
}

fn number(file: &[u8]) -> u64 {
    text(file).trim_ascii().parse().unwrap_or(0)
}

/// A limit: 2^64-1 for `max`, which stands for none.
fn limit(file: &[u8]) -> u64 {
    match text(file).trim_ascii() {
        "max" => u64::MAX,
        limit => limit.parse().unwrap_or(0),
    }
}

/// Lines of a key and a number.
fn pairs(file: &[u8]) -> impl Iterator<Item = (&str, u64)> {
    text(file).lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.parse().ok()?))
    })
}

fn keyed(file: &[u8], key: &str) -> u64 {
    pairs(file).find(|(known, _)| *known == key).map_or(0, |(_, value)| value)
}

/// `io.stat`: `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N …`.
fn block(file: &[u8]) -> BlkioStats {
    let mut stats = BlkioStats::default();
    for line in text(file).lines() {
        let mut words = line.split(' ');
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut stats.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.io_service_bytes_recursive, "Write"),
                "rios" => (&mut stats.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.io_serviced_recursive, "Write"),
                _ => continue,
            };
            list.push(BlkioStatsEntry { major, minor, op: op.into(), value: value.parse().unwrap_or(0) });
        }
    }
    stats
}

/// `/proc/net/dev`: two lines of heading, then a line an interface. Loopback is left out.
fn network(file: &[u8]) -> Vec<NetworkStats> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let mut numbers = counters.split_ascii_whitespace().map(|number| number.parse().unwrap_or(0));
        let mut next = |skipped| numbers.nth(skipped).unwrap_or(0);
        Some(NetworkStats {
            name: name.trim_ascii().into(),
            rx_bytes: next(0),
            rx_packets: next(0),
            rx_errors: next(0),
            rx_dropped: next(0),
            // Between them: fifo, frame, compressed, multicast.
            tx_bytes: next(4),
            tx_packets: next(0),
            tx_errors: next(0),
            tx_dropped: next(0),
        })
    };
    text(file).lines().skip(2).filter_map(interface).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> CgroupStats {
        of_files(|name| {
            let file = files.iter().find(|(known, _)| name == *known);
            file.map_or(Vec::new(), |(_, content)| content.as_bytes().to_vec())
        })
    }

    #[test]
    fn times_are_nanoseconds_and_limits_numbers() {
        let stats = of(&[
            ("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 2\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 1\nfile 2048\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
        ]);
        let cpu = stats.cpu_stats.unwrap().cpu_usage.unwrap();
        assert_eq!(
            (cpu.total_usage, cpu.usage_in_kernelmode, cpu.usage_in_usermode),
            (30_000, 10_000, 20_000)
        );
        let memory = stats.memory_stats.unwrap();
        assert_eq!((memory.cache, memory.stats.get("anon")), (2048, Some(&1)));
        assert_eq!(memory.usage.unwrap(), MemoryData { usage: 4096, limit: u64::MAX, ..Default::default() });
        assert_eq!(stats.pids_stats, Some(PidsStats { current: 3, limit: 0 }));
    }

    #[test]
    fn block_devices_are_told_apart() {
        let stats = of(&[("io.stat", "254:0 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0\nnonsense\n254:16\n")]);
        let stats = stats.blkio_stats.unwrap();
        let entry = |op: &str, value| BlkioStatsEntry { major: 254, minor: 0, op: op.into(), value };
        assert_eq!(stats.io_service_bytes_recursive, [entry("Read", 5), entry("Write", 6)]);
        assert_eq!(stats.io_serviced_recursive, [entry("Read", 1), entry("Write", 2)]);
    }

    #[test]
    fn interfaces_besides_loopback_are_counted() {
        let found = network(
            b"Inter-|   Receive\n face |bytes\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n",
        );
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].rx_dropped, found[0].tx_bytes), ("eth0", 4, 5));
    }

    #[test]
    fn nothing_there_is_nothing_counted() {
        assert_eq!(of(&[]).pids_stats, Some(PidsStats::default()));
        assert!(network(b"").is_empty());
    }
}
