//! The two envelopes of ttrpc and its status codes (ttrpc's own `ttrpc.proto`).

use alloc::string::String;
use alloc::vec::Vec;

/// A call: which method of which service, and its encoded message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Full name of the service, such as `grpc.AgentService`.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Name of the method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The encoded request message.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    /// How long the caller waits, in nanoseconds; 0 for ever.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
    /// Free key and value pairs.
    #[prost(message, repeated, tag = "5")]
    pub metadata: Vec<KeyValue>,
}

/// The answer to a call: no status or status [`Code::Ok`] is success.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// How the call ended.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The encoded response message.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// How a call ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// A [`Code`].
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// A sentence for people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Typed details; nobody here sends any.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// A message together with its type's name (`google.protobuf.Any`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// Names the type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// One metadata entry of a [`Request`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The canonical status codes (`google.rpc.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Code {
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

/// The message with which a read of an ended stream is answered, under [`Code::InvalidArgument`] (as the
/// Kata agent does).
pub const EOF: &str = "eof";
