//! What is done with hostile bytes: shared by the fuzz targets and by the unit test that runs each of these on a fixed
//! sequence of inputs.

use ferry_init::agent::connection::{Connection, Incoming};
use ferry_init::api::appliance::Appliance;
use ferry_init::api::protobuf::Message;
use ferry_init::api::{agent, appliance, ferry, frame, guest, oci, ttrpc};
use ferry_init::netlink::{Address, Link, Reply, Request, Route, replies};
use ferry_init::spec::{seccomp, user};
use ferry_init::supervise::Supervisor;

/// What a client sends: ttrpc frames, in two pieces.
pub fn frames(bytes: &[u8]) {
    let mut connection = Connection::default();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for piece in [first, second] {
        assert!(connection.feed(piece));
        while let Some(incoming) = connection.take_message() {
            match incoming {
                Incoming::Nonsense => return,
                Incoming::Refused(id, fault) => connection.refuse(id, Err(fault)),
                Incoming::Call(id, _) => connection.answer(id, Ok(Vec::new())),
            }
        }
    }
}

/// Messages: what decodes is encoded to something that decodes to the same; what a specification asks of seccomp is
/// compiled.
pub fn messages(bytes: &[u8]) {
    fn again<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
        let message = M::decode(bytes).ok()?;
        assert_eq!(M::decode(&message.encode_to_vec()).as_ref(), Ok(&message));
        Some(message)
    }
    again::<ttrpc::Request>(bytes);
    again::<guest::UpdateRoutesRequest>(bytes);
    again::<guest::CopyFileRequest>(bytes);
    again::<ferry::ListProcessesResponse>(bytes);
    if let Some(appliance) = again::<Appliance>(bytes) {
        let _ = Supervisor::new(&appliance);
    }
    let create = again::<agent::CreateContainerRequest>(bytes);
    let linux = create.and_then(|create| create.oci?.linux);
    if let Some(seccomp) = linux.and_then(|linux| linux.seccomp) {
        let _ = seccomp::filter(&seccomp);
    }
}

/// A user string, passwd and group, separated by zero bytes.
pub fn databases(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |&byte| byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (name, passwd, group) = (next(), next(), next());
    if let Ok(found) = user::look_up(&String::from_utf8_lossy(name), passwd, group) {
        assert!(found.groups.is_sorted());
        let _ = user::home_of(found.uid, passwd);
    }
}

/// What the kernel answers.
pub fn netlink(bytes: &[u8]) {
    for reply in replies(bytes, 0) {
        if let Reply::Message(_, body) = reply {
            let _ = (Link::parse(body), Address::parse(body), Route::parse(body));
        }
    }
}

/// Good inputs of a target, to begin with.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "frames" => {
            let frame =
                frame::encode(frame::Kind::Request, 1, &request().encode_to_vec()).expect("a short frame");
            vec![frame.repeat(2), frame]
        }
        "messages" => {
            vec![create().encode_to_vec(), request().encode_to_vec(), appliance().encode_to_vec()]
        }
        "databases" => vec![
            b"app:wheel\0root:x:0:0::/root:/bin/sh\napp:x:5:6::/app:\n\0wheel:x:10:root,app\napp:x:6:\n"
                .to_vec(),
            b"1000\0\0".to_vec(),
        ],
        "netlink" => {
            const RTM_GETROUTE: u16 = 26;
            let route = Request::dump(RTM_GETROUTE, &[0; 12]).finish(0);
            let link = Request::set_link(1, 1, 1).with_name("eth0").with_mtu(1400).finish(0);
            let address = Address { link: 2, address: "fd00::5".parse().expect("an address"), prefix: 64 };
            vec![[link.clone(), route].concat(), link, Request::add_address(&address).finish(0)]
        }
        _ => Vec::new(),
    }
}

fn request() -> ttrpc::Request {
    ttrpc::Request { service: "s".into(), payload: create().encode_to_vec(), ..Default::default() }
}

fn create() -> agent::CreateContainerRequest {
    let argument = oci::LinuxSeccompArg { index: 1, value: 2, value_two: 3, op: "SCMP_CMP_MASKED_EQ".into() };
    let rule = oci::LinuxSyscall {
        names: vec!["read".into()],
        action: "SCMP_ACT_ERRNO".into(),
        args: vec![argument],
        ..Default::default()
    };
    let seccomp = oci::LinuxSeccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        syscalls: vec![rule],
        ..Default::default()
    };
    let spec = oci::Spec {
        linux: Some(oci::Linux { seccomp: Some(seccomp), ..Default::default() }),
        annotations: [("a".into(), "b".into())].into_iter().collect(),
        ..Default::default()
    };
    agent::CreateContainerRequest { container_id: "c".into(), oci: Some(spec), ..Default::default() }
}

fn appliance() -> Appliance {
    let service = appliance::Service {
        create: create().encode_to_vec(),
        after: vec![appliance::After { service: "c".into(), until: 1 }],
        restart: Some(appliance::Restart { policy: 2, limit: 1, ..Default::default() }),
        health: Some(appliance::HealthCheck { tcp_port: 80, ..Default::default() }),
        ..Default::default()
    };
    Appliance { services: vec![service], status_of: "c".into(), ..Default::default() }
}
