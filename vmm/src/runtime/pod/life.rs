//! The lives of a pod's containers in its machine: those that run first one after the other, then all others side by side,
//! each started again after its end as the pod's policy has it.

use super::document::Container;
use super::probe;
use super::run::{Output, Request};
use super::show;
use crate::agent::Client;
use crate::agent::session::{self, ContainerSpec, Control, Progress, Stdio};
use crate::runtime::cores::{self, Collector};
use crate::runtime::guest::{Guest, Reason};
use crate::runtime::logs::Writer;
use crate::runtime::monitor::{Monitor, Server, capture};
use crate::runtime::restart::Restarts;
use crate::runtime::run::conclude;
use crate::runtime::supervise::{Afterwards, Failure, not_run};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long what is left of a container may take to be put away in the guest.
const PUT_AWAY: Duration = Duration::from_secs(60);

/// A container of a pod that runs.
pub(super) struct One<'a> {
    /// As the document has it.
    pub container: &'a Container,
    /// As the guest is told of it.
    pub spec: ContainerSpec,
    /// Whether it runs before the others.
    pub is_first: bool,
    /// Its directory.
    pub directory: PathBuf,
    /// Its monitor.
    pub monitor: Arc<Monitor>,
    /// Whether its process has run once.
    pub has_run: Arc<AtomicBool>,
    /// Whether it has come to its end for good.
    pub over: AtomicBool,
    pub _server: Server,
}

impl One<'_> {
    /// It has ended for good; said once.
    pub fn conclude(&self, result: &Result<u8, Failure>, gone: bool) {
        if !self.over.swap(true, Ordering::Relaxed) {
            conclude(&self.monitor, result, gone);
        }
    }
}

/// A pod that runs.
pub(super) struct Live<'a> {
    pub request: &'a Request,
    pub client: &'a Client,
    pub guest: &'a dyn Guest,
    pub ones: &'a [One<'a>],
}

impl Live<'_> {
    /// Ends every container, each within its time.
    pub fn stop(&self) {
        std::thread::scope(|scope| {
            for one in self.ones {
                scope.spawn(|| {
                    if let Err(reason) = one.monitor.stop(None) {
                        tracing::debug!(container = one.container.name, reason, "not stopped");
                    }
                });
            }
        });
    }

    /// Lives to the end of the last; `all_started` is told when every container has been started that runs beside others.
    pub fn live(&self, all_started: &(dyn Fn() + Sync)) -> Result<u8, Failure> {
        for one in self.ones.iter().filter(|one| one.is_first) {
            let result = self.life(one, &|| ());
            let failed = match &result {
                Ok(0) => None,
                Ok(status) => Some((*status, format!("has ended with {status}"))),
                Err(failure) => Some((failure.status, failure.message.clone())),
            };
            self.put_down(one, &result);
            if let Some((status, why)) = failed {
                let message = format!("the init container {} {why}", one.container.name);
                return Err(Failure { status, ..Failure::early(message) });
            }
        }
        let side_by_side: Vec<&One<'_>> = self.ones.iter().filter(|one| !one.is_first).collect();
        let missing = AtomicUsize::new(side_by_side.len());
        let started = || {
            if missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                all_started();
            }
        };
        let started = &started;
        let results: Vec<Result<u8, Failure>> = std::thread::scope(|scope| {
            let lives: Vec<_> = side_by_side
                .iter()
                .map(|one| {
                    scope.spawn(move || {
                        let result = self.life(one, started);
                        // What cannot be started at all is a mistake in the pod, and no reason to try again.
                        if result.is_err() && !one.has_run.load(Ordering::Relaxed) {
                            self.stop();
                        }
                        self.put_down(one, &result);
                        result
                    })
                })
                .collect();
            lives
                .into_iter()
                .map(|life| life.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut status = 0;
        for result in results {
            match result {
                Err(failure) => return Err(failure),
                Ok(code) if status == 0 => status = code,
                Ok(_) => {}
            }
        }
        Ok(status)
    }

    fn put_down(&self, one: &One<'_>, result: &Result<u8, Failure>) {
        one.conclude(result, self.request.afterwards == Afterwards::ThrowAway);
    }

    /// One container from its first start to its last end.
    fn life(&self, one: &One<'_>, started: &dyn Fn()) -> Result<u8, Failure> {
        let mut restarts = Restarts::default();
        loop {
            if one.monitor.is_stopping() && !one.has_run.load(Ordering::Relaxed) {
                return Err(Failure::early(format!("{} was stopped before it started", one.container.name)));
            }
            let began = Instant::now();
            let (result, is_well) = self.once(one, started);
            let status = result.as_ref().map_or_else(|failure| failure.status, |status| *status);
            let can_go_on = one.has_run.load(Ordering::Relaxed)
                && !one.monitor.is_stopping()
                && self.guest.wait(Duration::ZERO).is_none();
            // One that its probe has ended has failed, whatever it says itself.
            let for_policy = if is_well { status } else { status.max(1) };
            let policy = one.monitor.record().filter(|_| can_go_on).map(|record| record.made.restart);
            let pause = policy.and_then(|policy| restarts.next(policy, for_policy, began.elapsed()));
            let Some(pause) = pause else { return result };
            one.monitor.hub().end(status);
            if let Err(failure) = &result {
                tracing::warn!(container = one.container.name, reason = failure.message, "it has failed");
            }
            if !one.monitor.wait_to_restart(pause, restarts.count(), status) {
                return result;
            }
        }
    }

    /// One life; and whether its probe had nothing against it.
    fn once(&self, one: &One<'_>, started: &dyn Fn()) -> (Result<u8, Failure>, bool) {
        let hub = one.monitor.hub();
        let captured = Writer::open(&one.directory, self.request.log)
            .and_then(|log| capture(log, hub, one.container.stdin));
        let (stdio, mut captured) = match captured {
            Ok(captured) => captured,
            Err(error) => {
                let failure = Failure::early(format!("the container's log cannot be written: {error}"));
                return (Err(failure), true);
            }
        };
        let shown = match self.request.output {
            Output::Shown => show::follow(hub, self.prefix(one))
                .inspect_err(|error| tracing::warn!(%error, "its output is not shown"))
                .ok(),
            Output::Quiet => None,
        };
        let feed = captured.stdin.take();
        let result = self.in_guest(one, &stdio, feed, started);
        drop(stdio);
        captured.finish();
        if let Err(error) = self.client.remove_container(&one.spec.id, PUT_AWAY) {
            tracing::debug!(%error, "what is left of a container");
        }
        if let Some(shown) = shown {
            // Its last word is the end, which others wait for too.
            let status = result.0.as_ref().map_or_else(|failure| failure.status, |status| *status);
            hub.end(status);
            let _ = shown.join();
        }
        result
    }

    /// A pod of one container needs nobody's name.
    fn prefix(&self, one: &One<'_>) -> String {
        let longest = self.ones.iter().map(|one| one.container.name.len()).max().unwrap_or(0);
        match self.ones.len() {
            1 => String::new(),
            _ => format!("{:longest$} | ", one.container.name),
        }
    }

    fn in_guest(
        &self,
        one: &One<'_>,
        stdio: &Stdio,
        feed: Option<File>,
        started: &dyn Fn(),
    ) -> (Result<u8, Failure>, bool) {
        let failed = |error| not_run(self.guest, error);
        let name = one.monitor.record().map(|record| record.name).unwrap_or_default();
        // Of this life: the directory of the next one's is a new one.
        let wanted = self.request.cores.as_ref().filter(|_| !one.container.read_only);
        let mut collector = wanted.map(|cores| Collector::new(self.client, &one.spec.id, &name, cores));
        let begun = session::create(self.client, &one.spec).and_then(|()| {
            if collector.is_some() {
                cores::prepare_or_warn(self.client, &one.spec.id);
            }
            session::start(self.client, &one.spec)
        });
        if let Err(error) = begun {
            let failure = failed(error);
            let message = format!("container {}: {}", one.container.name, failure.message);
            return (Err(Failure { message, ..failure }), true);
        }
        let control = Control::new();
        one.monitor.started(self.client, control.remote(), feed);
        if !one.has_run.swap(true, Ordering::Relaxed) {
            started();
        }
        let watching = probe::Watching::default();
        std::thread::scope(|scope| {
            // Whoever asked for its end while it was being started has been told that it will come.
            if one.monitor.is_stopping() {
                scope.spawn(|| drop(one.monitor.end(None)));
            }
            if one.container.liveness.is_some() || one.container.startup.is_some() {
                scope.spawn(|| probe::watch(self.client, one, &watching));
            }
            let ended = |progress| {
                if let Progress::Ended(status) = progress {
                    one.monitor.ended(status);
                }
            };
            let status = cores::collecting(collector.as_mut(), || {
                session::attend(self.client, &one.spec.target(), stdio, control, &ended)
            });
            watching.end();
            let result = status.map_err(failed).map_err(|failure| match failure.reason {
                Reason::StartFailed => failure,
                _ => Failure { message: format!("the pod's machine: {}", failure.message), ..failure },
            });
            (result, !watching.has_failed())
        })
    }
}
