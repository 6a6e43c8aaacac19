//! The header of every vsock packet. Specification, section 5.10.6.

use vm_memory::ByteValued;

/// The host's context id.
pub(super) const HOST_CID: u64 = 2;
/// The only socket type here: a stream.
pub(super) const STREAM: u16 = 1;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Operation {
    pub(super) fn parse(value: u16) -> Option<Self> {
        use Operation::*;
        [Request, Response, Reset, Shutdown, Data, CreditUpdate, CreditRequest]
            .into_iter()
            .find(|operation| *operation as u16 == value)
    }
}

/// Shutdown flag: the sender will receive nothing more.
pub(super) const NO_RECEIVE: u32 = 1;
/// Shutdown flag: the sender will send nothing more.
pub(super) const NO_SEND: u32 = 2;
/// Both.
pub(super) const NOTHING_MORE: u32 = NO_RECEIVE | NO_SEND;

/// The header's length in bytes.
pub(super) const HEADER: usize = size_of::<Header>();

/// A packet's header, in the byte order it has on the wire, which is this machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, packed)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    pub(super) buffer_size: u32,
    pub(super) forwarded: u32,
}

// SAFETY: packed plain integers.
unsafe impl ByteValued for Header {}

/// The two ends of a connection, which name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_length_of_the_specification() {
        assert_eq!(HEADER, 44);
    }

    #[test]
    fn knows_every_operation_and_no_other() {
        assert_eq!((0..100).filter_map(Operation::parse).count(), 7);
        assert_eq!(Operation::parse(5), Some(Operation::Data));
    }
}
