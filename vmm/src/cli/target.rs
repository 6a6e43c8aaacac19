//! The containers that commands name, and the ways to them.

use super::{FAILED, Fault, Global, print};
use crate::agent::{self, Client, Patience};
use crate::runtime::directory;
use crate::runtime::monitor::client::{Connection, ask};
use crate::runtime::monitor::protocol::Request;
use crate::runtime::own_vmm::transport_in;
use crate::runtime::state::{Listed, Status};
use clap::Args;
use std::time::{Duration, Instant};

/// How long a guest that runs may take to answer at all. One whose kernel is interpreted, and busy, is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Operands of commands that take several containers.
#[derive(Debug, Args)]
pub struct Names {
    /// Names, ids, or beginnings of ids; a pod's name stands for all its containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Names {
    /// Does something to each, and prints its name; one that fails does not keep the others.
    pub fn each(&self, mut act: impl FnMut(&Listed) -> Result<(), Fault>) -> Result<u8, Fault> {
        let mut status = 0;
        for wanted in expand(&self.containers)? {
            match find(&wanted).and_then(|found| act(&found)) {
                Ok(()) => drop(print(&format!("{wanted}\n"))?),
                Err(fault) => {
                    super::report(&fault, false);
                    status = FAILED;
                }
            }
        }
        Ok(status)
    }

    /// All of them; a name that is nobody's is a failure.
    pub fn all(&self) -> Result<Vec<Listed>, Fault> {
        expand(&self.containers)?.iter().map(|wanted| find(wanted)).collect()
    }
}

/// The names of containers: where one is nobody's but a pod's, those of all its containers.
pub fn expand(wanted: &[String]) -> Result<Vec<String>, Fault> {
    let list = Global::containers()?.list().map_err(Fault::new)?;
    let mut names = Vec::with_capacity(wanted.len());
    for name in wanted {
        let is_one = list.iter().any(|one| one.record.name == *name || one.record.id.starts_with(name));
        let of_pod: Vec<_> = list.iter().filter(|one| !is_one && one.record.pod == *name).collect();
        match of_pod.is_empty() || name.is_empty() {
            true => names.push(name.clone()),
            // The oldest first, as the pod has them.
            false => names.extend(of_pod.iter().rev().map(|one| one.record.name.clone())),
        }
    }
    Ok(names)
}

/// The container of this name, id or beginning of an id.
pub fn find(wanted: &str) -> Result<Listed, Fault> {
    Global::containers()?.find(wanted).map_err(Fault::new)
}

/// Asks a container's monitor for something.
pub fn request(container: &Listed, request: &Request) -> Result<Connection, Fault> {
    ask(container, request).map_err(Fault::new)
}

/// Connects to the agent in a container's guest.
pub fn agent(container: &Listed) -> Result<Client, Fault> {
    let record = &container.record;
    if !container.alive || !record.status.has_process() {
        return Err(Fault::new(format_args!("container {} is not running", record.name)));
    }
    let patience = Patience { since: Instant::now(), limit: PATIENCE, alive: &|| container.is_alive() };
    agent::connect(&transport_in(&directory::of_vm(&record.runtime_directory)), &patience)
        .map_err(|error| Fault::new(format_args!("container {}: {error}", record.name)))
}

/// The same where the container's processes have to do something.
pub fn agent_of_unpaused(container: &Listed) -> Result<Client, Fault> {
    if container.record.status == Status::Paused {
        let name = &container.record.name;
        return Err(Fault::new(format_args!("container {name} is paused: ferry unpause {name} first")));
    }
    agent(container)
}
