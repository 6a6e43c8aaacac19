//! The calls of the API: which method does what.

use super::process::{Caller, Channel};
use super::streams::no_container;
use super::system::Frozen;
use super::{Agent, Outcome, ProcessKey, System};
use crate::api::health::{self, ServingStatus};
use crate::api::{agent as api, ferry, guest, method, ttrpc};
use crate::prelude::*;

/// Version of the agent protocol that is spoken here (Kata's, `grpc_version` of its `Version` call).
const PROTOCOL_VERSION: &str = "0.0.1";

/// Our own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The message of a call.
pub fn decode<M: Message + Default>(request: &ttrpc::Request) -> Result<M> {
    M::decode(request.payload.as_slice())
        .map_err(|_| fault!(InvalidArgument, "{}: the message does not decode", request.method))
}

/// What most calls say: their messages have the fields of this one under the same numbers, or the first few of them. In
/// the place of the rows there is a signal or a number of bytes.
type Addressed = api::TtyWinResizeRequest;

/// One decoder for all of them, which costs less than one for each.
#[inline(never)]
fn addressed(request: &ttrpc::Request) -> Result<Addressed> {
    decode(request)
}

fn message(message: &impl Message) -> Outcome {
    Ok(Some(message.encode_to_vec()))
}

fn nothing() -> Outcome {
    Ok(Some(Vec::new()))
}

impl<S: System> Agent<S> {
    pub(super) fn call(&mut self, caller: Caller, request: &ttrpc::Request) -> Outcome {
        match request.service.as_str() {
            method::AGENT_SERVICE => self.agent_call(caller, request),
            method::FERRY_SERVICE => self.ferry_call(caller, request),
            method::SUPERVISOR_SERVICE => self.supervisor_call(caller, request),
            method::HEALTH_SERVICE => health_call(request),
            service => Err(fault!(Unimplemented, "no service {service}")),
        }
    }

    fn agent_call(&mut self, caller: Caller, request: &ttrpc::Request) -> Outcome {
        match request.method.as_str() {
            method::CREATE_SANDBOX => self.create_sandbox(decode(request)?),
            method::DESTROY_SANDBOX => {
                self.ending = true;
                nothing()
            }
            method::CREATE_CONTAINER => self.create_container(caller, decode(request)?),
            method::REMOVE_CONTAINER => self.remove_container(caller, decode(request)?),
            method::EXEC_PROCESS => self.exec_process(caller, decode(request)?),
            method::WRITE_STDIN => self.write_input(caller, decode(request)?),
            method::UPDATE_CONTAINER => {
                let call: api::UpdateContainerRequest = decode(request)?;
                let (system, container) = self.standing(&call.container_id)?;
                system.update(container, &call.resources.unwrap_or_default())?;
                nothing()
            }
            method::COPY_FILE => {
                let call: guest::CopyFileRequest = decode(request)?;
                let container =
                    self.system.container_of(&call.path).filter(|id| self.containers.contains_key(*id));
                self.send_child(caller, container, request)
            }
            method::GET_DIAGNOSTIC_DATA => {
                let call: guest::GetDiagnosticDataRequest = decode(request)?;
                self.send_child(caller, Some(&call.container_id), request)
            }
            method::GET_OOM_EVENT => self.next_memory_event(caller),
            method::GET_VOLUME_STATS
            | method::RESIZE_VOLUME
            | method::ONLINE_CPU_MEM
            | method::ADD_SWAP
            | method::ADD_SWAP_PATH => self.send_child(caller, None, request),
            method::START_CONTAINER => self.start_container(caller, &addressed(request)?.container_id),
            method::SIGNAL_PROCESS => {
                let call = addressed(request)?;
                self.signal_process(&call.container_id, &call.exec_id, call.row)
            }
            method::WAIT_PROCESS => self.wait_process(caller, self.addressee(request)?.0),
            method::READ_STDOUT => self.read_call(caller, request, Channel::Out),
            method::READ_STDERR => self.read_call(caller, request, Channel::Err),
            method::CLOSE_STDIN => self.close_input(self.addressee(request)?.0),
            method::TTY_WIN_RESIZE => {
                let (key, call) = self.addressee(request)?;
                self.resize(key, call.row, call.column)
            }
            method::STATS_CONTAINER => {
                let call = addressed(request)?;
                let (system, container) = self.standing(&call.container_id)?;
                message(&system.stats(container))
            }
            method::PAUSE_CONTAINER => self.freeze_call(request, Frozen::Yes),
            method::RESUME_CONTAINER => self.freeze_call(request, Frozen::No),
            _ => self.system.guest_call(request).map(Some),
        }
    }

    /// The process that a call is about, and what else it says.
    fn addressee(&self, request: &ttrpc::Request) -> Result<(ProcessKey, Addressed)> {
        let call = addressed(request)?;
        Ok((self.key(&call.container_id, &call.exec_id)?, call))
    }

    fn read_call(&mut self, caller: Caller, request: &ttrpc::Request, channel: Channel) -> Outcome {
        let (key, call) = self.addressee(request)?;
        self.read_output(caller, key, channel, call.row)
    }

    fn freeze_call(&mut self, request: &ttrpc::Request, frozen: Frozen) -> Outcome {
        let call = addressed(request)?;
        let (system, container) = self.standing(&call.container_id)?;
        system.freeze(container, frozen)?;
        nothing()
    }

    fn ferry_call(&mut self, caller: Caller, request: &ttrpc::Request) -> Outcome {
        match request.method.as_str() {
            method::LIST_PROCESSES | method::STAT_FILE | method::READ_DIR | method::READ_FILE => {
                // Each of these messages begins with the container.
                let call: ferry::ListProcessesRequest = decode(request)?;
                self.send_child(caller, Some(&call.container_id), request)
            }
            method::KERNEL_LOG => self.send_child(caller, None, request),
            other => Err(fault!(Unimplemented, "{} has no {other}", method::FERRY_SERVICE)),
        }
    }

    /// The system, and what it keeps of a container.
    fn standing(&mut self, id: &str) -> Result<(&mut S, &S::Container)> {
        let container = self.containers.get(id).ok_or_else(|| no_container(id))?.system.as_ref();
        let container =
            container.ok_or_else(|| fault!(FailedPrecondition, "container {id} is not created yet"))?;
        Ok((&mut self.system, container))
    }
}

fn health_call(request: &ttrpc::Request) -> Outcome {
    match request.method.as_str() {
        method::CHECK => message(&health::HealthCheckResponse { status: ServingStatus::Serving.into() }),
        method::VERSION => message(&health::VersionCheckResponse {
            grpc_version: PROTOCOL_VERSION.into(),
            agent_version: VERSION.into(),
        }),
        other => Err(fault!(Unimplemented, "no health method {other}")),
    }
}
