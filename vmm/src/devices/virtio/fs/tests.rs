use super::super::testing::{BUFFERS, Driver};
use super::super::transport::register;
use super::*;
use std::sync::mpsc;

const REPLIES: u64 = BUFFERS + 0x10_0000;
const REQUESTS: usize = 1;

/// A driver, the helper's end of the socket, and what is told of the helper's loss.
fn driver() -> (Driver, UnixStream, mpsc::Receiver<String>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (tell, told) = mpsc::channel();
    let on_lost = Box::new(move |error: io::Error| tell.send(error.to_string()).unwrap());
    let device = Fs::new("work", ours, on_lost).unwrap();
    (Driver::start(Box::new(device), u64::MAX), theirs, told)
}

/// A request of `length` bytes whose unique number is `unique`.
fn request(length: usize, unique: u64) -> Vec<u8> {
    let head = RequestHead { length: length as u32, opcode: 3, unique };
    let mut bytes = head.as_slice().to_vec();
    bytes.resize(length.max(bytes.len()), 0x5a);
    bytes.truncate(length);
    bytes
}

/// Offers a request with room for an answer at [`REPLIES`].
fn offer(driver: &mut Driver, queue: usize, bytes: &[u8], room: u32) -> u16 {
    driver.put(BUFFERS, bytes);
    driver.add(queue, &[(BUFFERS, bytes.len() as u32, false), (REPLIES, room, true)])
}

/// The next message that the helper gets.
fn message(helper: &mut UnixStream) -> (Head, Vec<u8>) {
    let mut head = [0; HEAD];
    helper.read_exact(&mut head).unwrap();
    let head = Head::from_bytes(head).unwrap();
    let mut bytes = vec![0; head.length as usize];
    helper.read_exact(&mut bytes).unwrap();
    (head, bytes)
}

fn reply(helper: &mut UnixStream, tag: u32, bytes: &[u8]) {
    let head = Head { length: bytes.len() as u32, tag, room: 0 };
    helper.write_all(&[&head.to_bytes()[..], bytes].concat()).unwrap();
}

fn error_in(driver: &Driver) -> (i32, u64) {
    let bytes = driver.get(REPLIES, REPLY_HEADER);
    (
        i32::from_le_bytes(bytes[4..8].try_into().unwrap()),
        u64::from_le_bytes(bytes[8..16].try_into().unwrap()),
    )
}

#[test]
fn tells_its_tag_and_its_queues() {
    let (driver, _helper, _) = driver();
    assert_eq!(driver.read(register::CONFIG), u32::from_le_bytes(*b"work"));
    assert_eq!(driver.read(register::CONFIG + 36), 1);
}

#[test]
fn answers_find_their_requests_in_any_order() {
    let (mut driver, mut helper, _) = driver();
    let first = offer(&mut driver, REQUESTS, &request(100, 1), 64);
    driver.kick(1);
    driver.put(BUFFERS + 0x1000, &request(40, 2));
    let second =
        driver.add(0, &[(BUFFERS + 0x1000, 40, false), (REPLIES + 100, 10, true), (REPLIES + 200, 90, true)]);
    driver.kick(0);
    let (a, bytes) = message(&mut helper);
    assert_eq!((bytes, a.room), (request(100, 1), 64));
    let (b, bytes) = message(&mut helper);
    assert_eq!((bytes, b.room), (request(40, 2), 100));
    reply(&mut helper, b.tag, &[2; 30]);
    driver.work();
    assert_eq!((driver.used(0), driver.used(REQUESTS)), (vec![(second, 30)], vec![]));
    assert_eq!(
        [driver.get(REPLIES + 100, 10), driver.get(REPLIES + 200, 21)].concat(),
        [[2; 30].as_slice(), &[0]].concat()
    );
    reply(&mut helper, a.tag, &[1; 16]);
    driver.work();
    assert_eq!(driver.used(REQUESTS), [(first, 16)]);
    assert_eq!(driver.get(REPLIES, 17), [&[1; 16][..], &[0]].concat());
}

#[test]
fn one_that_takes_no_answer_is_given_back_all_the_same() {
    let (mut driver, mut helper, _) = driver();
    driver.put(BUFFERS, &request(48, 9));
    let head = driver.add(0, &[(BUFFERS, 48, false)]);
    driver.kick(0);
    let (sent, _) = message(&mut helper);
    assert_eq!(sent.room, 0);
    reply(&mut helper, sent.tag, &[]);
    driver.work();
    assert_eq!(driver.used(0), [(head, 0)]);
}

#[test]
fn requests_of_impossible_length_get_an_error_and_nobody_else_sees_them() {
    let (mut driver, mut helper, _) = driver();
    for length in [1, REQUEST_HEADER - 1, MAX_MESSAGE + 1] {
        let head = offer(&mut driver, REQUESTS, &request(length, 7), 64);
        driver.kick(1);
        assert_eq!(driver.used(REQUESTS), [(head, 16)], "{length}");
        assert_eq!(error_in(&driver).0, IO_ERROR);
    }
    driver.add(REQUESTS, &[(REPLIES, 8, true)]);
    driver.kick(1);
    assert_eq!(driver.used(REQUESTS)[0].1, 0, "there is no room for an error");
    helper.set_nonblocking(true).unwrap();
    assert_eq!(helper.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(!driver.needs_reset());
}

#[test]
fn a_helper_that_reads_slowly_gets_everything() {
    let (mut driver, mut helper, _) = driver();
    let long = request(MAX_MESSAGE, 3);
    driver.put(BUFFERS, &long);
    for _ in 0..8 {
        driver.add(REQUESTS, &[(BUFFERS, long.len() as u32, false), (REPLIES, 16, true)]);
    }
    driver.kick(1);
    for _ in 0..8 {
        let reader = std::thread::scope(|scope| {
            let reading = scope.spawn(|| message(&mut helper));
            while !reading.is_finished() {
                driver.work();
            }
            reading.join().unwrap()
        });
        assert!(reader.1 == long);
        reply(&mut helper, reader.0.tag, &[0; 16]);
    }
    driver.work();
    assert_eq!(driver.used(REQUESTS).len(), 8);
}

#[test]
fn when_the_helper_is_gone_nobody_waits_for_it() {
    let (mut driver, helper, told) = driver();
    let head = offer(&mut driver, REQUESTS, &request(56, 77), 64);
    driver.kick(1);
    drop(helper);
    driver.work();
    assert_eq!(driver.used(REQUESTS), [(head, 16)]);
    assert_eq!(error_in(&driver), (NOT_CONNECTED, 77));
    assert!(!told.recv().unwrap().is_empty());
    let head = offer(&mut driver, REQUESTS, &request(56, 78), 64);
    driver.kick(1);
    assert_eq!(driver.used(REQUESTS), [(head, 16)]);
    assert_eq!(error_in(&driver), (NOT_CONNECTED, 78));
    assert!(!driver.needs_reset() && told.recv().is_err(), "it is told once");
}

#[test]
fn a_helper_that_answers_nonsense_is_not_listened_to() {
    for nonsense in [
        Head { length: 16, tag: 5, room: 0 },
        Head { length: 65, tag: 0, room: 0 },
        Head { length: 15, tag: 0, room: 0 },
        Head { length: u32::MAX, tag: 0, room: 0 },
    ] {
        let (mut driver, mut helper, told) = driver();
        offer(&mut driver, REQUESTS, &request(56, 1), 64);
        driver.kick(1);
        message(&mut helper);
        helper.write_all(&nonsense.to_bytes()).unwrap();
        helper.write_all(&[0; 100]).unwrap();
        driver.work();
        assert_eq!(error_in(&driver), (NOT_CONNECTED, 1), "{nonsense:?}");
        assert!(told.recv().unwrap().contains("no sense"));
    }
}

#[test]
fn answers_to_a_driver_that_is_gone_go_nowhere() {
    let (mut driver, mut helper, _) = driver();
    offer(&mut driver, REQUESTS, &request(56, 1), 64);
    driver.kick(1);
    let (old, _) = message(&mut helper);
    driver.write(register::STATUS, 0);
    driver.negotiate(u64::MAX);
    driver.set_up_queues();
    driver.write(register::STATUS, driver.read(register::STATUS) | 4);
    driver.put(REPLIES, &[0; 64]);
    reply(&mut helper, old.tag, &[9; 64]);
    driver.work();
    assert!(driver.used(REQUESTS).is_empty() && driver.get(REPLIES, 64) == [0; 64]);
    let head = offer(&mut driver, REQUESTS, &request(56, 2), 64);
    driver.kick(1);
    let (new, _) = message(&mut helper);
    reply(&mut helper, new.tag, &[8; 16]);
    driver.work();
    assert_eq!(driver.used(REQUESTS), [(head, 16)]);
}
