//! The fuzz targets' functions on a fixed sequence of inputs: the same on every machine, in a moment.

#[path = "../fuzz/inputs.rs"]
mod inputs;

/// Numbers that look random (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

/// Bytes of a kind that gets further than noise: an example with some of its bytes changed, cut or said twice.
fn mutated(numbers: &mut Numbers, examples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = examples[numbers.next(examples.len())].clone();
    for _ in 0..numbers.next(6) {
        let at = numbers.next(bytes.len().max(1)).min(bytes.len());
        match numbers.next(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, numbers.next(256) as u8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][numbers.next(5)],
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

fn run(target: fn(&[u8]), examples: &[Vec<u8>]) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..5000 {
        target(&mutated(&mut numbers, examples));
    }
}

#[test]
fn mutated_frames_messages_databases_and_replies_are_survived() {
    use crate::api::protobuf::Message;
    use crate::api::{agent, appliance, oci, ttrpc};
    let rule = oci::LinuxSyscall {
        names: vec!["read".into()],
        action: "SCMP_ACT_ERRNO".into(),
        args: vec![oci::LinuxSeccompArg {
            index: 1,
            value: 2,
            value_two: 3,
            op: "SCMP_CMP_MASKED_EQ".into(),
        }],
        ..Default::default()
    };
    let seccomp = oci::LinuxSeccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        syscalls: vec![rule],
        ..Default::default()
    };
    let linux = oci::Linux { seccomp: Some(seccomp), ..Default::default() };
    let spec = oci::Spec {
        linux: Some(linux),
        annotations: [("a".into(), "b".into())].into_iter().collect(),
        ..Default::default()
    };
    let create =
        agent::CreateContainerRequest { container_id: "c".into(), oci: Some(spec), ..Default::default() };
    let request =
        ttrpc::Request { service: "s".into(), payload: create.encode_to_vec(), ..Default::default() };
    let frame = crate::agent::connection::tests::frame_of(1, &request);
    run(inputs::frames, &[frame.repeat(2), frame]);
    let service = appliance::Service {
        create: create.encode_to_vec(),
        after: vec![appliance::After { service: "c".into(), until: 1 }],
        restart: Some(appliance::Restart { policy: 2, limit: 1, ..Default::default() }),
        health: Some(appliance::HealthCheck { tcp_port: 80, ..Default::default() }),
        ..Default::default()
    };
    let appliance =
        appliance::Appliance { services: vec![service], status_of: "c".into(), ..Default::default() };
    run(inputs::messages, &[create.encode_to_vec(), request.encode_to_vec(), appliance.encode_to_vec()]);
    let databases =
        b"app:wheel\0root:x:0:0::/root:/bin/sh\napp:x:5:6::/app:\n\0wheel:x:10:root,app\napp:x:6:\n";
    run(inputs::databases, &[databases.to_vec()]);
    let route = crate::netlink::Request::dump(crate::netlink::kind!(RTM_GETROUTE), &[0; 12]).finish(0);
    let link = crate::netlink::Request::set_link(1, 1, 1).with_name("eth0").with_mtu(1400).finish(0);
    run(inputs::netlink, &[[link.clone(), route].concat(), link]);
}
