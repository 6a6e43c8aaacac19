//! What a guest may send: IP and ARP, but not to where only the host's own programs should reach.
//!
//! Out of reach are the host's loopback, link-local addresses (IPv6 neighbour discovery is let through: without it there is
//! no IPv6) and the addresses at which clouds hand out credentials to whoever asks. Packets that name a second
//! destination, by source routing or a routing header, would go around the rule and are dropped; so is everything that is
//! neither IPv4, IPv6 nor ARP.
//!
//! The frame is looked at where the guest cannot change it any more.

use super::ETHERNET;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Types of frames (IEEE 802 numbers).
mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const IPV6: u16 = 0x86dd;
}

/// Next header values (IANA protocol numbers).
mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// ICMPv6 types of neighbour discovery: router solicitation to redirect (RFC 4861).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
/// What neighbour discovery's hop limit must be: it has not come from afar.
const NEIGHBOURS_HOP_LIMIT: u8 = 255;

/// Addresses of metadata services that are not link-local.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
/// The same for IPv6.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Whether the guest may send this Ethernet frame.
pub fn allows(frame: &[u8]) -> bool {
    let Some((header, packet)) = frame.split_at_checked(ETHERNET) else { return false };
    match u16::from_be_bytes([header[12], header[13]]) {
        ethertype::IPV4 => allows_ipv4(packet),
        ethertype::IPV6 => allows_ipv6(packet),
        ethertype::ARP => allows_arp(packet),
        _ => false,
    }
}

fn allows_ipv4(packet: &[u8]) -> bool {
    let Some(header) = packet.first_chunk::<20>() else { return false };
    // Version 4 without options: of those, the only one that routers still heed is source routing.
    header[0] == 0x45 && reachable_v4(Ipv4Addr::new(header[16], header[17], header[18], header[19]))
}

fn reachable_v4(address: Ipv4Addr) -> bool {
    !(address.is_loopback()
        || address.is_link_local()
        || address.octets()[0] == 0
        || METADATA_V4.contains(&address))
}

/// A request for a neighbour's address says which neighbour is meant.
fn allows_arp(packet: &[u8]) -> bool {
    /// Ethernet and IPv4, with addresses of six and four bytes.
    const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let Some(body) = packet.first_chunk::<28>() else { return false };
    body[..6] == KIND && reachable_v4(Ipv4Addr::new(body[24], body[25], body[26], body[27]))
}

fn allows_ipv6(packet: &[u8]) -> bool {
    let Some((header, payload)) = packet.split_first_chunk::<40>() else { return false };
    if header[0] >> 4 != 6 {
        return false;
    }
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[24..]);
    let destination = Ipv6Addr::from(octets);
    let next = header[6];
    let routed = match next {
        protocol::ROUTING => true,
        // The headers before a routing header. Multicast listeners' reports need the first of them.
        protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS => {
            payload.first().is_none_or(|next| *next != protocol::ICMPV6)
        }
        protocol::FRAGMENT => payload.first().is_none_or(|next| *next == protocol::ROUTING),
        _ => false,
    };
    if routed {
        return false;
    }
    if destination.is_unicast_link_local() {
        return next == protocol::ICMPV6
            && header[7] == NEIGHBOURS_HOP_LIMIT
            && payload.first().is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind));
    }
    !destination.is_loopback()
        && !destination.is_unspecified()
        && !METADATA_V6.contains(&destination)
        && embedded_v4(destination).is_none_or(reachable_v4)
}

/// The IPv4 address that a translator or tunnel would make of an IPv6 one: mapped (RFC 4291), NAT64 (RFC 6052), 6to4
/// (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let part = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => Some(part(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(part(high, low)),
        [0x2002, high, low, ..] => Some(part(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u16, packet: &[u8]) -> Vec<u8> {
        [&[2; 12][..], &kind.to_be_bytes(), packet].concat()
    }

    fn ipv4(first: u8, destination: &str) -> Vec<u8> {
        let mut packet = vec![first; 1];
        packet.resize(16, 0);
        packet.extend(destination.parse::<Ipv4Addr>().unwrap().octets());
        packet.resize(60, 0);
        frame(0x0800, &packet)
    }

    fn ipv6(next: u8, hop_limit: u8, destination: &str, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, hop_limit];
        packet.resize(24, 0);
        packet.extend(destination.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        frame(0x86dd, &packet)
    }

    #[test]
    fn lets_the_internet_and_the_local_network_through() {
        for address in
            ["192.0.2.1", "10.0.2.2", "255.255.255.255", "224.0.0.251", "169.253.255.255", "128.0.0.1"]
        {
            assert!(allows(&ipv4(0x45, address)), "{address}");
        }
        for address in ["2001:db8::1", "ff02::1", "fd00::2", "fec0::1", "64:ff9b::192.0.2.1"] {
            assert!(allows(&ipv6(6, 64, address, &[0; 20])), "{address}");
        }
    }

    #[test]
    fn keeps_loopback_link_local_and_metadata_out_of_reach() {
        for address in ["127.0.0.1", "127.255.0.9", "169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3"] {
            assert!(!allows(&ipv4(0x45, address)), "{address}");
        }
        for address in METADATA_V4 {
            assert!(!allows(&ipv4(0x45, &address.to_string())), "{address}");
        }
        let six = ["::1", "::", "fe80::1", "febf::1", "fd00:ec2::254", "fd20:ce::254"];
        let disguised =
            ["::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::169.254.169.254", "2002:7f00:1::1"];
        for address in six.into_iter().chain(disguised) {
            assert!(!allows(&ipv6(6, 64, address, &[0; 20])), "{address}");
        }
    }

    #[test]
    fn neighbours_are_discovered_and_nothing_else_is_said_to_them() {
        assert!(allows(&ipv6(58, 255, "fe80::1", &[135, 0, 0, 0])));
        assert!(!allows(&ipv6(58, 64, "fe80::1", &[135, 0, 0, 0])), "from afar");
        assert!(!allows(&ipv6(58, 255, "fe80::1", &[128, 0, 0, 0])), "an echo request");
        assert!(!allows(&ipv6(58, 255, "fe80::1", &[])));
        assert!(!allows(&ipv6(17, 255, "fe80::1", &[135, 0, 0, 0])));
    }

    #[test]
    fn nothing_names_a_second_destination() {
        assert!(!allows(&ipv4(0x46, "192.0.2.1")), "options");
        for (next, first) in [(43, 6), (0, 43), (60, 43), (0, 60), (44, 43)] {
            assert!(!allows(&ipv6(next, 64, "2001:db8::1", &[first, 0, 0, 0])), "{next} {first}");
        }
        assert!(!allows(&ipv6(0, 64, "2001:db8::1", &[])));
        assert!(allows(&ipv6(0, 1, "ff02::16", &[58, 0, 5, 2])), "a listener's report");
        assert!(allows(&ipv6(44, 64, "2001:db8::1", &[17, 0, 0, 0])), "a fragment");
    }

    #[test]
    fn asks_for_no_forbidden_neighbours() {
        let arp = |address: [u8; 4]| {
            let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
            body.resize(24, 0);
            body.extend(address);
            frame(0x0806, &body)
        };
        assert!(allows(&arp([10, 0, 2, 2])));
        assert!(!allows(&arp([169, 254, 169, 254])));
        let mut other = arp([10, 0, 2, 2]);
        other[ETHERNET + 3] = 1;
        assert!(!allows(&other));
    }

    #[test]
    fn other_kinds_of_frames_and_pieces_of_frames_go_nowhere() {
        for kind in [0x8100, 0x88a8, 0x88cc, 0x8863, 0x0060] {
            assert!(!allows(&frame(kind, &[0x45; 60])), "{kind:#x}");
        }
        for whole in [ipv4(0x45, "192.0.2.1"), ipv6(6, 64, "2001:db8::1", &[])] {
            let header = if whole[12] == 8 { 34 } else { 54 };
            assert!((0..header).all(|length| !allows(&whole[..length])));
        }
        assert!(!allows(&frame(0x86dd, &[0x45; 60])) && !allows(&frame(0x0800, &[0x65; 60])));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = allows(&bytes);
        }
    }
}
