//! A container, as the agent keeps it.

use super::process::{Caller, Process};
use super::system::StreamId;
use crate::api::agent::{Device, Storage};
use crate::api::oci::Spec;
use crate::prelude::*;

/// Most ended processes besides the first that are remembered for a late reader or waiter.
pub const ENDED_LIMIT: usize = 512;

/// A container.
pub struct Container<C> {
    /// What was asked for; its process has moved to `processes`.
    pub spec: Spec,
    /// How far it is.
    pub stage: Stage,
    /// Filesystems to mount for it, in order.
    pub storages: Vec<Storage>,
    /// How many of them are mounted.
    pub mounted: usize,
    /// Devices of the guest that it gets.
    pub devices: Vec<Device>,
    /// What the system keeps of it.
    pub system: Option<C>,
    /// The process that holds its namespaces.
    pub holder: Option<i32>,
    /// Its processes by exec id; the first one's is the empty string.
    pub processes: Table<String, Process>,
    /// Another name of the first process.
    pub first_alias: String,
    /// The stream that says when something happens to its memory, and how often processes were killed for it.
    pub memory: Option<StreamId>,
    /// See `memory`.
    pub memory_kills: u64,
    /// Who waits for it to be gone, and until when.
    pub removers: Vec<(Caller, Option<u64>)>,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its storages are being mounted, until `deadline` at the latest, for the one who asked.
    Mounting { caller: Caller, deadline: u64 },
    /// Its holder is setting it up, and reports on a stream.
    SettingUp { caller: Caller, report: StreamId },
    /// It can be started.
    Created,
    /// Its first process was started.
    Running,
    /// Its first process has ended, or never began.
    Ended,
    /// It is being removed.
    Removing,
}

/// The exec id of the first process, in `processes`.
pub const FIRST: &str = "";

impl<C> Container<C> {
    /// The key of a process in `processes`: the first one goes by the container's name, by the name given to
    /// it at creation, and by none.
    pub fn key<'a>(&self, id: &str, exec_id: &'a str) -> &'a str {
        if exec_id == id || exec_id == self.first_alias { FIRST } else { exec_id }
    }

    /// How many of its processes exist.
    pub fn alive(&self) -> usize {
        usize::from(self.holder.is_some())
            + self.processes.iter().filter(|(_, process)| process.pid().is_some()).count()
    }

    /// Forgets ended processes that nobody can want anything of, and some more when there are too many.
    /// Returns the streams that they held.
    pub fn tidy(&mut self) -> Vec<StreamId> {
        let mut streams = Vec::new();
        let is_ended = |key: &String, process: &Process| key != FIRST && process.status().is_some();
        self.processes.retain(|key, process| {
            let read = process.outputs.iter().all(|output| output.ended);
            let done = is_ended(key, process) && process.waited && read;
            if done {
                streams.extend(process.streams());
            }
            !done
        });
        while self.processes.iter().filter(|(key, process)| is_ended(key, process)).count() > ENDED_LIMIT {
            let oldest = self.processes.iter().find(|(key, process)| is_ended(key, process));
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
            streams.extend(self.processes.remove(&key).iter().flat_map(Process::streams));
        }
        streams
    }
}

/// Checks a container's name: it becomes a part of paths.
pub fn check_id(id: &str) -> Result {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let is_sound = (1..=128).contains(&id.len()) && id.bytes().all(allowed) && !id.starts_with('.');
    refuse_if!(!is_sound, InvalidArgument, "a container id is 1-128 letters, digits and `_.-`, no `.` first");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_their_directory_are_refused() {
        for id in ["", ".", "..", "a/b", ".hidden", "a b", "a\0", &"x".repeat(129)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        for id in ["a", "web-1_x.y", &"f".repeat(64)] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
    }
}
