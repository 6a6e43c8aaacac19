//! Docker's `HEALTHCHECK`: a command that is run in a container again and again, and tells whether it is well. Nothing is done
//! about one that is not: `ferry ps` and `inspect` show it.

use super::check;
use super::clock;
use super::monitor::Monitor;
use super::record::{Made, Status};
use crate::agent::Client;
use ferry_images::config::HealthCheck;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many checks are remembered.
const REMEMBERED: usize = 5;
/// The exit status that a check is given which did not end in time, or could not be run.
const NO_STATUS: i32 = -1;

/// A check; Docker's defaults for what nobody said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is run.
    pub command: Vec<String>,
    /// From the end of one check to the next.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// How long after its start failures do not count.
    pub start_period: Duration,
    /// From the end of one check to the next meanwhile.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// What options say of it; what they leave out is the image's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// No check at all.
    pub never: bool,
    /// A line for a shell.
    pub command: Option<String>,
    /// See [`Check::interval`].
    pub interval: Option<Duration>,
    /// See [`Check::timeout`].
    pub timeout: Option<Duration>,
    /// See [`Check::start_period`].
    pub start_period: Option<Duration>,
    /// See [`Check::start_interval`].
    pub start_interval: Option<Duration>,
    /// See [`Check::retries`].
    pub retries: Option<u32>,
}

/// How a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has yet to be well for the first time.
    #[default]
    Starting,
    /// It is well.
    Healthy,
    /// It is not.
    Unhealthy,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Starting, Self::Healthy, Self::Unhealthy];

    /// As Docker writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What its checks have come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// How it is.
    pub state: State,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last checks, the oldest first.
    pub log: VecDeque<Checked>,
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// When it began; nanoseconds since 1970.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// Its exit status; 0 where all was well.
    pub status: i32,
    /// What it wrote, or why it could not be run.
    pub output: String,
}

impl Check {
    /// The check of an image, as options change it; none: there is none, or none is wanted.
    pub fn of(image: Option<&HealthCheck>, wanted: &Wanted) -> Option<Self> {
        if wanted.never {
            return None;
        }
        let shell = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
        let usual = HealthCheck::default();
        let image = image.unwrap_or(&usual);
        let command = match (&wanted.command, &image.test[..]) {
            (Some(line), _) => shell(line),
            (None, [kind, line, ..]) if kind == "CMD-SHELL" => shell(line),
            (None, [kind, words @ ..]) if kind == "CMD" && !words.is_empty() => words.to_vec(),
            _ => return None,
        };
        let time = |wanted: Option<Duration>, image: i64, usual: u64| {
            let image = u64::try_from(image).ok().filter(|time| *time != 0).map(Duration::from_nanos);
            wanted.or(image).unwrap_or(Duration::from_secs(usual))
        };
        Some(Self {
            command,
            interval: time(wanted.interval, image.interval, 30),
            timeout: time(wanted.timeout, image.timeout, 30),
            start_period: time(wanted.start_period, image.start_period, 0),
            start_interval: time(wanted.start_interval, image.start_interval, 5),
            retries: wanted.retries.or(Some(image.retries).filter(|retries| *retries != 0)).unwrap_or(3),
        })
    }

    /// As `inspect` shows it.
    pub fn inspect(&self) -> serde_json::Value {
        let command: Vec<_> = std::iter::once("CMD").chain(self.command.iter().map(String::as_str)).collect();
        serde_json::json!({
            "Test": command,
            "Interval": self.interval.as_nanos() as u64,
            "Timeout": self.timeout.as_nanos() as u64,
            "StartPeriod": self.start_period.as_nanos() as u64,
            "StartInterval": self.start_interval.as_nanos() as u64,
            "Retries": self.retries,
        })
    }

    /// How long to wait for the next check of a container that began so long ago.
    fn pause(&self, health: &Health, age: Duration) -> Duration {
        match health.state == State::Starting && age < self.start_period {
            true => self.start_interval.min(self.interval),
            false => self.interval,
        }
    }
}

impl Health {
    /// A check of a container that had begun so long before it.
    fn take(&mut self, check: &Check, age: Duration, checked: Checked) {
        if checked.status == 0 {
            (self.state, self.failing_streak) = (State::Healthy, 0);
        } else if self.state != State::Starting || age >= check.start_period {
            self.failing_streak += 1;
            if self.failing_streak >= check.retries {
                self.state = State::Unhealthy;
            }
        }
        self.log.push_back(checked);
        while self.log.len() > REMEMBERED {
            self.log.pop_front();
        }
    }

    /// As `inspect` shows it.
    pub fn inspect(&self) -> serde_json::Value {
        let time = |nanoseconds| clock::rfc3339(nanoseconds);
        serde_json::json!({
            "Status": self.state.word(),
            "FailingStreak": self.failing_streak,
            "Log": self.log.iter().map(|one| serde_json::json!({
                "Start": time(one.start), "End": time(one.end), "ExitCode": one.status, "Output": one.output,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Checks a container whose process has begun, until it has ended.
pub(super) fn follow(client: &Client, monitor: &Arc<Monitor>, check: &Check) {
    let (client, monitor, check) = (client.clone(), Arc::clone(monitor), check.clone());
    monitor.note(|record| record.health = Some(Health::default()));
    let follow = move || {
        let began = Instant::now();
        let mut health = Health::default();
        while monitor.runs_for(check.pause(&health, began.elapsed())) {
            let Some(record) = monitor.record() else { return };
            if record.status == Status::Paused {
                continue;
            }
            let (age, checked) = (began.elapsed(), once(&client, monitor.id(), &record.made, &check));
            // A container that ends takes its check with it, which says nothing.
            if !monitor.runs_for(Duration::ZERO) {
                return;
            }
            let before = health.state;
            health.take(&check, age, checked);
            if health.state == State::Unhealthy && before != State::Unhealthy {
                let output = health.log.back().map(|last| last.output.trim_end()).unwrap_or_default();
                tracing::warn!(container = record.name, output, "it is unhealthy");
            }
            monitor.note(|record| record.health = Some(health.clone()));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("health".into()).spawn(follow) {
        tracing::warn!(%error, "whether the container is well is not looked at");
    }
}

fn once(client: &Client, container: &str, made: &Made, check: &Check) -> Checked {
    let start = clock::now();
    let (status, output) = match check::run(client, container, made, &check.command, check.timeout) {
        Ok((status, output)) => (status.into(), output),
        Err(why) => (NO_STATUS, why),
    };
    Checked { start, end: clock::now(), status, output }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(test: &[&str]) -> HealthCheck {
        HealthCheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            timeout: 2_000_000_000,
            ..HealthCheck::default()
        }
    }

    #[test]
    fn the_images_check_is_changed_by_options() {
        let of = |test: &[&str], wanted: &Wanted| Check::of(Some(&image(test)), wanted);
        let usual = Wanted::default();
        let check = of(&["CMD", "curl", "localhost"], &usual).unwrap();
        assert_eq!(check.command, ["curl", "localhost"]);
        let seconds =
            [check.interval, check.timeout, check.start_period, check.start_interval].map(|t| t.as_secs());
        assert_eq!((seconds, check.retries), ([30, 2, 0, 5], 3));
        assert_eq!(of(&["CMD-SHELL", "a || b"], &usual).unwrap().command, ["/bin/sh", "-c", "a || b"]);
        for nothing in [&["NONE"][..], &[], &["CMD"], &["CMD-SHELL"], &["ODD", "x"]] {
            assert_eq!(of(nothing, &usual), None, "{nothing:?}");
        }
        assert_eq!(Check::of(None, &usual), None);
        let own = Wanted {
            command: Some("x".into()),
            retries: Some(7),
            timeout: Some(Duration::from_secs(9)),
            ..Wanted::default()
        };
        let check = of(&["NONE"], &own).unwrap();
        assert_eq!(
            (check.command.last().unwrap().as_str(), check.retries, check.timeout.as_secs()),
            ("x", 7, 9)
        );
        assert_eq!(of(&["CMD", "x"], &Wanted { never: true, ..own }), None);
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_but_not_before_its_start_is_over() {
        let wanted =
            Wanted { start_period: Some(Duration::from_secs(60)), retries: Some(2), ..Wanted::default() };
        let check = Check::of(Some(&image(&["CMD", "x"])), &wanted).unwrap();
        let mut health = Health::default();
        let mut take = |age, status| {
            let checked = Checked { start: 0, end: 0, status, output: String::new() };
            health.take(&check, Duration::from_secs(age), checked);
            let pause = check.pause(&health, Duration::from_secs(age)).as_secs();
            (health.state.word(), health.failing_streak, health.log.len(), pause)
        };
        assert_eq!(take(5, 1), ("starting", 0, 1, 5));
        assert_eq!(take(10, 0), ("healthy", 0, 2, 30));
        assert_eq!(take(40, 1), ("healthy", 1, 3, 30));
        assert_eq!(take(70, -1), ("unhealthy", 2, 4, 30));
        assert_eq!(take(100, 0), ("healthy", 0, 5, 30));
        assert_eq!(take(130, 1), ("healthy", 1, 5, 30));
        let mut late = Health::default();
        for _ in 0..2 {
            late.take(
                &check,
                Duration::from_secs(60),
                Checked { start: 0, end: 0, status: 1, output: String::new() },
            );
        }
        assert_eq!(late.state, State::Unhealthy);
    }
}
