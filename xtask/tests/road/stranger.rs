//! A client that is not ours: the `ttrpc` crate, as it is, which drives a container's whole life.
//!
//! Its messages are written by hand here, field by field, so that nothing of our own encoding is taken for granted.

use std::time::Duration;

use ttrpc::{Client, Request, Response};

/// Longer than any answer of a busy guest takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Field `number` with bytes in it (wire type 2).
fn field(number: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut encoded = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        encoded.push(length as u8 | 0x80);
        length >>= 7;
    }
    encoded.push(length as u8);
    encoded.extend_from_slice(bytes);
    encoded
}

/// Field `number` with a small number in it (wire type 0).
fn number(field: u8, value: u8) -> Vec<u8> {
    assert!(value < 0x80);
    vec![field << 3, value]
}

pub fn call(
    client: &Client,
    service: &str,
    method: &str,
    fields: &[Vec<u8>],
) -> Result<Vec<u8>, ttrpc::Error> {
    call_within(PATIENCE, client, service, method, fields)
}

pub fn call_within(
    limit: Duration,
    client: &Client,
    service: &str,
    method: &str,
    fields: &[Vec<u8>],
) -> Result<Vec<u8>, ttrpc::Error> {
    let mut request = Request::new();
    request.set_service(service.to_owned());
    request.set_method(method.to_owned());
    request.payload = fields.concat();
    request.timeout_nano = limit.as_nanos() as i64;
    client.request(request).map(|Response { payload, .. }| payload)
}

fn agent(client: &Client, method: &str, fields: &[Vec<u8>]) -> Vec<u8> {
    call(client, "grpc.AgentService", method, fields).unwrap_or_else(|error| panic!("{method}: {error}"))
}

fn overlay(option: &str, id: &str) -> Vec<u8> {
    field(
        5,
        format!(
            "{option}=/run/kata-containers/{id}/{}",
            match option {
                "lowerdir" => "layers",
                "upperdir" => "scratch/upper",
                _ => "scratch/work",
            }
        ),
    )
}

/// `CreateContainerRequest`: the two names, three storages, and the OCI specification.
fn creation(id: &str) -> Vec<Vec<u8>> {
    let place = |name: &str| field(6, format!("/run/kata-containers/{id}/{name}"));
    let layers =
        [field(1, "mmioblk"), field(3, "serial=layers"), field(4, "erofs"), field(5, "ro"), place("layers")];
    let scratch = [field(1, "ephemeral"), field(3, "tmpfs"), field(4, "tmpfs"), place("scratch")];
    let made = |name: &str| {
        field(
            2,
            format!(
                "io.katacontainers.volume.overlayfs.create_directory=/run/kata-containers/{id}/scratch/{name}"
            ),
        )
    };
    let root = [
        field(1, "overlayfs"),
        made("upper"),
        made("work"),
        field(3, "overlay"),
        field(4, "overlay"),
        overlay("lowerdir", id),
        overlay("upperdir", id),
        overlay("workdir", id),
        place("rootfs"),
    ];
    let process = [
        field(4, "sh"),
        field(4, "-c"),
        field(4, "read line; echo \"heard $line\"; exit 4"),
        field(5, "PATH=/usr/bin:/bin"),
        field(6, "/"),
    ];
    let namespaces = ["mount", "pid", "ipc", "uts"].map(|kind| field(6, field(1, kind)));
    let linux = [vec![field(5, format!("/{id}"))], namespaces.to_vec()].concat();
    let spec = [
        field(1, "1.2.0"),
        field(2, process.concat()),
        field(3, field(1, format!("/run/kata-containers/{id}/rootfs"))),
        field(4, "foreign"),
        field(8, linux.concat()),
    ];
    vec![
        field(1, id),
        field(2, id),
        field(5, layers.concat()),
        field(5, scratch.concat()),
        field(5, root.concat()),
        field(6, spec.concat()),
    ]
}

/// A container's whole life: created, started, spoken to, heard, waited for and removed; and a call that there is not.
pub fn whole_life(client: &Client, id: &str) {
    agent(client, "CreateContainer", &creation(id));
    agent(client, "StartContainer", &[field(1, id)]);
    agent(client, "WriteStdin", &[field(1, id), field(2, id), field(3, "a stranger\n")]);
    let read = agent(client, "ReadStdout", &[field(1, id), field(2, id), number(3, 100)]);
    assert_eq!(read, field(1, "heard a stranger\n"));
    assert_eq!(agent(client, "WaitProcess", &[field(1, id), field(2, id)]), number(1, 4));
    let end = call(client, "grpc.AgentService", "ReadStdout", &[field(1, id), field(2, id), number(3, 100)]);
    assert!(matches!(end, Err(ttrpc::Error::RpcStatus(_))), "{end:?}");
    agent(client, "RemoveContainer", &[field(1, id)]);
    let unknown = call(client, "grpc.AgentService", "NoSuchCall", &[]);
    let Err(ttrpc::Error::RpcStatus(status)) = unknown else { panic!("{unknown:?}") };
    assert_eq!(status.code(), ttrpc::Code::UNIMPLEMENTED);
}
