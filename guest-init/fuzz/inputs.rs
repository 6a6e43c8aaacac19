//! What is done with hostile bytes: shared by the fuzz targets and by the unit test that runs each of these on a fixed
//! sequence of inputs.

use ferry_init::agent::connection::{Connection, Incoming};
use ferry_init::api::appliance::Appliance;
use ferry_init::api::protobuf::Message;
use ferry_init::api::{agent, ferry, guest, ttrpc};
use ferry_init::netlink::{Address, Link, Reply, Route, replies};
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
