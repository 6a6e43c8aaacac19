//! The sandbox's network: interfaces, addresses, routes and neighbours.
//!
//! Everything is checked before anything is changed, so a call that makes no sense changes nothing.

use core::net::IpAddr;

use linux_raw_sys::ioctl::{SIOCGIFHWADDR, SIOCGIFINDEX, SIOCGIFNAME};
use linux_raw_sys::net::net_device_flags::{IFF_NOARP, IFF_UP};
use linux_raw_sys::netlink as n;

use crate::api::guest::{Interfaces, Routes};
use crate::api::types::{self, ArpNeighbor, Interface, IpFamily};
use crate::netlink::address::{self, Hardware};
use crate::netlink::{Address, Link, Reply, Request, Route, kind, replies, text, word};
use crate::prelude::*;
use crate::sys::net;

/// The loopback interface's number, in every network namespace.
const LOOPBACK: u32 = 1;

/// Most bytes received at once. The kernel makes the pieces of a list as large as what receives them, and what it has to say
/// of one thing is far smaller.
const BUFFER: usize = 8 << 10;

/// Most messages of one answer.
const MESSAGE_LIMIT: usize = 4096;

/// Most entries that one call may set.
const ENTRY_LIMIT: usize = 1024;

const MAIN_TABLE: u32 = n::rt_class_t::RT_TABLE_MAIN as u32;
const UP: u32 = IFF_UP as u32;
const NO_ARP: u32 = IFF_NOARP as u32;

/// Brings the loopback interface up, which gives it its addresses.
pub fn loopback_up() -> SysResult<()> {
    Kernel::open()?.tell(Request::set_link(LOOPBACK, UP, UP))
}

/// The kernel's end of rtnetlink. It answers before the request returns, so nothing here waits.
struct Kernel {
    socket: Fd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Kernel {
    fn open() -> SysResult<Kernel> {
        Ok(Kernel { socket: net::rtnetlink()?, sequence: 0, buffer: vec![0; BUFFER] })
    }

    fn ask(&mut self, request: Request, each: &mut dyn FnMut(u16, &[u8])) -> SysResult<()> {
        self.sequence += 1;
        net::send(&self.socket, &request.finish(self.sequence))?;
        for _ in 0..MESSAGE_LIMIT {
            for reply in replies(net::receive(&self.socket, &mut self.buffer)?, self.sequence) {
                match reply {
                    Reply::Message(kind, body) => each(kind, body),
                    Reply::Done(0) => return Ok(()),
                    Reply::Done(errno) => return Err(Errno::new(errno)),
                }
            }
        }
        Err(Errno::EOVERFLOW)
    }

    fn tell(&mut self, request: Request) -> SysResult<()> {
        self.ask(request, &mut |_, _| {})
    }

    /// What of a kind the answers to a request say.
    fn list<T>(
        &mut self,
        request: Request,
        of_kind: u16,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut list = Vec::new();
        self.ask(request, &mut |kind, body| list.extend(parse(body).filter(|_| kind == of_kind)))
            .context("read the network's state")?;
        Ok(list)
    }

    /// The number of the interface of this name.
    fn index(&self, name: &str) -> Result<u32> {
        let said = net::about_interface(&self.socket, SIOCGIFINDEX, name, 0).ok();
        let number = said.and_then(|said| word(&said, net::NAME_LENGTH));
        number.ok_or_else(|| fault!(InvalidArgument, "no network interface `{name}`"))
    }

    /// The name of the interface of this number.
    fn name(&self, index: u32) -> String {
        let said = net::about_interface(&self.socket, SIOCGIFNAME, "", index);
        said.map(|said| text(&said[..net::NAME_LENGTH])).unwrap_or_default()
    }

    /// The link of this hardware address, or of this name where that is nothing.
    fn link(&mut self, name: &str, hardware: &str) -> Result<Link> {
        let wanted = if hardware.is_empty() { None } else { Some(Hardware::parse(hardware)?) };
        // Mostly both are of one link, and not all need be listed. An address has its family before it.
        let has = net::about_interface(&self.socket, SIOCGIFHWADDR, name, 0).unwrap_or([0; _]);
        if wanted.is_none_or(|wanted| has[net::NAME_LENGTH + 2..].starts_with(&wanted.0)) {
            return Ok(Link { index: self.index(name)?, name: name.into(), ..Link::default() });
        }
        let links = self.list(Request::get_links(), kind!(RTM_NEWLINK), Link::parse)?;
        let found = links.into_iter().find(|link| link.address == wanted);
        found.ok_or_else(|| fault!(InvalidArgument, "no network interface has the address {hardware}"))
    }

    /// The addresses of the link of this index, or all of them for 0.
    fn addresses(&mut self, link: u32) -> Result<Vec<Address>> {
        let [a, b, c, d] = link.to_le_bytes();
        let all = Request::dump(kind!(RTM_GETADDR), &[0, 0, 0, 0, a, b, c, d]);
        self.list(all, kind!(RTM_NEWADDR), Address::parse)
    }

    /// Routes that packets to others take: those of the main table.
    fn routes(&mut self) -> Result<Vec<Route>> {
        // struct rtmsg: these two alone are asked for.
        let all = [0, 0, 0, 0, MAIN_TABLE as u8, 0, 0, n::RTN_UNICAST as u8, 0, 0, 0, 0];
        let all = Request::dump(kind!(RTM_GETROUTE), &all);
        let mut routes = self.list(all, kind!(RTM_NEWROUTE), Route::parse)?;
        routes.retain(|route| route.table == MAIN_TABLE && u32::from(route.kind) == n::RTN_UNICAST as u32);
        Ok(routes)
    }

    /// The same: those that come with addresses, and those that somebody has set.
    fn routes_by_origin(&mut self) -> Result<(Vec<Route>, Vec<Route>)> {
        let is_kernels = |route: &Route| u32::from(route.protocol) == n::RTPROT_KERNEL;
        self.routes().map(|routes| routes.into_iter().partition(is_kernels))
    }

    fn exchange_routes(&mut self, old: &[Route], new: &[Route]) -> Result {
        for route in old {
            self.tell(Request::delete_route(route)).context("remove a route")?;
        }
        // A gateway must be reachable when the route over it is made.
        for is_beyond in [false, true] {
            for route in new.iter().filter(|route| route.gateway.is_some() == is_beyond) {
                self.tell(Request::add_route(route)).map_err(|errno| {
                    let (to, by) = (destination(route), address::text(route.gateway));
                    Fault::system(&format_args!("add the route to `{to}` by `{by}`"), errno)
                })?;
            }
        }
        Ok(())
    }
}

/// A route's destination as the API has it: nothing for everywhere.
fn destination(route: &Route) -> String {
    route.destination.map(|address| format!("{address}/{}", route.prefix)).unwrap_or_default()
}

fn kernel() -> Result<Kernel> {
    Kernel::open().context("open an rtnetlink socket")
}

/// A family as the API has it.
fn family(is_ipv4: bool) -> i32 {
    if is_ipv4 { IpFamily::V4 } else { IpFamily::V6 }.into()
}

fn limit<T>(entries: &[T]) -> Result<&[T]> {
    let is_long = entries.len() > ENTRY_LIMIT;
    refuse_if!(is_long, InvalidArgument, "at most {ENTRY_LIMIT} entries can be set at once");
    Ok(entries)
}

/// Gives an interface its name, addresses and MTU, and brings it up. Addresses that it had go.
pub fn update_interface(wanted: &Interface) -> Result {
    let mut kernel = kernel()?;
    let name = if wanted.device.is_empty() { &wanted.name } else { &wanted.device };
    let link = kernel.link(name, &wanted.hw_addr)?;
    let mut addresses = Vec::new();
    for each in limit(&wanted.ip_addresses)? {
        let address = address::parse(&each.address)?;
        let prefix = address::parse_prefix(&each.mask, &address)?;
        addresses.push(Address { link: link.index, address, prefix });
    }
    let mtu = u32::try_from(wanted.mtu).map_err(|_| fault!(InvalidArgument, "an MTU is below 4 GiB"))?;
    let doing = format_args!("configure the network interface {}", link.name);
    let mut change = Request::set_link(link.index, UP | wanted.raw_flags & NO_ARP, UP | NO_ARP);
    if !name.is_empty() && *name != link.name {
        // One that is up keeps its name.
        if link.flags & UP != 0 {
            kernel.tell(Request::set_link(link.index, 0, UP)).context(doing)?;
        }
        change = change.with_name(name);
    }
    if mtu != 0 {
        change = change.with_mtu(mtu);
    }
    kernel.tell(change).context(doing)?;
    for old in kernel.addresses(link.index)? {
        // Link-local addresses are the kernel's.
        let is_kernels = matches!(old.address, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if old.link == link.index && !is_kernels && !addresses.contains(&old) {
            kernel.tell(Request::delete_address(&old)).context(doing)?;
        }
    }
    for new in &addresses {
        let doing = format_args!("give {} the address {}/{}", link.name, new.address, new.prefix);
        kernel.tell(Request::add_address(new)).context(doing)?;
    }
    Ok(())
}

fn describe(link: &Link, addresses: &[Address]) -> Interface {
    let of_link = addresses.iter().filter(|address| address.link == link.index);
    Interface {
        device: link.name.clone(),
        name: link.name.clone(),
        ip_addresses: of_link
            .map(|Address { address, prefix, .. }| types::IpAddress {
                family: family(address.is_ipv4()),
                address: format!("{address}"),
                mask: format!("{prefix}"),
            })
            .collect(),
        mtu: link.mtu.into(),
        hw_addr: link.address.map(|address| format!("{address}")).unwrap_or_default(),
        device_path: String::new(),
        r#type: link.kind.clone(),
        raw_flags: link.flags,
    }
}

/// Every interface.
pub fn list_interfaces() -> Result<Interfaces> {
    let mut kernel = kernel()?;
    let links = kernel.list(Request::get_links(), kind!(RTM_NEWLINK), Link::parse)?;
    let addresses = kernel.addresses(0)?;
    Ok(Interfaces { interfaces: links.iter().map(|link| describe(link, &addresses)).collect() })
}

/// Replaces the routes, but for those that come with an interface's addresses. When the kernel refuses one, those that
/// were there are there again.
pub fn update_routes(wanted: &[types::Route]) -> Result<Routes> {
    let mut kernel = kernel()?;
    let mut new = Vec::new();
    for route in limit(wanted)? {
        new.push(parse(route, &kernel)?);
    }
    let (kept, old) = kernel.routes_by_origin()?;
    if let Err(fault) = kernel.exchange_routes(&old, &new) {
        let (_, left) = kernel.routes_by_origin()?;
        kernel
            .exchange_routes(&left, &old)
            .map_err(|again| again.while_doing(format_args!("{}", fault.message)))?;
        return Err(fault);
    }
    Ok(describe_routes(&[kept, new].concat(), &kernel))
}

fn unless_empty<T>(text: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn parse(route: &types::Route, kernel: &Kernel) -> Result<Route> {
    let destination = unless_empty(&route.dest, address::parse_network)?;
    let gateway = unless_empty(&route.gateway, address::parse)?;
    let source = unless_empty(&route.source, address::parse)?;
    let addresses = [destination.map(|(address, _)| address), gateway, source];
    let mut families = addresses.into_iter().flatten().map(|address| address::family(&address));
    let Some(family) = families.next() else {
        return Err(fault!(InvalidArgument, "a route needs a destination or a gateway"));
    };
    refuse_if!(families.any(|other| other != family), InvalidArgument, "a route is of IPv4 or of IPv6");
    let scope =
        u8::try_from(route.scope).map_err(|_| fault!(InvalidArgument, "a route's scope is 0 to 255"))?;
    // What is not beyond a gateway is on the link, as ip-route(8) has it.
    let on_link = gateway.is_none() && scope == 0 && u32::from(family) == linux_raw_sys::net::AF_INET;
    Ok(Route {
        family,
        destination: destination.filter(|(_, prefix)| *prefix != 0).map(|(address, _)| address),
        prefix: destination.map_or(0, |(_, prefix)| prefix),
        gateway,
        source,
        link: if route.device.is_empty() { 0 } else { kernel.index(&route.device)? },
        table: MAIN_TABLE,
        protocol: n::RTPROT_BOOT as u8,
        scope: if on_link { n::rt_scope_t::RT_SCOPE_LINK as u8 } else { scope },
        kind: n::RTN_UNICAST as u8,
        flags: route.flags & n::RTNH_F_ONLINK,
        ..Route::default()
    })
}

/// Every route of the main table.
pub fn list_routes() -> Result<Routes> {
    let mut kernel = kernel()?;
    Ok(describe_routes(&kernel.routes()?, &kernel))
}

fn describe_routes(routes: &[Route], kernel: &Kernel) -> Routes {
    let describe = |route: &Route| types::Route {
        dest: destination(route),
        gateway: address::text(route.gateway),
        device: kernel.name(route.link),
        source: address::text(route.source),
        scope: route.scope.into(),
        family: family(u32::from(route.family) == linux_raw_sys::net::AF_INET),
        flags: route.flags,
    };
    Routes { routes: routes.iter().map(describe).collect() }
}

/// Adds entries to the neighbour tables.
pub fn add_neighbors(neighbors: &[ArpNeighbor]) -> Result {
    let mut kernel = kernel()?;
    let mut requests = Vec::new();
    for ArpNeighbor { to_ip_address, device, lladdr, state, flags } in limit(neighbors)? {
        let address = address::parse(to_ip_address.as_ref().map_or("", |address| &address.address))?;
        let state = if *state == 0 { n::NUD_PERMANENT as i32 } else { *state };
        let state =
            u16::try_from(state).map_err(|_| fault!(InvalidArgument, "a neighbour's state is 0 to 65535"))?;
        let flags =
            u8::try_from(*flags).map_err(|_| fault!(InvalidArgument, "a neighbour's flags are 0 to 255"))?;
        let link = kernel.index(device)?;
        requests.push(Request::add_neighbor(link, address, Hardware::parse(lladdr)?, state, flags));
    }
    requests.into_iter().try_for_each(|request| kernel.tell(request)).context("add a neighbour")
}
