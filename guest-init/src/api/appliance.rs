//! What an appliance's image says of it, and the service `ferry.v1.Supervisor` that tells how it does.
//!
//! An appliance is containers that PID 1 starts and keeps running without a host. [`Appliance`] is the file
//! [`FILE_NAME`] of the filesystem that the kernel's command line names with [`BOOT_WORD`].

use super::agent::CreateSandboxRequest;
use super::guest::{Interfaces, Routes};
use super::protobuf::{enumerations, messages};
use crate::prelude::*;

/// The word on the kernel's command line that makes a guest an appliance, alone or as `ferry.appliance=SOURCE`.
/// The source is a storage's: `partname=NAME`, `serial=NAME` or a path below /dev.
pub const BOOT_WORD: &str = "ferry.appliance";

/// The source without one on the command line.
pub const DEFAULT_SOURCE: &str = "partname=ferry-spec";

/// The file that holds the [`Appliance`], at most [`MAX_MESSAGE`](super::frame::MAX_MESSAGE) bytes.
pub const FILE_NAME: &str = "appliance";

/// What PID 1's last line on the console begins with; `ACTION, status N` follows.
pub const ENDED: &str = "ferry-init: ended: ";

/// Most services of an appliance.
pub const SERVICE_LIMIT: usize = 256;

enumerations! {
    /// What becomes of the machine at the end.
    AtEnd {
        /// It is switched off, or reset where it cannot switch itself off.
        PowerOff = 0,
        /// It starts again.
        Reboot = 1,
        /// It stands still.
        Halt = 2,
    }

    /// How far a service must be for another to begin.
    Until {
        /// It runs, and its health check says so if it has one; or it has ended with 0.
        Ready = 0,
        /// It has ended with 0.
        Completed = 1,
    }

    /// When a service that has ended is started again.
    RestartPolicy {
        /// Never.
        No = 0,
        /// When it has ended with another status than 0, or was unhealthy.
        OnFailure = 1,
        /// Always, unless it was told to stop.
        Always = 2,
    }

    /// How far a service is.
    ServiceState {
        /// Others must be ready before it.
        Waiting = 0,
        /// It is being created and started.
        Starting = 1,
        /// It runs.
        Running = 2,
        /// It is being stopped.
        Stopping = 3,
        /// It has ended and will be started again.
        BackingOff = 4,
        /// It has ended for good, or was stopped.
        Ended = 5,
        /// It can never begin, because one that it waits for has failed.
        Blocked = 6,
    }

    /// What a service's health check says.
    Health {
        /// It has none.
        None = 0,
        /// Nothing yet.
        Starting = 1,
        /// It answers.
        Healthy = 2,
        /// It did not answer often enough.
        Unhealthy = 3,
    }
}

messages! {
    /// An appliance.
    Appliance {
        1 services: Vec<Service> => "Its services; at the end each stops after those that come after it.",
        2 sandbox: Option<CreateSandboxRequest> => "What they share.",
        3 interfaces: Option<Interfaces> => "Network interfaces to set up before the first one.",
        4 routes: Option<Routes> => "Routes to set after that.",
        5 at_end: i32 => "An [`AtEnd`].",
        /// The service whose final end is the machine's, with its status. None: the machine ends when every service has
        /// ended for good, with the status of the first that failed, or 0.
        6 status_of: String,
    }

    /// A container that is kept running.
    Service {
        /// The container, as an encoded [`CreateContainerRequest`](super::agent::CreateContainerRequest): it is made anew for each life of the
        /// service. Its id is the service's name.
        1 create: Vec<u8>,
        2 after: Vec<After> => "Services that must be far enough before it begins.",
        3 restart: Option<Restart> => "When it is started again; not at all without this.",
        4 health: Option<HealthCheck> => "How to tell whether it works.",
        5 stop_signal: u32 => "The signal that asks it to stop; 0 for SIGTERM.",
        6 grace_ms: u32 => "How long it may take to stop before SIGKILL, in milliseconds; 0 for ten seconds.",
        7 log: Option<Log> => "What becomes of what it writes.",
    }

    /// A service that must be far enough.
    After {
        1 service: String => "Its name.",
        2 until: i32 => "An [`Until`].",
    }

    /// When and how soon a service is started again.
    Restart {
        1 policy: i32 => "A [`RestartPolicy`].",
        2 limit: u32 => "Most restarts without a good run between them; 0 for no limit.",
        3 initial_ms: u32 => "Pause before the first, in milliseconds, doubled for each further one; 0 for 100.",
        4 cap_ms: u32 => "Longest pause, in milliseconds; 0 for a minute.",
        5 reset_ms: u32 => "A run this long, in milliseconds, was a good one; 0 for ten seconds.",
    }

    /// How to tell whether a service works; exactly one of the first three is there.
    HealthCheck {
        1 exec: Vec<String> => "A command in the container, as its process runs; 0 is success.",
        2 tcp_port: u32 => "A port of 127.0.0.1 that takes connections.",
        3 http: Option<HttpCheck> => "A page that is answered with a status from 200 to 399.",
        /// Between two checks, in milliseconds; 0 for thirty seconds. Until one has passed there is one each second, but failures
        /// count no sooner.
        4 interval_ms: u32,
        5 timeout_ms: u32 => "How long one may take, in milliseconds; 0 for thirty seconds.",
        6 start_period_ms: u32 => "How long after the start failures do not count, in milliseconds.",
        7 failures: u32 => "How many in a row make it unhealthy; 0 for three.",
        8 successes: u32 => "How many in a row make it healthy; 0 for one.",
    }

    /// A page on 127.0.0.1.
    HttpCheck {
        1 port: u32 => "Port.",
        2 path: String => "Path and query; `/` when empty.",
        3 host: String => "Host header; `localhost` when empty.",
    }

    /// What becomes of what a service writes.
    Log {
        1 ring_bytes: u32 => "How much of it is kept for `ServiceLog`, in bytes; 0 for 64 KiB, at most 1 MiB.",
        2 console: bool => "Whether its lines go to the kernel's log, and so to its console.",
        3 file: String => "Path in the guest of a file that it is appended to; empty for none.",
        4 file_bytes: u32 => "Size at which the file becomes `FILE.1`, in bytes; 0 for 10 MiB.",
        5 files: u32 => "How many files there are at most, the present one included; 0 for three.",
    }

    /// `ListServices`: how the services do. `WaitEnd`: answered just before the machine ends.
    ListServicesRequest | WaitEndRequest {}

    /// How a service does.
    ServiceStatus {
        1 name: String => "Its name.",
        2 state: i32 => "A [`ServiceState`].",
        3 health: i32 => "A [`Health`].",
        4 restarts: u32 => "How often it was started again by its restart policy.",
        5 last_status: Option<i32> => "How it ended last: exit status, or 128+N for signal N.",
        6 since_ms: u64 => "For how long it has been in this state, in milliseconds.",
        7 problem: String => "Why it last failed to start, or failed its health check.",
    }

    /// `ListServices`'s answer.
    ListServicesResponse {
        1 services: Vec<ServiceStatus> => "The services, in the order of the appliance.",
    }

    /// `ServiceLog`, `StopService`, `StartService` and `RestartService`. Stopping is answered when it has stopped,
    /// starting when it has begun.
    ServiceRequest {
        1 name: String => "The service.",
    }

    /// `ServiceLog`'s answer.
    ServiceLogResponse {
        1 text: Vec<u8> => "The last of what it wrote, from the beginning of a line where that is known.",
        2 lost_bytes: u64 => "How much it wrote before that, in bytes.",
    }

    /// `Probe`: whether a port or page of a pod answers; a failed precondition says why not.
    ProbeRequest {
        1 container_id: String => "A container of the pod.",
        2 tcp_port: u32 => "A port of 127.0.0.1 that takes connections, or",
        3 http: Option<HttpCheck> => "a page that is answered with a status from 200 to 399.",
        4 timeout_ms: u32 => "How long it may take, in milliseconds; 0 for thirty seconds.",
    }

    /// `EndAppliance`: begins an orderly end; answered at once.
    EndApplianceRequest {
        1 at_end: Option<i32> => "An [`AtEnd`] instead of the appliance's own.",
    }

    /// `WaitEnd`'s answer.
    WaitEndResponse {
        1 status: i32 => "The appliance's status.",
        2 at_end: i32 => "An [`AtEnd`].",
    }
}
