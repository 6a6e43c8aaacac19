//! The host's end of the agent API: how ferry reaches PID 1 in the guest and drives a container's life there.
//!
//! [`connect`] finds the agent over a [`Transport`]; a [`Client`] makes calls, many at once; a [`session`] runs one
//! container from its creation to its exit status. Nothing here knows how the guest was started, so the same session
//! drives a guest under ferry's own VMM and under QEMU.

mod appliance;
mod calls;
mod client;
pub mod network;
mod pump;
pub mod session;
mod signals;
pub mod terminal;
mod transport;

#[cfg(test)]
pub(crate) mod fake;

pub use calls::{OutputStream, Read, Reading, Writing};
pub use client::{CallError, Client, Pending, Wait, printable};
pub use signals::{Signal, UnknownSignal};
pub use transport::{ConnectError, Patience, Transport};

use std::time::{Duration, Instant};

/// How long a connection through a serial port may be without its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// Connects to the agent, waiting for the guest to boot, and sees that it serves.
pub fn connect(transport: &Transport, patience: &Patience<'_>) -> Result<Client, ConnectError> {
    // A serial port does not say where one client ends and the next begins: what comes at that moment may be taken for the
    // last one's and go unanswered. So it is said again, with more patience each time.
    let is_stream = matches!(transport, Transport::Stream { .. });
    let mut first_answer = FIRST_ANSWER;
    loop {
        let stream = transport::connect(transport, patience)?;
        let failed = |error| ConnectError::Io { socket: transport.socket().to_owned(), error };
        let client = Client::new(stream).map_err(failed)?;
        let asked = Instant::now();
        let answers_late = || is_stream && asked.elapsed() > first_answer;
        match client.check(Wait::Until(&|| patience.is_over() || answers_late())) {
            Ok(()) => return Ok(client),
            // Whoever answered is not ready yet, or the device has dropped a connection made too early.
            Err(error) => tracing::debug!(%error, "the agent does not serve yet"),
        }
        patience.check()?;
        client.close("it does not answer");
        first_answer *= 2;
        std::thread::sleep(patience.pause().max(Duration::from_millis(20)));
    }
}
