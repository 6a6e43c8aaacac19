//! The guest's network: its card's addresses and the routes, set over the agent before there is a container.

use super::client::{CallError, Client, Pending, Wait};
use ferry_init::api::guest::{Routes, UpdateInterfaceRequest, UpdateRoutesRequest};
use ferry_init::api::method;
use ferry_init::api::ttrpc::Code;
use ferry_init::api::types::{Interface, Route};

/// A guest's network as the agent is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestNetwork {
    /// The card, found by its address, and what it is to have.
    pub interface: Interface,
    /// The ways out.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<String>,
}

impl GuestNetwork {
    /// Gives the card its addresses and sets the routes.
    pub fn configure(&self, client: &Client) -> Result<(), CallError> {
        self.begin(client)?.wait()
    }

    /// The same, without waiting for the answers.
    pub fn begin(&self, client: &Client) -> Result<Configuring, CallError> {
        let interface = UpdateInterfaceRequest { interface: Some(self.interface.clone()) };
        let interface = client.begin(method::AGENT_SERVICE, method::UPDATE_INTERFACE, &interface)?;
        let routes = UpdateRoutesRequest { routes: Some(Routes { routes: self.routes.clone() }) };
        let routes = (!self.routes.is_empty())
            .then(|| client.begin(method::AGENT_SERVICE, method::UPDATE_ROUTES, &routes))
            .transpose()?;
        Ok(Configuring { interface, routes })
    }
}

/// A guest's network while it is being set up.
pub struct Configuring {
    interface: Pending<Interface>,
    routes: Option<Pending<Routes>>,
}

impl Configuring {
    /// Waits until it is.
    pub fn wait(self) -> Result<(), CallError> {
        let interface = self.interface.wait(Wait::Forever).map(|Interface { .. }| ());
        let routes =
            || self.routes.map_or(Ok(()), |routes| routes.wait(Wait::Forever).map(|Routes { .. }| ()));
        interface.and_then(|()| routes()).map_err(explained)
    }
}

/// A guest that does not know the call has no network, and there is a way to run it nonetheless.
fn explained(error: CallError) -> CallError {
    match error {
        CallError::Status { code, .. } if error.is(Code::Unimplemented) => {
            let message = "its agent cannot set up a network: use --network none".to_owned();
            CallError::Status { code, message }
        }
        error => error,
    }
}
