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

use std::time::Duration;

/// Connects to the agent, waiting for the guest to boot, and sees that it serves.
pub fn connect(transport: &Transport, patience: &Patience<'_>) -> Result<Client, ConnectError> {
    loop {
        let stream = transport::connect(transport, patience)?;
        let failed = |error| ConnectError::Io { socket: transport.socket().to_owned(), error };
        let client = Client::new(stream).map_err(failed)?;
        match client.check(Wait::Until(&|| patience.is_over())) {
            Ok(()) => return Ok(client),
            // Whoever answered is not ready yet, or the device has dropped a connection made too early.
            Err(error) => tracing::debug!(%error, "the agent does not serve yet"),
        }
        patience.check()?;
        std::thread::sleep(patience.pause().max(Duration::from_millis(20)));
    }
}
