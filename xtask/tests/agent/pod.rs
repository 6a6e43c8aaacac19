//! Several containers that share namespaces, as those of a pod do, and a client among several that is slow or dead.

use std::thread;
use std::time::{Duration, Instant};

use ferry_init::api::agent::ReadStreamRequest;
use ferry_init::api::method;
use ferry_init::api::oci::Spec;
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::{OutputStream, Read, Wait};

use crate::guest::*;

#[test]
fn containers_join_one_that_is_never_started() {
    let mut guest = guest();
    let client = guest.client();
    let holder = container(&fresh("holder"), &["pause"], |spec| spec.hostname = "shared".to_owned());
    create(&client, &holder).unwrap();
    let member = |name: &str| {
        let change = |spec: &mut Spec| joins(spec, &["pid", "ipc", "uts"], &holder.id);
        running_as(&client, &container(&fresh(name), &["sleep", "1000"], change))
    };
    let (one, other) = (member("one"), member("other"));
    assert_eq!(output(&client, &one, &["hostname"]).1, "shared\n");
    let seen = output(&client, &one, &["sh", "-c", "ps | grep -c 'slee[p] 1000'"]).1;
    assert_eq!(seen, "2\n", "each sees the other's process");
    // One goes and comes back, and the others stay what they are.
    client.remove_container(&one, LONG).unwrap();
    assert_eq!(output(&client, &other, &["sh", "-c", "ps | grep -c 'slee[p] 1000'"]).1, "1\n");
    let again = member("again");
    assert_eq!(output(&client, &other, &["sh", "-c", "ps | grep -c 'slee[p] 1000'"]).1, "2\n");
    // Who joins nobody is refused, and nothing of it stays.
    let lost = container(&fresh("lost"), &["true"], |spec| {
        spec.linux.as_mut().expect("Linux").namespaces[1].path = "container:nobody".to_owned();
    });
    assert_ne!(code(&create(&client, &lost)), Code::Ok);
    for id in [&other, &again, &holder.id] {
        client.remove_container(id, LONG).unwrap();
    }
}

#[test]
fn a_reader_that_takes_nothing_holds_up_its_own_stream_alone() {
    let mut guest = guest();
    let client = guest.client();
    let talker = running(&client, "talker", &["sh", "-c", "while :; do echo more; done"]);
    let other = running(&client, "other", &["sleep", "1000"]);
    // Nobody reads what the talker says; calls that wait for what never comes pile up beside it.
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let request = ReadStreamRequest { container_id: other.clone(), exec_id: other.clone(), len: 10 };
            client
                .begin::<ferry_init::api::agent::ReadStreamResponse>(
                    method::AGENT_SERVICE,
                    method::READ_STDOUT,
                    &request,
                )
                .unwrap()
        })
        .collect();
    let began = Instant::now();
    for number in 0..10 {
        let text = format!("{number}\n");
        assert_eq!(output(&client, &other, &["echo", text.trim()]), (0, text));
    }
    assert!(began.elapsed() < LONG);
    thread::sleep(Duration::from_millis(200));
    let read = client.begin_read(OutputStream::Stdout, &talker, &talker, 5).unwrap();
    assert_eq!(
        read.wait(Wait::AtMost(LONG)).unwrap(),
        Read::Data(b"more\n".to_vec()),
        "nothing of it was lost"
    );
    drop(waiting);
    for id in [&talker, &other] {
        client.remove_container(id, LONG).unwrap();
    }
}
