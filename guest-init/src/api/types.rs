//! Network types that calls of the agent service share (Kata's `types.proto`).

use super::protobuf::{enumerations, messages};
use crate::prelude::*;

enumerations! {
    /// Address family.
    IpFamily {
        /// IPv4.
        V4 = 0,
        /// IPv6.
        V6 = 1,
    }
}

messages! {
    /// An address with its prefix length.
    IpAddress {
        1 family: i32 => "An [`IpFamily`].",
        2 address: String => "The address as text.",
        3 mask: String => "Prefix length in decimal.",
    }

    /// A network interface.
    Interface {
        1 device: String => "Name that the interface is to have.",
        2 name: String => "Name for the host's side.",
        3 ip_addresses: Vec<IpAddress> => "Its addresses.",
        4 mtu: u64 => "Largest packet, in bytes.",
        5 hw_addr: String => "MAC address as text; finds the interface.",
        6 device_path: String => "Path of its device, for those that are waited for.",
        7 r#type: String => "Kind of link, in netlink's words.",
        8 raw_flags: u32 => "Link flags (`IFF_*`).",
    }

    /// A route.
    Route {
        1 dest: String => "Destination with prefix length; empty for the default route.",
        2 gateway: String => "Gateway address.",
        3 device: String => "Name of the interface.",
        4 source: String => "Preferred source address.",
        5 scope: u32 => "Scope (`RT_SCOPE_*`).",
        6 family: i32 => "An [`IpFamily`].",
        7 flags: u32 => "Flags (`RTNH_F_*`).",
    }

    /// A neighbour table entry.
    ArpNeighbor {
        1 to_ip_address: Option<IpAddress> => "Whom it is about.",
        2 device: String => "Name of the interface.",
        3 lladdr: String => "Link-layer address as text.",
        4 state: i32 => "State (`NUD_*`).",
        5 flags: i32 => "Flags (`NTF_*`).",
    }
}
