//! Probes: whether a container has started, and whether it is still well. One that is not is ended, and the pod's policy
//! says whether it is started again.

use super::document::{Check, Probe};
use super::life::One;
use crate::agent::{CallError, Client, Wait};
use crate::runtime::check::{self, SLACK};
use ferry_init::api::agent::Empty;
use ferry_init::api::appliance::{HttpCheck, ProbeRequest};
use ferry_init::api::method;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// One life of a container, as its probes see it.
#[derive(Default)]
pub(super) struct Watching {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    over: bool,
    failed: bool,
}

impl Watching {
    /// The container's process has ended.
    pub fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_all();
    }

    /// Whether a probe has ended it.
    pub fn has_failed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed
    }

    /// Waits; `false`: the process has ended meanwhile.
    fn pause(&self, pause: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, pause, |state| !state.over);
        !waited.unwrap_or_else(PoisonError::into_inner).0.over
    }

    /// Whether the process still ran when it was found not to be well.
    fn fail(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed = !state.over;
        state.failed
    }
}

/// Watches a container until its process ends, or a probe says that it has to.
pub(super) fn watch(client: &Client, one: &One<'_>, watching: &Watching) {
    let until = |probe: &Option<Probe>, stop_at_success| {
        probe.as_ref().is_none_or(|probe| is_well(client, one, watching, probe, stop_at_success))
    };
    if until(&one.container.startup, true) {
        until(&one.container.liveness, false);
    }
}

/// Checks again and again; `false`: it had to be ended, or has ended.
fn is_well(
    client: &Client,
    one: &One<'_>,
    watching: &Watching,
    probe: &Probe,
    stop_at_success: bool,
) -> bool {
    let mut failures = 0;
    let mut pause = probe.delay;
    while watching.pause(pause) {
        pause = probe.period;
        match ask(client, one, probe) {
            Ok(()) if stop_at_success => return true,
            Ok(()) => failures = 0,
            Err(why) => {
                failures += 1;
                tracing::debug!(container = one.container.name, why, failures, "a probe");
                if failures >= probe.failures {
                    if watching.fail() {
                        tracing::warn!(container = one.container.name, why, "it is not well, and is ended");
                        let _ = one.monitor.end(probe.grace_seconds);
                    }
                    return false;
                }
            }
        }
    }
    false
}

fn ask(client: &Client, one: &One<'_>, probe: &Probe) -> Result<(), String> {
    match &probe.check {
        Check::Exec(command) => exec(client, one, command, probe.timeout),
        Check::Tcp(port) => {
            connect(client, one, probe, ProbeRequest { tcp_port: (*port).into(), ..ProbeRequest::default() })
        }
        Check::Http { port, path } => {
            let http = HttpCheck { port: (*port).into(), path: path.clone(), ..HttpCheck::default() };
            connect(client, one, probe, ProbeRequest { http: Some(http), ..ProbeRequest::default() })
        }
    }
}

/// Lets the guest connect to a port of its own network, which is the pod's.
fn connect(client: &Client, one: &One<'_>, probe: &Probe, request: ProbeRequest) -> Result<(), String> {
    let request = ProbeRequest {
        container_id: one.spec.id.clone(),
        timeout_ms: u32::try_from(probe.timeout.as_millis()).unwrap_or(u32::MAX),
        ..request
    };
    let wait = Wait::AtMost(probe.timeout + SLACK);
    let answer: Result<Empty, CallError> =
        client.call(method::SUPERVISOR_SERVICE, method::PROBE, &request, wait);
    answer.map(|Empty {}| ()).map_err(|error| error.to_string())
}

/// Runs a command in the container; it has so long, and has to end with 0.
fn exec(client: &Client, one: &One<'_>, command: &[String], limit: Duration) -> Result<(), String> {
    let record = one.monitor.record().ok_or("it has ended")?;
    match check::run(client, &one.spec.id, &record.made, command, limit)? {
        (0, _) => Ok(()),
        (status, _) => Err(format!("its command has ended with {status}")),
    }
}
