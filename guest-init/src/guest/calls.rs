//! The calls about the guest as a whole.

use super::{hotplug, metrics, network, storage};
use crate::agent::{VERSION, decode};
use crate::api::ttrpc::Request;
use crate::api::{guest as api, method};
use crate::prelude::*;
use crate::sys::event;
use crate::sys::file::{CWD, O_WRONLY, open, read_control, write_all};

/// Answers a call.
pub fn answer(request: &Request) -> Result<Vec<u8>> {
    let nothing = |()| Vec::new();
    match request.method.as_str() {
        method::GET_GUEST_DETAILS => Ok(details(&decode(request)?).encode_to_vec()),
        method::SET_GUEST_DATE_TIME => set_clock(&decode(request)?).map(nothing),
        method::RESEED_RANDOM_DEV => add_entropy(&decode(request)?).map(nothing),
        method::MEM_HOTPLUG_BY_PROBE => hotplug::probe(&decode(request)?).map(nothing),
        method::GET_METRICS => Ok(api::Metrics { metrics: metrics::read() }.encode_to_vec()),
        method::UPDATE_EPHEMERAL_MOUNTS => storage::update_ephemeral(&decode(request)?).map(nothing),
        method::UPDATE_INTERFACE => {
            let call: api::UpdateInterfaceRequest = decode(request)?;
            let interface = call.interface.ok_or_else(|| fault!(InvalidArgument, "no interface"))?;
            // The answer is the interface as it is now, which is as it was to be.
            network::update_interface(&interface).map(|()| interface.encode_to_vec())
        }
        method::UPDATE_ROUTES => {
            let call: api::UpdateRoutesRequest = decode(request)?;
            Ok(network::update_routes(&call.routes.unwrap_or_default().routes)?.encode_to_vec())
        }
        method::LIST_INTERFACES => Ok(network::list_interfaces()?.encode_to_vec()),
        method::LIST_ROUTES => Ok(network::list_routes()?.encode_to_vec()),
        method::ADD_ARP_NEIGHBORS => {
            let call: api::AddArpNeighborsRequest = decode(request)?;
            network::add_neighbors(&call.neighbors.unwrap_or_default().arp_neighbors).map(nothing)
        }
        other => Err(fault!(Unimplemented, "this agent has no {other}")),
    }
}

fn details(call: &api::GuestDetailsRequest) -> api::GuestDetailsResponse {
    let details = api::AgentDetails {
        version: VERSION.into(),
        init_daemon: true,
        device_handlers: Vec::new(),
        storage_handlers: storage::DRIVERS.map(String::from).into(),
        supports_seccomp: true,
        extra_features: Vec::new(),
    };
    api::GuestDetailsResponse {
        mem_block_size_bytes: if call.mem_block_size { memory_block_size() } else { 0 },
        agent_details: Some(details),
        support_mem_hotplug_probe: call.mem_hotplug_probe && hotplug::can_probe(),
    }
}

/// In bytes; 0 when the kernel has no memory hotplug.
fn memory_block_size() -> u64 {
    let text = read_control(CWD, "/sys/devices/system/memory/block_size_bytes").unwrap_or_default();
    u64::from_str_radix(text.trim_ascii(), 16).unwrap_or(0)
}

fn set_clock(call: &api::SetGuestDateTimeRequest) -> Result {
    let is_part = (0..1_000_000).contains(&call.usec);
    refuse_if!(!is_part, InvalidArgument, "microseconds are 0 to 999999");
    event::set_clock(call.sec, call.usec * 1000).context("set the clock")
}

fn add_entropy(call: &api::ReseedRandomDevRequest) -> Result {
    let random = open(CWD, "/dev/random", O_WRONLY, 0).context("open /dev/random")?;
    write_all(random.raw(), &call.data).context("write to /dev/random")
}
