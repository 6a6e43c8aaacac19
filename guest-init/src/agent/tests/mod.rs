//! The agent with a machine in memory.

mod appliance;
mod chaos;
mod world;

use world::World;

use super::connection::OUTPUT_LIMIT;
use super::*;
use crate::api::oci::Process as OciProcess;
use crate::api::protobuf::Message;
use crate::api::ttrpc::{Code, EOF};
use crate::api::{agent as api, guest, health, method};
use crate::fault::fault;
use crate::sys::process::{Exit, SIGKILL};

fn read(id: &str, length: u32) -> api::ReadStreamRequest {
    api::ReadStreamRequest { container_id: id.into(), exec_id: id.into(), len: length }
}

fn wait(id: &str) -> api::WaitProcessRequest {
    api::WaitProcessRequest { container_id: id.into(), exec_id: id.into() }
}

fn data(answer: &Result<Vec<u8>, (Code, String)>) -> Vec<u8> {
    api::ReadStreamResponse::decode(answer.as_ref().unwrap().as_slice()).unwrap().data
}

fn status(answer: &Result<Vec<u8>, (Code, String)>) -> i32 {
    api::WaitProcessResponse::decode(answer.as_ref().unwrap().as_slice()).unwrap().status
}

#[test]
fn says_that_it_serves_and_what_it_is() {
    let mut world = World::new();
    let client = world.client();
    let check = world.ask(client, method::CHECK, &health::CheckRequest::default()).unwrap();
    let serving = health::ServingStatus::Serving as i32;
    assert_eq!(health::HealthCheckResponse::decode(&check[..]).unwrap().status, serving);
    assert_eq!(world.ask(client, method::GET_METRICS, &api::Empty {}).unwrap(), b"metrics");
    let unknown = world.ask(client, "FlyToTheMoon", &api::Empty {}).unwrap_err();
    assert_eq!(unknown.0, Code::Unimplemented);
}

#[test]
fn a_container_lives_from_creation_to_removal() {
    let mut world = World::new();
    let client = world.client();
    let (holder, pid) = world.running(client, "web");
    let waiting = world.call(client, method::WAIT_PROCESS, &wait("web"));
    let reading = world.call(client, method::READ_STDOUT, &read("web", 100));
    assert!(world.answers(client).is_empty(), "both wait");
    let stdout = world.agent.system.processes[&pid][2].unwrap();
    world.pipe(stdout).incoming.extend(b"hello");
    world.agent.ready(stdout);
    assert_eq!(data(&world.answers(client)[&reading]), b"hello");
    world.end(pid, 7);
    assert_eq!(status(&world.answers(client)[&waiting]), 7);
    let eof = world.ask(client, method::READ_STDOUT, &read("web", 100)).unwrap_err();
    assert_eq!(eof, (Code::InvalidArgument, EOF.into()));
    let remove = api::RemoveContainerRequest { container_id: "web".into(), timeout: 0 };
    let removing = world.call(client, method::REMOVE_CONTAINER, &remove);
    assert!(world.answers(client).is_empty(), "the holder is still there");
    assert!(world.agent.system.signals.contains(&(holder, SIGKILL)));
    world.end(holder, 137);
    assert!(world.answers(client)[&removing].is_ok());
    assert!(world.agent.system.mounted.is_empty());
    let open: Vec<_> = world.agent.system.streams.keys().copied().collect();
    assert_eq!(open, [client], "no stream is leaked");
}

#[test]
fn a_removal_is_waited_for_no_longer_than_asked() {
    let mut world = World::new();
    let client = world.client();
    let (holder, pid) = world.running(client, "web");
    let remove = api::RemoveContainerRequest { container_id: "web".into(), timeout: 2 };
    let removing = world.call(client, method::REMOVE_CONTAINER, &remove);
    assert_eq!(world.agent.tick(), Some(2000));
    world.agent.system.time += 2000;
    assert_eq!(world.agent.tick(), None);
    assert_eq!(world.answers(client)[&removing].as_ref().unwrap_err().0, Code::DeadlineExceeded);
    // It goes on all the same.
    world.end(pid, 137);
    world.end(holder, 137);
    assert!(world.agent.containers.iter().next().is_none());
}

#[test]
fn a_program_that_cannot_run_is_the_start_s_error() {
    let mut world = World::new();
    let client = world.client();
    world.call(client, method::CREATE_CONTAINER, &World::create_request("c"));
    let holder = world.last_pid();
    world.report(holder, &[0]);
    let starting =
        world.call(client, method::START_CONTAINER, &api::StartContainerRequest { container_id: "c".into() });
    let pid = world.last_pid();
    // The end is seen before the report: the report still counts.
    let report = world.agent.system.processes[&pid][0].unwrap();
    world.pipe(report).incoming.extend(fault!(NotFound, "exec x: not found").encode());
    world.pipe(report).ended = true;
    world.agent.child_ended(Exit { pid, status: 127 });
    assert_eq!(world.answers(client)[&starting], Err((Code::NotFound, "exec x: not found".into())));
}

#[test]
fn a_failed_set_up_is_answered_once_and_leaves_nothing() {
    let mut world = World::new();
    let client = world.client();
    let creating = world.call(client, method::CREATE_CONTAINER, &World::create_request("c"));
    let holder = world.last_pid();
    world.report(holder, &fault!(Internal, "mount: no").encode());
    world.end(holder, 1);
    assert_eq!(world.answers(client)[&creating], Err((Code::Internal, "mount: no".into())));
    assert!(world.agent.system.mounted.is_empty());
    assert_eq!(world.agent.system.streams.len(), 1);
}

#[test]
fn a_missing_device_is_waited_for_but_not_for_ever() {
    let mut world = World::new();
    let client = world.client();
    world.agent.system.missing_device = true;
    let late = world.call(client, method::CREATE_CONTAINER, &World::create_request("late"));
    assert!(world.agent.tick().is_some_and(|wait| wait > 0), "asks to be called again, later");
    world.agent.system.missing_device = false;
    assert_eq!(world.agent.tick(), None);
    world.report(world.last_pid(), &[0]);
    assert!(world.answers(client)[&late].is_ok());
    world.agent.system.missing_device = true;
    let never = world.call(client, method::CREATE_CONTAINER, &World::create_request("never"));
    world.agent.system.time += 60_000;
    assert_eq!(world.agent.tick(), None);
    assert!(world.answers(client)[&never].is_err());
}

#[test]
fn a_client_that_reads_no_answers_holds_up_only_itself() {
    let mut world = World::new();
    let (slow, quick) = (world.client(), world.client());
    let (_, pid) = world.running(quick, "c");
    let [_, _, stdout, stderr] =
        world.agent.system.processes[&pid].map(|stream| stream.unwrap_or(StreamId(0)));
    world.pipe(slow).room = 0;
    world.pipe(stdout).incoming.extend(std::iter::repeat_n(7, 2 * OUTPUT_LIMIT));
    for _ in 0..20 {
        world.call(slow, method::READ_STDOUT, &read("c", 1 << 20));
    }
    let left = world.pipe(stdout).incoming.len();
    assert!(left > 0, "what the client does not take stays with the process");
    world.pipe(stderr).incoming.extend(b"err");
    let answer = world.ask(quick, method::READ_STDERR, &read("c", 10));
    assert_eq!(data(&answer), b"err");
    // It takes its answers after all: everything comes, in order.
    world.pipe(slow).room = usize::MAX;
    world.agent.ready(slow);
    while world.agent.tick() == Some(0) {}
    let total: usize = world.answers(slow).values().map(|answer| data(answer).len()).sum();
    assert_eq!(total, 2 * OUTPUT_LIMIT - world.pipe(stdout).incoming.len());
    assert!(world.pipe(stdout).incoming.is_empty());
}

#[test]
fn a_client_that_is_gone_takes_no_data_with_it() {
    let mut world = World::new();
    let (gone, stays) = (world.client(), world.client());
    let (_, pid) = world.running(stays, "c");
    world.call(gone, method::READ_STDOUT, &read("c", 10));
    world.pipe(gone).ended = true;
    world.agent.ready(gone);
    let reading = world.call(stays, method::READ_STDOUT, &read("c", 10));
    let stdout = world.agent.system.processes[&pid][2].unwrap();
    world.pipe(stdout).incoming.extend(b"data");
    world.agent.ready(stdout);
    assert_eq!(data(&world.answers(stays)[&reading]), b"data");
}

#[test]
fn stdin_is_written_whole_and_in_order_before_it_closes() {
    let mut world = World::new();
    let client = world.client();
    let (_, pid) = world.running(client, "c");
    let stdin = world.agent.system.processes[&pid][1].unwrap();
    world.pipe(stdin).room = 3;
    let write = |text: &[u8]| api::WriteStreamRequest {
        container_id: "c".into(),
        exec_id: "c".into(),
        data: text.into(),
    };
    let first = world.call(client, method::WRITE_STDIN, &write(b"abcde"));
    let second = world.call(client, method::WRITE_STDIN, &write(b"fg"));
    let close = api::CloseStdinRequest { container_id: "c".into(), exec_id: "c".into() };
    world.ask(client, method::CLOSE_STDIN, &close).unwrap();
    assert!(world.answers(client).is_empty());
    let refused = world.ask(client, method::WRITE_STDIN, &write(b"late")).unwrap_err();
    assert_eq!(refused.0, Code::FailedPrecondition);
    assert_eq!(world.pipe(stdin).outgoing, b"abc");
    world.pipe(stdin).room = 3;
    world.agent.ready(stdin);
    assert_eq!(world.answers(client).keys().copied().collect::<Vec<_>>(), [first]);
    world.pipe(stdin).room = 1;
    world.agent.ready(stdin);
    assert_eq!(world.answers(client).keys().copied().collect::<Vec<_>>(), [second]);
    assert!(!world.agent.system.streams.contains_key(&stdin), "closed when all is written");
}

#[test]
fn ended_execs_that_were_waited_for_are_forgotten() {
    let mut world = World::new();
    let client = world.client();
    let (_, _) = world.running(client, "c");
    let before = world.agent.system.streams.len();
    for n in 0..1000 {
        let name = format!("e{n}");
        let process = OciProcess { args: vec!["true".into()], ..Default::default() };
        let exec = api::ExecProcessRequest {
            container_id: "c".into(),
            exec_id: name.clone(),
            process: Some(process),
            ..Default::default()
        };
        world.call(client, method::EXEC_PROCESS, &exec);
        let pid = world.last_pid();
        world.report(pid, &[]);
        world.end(pid, n % 256);
        let wait = api::WaitProcessRequest { container_id: "c".into(), exec_id: name };
        assert_eq!(status(&world.ask(client, method::WAIT_PROCESS, &wait)), n % 256);
    }
    assert_eq!(world.agent.system.streams.len(), before);
}

#[test]
fn a_terminal_has_one_output_and_a_size() {
    let mut world = World::new();
    let client = world.client();
    let mut request = World::create_request("t");
    request.oci.as_mut().unwrap().process.as_mut().unwrap().terminal = true;
    world.call(client, method::CREATE_CONTAINER, &request);
    world.report(world.last_pid(), &[0]);
    world.call(client, method::START_CONTAINER, &api::StartContainerRequest { container_id: "t".into() });
    world.report(world.last_pid(), &[]);
    world.answers(client);
    assert_eq!(world.ask(client, method::READ_STDERR, &read("t", 9)).unwrap_err().1, EOF);
    let size =
        api::TtyWinResizeRequest { container_id: "t".into(), exec_id: "t".into(), row: 24, column: 80 };
    world.ask(client, method::TTY_WIN_RESIZE, &size).unwrap();
    assert_eq!(world.agent.system.size, Some((24, 80)));
}

#[test]
fn destroying_the_sandbox_is_answered_before_the_end() {
    let mut world = World::new();
    let client = world.client();
    assert!(world.ask(client, method::DESTROY_SANDBOX, &api::DestroySandboxRequest {}).is_ok());
    assert!(world.agent.is_ending());
}

#[test]
fn a_child_s_answer_is_the_call_s_however_it_comes() {
    let mut world = World::new();
    let client = world.client();
    let (_, _) = world.running(client, "c");
    let stat = || crate::api::ferry::StatFileRequest { container_id: "c".into(), ..Default::default() };
    let asked = world.call(client, method::STAT_FILE, &stat());
    let child = world.last_pid();
    let report = world.agent.system.processes[&child][0].unwrap();
    world.pipe(report).incoming.extend([0, 1]);
    world.agent.ready(report);
    assert!(world.answers(client).is_empty(), "there may be more");
    world.agent.child_ended(Exit { pid: child, status: 0 });
    world.report(child, &[2]);
    assert_eq!(world.answers(client)[&asked], Ok(vec![1, 2]));
    assert!(
        !world.agent.system.signals.contains(&(child, SIGKILL)),
        "another process may have its number by now"
    );
    for (said, fault) in
        [(fault!(FailedPrecondition, "no").encode(), Code::FailedPrecondition), (vec![], Code::Internal)]
    {
        let asked = world.call(client, method::STAT_FILE, &stat());
        world.report(world.last_pid(), &said);
        assert_eq!(world.answers(client)[&asked].as_ref().unwrap_err().0, fault);
    }
}

#[test]
fn children_end_with_the_client_that_sent_them() {
    let mut world = World::new();
    let (gone, stays) = (world.client(), world.client());
    let (_, _) = world.running(stays, "c");
    let stat = crate::api::ferry::StatFileRequest { container_id: "c".into(), ..Default::default() };
    let before = world.agent.system.streams.len();
    for _ in 0..64 {
        world.call(gone, method::STAT_FILE, &stat);
    }
    let child = world.last_pid();
    assert_eq!(world.ask(stays, method::STAT_FILE, &stat).unwrap_err().0, Code::ResourceExhausted);
    world.agent.disconnected(gone);
    assert!(world.agent.system.signals.contains(&(child, SIGKILL)));
    assert_eq!(world.agent.system.streams.len(), before - 1);
}

#[test]
fn a_container_is_looked_into_only_while_it_stands() {
    let mut world = World::new();
    let client = world.client();
    world.call(client, method::CREATE_CONTAINER, &World::create_request("c"));
    let stat =
        |id: &str| crate::api::ferry::StatFileRequest { container_id: id.into(), ..Default::default() };
    assert_eq!(world.ask(client, method::STAT_FILE, &stat("c")).unwrap_err().0, Code::FailedPrecondition);
    assert_eq!(world.ask(client, method::STAT_FILE, &stat("d")).unwrap_err().0, Code::NotFound);
}

#[test]
fn a_container_that_runs_out_of_memory_is_told_once() {
    let mut world = World::new();
    let client = world.client();
    let (_, _) = world.running(client, "c");
    let memory = world.agent.containers.get("c").unwrap().memory.unwrap();
    let asked = world.call(client, method::GET_OOM_EVENT, &api::Empty {});
    world.agent.ready(memory);
    assert!(world.answers(client).is_empty(), "memory was short, but nobody was killed");
    let event = |answer: &[u8]| guest::OomEvent::decode(answer).unwrap().container_id;
    world.agent.system.memory_kills = 1;
    world.agent.ready(memory);
    assert_eq!(event(world.answers(client)[&asked].as_ref().unwrap()), "c");
    // Nobody asks just now: it is kept, once.
    for kills in [2, 3] {
        world.agent.system.memory_kills = kills;
        world.agent.ready(memory);
    }
    assert_eq!(event(&world.ask(client, method::GET_OOM_EVENT, &api::Empty {}).unwrap()), "c");
    world.call(client, method::GET_OOM_EVENT, &api::Empty {});
    assert!(world.answers(client).is_empty());
}
