//! Those who follow a container: who gets its output, and who is told of its end.

use super::protocol::{Kind, send};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a follower that takes nothing holds the container's output up before it is let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a follower wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Output and the end.
    Everything,
    /// The same, and the output waits for it for as long as it takes.
    Own,
    /// The end.
    End,
}

struct Follower {
    interest: Interest,
    /// Held while a whole frame is written.
    stream: Mutex<UnixStream>,
}

impl Follower {
    fn send(&self, kind: Kind, bytes: &[u8]) -> std::io::Result<()> {
        send(&*self.stream.lock().unwrap_or_else(PoisonError::into_inner), kind, bytes)
    }
}

/// All who follow one container.
#[derive(Default)]
pub struct Hub {
    followers: Mutex<Vec<Arc<Follower>>>,
    came: Condvar,
}

impl Hub {
    /// Adds one. It is not heard of again: what it sends is read by somebody else.
    pub fn add(&self, stream: UnixStream, interest: Interest) -> std::io::Result<()> {
        stream.set_write_timeout((interest != Interest::Own).then_some(PATIENCE))?;
        self.followers().push(Arc::new(Follower { interest, stream: Mutex::new(stream) }));
        self.came.notify_all();
        Ok(())
    }

    /// Waits until the command that started it follows it; `false`: it did not come within this time.
    pub fn is_owned_within(&self, time: Duration) -> bool {
        let is_owned =
            |followers: &[Arc<Follower>]| followers.iter().any(|one| one.interest == Interest::Own);
        let waited = self.came.wait_timeout_while(self.followers(), time, |followers| !is_owned(followers));
        is_owned(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Sends output to all who want it.
    pub fn output(&self, kind: Kind, bytes: &[u8]) {
        let followers: Vec<_> = self.followers().clone();
        for follower in followers.iter().filter(|follower| follower.interest != Interest::End) {
            let Err(error) = follower.send(kind, bytes) else { continue };
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                tracing::warn!(
                    "who is attached has taken no output for {} s and is let go",
                    PATIENCE.as_secs()
                );
            }
            // Half a frame may be under way: the connection is of no use any more.
            let _ = follower
                .stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .shutdown(std::net::Shutdown::Both);
            self.followers().retain(|other| !Arc::ptr_eq(other, follower));
        }
    }

    /// Tells all of the end, and lets them go.
    pub fn end(&self, status: u8) {
        let followers = std::mem::take(&mut *self.followers());
        for follower in followers {
            // One that has left does not matter.
            let _ = follower.send(Kind::Exit, &[status]);
        }
    }

    fn followers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Follower>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::receive;
    use super::*;

    #[test]
    fn each_gets_what_it_wants_and_those_who_left_hold_nothing_up() {
        let hub = Hub::default();
        let follow = |interest| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            hub.add(ours, interest).unwrap();
            theirs
        };
        let everything = follow(Interest::Everything);
        let end = follow(Interest::End);
        drop(follow(Interest::Everything));
        hub.output(Kind::Stdout, b"hi");
        assert_eq!(hub.followers().len(), 2);
        hub.end(3);
        assert_eq!(receive(&everything).unwrap(), Some((Kind::Stdout, b"hi".to_vec())));
        assert_eq!(receive(&everything).unwrap(), Some((Kind::Exit, vec![3])));
        assert_eq!(receive(&everything).unwrap(), None);
        assert_eq!(receive(&end).unwrap(), Some((Kind::Exit, vec![3])));
    }
}
