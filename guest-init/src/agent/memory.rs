//! Containers that ran out of memory: `GetOOMEvent` is answered with one of them.

use super::process::Caller;
use super::{Agent, Outcome, System};
use crate::api::guest::OomEvent;
use crate::prelude::*;

/// Who wants to know, and what nobody has asked for yet.
#[derive(Default)]
pub struct Events {
    pub callers: Vec<Caller>,
    /// A container once, however often it happened.
    containers: Vec<String>,
}

fn event(container_id: String) -> Vec<u8> {
    OomEvent { container_id }.encode_to_vec()
}

impl<S: System> Agent<S> {
    /// `GetOOMEvent`.
    pub(super) fn next_memory_event(&mut self, caller: Caller) -> Outcome {
        if self.memory_events.containers.is_empty() {
            self.memory_events.callers.push(caller);
            return Ok(None);
        }
        Ok(Some(event(self.memory_events.containers.remove(0))))
    }

    /// Something happened to a container's memory.
    pub(super) fn memory_changed(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(system) = &container.system else { return };
        let kills = self.system.memory_kills(system);
        if kills <= core::mem::replace(&mut container.memory_kills, kills) {
            return;
        }
        let events = &mut self.memory_events;
        if !events.callers.is_empty() {
            let caller = events.callers.remove(0);
            self.answer(caller, Ok(event(id.into())));
        } else if !events.containers.iter().any(|known| known == id) {
            events.containers.push(id.into());
        }
    }
}
