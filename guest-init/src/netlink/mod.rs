//! rtnetlink's messages (rtnetlink(7)): requests are built, replies are taken apart. No system call is made here.
//!
//! Replies come from the kernel, but names in them are somebody else's to choose, so nothing in them is believed:
//! a length that does not fit ends the reading.

pub mod address;
mod request;

pub use request::Request;

use crate::prelude::*;
use core::net::IpAddr;

use address::Hardware;
use linux_raw_sys::netlink as n;

/// A message's type in the width that a header has (`RTM_*`).
macro_rules! kind {
    ($name:ident) => {
        linux_raw_sys::netlink::$name as u16
    };
}
pub(crate) use kind;

/// Size of struct nlmsghdr: length u32, type u16, flags u16, sequence u32, port u32.
const HEADER: usize = 16;

/// A message or an attribute begins at a multiple of this.
const ALIGN: usize = 4;

/// One message of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Something that was asked for: its type, and what follows the header.
    Message(u16, &'a [u8]),
    /// The request is done; an error number, or 0.
    Done(i32),
}

/// The messages in what was received that answer the request of this sequence number.
pub fn replies(mut rest: &[u8], sequence: u32) -> impl Iterator<Item = Reply<'_>> {
    core::iter::from_fn(move || {
        loop {
            let (length, kind, number) = (word(rest, 0)? as usize, half(rest, 4)?, word(rest, 8)?);
            let body = rest.get(HEADER..length)?;
            rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
            if number != sequence {
                continue;
            }
            return Some(match u32::from(kind) {
                // struct nlmsgerr begins with the negated error number; so does what ends a list.
                n::NLMSG_ERROR | n::NLMSG_DONE => {
                    Reply::Done((word(body, 0).unwrap_or(0) as i32).saturating_neg())
                }
                _ => Reply::Message(kind, body),
            });
        }
    })
}

/// The number of four bytes there.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

/// The attributes behind a message's own structure of `fixed` bytes: types and values.
fn attributes(body: &[u8], fixed: usize) -> impl Iterator<Item = (u32, &[u8])> {
    let mut rest = body.get(fixed..).unwrap_or_default();
    core::iter::from_fn(move || {
        let (length, kind) = (usize::from(half(rest, 0)?), half(rest, 2)?);
        let value = rest.get(ALIGN..length)?;
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((u32::from(kind) & n::NLA_TYPE_MASK as u32, value))
    })
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// `IFF_*`.
    pub flags: u32,
    /// Its name.
    pub name: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Its hardware address, if it has one of six bytes.
    pub address: Option<Hardware>,
    /// What kind it is, for one that is no plain device.
    pub kind: String,
}

/// The text in an attribute, which ends with a NUL.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

impl Link {
    /// From a `RTM_NEWLINK` message. struct ifinfomsg: family u8, type u16 at 2, index at 4, flags at 8,
    /// change at 12.
    pub fn parse(body: &[u8]) -> Option<Link> {
        let mut link = Link { index: word(body, 4)?, flags: word(body, 8)?, ..Default::default() };
        for (kind, value) in attributes(body, 16) {
            match kind {
                _ if kind == n::IFLA_IFNAME as u32 => link.name = text(value),
                _ if kind == n::IFLA_MTU as u32 => link.mtu = word(value, 0)?,
                _ if kind == n::IFLA_ADDRESS as u32 => link.address = value.try_into().ok().map(Hardware),
                _ if kind == n::IFLA_LINKINFO as u32 => {
                    let info = attributes(value, 0).find(|(kind, _)| *kind == n::IFLA_INFO_KIND as u32);
                    link.kind = info.map(|(_, value)| text(value)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
}

impl Address {
    /// From a `RTM_NEWADDR` message. struct ifaddrmsg: family u8, prefix length u8, flags u8, scope u8,
    /// index at 4.
    pub fn parse(body: &[u8]) -> Option<Address> {
        let [family, prefix, ..] = *body else { return None };
        let link = word(body, 4)?;
        let of = |wanted| attributes(body, 8).find(|(kind, _)| *kind == wanted);
        // On a point-to-point link the address is the peer's, and the local one is ours.
        let (_, value) = of(n::IFA_LOCAL as u32).or_else(|| of(n::IFA_ADDRESS as u32))?;
        Some(Address { link, address: address::from_bytes(family, value)?, prefix })
    }
}

/// A route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Where it leads; `None` for everywhere.
    pub destination: Option<IpAddr>,
    /// How much of the destination counts.
    pub prefix: u8,
    /// The next hop; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The address that packets get as their source.
    pub source: Option<IpAddr>,
    /// The interface; 0 for none.
    pub link: u32,
    /// Which route of several is taken: the smaller number.
    pub metric: u32,
    /// The table that it is in.
    pub table: u32,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// `RTNH_F_*`.
    pub flags: u32,
}

impl Route {
    /// From a `RTM_NEWROUTE` message. struct rtmsg: family, destination and source prefix length, TOS, table,
    /// protocol, scope and type, a byte each; flags at 8.
    pub fn parse(body: &[u8]) -> Option<Route> {
        let [family, prefix, _, _, table, protocol, scope, kind, ..] = *body else { return None };
        let (table, flags) = (table.into(), word(body, 8)?);
        let mut route = Route { family, prefix, table, protocol, scope, kind, flags, ..Route::default() };
        for (kind, value) in attributes(body, 12) {
            let address = || address::from_bytes(family, value);
            match kind {
                _ if kind == n::rtattr_type_t::RTA_DST as u32 => route.destination = address(),
                _ if kind == n::rtattr_type_t::RTA_GATEWAY as u32 => route.gateway = address(),
                _ if kind == n::rtattr_type_t::RTA_PREFSRC as u32 => route.source = address(),
                _ if kind == n::rtattr_type_t::RTA_OIF as u32 => route.link = word(value, 0)?,
                _ if kind == n::rtattr_type_t::RTA_PRIORITY as u32 => route.metric = word(value, 0)?,
                _ if kind == n::rtattr_type_t::RTA_TABLE as u32 => route.table = word(value, 0)?,
                _ => {}
            }
        }
        Some(route)
    }
}

#[cfg(test)]
mod tests;
