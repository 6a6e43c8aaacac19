//! Messages of the service `grpc.AgentService` about the guest as a whole: network, clock, files, volumes
//! (Kata's `agent.proto` and `csi.proto`).

use alloc::string::String;
use alloc::vec::Vec;

use super::types::{ArpNeighbor, Interface, Route};

/// `ListInterfaces`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ListInterfacesRequest {}

/// `ListRoutes`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ListRoutesRequest {}

/// `GetOOMEvent`: answered when a container runs out of memory.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GetOomEventRequest {}

/// `GetMetrics`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GetMetricsRequest {}

/// Unit of a [`VolumeUsage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum VolumeUnit {
    /// Unknown.
    Unknown = 0,
    /// Bytes.
    Bytes = 1,
    /// Inodes.
    Inodes = 2,
}

/// `ListInterfaces`'s answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Interfaces {
    /// The interfaces.
    #[prost(message, repeated, tag = "1")]
    pub interfaces: Vec<Interface>,
}

/// `ListRoutes`'s answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Routes {
    /// The routes.
    #[prost(message, repeated, tag = "1")]
    pub routes: Vec<Route>,
}

/// Configures an interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateInterfaceRequest {
    /// The interface.
    #[prost(message, optional, tag = "1")]
    pub interface: Option<Interface>,
}

/// Sets routes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateRoutesRequest {
    /// The routes.
    #[prost(message, optional, tag = "1")]
    pub routes: Option<Routes>,
}

/// Neighbour table entries.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ArpNeighbors {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub arp_neighbors: Vec<ArpNeighbor>,
}

/// Adds neighbour table entries.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddArpNeighborsRequest {
    /// The entries.
    #[prost(message, optional, tag = "1")]
    pub neighbors: Option<ArpNeighbors>,
}

/// Brings hotplugged processors and memory up.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OnlineCpuMemRequest {
    /// Whether to answer only when that is done.
    #[prost(bool, tag = "1")]
    pub wait: bool,
    /// How many processors; 0 for all.
    #[prost(uint32, tag = "2")]
    pub nb_cpus: u32,
    /// Whether memory is left alone.
    #[prost(bool, tag = "3")]
    pub cpu_only: bool,
}

/// Feeds the random number generator.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReseedRandomDevRequest {
    /// Random data.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// What the agent is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentDetails {
    /// Version of the agent.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Whether it is PID 1.
    #[prost(bool, tag = "2")]
    pub init_daemon: bool,
    /// Devices that it knows.
    #[prost(string, repeated, tag = "3")]
    pub device_handlers: Vec<String>,
    /// Storage drivers that it knows.
    #[prost(string, repeated, tag = "4")]
    pub storage_handlers: Vec<String>,
    /// Whether seccomp filters work.
    #[prost(bool, tag = "5")]
    pub supports_seccomp: bool,
    /// Optional parts that are built in.
    #[prost(string, repeated, tag = "6")]
    pub extra_features: Vec<String>,
}

/// Asks what the guest is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GuestDetailsRequest {
    /// Whether the memory block size is asked for.
    #[prost(bool, tag = "1")]
    pub mem_block_size: bool,
    /// Whether probing memory is asked about.
    #[prost(bool, tag = "2")]
    pub mem_hotplug_probe: bool,
}

/// What the guest is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GuestDetailsResponse {
    /// Size of a hotplug memory block, in bytes.
    #[prost(uint64, tag = "1")]
    pub mem_block_size_bytes: u64,
    /// The agent.
    #[prost(message, optional, tag = "2")]
    pub agent_details: Option<AgentDetails>,
    /// Whether memory can be probed.
    #[prost(bool, tag = "3")]
    pub support_mem_hotplug_probe: bool,
}

/// Announces hotplugged memory by address.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemHotplugByProbeRequest {
    /// Addresses.
    #[prost(uint64, repeated, tag = "1")]
    pub mem_hotplug_probe_addr: Vec<u64>,
}

/// Sets the clock.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetGuestDateTimeRequest {
    /// Seconds since 1970.
    #[prost(int64, tag = "1")]
    pub sec: i64,
    /// Microseconds.
    #[prost(int64, tag = "2")]
    pub usec: i64,
}

/// Writes a part of a file below /run.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyFileRequest {
    /// Where; absolute.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Size of the whole file.
    #[prost(int64, tag = "2")]
    pub file_size: i64,
    /// Mode of the file, with its type bits.
    #[prost(uint32, tag = "3")]
    pub file_mode: u32,
    /// Mode of directories made on the way.
    #[prost(uint32, tag = "4")]
    pub dir_mode: u32,
    /// Owner.
    #[prost(int32, tag = "5")]
    pub uid: i32,
    /// Group.
    #[prost(int32, tag = "6")]
    pub gid: i32,
    /// Where in the file.
    #[prost(int64, tag = "7")]
    pub offset: i64,
    /// The part, or a symbolic link's target.
    #[prost(bytes = "vec", tag = "8")]
    pub data: Vec<u8>,
}

/// A container ran out of memory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OomEvent {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Adds a PCI disk as swap.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddSwapRequest {
    /// Its path.
    #[prost(uint32, repeated, tag = "1")]
    pub pci_path: Vec<u32>,
}

/// Adds a disk as swap.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddSwapPathRequest {
    /// Its path.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// Counters of the guest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metrics {
    /// In Prometheus's text format.
    #[prost(string, tag = "1")]
    pub metrics: String,
}

/// Asks how full a volume is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeStatsRequest {
    /// Its path in the guest.
    #[prost(string, tag = "1")]
    pub volume_guest_path: String,
}

/// How full a volume is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeStatsResponse {
    /// By unit.
    #[prost(message, repeated, tag = "1")]
    pub usage: Vec<VolumeUsage>,
    /// Its health.
    #[prost(message, optional, tag = "2")]
    pub volume_condition: Option<VolumeCondition>,
}

/// How full a volume is, in one unit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeUsage {
    /// Free.
    #[prost(uint64, tag = "1")]
    pub available: u64,
    /// All.
    #[prost(uint64, tag = "2")]
    pub total: u64,
    /// Used.
    #[prost(uint64, tag = "3")]
    pub used: u64,
    /// The unit.
    #[prost(enumeration = "VolumeUnit", tag = "4")]
    pub unit: i32,
}

/// Health of a volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeCondition {
    /// Whether something is wrong.
    #[prost(bool, tag = "1")]
    pub abnormal: bool,
    /// What.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Grows a volume's filesystem.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResizeVolumeRequest {
    /// Its path in the guest.
    #[prost(string, tag = "1")]
    pub volume_guest_path: String,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
}

/// Asks for logs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetDiagnosticDataRequest {
    /// Which.
    #[prost(string, tag = "1")]
    pub log_type: String,
    /// Of which container.
    #[prost(string, tag = "2")]
    pub container_id: String,
}

/// Logs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetDiagnosticDataResponse {
    /// The text.
    #[prost(string, tag = "1")]
    pub data: String,
}
