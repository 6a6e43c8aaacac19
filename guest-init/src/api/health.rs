//! Messages of the service `grpc.Health` (Kata's `health.proto`).

use alloc::string::String;

/// Asks whether the agent serves, or which versions it speaks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckRequest {
    /// The service asked about; empty for the agent as a whole.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// Answer to `Check`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckResponse {
    /// Whether the agent serves.
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub status: i32,
}

/// Whether the agent serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ServingStatus {
    /// It cannot tell.
    Unknown = 0,
    /// It does.
    Serving = 1,
    /// It does not.
    NotServing = 2,
}

/// Answer to `Version`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VersionCheckResponse {
    /// Version of the protocol.
    #[prost(string, tag = "1")]
    pub grpc_version: String,
    /// Version of the agent.
    #[prost(string, tag = "2")]
    pub agent_version: String,
}
