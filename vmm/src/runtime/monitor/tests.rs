//! Detached containers in guests that are an agent in this process, asked for things over their sockets.

use super::client::{AskError, Connection, News, ask};
use super::protocol::{Kind, Request, SOCKET};
use crate::agent::fake::{Script, World, running};
use crate::runtime::fake_guest::{FakeVmm, request};
use crate::runtime::interrupt::{Forwarding, Interrupts};
use crate::runtime::limits::Limits;
use crate::runtime::logs::{Capacity, Follow, Query, Reader};
use crate::runtime::record::{Record, Status};
use crate::runtime::restart::Restart;
use crate::runtime::run::{self, Host, Milestone, Mode};
use crate::runtime::state::{Containers, Listed};
use crate::runtime::supervise::{Afterwards, Failure};
use ferry_init::api::method;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A detached container `web` that runs, and what becomes of it.
struct Detached {
    containers: Containers,
    vmm: Arc<FakeVmm>,
    run: JoinHandle<Result<u8, Failure>>,
    _root: tempfile::TempDir,
}

fn detached(change: impl FnOnce(&mut run::Request), scripts: Vec<Script>) -> Detached {
    let (web, runs) = begun(change, scripts);
    runs.recv_timeout(Duration::from_secs(20)).expect("it runs");
    web
}

/// One that is on its way, and who tells when it runs.
fn begun(change: impl FnOnce(&mut run::Request), scripts: Vec<Script>) -> (Detached, Receiver<String>) {
    let root = tempfile::tempdir().unwrap();
    let containers = Containers::open(root.path());
    let mut request = request();
    request.mode = Mode::Detached(Capacity::default());
    change(&mut request);
    let vmm = Arc::new(FakeVmm { scripts: std::sync::Mutex::new(scripts.into()), ..FakeVmm::default() });
    let (started, runs) = channel();
    let (for_run, for_vmm) = (containers.clone(), Arc::clone(&vmm));
    let run = std::thread::spawn(move || {
        let host = Host {
            containers: &for_run,
            launch: &*for_vmm,
            interrupts: &Interrupts::uninstalled(Forwarding::ToContainer),
            progress: &(),
            milestone: &|milestone, records: &[Record]| {
                if milestone == Milestone::Started {
                    started.send(records[0].id.clone()).unwrap();
                }
            },
        };
        run::run(&request, &host)
    });
    (Detached { containers, vmm, run, _root: root }, runs)
}

impl Detached {
    fn listed(&self) -> Listed {
        self.containers.find("web").unwrap()
    }

    fn ask(&self, request: &Request) -> Result<Connection, AskError> {
        ask(&self.listed(), request)
    }

    fn end(self) -> (Result<u8, Failure>, Option<Record>) {
        let result = self.run.join().unwrap();
        (result, self.containers.find("web").ok().map(|listed| listed.record))
    }

    fn log(&self) -> String {
        let mut text = String::new();
        let mut reader = Reader::open(self.listed().directory()).unwrap();
        let mut show = |line: &crate::runtime::logs::Line<'_>| {
            text += &line.log;
            Ok(())
        };
        reader.show(&Query::default(), Follow::No, &mut show).unwrap();
        text
    }
}

/// A process that ends with the first signal it gets.
fn until_signal(world: &World) -> i32 {
    128 + i32::from(world.signals.read(1)[0])
}

fn refused(result: Result<Connection, AskError>) -> String {
    match result {
        Err(AskError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_it_writes_is_kept_and_told_to_those_attached_with_its_end() {
    let web = detached(
        |request| request.interactive = true,
        vec![running(|world| {
            world.stdout.write_all(b"early\n");
            let typed = world.stdin.read(100);
            world.stdout.write_all(&typed);
            world.stderr.write_all(b"bad");
            9
        })],
    );
    let attached = web.ask(&Request::Attach).unwrap();
    let waiting = web.ask(&Request::Wait).unwrap();
    attached.send(Kind::Stdin, b"typed\n").unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = loop {
        match attached.next().unwrap() {
            News::Stdout(bytes) => out.extend(bytes),
            News::Stderr(bytes) => err.extend(bytes),
            News::Exit(status) => break status,
        }
    };
    assert!(out.ends_with(b"typed\n"), "{out:?}");
    assert_eq!((err.as_slice(), status), (&b"bad"[..], 9));
    assert_eq!(waiting.exit().unwrap(), 9);
    assert!(web.listed().wait_for_end(Duration::from_secs(20)));
    let log = web.log();
    assert!(log.starts_with("early\ntyped\n") || log.contains("bad"), "{log}");
    assert_eq!(log.len(), "early\ntyped\nbad".len());
    assert!(matches!(web.ask(&Request::Attach), Err(AskError::NotRunning(_))));
    let (result, record) = web.end();
    assert_eq!(result.unwrap(), 9);
    let record = record.unwrap();
    assert_eq!((record.status, record.exit_code), (Status::Exited, Some(9)));
    assert!(record.runtime_directory.as_os_str().is_empty());
}

#[test]
fn the_command_that_started_it_sees_its_first_word_and_hears_that_it_runs() {
    let (web, runs) = begun(
        |request| request.mode = Mode::Attached(Capacity::default()),
        vec![running(|world| {
            world.stdout.write_all(b"first");
            until_signal(world)
        })],
    );
    let until = Instant::now() + Duration::from_secs(20);
    let ask = |request: &Request| loop {
        // Until it listens.
        match web.containers.find("web").map(|listed| ask(&listed, request)) {
            Ok(Ok(connection)) => break connection,
            _ if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    // Somebody else is not who it waits for.
    let other = ask(&Request::Attach);
    assert!(runs.recv_timeout(Duration::from_millis(300)).is_err(), "it runs and nobody sees it");
    let own = ask(&Request::Own);
    runs.recv_timeout(Duration::from_secs(20)).expect("it runs");
    for connection in [&own, &other] {
        assert!(matches!(connection.next().unwrap(), News::Stdout(bytes) if bytes == b"first"));
    }
    web.ask(&Request::Stop { seconds: None }).unwrap();
    assert_eq!(own.exit().unwrap(), 143);
    assert_eq!(web.end().0.unwrap(), 143);
}

#[test]
fn a_stop_is_its_stop_signal_and_no_restart() {
    let web = detached(
        |request| {
            request.restart = Restart::Always;
            request.stop.signal = Some(crate::agent::Signal::INT);
        },
        vec![running(until_signal), running(until_signal)],
    );
    web.ask(&Request::Stop { seconds: None }).unwrap();
    let vmm = Arc::clone(&web.vmm);
    let (result, record) = web.end();
    assert_eq!(result.unwrap(), 128 + 2);
    assert_eq!((record.as_ref().unwrap().status, record.unwrap().restarts), (Status::Exited, 0));
    assert_eq!(vmm.scripts.lock().unwrap().len(), 1, "it was not started again");
}

#[test]
fn what_ignores_its_stop_signal_is_killed_after_its_time() {
    let web = detached(
        |_| {},
        vec![running(|world| {
            assert_eq!(world.signals.read(1), [15]);
            until_signal(world)
        })],
    );
    web.ask(&Request::Stop { seconds: Some(0) }).unwrap();
    assert_eq!(web.end().0.unwrap(), 137);
}

#[test]
fn pausing_is_done_once_and_shows() {
    let web = detached(|_| {}, vec![running(until_signal)]);
    assert!(refused(web.ask(&Request::Unpause)).contains("not paused"));
    web.ask(&Request::Pause).unwrap();
    assert_eq!(web.listed().record.status, Status::Paused);
    assert!(refused(web.ask(&Request::Pause)).contains("already paused"));
    // A stop lets it go on first, or it could not end.
    let guest = web.vmm.guest.lock().unwrap().clone().unwrap();
    web.ask(&Request::Stop { seconds: Some(5) }).unwrap();
    assert!(guest.was_asked(method::PAUSE_CONTAINER) && guest.was_asked(method::RESUME_CONTAINER));
    assert_eq!(web.end().0.unwrap(), 143);
}

#[test]
fn limits_are_passed_on_and_kept() {
    let web = detached(|_| {}, vec![running(until_signal)]);
    let some = |limits| Request::Update { limits, restart: None };
    web.ask(&some(Limits { memory: Some(64 << 20), ..Limits::default() })).unwrap();
    web.ask(&some(Limits { pids: Some(9), ..Limits::default() })).unwrap();
    web.ask(&Request::Update { limits: Limits::default(), restart: Some(Restart::OnFailure(1)) }).unwrap();
    let record = web.listed().record;
    assert_eq!((record.limits.memory, record.limits.pids), (Some(64 << 20), Some(9)));
    assert_eq!(record.made.restart, Restart::OnFailure(1));
    web.ask(&Request::Stop { seconds: None }).unwrap();
    web.end().0.unwrap();
}

#[test]
fn a_failure_starts_it_again_on_the_same_disk_and_log() {
    let says = |text: &'static [u8], status| {
        running(move |world: &World| {
            world.stdout.write_all(text);
            status
        })
    };
    let web = detached(
        |request| request.restart = Restart::OnFailure(5),
        vec![says(b"first\n", 1), says(b"second\n", 0)],
    );
    assert!(web.listed().wait_for_end(Duration::from_secs(20)));
    assert_eq!(web.log(), "first\nsecond\n");
    let (result, record) = web.end();
    assert_eq!(result.unwrap(), 0);
    assert_eq!((record.as_ref().unwrap().restarts, record.unwrap().exit_code), (1, Some(0)));
}

#[test]
fn a_guest_that_dies_is_a_failure_too() {
    let dies = Script { die_at: Some(method::WAIT_PROCESS), ..running(until_signal) };
    let web = detached(|request| request.restart = Restart::OnFailure(1), vec![dies, running(|_| 0)]);
    let (result, record) = web.end();
    assert_eq!((result.unwrap(), record.unwrap().restarts), (0, 1));
}

#[test]
fn a_stop_between_two_lives_is_the_end() {
    let failing = || running(|_| 1);
    let scripts = std::iter::repeat_with(failing).take(50).collect();
    let web = detached(|request| request.restart = Restart::Always, scripts);
    // By the fourth life the pauses are long enough to be met.
    while web.listed().record.restarts < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    web.ask(&Request::Stop { seconds: None }).unwrap();
    let (_, record) = web.end();
    assert!(record.unwrap().status.is_over());
}

#[test]
fn one_that_goes_away_with_its_end_is_waited_for_all_the_same() {
    let web = detached(|request| request.afterwards = Afterwards::ThrowAway, vec![running(until_signal)]);
    let waiting = web.ask(&Request::Wait).unwrap();
    web.ask(&Request::Signal { number: 9 }).unwrap();
    assert_eq!(waiting.exit().unwrap(), 137);
    assert!(web.end().1.is_none(), "nothing is left");
}

#[test]
fn the_foreground_is_not_attached_to_but_can_be_stopped() {
    let web = detached(|request| request.mode = Mode::Foreground, vec![running(until_signal)]);
    assert!(refused(web.ask(&Request::Attach)).contains("foreground"));
    let update = Request::Update { limits: Limits::default(), restart: Some(Restart::Always) };
    assert!(refused(web.ask(&update)).contains("foreground"));
    web.ask(&Request::Stop { seconds: None }).unwrap();
    assert_eq!(web.end().0.unwrap(), 143);
}

#[test]
fn nonsense_and_crowds_hurt_nobody() {
    let web = detached(|_| {}, vec![running(until_signal)]);
    let socket = web.listed().record.runtime_directory.join(SOCKET);
    let mut crowd: Vec<_> = (0..300).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for (number, stream) in crowd.iter_mut().enumerate() {
        let _ = stream.write_all(&[number as u8; 40]);
    }
    drop(crowd);
    let mut odd = UnixStream::connect(&socket).unwrap();
    super::protocol::send(&mut odd, Kind::Request, b"{\"dance\":1}").unwrap();
    let (_, answer) = super::protocol::receive(&odd).unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("another version"));
    // Those who were turned away come again.
    let stopped = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        web.ask(&Request::Stop { seconds: None }).is_ok()
    });
    assert!(stopped);
    assert_eq!(web.end().0.unwrap(), 143);
}

#[test]
fn commands_that_race_with_each_other_and_the_end_are_all_answered() {
    for round in 0..20 {
        let web = detached(|_| {}, vec![running(until_signal)]);
        let listed = web.listed();
        let requests = [
            Request::Pause,
            Request::Unpause,
            Request::Signal { number: 10 },
            Request::Update { limits: Limits { pids: Some(round), ..Limits::default() }, restart: None },
            Request::Stop { seconds: Some(1) },
            Request::Wait,
            Request::Attach,
        ];
        std::thread::scope(|scope| {
            for request in &requests {
                let listed = &listed;
                scope.spawn(move || {
                    match ask(listed, request) {
                        Ok(connection) if matches!(request, Request::Wait | Request::Attach) => {
                            // An end, unless the container was over before it was followed.
                            let _ = connection.exit();
                        }
                        Ok(_) | Err(AskError::Refused { .. } | AskError::NotRunning(_)) => {}
                        Err(error) => panic!("{request:?}: {error}"),
                    }
                });
            }
        });
        let (result, record) = web.end();
        assert!([138, 143, 137].contains(&result.unwrap()), "round {round}");
        assert_eq!(record.unwrap().status, Status::Exited);
    }
}
