//! Probes: whether a container has started, and whether it is still well. One that is not is ended, and the pod's policy
//! says whether it is started again.

use super::document::{Check, Probe};
use super::life::One;
use crate::agent::session::{Control, ExecSpec, RunError, Stdio, run_exec};
use crate::agent::{CallError, Client, Signal, Wait};
use crate::runtime::command::Entrypoint;
use crate::runtime::{name, oci};
use ferry_init::api::agent::Empty;
use ferry_init::api::appliance::{HttpCheck, ProbeRequest};
use ferry_init::api::method;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the guest may take over a probe's process beyond the time that the process itself has.
const SLACK: Duration = Duration::from_secs(20);

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
        match check(client, one, probe) {
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

fn check(client: &Client, one: &One<'_>, probe: &Probe) -> Result<(), String> {
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
    let options = oci::Options {
        command: command.to_vec(),
        entrypoint: Entrypoint::Cleared,
        ..oci::Options::default()
    };
    let spec = ExecSpec {
        container: one.spec.id.clone(),
        id: format!("probe-{}", name::id()),
        process: oci::exec_for(&record.made, &options).map_err(|error| error.to_string())?,
    };
    let control = Control::new();
    let remote = control.remote();
    let (ended, end) = channel();
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            let status = run_exec(client, &spec, &Stdio::none(), control, &|_| {});
            let _ = ended.send(status);
        });
        match end.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => {
                remote.signal(Signal::KILL);
                let _ = end.recv_timeout(SLACK);
                None
            }
            other => other.ok(),
        }
    });
    match status {
        Some(Ok(0)) => Ok(()),
        Some(Ok(status)) => Err(format!("its command has ended with {status}")),
        Some(Err(RunError::Lost(_))) => Err("the guest is gone".to_owned()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err(format!("its command has not ended within {} s", limit.as_secs())),
    }
}
