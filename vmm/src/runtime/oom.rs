//! Containers that run out of memory, as their guest tells it: processes of theirs are killed by its kernel.

use super::monitor::Monitor;
use crate::agent::Client;
use std::sync::Arc;

/// Lets these containers know, until the connection to their guest ends. The guest keeps what happened before this is called.
pub(super) fn follow(client: &Client, monitors: Vec<Arc<Monitor>>) {
    let client = client.clone();
    monitors.iter().for_each(|monitor| monitor.memory_is_watched(true));
    let watched = monitors.clone();
    let follow = move || {
        while let Ok(id) = client.next_out_of_memory() {
            monitors.iter().filter(|monitor| monitor.id() == id).for_each(|monitor| monitor.out_of_memory());
        }
        monitors.iter().for_each(|monitor| monitor.memory_is_watched(false));
    };
    if let Err(error) = std::thread::Builder::new().name("memory-watch".into()).spawn(follow) {
        watched.iter().for_each(|monitor| monitor.memory_is_watched(false));
        tracing::warn!(%error, "a container that runs out of memory is not told of");
    }
}
