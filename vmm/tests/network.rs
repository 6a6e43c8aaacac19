//! The network without privileges, with the `passt` that is installed. Where none is, the tests say so and pass.

use ferry_vmm::backends::net::{HEADER, MAX_FRAME};
use ferry_vmm::machine::NetworkConfig;
use ferry_vmm::runtime::network::{Link, NetworkError, Plan, Wanted, open, parse_published, plan, wire};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The card of a guest that has published these ports.
fn card(published: &[&str]) -> Option<Result<NetworkConfig, NetworkError>> {
    let published = published.iter().map(|text| parse_published(text).unwrap()).collect();
    match plan(&Wanted { link: Link::User(Default::default()), published }, "0123456789abcdef", true) {
        Ok(plan) => Some(card_of(&plan.unwrap())),
        Err(error @ NetworkError::NoPasst) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn card_of(plan: &Plan) -> Result<NetworkConfig, NetworkError> {
    let socket = wire(plan)?.map(|wire| wire.serve()).transpose()?;
    open(plan, socket, |line| panic!("{line}"))
}

#[test]
fn passt_says_why_it_does_not_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let Some(card) = card(&[&format!("127.0.0.1:{port}:80")]) else { return };
    let error = card.err().expect("the port is taken").to_string();
    assert!(error.starts_with("passt did not start: ") && !error.contains("does not say"), "{error}");
}

#[test]
fn a_connection_to_a_published_port_reaches_the_card() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Some(card) = card(&[&format!("127.0.0.1:{}:80", free.port())]) else { return };
    let mut port = card.unwrap().ports.remove(0);
    let caller = std::thread::spawn(move || TcpStream::connect_timeout(&free, Duration::from_secs(1)));
    let started = Instant::now();
    let mut frame = vec![0; MAX_FRAME];
    // It asks for the guest's address before it can send it anything.
    loop {
        assert!(started.elapsed() < Duration::from_secs(10), "nothing arrives");
        port.readable();
        match port.receive(&mut frame) {
            Ok(length) if frame[HEADER + 12..HEADER + 14] == [8, 0] => {
                assert_eq!(frame[HEADER + 30..HEADER + 34], [10, 0, 2, 15], "to the guest");
                assert_eq!(frame[HEADER + 23], 6, "TCP");
                assert_eq!(frame[HEADER + 36..HEADER + 38], [0, 80], "port 80");
                assert!(length > HEADER + 40);
                break;
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(error) => panic!("{error}"),
        }
    }
    // Nobody answers in the guest's place.
    drop(port);
    let _ = caller.join();
}

#[test]
fn a_passt_that_dies_is_the_end_of_the_link() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let published = format!("127.0.0.1:{}:80", free.port());
    let Some(card) = card(&[&published]) else { return };
    let mut port = card.unwrap().ports.remove(0);
    // It has gone into the background: its own words lead to it.
    let word = format!("127.0.0.1/{}:80", free.port());
    let told = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|own| own == word.as_bytes())
    };
    let passts: Vec<_> = std::fs::read_dir("/proc").unwrap().flatten().filter(told).collect();
    assert!(!passts.is_empty(), "no passt with {word}");
    for passt in passts {
        let pid = passt.file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: takes no pointers; the process is the one that this test has started.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let started = Instant::now();
    let error = loop {
        port.readable();
        match port.receive(&mut vec![0; MAX_FRAME]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => break error,
            _ => assert!(started.elapsed() < Duration::from_secs(30), "it is not noticed"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
}
