//! Messages of the service `grpc.AgentService` about the guest as a whole: network, clock, files, volumes
//! (Kata's `agent.proto` and `csi.proto`).

use super::protobuf::{enumerations, messages};
use super::types::{ArpNeighbor, Interface, Route};
use crate::prelude::*;

messages! {
    /// `GetOOMEvent`, answered when a container runs out of memory, and calls that ask for all there is.
    GetOomEventRequest | ListInterfacesRequest | ListRoutesRequest | GetMetricsRequest {}

    /// `ListInterfaces`'s answer.
    Interfaces {
        1 interfaces: Vec<Interface> => "The interfaces.",
    }

    /// `ListRoutes`'s answer.
    Routes {
        1 routes: Vec<Route> => "The routes.",
    }

    /// Configures an interface.
    UpdateInterfaceRequest {
        1 interface: Option<Interface> => "The interface.",
    }

    /// Sets routes.
    UpdateRoutesRequest {
        1 routes: Option<Routes> => "The routes.",
    }

    /// Neighbour table entries.
    ArpNeighbors {
        1 arp_neighbors: Vec<ArpNeighbor> => "The entries.",
    }

    /// Adds neighbour table entries.
    AddArpNeighborsRequest {
        1 neighbors: Option<ArpNeighbors> => "The entries.",
    }

    /// Brings hotplugged processors and memory up.
    OnlineCpuMemRequest {
        1 wait: bool => "Whether to answer only when that is done.",
        2 nb_cpus: u32 => "How many processors; 0 for all.",
        3 cpu_only: bool => "Whether memory is left alone.",
    }

    /// Feeds the random number generator.
    ReseedRandomDevRequest {
        2 data: Vec<u8> => "Random data.",
    }

    /// What the agent is.
    AgentDetails {
        1 version: String => "Version of the agent.",
        2 init_daemon: bool => "Whether it is PID 1.",
        3 device_handlers: Vec<String> => "Devices that it knows.",
        4 storage_handlers: Vec<String> => "Storage drivers that it knows.",
        5 supports_seccomp: bool => "Whether seccomp filters work.",
        6 extra_features: Vec<String> => "Optional parts that are built in.",
    }

    /// Asks what the guest is.
    GuestDetailsRequest {
        1 mem_block_size: bool => "Whether the memory block size is asked for.",
        2 mem_hotplug_probe: bool => "Whether probing memory is asked about.",
    }

    /// What the guest is.
    GuestDetailsResponse {
        1 mem_block_size_bytes: u64 => "Size of a hotplug memory block, in bytes.",
        2 agent_details: Option<AgentDetails> => "The agent.",
        3 support_mem_hotplug_probe: bool => "Whether memory can be probed.",
    }

    /// Announces hotplugged memory by address.
    MemHotplugByProbeRequest {
        1 mem_hotplug_probe_addr: Vec<u64> => "Addresses.",
    }

    /// Sets the clock.
    SetGuestDateTimeRequest {
        1 sec: i64 => "Seconds since 1970.",
        2 usec: i64 => "Microseconds.",
    }

    /// Writes a part of a file below /run.
    CopyFileRequest {
        1 path: String => "Where; absolute.",
        2 file_size: i64 => "Size of the whole file.",
        3 file_mode: u32 => "Mode of the file, with its type bits.",
        4 dir_mode: u32 => "Mode of directories made on the way.",
        5 uid: i32 => "Owner.",
        6 gid: i32 => "Group.",
        7 offset: i64 => "Where in the file.",
        8 data: Vec<u8> => "The part, or a symbolic link's target.",
    }

    /// A container ran out of memory.
    OomEvent {
        1 container_id: String => "The container.",
    }

    /// Adds a PCI disk as swap.
    AddSwapRequest {
        1 pci_path: Vec<u32> => "Its path.",
    }

    /// Adds a disk as swap.
    AddSwapPathRequest {
        1 path: String => "Its path.",
    }

    /// Counters of the guest.
    Metrics {
        1 metrics: String => "In Prometheus's text format.",
    }

    /// Asks how full a volume is.
    VolumeStatsRequest {
        1 volume_guest_path: String => "Its path in the guest.",
    }

    /// How full a volume is.
    VolumeStatsResponse {
        1 usage: Vec<VolumeUsage> => "By unit.",
        2 volume_condition: Option<VolumeCondition> => "Its health.",
    }

    /// How full a volume is, in one unit.
    VolumeUsage {
        1 available: u64 => "Free.",
        2 total: u64 => "All.",
        3 used: u64 => "Used.",
        4 unit: i32 => "The unit.",
    }

    /// Health of a volume.
    VolumeCondition {
        1 abnormal: bool => "Whether something is wrong.",
        2 message: String => "What.",
    }

    /// Grows a volume's filesystem.
    ResizeVolumeRequest {
        1 volume_guest_path: String => "Its path in the guest.",
        2 size: u64 => "Bytes.",
    }

    /// Asks for logs.
    GetDiagnosticDataRequest {
        1 log_type: String => "Which.",
        2 container_id: String => "Of which container.",
    }

    /// Logs.
    GetDiagnosticDataResponse {
        1 data: String => "The text.",
    }
}

enumerations! {
    /// Unit of a [`VolumeUsage`].
    VolumeUnit {
        /// Unknown.
        Unknown = 0,
        /// Bytes.
        Bytes = 1,
        /// Inodes.
        Inodes = 2,
    }
}
