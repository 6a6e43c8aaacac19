//! Random calls and events, in any order.

use proptest::prelude::*;

use super::world::World;
use crate::agent::StreamId;
use crate::api::agent as api;
use crate::api::method;
use crate::api::oci::Process as OciProcess;

#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Call(usize, usize, Vec<u8>),
    Report(usize, Vec<u8>),
    End(usize, i32),
    Output(usize, usize, Vec<u8>),
    Hang,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..30);
    prop_oneof![
        1 => bytes().prop_map(Step::Bytes),
        12 => (0..METHODS.len(), 0usize..3, bytes()).prop_map(|(method, id, raw)| Step::Call(method, id, raw)),
        4 => (any::<usize>(), prop_oneof![Just(vec![0]), Just(vec![]), bytes()])
            .prop_map(|(pid, text)| Step::Report(pid, text)),
        3 => (any::<usize>(), 0..256).prop_map(|(pid, status)| Step::End(pid, status)),
        4 => (any::<usize>(), 2usize..4, bytes()).prop_map(|(pid, stream, data)| Step::Output(pid, stream, data)),
        1 => Just(Step::Hang),
    ]
}

const METHODS: [&str; 13] = [
    method::STAT_FILE,
    method::CREATE_CONTAINER,
    method::START_CONTAINER,
    method::EXEC_PROCESS,
    method::SIGNAL_PROCESS,
    method::WAIT_PROCESS,
    method::READ_STDOUT,
    method::READ_STDERR,
    method::WRITE_STDIN,
    method::CLOSE_STDIN,
    method::TTY_WIN_RESIZE,
    method::REMOVE_CONTAINER,
    method::PAUSE_CONTAINER,
];

impl World {
    fn any_call(&mut self, client: StreamId, method: &str, which: usize, raw: &[u8]) {
        let id = ["a", "b", "c"][which];
        let (container_id, exec_id) = (String::from(id), String::from(if raw.len() > 15 { "x" } else { id }));
        let process = Some(OciProcess { args: vec!["x".into()], ..Default::default() });
        let length = raw.len() as u32;
        match method {
            method::CREATE_CONTAINER => self.call(client, method, &Self::create_request(id)),
            method::EXEC_PROCESS => {
                let call = api::ExecProcessRequest {
                    container_id,
                    exec_id: "x".into(),
                    process,
                    ..Default::default()
                };
                self.call(client, method, &call)
            }
            method::SIGNAL_PROCESS => self.call(
                client,
                method,
                &api::SignalProcessRequest { container_id, exec_id, signal: length },
            ),
            method::READ_STDOUT | method::READ_STDERR => {
                self.call(client, method, &api::ReadStreamRequest { container_id, exec_id, len: length })
            }
            method::WRITE_STDIN => self.call(
                client,
                method,
                &api::WriteStreamRequest { container_id, exec_id, data: raw.into() },
            ),
            // The rest begin with the two names, as a wait does; what follows is missing or any bytes.
            method => self.call(client, method, &api::WaitProcessRequest { container_id, exec_id }),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_sequence_of_calls_and_events_breaks_it(steps in proptest::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        let mut client = world.client();
        for step in steps {
            let pids: Vec<i32> = world.agent.system.processes.keys().copied().collect();
            let pick = |at: usize| (!pids.is_empty()).then(|| pids[at % pids.len()]);
            match step {
                Step::Bytes(bytes) => {
                    if let Some(pipe) = world.agent.system.streams.get_mut(&client) {
                        pipe.incoming.extend(bytes);
                        world.agent.ready(client);
                    }
                    // The stream of frames is out of step: that client is of no more use.
                    world.agent.disconnected(client);
                    client = world.client();
                }
                Step::Call(method, id, raw) => world.any_call(client, METHODS[method], id, &raw),
                Step::Report(pid, text) => {
                    if let Some(pid) = pick(pid)
                        && let Some(report) = world.agent.system.processes[&pid][0]
                        && world.agent.system.streams.contains_key(&report)
                    {
                        world.report(pid, &text);
                    }
                }
                Step::End(pid, status) => {
                    if let Some(pid) = pick(pid) {
                        world.end(pid, status);
                        world.agent.system.processes.remove(&pid);
                    }
                }
                Step::Output(pid, which, bytes) => {
                    if let Some(stream) = pick(pid).and_then(|pid| world.agent.system.processes[&pid][which])
                        && let Some(pipe) = world.agent.system.streams.get_mut(&stream)
                    {
                        pipe.incoming.extend(bytes);
                        world.agent.ready(stream);
                    }
                }
                Step::Hang => {
                    world.agent.disconnected(client);
                    client = world.client();
                }
            }
            if world.agent.system.streams.contains_key(&client) {
                world.answers(client);
            }
        }
        // Whatever happened, everything can be ended and removed, and nothing is left.
        for id in ["a", "b", "c"] {
            let request = api::RemoveContainerRequest { container_id: id.into(), timeout: 0 };
            world.call(client, method::REMOVE_CONTAINER, &request);
        }
        let pids: Vec<i32> = world.agent.system.processes.keys().copied().collect();
        for pid in pids {
            world.end(pid, 137);
        }
        prop_assert!(world.agent.containers.iter().next().is_none());
        prop_assert!(world.agent.system.mounted.is_empty());
        prop_assert_eq!(world.agent.system.streams.keys().copied().collect::<Vec<_>>(), vec![client]);
    }
}
