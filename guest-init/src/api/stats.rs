//! Counters of containers: what `StatsContainer` answers (Kata's `agent.proto`).

use super::protobuf::messages;
use crate::prelude::*;

messages! {
    /// Processor time used, in nanoseconds.
    CpuUsage {
        1 total_usage: u64 => "All.",
        2 percpu_usage: Vec<u64> => "By processor.",
        3 usage_in_kernelmode: u64 => "In the kernel.",
        4 usage_in_usermode: u64 => "In programs.",
    }

    /// How often the processor quota held a container up.
    ThrottlingData {
        1 periods: u64 => "Periods.",
        2 throttled_periods: u64 => "Of these, held up.",
        3 throttled_time: u64 => "Nanoseconds.",
    }

    /// Processor counters.
    CpuStats {
        1 cpu_usage: Option<CpuUsage> => "Time used.",
        2 throttling_data: Option<ThrottlingData> => "Time held up.",
    }

    /// Tasks.
    PidsStats {
        1 current: u64 => "How many.",
        2 limit: u64 => "How many are allowed; 0 for no limit.",
    }

    /// Memory, in bytes.
    MemoryData {
        1 usage: u64 => "In use.",
        2 max_usage: u64 => "In use at most.",
        3 failcnt: u64 => "How often the limit was hit.",
        4 limit: u64 => "The limit.",
    }

    /// Memory counters.
    MemoryStats {
        1 cache: u64 => "Page cache, in bytes.",
        2 usage: Option<MemoryData> => "Memory.",
        3 swap_usage: Option<MemoryData> => "Memory and swap.",
        4 kernel_usage: Option<MemoryData> => "Kernel memory.",
        5 use_hierarchy: bool => "Always, with cgroup v2.",
        6 stats: Table<String, u64> => "Everything in `memory.stat`.",
    }

    /// A counter of a block device.
    BlkioStatsEntry {
        1 major: u64 => "Major number.",
        2 minor: u64 => "Minor number.",
        3 op: String => "What is counted.",
        4 value: u64 => "The counter.",
    }

    /// Counters of block devices.
    BlkioStats {
        1 io_service_bytes_recursive: Vec<BlkioStatsEntry> => "Bytes.",
        2 io_serviced_recursive: Vec<BlkioStatsEntry> => "Operations.",
        3 io_queued_recursive: Vec<BlkioStatsEntry> => "Queued.",
        4 io_service_time_recursive: Vec<BlkioStatsEntry> => "Service time.",
        5 io_wait_time_recursive: Vec<BlkioStatsEntry> => "Waiting time.",
        6 io_merged_recursive: Vec<BlkioStatsEntry> => "Merged.",
        7 io_time_recursive: Vec<BlkioStatsEntry> => "Time.",
        8 sectors_recursive: Vec<BlkioStatsEntry> => "Sectors.",
    }

    /// Huge pages of one size, in bytes.
    HugetlbStats {
        1 usage: u64 => "In use.",
        2 max_usage: u64 => "In use at most.",
        3 failcnt: u64 => "How often the limit was hit.",
    }

    /// Counters of a container's cgroup.
    CgroupStats {
        1 cpu_stats: Option<CpuStats> => "Processor.",
        2 memory_stats: Option<MemoryStats> => "Memory.",
        3 pids_stats: Option<PidsStats> => "Tasks.",
        4 blkio_stats: Option<BlkioStats> => "Block devices.",
        5 hugetlb_stats: Vec<HugetlbEntry> => "Huge pages, by size.",
    }

    /// Counters of a network interface.
    NetworkStats {
        1 name: String => "The interface.",
        2 rx_bytes: u64 => "Bytes received.",
        3 rx_packets: u64 => "Packets received.",
        4 rx_errors: u64 => "Receive errors.",
        5 rx_dropped: u64 => "Dropped on receipt.",
        6 tx_bytes: u64 => "Bytes sent.",
        7 tx_packets: u64 => "Packets sent.",
        8 tx_errors: u64 => "Send errors.",
        9 tx_dropped: u64 => "Dropped on sending.",
    }

    /// A container's counters.
    StatsContainerResponse {
        1 cgroup_stats: Option<CgroupStats> => "Of its cgroup.",
        2 network_stats: Vec<NetworkStats> => "Of the sandbox's interfaces.",
    }

    /// Counters of huge pages by their size (an entry of a map).
    HugetlbEntry {
        1 key: String => "The size, such as `2MB`.",
        2 value: Option<HugetlbStats> => "The counters.",
    }
}
