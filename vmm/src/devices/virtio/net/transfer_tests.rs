//! A whole TCP where a guest's would be, behind the card and the real passt or a real tap of the host: everything it receives
//! it sends back: 4 MiB, and 1 GiB in a full run. Where there is no passt, or no right to make a tap, the tests say so and pass.

use super::super::testing::{BUFFERS, Driver};
use super::{HEADER, Net};
use crate::runtime::network::{self, Wanted, parse_network, parse_published};
use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};
use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// The pair's queues.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Room for a frame and what is in front of it; the stack sends none that is longer.
const ROOM: u64 = 0x2400;
const FRAME: usize = 9014;
/// How many such there are for each direction.
const FRAMES: u64 = 64;
/// The guest's port.
const PORT: u16 = 80;

/// The card's driver, as the stack sees it.
struct Stack {
    driver: Driver,
    /// Where the buffer of a receive queue's descriptor is.
    receiving: HashMap<u16, u64>,
    sending: HashMap<u16, u64>,
    free: Vec<u64>,
    arrived: VecDeque<Vec<u8>>,
}

impl Stack {
    fn new(net: Net) -> Self {
        let driver = Driver::start(Box::new(net), 0);
        let free = (FRAMES..2 * FRAMES).map(|number| BUFFERS + number * ROOM).collect();
        let (receiving, sending, arrived) = Default::default();
        let mut stack = Self { driver, receiving, sending, free, arrived };
        (0..FRAMES).for_each(|number| stack.give(BUFFERS + number * ROOM));
        stack.driver.kick(RECEIVE as u32);
        stack
    }

    fn give(&mut self, buffer: u64) {
        let head = self.driver.add(RECEIVE, &[(buffer, ROOM as u32, true)]);
        self.receiving.insert(head, buffer);
    }

    /// Takes what has arrived, and the buffers of what has left.
    fn collect(&mut self) {
        assert!(!self.driver.needs_reset(), "{:?}", self.driver.transport.fault());
        for (head, _) in self.driver.used(TRANSMIT) {
            self.free.extend(self.sending.remove(&head));
        }
        let used = self.driver.used(RECEIVE);
        for (head, length) in &used {
            let buffer = self.receiving.remove(head).expect("a buffer that was given");
            let bytes = self.driver.get(buffer, *length as usize);
            self.arrived.push_back(bytes[HEADER..].to_vec());
            self.give(buffer);
        }
        if !used.is_empty() {
            self.driver.kick(RECEIVE as u32);
        }
    }

    fn send(&mut self, frame: &[u8]) {
        let buffer = self.free.pop().expect("a token is for one that is free");
        self.driver.put(buffer, &[0; HEADER]);
        self.driver.put(buffer + HEADER as u64, frame);
        let head = self.driver.add(TRANSMIT, &[(buffer, (HEADER + frame.len()) as u32, false)]);
        self.sending.insert(head, buffer);
        self.driver.kick(TRANSMIT as u32);
    }
}

struct Arrived(Vec<u8>);

impl phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Leaving<'a>(&'a mut Stack);

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, make: F) -> R {
        let mut frame = vec![0; length];
        let result = make(&mut frame);
        self.0.send(&frame);
        result
    }
}

impl phy::Device for Stack {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        self.collect();
        if self.free.is_empty() {
            return None;
        }
        let frame = self.arrived.pop_front()?;
        Some((Arrived(frame), Leaving(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        self.collect();
        (!self.free.is_empty()).then_some(Leaving(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

/// A frame that asks for the gateway's address, as every guest sends one sooner or later: by its answer there is somebody at
/// the other end, who knows the guest's address from then on.
fn question(mac: [u8; 6], address: Ipv4Addr, gateway: Ipv4Addr) -> Vec<u8> {
    let everybody = [0xff; 6];
    // ARP for IPv4 on Ethernet, a request (RFC 826).
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [&everybody[..], &mac, &head, &mac, &address.octets(), &[0; 6], &gateway.octets()].concat()
}

/// The guest: sends back what the first that connects to [`PORT`] sends, to the end. Says when it is there,
/// and stays until it is let go.
fn echo(net: Net, mac: [u8; 6], [address, gateway]: [Ipv4Addr; 2], there: &Sender<()>, may_go: &AtomicBool) {
    let mut stack = Stack::new(net);
    stack.send(&question(mac, address, gateway));
    while stack.arrived.is_empty() {
        stack.driver.reactor.turn(100).expect("the reactor turns");
        stack.collect();
    }
    there.send(()).expect("somebody waits");
    let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
    let mut interface = Interface::new(config, &mut stack, Instant::now());
    interface.update_ip_addrs(|addresses| {
        let own = Ipv4Address::from_octets(address.octets());
        addresses.push(IpCidr::new(own.into(), 24)).expect("room for one");
    });
    let gateway = Ipv4Address::from_octets(gateway.octets());
    interface.routes_mut().add_default_ipv4_route(gateway).expect("room for one");
    let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 20]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.listen(PORT).expect("a port");
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(socket);
    let mut piece = vec![0; 256 << 10];
    let mut is_connected = false;
    let until = std::time::Instant::now() + Duration::from_secs(600);
    loop {
        assert!(std::time::Instant::now() < until, "it does not end");
        interface.poll(Instant::now(), &mut stack, &mut sockets);
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        is_connected |= socket.may_recv();
        while socket.can_recv() && socket.can_send() {
            let room = (socket.send_capacity() - socket.send_queue()).min(piece.len());
            let length = socket.recv_slice(&mut piece[..room]).expect("what has arrived");
            assert_eq!(socket.send_slice(&piece[..length]), Ok(length));
        }
        if is_connected && !socket.may_recv() && socket.recv_queue() == 0 {
            socket.close();
        }
        if is_connected && !socket.is_active() && may_go.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let patience = interface.poll_delay(now, &sockets).map_or(10, |delay| delay.total_millis().min(10));
        // What has arrived is not taken where there is no room to answer it.
        let is_busy = !stack.arrived.is_empty() && !stack.free.is_empty();
        stack.driver.reactor.turn(if is_busy { 0 } else { patience as i32 }).expect("the reactor turns");
    }
}

/// The full or the small size of a demand.
fn size(small: u64, full: u64) -> u64 {
    if std::env::var_os("FERRY_TEST_FULL").is_some() { full } else { small }
}

/// Sends to the guest and receives from it at once; the sums of both.
fn sums(to: SocketAddr, bytes: u64) -> [Vec<u8>; 2] {
    let stream = TcpStream::connect(to).expect("the guest's port");
    let (mut sender, mut receiver) = (&stream, &stream);
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let (mut sum, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
            for number in 0..bytes >> 16 {
                for (at, word) in piece.chunks_exact_mut(8).enumerate() {
                    let mixed = (number << 13 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    word.copy_from_slice(&mixed.to_le_bytes());
                }
                sender.write_all(&piece).expect("the guest reads");
                sum.update(&piece);
            }
            sender.shutdown(std::net::Shutdown::Write).expect("a half");
            sum.finalize().to_vec()
        });
        let (mut sum, mut piece, mut received) = (Sha256::new(), vec![0; 1 << 16], 0);
        while let length @ 1.. = receiver.read(&mut piece).expect("the guest sends") {
            sum.update(&piece[..length]);
            received += length as u64;
        }
        assert_eq!(received, bytes);
        [sent.join().expect("the sender's sum"), sum.finalize().to_vec()]
    })
}

/// Moves it through the card of a network.
fn moves(wanted: &Wanted, [address, gateway]: [Ipv4Addr; 2], to: SocketAddr, bytes: u64) {
    let plan = network::plan(wanted, "0123456789abcdef", true).expect("a plan").expect("a network");
    let wire = network::wire(&plan).expect("a way there");
    let socket = wire.map(|wire| wire.serve().expect("a process that serves"));
    let card = network::open(&plan, socket, |line| panic!("{line}")).expect("a card");
    let (mac, mtu) = (card.mac, card.mtu);
    let net = Net::new(mac, mtu, card.ports, card.rates, card.on_lost).expect("a card");
    let began = std::time::Instant::now();
    let (there, is_there) = channel();
    let may_go = Arc::new(AtomicBool::new(false));
    let let_go = Arc::clone(&may_go);
    let guest = std::thread::spawn(move || echo(net, mac, [address, gateway], &there, &may_go));
    is_there.recv_timeout(Duration::from_secs(60)).expect("the other end answers the guest");
    let [sent, received] = sums(to, bytes);
    println!("{:?}", began.elapsed());
    assert_eq!(sent, received);
    let_go.store(true, Ordering::Relaxed);
    guest.join().expect("the guest ends");
}

#[test]
fn what_goes_through_passt_arrives_bit_for_bit() {
    if !network::passt_is_installed() {
        return println!("skipped: passt is not installed");
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let published = parse_published(&format!("{free}:{PORT}")).expect("a port");
    let link = parse_network("user").expect("a network");
    let wanted = Wanted { link, published: vec![published] };
    moves(&wanted, [Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2)], free, size(4 << 20, 1 << 30));
}

#[test]
fn what_goes_through_a_tap_arrives_bit_for_bit() {
    /// A tap of the host, with an address. It goes with this.
    struct Tap(String);

    impl Drop for Tap {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["link", "delete", &self.0]).status();
        }
    }
    let ip = |words: &[&str]| Command::new("ip").args(words).status().is_ok_and(|status| status.success());
    let tap = Tap(format!("ft{}", std::process::id()));
    if !ip(&["tuntap", "add", &tap.0, "mode", "tap", "vnet_hdr"]) {
        return println!("skipped: no tap can be made here");
    }
    let up = ["link", "set", tap.0.as_str(), "up", "mtu", "9000"];
    assert!(ip(&["address", "add", "10.78.0.1/24", "dev", &tap.0]) && ip(&up));
    let (guest, host) = (Ipv4Addr::new(10, 78, 0, 2), Ipv4Addr::new(10, 78, 0, 1));
    let link = format!("tap={},ip={guest}/24,gateway={host},mtu=9000", tap.0);
    let wanted = Wanted { link: parse_network(&link).expect("a network"), published: Vec::new() };
    moves(&wanted, [guest, host], SocketAddr::from((guest, PORT)), size(4 << 20, 1 << 30));
}
