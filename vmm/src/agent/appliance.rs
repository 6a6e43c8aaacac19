//! The supervisor's calls to PID 1 of a machine that runs its containers by itself.

use super::client::{CallError, Client, Wait};
use ferry_init::api::agent::Empty;
use ferry_init::api::appliance::{EndApplianceRequest, WaitEndRequest, WaitEndResponse};
use ferry_init::api::method;

impl Client {
    /// Waits until the appliance ends; its exit status. It ends a moment after the answer.
    pub fn wait_appliance(&self, wait: Wait<'_>) -> Result<i32, CallError> {
        self.call(method::SUPERVISOR_SERVICE, method::WAIT_END, &WaitEndRequest {}, wait)
            .map(|ended: WaitEndResponse| ended.status)
    }

    /// Begins the appliance's orderly end.
    pub fn end_appliance(&self, wait: Wait<'_>) -> Result<(), CallError> {
        let request = EndApplianceRequest::default();
        self.call(method::SUPERVISOR_SERVICE, method::END_APPLIANCE, &request, wait).map(|Empty {}| ())
    }
}
