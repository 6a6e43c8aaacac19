//! The source package out of Debian's archive, shown as a step while it comes in.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use ferry_images::Progress;
use ferry_images::debian::{Fetched, Package, Packages};
use indicatif::BinaryBytes;

use crate::report::{Report, Step};
use crate::workshop::Workshop;

/// The pinned package, or what the mirror offers in its place now (which the result says).
pub fn fetch(workshop: &Workshop, pin: &Package) -> Result<Fetched> {
    let packages = Packages::open(&workshop.cache.dir("debian")?)?;
    Ok(packages.fetch_or_current(pin, &Shown { report: &workshop.report, at: Mutex::default() })?)
}

/// A download as steps of the report.
struct Shown<'a> {
    report: &'a Report,
    at: Mutex<Option<At>>,
}

struct At {
    step: Step,
    done: u64,
    total: Option<u64>,
}

impl Shown<'_> {
    fn set(&self, at: Option<At>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

impl Progress for Shown<'_> {
    fn begin(&self, what: &str, total: Option<u64>) {
        let step = self.report.step(what, Duration::from_secs(30));
        self.set(Some(At { step, done: 0, total }));
    }

    fn advance(&self, bytes: u64) {
        if let Some(at) = &mut *self.at.lock().unwrap_or_else(PoisonError::into_inner) {
            at.done = at.done.saturating_add(bytes);
            let done = BinaryBytes(at.done);
            at.step.note(&match at.total {
                Some(total) => format!("{done} of {}", BinaryBytes(total)),
                None => done.to_string(),
            });
        }
    }

    fn end(&self) {
        self.set(None);
    }

    fn warn(&self, message: &str) {
        self.report.say(format!("warning: {message}"));
    }
}
