//! What fuzzers drive: the ways of hostile bytes through registers, queues, packets, joined disks and the command line, with
//! what must hold whatever comes. The targets in `vmm/fuzz` call these with whatever libFuzzer thinks of; the tests below with
//! a fixed sequence.

#[cfg(feature = "cli")]
mod command_line;
mod composite;
mod devices;

#[cfg(feature = "cli")]
pub use command_line::command_line;
pub use composite::composite;
pub use devices::{Kind, device, vsock_packets};

/// Reads an input from its front. Behind its end there are zeroes.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let length = N.min(self.0.len());
        let (first, rest) = self.0.split_at(length);
        array[..length].copy_from_slice(first);
        self.0 = rest;
        array
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn double(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// At most so many bytes.
    fn bytes(&mut self, at_most: usize) -> &[u8] {
        let (first, rest) = self.0.split_at(at_most.min(self.0.len()));
        self.0 = rest;
        first
    }
}

/// A target by its name: what the programs in `vmm/fuzz` are called. False if there is none.
pub fn target(name: &str, bytes: &[u8]) -> bool {
    match name {
        "composite" => composite(bytes),
        "vsock_packets" => vsock_packets(bytes),
        #[cfg(feature = "cli")]
        "command_line" => command_line(bytes),
        name => match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
            Some(kind) => device(kind, bytes),
            None => return false,
        },
    }
    true
}

/// Inputs for a target to begin with: each does something that a guest or a user would.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "composite" => composite::seeds(),
        "vsock_packets" => devices::packet_seeds(),
        #[cfg(feature = "cli")]
        "command_line" => command_line::seeds(),
        _ => devices::seeds(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    /// Runs a target on its seeds, on pieces of them with changes, and on nonsense: the same each time.
    fn short_run(name: &str, cases: u32) {
        for seed in seeds(name) {
            assert!(target(name, &seed), "there is no target {name}");
        }
        let seeds = seeds(name);
        let changed = (0..seeds.len(), prop::collection::vec((any::<u16>(), any::<u8>()), 0..12)).prop_map(
            move |(which, changes)| {
                let mut bytes = seeds[which].clone();
                for (at, byte) in changes {
                    let at = usize::from(at) % bytes.len().max(1);
                    match byte % 5 {
                        0 => bytes.truncate(at),
                        1 => bytes.extend_from_within(at.min(bytes.len())..),
                        _ => bytes.iter_mut().skip(at).take(1).for_each(|place| *place = byte),
                    }
                    bytes.truncate(4096);
                }
                bytes
            },
        );
        let input = prop_oneof![changed, prop::collection::vec(any::<u8>(), 0..400)];
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let rng = proptest::test_runner::TestRng::deterministic_rng(Default::default());
        TestRunner::new_with_rng(config, rng)
            .run(&input, |bytes| {
                target(name, &bytes);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn devices_stand_any_driver() {
        for kind in Kind::ALL {
            short_run(kind.name(), 50);
        }
    }

    #[test]
    fn vsock_stands_any_packets() {
        short_run("vsock_packets", 60);
    }

    #[test]
    fn joined_disks_read_as_their_parts_whatever_is_asked() {
        short_run("composite", 100);
    }

    #[cfg(feature = "cli")]
    #[test]
    fn options_are_taken_or_refused() {
        short_run("command_line", 1000);
    }

    #[test]
    fn a_target_that_is_not_there_is_told() {
        assert!(!target("nothing", b""));
    }
}
