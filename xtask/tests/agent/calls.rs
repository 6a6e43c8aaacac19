//! Every call of the API: those about the guest as a whole do what they say, and all of them answer.

use ferry_init::api::agent::Empty;
use ferry_init::api::guest::*;
use ferry_init::api::health::{CheckRequest, VersionCheckResponse};
use ferry_init::api::method;
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::{CallError, Wait};

use crate::guest::*;

#[test]
fn the_guest_says_what_it_is() {
    let mut guest = guest();
    let client = guest.client();
    client.check(Wait::AtMost(LONG)).unwrap();
    let version: VersionCheckResponse = client
        .call(method::HEALTH_SERVICE, method::VERSION, &CheckRequest::default(), Wait::AtMost(LONG))
        .unwrap();
    assert_eq!(version.agent_version, env!("CARGO_PKG_VERSION"));
    let request = GuestDetailsRequest { mem_block_size: true, mem_hotplug_probe: true };
    let details: GuestDetailsResponse = call(&client, method::GET_GUEST_DETAILS, &request).unwrap();
    let agent = details.agent_details.expect("details");
    assert!(agent.init_daemon && agent.storage_handlers.iter().any(|driver| driver == "mmioblk"));
}

#[test]
fn the_clock_is_set() {
    let mut guest = guest();
    let client = guest.client();
    let id = running(&client, "clock", &["sleep", "1000"]);
    let time = SetGuestDateTimeRequest { sec: 2_000_000_000, usec: 500_000 };
    tell(&client, method::SET_GUEST_DATE_TIME, &time).unwrap();
    let (_, text) = output(&client, &id, &["date", "+%s"]);
    let seconds: i64 = text.trim().parse().unwrap();
    assert!((2_000_000_000..2_000_000_600).contains(&seconds), "{seconds}");
    client.remove_container(&id, LONG).unwrap();
}

#[test]
fn randomness_is_taken() {
    let mut guest = guest();
    let reseed = ReseedRandomDevRequest { data: (0..=255).collect() };
    tell(&guest.client(), method::RESEED_RANDOM_DEV, &reseed).unwrap();
}

#[test]
fn the_network_is_listed() {
    let mut guest = guest();
    let client = guest.client();
    let interfaces: Interfaces = call(&client, method::LIST_INTERFACES, &Empty {}).unwrap();
    let lo =
        interfaces.interfaces.iter().find(|interface| interface.name == "lo" || interface.device == "lo");
    assert!(lo.is_some(), "{interfaces:?}");
    let _: Routes = call(&client, method::LIST_ROUTES, &Empty {}).unwrap();
}

/// The calls of Kata's agent that PID 1 has.
pub const SERVED: [&str; 23] = [
    method::CREATE_CONTAINER,
    method::START_CONTAINER,
    method::REMOVE_CONTAINER,
    method::EXEC_PROCESS,
    method::SIGNAL_PROCESS,
    method::WAIT_PROCESS,
    method::UPDATE_CONTAINER,
    method::STATS_CONTAINER,
    method::PAUSE_CONTAINER,
    method::RESUME_CONTAINER,
    method::WRITE_STDIN,
    method::READ_STDOUT,
    method::READ_STDERR,
    method::CLOSE_STDIN,
    method::TTY_WIN_RESIZE,
    method::UPDATE_INTERFACE,
    method::UPDATE_ROUTES,
    method::LIST_INTERFACES,
    method::LIST_ROUTES,
    method::ADD_ARP_NEIGHBORS,
    method::ONLINE_CPU_MEM,
    method::GET_GUEST_DETAILS,
    method::CREATE_SANDBOX,
];

/// Those that are about things the guest does not have.
pub const UNSERVED: [&str; 6] = [
    "RemoveStaleVirtiofsShareMounts",
    "GetIPTables",
    "SetIPTables",
    "MemAgentMemcgSet",
    "MemAgentCompactSet",
    "SetPolicy",
];

#[test]
fn every_call_answers_whatever_it_is_given() {
    let mut guest = guest();
    let client = guest.client();
    for method in SERVED {
        // An empty message names no container: most calls refuse it, and none is unknown.
        let answer: Result<Empty, CallError> = call(&client, method, &Empty {});
        match answer {
            Err(CallError::Status { code, message }) => {
                assert_ne!(code, Code::Unimplemented as i32, "{method}: {message}");
                assert!(!message.is_empty(), "{method}");
            }
            Ok(_) | Err(CallError::Malformed(_)) => {}
            Err(error) => panic!("{method}: {error}"),
        }
    }
    for method in UNSERVED {
        assert_eq!(code(&tell(&client, method, &Empty {})), Code::Unimplemented, "{method}");
    }
    assert_eq!(code(&tell(&client, "NoSuchCall", &Empty {})), Code::Unimplemented);
    client.check(Wait::AtMost(LONG)).unwrap();
}
