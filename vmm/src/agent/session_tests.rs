//! The session against an agent in this process.

use super::*;
use crate::agent::fake::{self, Script, running};
use ferry_init::api::method;
use ferry_init::api::oci;
use std::fs::File;
use std::io::{Read, Write};
use std::time::Instant;

fn spec(terminal: bool) -> ContainerSpec {
    let process = oci::Process { terminal, args: vec!["prog".into()], ..Default::default() };
    let oci = Spec { process: Some(process), hostname: "box".into(), ..Default::default() };
    ContainerSpec { id: "c1".into(), oci, ..Default::default() }
}

fn pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write)
}

/// The container's ends, and the test's: stdin's writer, stdout's and stderr's readers.
fn streams() -> (Stdio, File, File, File) {
    let (stdin, feed) = pipe();
    let (out, stdout) = pipe();
    let (err, stderr) = pipe();
    let stdio = Stdio {
        stdin: Some(stdin.into()),
        stdout: Some(stdout),
        stderr: Some(stderr),
        keyboard: Keyboard::Untouched,
    };
    (stdio, feed.into(), out, err)
}

fn contents(mut file: File) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn run(script: Script, stdio: Stdio) -> Result<u8, RunError> {
    let (client, _) = fake::start(script);
    run_container(&client, &spec(false), &stdio, Control::new(), &|_| {})
}

#[test]
fn streams_are_kept_apart_and_the_status_is_the_processs() {
    let (stdio, _feed, out, err) = streams();
    let (out, err) = (contents(out), contents(err));
    let script = running(|world| {
        world.stdout.write_all(b"to stdout\0\xff");
        world.stderr.write_all(b"to stderr");
        7
    });
    assert_eq!(run(script, stdio).unwrap(), 7);
    assert_eq!(out.join().unwrap(), b"to stdout\0\xff");
    assert_eq!(err.join().unwrap(), b"to stderr");
}

#[test]
fn stdin_arrives_byte_for_byte_and_ends() {
    let (stdio, mut feed, out, _err) = streams();
    let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i ^ (i >> 7)) as u8).collect();
    let out = contents(out);
    let given = bytes.clone();
    let writer = std::thread::spawn(move || feed.write_all(&given).unwrap());
    let cat = running(|world| {
        loop {
            let data = world.stdin.read(70_000);
            if data.is_empty() {
                return 0;
            }
            world.stdout.write_all(&data);
        }
    });
    assert_eq!(run(cat, stdio).unwrap(), 0);
    writer.join().unwrap();
    assert!(out.join().unwrap() == bytes);
}

#[test]
fn without_stdin_the_process_sees_its_end_at_once() {
    let (mut stdio, _feed, _out, _err) = streams();
    stdio.stdin = None;
    assert_eq!(run(running(|world| world.stdin.read(1).len() as i32 + 3), stdio).unwrap(), 3);
}

#[test]
fn an_idle_stdin_does_not_hold_the_end_up() {
    let (stdio, feed, _out, _err) = streams();
    let before = Instant::now();
    assert_eq!(run(running(|_| 0), stdio).unwrap(), 0);
    assert!(before.elapsed() < Duration::from_secs(10));
    drop(feed);
}

#[test]
fn stdin_that_is_not_read_does_not_hold_the_end_up() {
    let (stdio, mut feed, _out, _err) = streams();
    let writer = std::thread::spawn(move || feed.write_all(&vec![0; 4 << 20]).is_err());
    let script = running(|_| {
        std::thread::sleep(Duration::from_millis(100));
        5
    });
    assert_eq!(run(script, stdio).unwrap(), 5);
    assert!(writer.join().unwrap(), "the writer was told that nobody reads");
}

#[test]
fn signals_reach_the_process_in_order_and_are_counted_until_answered() {
    let (stdio, _feed, _out, _err) = streams();
    let (client, _) = fake::start(running(|world| {
        let first = world.signals.read(1)[0];
        let second = world.signals.read(1)[0];
        i32::from(first) * 10 + i32::from(second)
    }));
    let control = Control::new();
    let remote = control.remote();
    remote.signal(Signal::INT);
    remote.signal(Signal::TERM);
    assert_eq!(remote.unanswered(), 2);
    assert_eq!(run_container(&client, &spec(false), &stdio, control, &|_| {}).unwrap(), 35);
    assert_eq!(remote.unanswered(), 0);
}

#[test]
fn a_terminal_is_resized_and_has_one_stream() {
    let (stdio, _feed, out, _err) = streams();
    let out = contents(out);
    let (client, record) = fake::start(running(|world| {
        let size = [world.sizes.read(1)[0], world.sizes.read(1)[0]];
        world.stdout.write_all(&size);
        0
    }));
    let control = Control::new();
    control.remote().resize(Window { rows: 24, columns: 80 });
    assert_eq!(run_container(&client, &spec(true), &stdio, control, &|_| {}).unwrap(), 0);
    drop(stdio);
    assert_eq!(out.join().unwrap(), [24, 80]);
    assert!(!record.lock().unwrap().methods.iter().any(|m| m == method::READ_STDERR));
}

#[test]
fn nobody_reading_stdout_is_a_sigpipe_for_the_process() {
    let (stdio, _feed, out, _err) = streams();
    drop(out);
    let endless = running(|world| {
        let done = std::sync::atomic::AtomicBool::new(false);
        let done = &done;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    world.stdout.write_all(&[b'y'; 1000]);
                }
            });
            let signal = world.signals.read(1)[0];
            done.store(true, Ordering::Relaxed);
            128 + i32::from(signal)
        })
    });
    assert_eq!(run(endless, stdio).unwrap(), 128 + 13);
}

#[test]
fn output_that_cannot_be_written_is_a_failure_of_ours() {
    let (mut stdio, _feed, _out, _err) = streams();
    stdio.stdout = Some(File::options().write(true).open("/dev/full").unwrap().into());
    let script = running(|world| {
        world.stdout.write_all(b"lost");
        128 + i32::from(world.signals.read(1)[0])
    });
    let error = run(script, stdio).unwrap_err();
    assert!(matches!(error, RunError::Output(_)), "{error}");
    assert_eq!(error.exit_status(), 125);
}

#[test]
fn a_program_that_is_missing_or_not_executable_has_its_own_status() {
    for (method, code, status) in [
        (method::START_CONTAINER, Code::NotFound, 127),
        (method::CREATE_CONTAINER, Code::NotFound, 127),
        (method::START_CONTAINER, Code::PermissionDenied, 126),
        (method::START_CONTAINER, Code::Internal, 125),
        (method::CREATE_SANDBOX, Code::NotFound, 125),
        (method::WAIT_PROCESS, Code::NotFound, 125),
    ] {
        let (stdio, _feed, _out, _err) = streams();
        let script = Script { refuse: Some((method, code, "its words")), ..running(|_| 0) };
        let error = run(script, stdio).unwrap_err();
        assert_eq!(error.exit_status(), status, "{method} {code:?}: {error}");
        assert!(error.to_string().contains("its words"));
    }
}

#[test]
fn a_guest_that_dies_ends_the_session_wherever_it_is() {
    for method in [
        method::CREATE_SANDBOX,
        method::CREATE_CONTAINER,
        method::START_CONTAINER,
        method::WAIT_PROCESS,
        method::READ_STDOUT,
    ] {
        let (stdio, _feed, _out, _err) = streams();
        let script = Script { die_at: Some(method), ..running(|world| world.signals.read(1).len() as i32) };
        let error = run(script, stdio).unwrap_err();
        assert!(matches!(error, RunError::Lost(_)), "{method}: {error}");
    }
}

#[test]
fn progress_is_told() {
    let (stdio, _feed, _out, _err) = streams();
    let (client, _) = fake::start(running(|_| 300));
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |step| seen.lock().unwrap().push(step);
    run_container(&client, &spec(false), &stdio, Control::new(), &progress).unwrap();
    assert_eq!(seen.into_inner().unwrap(), [Progress::Made, Progress::Started, Progress::Ended(44)]);
}

#[test]
fn taking_down_removes_the_container_before_the_sandbox() {
    let (client, record) = fake::start(Script::default());
    take_down(&client, "c1", Duration::from_secs(5)).unwrap();
    assert_eq!(record.lock().unwrap().methods, [method::REMOVE_CONTAINER, method::DESTROY_SANDBOX]);
}
