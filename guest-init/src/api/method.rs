//! Names of the services and methods.

/// The service of containers and sandboxes.
pub const AGENT_SERVICE: &str = "grpc.AgentService";
/// The service that says whether the agent is there.
pub const HEALTH_SERVICE: &str = "grpc.Health";
/// The service of what Kata's agent has no call for.
pub const FERRY_SERVICE: &str = "ferry.v1.Containers";
/// The service of an appliance's services.
pub const SUPERVISOR_SERVICE: &str = "ferry.v1.Supervisor";

macro_rules! methods {
    ($service:literal: $($constant:ident = $name:literal,)*) => {
        $(
            #[doc = concat!("`", $service, "/", $name, "`.")]
            pub const $constant: &str = $name;
        )*
    };
}

methods! { "grpc.Health":
    CHECK = "Check",
    VERSION = "Version",
}

methods! { "grpc.AgentService":
    CREATE_CONTAINER = "CreateContainer",
    START_CONTAINER = "StartContainer",
    REMOVE_CONTAINER = "RemoveContainer",
    EXEC_PROCESS = "ExecProcess",
    SIGNAL_PROCESS = "SignalProcess",
    WAIT_PROCESS = "WaitProcess",
    UPDATE_CONTAINER = "UpdateContainer",
    UPDATE_EPHEMERAL_MOUNTS = "UpdateEphemeralMounts",
    STATS_CONTAINER = "StatsContainer",
    PAUSE_CONTAINER = "PauseContainer",
    RESUME_CONTAINER = "ResumeContainer",
    GET_DIAGNOSTIC_DATA = "GetDiagnosticData",
    WRITE_STDIN = "WriteStdin",
    READ_STDOUT = "ReadStdout",
    READ_STDERR = "ReadStderr",
    CLOSE_STDIN = "CloseStdin",
    TTY_WIN_RESIZE = "TtyWinResize",
    UPDATE_INTERFACE = "UpdateInterface",
    UPDATE_ROUTES = "UpdateRoutes",
    LIST_INTERFACES = "ListInterfaces",
    LIST_ROUTES = "ListRoutes",
    ADD_ARP_NEIGHBORS = "AddARPNeighbors",
    GET_METRICS = "GetMetrics",
    CREATE_SANDBOX = "CreateSandbox",
    DESTROY_SANDBOX = "DestroySandbox",
    ONLINE_CPU_MEM = "OnlineCPUMem",
    RESEED_RANDOM_DEV = "ReseedRandomDev",
    GET_GUEST_DETAILS = "GetGuestDetails",
    MEM_HOTPLUG_BY_PROBE = "MemHotplugByProbe",
    SET_GUEST_DATE_TIME = "SetGuestDateTime",
    COPY_FILE = "CopyFile",
    GET_OOM_EVENT = "GetOOMEvent",
    ADD_SWAP = "AddSwap",
    ADD_SWAP_PATH = "AddSwapPath",
    GET_VOLUME_STATS = "GetVolumeStats",
    RESIZE_VOLUME = "ResizeVolume",
}

methods! { "ferry.v1.Containers":
    LIST_PROCESSES = "ListProcesses",
    STAT_FILE = "StatFile",
    READ_DIR = "ReadDir",
    READ_FILE = "ReadFile",
    KERNEL_LOG = "KernelLog",
}

methods! { "ferry.v1.Supervisor":
    LIST_SERVICES = "ListServices",
    SERVICE_LOG = "ServiceLog",
    START_SERVICE = "StartService",
    STOP_SERVICE = "StopService",
    RESTART_SERVICE = "RestartService",
    PROBE = "Probe",
    END_APPLIANCE = "EndAppliance",
    WAIT_END = "WaitEnd",
}
