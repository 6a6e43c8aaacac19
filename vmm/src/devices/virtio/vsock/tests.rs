//! The device between a guest made of packets and real Unix sockets.

use super::super::testing::{BUFFERS, Driver};
use super::packet::{NO_RECEIVE, NO_SEND, NOTHING_MORE};
use super::*;
use proptest::prelude::*;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

const CID: u64 = 3;
/// What the guest can hold of a connection.
const GUEST_BUFFER: u32 = 8192;
/// Room for a packet to the guest, its header included.
const ROOM: u32 = 1024;
/// Where the guest's own packets are put together.
const OUTGOING: u64 = BUFFERS + 0x10_0000;

struct Guest {
    directory: tempfile::TempDir,
    driver: Driver,
    /// Bytes consumed of the only connection.
    forwarded: u32,
}

impl Guest {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = Vsock::new(CID, directory.path().join("vsock")).unwrap();
        Self { driver: Driver::start(Box::new(device), u64::MAX), directory, forwarded: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Gives the device `count` more buffers, unless it has plenty.
    fn buffers(&mut self, count: u16) {
        for _ in 0..count {
            if self.driver.pending(RECEIVE) >= 64 {
                break;
            }
            let number = u64::from(self.driver.next_descriptor(RECEIVE));
            self.driver.add(RECEIVE, &[(BUFFERS + number * u64::from(ROOM), ROOM, true)]);
        }
        self.driver.kick(RECEIVE as u32);
    }

    fn header(&self, operation: Operation, ports: Ports) -> Header {
        Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: ports.guest,
            destination_port: ports.host,
            kind: STREAM,
            operation: operation as u16,
            buffer_size: GUEST_BUFFER,
            forwarded: self.forwarded,
            ..Header::default()
        }
    }

    fn send_raw(&mut self, header: Header, data: &[u8]) {
        self.driver.put(OUTGOING, header.as_slice());
        self.driver.put(OUTGOING + 64, data);
        let mut buffers = vec![(OUTGOING, HEADER as u32, false)];
        if !data.is_empty() {
            buffers.push((OUTGOING + 64, data.len() as u32, false));
        }
        self.driver.add(TRANSMIT, &buffers);
        self.driver.kick(TRANSMIT as u32);
    }

    fn send(&mut self, operation: Operation, ports: Ports) {
        self.send_raw(self.header(operation, ports), &[]);
    }

    fn send_data(&mut self, ports: Ports, data: &[u8]) {
        let header = Header { length: data.len() as u32, ..self.header(Operation::Data, ports) };
        self.send_raw(header, data);
    }

    fn shut_down(&mut self, ports: Ports, flags: u32) {
        self.send_raw(Header { flags, ..self.header(Operation::Shutdown, ports) }, &[]);
    }

    /// Lets the device work and takes what it has sent.
    fn take(&mut self) -> Vec<(Operation, Header, Vec<u8>)> {
        for _ in 0..4 {
            self.driver.work();
        }
        assert!(!self.driver.needs_reset(), "{:?}", self.driver.transport.fault());
        let mut packets = Vec::new();
        for (head, written) in self.driver.used(RECEIVE) {
            let bytes = self.driver.get(BUFFERS + u64::from(head) * u64::from(ROOM), written as usize);
            let header = *Header::from_slice(&bytes[..HEADER]).unwrap();
            assert_eq!({ header.length } as usize, bytes.len() - HEADER);
            assert_eq!({ header.destination_cid }, CID);
            packets.push((Operation::parse(header.operation).unwrap(), header, bytes[HEADER..].to_vec()));
        }
        packets
    }

    fn operations(&mut self) -> Vec<Operation> {
        self.take().into_iter().map(|(operation, ..)| operation).collect()
    }

    /// A connection that a host program has made to the guest's port 1024.
    fn connected(&mut self) -> (UnixStream, Ports) {
        let mut stream = UnixStream::connect(self.path("vsock")).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(b"CONNECT 1024\n").unwrap();
        self.buffers(4);
        let packets = self.take();
        let [(Operation::Request, header, _)] = &packets[..] else { panic!("{packets:?}") };
        let ports = Ports { guest: header.destination_port, host: header.source_port };
        assert_eq!(ports.guest, 1024);
        self.send(Operation::Response, ports);
        let mut answer = [0; 64];
        let count = stream.read(&mut answer).unwrap();
        assert_eq!(answer[..count], *format!("OK {}\n", ports.host).as_bytes());
        self.take();
        (stream, ports)
    }
}

fn read_all(stream: &mut UnixStream) -> (Vec<u8>, bool) {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (all, true),
            Ok(count) => all.extend(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (all, false),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_host_program_reaches_the_guest_and_back() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.connected();
    stream.write_all(b"to the guest").unwrap();
    let packets = guest.take();
    assert_eq!(packets.iter().map(|(_, _, data)| &data[..]).collect::<Vec<_>>().concat(), b"to the guest");
    guest.send_data(ports, b"to the host");
    assert_eq!(read_all(&mut stream), (b"to the host".to_vec(), false));
}

#[test]
fn data_of_one_kick_arrives_in_order_whoseever_it_is() {
    let mut guest = Guest::new();
    let (mut one, ports_of_one) = guest.connected();
    let (mut other, ports_of_other) = guest.connected();
    let mut wanted = [Vec::new(), Vec::new()];
    // More than a socket takes, and less than there is credit for.
    for round in 0..6u8 {
        for number in 0..60u8 {
            let which = usize::from(number % 7 == 3);
            let ports = [ports_of_one, ports_of_other][which];
            let data = vec![round ^ number; usize::from(number % 5) * 400];
            let at = OUTGOING + u64::from(number) * 2048;
            let header = Header { length: data.len() as u32, ..guest.header(Operation::Data, ports) };
            guest.driver.put(at, header.as_slice());
            guest.driver.put(at + HEADER as u64, &data);
            guest.driver.add(TRANSMIT, &[(at, (HEADER + data.len()) as u32, false)]);
            wanted[which].extend(data);
        }
        guest.driver.kick(TRANSMIT as u32);
        assert_eq!(guest.driver.used(TRANSMIT).len(), 60 + usize::from(round == 0) * 2);
        // What has been given back is the guest's to write to.
        guest.driver.put(OUTGOING, &[0xff; 60 * 2048]);
    }
    guest.shut_down(ports_of_one, NO_SEND);
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..100 {
        for (stream, found) in [&mut one, &mut other].into_iter().zip(&mut found) {
            found.extend(read_all(stream).0);
        }
        guest.take();
    }
    assert!(found == wanted, "{:?} of {:?} bytes", found.map(|all| all.len()), wanted.map(|all| all.len()));
}

#[test]
fn what_follows_the_greeting_at_once_is_the_guests() {
    let mut guest = Guest::new();
    let mut stream = UnixStream::connect(guest.path("vsock")).unwrap();
    stream.write_all(b"CONNECT 7\nearly").unwrap();
    guest.buffers(4);
    let packets = guest.take();
    let ports = Ports { guest: 7, host: packets[0].1.source_port };
    assert_eq!(packets.len(), 1);
    guest.send(Operation::Response, ports);
    assert_eq!(guest.take().pop().unwrap().2, b"early");
}

#[test]
fn nobody_but_its_owner_reaches_the_guest_whatever_the_modes_say() {
    let mut guest = Guest::new();
    let path = guest.path("vsock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for (path, mode) in [(guest.directory.path(), 0o755), (&path, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    guest.buffers(8);
    let Some(mut stranger) = unix::connect_as_a_stranger(&path) else { return };
    stranger.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    // It is hung up on, perhaps before it has said anything.
    let _ = stranger.write_all(b"CONNECT 5\n");
    guest.driver.work();
    guest.driver.work();
    match stranger.read(&mut [0; 1]) {
        Ok(read) => assert_eq!(read, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(guest.driver.used(RECEIVE).is_empty(), "the guest hears nothing of it");
}

#[test]
fn a_wrong_greeting_ends_the_connection() {
    for greeting in ["HELLO\n", "CONNECT\n", "CONNECT x\n", "CONNECT 99999999999\n", &"x".repeat(100)] {
        let mut guest = Guest::new();
        let mut stream = UnixStream::connect(guest.path("vsock")).unwrap();
        stream.write_all(greeting.as_bytes()).unwrap();
        guest.buffers(1);
        assert!(guest.take().is_empty());
        let end = stream.read(&mut [0]);
        assert!(matches!(&end, Ok(0)) || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_guest_that_does_not_listen_closes_the_host_programs_connection() {
    let mut guest = Guest::new();
    let mut stream = UnixStream::connect(guest.path("vsock")).unwrap();
    stream.write_all(b"CONNECT 9\n").unwrap();
    guest.buffers(1);
    let ports = Ports { guest: 9, host: guest.take()[0].1.source_port };
    guest.send(Operation::Reset, ports);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_guest_reaches_a_host_program() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(guest.path("vsock_5000")).unwrap();
    let ports = Ports { guest: 77, host: 5000 };
    guest.buffers(4);
    guest.send(Operation::Request, ports);
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(guest.operations()[0], Operation::Response);
    guest.send_data(ports, b"hello");
    let mut text = [0; 5];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}

#[test]
fn refuses_a_guest_where_nobody_listens() {
    let mut guest = Guest::new();
    guest.buffers(4);
    guest.send(Operation::Request, Ports { guest: 77, host: 5000 });
    let packets = guest.take();
    assert_eq!(packets[0].0, Operation::Reset);
    assert_eq!({ packets[0].1.destination_port }, 77);
}

#[test]
fn sends_no_more_than_the_guest_can_hold() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.connected();
    stream.write_all(&vec![5; 3 * GUEST_BUFFER as usize]).unwrap();
    let mut received = 0;
    for _ in 0..10 {
        guest.buffers(8);
        received += guest.take().iter().map(|(_, _, data)| data.len() as u32).sum::<u32>();
    }
    assert_eq!(received, GUEST_BUFFER);
    guest.forwarded = 100;
    guest.send(Operation::CreditUpdate, ports);
    let more: u32 = guest.take().iter().map(|(_, _, data)| data.len() as u32).sum();
    assert_eq!(more, 100);
}

#[test]
fn keeps_what_the_host_does_not_read_yet_and_refuses_more_than_its_buffer() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.connected();
    let piece: Vec<u8> = (0..16384u32).map(|n| (n % 251) as u8).collect();
    let mut sent = Vec::new();
    // A socket takes some hundreds of kilobytes itself; then the backlog fills until the guest breaks its credit.
    let refused = (0..200).any(|_| {
        guest.send_data(ports, &piece);
        guest.buffers(2);
        let refused = guest.operations().contains(&Operation::Reset);
        if !refused {
            sent.extend(&piece);
        }
        refused
    });
    assert!(refused, "took everything");
    let (read, ended) = read_all(&mut stream);
    assert!(ended && sent.starts_with(&read));

    // The same within the limits: everything arrives, and the guest hears that there is room again.
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.connected();
    let (mut sent, mut forwarded, mut received) = (0u32, 0, Vec::new());
    let mut expected: Vec<u8> = Vec::new();
    while sent < 4 << 20 {
        if sent.wrapping_sub(forwarded) + 16384 <= connection::BUFFER {
            guest.send_data(ports, &piece);
            expected.extend(&piece);
            sent += 16384;
        } else {
            received.extend(read_all(&mut stream).0);
            guest.buffers(1);
        }
        for (operation, header, _) in guest.take() {
            assert_ne!(operation, Operation::Reset);
            forwarded = header.forwarded;
        }
    }
    for _ in 0..8 {
        received.extend(read_all(&mut stream).0);
        guest.take();
    }
    assert!(received == expected);
}

#[test]
fn either_end_closes_its_half() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.connected();
    stream.write_all(b"last").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    guest.buffers(4);
    let packets = guest.take();
    assert_eq!(packets[0].2, b"last");
    let flags = packets.iter().find(|(operation, ..)| *operation == Operation::Shutdown).unwrap().1.flags;
    assert_eq!(flags, NO_SEND);
    guest.send_data(ports, b"answer");
    assert_eq!(read_all(&mut stream), (b"answer".to_vec(), false));
    guest.shut_down(ports, NO_SEND);
    assert_eq!(read_all(&mut stream), (vec![], true));
}

#[test]
fn a_guest_that_closes_is_told_when_everything_has_arrived() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.connected();
    guest.send_data(ports, b"bye");
    guest.shut_down(ports, NOTHING_MORE);
    guest.buffers(4);
    assert_eq!(guest.operations(), [Operation::Reset]);
    assert_eq!(read_all(&mut stream), (b"bye".to_vec(), true));
}

#[test]
fn what_a_guest_sent_before_it_went_still_arrives() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.connected();
    let data = vec![9; 16384];
    let mut sent = 0;
    for _ in 0..200 {
        guest.send_data(ports, &data);
        sent += data.len();
        guest.buffers(1);
        // As much as the socket takes, and a little more.
        if sent > 230_000 {
            break;
        }
    }
    guest.send(Operation::Reset, ports);
    let mut received = 0;
    loop {
        let (bytes, ended) = read_all(&mut stream);
        received += bytes.len();
        guest.take();
        if ended {
            break;
        }
    }
    assert_eq!(received, sent);
}

#[test]
fn a_host_program_that_closes_is_reported_as_both_halves() {
    let mut guest = Guest::new();
    let (mut stream, ports) = guest.connected();
    stream.write_all(b"last").unwrap();
    drop(stream);
    guest.buffers(8);
    let packets = guest.take();
    assert!(packets.iter().any(|(_, _, data)| data == b"last"), "{packets:?}");
    let (last, header, _) = packets.last().unwrap();
    assert_eq!((*last, { header.flags }), (Operation::Shutdown, NO_SEND | NO_RECEIVE));
    guest.send(Operation::Reset, ports);
    assert!(guest.take().is_empty());
}

#[test]
fn an_idle_connection_wakes_nobody() {
    let mut guest = Guest::new();
    let (mut stream, _) = guest.connected();
    // Data that the guest has no buffers for must not keep the thread awake.
    stream.write_all(&[1; 60_000]).unwrap();
    for _ in 0..50 {
        guest.driver.work();
    }
    assert!(!guest.driver.stirs(), "the device keeps being woken");
}

#[test]
fn a_thousand_connections_at_once() {
    const CONNECTIONS: usize = 1000;
    // Each takes a descriptor at either end.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a complete structure.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    if limit.rlim_max < 3 * CONNECTIONS as u64 {
        return println!("skipped: {} descriptors are too few", limit.rlim_max);
    }
    let mut guest = Guest::new();
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| guest.connected()).collect();
    for (number, (stream, ports)) in connections.iter_mut().enumerate() {
        guest.send_data(*ports, format!("number {number}").as_bytes());
        guest.driver.used(TRANSMIT);
        stream.set_nonblocking(false).unwrap();
    }
    for (number, (stream, ports)) in connections.iter_mut().enumerate() {
        let mut text = vec![0; format!("number {number}").len()];
        stream.read_exact(&mut text).unwrap();
        assert_eq!(text, format!("number {number}").as_bytes());
        // And back, each to its own port.
        stream.write_all(&text).unwrap();
        guest.buffers(1);
        let packets = guest.take();
        let data: Vec<_> = packets.iter().filter(|(operation, ..)| *operation == Operation::Data).collect();
        assert_eq!(data.len(), 1, "{number}");
        assert_eq!((data[0].1.source_port, &data[0].2), (ports.host, &text));
    }
    let mut hosts: Vec<_> = connections.iter().map(|(_, ports)| ports.host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), CONNECTIONS);
}

#[test]
fn a_reset_closes_every_connection_and_starts_over() {
    let mut guest = Guest::new();
    let (mut stream, _) = guest.connected();
    guest.driver.write(super::super::transport::register::STATUS, 0);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    guest.driver.negotiate(u64::MAX);
    guest.driver.set_up_queues();
    guest.driver.write(super::super::transport::register::STATUS, 0xf);
    guest.connected();
}

#[test]
fn answers_what_it_does_not_understand_with_a_reset() {
    let mut guest = Guest::new();
    let (_stream, ports) = guest.connected();
    let good = guest.header(Operation::Request, Ports { guest: 1, host: 2 });
    for header in [
        Header { kind: 2, ..good },
        Header { destination_cid: 4, ..good },
        Header { source_cid: 9, ..good },
        Header { operation: 99, ..good },
        guest.header(Operation::Data, Ports { guest: 1, host: 2 }),
        guest.header(Operation::Request, ports),
    ] {
        guest.buffers(1);
        guest.send_raw(header, &[]);
        assert_eq!(guest.operations(), [Operation::Reset]);
    }
    guest.send(Operation::Reset, Ports { guest: 1, host: 2 });
    guest.buffers(1);
    assert!(guest.take().is_empty(), "a reset is not answered");
}

#[test]
fn a_guest_that_takes_no_refusals_is_not_listened_to() {
    let mut guest = Guest::new();
    for round in 0..1000 {
        guest.send(Operation::Data, Ports { guest: round, host: 2 });
        guest.driver.used(TRANSMIT);
        if guest.driver.pending(TRANSMIT) >= 100 {
            break;
        }
    }
    assert!(guest.driver.pending(TRANSMIT) >= 100);
    let mut refusals = 0;
    for _ in 0..50 {
        guest.buffers(16);
        refusals += guest.take().len();
        guest.driver.used(TRANSMIT);
    }
    assert_eq!(guest.driver.pending(TRANSMIT), 0);
    assert_eq!(refusals, MAX_RESETS + 100);
}

#[test]
fn malformed_packets_are_faults() {
    let mut guest = Guest::new();
    guest.send_raw(
        Header { length: 100, ..guest.header(Operation::Data, Ports { guest: 1, host: 2 }) },
        &[1; 99],
    );
    assert!(guest.driver.needs_reset());

    let mut guest = Guest::new();
    guest.driver.add(TRANSMIT, &[(OUTGOING, 43, false)]);
    guest.driver.kick(TRANSMIT as u32);
    assert!(guest.driver.needs_reset());

    let mut guest = Guest::new();
    guest.driver.add(RECEIVE, &[(BUFFERS, 43, true)]);
    guest.send(Operation::Request, Ports { guest: 1, host: 2 });
    assert!(guest.driver.needs_reset());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn survives_any_packets(
        packets in prop::collection::vec((0u16..9, 0u32..4, any::<u32>(), any::<u32>(), 0usize..300), 1..60),
    ) {
        let mut guest = Guest::new();
        let (mut stream, ports) = guest.connected();
        for (operation, flags, buffer_size, forwarded, length) in packets {
            let header = Header {
                operation, flags, buffer_size, forwarded, length: length as u32,
                ..guest.header(Operation::Data, ports)
            };
            guest.buffers(1);
            guest.send_raw(header, &vec![3; length]);
            let _ = stream.write(&[1; 500]);
            guest.take();
        }
    }
}
