//! Requests, as the kernel wants them.

use core::net::IpAddr;

use linux_raw_sys::netlink as n;

use super::address::{self, Hardware};
use super::{ALIGN, Address, HEADER, Route, kind};
use crate::prelude::*;

/// A request being built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request(Vec<u8>);

impl Request {
    /// Begins: the message type, flags (`NLM_F_*`) besides those of every request, and the type's own structure.
    fn new(kind: u16, flags: u32, fixed: &[u8]) -> Request {
        let mut bytes = Vec::from([0; HEADER]);
        bytes[4..6].copy_from_slice(&kind.to_le_bytes());
        bytes[6..8].copy_from_slice(&((flags | n::NLM_F_REQUEST) as u16).to_le_bytes());
        bytes.extend_from_slice(fixed);
        Request(bytes)
    }

    /// Asks for everything of a kind (`RTM_GET*`) that the kind's own structure does not exclude.
    pub fn dump(kind: u16, fixed: &[u8]) -> Request {
        Request::new(kind, n::NLM_F_DUMP, fixed)
    }

    /// Asks for all links, without their counters.
    pub fn get_links() -> Request {
        const SKIP_STATISTICS: u32 = 1 << 3;
        Request::dump(kind!(RTM_GETLINK), &[0; 16])
            .attribute(n::IFLA_EXT_MASK as u16, &SKIP_STATISTICS.to_le_bytes())
    }

    /// Changes a link: the flags in `change` to those in `flags` (`IFF_*`).
    pub fn set_link(index: u32, flags: u32, change: u32) -> Request {
        let fixed = [0, index, flags, change].map(u32::to_le_bytes);
        Request::new(kind!(RTM_NEWLINK), n::NLM_F_ACK, fixed.as_flattened())
    }

    /// Adds a name to a [`set_link`](Self::set_link).
    pub fn with_name(self, name: &str) -> Request {
        self.attribute(n::IFLA_IFNAME as u16, &[name.as_bytes(), &[0]].concat())
    }

    /// Adds an MTU, in bytes, to a [`set_link`](Self::set_link).
    pub fn with_mtu(self, mtu: u32) -> Request {
        self.attribute(n::IFLA_MTU as u16, &mtu.to_le_bytes())
    }

    fn address(kind: u16, flags: u32, address: &Address) -> Request {
        let [a, b, c, d] = address.link.to_le_bytes();
        let fixed = [address::family(&address.address), address.prefix, 0, 0, a, b, c, d];
        Request::new(kind, flags | n::NLM_F_ACK, &fixed).ip(n::IFA_LOCAL as u16, address.address)
    }

    /// Gives an interface an address, without looking whether somebody else on the link has it (which takes a second).
    pub fn add_address(address: &Address) -> Request {
        Request::address(kind!(RTM_NEWADDR), n::NLM_F_CREATE | n::NLM_F_REPLACE, address)
            .ip(n::IFA_ADDRESS as u16, address.address)
            .attribute(n::IFA_FLAGS as u16, &n::IFA_F_NODAD.to_le_bytes())
    }

    /// Takes an address away.
    pub fn delete_address(address: &Address) -> Request {
        Request::address(kind!(RTM_DELADDR), 0, address)
    }

    fn route(kind: u16, flags: u32, route: &Route) -> Request {
        let [a, b, c, d] = route.flags.to_le_bytes();
        // The table's number is an attribute, where it may be larger than a byte.
        let fixed =
            [route.family, route.prefix, 0, 0, 0, route.protocol, route.scope, route.kind, a, b, c, d];
        // To the kernel no device and no metric are 0.
        let mut request = Request::new(kind, flags | n::NLM_F_ACK, &fixed)
            .attribute(n::rtattr_type_t::RTA_TABLE as u16, &route.table.to_le_bytes())
            .attribute(n::rtattr_type_t::RTA_OIF as u16, &route.link.to_le_bytes())
            .attribute(n::rtattr_type_t::RTA_PRIORITY as u16, &route.metric.to_le_bytes());
        for (kind, address) in [
            (n::rtattr_type_t::RTA_DST, route.destination),
            (n::rtattr_type_t::RTA_GATEWAY, route.gateway),
            (n::rtattr_type_t::RTA_PREFSRC, route.source),
        ] {
            if let Some(address) = address {
                request = request.ip(kind as u16, address);
            }
        }
        request
    }

    /// Makes a route; one to the same destination with the same metric gives way.
    pub fn add_route(route: &Route) -> Request {
        Request::route(kind!(RTM_NEWROUTE), n::NLM_F_CREATE | n::NLM_F_REPLACE, route)
    }

    /// Removes a route.
    pub fn delete_route(route: &Route) -> Request {
        Request::route(kind!(RTM_DELROUTE), 0, route)
    }

    /// Says which hardware address a neighbour has; `state` is `NUD_*`, `flags` are `NTF_*`.
    pub fn add_neighbor(link: u32, address: IpAddr, hardware: Hardware, state: u16, flags: u8) -> Request {
        let ([a, b, c, d], [low, high]) = (link.to_le_bytes(), state.to_le_bytes());
        let fixed = [address::family(&address), 0, 0, 0, a, b, c, d, low, high, flags, 0];
        Request::new(kind!(RTM_NEWNEIGH), n::NLM_F_ACK | n::NLM_F_CREATE | n::NLM_F_REPLACE, &fixed)
            .ip(n::NDA_DST as u16, address)
            .attribute(n::NDA_LLADDR as u16, &hardware.0)
    }

    fn ip(self, kind: u16, address: IpAddr) -> Request {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    /// Values are a name or a number of ours: far below the 64 KiB that an attribute can have.
    fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        let length = (ALIGN + value.len()) as u16;
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        self
    }

    /// The whole message, under this sequence number.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_le_bytes());
        self.0
    }
}
