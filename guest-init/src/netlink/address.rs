//! Addresses: as the API writes them and as the kernel has them.

use crate::prelude::*;
use core::fmt;
use core::net::IpAddr;

use linux_raw_sys::net as n;

/// A hardware address of six bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardware(pub [u8; 6]);

impl Hardware {
    /// From text such as `02:00:00:00:00:01`.
    pub fn parse(text: &str) -> Result<Hardware> {
        let parts = text.split(':').filter(|part| part.len() == 2 && !part.starts_with('+'));
        let bytes: Vec<u8> = parts.map_while(|part| u8::from_str_radix(part, 16).ok()).collect();
        match <[u8; 6]>::try_from(bytes) {
            // Two digits each and a colon between them.
            Ok(bytes) if text.len() == 17 => Ok(Hardware(bytes)),
            _ => Err(fault!(InvalidArgument, "`{text}` is no hardware address")),
        }
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An address from text.
pub fn parse(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| fault!(InvalidArgument, "`{text}` is no IP address"))
}

/// A prefix length from decimal text; the whole address when there is none.
pub fn parse_prefix(text: &str, address: &IpAddr) -> Result<u8> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = if text.is_empty() { Some(bits) } else { text.parse().ok() };
    let prefix = prefix.filter(|prefix| *prefix <= bits);
    prefix.ok_or_else(|| fault!(InvalidArgument, "`{text}` is no prefix length for {address}"))
}

/// A network from text such as `10.0.0.0/8`.
pub fn parse_network(text: &str) -> Result<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let address = parse(address)?;
    Ok((address, parse_prefix(prefix, &address)?))
}

/// An address's text, or nothing's.
pub fn text(address: Option<IpAddr>) -> String {
    address.map(|address| format!("{address}")).unwrap_or_default()
}

/// `AF_INET` or `AF_INET6`.
pub fn family(address: &IpAddr) -> u8 {
    (if address.is_ipv4() { n::AF_INET } else { n::AF_INET6 }) as u8
}

/// An address of a family from the kernel's bytes.
pub fn from_bytes(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match u32::from(family) {
        n::AF_INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        n::AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hardware_addresses_are_six_pairs() {
        assert_eq!(Hardware::parse("02:00:5e:AA:0b:01"), Ok(Hardware([2, 0, 0x5e, 0xaa, 0xb, 1])));
        for bad in
            ["", "02:00:5e:aa:0b", "02:00:5e:aa:0b:01:02", "2:0:5e:aa:b:1", "+2:00:5e:aa:0b:01", "zz:00"]
        {
            assert!(Hardware::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_fits_its_address() {
        assert_eq!(parse_network("10.0.0.0/8").unwrap().1, 8);
        assert_eq!(parse_network("fd00::/64").unwrap().1, 64);
        assert_eq!(parse_network("10.0.0.1").unwrap().1, 32);
        for bad in ["10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/-1", "/8", "10.0.0.0/8/8"] {
            assert!(parse_network(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_say_the_same(address in any::<IpAddr>(), hardware in any::<[u8; 6]>()) {
            prop_assert_eq!(parse(&text(Some(address))).unwrap(), address);
            let bytes = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            prop_assert_eq!(from_bytes(family(&address), &bytes), Some(address));
            prop_assert_eq!(Hardware::parse(&format!("{}", Hardware(hardware))).unwrap().0, hardware);
        }
    }
}
