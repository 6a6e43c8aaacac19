//! The agent API: the Kata Containers agent's protocol as both ends of a Ferry control channel speak it.
//!
//! Message types carry the names and field numbers of Kata's `agent.proto`, `oci.proto`, `types.proto` and
//! `health.proto`; the definitions are written here, with the names in Rust's case. What Kata has no call for is
//! in [`ferry`], a service beside it on the same connection. There is no behaviour in this module besides the
//! [frame header](frame) and the [encoding](protobuf) that both ends read and write.
//!
//! ```
//! use ferry_init::api::{agent, frame, method, protobuf::Message, ttrpc};
//!
//! let call = agent::StartContainerRequest { container_id: "web".into() };
//! let request = ttrpc::Request {
//!     service: method::AGENT_SERVICE.into(),
//!     method: method::START_CONTAINER.into(),
//!     payload: call.encode_to_vec(),
//!     ..Default::default()
//! };
//! let bytes = frame::encode(frame::Kind::Request, 1, &request.encode_to_vec()).unwrap();
//! assert_eq!(frame::Header::decode(bytes[..10].try_into().unwrap()).stream_id, 1);
//! ```

pub mod agent;
pub mod appliance;
pub mod ferry;
pub mod frame;
pub mod guest;
pub mod health;
pub mod method;
pub mod oci;
pub mod protobuf;
pub mod stats;
pub mod ttrpc;
pub mod types;

/// The vsock port on which the guest listens for agent connections (Kata's).
pub const VSOCK_PORT: u32 = 1024;

/// The name of the virtio-serial port that carries the agent channel where there is no vsock (Kata's).
pub const SERIAL_PORT_NAME: &str = "agent.channel.0";
