//! Long work as people see it, on standard error: a bar on a terminal, once it takes longer than a moment; otherwise a line
//! every ten seconds. Short work shows nothing.

use ferry_images::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Steps shorter than this are not shown.
const MOMENT: Duration = Duration::from_millis(400);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows steps on standard error.
#[derive(Debug)]
pub struct Show {
    step: Mutex<Option<Arc<Step>>>,
    terminal: bool,
}

#[derive(Debug)]
struct Step {
    what: String,
    total: Option<u64>,
    done: AtomicU64,
    since: Instant,
    over: Mutex<bool>,
    changed: Condvar,
}

impl Show {
    /// Shows nothing until a step begins.
    pub fn new() -> Self {
        Self { step: Mutex::new(None), terminal: std::io::stderr().is_terminal() }
    }

    fn step(&self) -> MutexGuard<'_, Option<Arc<Step>>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Show {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Show {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.end();
        let step = Arc::new(Step {
            what: what.to_owned(),
            total,
            done: AtomicU64::new(0),
            since: Instant::now(),
            over: Mutex::new(false),
            changed: Condvar::new(),
        });
        *self.step() = Some(Arc::clone(&step));
        let show = if self.terminal { Step::draw } else { Step::write_lines };
        // Without a thread the work goes on unseen.
        let _ = std::thread::Builder::new().name("progress".into()).spawn(move || show(&step));
    }

    fn advance(&self, bytes: u64) {
        if let Some(step) = self.step().as_ref() {
            step.done.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        let Some(step) = self.step().take() else { return };
        let mut over = step.over.lock().unwrap_or_else(PoisonError::into_inner);
        *over = true;
        step.changed.notify_all();
        drop(over);
        // The bar is gone before anything else is written to the terminal.
        while self.terminal && Arc::strong_count(&step) > 1 {
            std::thread::yield_now();
        }
    }

    fn warn(&self, message: &str) {
        eprintln!("ferry: {message}");
    }
}

impl Step {
    /// Whether the step is over within this time.
    fn is_over_within(&self, time: Duration) -> bool {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(over, time, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn draw(self: &Arc<Self>) {
        if self.is_over_within(MOMENT) {
            return;
        }
        let bar = ProgressBar::with_draw_target(self.total, ProgressDrawTarget::stderr());
        let template = match self.total {
            Some(_) => "{spinner:.green} {msg} {wide_bar:.cyan/dim} {bytes}/{total_bytes} {eta}",
            None => "{spinner:.green} {msg} ({elapsed})",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(self.what.clone());
        bar.reset_elapsed();
        while !self.is_over_within(Duration::from_millis(100)) {
            bar.set_position(self.done.load(Ordering::Relaxed));
            bar.tick();
        }
        bar.finish_and_clear();
    }

    fn write_lines(self: &Arc<Self>) {
        while !self.is_over_within(LINE_EVERY) {
            let seconds = self.since.elapsed().as_secs();
            match self.total.filter(|total| *total > 0) {
                Some(total) => {
                    let percent = self.done.load(Ordering::Relaxed).min(total).saturating_mul(100) / total;
                    eprintln!("ferry: {}: {percent} % after {seconds} s", self.what);
                }
                None => eprintln!("ferry: {}: {seconds} s", self.what),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_with_the_next_one() {
        let show = Show::new();
        show.begin("first", Some(10));
        let first = Arc::clone(show.step().as_ref().unwrap());
        show.advance(4);
        show.begin("second", None);
        assert!(first.is_over_within(Duration::ZERO));
        assert_eq!(first.done.load(Ordering::Relaxed), 4);
        show.end();
        show.end();
        assert!(show.step().is_none());
    }
}
