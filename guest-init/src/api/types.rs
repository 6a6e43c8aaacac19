//! Network types that calls of the agent service share (Kata's `types.proto`).

use alloc::string::String;
use alloc::vec::Vec;

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum IpFamily {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// When the group owner of a mounted volume's files is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FsGroupChangePolicy {
    /// Always.
    Always = 0,
    /// When the root directory's group differs.
    OnRootMismatch = 1,
}

/// An address with its prefix length.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpAddress {
    /// An [`IpFamily`].
    #[prost(enumeration = "IpFamily", tag = "1")]
    pub family: i32,
    /// The address as text.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Prefix length in decimal.
    #[prost(string, tag = "3")]
    pub mask: String,
}

/// A network interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Interface {
    /// Name that the interface is to have.
    #[prost(string, tag = "1")]
    pub device: String,
    /// Name for the host's side.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its addresses.
    #[prost(message, repeated, tag = "3")]
    pub ip_addresses: Vec<IpAddress>,
    /// Largest packet, in bytes.
    #[prost(uint64, tag = "4")]
    pub mtu: u64,
    /// MAC address as text; finds the interface.
    #[prost(string, tag = "5")]
    pub hw_addr: String,
    /// Path of its device, for those that are waited for.
    #[prost(string, tag = "6")]
    pub device_path: String,
    /// Kind of link, in netlink's words.
    #[prost(string, tag = "7")]
    pub r#type: String,
    /// Link flags (`IFF_*`).
    #[prost(uint32, tag = "8")]
    pub raw_flags: u32,
}

/// A route.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Route {
    /// Destination with prefix length; empty for the default route.
    #[prost(string, tag = "1")]
    pub dest: String,
    /// Gateway address.
    #[prost(string, tag = "2")]
    pub gateway: String,
    /// Name of the interface.
    #[prost(string, tag = "3")]
    pub device: String,
    /// Preferred source address.
    #[prost(string, tag = "4")]
    pub source: String,
    /// Scope (`RT_SCOPE_*`).
    #[prost(uint32, tag = "5")]
    pub scope: u32,
    /// An [`IpFamily`].
    #[prost(enumeration = "IpFamily", tag = "6")]
    pub family: i32,
    /// Flags (`RTNH_F_*`).
    #[prost(uint32, tag = "7")]
    pub flags: u32,
}

/// A neighbour table entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ArpNeighbor {
    /// Whom it is about.
    #[prost(message, optional, tag = "1")]
    pub to_ip_address: Option<IpAddress>,
    /// Name of the interface.
    #[prost(string, tag = "2")]
    pub device: String,
    /// Link-layer address as text.
    #[prost(string, tag = "3")]
    pub lladdr: String,
    /// State (`NUD_*`).
    #[prost(int32, tag = "4")]
    pub state: i32,
    /// Flags (`NTF_*`).
    #[prost(int32, tag = "5")]
    pub flags: i32,
}
