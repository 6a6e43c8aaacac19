//! An appliance on a machine in memory.

use super::world::World;
use crate::agent::*;
use crate::api::appliance::*;
use crate::api::method;
use crate::api::protobuf::Message;
use crate::sys::process::{SIGKILL, SIGTERM};

fn service(name: &str) -> Service {
    let restart = Restart { policy: RestartPolicy::Always.into(), ..Default::default() };
    Service {
        create: World::create_request(name).encode_to_vec(),
        restart: Some(restart),
        log: Some(Log { ring_bytes: 8, console: true, ..Default::default() }),
        ..Default::default()
    }
}

/// An appliance of this one service, which runs: the pids of its holder and its process.
fn begun(service: Service) -> (World, i32, i32) {
    let mut world = World::new();
    assert!(world.agent.begin_appliance(Appliance::default()).is_err(), "nothing to run");
    world.agent.begin_appliance(Appliance { services: vec![service], ..Default::default() }).unwrap();
    let (holder, pid) = come_up(&mut world);
    (world, holder, pid)
}

fn come_up(world: &mut World) -> (i32, i32) {
    world.agent.tick();
    let holder = world.last_pid();
    world.report(holder, &[0]);
    world.agent.tick();
    let pid = world.last_pid();
    world.report(pid, &[]);
    world.agent.tick();
    (holder, pid)
}

fn state(world: &mut World, client: StreamId) -> ServiceStatus {
    let list = world.ask(client, method::LIST_SERVICES, &ListServicesRequest {}).unwrap();
    ListServicesResponse::decode(&list).unwrap().services.remove(0)
}

fn named(name: &str) -> ServiceRequest {
    ServiceRequest { name: name.into() }
}

#[test]
fn a_service_lives_by_the_calls_that_a_client_makes() {
    let (mut world, holder, pid) = begun(service("web"));
    let client = world.client();
    let [_, stdin, stdout, _] = world.agent.system.processes[&pid].map(Option::unwrap);
    assert!(!world.agent.system.streams.contains_key(&stdin), "nobody will write there");
    world.pipe(stdout).incoming.extend(b"one\ntwo\nthree\n");
    world.agent.ready(stdout);
    let log = world.ask(client, method::SERVICE_LOG, &named("web")).unwrap();
    let log = ServiceLogResponse::decode(&log).unwrap();
    assert_eq!((&log.text[..], log.lost_bytes), (&b"three\n"[..], 8));
    let written = world.agent.system.logs["web"];
    assert_eq!(world.pipe(written).outgoing, b"one\ntwo\nthree\n");

    // It ends: what is left of it goes, and after a pause it begins again.
    world.end(pid, 3);
    world.agent.tick();
    assert!(world.agent.system.signals.contains(&(holder, SIGKILL)));
    assert_eq!(state(&mut world, client).state, ServiceState::Stopping.into());
    world.end(holder, 137);
    assert_eq!(world.agent.tick(), Some(100));
    assert!(world.agent.system.mounted.is_empty());
    world.agent.system.time += 100;
    let (holder, pid) = come_up(&mut world);
    let now = state(&mut world, client);
    assert_eq!((now.state, now.restarts, now.last_status), (ServiceState::Running.into(), 1, Some(3)));

    // The orderly end.
    let waiting = world.call(client, method::WAIT_END, &WaitEndRequest {});
    world.agent.asked_to_end(SIGTERM);
    world.agent.tick();
    assert_eq!(world.agent.system.signals.last(), Some(&(pid, SIGTERM)));
    world.end(pid, 0);
    world.agent.tick();
    world.end(holder, 137);
    assert!(!world.agent.is_ending());
    world.agent.tick();
    assert!(world.agent.is_ending());
    let end = WaitEndResponse::decode(world.answers(client)[&waiting].as_ref().unwrap()).unwrap();
    assert_eq!((end.status, end.at_end), (0, AtEnd::PowerOff.into()));
    world.agent.close_logs();
    assert_eq!(
        world.agent.system.streams.keys().copied().collect::<Vec<_>>(),
        [client],
        "no stream is leaked"
    );
}

#[test]
fn a_stop_is_answered_when_it_has_stopped() {
    let (mut world, holder, pid) = begun(service("web"));
    let client = world.client();
    let stopping = world.call(client, method::STOP_SERVICE, &named("web"));
    world.end(pid, 143);
    world.agent.tick();
    assert!(world.answers(client).is_empty());
    world.end(holder, 137);
    assert_eq!(world.agent.tick(), None, "it is not started again");
    assert!(world.answers(client)[&stopping].is_ok());
    assert!(world.ask(client, method::START_SERVICE, &named("web")).is_ok());
    come_up(&mut world);
    assert_eq!(state(&mut world, client).state, ServiceState::Running.into());
}

#[test]
fn a_check_that_takes_too_long_is_ended_and_counts() {
    for is_command in [true, false] {
        let mut checked = service("web");
        checked.health = Some(HealthCheck {
            exec: if is_command { vec!["test".into()] } else { vec![] },
            tcp_port: if is_command { 0 } else { 80 },
            failures: 1,
            ..Default::default()
        });
        let (mut world, _, pid) = begun(checked);
        assert_eq!(world.agent.tick(), Some(1000));
        world.agent.system.time += 1000;
        world.agent.tick();
        let check = world.last_pid();
        assert!(check > pid, "a process checks it");
        if is_command {
            world.report(check, &[]);
        }
        assert_eq!(world.agent.tick(), Some(30_000));
        world.agent.system.time += 30_000;
        world.agent.tick();
        assert!(world.agent.system.signals.contains(&(check, SIGKILL)));
        assert_eq!(world.agent.system.signals.last(), Some(&(pid, SIGTERM)), "it is of no use");
    }
}

#[test]
fn one_that_talks_without_end_leaves_room_for_others() {
    let (mut world, _, pid) = begun(service("web"));
    let stdout = world.agent.system.processes[&pid][2].unwrap();
    world.pipe(stdout).incoming.extend(std::iter::repeat_n(b'x', 3 * TURNS * CHUNK));
    world.agent.ready(stdout);
    let left = world.pipe(stdout).incoming.len();
    assert!(left >= 2 * TURNS * CHUNK, "{left}");
    assert_eq!(world.agent.tick(), Some(0), "it goes on after the others");
    while world.agent.tick() == Some(0) {}
    assert!(world.pipe(stdout).incoming.is_empty());
}
