//! The two envelopes of ttrpc and its status codes (ttrpc's own `ttrpc.proto`). What is only metadata of a call, or detail
//! of a status, is skipped.

use super::protobuf::{enumerations, messages};
use crate::prelude::*;

messages! {
    /// A call: which method of which service, and its encoded message.
    Request {
        1 service: String => "Full name of the service, such as `grpc.AgentService`.",
        2 method: String => "Name of the method.",
        3 payload: Vec<u8> => "The encoded request message.",
        4 timeout_nano: i64 => "How long the caller waits, in nanoseconds; 0 for ever.",
    }

    /// The answer to a call: no status or status [`Code::Ok`] is success.
    Response {
        1 status: Option<Status> => "How the call ended.",
        2 payload: Vec<u8> => "The encoded response message.",
    }

    /// How a call ended.
    Status {
        1 code: i32 => "A [`Code`].",
        2 message: String => "A sentence for people.",
    }
}

enumerations! {
    /// The canonical status codes (`google.rpc.Code`).
    Code {
        /// Success.
        Ok = 0,
        /// Cancelled by the caller.
        Cancelled = 1,
        /// An error of another space.
        Unknown = 2,
        /// The arguments are wrong whatever the state of the guest. A stream that has ended answers this, with
        /// the message [`EOF`].
        InvalidArgument = 3,
        /// Too late.
        DeadlineExceeded = 4,
        /// For a start: the process's executable (or its interpreter) is not there. Otherwise: no such
        /// container or process.
        NotFound = 5,
        /// Exists already.
        AlreadyExists = 6,
        /// For a start: the process's executable may not be executed.
        PermissionDenied = 7,
        /// A limit is reached.
        ResourceExhausted = 8,
        /// Not in the state that the call needs.
        FailedPrecondition = 9,
        /// Ended by a race.
        Aborted = 10,
        /// Past the end.
        OutOfRange = 11,
        /// The agent does not have this method.
        Unimplemented = 12,
        /// Something else went wrong; the message says what.
        Internal = 13,
        /// Not now.
        Unavailable = 14,
        /// Data is lost.
        DataLoss = 15,
        /// Nobody known is calling.
        Unauthenticated = 16,
    }
}

/// The message with which a read of an ended stream is answered, under [`Code::InvalidArgument`] (as the
/// Kata agent does).
pub const EOF: &str = "eof";
