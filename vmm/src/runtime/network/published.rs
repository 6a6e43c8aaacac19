//! What `-p` asks for, in ranges as Docker has them, and what comes of it: ports of the host, each of which leads to one of the
//! guest's.

use super::NetworkError;
use super::options::parse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// The most ports that are published at once. Each is an option of `passt`'s, so that it says of every one whether it can have
/// it (of a range, old versions only say whether they have any), and they have to fit into a command line.
const MOST: u64 = 16_384;

/// How often the host is asked for a port that is free before it is taken to have none: it draws them by lot.
const DRAWS: usize = 10_000;

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The host's address; none: all of them.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What a published port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One port or several in a row, the first of them at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// What is asked for: ports of the host that lead to ports of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// The host's address; none: all of them.
    pub address: Option<IpAddr>,
    /// The host's ports: as many as the guest's, or several of which the guest's one gets the first that is free; none: any
    /// that are free.
    pub host: Option<Ports>,
    /// The guest's ports.
    pub guest: Ports,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Protocol {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Published {
    /// The guest's port, as in `80/tcp`.
    pub fn inside(&self) -> String {
        format!("{}/{}", self.guest, self.protocol.word())
    }

    /// The host's, as in `127.0.0.1:8080`.
    pub fn outside(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), self.host)
    }

    /// Whether it comes one after `other` on both sides.
    fn follows(&self, other: &Self) -> bool {
        let sides = |port: &Self| (u32::from(port.host), u32::from(port.guest));
        let ((host, guest), (before, inside)) = (sides(self), sides(other));
        self.address == other.address
            && self.protocol == other.protocol
            && (host, guest) == (before + 1, inside + 1)
    }

    /// Whether not both can be: `passt` leads a port of the host to one of the guest, whatever the address.
    fn excludes(&self, other: &Self) -> bool {
        let is_shared = self.address == other.address || self.address.is_none() || other.address.is_none();
        let same_port = self.host == other.host && self.protocol == other.protocol;
        same_port && (is_shared || self.guest != other.guest)
    }
}

/// Ports as `ps` shows them, those in a row as one: `0.0.0.0:8000-8002->80-82/tcp`.
pub fn folded(ports: &[Published]) -> String {
    let mut ports: Vec<&Published> = ports.iter().collect();
    ports.sort_by_key(|port| (port.protocol, port.address, port.guest, port.host));
    let rows = ports.chunk_by(|before, port| port.follows(before)).map(|row| match row {
        [first, .., last] => format!("{}-{}->{}-{}", first.outside(), last.host, first.guest, last.inside()),
        [one] => format!("{}->{}", one.outside(), one.inside()),
        [] => String::new(),
    });
    rows.collect::<Vec<_>>().join(", ")
}

impl Ports {
    /// This one alone.
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The port, if it is one alone.
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    /// How many they are.
    pub fn count(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    fn read(text: &str) -> Result<Self, String> {
        let port = |text| match parse("a port", text) {
            Ok(0) => Err("0 is not a port".to_owned()),
            result => result,
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        match first <= last {
            true => Ok(Self { first, last }),
            false => Err(format!("the range {text} ends before it begins")),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Publish {
    /// The same of each port of the guest alone, with its port of the host where that is said.
    fn each(self) -> impl Iterator<Item = Self> {
        let is_pool = self.is_pool();
        self.guest.iter().enumerate().map(move |(at, guest)| Self {
            host: self.host.map(|host| if is_pool { host } else { Ports::one(host.first + at as u16) }),
            guest: Ports::one(guest),
            ..self
        })
    }

    /// Whether one of several ports of the host is to be chosen.
    fn is_pool(self) -> bool {
        self.guest.count() == 1 && self.host.is_some_and(|host| host.count() > 1)
    }

    /// It with this port of the host; for one port of the guest.
    fn at(self, host: u16) -> Published {
        Published { address: self.address, host, guest: self.guest.first, protocol: self.protocol }
    }

    /// Such a port that is free of all of the host's: this one, or any for 0. Whoever takes it meanwhile has `passt` say so.
    fn free(self, port: u16) -> io::Result<Published> {
        let at = self.at(port);
        let found = match self.protocol {
            Protocol::Tcp => TcpListener::bind(at.outside())?.local_addr()?,
            Protocol::Udp => UdpSocket::bind(at.outside())?.local_addr()?,
        };
        Ok(self.at(found.port()))
    }

    /// The first such port that is free, and not among those that are `taken` already.
    fn choose(self, taken: &BTreeSet<(Protocol, u16)>) -> Result<Published, NetworkError> {
        let is_taken = |port: &Published| taken.contains(&(port.protocol, port.host));
        let Some(host) = self.host else {
            for _ in 0..DRAWS {
                let drawn = self.free(0).map_err(NetworkError::NoPort)?;
                if !is_taken(&drawn) {
                    return Ok(drawn);
                }
            }
            return Err(NetworkError::NoPort(io::ErrorKind::AddrInUse.into()));
        };
        let mut ports = host.iter().filter(|port| !taken.contains(&(self.protocol, *port)));
        ports.find_map(|port| self.free(port).ok()).ok_or_else(|| {
            let (guest, protocol) = (self.guest, self.protocol.word());
            NetworkError::NoneOf { host: format!("{host}/{protocol}"), guest: format!("{guest}/{protocol}") }
        })
    }
}

/// Chooses the ports of the host that nobody said, and looks whether all of them can be together.
pub(super) fn choose(wanted: &[Publish]) -> Result<Vec<Published>, NetworkError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    // Each is a descriptor of passt's, which has as many again for connections.
    let most = MOST.min(limit / 2);
    let count = wanted.iter().map(|publish| publish.guest.count()).sum();
    if count > most {
        return Err(NetworkError::TooMany { count, most, limit });
    }
    let each = || wanted.iter().flat_map(|publish| publish.each());
    let said = |publish: &Publish| publish.host.filter(|_| !publish.is_pool()).map(|host| host.first);
    let mut taken: BTreeSet<_> =
        each().filter_map(|publish| said(&publish).map(|host| (publish.protocol, host))).collect();
    let mut ports = Vec::new();
    for publish in each() {
        let port = match said(&publish) {
            Some(host) => publish.at(host),
            None => publish.choose(&taken)?,
        };
        taken.insert((port.protocol, port.host));
        ports.push(port);
    }
    let mut sorted: Vec<&Published> = ports.iter().collect();
    sorted.sort_by_key(|port| (port.protocol, port.host));
    let of_one_port = |a: &&Published, b: &&Published| (a.protocol, a.host) == (b.protocol, b.host);
    for ports in sorted.chunk_by(of_one_port) {
        if let Some(twice) =
            ports.iter().enumerate().find(|(at, port)| ports[..*at].iter().any(|other| port.excludes(other)))
        {
            let (host, protocol) = (twice.1.host, twice.1.protocol.word());
            return Err(NetworkError::Twice(format!("{host}/{protocol}")));
        }
    }
    Ok(ports)
}

/// Publishes the ports that an image exposes (`PORT[/PROTOCOL]`, or a range), and that nobody has published yet, at any that
/// are free.
pub fn publish_exposed(published: &mut Vec<Publish>, exposed: &str) -> Result<(), String> {
    let ports = parse_published(exposed).ok().filter(|ports| ports.host.is_none() && ports.address.is_none());
    for port in ports.ok_or("which is no port")?.each() {
        let is_there = |other: &Publish| {
            other.protocol == port.protocol && other.guest.iter().any(|guest| guest == port.guest.first)
        };
        if !published.iter().any(is_there) {
            published.push(port);
        }
    }
    Ok(())
}

/// Reads the value of `-p`: `[[ADDRESS:][HOST]:]GUEST[/PROTOCOL]`, an IPv6 address in brackets, ports and ranges of them.
pub fn parse_published(text: &str) -> Result<Publish, String> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(format!("'{other}' is neither tcp nor udp")),
    };
    let Some((rest, guest)) = ports.rsplit_once(':') else {
        return match Ports::read(ports) {
            Ok(guest) => Ok(Publish { address: None, host: None, guest, protocol }),
            Err(error) if ports.contains('-') => Err(error),
            Err(_) => Err("it is [[ADDRESS:][HOST-PORT]:]GUEST-PORT[/udp]".to_owned()),
        };
    };
    let (address, host) = match rest.rsplit_once(':') {
        None => (None, Some(Ports::read(rest)?)),
        Some((address, "")) => (Some(parse_address(address)?), None),
        Some((address, host)) => (Some(parse_address(address)?), Some(Ports::read(host)?)),
    };
    let guest = Ports::read(guest)?;
    match host {
        Some(host) if guest.count() > 1 && host.count() != guest.count() => Err(format!(
            "the host's {host} are {} and the container's {guest} are {}: as many on both sides, or one port of the container",
            host.count(),
            guest.count()
        )),
        host => Ok(Publish { address, host, guest, protocol }),
    }
}

/// An IPv4 address, or an IPv6 one in brackets.
fn parse_address(text: &str) -> Result<IpAddr, String> {
    let six = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match six {
        Some(six) => six.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    };
    address.ok_or_else(|| format!("'{text}' is no IPv4 address, nor an IPv6 address in brackets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these values of `-p`.
    fn chosen(texts: &[&str]) -> Result<Vec<Published>, NetworkError> {
        choose(&texts.iter().map(|text| parse_published(text).unwrap()).collect::<Vec<_>>())
    }

    fn shown(texts: &[&str]) -> String {
        folded(&chosen(texts).unwrap())
    }

    #[test]
    fn ports_are_published_as_in_docker() {
        for (text, expected) in [
            ("8080:80", "0.0.0.0:8080->80/tcp"),
            ("8080:80/tcp", "0.0.0.0:8080->80/tcp"),
            ("127.0.0.1:5353:53/udp", "127.0.0.1:5353->53/udp"),
            ("[::1]:8080:80", "[::1]:8080->80/tcp"),
            ("8000-8010:8000-8010", "0.0.0.0:8000-8010->8000-8010/tcp"),
            ("127.0.0.1:8000-8002:80-82/udp", "127.0.0.1:8000-8002->80-82/udp"),
            ("[::1]:65534-65535:1-2", "[::1]:65534-65535->1-2/tcp"),
            ("8000-8000:80-80", "0.0.0.0:8000->80/tcp"),
        ] {
            assert_eq!(shown(&[text]), expected, "{text}");
        }
        let wrong = [
            "",
            ":80",
            "::80",
            "0",
            "0:80",
            "80:0",
            "70000:80",
            "a:80",
            "1:2:3",
            "1:2:3:4",
            "80:80/sctp",
            "80:80/",
            "80/tcp/tcp",
            "::1:80:80",
            "[::1:80:80",
            "[127.0.0.1]:80:80",
            "[]:1:2",
            "-",
            "1-",
            "-1",
            "1-2-3",
            "2-1",
            "0-1",
            "1-65536",
            "1-2:",
            "8000-8001:80-82",
            "8000-8002:80-81",
            "8000:80-81",
            "127.0.0.1:1-3:1-2/udp",
        ];
        for text in wrong {
            assert!(parse_published(text).is_err(), "{text}");
        }
        let error = parse_published("8000-8001:80-82").unwrap_err();
        assert!(error.contains("8000-8001 are 2 and the container's 80-82 are 3"), "{error}");
        assert!(parse_published("9-8").unwrap_err().contains("ends before it begins"));
    }

    #[test]
    fn ports_that_are_free_are_chosen_where_none_are_said() {
        for text in ["127.0.0.1::80", "127.0.0.1::53/udp", "127.0.0.1::8000-8050"] {
            let ports = chosen(&[text]).unwrap();
            let hosts: BTreeSet<u16> = ports.iter().map(|port| port.host).collect();
            assert!(hosts.len() == ports.len() && !hosts.contains(&0), "{text}: {ports:?}");
        }
        let ports = chosen(&["8000-8005", "9:9"]).unwrap();
        assert_eq!(
            ports.iter().map(|port| port.guest).collect::<Vec<_>>(),
            [8000, 8001, 8002, 8003, 8004, 8005, 9]
        );
        assert_eq!(ports[6].host, 9);
    }

    #[test]
    fn one_port_of_the_guest_gets_the_first_of_a_range_that_is_free() {
        let held = |port| TcpListener::bind(("127.0.0.1", port));
        // Three in a row, of which the first is held by somebody and the second is said.
        let (first, _holder) = (20_000..32_000)
            .step_by(3)
            .find_map(|first| {
                let holder = held(first).ok()?;
                (held(first + 1).is_ok() && held(first + 2).is_ok()).then_some((first, holder))
            })
            .expect("three ports in a row");
        let (second, third) = (first + 1, first + 2);
        let range = format!("127.0.0.1:{first}-{third}:80");
        let said = format!("127.0.0.1:{second}:81");
        assert_eq!(chosen(&[&range]).unwrap()[0].host, second);
        assert_eq!(chosen(&[&range, &said]).unwrap()[0].host, third);
        let error = chosen(&[&range, &said, &range]).unwrap_err().to_string();
        assert!(error.contains(&format!("{first}-{third}/tcp")) && error.contains("80/tcp"), "{error}");
    }

    #[test]
    fn what_cannot_be_together_is_refused_and_so_is_too_much() {
        for texts in [
            &["80:80", "80:81"][..],
            &["80:80", "80:80"],
            &["1-9:1-9", "127.0.0.1:9:9"],
            &["127.0.0.1:80:80", "127.0.0.2:80:81"],
        ] {
            assert!(matches!(chosen(texts), Err(NetworkError::Twice(_))), "{texts:?}");
        }
        for texts in
            [&["80:80", "80:80/udp"][..], &["80:80", "81:80"], &["127.0.0.1:80:80", "127.0.0.2:80:80"]]
        {
            chosen(texts).unwrap();
        }
        let error = chosen(&["1-65535:1-65535", "1-65535:1-65535/udp"]).unwrap_err().to_string();
        assert!(error.contains("131070 ports") && error.contains("ulimit -Hn"), "{error}");
    }

    #[test]
    fn rows_are_folded_where_both_sides_go_up_together() {
        assert_eq!(
            shown(&["3:3", "1:1", "2:2", "1:1/udp", "127.0.0.1:9:4", "10:5", "12:6"]),
            "0.0.0.0:1-3->1-3/tcp, 0.0.0.0:10->5/tcp, 0.0.0.0:12->6/tcp, 127.0.0.1:9->4/tcp, 0.0.0.0:1->1/udp"
        );
        assert_eq!(folded(&[]), "");
    }

    #[test]
    fn ports_that_the_image_exposes_are_published_once() {
        let mut published = vec![parse_published("8080-8081:80-81").unwrap()];
        for exposed in ["443/tcp", "53/udp", "80", "80/tcp", "79-82/tcp"] {
            publish_exposed(&mut published, exposed).unwrap();
        }
        let ports = choose(&published).unwrap();
        let inside: Vec<_> = ports.iter().map(Published::inside).collect();
        assert_eq!(inside, ["80/tcp", "81/tcp", "443/tcp", "53/udp", "79/tcp", "82/tcp"]);
        for wrong in ["1:2", "", "80/sctp", "127.0.0.1::80"] {
            assert!(publish_exposed(&mut published, wrong).is_err(), "{wrong}");
        }
    }
}
