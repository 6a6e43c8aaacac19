//! The supervisor over whole lives of services that are made up.

use proptest::prelude::*;

use super::*;
use crate::api::agent::CreateContainerRequest;
use crate::api::appliance::{After, Appliance, HealthCheck, Restart, Service};
use crate::api::protobuf::Message;
use crate::fault::fault;
use crate::sys::process::SIGTERM;

fn service(name: &str, after: &[(&str, Until)], policy: RestartPolicy) -> Service {
    let create = CreateContainerRequest { container_id: name.into(), ..Default::default() };
    Service {
        create: create.encode_to_vec(),
        after: after
            .iter()
            .map(|(name, until)| After { service: (*name).into(), until: (*until).into() })
            .collect(),
        restart: Some(Restart { policy: policy.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn supervisor(services: Vec<Service>) -> Supervisor {
    Supervisor::new(&Appliance { services, ..Default::default() }).unwrap()
}

/// Brings a service up at a time.
fn bring_up(supervisor: &mut Supervisor, at: usize, now: u64) {
    assert_eq!(supervisor.next(now), Some((at, Action::Create)));
    supervisor.created(at, Ok(()), now);
    assert_eq!(supervisor.next(now), Some((at, Action::Start)));
    supervisor.started(at, Ok(()), now);
}

/// Lets a service end and be cleared away.
fn let_end(supervisor: &mut Supervisor, at: usize, status: i32, now: u64) {
    supervisor.ended(at, status, now);
    assert_eq!(supervisor.next(now), Some((at, Action::Remove)));
    supervisor.removed(at, now);
}

#[test]
fn a_crash_loop_backs_off_to_a_cap_and_a_good_run_is_forgiven() {
    let mut supervisor = supervisor(vec![service("web", &[], RestartPolicy::Always)]);
    let mut now = 5;
    let mut pauses = Vec::new();
    for _ in 0..13 {
        bring_up(&mut supervisor, 0, now);
        now += 10;
        let_end(&mut supervisor, 0, 1, now);
        assert_eq!(supervisor.next(now), None);
        let again = supervisor.deadline().unwrap();
        assert_eq!(supervisor.next(again - 1), None, "not before its time");
        pauses.push(again - now);
        now = again;
    }
    assert_eq!(pauses[..4], [100, 200, 400, 800]);
    assert_eq!(pauses[9..], [51_200, 60_000, 60_000, 60_000]);
    bring_up(&mut supervisor, 0, now);
    now += 10_000;
    let_end(&mut supervisor, 0, 1, now);
    supervisor.next(now);
    assert_eq!(supervisor.deadline(), Some(now + 100));
    assert_eq!(supervisor.statuses(now)[0].restarts, 14);
}

#[test]
fn restarts_have_a_limit_and_success_is_no_failure() {
    let mut limited = service("job", &[], RestartPolicy::OnFailure);
    limited.restart.as_mut().unwrap().limit = 2;
    let mut failing = supervisor(vec![limited.clone()]);
    let mut now = 0;
    for _ in 0..3 {
        bring_up(&mut failing, 0, now);
        let_end(&mut failing, 0, 3, now);
        failing.next(now);
        now = failing.deadline().unwrap_or(now);
    }
    assert!(failing.is_ending(), "nothing is left to do");
    assert_eq!(failing.outcome(), (AtEnd::PowerOff, 3));
    let mut succeeding = supervisor(vec![limited]);
    bring_up(&mut succeeding, 0, 0);
    let_end(&mut succeeding, 0, 0, 0);
    assert_eq!(succeeding.next(0), Some((0, Action::End)));
    assert_eq!(succeeding.next(0), None, "once");
    assert_eq!(succeeding.outcome(), (AtEnd::PowerOff, 0));
}

#[test]
fn services_begin_after_those_that_they_need_and_stop_before_them() {
    let mut store = service("store", &[], RestartPolicy::Always);
    store.health = Some(HealthCheck { tcp_port: 1, ..Default::default() });
    let mut supervisor = supervisor(vec![
        service("web", &[("app", Until::Ready)], RestartPolicy::Always),
        service("app", &[("store", Until::Ready), ("migrate", Until::Completed)], RestartPolicy::Always),
        store,
        service("migrate", &[], RestartPolicy::OnFailure),
    ]);
    let (web, app, store, migrate) = (0, 1, 2, 3);
    bring_up(&mut supervisor, store, 0);
    bring_up(&mut supervisor, migrate, 0);
    assert_eq!(supervisor.next(0), None, "the store's health is not known");
    assert_eq!(supervisor.next(30_000), Some((store, Action::Check)));
    supervisor.checked(store, Ok(()), 30_000);
    assert_eq!(supervisor.next(30_000), None, "migrate still runs");
    let_end(&mut supervisor, migrate, 0, 30_000);
    bring_up(&mut supervisor, app, 30_000);
    bring_up(&mut supervisor, web, 30_000);
    supervisor.end(Some(AtEnd::Reboot));
    for at in [web, app, store] {
        assert_eq!(supervisor.next(40_000), Some((at, Action::Signal(SIGTERM))));
        assert_eq!(supervisor.next(40_000), None, "the others wait");
        let_end(&mut supervisor, at, 143, 40_000);
    }
    assert_eq!(supervisor.next(40_000), Some((0, Action::End)));
    assert_eq!(supervisor.outcome(), (AtEnd::Reboot, 0));
}

#[test]
fn what_waits_for_a_failure_never_begins() {
    let mut supervisor = supervisor(vec![
        service("migrate", &[], RestartPolicy::No),
        service("app", &[("migrate", Until::Completed)], RestartPolicy::Always),
        service("web", &[("app", Until::Ready)], RestartPolicy::Always),
    ]);
    bring_up(&mut supervisor, 0, 0);
    let_end(&mut supervisor, 0, 4, 0);
    assert_eq!(supervisor.next(0), Some((0, Action::End)));
    assert_eq!(supervisor.outcome(), (AtEnd::PowerOff, 4));
    let states: Vec<i32> = supervisor.statuses(0).iter().map(|status| status.state).collect();
    assert_eq!(states, [ServiceState::Ended, ServiceState::Blocked, ServiceState::Blocked].map(i32::from));
}

#[test]
fn the_one_service_s_end_is_the_appliance_s() {
    let services = vec![
        service("side", &[], RestartPolicy::Always),
        service("job", &[("side", Until::Ready)], RestartPolicy::No),
    ];
    let appliance = Appliance { services, status_of: "job".into(), at_end: 2, ..Default::default() };
    let mut supervisor = Supervisor::new(&appliance).unwrap();
    bring_up(&mut supervisor, 0, 0);
    bring_up(&mut supervisor, 1, 0);
    let_end(&mut supervisor, 1, 7, 0);
    assert_eq!(supervisor.next(0), Some((0, Action::Signal(SIGTERM))));
    assert_eq!(supervisor.next(9_999), None);
    assert_eq!(supervisor.next(10_000), Some((0, Action::Signal(SIGKILL))), "its time is up");
    let_end(&mut supervisor, 0, 137, 10_000);
    assert_eq!(supervisor.next(10_000), Some((0, Action::End)));
    assert_eq!(supervisor.outcome(), (AtEnd::Halt, 7));
}

#[test]
fn health_is_a_matter_of_several_checks_in_a_row() {
    let mut web = service("web", &[], RestartPolicy::OnFailure);
    web.health = Some(HealthCheck {
        exec: vec!["true".into()],
        interval_ms: 5000,
        timeout_ms: 2000,
        start_period_ms: 3000,
        failures: 2,
        successes: 2,
        ..Default::default()
    });
    let mut supervisor = supervisor(vec![web]);
    bring_up(&mut supervisor, 0, 0);
    let health = |supervisor: &Supervisor| Health::try_from(supervisor.statuses(0)[0].health).unwrap();
    let check = |supervisor: &mut Supervisor, at: u64, passed: bool| {
        assert_eq!(supervisor.next(at - 1), None);
        assert_eq!(supervisor.next(at), Some((0, Action::Check)));
        supervisor.checked(0, if passed { Ok(()) } else { Err("no".into()) }, at);
    };
    // While it comes up it is asked each second, and failures do not count.
    check(&mut supervisor, 1000, false);
    check(&mut supervisor, 2000, false);
    check(&mut supervisor, 3000, true);
    assert_eq!(health(&supervisor), Health::Starting);
    check(&mut supervisor, 4000, false);
    check(&mut supervisor, 5000, false);
    check(&mut supervisor, 6000, true);
    check(&mut supervisor, 7000, true);
    assert_eq!(health(&supervisor), Health::Healthy);
    check(&mut supervisor, 12_000, false);
    check(&mut supervisor, 17_000, true);
    check(&mut supervisor, 22_000, false);
    assert_eq!(health(&supervisor), Health::Healthy, "not twice in a row");
    // One that does not answer is a failure too, and what comes of it later is nothing.
    assert_eq!(supervisor.next(27_000), Some((0, Action::Check)));
    assert_eq!(supervisor.next(30_000), Some((0, Action::Abandon)));
    assert_eq!(health(&supervisor), Health::Unhealthy);
    supervisor.checked(0, Ok(()), 30_000);
    assert_eq!(supervisor.next(30_000), Some((0, Action::Signal(SIGTERM))));
    // It ends with 0, and was a failure all the same.
    let_end(&mut supervisor, 0, 0, 30_000);
    assert_eq!(supervisor.next(30_000), None);
    assert_eq!(supervisor.deadline(), Some(30_100));
    bring_up(&mut supervisor, 0, 30_100);
    assert_eq!(health(&supervisor), Health::Starting);
}

#[test]
fn a_service_that_never_becomes_healthy_is_replaced_after_as_many_intervals() {
    let mut web = service("web", &[], RestartPolicy::Always);
    web.health = Some(HealthCheck {
        tcp_port: 1,
        interval_ms: 4000,
        timeout_ms: 9000,
        failures: 3,
        ..Default::default()
    });
    let mut supervisor = supervisor(vec![web]);
    bring_up(&mut supervisor, 0, 0);
    // It is asked each second, since others may wait for it.
    for now in (1000..12_000).step_by(1000) {
        assert_eq!(supervisor.next(now), Some((0, Action::Check)));
        supervisor.checked(0, Err("refused".into()), now);
        assert_eq!(supervisor.next(now), None, "{now}");
    }
    assert_eq!(supervisor.next(12_000), Some((0, Action::Check)));
    supervisor.checked(0, Err("refused".into()), 12_000);
    assert_eq!(supervisor.next(12_000), Some((0, Action::Signal(SIGTERM))));
}

#[test]
fn a_check_that_is_slow_to_end_fails_once_for_each_time_it_may_take() {
    let mut web = service("web", &[], RestartPolicy::Always);
    web.health = Some(HealthCheck {
        tcp_port: 1,
        interval_ms: 2000,
        timeout_ms: 9000,
        failures: 3,
        ..Default::default()
    });
    let mut supervisor = supervisor(vec![web]);
    bring_up(&mut supervisor, 0, 0);
    let check = |supervisor: &mut Supervisor, now| {
        assert_eq!(supervisor.next(now), Some((0, Action::Check)));
        assert_eq!(supervisor.next(now + 9000), Some((0, Action::Abandon)));
        assert_eq!(supervisor.next(now + 17_999), None);
    };
    check(&mut supervisor, 1000);
    // It ends in the end: time for another.
    supervisor.checked(0, Ok(()), 11_000);
    check(&mut supervisor, 13_000);
    assert_eq!(supervisor.next(31_000), Some((0, Action::Signal(SIGTERM))), "and this one never ends");
}

#[test]
fn a_service_is_stopped_started_and_renewed_on_demand() {
    let mut supervisor = supervisor(vec![service("web", &[], RestartPolicy::Always)]);
    bring_up(&mut supervisor, 0, 0);
    supervisor.stop(0);
    assert_eq!(supervisor.next(0), Some((0, Action::Signal(SIGTERM))));
    let_end(&mut supervisor, 0, 143, 0);
    assert_eq!(supervisor.next(0), None, "neither restarted nor the appliance's end");
    assert!(supervisor.is_at_rest(0));
    supervisor.start(0, 1);
    bring_up(&mut supervisor, 0, 1);
    supervisor.renew(0, 2);
    assert_eq!(supervisor.next(2), Some((0, Action::Signal(SIGTERM))));
    supervisor.stop(0);
    supervisor.start(0, 2);
    let_end(&mut supervisor, 0, 143, 2);
    bring_up(&mut supervisor, 0, 2);
    assert_eq!(supervisor.statuses(2)[0].restarts, 0, "those were not its policy's");
}

#[test]
fn a_start_that_fails_is_told_and_tried_again() {
    let mut supervisor = supervisor(vec![service("web", &[], RestartPolicy::OnFailure)]);
    supervisor.next(0);
    supervisor.created(0, Err(fault!(Internal, "no disk")), 0);
    assert_eq!(supervisor.next(0), None);
    assert_eq!(supervisor.statuses(0)[0].problem, "no disk");
    supervisor.next(100);
    supervisor.created(0, Ok(()), 100);
    supervisor.next(100);
    supervisor.started(0, Err(fault!(NotFound, "exec x: not found")), 100);
    assert_eq!(supervisor.next(100), Some((0, Action::Remove)));
    assert_eq!(supervisor.statuses(0)[0].last_status, Some(127));
}

#[test]
fn specifications_that_make_no_sense_are_refused_by_name() {
    let refused = |services: Vec<Service>| {
        let refused = Supervisor::new(&Appliance { services, ..Default::default() });
        refused.map(drop).unwrap_err().message.clone()
    };
    let no = RestartPolicy::No;
    let ready = |name: &'static str| [(name, Until::Ready)];
    assert!(refused(vec![]).contains("1 to 256"));
    assert!(refused(vec![service("a", &[], no), service("a", &[], no)]).contains("called a"));
    assert!(refused(vec![service("a/b", &[], no)]).contains("letters"));
    assert!(refused(vec![service("a", &ready("b"), no)]).contains("no service b"));
    let circle = vec![
        service("outside", &ready("a"), no),
        service("a", &ready("b"), no),
        service("b", &ready("c"), no),
        service("c", &ready("a"), no),
    ];
    assert_eq!(refused(circle), "services wait for each other: a after b after c after a");
    assert_eq!(refused(vec![service("a", &ready("a"), no)]), "services wait for each other: a after a");
    let mut checked = service("a", &[], no);
    checked.health = Some(HealthCheck::default());
    assert!(refused(vec![checked]).contains("one of a command"));
    let appliance =
        Appliance { services: vec![service("a", &[], no)], status_of: "b".into(), ..Default::default() };
    assert!(Supervisor::new(&appliance).unwrap_err().message.contains("no service b"));
}

/// Where a container is in a made-up machine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum There {
    Nothing,
    Made,
    Runs,
    Dead,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Created(bool),
    Started(bool),
    Ended(i32),
    Removed,
    Checked(bool),
}

/// A machine that does what it is told, sooner or later, and whose services do as they like.
struct Machine {
    supervisor: Supervisor,
    there: Vec<There>,
    /// Ended with 0 in its last life.
    succeeded: Vec<bool>,
    events: Vec<(u64, usize, Event)>,
    dice: Vec<u8>,
    thrown: usize,
}

impl Machine {
    fn dice(&mut self) -> u8 {
        self.thrown += 1;
        self.dice[self.thrown % self.dice.len()].wrapping_add((self.thrown / self.dice.len()) as u8)
    }

    fn later(&mut self, now: u64, at: usize, event: Event) {
        let delay = u64::from(self.dice()) * 7;
        self.events.push((now + delay, at, event));
    }

    fn act(&mut self, at: usize, action: Action, now: u64) {
        match action {
            Action::Create => {
                assert_eq!(self.there[at], There::Nothing);
                for (other, until) in self.supervisor.units[at].after.clone() {
                    let is_up = until == Until::Ready && self.there[other] == There::Runs;
                    assert!(is_up || (self.there[other] == There::Nothing && self.succeeded[other]));
                }
                let works = self.dice() > 20;
                self.there[at] = if works { There::Made } else { There::Nothing };
                self.later(now, at, Event::Created(works));
            }
            Action::Start => {
                assert_eq!(self.there[at], There::Made);
                let works = self.dice() > 20;
                self.there[at] = if works { There::Runs } else { There::Dead };
                self.later(now, at, Event::Started(works));
            }
            Action::Signal(signal) => {
                if self.supervisor.is_ending() && signal != SIGKILL {
                    let needs_it = |unit: &Unit| unit.after.iter().any(|(other, _)| *other == at);
                    let units = self.supervisor.units.iter().zip(&self.there);
                    assert!(
                        units.filter(|(unit, _)| needs_it(unit)).all(|(_, there)| *there == There::Nothing)
                    );
                }
                if signal == SIGKILL || self.dice() > 100 {
                    self.later(now, at, Event::Ended(128 + signal as i32));
                }
            }
            Action::Remove => {
                self.events.retain(|(_, other, _)| *other != at);
                self.later(now, at, Event::Removed);
            }
            Action::Check => {
                if self.dice() > 40 {
                    let passes = self.dice() > 60;
                    self.later(now, at, Event::Checked(passes));
                }
            }
            Action::Abandon => {}
            Action::End => unreachable!(),
        }
    }

    fn happen(&mut self, now: u64, at: usize, event: Event) {
        match event {
            Event::Created(true) => self.supervisor.created(at, Ok(()), now),
            Event::Created(false) => self.supervisor.created(at, Err(fault!(Internal, "no")), now),
            Event::Started(true) => {
                self.supervisor.started(at, Ok(()), now);
                if self.dice() > 128 {
                    let status = i32::from(self.dice() % 3);
                    self.later(now, at, Event::Ended(status));
                }
            }
            Event::Started(false) => self.supervisor.started(at, Err(fault!(NotFound, "no")), now),
            Event::Ended(status) => {
                if self.there[at] == There::Runs {
                    self.there[at] = There::Dead;
                    self.succeeded[at] = status == 0;
                    self.supervisor.ended(at, status, now);
                }
            }
            Event::Removed => {
                self.succeeded[at] &= self.there[at] == There::Dead;
                self.there[at] = There::Nothing;
                self.supervisor.removed(at, now);
            }
            Event::Checked(passes) => {
                self.supervisor.checked(at, if passes { Ok(()) } else { Err(String::new()) }, now);
            }
        }
    }
}

fn any_service(at: usize) -> impl Strategy<Value = Service> {
    let after = proptest::collection::vec((0..at.max(1), 0i32..2), 0..=at.min(3));
    (after, 0i32..3, 0u32..4, any::<bool>()).prop_map(move |(after, policy, limit, has_check)| {
        let mut service = service(&format!("s{at}"), &[], RestartPolicy::try_from(policy).unwrap());
        service.restart.as_mut().unwrap().limit = limit;
        service.after = after
            .into_iter()
            .filter(|_| at > 0)
            .map(|(other, until)| After { service: format!("s{other}"), until })
            .collect();
        if has_check {
            service.health = Some(HealthCheck {
                tcp_port: 80,
                interval_ms: 500,
                timeout_ms: 700,
                start_period_ms: 900,
                ..Default::default()
            });
        }
        service
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_services_do_the_order_is_kept_and_the_end_comes(
        services in (1usize..6).prop_flat_map(|count| (0..count).map(any_service).collect::<Vec<_>>()),
        dice in proptest::collection::vec(any::<u8>(), 20..200),
        asked in proptest::collection::vec((0usize..6, 0u8..3), 0..10),
        end_after in 0usize..300,
    ) {
        let count = services.len();
        let mut machine = Machine {
            supervisor: supervisor(services),
            there: vec![There::Nothing; count],
            succeeded: vec![false; count],
            events: Vec::new(),
            dice,
            thrown: 0,
        };
        let mut asked = asked.into_iter();
        let mut now = 0;
        let mut is_over = false;
        for turn in 0..end_after + 2000 {
            if turn == end_after {
                machine.supervisor.end(None);
            }
            if turn % 20 == 19 && !machine.supervisor.is_ending()
                && let Some((at, what)) = asked.next().filter(|(at, _)| *at < count) {
                match what {
                    0 => machine.supervisor.stop(at),
                    1 => machine.supervisor.start(at, now),
                    _ => machine.supervisor.renew(at, now),
                }
            }
            let mut actions = 0;
            while let Some((at, action)) = machine.supervisor.next(now) {
                if action == Action::End {
                    is_over = true;
                    break;
                }
                machine.act(at, action, now);
                actions += 1;
                prop_assert!(actions < 100, "it goes on for ever");
            }
            if is_over {
                break;
            }
            let due = machine.events.iter().map(|(time, ..)| *time).min();
            let Some(next) = [due, machine.supervisor.deadline()].into_iter().flatten().min() else {
                // Everything is stopped or waits for what is; only somebody outside can go on.
                prop_assert!(turn < end_after, "it stands still");
                continue;
            };
            now = now.max(next);
            if let Some(first) = machine.events.iter().position(|(time, ..)| *time <= now) {
                let (_, at, event) = machine.events.remove(first);
                machine.happen(now, at, event);
            }
        }
        prop_assert!(is_over, "it does not end");
        prop_assert!(machine.there.iter().all(|there| *there == There::Nothing));
    }
}
