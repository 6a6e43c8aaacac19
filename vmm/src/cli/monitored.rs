//! Work that a container's monitor does, a process of its own: see [`super::detach`].

use super::detach::{self, Bond, Report, Side};
use super::keys::DetachKeys;
use super::{FAILED, Fault, Global};
use crate::runtime::record::Record;
use crate::runtime::run::Milestone;

/// What is told how far a run has come.
pub(super) type Milestones<'a> = &'a (dyn Fn(Milestone, &[Record]) + Sync);

/// Leaves the work to a process of its own, and returns when that has a container to show or has failed.
pub(super) fn in_monitor(work: impl FnOnce(Milestones<'_>) -> Result<u8, Fault>) -> Result<u8, Fault> {
    match split(Bond::UntilStarted)? {
        Side::Command(waiting) => waiting.finish(),
        Side::Monitor(report) => monitor(&report, work),
    }
}

/// The same, and this process is the container's terminal until it ends or these keys are typed.
pub(super) fn in_front(
    keys: DetachKeys,
    work: impl FnOnce(Milestones<'_>) -> Result<u8, Fault>,
) -> Result<u8, Fault> {
    match split(Bond::UntilReleased)? {
        Side::Command(waiting) => super::front::show(waiting, keys),
        Side::Monitor(report) => monitor(&report, work),
    }
}

fn split(bond: Bond) -> Result<Side, Fault> {
    detach::split(bond).map_err(|error| Fault::new(format_args!("no process for it: {error}")))
}

fn monitor(report: &Report, work: impl FnOnce(Milestones<'_>) -> Result<u8, Fault>) -> Result<u8, Fault> {
    let containers = Global::containers()?;
    let milestone = |milestone, records: &[Record]| match (milestone, records.first()) {
        (Milestone::Made, Some(first)) => report.made(&containers.directory_of(&first.id)),
        (Milestone::Listening, Some(record)) => report.listening(record),
        (Milestone::Made | Milestone::Listening, None) => {}
        (Milestone::Started, _) => report.started(records),
    };
    let result = work(&milestone);
    report.ended(&result);
    // Whom this concerned has been told; the shell does not wait for this process.
    result.or(Ok(FAILED))
}
