//! From an appliance's specification to its supervisor: everything is checked before anything begins.

use super::{Check, Supervisor, Unit};
use crate::agent::check_id;
use crate::api::agent::CreateContainerRequest;
use crate::api::appliance::{Appliance, Health, HealthCheck, Restart, SERVICE_LIMIT, Service};
use crate::prelude::*;
use crate::sys::process::SIGTERM;

/// A number of the specification, or what 0 stands for.
fn or(number: u32, default: u32) -> u64 {
    u64::from(if number == 0 { default } else { number })
}

/// What a number of the specification stands for.
fn known<T: TryFrom<i32>>(number: i32) -> Result<T> {
    T::try_from(number).map_err(|_| fault!(InvalidArgument, "{number} has no meaning there"))
}

impl Supervisor {
    /// The supervisor of an appliance, or what is wrong with its specification.
    pub fn new(appliance: &Appliance) -> Result<Supervisor> {
        let services = &appliance.services;
        let is_sound = (1..=SERVICE_LIMIT).contains(&services.len());
        refuse_if!(!is_sound, InvalidArgument, "an appliance has 1 to {SERVICE_LIMIT} services");
        let mut supervisor = Supervisor {
            units: Vec::with_capacity(services.len()),
            at_end: known(appliance.at_end)?,
            ..Default::default()
        };
        for service in services {
            let name = CreateContainerRequest::decode(&service.create)
                .map_or_else(|_| String::new(), |create| create.container_id);
            check_id(&name)?;
            refuse_if!(supervisor.find(&name).is_some(), InvalidArgument, "two services are called {name}");
            let unit = Unit::plan(name.clone(), service)
                .map_err(|fault| fault.while_doing(format_args!("service {name}")))?;
            supervisor.units.push(unit);
        }
        if !appliance.status_of.is_empty() {
            supervisor.status_of = Some(supervisor.known(&appliance.status_of)?);
        }
        for (at, service) in services.iter().enumerate() {
            for each in &service.after {
                let other = supervisor.known(&each.service)?;
                supervisor.units[at].after.push((other, known(each.until)?));
            }
        }
        refuse_circles(&supervisor.units)?;
        Ok(supervisor)
    }

    /// The service of that name, which must be there.
    pub fn known(&self, name: &str) -> Result<usize> {
        self.find(name).ok_or_else(|| fault!(NotFound, "there is no service {name}"))
    }
}

impl Unit {
    /// What the specification says of a service itself.
    fn plan(name: String, service: &Service) -> Result<Unit> {
        refuse_if!(service.stop_signal > 64, InvalidArgument, "{} is no signal", service.stop_signal);
        let never = Restart::default();
        let restart = service.restart.as_ref().unwrap_or(&never);
        let check = service.health.as_ref().map(Check::plan).transpose()?;
        Ok(Unit {
            name,
            policy: known(restart.policy)?,
            limit: restart.limit,
            initial: or(restart.initial_ms, 100),
            cap: or(restart.cap_ms, 60_000),
            good_run: or(restart.reset_ms, 10_000),
            stop_signal: or(service.stop_signal, SIGTERM) as u32,
            grace: or(service.grace_ms, 10_000),
            health: if check.is_some() { Health::Starting } else { Health::None },
            check,
            ..Default::default()
        })
    }
}

impl Check {
    fn plan(health: &HealthCheck) -> Result<Check> {
        let kinds = [!health.exec.is_empty(), health.tcp_port != 0, health.http.is_some()];
        let is_one = kinds.iter().filter(|is_there| **is_there).count() == 1;
        refuse_if!(!is_one, InvalidArgument, "a health check is one of a command, a port and a page");
        Ok(Check {
            interval: or(health.interval_ms, 30_000),
            timeout: or(health.timeout_ms, 30_000),
            start_period: health.start_period_ms.into(),
            failures_allowed: or(health.failures, 3) as u32,
            successes_needed: or(health.successes, 1) as u32,
            ..Default::default()
        })
    }
}

/// Services that wait for each other in a circle would wait for ever.
fn refuse_circles(units: &[Unit]) -> Result {
    let mut can_begin = vec![false; units.len()];
    // In each round one more begins, or none ever will.
    for _ in units {
        for (at, unit) in units.iter().enumerate() {
            can_begin[at] = unit.after.iter().all(|(other, _)| can_begin[*other]);
        }
    }
    let Some(mut at) = can_begin.iter().position(|can| !can) else { return Ok(()) };
    // Each of these waits for another of them, so a walk from one to the next goes round in the end.
    let next = |at: usize| {
        let blocker = units[at].after.iter().find(|(other, _)| !can_begin[*other]);
        blocker.map_or(at, |(other, _)| *other)
    };
    units.iter().for_each(|_| at = next(at));
    let first = at;
    let mut names = units[at].name.clone();
    loop {
        at = next(at);
        names.push_str(" after ");
        names.push_str(&units[at].name);
        refuse_if!(at == first, InvalidArgument, "services wait for each other: {names}");
    }
}
