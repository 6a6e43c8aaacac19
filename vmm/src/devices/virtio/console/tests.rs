//! Ports between a guest made of buffers and pipes.

use super::super::testing::{BUFFERS, Driver};
use super::super::transport::register;
use super::*;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Where a driver's messages are put together, and where those for it go.
const MESSAGE: u64 = BUFFERS + 0x8_0000;
const MAIL: u64 = BUFFERS + 0x4_0000;

fn pipe() -> (File, File) {
    let (reader, writer) = io::pipe().unwrap();
    (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
}

fn port(name: &str, input: Option<File>, output: File) -> PortConfig {
    PortConfig { name: name.to_owned(), is_console: false, input, output }
}

fn console(input: Option<File>, output: File) -> Driver {
    let console = Console::new(vec![port("", input, output)], Size::new().unwrap()).unwrap();
    Driver::start(Box::new(console), u64::MAX)
}

/// A driver of two ports, of which the second is called "log" and has an input; with that, both outputs and the size.
fn two_ports() -> (Driver, File, [File; 2], Size) {
    let ((first, first_end), (second, second_end), (input_end, input)) = (pipe(), pipe(), pipe());
    let size = Size::new().unwrap();
    let ports = vec![port("", None, first_end), port("log", Some(input_end), second_end)];
    let driver = Driver::start(Box::new(Console::new(ports, size.clone()).unwrap()), u64::MAX);
    (driver, input, [first, second], size)
}

/// Sends a message.
fn say(driver: &mut Driver, port: u32, event: u16, value: u16) {
    driver.put(MESSAGE, Message { port, event, value }.as_slice());
    driver.add(FROM_DRIVER, &[(MESSAGE, 8, false)]);
    driver.kick(FROM_DRIVER as u32);
}

/// Gives `count` buffers for messages; those that have come since the last look: port, event, value, rest.
fn mail(driver: &mut Driver, count: usize) -> Vec<(u32, u16, u16, Vec<u8>)> {
    for _ in 0..count {
        let at = MAIL + u64::from(driver.next_descriptor(TO_DRIVER)) * 64;
        driver.add(TO_DRIVER, &[(at, 64, true)]);
    }
    driver.kick(TO_DRIVER as u32);
    let used = driver.used(TO_DRIVER);
    let read = |(head, length): (u16, u32)| {
        let bytes = driver.get(MAIL + u64::from(head) * 64, length as usize);
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (u32::from(number(0)), number(4), number(6), bytes[8..].to_vec())
    };
    used.into_iter().map(read).collect()
}

#[test]
fn passes_output_on() {
    let (mut reader, writer) = pipe();
    let mut driver = console(None, writer);
    driver.put(BUFFERS, b"hello, ");
    driver.put(BUFFERS + 4096, b"world");
    driver.add(TRANSMIT, &[(BUFFERS, 7, false), (BUFFERS + 4096, 5, false)]);
    driver.kick(TRANSMIT as u32);
    assert_eq!(driver.used(TRANSMIT), [(0, 0)]);
    drop(driver);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello, world");
}

#[test]
fn keeps_input_until_there_are_buffers_for_it() {
    let ((reader, mut writer), (_, output)) = (pipe(), pipe());
    let mut driver = console(Some(reader), output);
    writer.write_all(b"typed").unwrap();
    driver.work();
    driver.work();
    driver.add(RECEIVE, &[(BUFFERS, 3, true)]);
    driver.add(RECEIVE, &[(BUFFERS + 4096, 64, true)]);
    driver.kick(RECEIVE as u32);
    driver.work();
    driver.work();
    assert_eq!(driver.used(RECEIVE), [(0, 3), (1, 2)]);
    assert_eq!(driver.get(BUFFERS, 3), b"typ");
    assert_eq!(driver.get(BUFFERS + 4096, 2), b"ed");
    driver.add(RECEIVE, &[(BUFFERS, 64, true)]);
    driver.kick(RECEIVE as u32);
    assert!(driver.used(RECEIVE).is_empty());
    drop(writer);
    driver.work();
    driver.work();
    assert!(driver.used(RECEIVE).is_empty(), "the end of the input is no input");
    assert!(!driver.stirs());
}

#[test]
fn outlives_a_reader_that_went_away() {
    let (reader, writer) = pipe();
    drop(reader);
    let mut driver = console(None, writer);
    driver.add(TRANSMIT, &[(BUFFERS, 7, false)]);
    driver.kick(TRANSMIT as u32);
    assert_eq!(driver.used(TRANSMIT), [(0, 0)]);
}

#[test]
fn prints_a_byte_that_comes_without_a_queue() {
    let (mut reader, writer) = pipe();
    let driver = console(None, writer);
    driver.write(register::CONFIG + EMERGENCY, u32::from(b'!'));
    driver.write(register::CONFIG, 7);
    drop(driver);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "!");
}

#[test]
fn several_ports_are_introduced_one_by_one() {
    let (mut driver, ..) = two_ports();
    assert_eq!(driver.rings.len(), 6);
    assert_eq!(driver.read(register::CONFIG + 4), 2);
    say(&mut driver, u32::MAX, event::DEVICE_READY, 1);
    let added = |port| (port, event::DEVICE_ADD, 1, vec![]);
    assert_eq!(mail(&mut driver, 8), [added(0), added(1)]);
    say(&mut driver, 0, event::PORT_READY, 1);
    let told = mail(&mut driver, 0);
    assert_eq!(told[0], (0, event::CONSOLE_PORT, 1, vec![]));
    assert_eq!(told[1], (0, event::RESIZE, 0, vec![0; 4]));
    assert_eq!(told[2..], [(0, event::PORT_NAME, 1, vec![]), (0, event::PORT_OPEN, 1, vec![])]);
    say(&mut driver, 1, event::PORT_READY, 1);
    let name = (1, event::PORT_NAME, 1, b"log".to_vec());
    assert_eq!(mail(&mut driver, 8), [name, (1, event::PORT_OPEN, 1, vec![])]);
    // Of ports that there are none, and what makes no sense, nothing comes.
    say(&mut driver, 2, event::PORT_READY, 1);
    say(&mut driver, 1, 99, 1);
    say(&mut driver, 0, event::DEVICE_READY, 0);
    assert_eq!(mail(&mut driver, 0), []);
    assert!(!driver.needs_reset());
}

#[test]
fn each_port_has_a_line_of_its_own() {
    let (mut driver, mut input, mut outputs, _) = two_ports();
    for (queue, text) in [(1, b"first "), (5, b"second")] {
        driver.put(BUFFERS, text);
        driver.add(queue, &[(BUFFERS, 6, false)]);
        driver.kick(queue as u32);
        assert_eq!(driver.used(queue).len(), 1);
    }
    for (output, text) in outputs.iter_mut().zip([b"first ", b"second"]) {
        let mut found = [0; 6];
        output.read_exact(&mut found).unwrap();
        assert_eq!(&found, text);
    }
    // Nothing is lost before the guest opens the port, nor after it has closed it.
    input.write_all(b"typed").unwrap();
    driver.add(4, &[(BUFFERS, 64, true)]);
    driver.kick(4);
    driver.work();
    assert!(driver.used(4).is_empty() && !driver.stirs());
    say(&mut driver, 1, event::PORT_OPEN, 1);
    driver.work();
    driver.work();
    assert_eq!(driver.used(4), [(0, 5)]);
    assert_eq!(driver.get(BUFFERS, 5), b"typed");
    say(&mut driver, 1, event::PORT_OPEN, 0);
    input.write_all(b"more").unwrap();
    driver.add(4, &[(BUFFERS, 64, true)]);
    driver.kick(4);
    assert!(driver.used(4).is_empty() && !driver.stirs());
}

#[test]
fn a_new_size_is_told_in_both_ways() {
    let (mut driver, _, _, size) = two_ports();
    let before = driver.read(register::CONFIG_GENERATION);
    size.set(132, 50);
    driver.work();
    assert_eq!(driver.read(register::CONFIG), 50 << 16 | 132);
    assert_ne!(driver.read(register::CONFIG_GENERATION), before);
    // Nobody has taken the first: the last one is enough.
    size.set(80, 25);
    driver.work();
    assert_eq!(mail(&mut driver, 8), [(0, event::RESIZE, 0, vec![80, 0, 25, 0])]);
    assert!(!driver.stirs());
    driver.write(register::STATUS, 0);
    size.set(1, 1);
    assert!(!driver.stirs(), "nobody to tell");
}

#[test]
fn a_driver_without_ports_has_the_first_as_its_console() {
    let ((_, output), (_, other), (reader, mut writer)) = (pipe(), pipe(), pipe());
    let ports = vec![port("", Some(reader), output), port("log", None, other)];
    let console = Console::new(ports, Size::new().unwrap()).unwrap();
    let mut driver = Driver::start(Box::new(console), !feature::MULTIPORT);
    writer.write_all(b"typed").unwrap();
    driver.add(RECEIVE, &[(BUFFERS, 64, true)]);
    driver.kick(RECEIVE as u32);
    driver.work();
    assert_eq!(driver.used(RECEIVE), [(0, 5)]);
    say(&mut driver, u32::MAX, event::DEVICE_READY, 1);
    assert!(driver.used(FROM_DRIVER).is_empty());
}

#[test]
fn a_driver_that_takes_no_messages_is_not_listened_to() {
    let (mut driver, ..) = two_ports();
    for _ in 0..60 {
        say(&mut driver, u32::MAX, event::DEVICE_READY, 1);
    }
    let heard = driver.used(FROM_DRIVER).len();
    assert!(heard < MAX_PENDING, "{heard}");
    assert!(!driver.needs_reset() && !driver.stirs());
    assert_eq!(mail(&mut driver, 60).len(), 60);
    assert!(!driver.used(FROM_DRIVER).is_empty(), "it is listened to again");
}

#[test]
fn a_message_cut_short_is_a_fault() {
    let (mut driver, ..) = two_ports();
    driver.add(FROM_DRIVER, &[(MESSAGE, 7, false)]);
    driver.kick(FROM_DRIVER as u32);
    assert!(driver.needs_reset());
}

#[test]
fn has_a_port_at_least_and_eight_at_most() {
    let make = |count: usize| {
        let ports = (0..count).map(|_| port("", None, pipe().1)).collect();
        Console::new(ports, Size::new().unwrap())
    };
    assert!(make(0).is_err() && make(MAX_PORTS + 1).is_err());
    assert_eq!(make(MAX_PORTS).unwrap().queues().len(), 18);
}
