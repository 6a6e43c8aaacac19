//! The keeper of an appliance's services: does what the supervisor wants by the very calls that a client makes, and
//! keeps what the services write.

use super::container::FIRST;
use super::process::{Caller, Channel};
use super::{Agent, Outcome, ProcessKey, StreamId, System, TURNS, decode, process_of};
use crate::api::agent as api;
use crate::api::appliance::{self, Appliance, AtEnd, Service};
use crate::api::{method, ttrpc};
use crate::prelude::*;
use crate::supervise::log::Ring;
use crate::supervise::{Action, Supervisor};
use crate::sys::process::{SIGINT, SIGKILL};

/// Where the keeper's own calls are answered: no client has this number.
pub(super) const KEEPER: StreamId = StreamId(0);

/// What a call of the keeper's is for; with the service it makes the number of the call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Start,
    Wait,
    Remove,
    /// The start of a command that checks health, then its end. A probe has the end alone.
    Exec,
    Check,
}

/// By their numbers.
const STEPS: [Step; 6] = [Step::Create, Step::Start, Step::Wait, Step::Remove, Step::Exec, Step::Check];

/// The services of an appliance.
#[derive(Default)]
pub struct Keeper {
    supervisor: Supervisor,
    services: Vec<Kept>,
    /// Answers to the keeper's own calls.
    answers: Vec<(u32, Result<Vec<u8>>)>,
    /// Who waits for a service to stop.
    stopping: Vec<(Caller, usize)>,
    /// Who waits for the end.
    waiting: Vec<Caller>,
    /// How many commands have checked health: each has a name of its own.
    checks: u32,
}

/// A service, and what it leaves.
struct Kept {
    service: Service,
    ring: Ring,
    /// What writes its output down.
    writer: Option<StreamId>,
    /// The command that checks it.
    check: String,
}

impl Kept {
    fn write(&mut self, system: &mut impl System, text: &[u8]) {
        self.ring.add(text);
        let Some(writer) = self.writer else { return };
        // A disk that does not keep up loses lines; the ring has them.
        if !matches!(system.write(writer, text), Ok(_) | Err(Errno::EAGAIN)) {
            system.close(writer);
            self.writer = None;
        }
    }
}

impl Keeper {
    /// Whether there is anything to keep: an appliance has services, and a guest with a host has none.
    fn is_there(&self) -> bool {
        !self.services.is_empty()
    }

    fn name(&self, at: usize) -> String {
        self.supervisor.name(at).into()
    }

    /// The service whose output this is; none for output that a client reads.
    pub(super) fn service_of(&self, key: &ProcessKey) -> Option<usize> {
        let at = self.supervisor.find(&key.container)?;
        (key.process == FIRST || key.process == self.services[at].check).then_some(at)
    }
}

fn caller(at: usize, step: Step) -> Caller {
    Caller { connection: KEEPER, stream_id: (at * STEPS.len() + step as usize) as u32 }
}

impl<S: System> Agent<S> {
    /// Begins to keep an appliance's services.
    pub fn begin_appliance(&mut self, appliance: Appliance) -> Result {
        refuse_if!(appliance.services.is_empty(), InvalidArgument, "the appliance has no services");
        let supervisor = Supervisor::new(&appliance)?;
        self.create_sandbox(appliance.sandbox.unwrap_or_default())?;
        let mut services = Vec::with_capacity(appliance.services.len());
        for service in appliance.services {
            let ring = Ring::new(service.log.as_ref().map_or(0, |log| log.ring_bytes));
            services.push(Kept { ring, service, writer: None, check: String::new() });
        }
        self.keeper = Keeper { supervisor, services, ..Default::default() };
        Ok(())
    }

    /// How the appliance ends, if this is one.
    pub fn outcome(&self) -> Option<(AtEnd, i32)> {
        self.keeper.is_there().then(|| self.keeper.supervisor.outcome())
    }

    /// A signal that asks for the orderly end.
    pub fn asked_to_end(&mut self, signal: u32) {
        self.keeper.supervisor.end((signal == SIGINT).then_some(AtEnd::Reboot));
    }

    /// Takes an answer to a call of the keeper's.
    pub(super) fn keep_answer(&mut self, number: u32, answer: Result<Vec<u8>>) {
        self.keeper.answers.push((number, answer));
    }

    /// Does everything that is to be done for the services now. Returns when to look again, by the system's
    /// clock.
    pub(super) fn keep_services(&mut self) -> Option<u64> {
        if !self.keeper.is_there() {
            return None;
        }
        loop {
            let now = self.system.now();
            for (number, answer) in core::mem::take(&mut self.keeper.answers) {
                self.answered(number as usize, answer, now);
            }
            match self.keeper.supervisor.next(now) {
                Some((at, action)) => self.act(at, action),
                None if !self.keeper.answers.is_empty() => {}
                None => break,
            }
        }
        let keeper = &mut self.keeper;
        let stopped = keeper.stopping.extract_if(.., |(_, at)| keeper.supervisor.is_at_rest(*at));
        let stopped = stopped.map(|(caller, _)| caller).collect();
        let deadline = keeper.supervisor.deadline();
        self.answer_all(stopped, Ok(Vec::new()));
        deadline
    }

    fn act(&mut self, at: usize, action: Action) {
        let name = self.keeper.name(at);
        let (step, outcome) = match action {
            Action::Create => {
                let request = self.create_request(at);
                (Step::Create, request.and_then(|call| self.create_container(caller(at, Step::Create), call)))
            }
            Action::Start => {
                self.open_writer(at);
                (Step::Start, self.start_container(caller(at, Step::Start), &name))
            }
            Action::Signal(signal) => {
                // One that has ended meanwhile is heard of soon.
                let _ = self.signal_process(&name, &name, signal);
                return;
            }
            Action::Remove => {
                self.abandon(at);
                let call = api::RemoveContainerRequest { container_id: name, timeout: 0 };
                (Step::Remove, self.remove_container(caller(at, Step::Remove), call))
            }
            Action::Check => (Step::Exec, self.begin_check(at)),
            Action::Abandon => return self.abandon(at),
            Action::End => return self.end_appliance(),
        };
        if let Some(answer) = outcome.transpose() {
            self.keep_answer(caller(at, step).stream_id, answer);
        }
    }

    fn create_request(&self, at: usize) -> Result<api::CreateContainerRequest> {
        api::CreateContainerRequest::decode(&self.keeper.services[at].service.create)
            .map_err(|_| fault!(InvalidArgument, "the container does not decode"))
    }

    /// Sees to it that what a service writes is written down.
    fn open_writer(&mut self, at: usize) {
        let kept = &mut self.keeper.services[at];
        let Some(log) = kept.service.log.as_ref().filter(|log| log.console || !log.file.is_empty()) else {
            return;
        };
        if kept.writer.is_none() {
            match self.system.open_log(self.keeper.supervisor.name(at), log) {
                Ok(stream) => kept.writer = Some(stream),
                Err(fault) => kept.ring.add(format!("ferry-init: {}\n", fault.message).as_bytes()),
            }
        }
    }

    /// Begins a check of a service's health.
    fn begin_check(&mut self, at: usize) -> Outcome {
        let container_id = self.keeper.name(at);
        let Some(health) = &self.keeper.services[at].service.health else { return Ok(None) };
        if health.exec.is_empty() {
            let (tcp_port, http) = (health.tcp_port, health.http.clone());
            // The supervisor has its own idea of when a check is too late.
            let call = appliance::ProbeRequest { container_id, tcp_port, http, timeout_ms: u32::MAX };
            let request = ttrpc::Request {
                method: method::PROBE.into(),
                payload: call.encode_to_vec(),
                ..Default::default()
            };
            return self.send_child(caller(at, Step::Check), Some(&call.container_id), &request);
        }
        let args = health.exec.clone();
        self.keeper.checks = self.keeper.checks.wrapping_add(1);
        let exec_id = format!("ferry-health-{}", self.keeper.checks);
        self.keeper.services[at].check = exec_id.clone();
        let mut process = self.create_request(at)?.oci.and_then(|spec| spec.process).unwrap_or_default();
        process.args = args;
        process.terminal = false;
        let exec =
            api::ExecProcessRequest { container_id, exec_id, process: Some(process), ..Default::default() };
        self.exec_process(caller(at, Step::Exec), exec)
    }

    /// Wants nothing more of a service's present check.
    fn abandon(&mut self, at: usize) {
        let number = caller(at, Step::Check);
        let probe = self.errands.iter().find(|(_, errand)| errand.caller == number);
        if let Some(stream) = probe.map(|(stream, _)| *stream) {
            self.give_up_errand(stream);
            let now = self.system.now();
            return self.check_answered(at, Err(String::new()), now);
        }
        let (name, check) = (self.keeper.name(at), self.keeper.services[at].check.clone());
        if !check.is_empty() {
            let _ = self.signal_process(&name, &check, SIGKILL);
        }
    }

    fn check_answered(&mut self, at: usize, result: Result<(), String>, now: u64) {
        self.keeper.services[at].check.clear();
        self.keeper.supervisor.checked(at, result, now);
    }

    /// A call of the keeper's was answered.
    fn answered(&mut self, number: usize, answer: Result<Vec<u8>>, now: u64) {
        let (at, step) = (number / STEPS.len(), STEPS[number % STEPS.len()]);
        let container = self.keeper.name(at);
        let supervisor = &mut self.keeper.supervisor;
        // A probe's answer is empty, which is the message of status 0.
        let status = |payload: Vec<u8>| {
            api::WaitProcessResponse::decode(&payload).map_err(|_| fault!(Internal, "no status"))
        };
        match (step, answer) {
            (Step::Create, answer) => supervisor.created(at, answer.map(drop), now),
            (Step::Remove, _) => supervisor.removed(at, now),
            (Step::Start, Err(fault)) => supervisor.started(at, Err(fault), now),
            (Step::Start, Ok(_)) => {
                supervisor.started(at, Ok(()), now);
                let key = ProcessKey { container, process: FIRST.into() };
                // Nobody will ever write there.
                let _ = self.close_input(key.clone());
                self.wait_for(at, Step::Wait, key);
            }
            (Step::Wait, answer) => {
                // Without an answer the container was removed by somebody else.
                let status = answer.and_then(status).map_or(128 + SIGKILL as i32, |answer| answer.status);
                supervisor.ended(at, status, now);
            }
            (Step::Exec, Ok(_)) => {
                let process = self.keeper.services[at].check.clone();
                self.wait_for(at, Step::Check, ProcessKey { container, process });
            }
            (Step::Exec | Step::Check, answer) => {
                let result = match answer.and_then(status) {
                    Ok(api::WaitProcessResponse { status: 0 }) => Ok(()),
                    Ok(answer) => Err(format!("the health check ended with {}", answer.status)),
                    Err(fault) => Err(fault.into_words().message),
                };
                self.check_answered(at, result, now);
            }
        }
    }

    fn wait_for(&mut self, at: usize, step: Step, key: ProcessKey) {
        let caller = caller(at, step);
        if let Some(answer) = self.wait_process(caller, key).transpose() {
            self.keep_answer(caller.stream_id, answer);
        }
    }

    /// Keeps what a service's process has written; what a check writes is of no interest.
    pub(super) fn keep_output(&mut self, at: usize, key: &ProcessKey, channel: Channel) {
        for _ in 0..TURNS {
            let Agent { system, containers, chunk, keeper, .. } = self;
            let Some(process) = process_of(containers, key) else { return };
            let Some(stream) = process.outputs[channel as usize].stream else { return };
            match system.read(stream, chunk) {
                Ok(length) if length > 0 => {
                    if key.process == FIRST {
                        keeper.services[at].write(system, &chunk[..length]);
                    }
                }
                Err(Errno::EAGAIN) => return,
                // A terminal that nobody has open just now.
                Err(Errno::EIO) if process.status().is_none() => return,
                Ok(_) | Err(_) => return self.end_output(key, channel),
            }
        }
        // It has more to say than one turn allows.
        self.room = true;
    }

    /// Everything has stopped.
    fn end_appliance(&mut self) {
        let (at_end, status) = self.keeper.supervisor.outcome();
        let answer = appliance::WaitEndResponse { status, at_end: at_end.into() }.encode_to_vec();
        let waiting = core::mem::take(&mut self.keeper.waiting);
        self.answer_all(waiting, Ok(answer));
        self.ending = true;
    }

    /// Gives up what writes the services' output down, which ends when it has written all.
    pub fn close_logs(&mut self) {
        for kept in &mut self.keeper.services {
            if let Some(stream) = kept.writer.take() {
                self.system.close(stream);
            }
        }
    }

    /// A client is gone.
    pub(super) fn forget_keeper_s(&mut self, connection: StreamId) {
        self.keeper.stopping.retain(|(caller, _)| caller.connection != connection);
        self.keeper.waiting.retain(|caller| caller.connection != connection);
    }

    /// The calls of `ferry.v1.Supervisor`.
    pub(super) fn supervisor_call(&mut self, caller: Caller, request: &ttrpc::Request) -> Outcome {
        if request.method == method::PROBE {
            let call: appliance::ProbeRequest = decode(request)?;
            return self.send_child(caller, Some(&call.container_id), request);
        }
        refuse_if!(!self.keeper.is_there(), FailedPrecondition, "this guest is no appliance");
        let (now, keeper) = (self.system.now(), &mut self.keeper);
        let supervisor = &mut keeper.supervisor;
        match request.method.as_str() {
            method::LIST_SERVICES => {
                let services = supervisor.statuses(now);
                return Ok(Some(appliance::ListServicesResponse { services }.encode_to_vec()));
            }
            method::END_APPLIANCE => {
                let call: appliance::EndApplianceRequest = decode(request)?;
                let at_end = call.at_end.map(AtEnd::try_from).transpose();
                supervisor.end(at_end.map_err(|_| fault!(InvalidArgument, "an unknown kind of end"))?);
                return Ok(Some(Vec::new()));
            }
            method::WAIT_END => {
                keeper.waiting.push(caller);
                return Ok(None);
            }
            _ => {}
        }
        let call: appliance::ServiceRequest = decode(request)?;
        let at = supervisor.known(&call.name)?;
        if request.method == method::SERVICE_LOG {
            let (text, lost_bytes) = keeper.services[at].ring.text();
            let answer = appliance::ServiceLogResponse { text: text.into(), lost_bytes };
            return Ok(Some(answer.encode_to_vec()));
        }
        refuse_if!(supervisor.is_ending(), FailedPrecondition, "the appliance is ending");
        match request.method.as_str() {
            method::START_SERVICE => supervisor.start(at, now),
            method::RESTART_SERVICE => supervisor.renew(at, now),
            method::STOP_SERVICE => {
                supervisor.stop(at);
                keeper.stopping.push((caller, at));
                return Ok(None);
            }
            other => return Err(fault!(Unimplemented, "{} has no {other}", method::SUPERVISOR_SERVICE)),
        }
        Ok(Some(Vec::new()))
    }
}
