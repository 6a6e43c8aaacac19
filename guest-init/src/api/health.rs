//! Messages of the service `grpc.Health` (Kata's `health.proto`).

use super::protobuf::{enumerations, messages};
use crate::prelude::*;

messages! {
    /// Asks whether the agent serves, or which versions it speaks.
    CheckRequest {
        1 service: String => "The service asked about; empty for the agent as a whole.",
    }

    /// Answer to `Check`.
    HealthCheckResponse {
        1 status: i32 => "Whether the agent serves.",
    }

    /// Answer to `Version`.
    VersionCheckResponse {
        1 grpc_version: String => "Version of the protocol.",
        2 agent_version: String => "Version of the agent.",
    }
}

enumerations! {
    /// Whether the agent serves.
    ServingStatus {
        /// It cannot tell.
        Unknown = 0,
        /// It does.
        Serving = 1,
        /// It does not.
        NotServing = 2,
    }
}
