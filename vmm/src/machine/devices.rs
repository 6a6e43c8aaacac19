//! The threads that serve the devices: one for each reactor, and those that devices need besides.

use super::ending::Ending;
use super::{Error, Exit};
use crate::backends::disk::Worker;
use crate::devices::reactor::Reactor;
use crate::sandbox::Lock;
use std::sync::mpsc;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// A thread that serves devices.
pub(super) type Serving<'scope> = ScopedJoinHandle<'scope, Result<(), Error>>;

/// Starts a thread for each reactor and each worker, and waits until all of them are locked in, if there is a lock. What has been started
/// is to be [stopped](stop) whatever the result.
pub(super) fn serve<'scope>(
    scope: &'scope Scope<'scope, '_>,
    reactors: &'scope [Reactor],
    workers: Vec<Worker>,
    lock: Option<Lock>,
    ending: &'scope Ending,
) -> (Vec<Serving<'scope>>, Result<(), Error>) {
    let (starting, started) = mpsc::channel::<()>();
    let mut serving = Vec::with_capacity(reactors.len() + workers.len());
    type Task<'scope> = Box<dyn FnOnce() -> Result<(), Error> + Send + 'scope>;
    let reactors = reactors.iter().map(|reactor| -> Task<'scope> {
        Box::new(|| {
            let result = reactor.run().map_err(Error::system("wait for the devices' events"));
            // Without its devices the guest would only hang.
            ending.set(Exit::Killed);
            result
        })
    });
    let workers = workers.into_iter().map(|worker| -> Task<'scope> {
        Box::new(|| {
            worker();
            Ok(())
        })
    });
    for (number, task) in reactors.chain(workers).enumerate() {
        let (lock, starting) = (lock.clone(), starting.clone());
        let thread = Builder::new().name(format!("io{number}")).spawn_scoped(scope, move || {
            let locked = lock.map_or(Ok(()), |lock| Ok(lock.enter()?));
            drop(starting);
            if locked.is_err() {
                ending.set(Exit::Killed);
            }
            locked.and_then(|()| task())
        });
        match thread {
            Ok(thread) => serving.push(thread),
            Err(error) => return (serving, Err(Error::system("start a devices' thread")(error))),
        }
    }
    drop(starting);
    // Nothing is ever sent: this returns when the last thread has let go of its end.
    let _ = started.recv();
    (serving, Ok(()))
}

/// Ends the threads; the first error that one of them met.
pub(super) fn stop(reactors: &[Reactor], serving: Vec<Serving<'_>>) -> Result<(), Error> {
    for reactor in reactors {
        // The counter is far from its end, so this does not fail.
        let _ = reactor.stopper().write(1);
    }
    let mut result = Ok(());
    for (number, thread) in serving.into_iter().enumerate() {
        // Behind the reactors' threads come the workers, which may be those of a reactor that did not run.
        if number == reactors.len() {
            reactors.iter().for_each(Reactor::close);
        }
        result = result.and(match thread.join() {
            Ok(result) => result,
            Err(_) => Err(Error::Internal("a devices' thread panicked")),
        });
    }
    result
}
