use super::super::testing::{BUFFERS, Driver};
use super::super::transport::register;
use super::*;
use crate::backends::net::rate::Rate;
use crate::backends::net::{ETHERNET, Passt};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// Frames in memory. Its descriptor is readable while the test says so.
struct Wire {
    state: Arc<Mutex<State>>,
    fd: UnixStream,
}

#[derive(Default)]
struct State {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: Vec<Vec<u8>>,
    /// How many more frames it has room for.
    room: usize,
    offloads: Option<Offloads>,
    active: Option<bool>,
    broken: bool,
}

impl Port for Wire {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    fn has_offloads(&self) -> bool {
        true
    }
    fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        self.state.lock().unwrap().offloads = Some(offloads);
        Ok(())
    }
    fn set_active(&mut self, active: bool) -> io::Result<()> {
        self.state.lock().unwrap().active = Some(active);
        Ok(())
    }
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        if state.broken {
            return Err(io::Error::other("unplugged"));
        }
        let next = state.to_guest.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        frame[..HEADER].fill(0);
        frame[HEADER..HEADER + next.len()].copy_from_slice(&next);
        Ok(HEADER + next.len())
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.room = state.room.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
        state.from_guest.push(frame[HEADER..].to_vec());
        Ok(())
    }
    fn flush(&mut self) -> io::Result<bool> {
        Ok(self.state.lock().unwrap().room > 0)
    }
}

/// A card on wires, with what has become of its link.
struct Card {
    driver: Driver,
    wires: Vec<(Arc<Mutex<State>>, UnixStream)>,
    lost: Arc<Mutex<Option<String>>>,
}

fn on_lost() -> (OnLost, Arc<Mutex<Option<String>>>) {
    let lost = Arc::new(Mutex::new(None));
    let told = lost.clone();
    (Box::new(move |error| *told.lock().unwrap() = Some(error.to_string())), lost)
}

fn card(pairs: usize, mask: u64) -> Card {
    limited_card(pairs, mask, Rates::default())
}

fn limited_card(pairs: usize, mask: u64, rates: Rates) -> Card {
    let (mut ports, mut wires): (Vec<Box<dyn Port>>, _) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        let (fd, far) = UnixStream::pair().unwrap();
        let state = Arc::new(Mutex::new(State { room: usize::MAX, ..State::default() }));
        ports.push(Box::new(Wire { state: state.clone(), fd }));
        wires.push((state, far));
    }
    let (told, lost) = on_lost();
    let net = Net::new(MAC, 1500, ports, rates, told).unwrap();
    Card { driver: Driver::start(Box::new(net), mask), wires, lost }
}

impl Card {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.wires[0].0.lock().unwrap()
    }

    /// Frames arrive for the guest.
    fn arrive(&mut self, frames: &[Vec<u8>]) {
        self.state().to_guest.extend(frames.iter().cloned());
        self.wires[0].1.write_all(b"!").unwrap();
    }

    /// The guest gives receive buffers of the given sizes, a page apart.
    fn give(&mut self, sizes: &[u32]) {
        for (number, size) in sizes.iter().enumerate() {
            self.driver.add(0, &[(BUFFERS + number as u64 * 0x1000, *size, true)]);
        }
        self.driver.kick(0);
    }

    fn send(&mut self, frame: &[u8]) {
        // Each in its own place: one may have to wait.
        let at = BUFFERS + 0x8_0000 + u64::from(self.driver.next_descriptor(1) % 8) * 0x1_0000;
        self.driver.put(at, &[0; HEADER]);
        self.driver.put(at + HEADER as u64, frame);
        self.driver.add(1, &[(at, HEADER as u32, false), (at + HEADER as u64, frame.len() as u32, false)]);
        self.driver.kick(1);
    }
}

/// A frame that may leave the guest.
fn frame(length: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![seed; length.max(ETHERNET + 20)];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[30..34].copy_from_slice(&[192, 0, 2, 1]);
    frame
}

#[test]
fn tells_its_address_link_and_mtu() {
    let card = card(1, u64::MAX);
    let config: Vec<u8> =
        (0..3).flat_map(|n| card.driver.read(register::CONFIG + n * 4).to_le_bytes()).collect();
    assert_eq!(config, [&MAC[..], &[1, 0, 1, 0, 0xdc, 5]].concat());
    assert_eq!(card.driver.offered() & (feature::CONTROL_QUEUE | feature::SEVERAL_PAIRS), 0);
}

#[test]
fn frames_leave_as_they_were_given() {
    let mut card = card(1, u64::MAX);
    let frames: Vec<_> =
        [60, 1514, 60_000].into_iter().zip(1..).map(|(length, n)| frame(length, n)).collect();
    for frame in &frames {
        card.send(frame);
    }
    assert!(card.state().from_guest == frames);
    assert_eq!(card.driver.used(1).len(), 3);
}

#[test]
fn forbidden_and_malformed_frames_stay_inside() {
    let mut card = card(1, u64::MAX);
    let mut metadata = frame(60, 1);
    metadata[30..34].copy_from_slice(&[169, 254, 169, 254]);
    card.send(&metadata);
    card.send(&[0; 3]);
    // Longer than any frame, and no frame at all.
    card.driver.add(1, &[(BUFFERS, 0x2_0000, false)]);
    card.driver.add(1, &[(BUFFERS, 64, true)]);
    card.driver.kick(1);
    assert_eq!(card.driver.used(1).len(), 4);
    assert!(card.state().from_guest.is_empty() && !card.driver.needs_reset());
    card.send(&frame(60, 2));
    assert_eq!(card.state().from_guest, [frame(60, 2)]);
}

#[test]
fn a_frame_goes_into_as_many_buffers_as_it_takes() {
    let mut card = card(1, u64::MAX);
    card.give(&[1000, 512, 4000, 100]);
    let frame = frame(2500, 9);
    card.arrive(std::slice::from_ref(&frame));
    card.driver.work();
    let used = card.driver.used(0);
    assert_eq!(used, [(0, 1000), (1, 512), (2, 1000)]);
    let received: Vec<u8> = used
        .iter()
        .flat_map(|(head, length)| card.driver.get(BUFFERS + u64::from(*head) * 0x1000, *length as usize))
        .collect();
    assert_eq!(received[10..12], [3, 0], "the number of buffers");
    assert_eq!(received[HEADER..], frame);
}

#[test]
fn a_frame_waits_for_buffers_and_for_enough_of_them() {
    let mut card = card(1, u64::MAX);
    card.give(&[]);
    card.arrive(&[frame(3000, 1), frame(60, 2)]);
    card.driver.work();
    card.give(&[1500]);
    assert!(!card.driver.stirs(), "waits for the guest, not in a loop");
    assert!(card.driver.used(0).is_empty());
    card.give(&[1500, 1500]);
    card.driver.work();
    assert_eq!(card.driver.used(0).iter().map(|(_, length)| *length).sum::<u32>(), 3012);
    card.give(&[1500]);
    card.driver.work();
    assert_eq!(card.driver.used(0).last().unwrap().1, 72);
}

#[test]
fn without_mergeable_buffers_a_frame_too_long_is_lost_and_the_next_is_not() {
    let mut card = card(1, !feature::MERGEABLE_BUFFERS);
    card.give(&[1526]);
    card.arrive(&[frame(3000, 1), frame(1514, 2)]);
    card.driver.work();
    assert_eq!(card.driver.used(0), [(0, 1526)]);
    assert_eq!(card.driver.get(BUFFERS, 1526), [&[0; 10][..], &[1, 0], &frame(1514, 2)].concat());
}

#[test]
fn waits_for_room_and_sends_in_order() {
    let mut card = card(1, u64::MAX);
    card.give(&[]);
    card.state().room = 1;
    for n in 1..4 {
        card.send(&frame(60, n));
    }
    assert_eq!(card.driver.used(1).len(), 1);
    card.state().room = 9;
    // A Unix socket always has room: its descriptor is writable at once.
    card.driver.work();
    assert_eq!(card.driver.used(1).len(), 2);
    let sent: Vec<u8> = card.state().from_guest.iter().map(|frame| frame[0]).collect();
    assert_eq!(sent, [1, 2, 3]);
}

#[test]
fn offloads_are_what_the_driver_takes() {
    let whole = Offloads { checksum: true, tcp4: true, tcp6: true };
    let without_checksum = !feature::GUEST_CHECKSUM;
    for (mask, expected) in [(u64::MAX, whole), (without_checksum, Offloads::default())] {
        let mut card = card(1, mask);
        card.give(&[1500]);
        assert_eq!(card.state().offloads, Some(expected));
    }
}

#[test]
fn a_link_that_ends_goes_down_and_is_told_of_once() {
    let mut card = card(1, u64::MAX);
    card.give(&[1500]);
    let generation = card.driver.read(register::CONFIG_GENERATION);
    card.state().broken = true;
    card.arrive(&[]);
    card.driver.work();
    assert_eq!(card.driver.read(register::CONFIG + 4) >> 16, 0, "the link's status");
    assert_ne!(card.driver.read(register::CONFIG_GENERATION), generation);
    assert_eq!(card.lost.lock().unwrap().take().as_deref(), Some("unplugged"));
    // The guest may go on sending.
    card.send(&frame(60, 1));
    assert_eq!(card.driver.used(1).len(), 1);
    assert!(card.state().from_guest.is_empty() && !card.driver.needs_reset() && !card.driver.stirs());
}

#[test]
fn several_pairs_are_used_when_the_driver_says_so() {
    let mut card = card(2, u64::MAX);
    assert_ne!(card.driver.offered() & feature::SEVERAL_PAIRS, 0);
    card.give(&[1500]);
    assert_eq!(card.wires[1].0.lock().unwrap().active, Some(false));
    let ask = |card: &mut Card, command: &[u8]| {
        card.driver.put(BUFFERS + 0x9000, command);
        card.driver.add(4, &[(BUFFERS + 0x9000, command.len() as u32, false), (BUFFERS + 0xa000, 1, true)]);
        card.driver.kick(4);
        assert_eq!(card.driver.used(4).len(), 1);
        card.driver.get(BUFFERS + 0xa000, 1)[0]
    };
    for refused in [[4, 0, 0, 0], [4, 0, 3, 0], [4, 1, 2, 0], [0, 0, 1, 0]] {
        assert_eq!(ask(&mut card, &refused), REFUSED, "{refused:?}");
    }
    assert_eq!(ask(&mut card, &[4, 0, 2, 0]), ACCEPTED);
    assert_eq!(card.wires[1].0.lock().unwrap().active, Some(true));
    card.driver.add(2, &[(BUFFERS + 0xb000, 1500, true)]);
    card.driver.kick(2);
    card.wires[1].0.lock().unwrap().to_guest.push_back(frame(60, 1));
    card.wires[1].1.write_all(b"!").unwrap();
    card.driver.work();
    assert_eq!(card.driver.used(2), [(0, 72)]);
    card.driver.add(4, &[(BUFFERS, 1, false), (BUFFERS + 0xa000, 1, true)]);
    card.driver.kick(4);
    assert!(card.driver.needs_reset(), "a command without its number");
}

#[test]
fn a_reset_forgets_what_was_under_way() {
    let mut card = card(1, u64::MAX);
    card.give(&[]);
    card.arrive(&[frame(60, 1)]);
    card.driver.work();
    card.driver.write(register::STATUS, 0);
    assert!(!card.driver.stirs());
    card.driver.negotiate(u64::MAX);
    card.driver.set_up_queues();
    card.driver.write(register::STATUS, 15);
    card.give(&[1500]);
    card.arrive(&[frame(100, 2)]);
    card.driver.work();
    assert_eq!(card.driver.used(0), [(0, 112)]);
}

#[test]
fn no_buffers_that_cannot_hold_a_header() {
    for buffer in [(BUFFERS, 64, false), (BUFFERS, 0, true)] {
        let mut card = card(1, u64::MAX);
        card.driver.add(0, &[buffer]);
        card.driver.add(0, &[(BUFFERS, 1500, true)]);
        card.driver.kick(0);
        card.arrive(&[frame(60, 1)]);
        card.driver.work();
        assert!(card.driver.needs_reset());
    }
}

#[test]
fn speaks_to_passt() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (told, lost) = on_lost();
    let port: Box<dyn Port> = Box::new(Passt::new(ours).unwrap());
    let driver = Driver::start(
        Box::new(Net::new(MAC, MAX_MTU, vec![port], Rates::default(), told).unwrap()),
        u64::MAX,
    );
    assert_eq!(driver.offered() & (feature::CHECKSUM | feature::HOST_TSO4), 0, "no offloads");
    let mut card = Card { driver, wires: Vec::new(), lost };
    card.give(&[1500]);
    card.send(&frame(60, 1));
    let mut sent = [0; 64];
    theirs.read_exact(&mut sent).unwrap();
    assert_eq!(sent[..], [&60u32.to_be_bytes()[..], &frame(60, 1)].concat());
    theirs.write_all(&sent).unwrap();
    card.driver.work();
    assert_eq!(card.driver.used(0), [(0, 72)]);
    drop(theirs);
    card.driver.work();
    assert_eq!(card.lost.lock().unwrap().take().as_deref(), Some("passt has ended"));
}

#[test]
fn a_burst_from_passt_arrives_whole_without_anything_after_it() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let port: Box<dyn Port> = Box::new(Passt::new(ours).unwrap());
    let net = Net::new(MAC, 1500, vec![port], Rates::default(), on_lost().0).unwrap();
    let mut card =
        Card { driver: Driver::start(Box::new(net), u64::MAX), wires: Vec::new(), lost: on_lost().1 };
    const FRAMES: usize = 200;
    card.give(&[128; FRAMES]);
    let framed = |seed| [&60u32.to_be_bytes()[..], &frame(60, seed)].concat();
    let burst: Vec<u8> = (0..FRAMES as u8).flat_map(framed).collect();
    theirs.write_all(&burst).unwrap();
    while card.driver.stirs() {}
    assert_eq!(card.driver.used(0).len(), FRAMES);
    let last = BUFFERS + (FRAMES as u64 - 1) * 0x1000;
    assert_eq!(card.driver.get(last + HEADER as u64, 60), frame(60, FRAMES as u8 - 1));
}

#[test]
fn refuses_cards_that_nobody_can_use() {
    assert!(Net::new(MAC, 1500, Vec::new(), Rates::default(), on_lost().0).is_err());
    let port =
        || -> Vec<Box<dyn Port>> { vec![Box::new(Passt::new(UnixStream::pair().unwrap().0).unwrap())] };
    assert!(Net::new(MAC, 67, port(), Rates::default(), on_lost().0).is_err());
    assert!(Net::new(MAC, 65521, port(), Rates::default(), on_lost().0).is_err());
}

/// Works until `done` says so; fails after a time that no rate here takes.
fn work_until(card: &mut Card, mut done: impl FnMut(&mut Card) -> bool) {
    let started = Instant::now();
    while !done(card) {
        assert!(started.elapsed() < Duration::from_secs(30), "nothing moves any more");
        card.driver.reactor.turn(100).unwrap();
    }
}

#[test]
fn a_rate_holds_up_what_is_sent_and_loses_nothing() {
    let rate = Rate { packets: Some(2), ..Rate::default() };
    let mut card = limited_card(1, u64::MAX, Rates { transmit: rate, ..Rates::default() });
    let started = Instant::now();
    for seed in 0..3 {
        card.send(&frame(100, seed));
    }
    assert!(card.state().from_guest.len() < 3, "half a second a frame");
    work_until(&mut card, |card| card.state().from_guest.len() == 3);
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    let sent: Vec<_> = card.state().from_guest.iter().map(|sent| sent[0]).collect();
    assert_eq!(sent, [0, 1, 2]);
    assert_eq!(card.driver.used(1).len(), 3);
}

#[test]
fn a_rate_holds_up_what_arrives_and_loses_nothing() {
    let rate = Rate { bytes: Some(2000), burst: Some(100), ..Rate::default() };
    let mut card = limited_card(1, u64::MAX, Rates { receive: rate, ..Rates::default() });
    card.give(&[2048; 3]);
    let frames: Vec<_> = (0..3).map(|seed| frame(1000, seed)).collect();
    let started = Instant::now();
    card.arrive(&frames);
    card.driver.work();
    assert_eq!(card.driver.used(0).len(), 1, "the burst");
    assert!(!card.driver.stirs(), "what may not pass is not looked at again and again");
    let mut arrived = 1;
    work_until(&mut card, |card| {
        arrived += card.driver.used(0).len();
        arrived == 3
    });
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

#[test]
fn a_reset_ends_the_wait_for_a_rate() {
    let rate = Rate { bytes: Some(1), burst: Some(1), ..Rate::default() };
    let mut card = limited_card(1, u64::MAX, Rates { receive: rate, transmit: rate });
    card.give(&[2048; 2]);
    card.arrive(&[frame(1000, 1), frame(1000, 2)]);
    card.send(&frame(100, 1));
    card.send(&frame(100, 2));
    card.driver.work();
    card.driver.write(register::STATUS, 0);
    assert!(!card.driver.stirs());
}
