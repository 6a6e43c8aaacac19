//! The values of `--network` and `-p`.

use super::{Link, Protocol, Published, TapOptions};
use crate::devices::virtio::net::{MAX_MTU, MAX_PAIRS, MIN_MTU};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Reads the value of `--network`.
pub fn parse_network(text: &str) -> Result<Link, String> {
    let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
    match (kind, kind.strip_prefix("tap="), rest) {
        ("none", _, "") => Ok(Link::Nothing),
        ("user", _, "") => Ok(Link::User),
        (_, Some(name), rest) => tap(name, rest).map(Link::Tap),
        _ => Err(
            "it is user, none or tap=NAME[,ip=ADDRESS/PREFIX][,gateway=ADDRESS][,dns=ADDRESS][,mtu=BYTES][,queues=N]"
                .to_owned(),
        ),
    }
}

fn tap(name: &str, rest: &str) -> Result<TapOptions, String> {
    let mut options = TapOptions {
        name: name.to_owned(),
        address: None,
        gateway: None,
        dns: Vec::new(),
        mtu: 1500,
        queues: 1,
    };
    for word in rest.split(',').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("'{word}' has no value"))?;
        match key {
            "ip" => {
                let (address, prefix) =
                    value.split_once('/').ok_or_else(|| format!("ip={value} has no /PREFIX"))?;
                let address: IpAddr = parse("an address", address)?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                let prefix: u8 = parse("the length of a prefix", prefix)?;
                options.address =
                    Some((address, within("the length of a prefix", prefix.into(), 0, most)? as u8));
            }
            "gateway" => options.gateway = Some(parse("an address", value)?),
            "dns" => options.dns.push(parse("an address", value)?),
            "mtu" => {
                let mtu: u16 = parse("an MTU", value)?;
                options.mtu = within("an MTU", mtu.into(), MIN_MTU.into(), MAX_MTU.into())? as u16;
            }
            "queues" => {
                let queues: u8 = parse("a number of queues", value)?;
                options.queues = within("a number of queues", queues.into(), 1, MAX_PAIRS)?;
            }
            _ => return Err(format!("a tap has no {key}: it has ip, gateway, dns, mtu and queues")),
        }
    }
    if let (Some(gateway), Some((address, _))) = (options.gateway, options.address)
        && gateway.is_ipv4() != address.is_ipv4()
    {
        return Err("the gateway and the address are of different families".to_owned());
    }
    if options.gateway.is_some() && options.address.is_none() {
        return Err("a gateway needs an address to be reached from: add ip=ADDRESS/PREFIX".to_owned());
    }
    Ok(options)
}

fn parse<T: FromStr>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is not {what}"))
}

fn within(what: &str, value: usize, least: usize, most: usize) -> Result<usize, String> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(format!("{value} is not {what}: it is from {least} to {most}")),
    }
}

/// Reads the value of `-p`: `[ADDRESS:]HOST:GUEST[/PROTOCOL]`.
pub fn parse_published(text: &str) -> Result<Published, String> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(format!("'{other}' is neither tcp nor udp")),
    };
    let parts: Vec<_> = ports.split(':').collect();
    let (address, host, guest) = match parts[..] {
        [host, guest] => (None, host, guest),
        [address, host, guest] => (Some(parse::<Ipv4Addr>("an IPv4 address", address)?), host, guest),
        _ => return Err("it is [ADDRESS:]HOST-PORT:GUEST-PORT[/udp]".to_owned()),
    };
    let port = |text| match parse("a port", text) {
        Ok(0) => Err("0 is not a port".to_owned()),
        result => result,
    };
    Ok(Published { address, host: port(host)?, guest: port(guest)?, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_what_they_say() {
        assert_eq!(parse_network("none"), Ok(Link::Nothing));
        assert_eq!(parse_network("user"), Ok(Link::User));
        let Ok(Link::Tap(tap)) =
            parse_network("tap=vm0,ip=2001:db8::2/64,gateway=2001:db8::1,mtu=9000,queues=2")
        else {
            panic!()
        };
        assert_eq!((tap.name.as_str(), tap.mtu, tap.queues), ("vm0", 9000, 2));
        assert_eq!(tap.address, Some(("2001:db8::2".parse().unwrap(), 64)));
    }

    #[test]
    fn networks_that_make_no_sense_are_refused_in_words() {
        for (text, words) in [
            ("host", "it is user, none or tap=NAME"),
            ("none,mtu=9000", "it is user"),
            ("tap=a,ip=10.0.0.1", "has no /PREFIX"),
            ("tap=a,ip=10.0.0.1/33", "from 0 to 32"),
            ("tap=a,ip=10.0.0.1/24,gateway=::1", "different families"),
            ("tap=a,gateway=10.0.0.1", "add ip="),
            ("tap=a,mtu=60", "from 68 to 65520"),
            ("tap=a,queues=9", "from 1 to 8"),
            ("tap=a,mac=1", "a tap has no mac"),
            ("tap=a,dns", "has no value"),
        ] {
            let error = parse_network(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn ports_are_published_as_in_docker() {
        let published = |address: Option<[u8; 4]>, host, guest, protocol| {
            Ok(Published { address: address.map(Ipv4Addr::from), host, guest, protocol })
        };
        assert_eq!(parse_published("8080:80"), published(None, 8080, 80, Protocol::Tcp));
        assert_eq!(parse_published("8080:80/tcp"), published(None, 8080, 80, Protocol::Tcp));
        assert_eq!(
            parse_published("127.0.0.1:5353:53/udp"),
            published(Some([127, 0, 0, 1]), 5353, 53, Protocol::Udp)
        );
        for text in ["", "80", "0:80", "80:0", "70000:80", "a:80", "1:2:3", "1:2:3:4", "80:80/sctp", "80:80/"]
        {
            assert!(parse_published(text).is_err(), "{text}");
        }
    }
}
