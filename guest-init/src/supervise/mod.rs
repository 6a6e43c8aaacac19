//! The supervisor: which service of an appliance is to be created, started, checked, stopped or removed, and when.
//!
//! Events and the time go in, [`Action`]s come out; there is no system call here, so it is tested on the host by the
//! thousand lives. What carries the actions out is `agent::keeper`.

pub mod log;
mod plan;
#[cfg(test)]
mod tests;

use crate::api::appliance::{AtEnd, Health, RestartPolicy, ServiceState, ServiceStatus, Until};
use crate::api::ttrpc::Code;
use crate::prelude::*;
use crate::sys::process::SIGKILL;

/// The status of a service that never ran, and of an appliance that cannot begin.
pub const NO_STATUS: i32 = 125;

/// Between two checks while none has passed yet, at most: others wait for it. In milliseconds.
const START_INTERVAL: u64 = 1000;

/// What is to be done about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create its container.
    Create,
    /// Start its process.
    Start,
    /// Send its process this signal.
    Signal(u32),
    /// Remove its container, whatever still runs in it.
    Remove,
    /// Check its health.
    Check,
    /// The check has taken too long: nothing is wanted of it any more.
    Abandon,
    /// Nothing more runs: end the machine. The service is of no meaning.
    End,
}

/// How far a service is. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Waiting,
    /// One that it waits for can never be far enough.
    Blocked,
    Creating,
    Created,
    Starting,
    Running,
    /// Asked to stop; killed at this time.
    Stopping(Option<u64>),
    /// Its process is no more, its container still is.
    Over,
    Removing,
    BackingOff(u64),
    Ended,
}

/// What is wanted of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    Run,
    /// Stop, since it is of no use; then as its policy says.
    Replace,
    /// Stop, and begin again.
    Renew,
    Stop,
}

/// A service's health check, its times in milliseconds.
#[derive(Debug, Default)]
struct Check {
    interval: u64,
    timeout: u64,
    start_period: u64,
    failures_allowed: u32,
    successes_needed: u32,
    /// When the next one is due, and when a failure counts again while none has passed yet.
    due: u64,
    counts_from: u64,
    /// When the present one is too late.
    deadline: Option<u64>,
    /// Whether one that was too late has not ended yet.
    lingers: bool,
    failures: u32,
    successes: u32,
}

/// A service.
#[derive(Debug, Default)]
struct Unit {
    name: String,
    after: Vec<(usize, Until)>,
    policy: RestartPolicy,
    limit: u32,
    initial: u64,
    cap: u64,
    good_run: u64,
    stop_signal: u32,
    grace: u64,
    check: Option<Check>,
    phase: Phase,
    since: u64,
    started: u64,
    wish: Wish,
    health: Health,
    /// Restarts by policy: all of them, and since the last good run.
    restarts: u32,
    in_a_row: u32,
    status: Option<i32>,
    problem: String,
}

/// All services of an appliance.
#[derive(Debug, Default)]
pub struct Supervisor {
    units: Vec<Unit>,
    at_end: AtEnd,
    status_of: Option<usize>,
    first_failure: Option<i32>,
    is_ending: bool,
    is_over: bool,
}

/// What came of looking at a service.
enum Look {
    Nothing,
    Moved,
    Do(Action),
}

impl Unit {
    fn enter(&mut self, phase: Phase, now: u64) {
        (self.phase, self.since) = (phase, now);
    }

    fn moved(&mut self, phase: Phase, now: u64) -> Look {
        self.enter(phase, now);
        Look::Moved
    }

    fn begin(&mut self, action: Action, phase: Phase, now: u64) -> Look {
        self.enter(phase, now);
        Look::Do(action)
    }

    /// Whether nothing of it is there and nothing is to come by itself.
    fn is_at_rest(&self) -> bool {
        matches!(self.phase, Phase::Blocked | Phase::Ended)
    }

    /// Whether it has done this for whoever waits for it: `None` when it never will.
    fn is_far_enough(&self, until: Until) -> Option<bool> {
        match self.phase {
            Phase::Ended => (self.status == Some(0)).then_some(true),
            Phase::Blocked => None,
            Phase::Running => {
                Some(until == Until::Ready && matches!(self.health, Health::None | Health::Healthy))
            }
            _ => Some(false),
        }
    }

    fn failed(&mut self, fault: Fault) {
        self.status = Some(match fault.code {
            Code::NotFound => 127,
            Code::PermissionDenied => 126,
            _ => NO_STATUS,
        });
        self.problem = fault.into_words().message;
    }

    /// How long to wait before the next restart.
    fn pause(&self) -> u64 {
        self.initial.saturating_mul(1 << self.in_a_row.min(32)).min(self.cap)
    }

    /// The container is gone: what now.
    fn next_life(&mut self, now: u64) {
        let failed = self.wish == Wish::Replace || self.status != Some(0);
        let again = match (self.wish, self.policy) {
            (Wish::Stop, _) | (_, RestartPolicy::No) => false,
            (_, RestartPolicy::OnFailure) => failed,
            (_, RestartPolicy::Always) => true,
        };
        if self.wish == Wish::Renew {
            self.in_a_row = 0;
            self.wish = Wish::Run;
            return self.enter(Phase::Waiting, now);
        }
        if !again || (self.limit != 0 && self.in_a_row >= self.limit) {
            return self.enter(Phase::Ended, now);
        }
        self.wish = Wish::Run;
        let until = now + self.pause();
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.restarts = self.restarts.saturating_add(1);
        self.enter(Phase::BackingOff(until), now);
    }

    fn check_ended(&mut self, passed: bool, now: u64) {
        let Some(check) = &mut self.check else { return };
        check.deadline = None;
        let is_starting = self.health == Health::Starting;
        if passed {
            check.failures = 0;
            check.successes = check.successes.saturating_add(1);
            if check.successes >= check.successes_needed {
                self.health = Health::Healthy;
            }
        } else if !is_starting || now >= check.counts_from {
            check.counts_from = now + check.interval;
            check.successes = 0;
            check.failures = check.failures.saturating_add(1);
            if check.failures >= check.failures_allowed && self.phase == Phase::Running {
                self.health = Health::Unhealthy;
                if self.wish == Wish::Run {
                    self.wish = Wish::Replace;
                }
            }
        }
        // One that does not even end when it is killed fails once more after as long: the machine may just be slow.
        check.due = now
            + match self.health {
                _ if check.lingers => check.timeout,
                Health::Starting => check.interval.min(START_INTERVAL),
                _ => check.interval,
            };
    }

    /// When something is to happen without an event.
    fn deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::BackingOff(until) | Phase::Stopping(Some(until)) => Some(until),
            Phase::Running => self.check.as_ref().map(|check| check.deadline.unwrap_or(check.due)),
            _ => None,
        }
    }
}

impl Supervisor {
    /// The services of that name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.units.iter().position(|unit| unit.name == name)
    }

    /// The name of a service.
    pub fn name(&self, at: usize) -> &str {
        &self.units[at].name
    }

    /// The next thing to do; asked until there is none.
    pub fn next(&mut self, now: u64) -> Option<(usize, Action)> {
        loop {
            let mut moved = false;
            for at in 0..self.units.len() {
                match self.look(at, now) {
                    Look::Nothing => {}
                    Look::Moved => moved = true,
                    Look::Do(action) => return Some((at, action)),
                }
            }
            if !moved {
                break;
            }
        }
        let is_final = |unit: &Unit| unit.is_at_rest() && unit.wish != Wish::Stop;
        let is_done = match self.status_of {
            Some(at) => is_final(&self.units[at]),
            None => self.units.iter().all(is_final),
        };
        if is_done && !self.is_ending {
            self.is_ending = true;
            return self.next(now);
        }
        let over = self.is_ending && self.units.iter().all(Unit::is_at_rest);
        (over && !core::mem::replace(&mut self.is_over, true)).then_some((0, Action::End))
    }

    fn look(&mut self, at: usize, now: u64) -> Look {
        let gate = self.gate(at);
        let is_ending = self.is_ending;
        let is_last = is_ending && self.is_last(at);
        let unit = &mut self.units[at];
        // At the end each stops in its turn, whatever was wanted of it before.
        let must_stop = if is_ending { is_last } else { unit.wish != Wish::Run };
        match unit.phase {
            Phase::Blocked if is_ending || unit.wish == Wish::Stop => Look::Nothing,
            Phase::Waiting | Phase::BackingOff(_) if is_ending || unit.wish == Wish::Stop => {
                unit.moved(Phase::Ended, now)
            }
            Phase::BackingOff(until) if until > now => Look::Nothing,
            Phase::Waiting | Phase::Blocked | Phase::BackingOff(_) => match gate {
                Some(true) => unit.begin(Action::Create, Phase::Creating, now),
                Some(false) if unit.phase == Phase::Blocked => unit.moved(Phase::Waiting, now),
                None if unit.phase != Phase::Blocked => {
                    self.first_failure.get_or_insert(NO_STATUS);
                    unit.moved(Phase::Blocked, now)
                }
                _ => Look::Nothing,
            },
            Phase::Creating | Phase::Created | Phase::Starting if must_stop => {
                unit.status = Some(128 + SIGKILL as i32);
                unit.begin(Action::Remove, Phase::Removing, now)
            }
            Phase::Created => unit.begin(Action::Start, Phase::Starting, now),
            Phase::Running if must_stop => {
                let stopping = Phase::Stopping(Some(now + unit.grace));
                unit.begin(Action::Signal(unit.stop_signal), stopping, now)
            }
            Phase::Running => look_after(unit, now),
            Phase::Stopping(Some(until)) if until <= now => {
                unit.phase = Phase::Stopping(None);
                Look::Do(Action::Signal(SIGKILL))
            }
            Phase::Over => unit.begin(Action::Remove, Phase::Removing, now),
            Phase::Creating | Phase::Starting | Phase::Stopping(_) | Phase::Removing | Phase::Ended => {
                Look::Nothing
            }
        }
    }

    /// Whether all that a service waits for is far enough; `None` when some of it never will be.
    fn gate(&self, at: usize) -> Option<bool> {
        let far_enough = |&(other, until): &(usize, _)| self.units[other].is_far_enough(until);
        self.units[at].after.iter().try_fold(true, |open, each| Some(open & far_enough(each)?))
    }

    /// Whether nothing that waited for this service is there any more.
    fn is_last(&self, at: usize) -> bool {
        self.units.iter().all(|unit| unit.is_at_rest() || unit.after.iter().all(|(other, _)| *other != at))
    }

    /// The container is there, or is not and why.
    pub fn created(&mut self, at: usize, result: Result, now: u64) {
        let unit = &mut self.units[at];
        match result {
            _ if unit.phase != Phase::Creating => {}
            Ok(()) => unit.enter(Phase::Created, now),
            Err(fault) => {
                unit.failed(fault);
                self.removed(at, now);
            }
        }
    }

    /// The process runs, or does not and why.
    pub fn started(&mut self, at: usize, result: Result, now: u64) {
        let unit = &mut self.units[at];
        match result {
            _ if unit.phase != Phase::Starting => {}
            Ok(()) => {
                unit.started = now;
                if let Some(check) = &mut unit.check {
                    (check.failures, check.successes, check.deadline) = (0, 0, None);
                    check.due = now + check.interval.min(START_INTERVAL);
                    check.counts_from = now + check.interval.max(check.start_period);
                    unit.health = Health::Starting;
                }
                unit.enter(Phase::Running, now);
            }
            Err(fault) => {
                unit.failed(fault);
                unit.enter(Phase::Over, now);
            }
        }
    }

    /// Its process has ended.
    pub fn ended(&mut self, at: usize, status: i32, now: u64) {
        let unit = &mut self.units[at];
        if matches!(unit.phase, Phase::Running | Phase::Stopping(_)) {
            unit.status = Some(status);
            if unit.wish != Wish::Replace && now.saturating_sub(unit.started) >= unit.good_run {
                unit.in_a_row = 0;
            }
            unit.enter(Phase::Over, now);
        }
    }

    /// Nothing of its container is left.
    pub fn removed(&mut self, at: usize, now: u64) {
        let unit = &mut self.units[at];
        if let Some(check) = &mut unit.check {
            (check.deadline, check.lingers) = (None, false);
        }
        unit.next_life(now);
        if self.is_ending {
            unit.enter(Phase::Ended, now);
        } else if unit.phase == Phase::Ended && unit.wish != Wish::Stop {
            self.first_failure = self.first_failure.or(unit.status.filter(|status| *status != 0));
        }
    }

    /// A check has ended in time, and why it failed if it did.
    pub fn checked(&mut self, at: usize, result: Result<(), String>, now: u64) {
        let unit = &mut self.units[at];
        let Some(check) = &mut unit.check else { return };
        if core::mem::take(&mut check.lingers) || check.deadline.is_none() {
            check.due = check.due.min(now + check.interval);
            return;
        }
        unit.check_ended(result.is_ok(), now);
        if let Err(problem) = result {
            unit.problem = problem;
        }
    }

    /// Begins the orderly end.
    pub fn end(&mut self, at_end: Option<AtEnd>) {
        self.is_ending = true;
        self.at_end = at_end.unwrap_or(self.at_end);
    }

    /// Stops a service for as long as nobody starts it.
    pub fn stop(&mut self, at: usize) {
        self.units[at].wish = Wish::Stop;
    }

    /// Starts a service that is stopped or has ended, or will have; one that runs goes on.
    pub fn start(&mut self, at: usize, now: u64) {
        let unit = &mut self.units[at];
        match unit.phase {
            Phase::Ended => {
                (unit.wish, unit.in_a_row) = (Wish::Run, 0);
                unit.enter(Phase::Waiting, now);
            }
            Phase::Stopping(_) | Phase::Over | Phase::Removing => unit.wish = Wish::Renew,
            _ if unit.wish == Wish::Stop => unit.wish = Wish::Run,
            _ => {}
        }
    }

    /// Stops a service and begins it again.
    pub fn renew(&mut self, at: usize, now: u64) {
        match self.units[at].phase {
            Phase::Ended | Phase::Waiting | Phase::Blocked | Phase::BackingOff(_) => self.start(at, now),
            _ => self.units[at].wish = Wish::Renew,
        }
    }

    /// Whether a service is stopped.
    pub fn is_at_rest(&self, at: usize) -> bool {
        self.units[at].is_at_rest()
    }

    /// Whether the appliance is on its way to its end.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// What becomes of the machine, and the appliance's status.
    pub fn outcome(&self) -> (AtEnd, i32) {
        let status = match self.status_of {
            Some(at) => self.units[at].status.unwrap_or(NO_STATUS),
            None => self.first_failure.unwrap_or(0),
        };
        (self.at_end, status)
    }

    /// When to look again if nothing happens before.
    pub fn deadline(&self) -> Option<u64> {
        self.units.iter().filter_map(Unit::deadline).min()
    }

    /// How the services do.
    pub fn statuses(&self, now: u64) -> Vec<ServiceStatus> {
        let status = |unit: &Unit| {
            let state = match unit.phase {
                Phase::Waiting => ServiceState::Waiting,
                Phase::Blocked => ServiceState::Blocked,
                Phase::Creating | Phase::Created | Phase::Starting => ServiceState::Starting,
                Phase::Running => ServiceState::Running,
                Phase::Stopping(_) | Phase::Over | Phase::Removing => ServiceState::Stopping,
                Phase::BackingOff(_) => ServiceState::BackingOff,
                Phase::Ended => ServiceState::Ended,
            };
            ServiceStatus {
                name: unit.name.clone(),
                state: state.into(),
                health: unit.health.into(),
                restarts: unit.restarts,
                last_status: unit.status,
                since_ms: now.saturating_sub(unit.since),
                problem: unit.problem.clone(),
            }
        };
        self.units.iter().map(status).collect()
    }
}

/// Looks after the health of a service that runs.
fn look_after(unit: &mut Unit, now: u64) -> Look {
    let Some(check) = &mut unit.check else { return Look::Nothing };
    match check.deadline {
        Some(deadline) if deadline <= now => {
            check.lingers = true;
            unit.problem = "the health check took too long".into();
            unit.check_ended(false, now);
            Look::Do(Action::Abandon)
        }
        None if check.due <= now && check.lingers => {
            unit.check_ended(false, now);
            Look::Moved
        }
        None if check.due <= now => {
            check.deadline = Some(now + check.timeout);
            Look::Do(Action::Check)
        }
        _ => Look::Nothing,
    }
}
