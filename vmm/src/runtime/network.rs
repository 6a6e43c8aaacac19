//! A guest's network as users ask for it: `passt` without privileges, a tap with rights, or none.
//!
//! A [`Wanted`] becomes a [`Plan`], from which the machine gets its card ([`wire`], [`open`]) and the guest its addresses
//! ([`Plan::guest`]). What a guest may send at all is the frame path's to decide ([`crate::backends::net::filter`]).

mod inspect;
mod options;
mod published;
mod user;

pub use options::parse_network;
pub use published::{Ports, Protocol, Publish, Published, folded, parse_published, publish_exposed};
pub use user::is_installed as passt_is_installed;

use crate::agent::network::GuestNetwork;
use crate::backends::net::rate::Rates;
use crate::backends::net::{Passt, Port, Tap};
use crate::devices::virtio::net::MAX_MTU;
use crate::machine::NetworkConfig;
use ferry_init::api::types::{Interface, IpAddress, IpFamily, Route};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The kind of network.
    pub link: Link,
    /// Ports of the host that lead into the guest.
    pub published: Vec<Publish>,
}

/// A kind of network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Link {
    /// `passt` where it is installed, and otherwise none with a line that says so.
    #[default]
    Usual,
    /// None at all.
    Nothing,
    /// `passt`, held to these rates.
    User(Rates),
    /// A tap of the host.
    Tap(TapOptions),
}

/// A tap of the host, and what the guest is told of the network behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapOptions {
    /// Its name.
    pub name: String,
    /// The guest's address and the length of its network's prefix; none: the guest sees to itself.
    pub address: Option<(IpAddr, u8)>,
    /// The way out.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// The network's MTU.
    pub mtu: u16,
    /// Pairs of queues.
    pub queues: usize,
    /// How fast frames may pass.
    pub rates: Rates,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// `passt` is not there.
    #[error(
        "--network user and -p need passt, which is not installed: install it, or use --network none or tap=NAME"
    )]
    NoPasst,
    /// Ports are published without the network that does it.
    #[error("-p needs --network user: {0}")]
    Unpublishable(&'static str),
    /// No port of the host's is free.
    #[error("-p: no port of the host is free: {0}")]
    NoPort(std::io::Error),
    /// No port of a range is.
    #[error(
        "-p: none of the ports {host} of the host is free for {guest}: stop who has them (ss -lnp), or name others"
    )]
    NoneOf {
        /// The range, with its protocol.
        host: String,
        /// The guest's port.
        guest: String,
    },
    /// A port that is to lead to two.
    #[error("-p: the port {0} of the host is given twice, and leads to one place only")]
    Twice(String),
    /// More than the network takes.
    #[error(
        "-p: {count} ports are too many: passt opens a socket for each, and {most} can be published here (at most 16384, \
         and half of the files a process may have open, which ulimit -Hn says: {limit})"
    )]
    TooMany {
        /// How many were asked for.
        count: u64,
        /// How many there can be.
        most: u64,
        /// How many files a process may have open.
        limit: u64,
    },
    /// The machine is of a kind that has none.
    #[error("this kind of machine has no network of ferry's: leave --network and -p out")]
    Unsupported,
    /// `passt` did not start.
    #[error("passt did not start: {0}")]
    Passt(String),
    /// The socket to `passt` cannot be used.
    #[error("passt's socket cannot be used: {0}")]
    Socket(std::io::Error),
    /// The tap cannot be used.
    #[error(transparent)]
    Tap(#[from] crate::backends::net::TapError),
}

/// A network that will be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The card's address.
    pub mac: [u8; 6],
    way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    User {
        published: Vec<Published>,
        rates: Rates,
        /// Whether the host has a way out by IPv6, and so the guest.
        six: bool,
    },
    Tap(TapOptions),
}

/// What the guest calls its card.
const DEVICE: &str = "eth0";

/// Makes a plan of what is wanted, for the container `id`; `able` tells whether the machine can have a network at all.
pub fn plan(wanted: &Wanted, id: &str, able: bool) -> Result<Option<Plan>, NetworkError> {
    let published = &wanted.published;
    let way = match &wanted.link {
        Link::Nothing if !published.is_empty() => {
            return Err(NetworkError::Unpublishable("with --network none nothing reaches the guest"));
        }
        Link::Tap(_) if !published.is_empty() => {
            return Err(NetworkError::Unpublishable("the guest behind a tap is reached at its own address"));
        }
        Link::Nothing => return Ok(None),
        Link::Usual if !able && published.is_empty() => return Ok(None),
        _ if !able => return Err(NetworkError::Unsupported),
        Link::Usual if published.is_empty() && !user::is_installed() => {
            tracing::warn!(
                "passt is not installed, so the container has no network (--network none says so)"
            );
            return Ok(None);
        }
        Link::Usual | Link::User(_) if !user::is_installed() => return Err(NetworkError::NoPasst),
        Link::Usual => user_way(published, Rates::default())?,
        Link::User(rates) => user_way(published, *rates)?,
        Link::Tap(options) => Way::Tap(options.clone()),
    };
    Ok(Some(Plan { mac: mac(id), way }))
}

fn user_way(published: &[Publish], rates: Rates) -> Result<Way, NetworkError> {
    Ok(Way::User { published: published::choose(published)?, rates, six: user::host_has_ipv6() })
}

/// A locally administered address out of an id's hexadecimal digits.
fn mac(id: &str) -> [u8; 6] {
    let digit =
        |at: usize| id.as_bytes().get(at).and_then(|byte| char::from(*byte).to_digit(16)).unwrap_or(0) as u8;
    let mut mac = [2; 6];
    for (number, byte) in mac.iter_mut().enumerate().skip(1) {
        *byte = digit(2 * number) << 4 | digit(2 * number + 1);
    }
    mac
}

/// What leads from a card to a process at its other end, which there need not be yet: what is sent waits for it.
#[derive(Debug)]
pub struct Wire<'a> {
    published: &'a [Published],
    six: bool,
    near: UnixStream,
    far: UnixStream,
}

impl<'a> Wire<'a> {
    fn new(published: &'a [Published], six: bool) -> Result<Self, NetworkError> {
        let (near, far) = user::ends()?;
        Ok(Self { published, six, near, far })
    }

    /// The card's end.
    pub fn near(&self) -> BorrowedFd<'_> {
        self.near.as_fd()
    }

    /// Starts the process, which ends with its socket, and waits until it serves. The card's end.
    pub fn serve(self) -> Result<UnixStream, NetworkError> {
        user::start(self.far, self.published, self.six)?;
        Ok(self.near)
    }
}

/// Makes what leads to the process that the plan takes at the other end of the card, if it takes one.
pub fn wire(plan: &Plan) -> Result<Option<Wire<'_>>, NetworkError> {
    match &plan.way {
        Way::User { published, six, .. } => Wire::new(published, *six).map(Some),
        Way::Tap(_) => Ok(None),
    }
}

/// Makes a card: at its end of the [`wire`], or attached to the tap. `on_lost` is told, in a
/// line for people, when the other end is gone while the guest runs.
pub fn open(
    plan: &Plan,
    socket: Option<UnixStream>,
    on_lost: impl FnOnce(String) + Send + 'static,
) -> Result<NetworkConfig, NetworkError> {
    let (what, mtu, rates, ports): (_, _, _, Vec<Box<dyn Port>>) = match &plan.way {
        Way::User { rates, .. } => {
            let socket =
                socket.ok_or_else(|| NetworkError::Socket(std::io::ErrorKind::NotConnected.into()))?;
            let passt = Passt::new(socket).map_err(NetworkError::Socket)?;
            ("passt".to_owned(), MAX_MTU, *rates, vec![Box::new(passt)])
        }
        Way::Tap(options) => {
            let taps = Tap::open(&options.name, options.queues)?;
            let ports = taps.into_iter().map(|tap| Box::new(tap) as Box<dyn Port>).collect();
            (format!("the tap {}", options.name), options.mtu, options.rates, ports)
        }
    };
    let on_lost =
        move |error| on_lost(format!("{what} is gone ({error}): the container goes on without a network"));
    Ok(NetworkConfig { mac: plan.mac, mtu, ports, rates, on_lost: Box::new(on_lost) })
}

/// The card's other end, for a machine that makes its card itself.
#[derive(Debug)]
pub enum OtherEnd {
    /// Frames with their lengths (32 bits, big-endian) in front: `passt` serves it, and ends with it.
    Stream(UnixStream),
    /// The host's tap of this name.
    Tap(String),
}

/// Makes the other end as [`open`] does, without ferry's own frame path.
pub fn other_end(plan: &Plan) -> Result<OtherEnd, NetworkError> {
    match &plan.way {
        Way::User { published, six, .. } => Wire::new(published, *six)?.serve().map(OtherEnd::Stream),
        Way::Tap(options) => Ok(OtherEnd::Tap(options.name.clone())),
    }
}

impl Plan {
    /// What the guest is told.
    pub fn guest(&self) -> GuestNetwork {
        let Network { addresses, gateways, dns, mtu } = self.network();
        let hex: Vec<_> = self.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let interface = Interface {
            device: DEVICE.to_owned(),
            name: DEVICE.to_owned(),
            ip_addresses: addresses.iter().map(|(address, prefix)| ip_address(*address, *prefix)).collect(),
            mtu: mtu.into(),
            hw_addr: hex.join(":"),
            ..Interface::default()
        };
        let routes = gateways.iter().map(|gateway| Route {
            gateway: gateway.to_string(),
            device: DEVICE.to_owned(),
            family: family(*gateway),
            ..Route::default()
        });
        GuestNetwork { interface, routes: routes.collect(), dns: dns.iter().map(IpAddr::to_string).collect() }
    }

    /// Ports of the host that lead to the guest's.
    pub fn published(&self) -> &[Published] {
        match &self.way {
            Way::User { published, .. } => published,
            Way::Tap(_) => &[],
        }
    }

    /// The host as the guest reaches it. Behind `passt` no address leads to it.
    pub fn host(&self) -> Option<IpAddr> {
        match &self.way {
            Way::User { .. } => None,
            Way::Tap(options) => options.gateway,
        }
    }

    fn network(&self) -> Network {
        match &self.way {
            Way::User { six, .. } => user::network(*six),
            Way::Tap(options) => Network {
                addresses: options.address.into_iter().collect(),
                gateways: options.gateway.into_iter().collect(),
                dns: options.dns.clone(),
                mtu: options.mtu,
            },
        }
    }
}

/// What a guest is told of its network.
struct Network {
    /// Its addresses, with the lengths of their networks' prefixes.
    addresses: Vec<(IpAddr, u8)>,
    /// The ways out.
    gateways: Vec<IpAddr>,
    /// Name servers.
    dns: Vec<IpAddr>,
    mtu: u16,
}

fn family(address: IpAddr) -> i32 {
    let family = if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
    family.into()
}

fn ip_address(address: IpAddr, prefix: u8) -> IpAddress {
    IpAddress { family: family(address), address: address.to_string(), mask: prefix.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap() -> TapOptions {
        match parse_network("tap=tap0,ip=192.0.2.7/24,gateway=192.0.2.1,dns=192.0.2.53").unwrap() {
            Link::Tap(options) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tells_the_guest_of_the_network_behind_a_tap() {
        let wanted = Wanted { link: Link::Tap(tap()), published: Vec::new() };
        let plan = plan(&wanted, "00a1b2c3d4e5f6", true).unwrap().unwrap();
        assert_eq!(plan.mac, [2, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5]);
        let guest = plan.guest();
        assert_eq!(guest.interface.hw_addr, "02:a1:b2:c3:d4:e5");
        let address = &guest.interface.ip_addresses[0];
        assert_eq!((address.address.as_str(), address.mask.as_str()), ("192.0.2.7", "24"));
        assert_eq!(guest.routes[0].gateway, "192.0.2.1");
        assert_eq!(guest.dns, ["192.0.2.53"]);
    }

    #[test]
    fn ports_are_published_by_the_network_that_can() {
        let published = vec![parse_published("8080:80").unwrap()];
        for link in [Link::Nothing, Link::Tap(tap())] {
            let error = plan(&Wanted { link, published: published.clone() }, "", true).unwrap_err();
            assert!(error.to_string().starts_with("-p needs --network user: "), "{error}");
        }
        let error = plan(&Wanted { published, ..Wanted::default() }, "", false).unwrap_err();
        assert!(matches!(error, NetworkError::Unsupported), "{error}");
    }

    #[test]
    fn a_machine_that_can_have_none_has_none_unless_asked() {
        assert_eq!(plan(&Wanted::default(), "", false).unwrap(), None);
        assert_eq!(plan(&Wanted { link: Link::Nothing, ..Wanted::default() }, "", true).unwrap(), None);
        assert!(
            plan(&Wanted { link: Link::User(Rates::default()), ..Wanted::default() }, "", false).is_err()
        );
    }
}
