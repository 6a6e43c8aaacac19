//! Guests for tests that are an agent in this process, started as a VMM would start them.

use super::guest::{End, Guest, Launch, LaunchError, Plan, PlannedDisk, Reason};
use super::oci;
use super::restart::Restart;
use super::run::{Mode, Ready, Request, Stop};
use super::shape::Shape;
use super::size::MIB;
use super::supervise::Afterwards;
use crate::agent::Transport;
use crate::agent::fake::{self, Record as Calls, Script};
use ferry_images::{Digest, Image, ImageConfig};
use ferry_init::api::method;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Starts a guest with each of these scripts in turn; it dies with the connection if the script says so.
#[derive(Default)]
pub struct FakeVmm {
    pub scripts: Mutex<VecDeque<Script>>,
    /// The last guest.
    pub guest: Mutex<Option<Arc<FakeGuest>>>,
}

/// A guest that is an agent in this process.
pub struct FakeGuest {
    pub socket: PathBuf,
    calls: Arc<Mutex<Calls>>,
    dies_at: Option<&'static str>,
    pub disks: Vec<PlannedDisk>,
    stopped: Mutex<bool>,
}

impl Launch for FakeVmm {
    fn launch(&self, plan: &Plan) -> Result<Arc<dyn Guest>, LaunchError> {
        let Some(script) = self.scripts.lock().unwrap().pop_front() else {
            return Err(LaunchError("no guest today".into()));
        };
        let socket = plan.directory.join("agent");
        let dies_at = script.die_at;
        let calls = fake::listen(&socket, script);
        let guest = Arc::new(FakeGuest {
            socket,
            calls,
            dies_at,
            disks: plan.disks.clone(),
            stopped: Mutex::new(false),
        });
        *self.guest.lock().unwrap() = Some(guest.clone());
        Ok(guest)
    }
}

impl FakeGuest {
    pub fn was_stopped(&self) -> bool {
        *self.stopped.lock().unwrap()
    }

    pub fn was_asked(&self, method: &str) -> bool {
        self.calls.lock().unwrap().methods.iter().any(|asked| asked == method)
    }
}

impl Guest for FakeGuest {
    fn transport(&self) -> Transport {
        Transport::Stream { socket: self.socket.clone() }
    }
    fn wait(&self, at_most: Duration) -> Option<End> {
        std::thread::sleep(at_most.min(Duration::from_millis(5)));
        if self.dies_at.is_some_and(|method| self.was_asked(method)) {
            return Some(End { reason: Reason::GuestPanic, detail: "Kernel panic: at last".into() });
        }
        if self.was_stopped() {
            return Some(End { reason: Reason::VmmKilled, detail: String::new() });
        }
        self.was_asked(method::DESTROY_SANDBOX).then(|| End { reason: Reason::Reset, detail: String::new() })
    }
    fn stop(&self) {
        *self.stopped.lock().unwrap() = true;
    }
    fn serial_tail(&self) -> String {
        String::new()
    }
}

/// A container `web` of an image that runs `prog`.
pub fn request() -> Request {
    let image = Image {
        digest: Digest::of(b"image"),
        manifest: None,
        config: ImageConfig { cmd: vec!["prog".into()], ..Default::default() },
        layers: vec![],
        held: Default::default(),
    };
    Request {
        image: Ready { name: "img".into(), image, segments: vec![] },
        options: oci::Options::default(),
        shape: Shape { scratch_bytes: 64 * MIB, ..Shape::default() },
        name: Some("web".into()),
        interactive: false,
        afterwards: Afterwards::Keep,
        mode: Mode::Foreground,
        restart: Restart::No,
        stop: Stop::default(),
        cores: None,
    }
}
