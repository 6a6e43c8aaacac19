//! Counters of containers: what `StatsContainer` answers (Kata's `agent.proto`).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// Processor time used, in nanoseconds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CpuUsage {
    /// All.
    #[prost(uint64, tag = "1")]
    pub total_usage: u64,
    /// By processor.
    #[prost(uint64, repeated, tag = "2")]
    pub percpu_usage: Vec<u64>,
    /// In the kernel.
    #[prost(uint64, tag = "3")]
    pub usage_in_kernelmode: u64,
    /// In programs.
    #[prost(uint64, tag = "4")]
    pub usage_in_usermode: u64,
}

/// How often the processor quota held a container up.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ThrottlingData {
    /// Periods.
    #[prost(uint64, tag = "1")]
    pub periods: u64,
    /// Of these, held up.
    #[prost(uint64, tag = "2")]
    pub throttled_periods: u64,
    /// Nanoseconds.
    #[prost(uint64, tag = "3")]
    pub throttled_time: u64,
}

/// Processor counters.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CpuStats {
    /// Time used.
    #[prost(message, optional, tag = "1")]
    pub cpu_usage: Option<CpuUsage>,
    /// Time held up.
    #[prost(message, optional, tag = "2")]
    pub throttling_data: Option<ThrottlingData>,
}

/// Tasks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PidsStats {
    /// How many.
    #[prost(uint64, tag = "1")]
    pub current: u64,
    /// How many are allowed; 0 for no limit.
    #[prost(uint64, tag = "2")]
    pub limit: u64,
}

/// Memory, in bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemoryData {
    /// In use.
    #[prost(uint64, tag = "1")]
    pub usage: u64,
    /// In use at most.
    #[prost(uint64, tag = "2")]
    pub max_usage: u64,
    /// How often the limit was hit.
    #[prost(uint64, tag = "3")]
    pub failcnt: u64,
    /// The limit.
    #[prost(uint64, tag = "4")]
    pub limit: u64,
}

/// Memory counters.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemoryStats {
    /// Page cache, in bytes.
    #[prost(uint64, tag = "1")]
    pub cache: u64,
    /// Memory.
    #[prost(message, optional, tag = "2")]
    pub usage: Option<MemoryData>,
    /// Memory and swap.
    #[prost(message, optional, tag = "3")]
    pub swap_usage: Option<MemoryData>,
    /// Kernel memory.
    #[prost(message, optional, tag = "4")]
    pub kernel_usage: Option<MemoryData>,
    /// Always, with cgroup v2.
    #[prost(bool, tag = "5")]
    pub use_hierarchy: bool,
    /// Everything in `memory.stat`.
    #[prost(btree_map = "string, uint64", tag = "6")]
    pub stats: BTreeMap<String, u64>,
}

/// A counter of a block device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BlkioStatsEntry {
    /// Major number.
    #[prost(uint64, tag = "1")]
    pub major: u64,
    /// Minor number.
    #[prost(uint64, tag = "2")]
    pub minor: u64,
    /// What is counted.
    #[prost(string, tag = "3")]
    pub op: String,
    /// The counter.
    #[prost(uint64, tag = "4")]
    pub value: u64,
}

/// Counters of block devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BlkioStats {
    /// Bytes.
    #[prost(message, repeated, tag = "1")]
    pub io_service_bytes_recursive: Vec<BlkioStatsEntry>,
    /// Operations.
    #[prost(message, repeated, tag = "2")]
    pub io_serviced_recursive: Vec<BlkioStatsEntry>,
    /// Queued.
    #[prost(message, repeated, tag = "3")]
    pub io_queued_recursive: Vec<BlkioStatsEntry>,
    /// Service time.
    #[prost(message, repeated, tag = "4")]
    pub io_service_time_recursive: Vec<BlkioStatsEntry>,
    /// Waiting time.
    #[prost(message, repeated, tag = "5")]
    pub io_wait_time_recursive: Vec<BlkioStatsEntry>,
    /// Merged.
    #[prost(message, repeated, tag = "6")]
    pub io_merged_recursive: Vec<BlkioStatsEntry>,
    /// Time.
    #[prost(message, repeated, tag = "7")]
    pub io_time_recursive: Vec<BlkioStatsEntry>,
    /// Sectors.
    #[prost(message, repeated, tag = "8")]
    pub sectors_recursive: Vec<BlkioStatsEntry>,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HugetlbStats {
    /// In use.
    #[prost(uint64, tag = "1")]
    pub usage: u64,
    /// In use at most.
    #[prost(uint64, tag = "2")]
    pub max_usage: u64,
    /// How often the limit was hit.
    #[prost(uint64, tag = "3")]
    pub failcnt: u64,
}

/// Counters of a container's cgroup.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CgroupStats {
    /// Processor.
    #[prost(message, optional, tag = "1")]
    pub cpu_stats: Option<CpuStats>,
    /// Memory.
    #[prost(message, optional, tag = "2")]
    pub memory_stats: Option<MemoryStats>,
    /// Tasks.
    #[prost(message, optional, tag = "3")]
    pub pids_stats: Option<PidsStats>,
    /// Block devices.
    #[prost(message, optional, tag = "4")]
    pub blkio_stats: Option<BlkioStats>,
    /// Huge pages, by size.
    #[prost(btree_map = "string, message", tag = "5")]
    pub hugetlb_stats: BTreeMap<String, HugetlbStats>,
}

/// Counters of a network interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NetworkStats {
    /// The interface.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Bytes received.
    #[prost(uint64, tag = "2")]
    pub rx_bytes: u64,
    /// Packets received.
    #[prost(uint64, tag = "3")]
    pub rx_packets: u64,
    /// Receive errors.
    #[prost(uint64, tag = "4")]
    pub rx_errors: u64,
    /// Dropped on receipt.
    #[prost(uint64, tag = "5")]
    pub rx_dropped: u64,
    /// Bytes sent.
    #[prost(uint64, tag = "6")]
    pub tx_bytes: u64,
    /// Packets sent.
    #[prost(uint64, tag = "7")]
    pub tx_packets: u64,
    /// Send errors.
    #[prost(uint64, tag = "8")]
    pub tx_errors: u64,
    /// Dropped on sending.
    #[prost(uint64, tag = "9")]
    pub tx_dropped: u64,
}

/// A container's counters.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsContainerResponse {
    /// Of its cgroup.
    #[prost(message, optional, tag = "1")]
    pub cgroup_stats: Option<CgroupStats>,
    /// Of the sandbox's interfaces.
    #[prost(message, repeated, tag = "2")]
    pub network_stats: Vec<NetworkStats>,
}
