//! Limits of a container inside its machine, which can be changed while it runs.

use ferry_init::api::oci::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use serde::{Deserialize, Serialize};

/// Limits set by `ferry update`; none: what the machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Weight among containers, 2 to 262144 (Docker's `--cpu-shares`).
    pub cpu_shares: Option<u64>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Processes; -1 for no limit.
    pub pids: Option<i64>,
}

/// The period of processor time that a quota is counted in, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

impl Limits {
    /// These, and where they say nothing, those.
    pub fn or(self, those: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.or(those.cpu_millis),
            cpu_shares: self.cpu_shares.or(those.cpu_shares),
            memory: self.memory.or(those.memory),
            pids: self.pids.or(those.pids),
        }
    }

    /// As the agent is told of them.
    pub fn resources(&self) -> LinuxResources {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let quota = |millis: u64| signed(millis.saturating_mul(PERIOD) / 1000);
        let cpu = (self.cpu_millis.is_some() || self.cpu_shares.is_some()).then(|| LinuxCpu {
            shares: self.cpu_shares.unwrap_or(0),
            quota: self.cpu_millis.map_or(0, quota),
            period: self.cpu_millis.map_or(0, |_| PERIOD),
            ..LinuxCpu::default()
        });
        LinuxResources {
            cpu,
            memory: self.memory.map(|limit| LinuxMemory { limit: signed(limit), ..LinuxMemory::default() }),
            pids: self.pids.map(|limit| LinuxPids { limit }),
            ..LinuxResources::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_is_told() {
        assert_eq!(Limits::default().resources(), LinuxResources::default());
        let some = Limits { cpu_millis: Some(1500), pids: Some(-1), ..Limits::default() };
        let told = some.resources();
        let cpu = told.cpu.unwrap();
        assert_eq!((cpu.quota, cpu.period, cpu.shares), (150_000, 100_000, 0));
        assert_eq!(told.pids.unwrap().limit, -1);
        assert!(told.memory.is_none());
        let later = Limits { memory: Some(1 << 20), cpu_millis: Some(100), ..Limits::default() }.or(some);
        assert_eq!((later.cpu_millis, later.memory, later.pids), (Some(100), Some(1 << 20), Some(-1)));
    }
}
