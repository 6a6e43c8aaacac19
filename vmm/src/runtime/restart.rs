//! When a container is started again after its end: Docker's policies, and the pauses between attempts.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The value of `--restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// When it has failed, at most this often; 0: without a limit.
    OnFailure(u32),
    /// Whatever its end, until it is stopped.
    Always,
    /// The same; the word is kept for scripts that say it, as nothing here outlives the host's own restart.
    UnlessStopped,
}

/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A container that ran this long was well: the pauses begin anew.
const WELL: Duration = Duration::from_secs(10);

impl Restart {
    /// Reads `no`, `on-failure[:N]`, `always` or `unless-stopped`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => match text {
                "no" | "" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure(0)),
                "always" => Ok(Self::Always),
                "unless-stopped" => Ok(Self::UnlessStopped),
                _ => {
                    Err(format!("'{text}' is no restart policy: no, on-failure[:N], always, unless-stopped"))
                }
            },
            Some(("on-failure", limit)) => limit
                .parse()
                .map(Self::OnFailure)
                .map_err(|_| format!("'{limit}' is not a number of restarts: on-failure:5, say")),
            Some((policy, _)) => Err(format!("only on-failure takes a number, '{policy}' does not")),
        }
    }

    /// Docker's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure(_) => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    /// How many restarts it allows; 0 for no limit.
    pub fn limit(self) -> u32 {
        match self {
            Self::OnFailure(limit) => limit,
            _ => 0,
        }
    }
}

impl std::fmt::Display for Restart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnFailure(limit @ 1..) => write!(f, "on-failure:{limit}"),
            policy => f.write_str(policy.word()),
        }
    }
}

/// The restarts of one container.
#[derive(Debug, Default)]
pub struct Restarts {
    count: u32,
    pause: Duration,
}

impl Restarts {
    /// Whether a container that has ended with `status` after `ran` is started again, and after what pause.
    pub fn next(&mut self, policy: Restart, status: u8, ran: Duration) -> Option<Duration> {
        let again = match policy {
            Restart::No => false,
            Restart::OnFailure(limit) => status != 0 && (limit == 0 || self.count < limit),
            Restart::Always | Restart::UnlessStopped => true,
        };
        if !again {
            return None;
        }
        self.count = self.count.saturating_add(1);
        self.pause = match self.pause {
            Duration::ZERO => FIRST_PAUSE,
            _ if ran >= WELL => FIRST_PAUSE,
            pause => (pause * 2).min(LONGEST_PAUSE),
        };
        Some(self.pause)
    }

    /// How often it has been started again.
    pub fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_docker_reads_them() {
        for (text, policy) in [
            ("no", Restart::No),
            ("on-failure", Restart::OnFailure(0)),
            ("on-failure:3", Restart::OnFailure(3)),
            ("always", Restart::Always),
            ("unless-stopped", Restart::UnlessStopped),
        ] {
            assert_eq!(Restart::parse(text), Ok(policy));
            assert_eq!(policy.to_string(), text);
        }
        for text in ["sometimes", "always:3", "on-failure:", "on-failure:-1", "on-failure:x"] {
            assert!(Restart::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn failures_are_counted_and_success_is_not_one() {
        let mut restarts = Restarts::default();
        let policy = Restart::OnFailure(2);
        assert_eq!(restarts.next(policy, 0, Duration::ZERO), None);
        assert!(restarts.next(policy, 1, Duration::ZERO).is_some());
        assert!(restarts.next(policy, 125, Duration::ZERO).is_some());
        assert_eq!(restarts.next(policy, 1, Duration::ZERO), None);
        assert_eq!(restarts.count(), 2);
        assert_eq!(Restarts::default().next(Restart::No, 1, Duration::ZERO), None);
    }

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_good_run() {
        let mut restarts = Restarts::default();
        let mut pauses = Vec::new();
        for _ in 0..14 {
            pauses.extend(restarts.next(Restart::Always, 0, Duration::from_secs(1)));
        }
        assert_eq!(pauses[0], Duration::from_millis(100));
        assert_eq!(pauses[1], Duration::from_millis(200));
        assert!(pauses.is_sorted());
        assert_eq!(pauses[13], LONGEST_PAUSE);
        assert_eq!(restarts.next(Restart::Always, 0, WELL), Some(FIRST_PAUSE));
    }
}
