//! Pods: several containers in one machine, as a Kubernetes Pod describes them ([`document`]) and as `podman kube play` runs
//! them. They share the machine's network, a host name, shared memory and volumes; each has its own image and root.
//!
//! Every container is one as `ferry ps` knows them, with a name of `POD-CONTAINER` and a monitor of its own; one process
//! keeps them all, and the machine ends with the last.

pub mod document;
mod fields;
mod host_path;
mod life;
mod probe;
mod quantity;
mod run;
mod show;
mod spec;
mod yaml;

#[cfg(test)]
mod tests;

pub use document::{Pod, PodError, parse};
pub use fields::DocumentError;
pub use run::{Output, Request, machine, run};
pub use yaml::LONGEST;
