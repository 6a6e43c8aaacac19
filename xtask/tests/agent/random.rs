//! Calls in any order, by a model: whatever was done before, each call's answer is the one that the model expects, and in the
//! end everything can be removed.

use std::cell::Cell;
use std::collections::BTreeMap;

use ferry_init::api::agent::{PauseContainerRequest, ResumeContainerRequest, StatsContainerRequest};
use ferry_init::api::method;
use ferry_init::api::stats::StatsContainerResponse;
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::{CallError, Client};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::guest::*;
use crate::road::size;

/// What is done, to one of three containers and one of three processes in it, and to the pod that containers may be in.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Makes the container that holds a pod's namespaces and is never started.
    Pod,
    /// Removes it, and so ends whatever runs in the pod.
    Unpod,
    /// A container on its own.
    Create(u8),
    /// One in the pod.
    Join(u8),
    Start(u8),
    Exec(u8, u8),
    /// Kills a further process and waits for its end.
    Kill(u8, u8),
    /// The same with the container's first.
    End(u8),
    Pause(u8),
    Resume(u8),
    Stats(u8),
    /// Counts the processes that a container sees: its own, or all of the pod's.
    Look(u8),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (container, process) = (0u8..3, 0u8..3);
    prop_oneof![
        1 => Just(Step::Pod),
        1 => Just(Step::Unpod),
        2 => container.clone().prop_map(Step::Create),
        3 => container.clone().prop_map(Step::Join),
        3 => container.clone().prop_map(Step::Start),
        4 => (container.clone(), process.clone()).prop_map(|(c, p)| Step::Exec(c, p)),
        3 => (container.clone(), process).prop_map(|(c, p)| Step::Kill(c, p)),
        1 => container.clone().prop_map(Step::End),
        1 => container.clone().prop_map(Step::Pause),
        1 => container.clone().prop_map(Step::Resume),
        1 => container.clone().prop_map(Step::Stats),
        2 => container.clone().prop_map(Step::Look),
        1 => container.prop_map(Step::Remove),
    ]
}

/// A container, as the model has it.
#[derive(Debug, Default)]
struct Model {
    in_pod: bool,
    started: bool,
    ended: bool,
    paused: bool,
    /// Further processes that run.
    processes: Vec<u8>,
}

impl Model {
    fn runs(&self) -> bool {
        self.started && !self.ended
    }

    fn end(&mut self) {
        self.ended = true;
        self.processes.clear();
    }

    /// How many of its processes there are.
    fn count(&self) -> usize {
        if self.runs() { 1 + self.processes.len() } else { 0 }
    }
}

/// The guest's containers, real and modelled, by their numbers.
struct Pair<'a> {
    client: &'a Client,
    round: u32,
    models: BTreeMap<u8, Model>,
    /// Whether there is a pod.
    pod: bool,
}

impl Pair<'_> {
    fn pod_id(&self) -> String {
        format!("random-{}-pod", self.round)
    }

    /// How many processes a container sees.
    fn seen(&self, container: u8) -> usize {
        match self.models.get(&container) {
            Some(model) if model.in_pod => {
                self.models.values().filter(|model| model.in_pod).map(Model::count).sum()
            }
            Some(model) => model.count(),
            None => 0,
        }
    }

    fn id(&self, container: u8) -> String {
        format!("random-{}-{container}", self.round)
    }

    /// What the model says the answer is; `None` where the step is left out, because its answer would have to wait.
    fn expected(&mut self, step: Step) -> Option<Code> {
        let of = |container| self.models.get(&container);
        Some(match step {
            Step::Pod if self.pod => Code::AlreadyExists,
            Step::Pod => Code::Ok,
            // One that waits for its start would end too, and has nobody to say so to.
            Step::Unpod if self.models.values().any(|model| model.in_pod && !model.started) => return None,
            // The frozen die when they thaw.
            Step::Unpod if self.models.values().any(|model| model.in_pod && model.paused) => return None,
            Step::Unpod if self.pod => Code::Ok,
            Step::Unpod => Code::InvalidArgument,
            Step::Create(c) | Step::Join(c) if of(c).is_some() => Code::AlreadyExists,
            Step::Join(_) if !self.pod => Code::FailedPrecondition,
            Step::Create(_) | Step::Join(_) => Code::Ok,
            Step::Start(c) => match of(c) {
                None => Code::InvalidArgument,
                Some(model) if model.started => Code::FailedPrecondition,
                Some(_) => Code::Ok,
            },
            Step::Exec(c, p) => match of(c) {
                None => Code::InvalidArgument,
                // It would begin frozen.
                Some(model) if model.paused => return None,
                Some(model) if !model.runs() => Code::FailedPrecondition,
                Some(model) if model.processes.contains(&p) => Code::AlreadyExists,
                Some(_) => Code::Ok,
            },
            Step::Kill(c, p) => match of(c) {
                Some(model) if model.runs() && model.processes.contains(&p) => Code::Ok,
                // One that was waited for is forgotten, sooner or later.
                Some(model) if model.started => return None,
                _ => Code::InvalidArgument,
            },
            Step::End(c) => match of(c) {
                None => Code::InvalidArgument,
                Some(model) if !model.started => Code::FailedPrecondition,
                Some(_) => Code::Ok,
            },
            Step::Pause(c) | Step::Resume(c) | Step::Stats(c) => match of(c) {
                None => Code::InvalidArgument,
                Some(model) if model.runs() => Code::Ok,
                Some(_) => return None,
            },
            Step::Look(c) => match of(c) {
                Some(model) if model.runs() && !model.paused => Code::Ok,
                _ => return None,
            },
            Step::Remove(c) if of(c).is_none() => Code::InvalidArgument,
            Step::Remove(_) => Code::Ok,
        })
    }

    fn perform(&self, step: Step) -> Result<(), CallError> {
        let client = self.client;
        let ended = |container: &str, process: &str| {
            tell(client, method::SIGNAL_PROCESS, &kill_request(container, process))?;
            let status = wait(client, container, process)?;
            assert_eq!(status, 137, "{step:?}");
            Ok(())
        };
        match step {
            Step::Pod => create(client, &container(&self.pod_id(), &["pause"], |_| {})),
            Step::Unpod => client.remove_container(&self.pod_id(), LONG),
            Step::Join(c) => create(
                client,
                &container(&self.id(c), &["sleep", "1000"], |spec| {
                    joins(spec, &["pid", "ipc", "uts"], &self.pod_id());
                    // Process 1 is the pod's.
                    spec.annotations.insert("io.ferry.pid1".into(), "false".into());
                }),
            ),
            Step::Look(c) => {
                let (_, text) = output(client, &self.id(c), &["sh", "-c", "ps | grep -c 'slee[p] 1000'"]);
                assert_eq!(text.trim(), self.seen(c).to_string(), "what container {c} sees");
                Ok(())
            }
            Step::Create(c) => create(client, &container(&self.id(c), &["sleep", "1000"], |_| {})),
            Step::Start(c) => tell(client, method::START_CONTAINER, &start_request(&self.id(c))),
            Step::Exec(c, p) => {
                let request = further(&self.id(c), &format!("p{p}"), &["sleep", "1000"]);
                tell(client, method::EXEC_PROCESS, &request)
            }
            Step::Kill(c, p) => ended(&self.id(c), &format!("p{p}")),
            Step::End(c) => ended(&self.id(c), &self.id(c)),
            Step::Pause(c) => {
                tell(client, method::PAUSE_CONTAINER, &PauseContainerRequest { container_id: self.id(c) })
            }
            Step::Resume(c) => {
                tell(client, method::RESUME_CONTAINER, &ResumeContainerRequest { container_id: self.id(c) })
            }
            Step::Stats(c) => {
                let request = StatsContainerRequest { container_id: self.id(c) };
                call(client, method::STATS_CONTAINER, &request).map(|_: StatsContainerResponse| ())
            }
            Step::Remove(c) => client.remove_container(&self.id(c), LONG),
        }
    }

    /// What the model is like after a step that was done.
    fn note(&mut self, step: Step) {
        let models = &mut self.models;
        let mut with = |container, change: &dyn Fn(&mut Model)| {
            if let Some(model) = models.get_mut(&container) {
                change(model);
            }
        };
        match step {
            Step::Pod => self.pod = true,
            Step::Unpod => {
                self.pod = false;
                let in_pod = self.models.values_mut().filter(|model| model.in_pod);
                in_pod.for_each(Model::end);
            }
            Step::Create(c) => drop(self.models.insert(c, Model::default())),
            Step::Join(c) => drop(self.models.insert(c, Model { in_pod: true, ..Model::default() })),
            Step::Start(c) => with(c, &|model| model.started = true),
            Step::Exec(c, p) => with(c, &|model| model.processes.push(p)),
            Step::Kill(c, p) => with(c, &|model| model.processes.retain(|other| *other != p)),
            Step::End(c) => with(c, &Model::end),
            Step::Pause(c) => with(c, &|model| model.paused = true),
            Step::Resume(c) => with(c, &|model| model.paused = false),
            Step::Stats(_) | Step::Look(_) => {}
            Step::Remove(c) => drop(self.models.remove(&c)),
        }
    }
}

#[test]
fn calls_in_any_order_answer_as_the_model_says() {
    let mut guest = guest();
    let client = guest.client();
    let rounds = Cell::new(0);
    let config =
        Config { cases: size(12, 300), max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(step(), 1..40), |steps| {
            rounds.set(rounds.get() + 1);
            let mut pair = Pair { client: &client, round: rounds.get(), models: BTreeMap::new(), pod: false };
            let mut wrong = None;
            for (number, step) in steps.iter().enumerate() {
                let Some(expected) = pair.expected(*step) else { continue };
                let answer = code(&pair.perform(*step));
                if answer != expected {
                    wrong = Some(format!("step {number}, {step:?}: {answer:?} and not {expected:?}"));
                    break;
                }
                if expected == Code::Ok {
                    pair.note(*step);
                }
            }
            // Whatever they have come to.
            for container in 0..3 {
                let removed = client.remove_container(&pair.id(container), LONG);
                prop_assert!(removed.is_ok() || !pair.models.contains_key(&container), "{removed:?}");
            }
            let removed = client.remove_container(&pair.pod_id(), LONG);
            prop_assert!(removed.is_ok() || !pair.pod, "{removed:?}");
            prop_assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
