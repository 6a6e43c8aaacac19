//! Lives of containers and processes, from their creation to their removal.

use ferry_init::api::agent::{TtyWinResizeRequest, UpdateContainerRequest};
use ferry_init::api::method;
use ferry_init::api::oci::{LinuxPids, LinuxResources};
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::terminal::Window;
use ferry_vmm::agent::{OutputStream, Read, Signal, Wait};

use crate::guest::*;

#[test]
fn a_whole_life_with_everything_that_belongs_to_it() {
    let mut guest = guest();
    let client = guest.client();
    let script =
        "trap 'echo got it; exit 3' TERM; trap 'stty size' WINCH; echo up; while :; do sleep 1; done";
    let spec = container(&fresh("life"), &["sh", "-c", script], |spec| {
        spec.process.as_mut().expect("a process").terminal = true;
    });
    let id = running_as(&client, &spec);
    reads(&client, &id, "up\r\n");

    // Two further processes at the same time, each with its own streams.
    let cat = exec(&client, &id, &["cat"]);
    let (status, text) = output(&client, &id, &["sh", "-c", "echo $$ >/dev/null; hostname; exit 5"]);
    assert_eq!((status, text.trim()), (5, &id[..id.len().min(12)]));
    client.begin_write(&id, &cat, b"through a cat".to_vec()).unwrap().wait(Wait::AtMost(LONG)).unwrap();
    client.close_stdin(&id, &cat, Wait::AtMost(LONG)).unwrap();
    assert_eq!(read_all(&client, OutputStream::Stdout, &id, &cat), b"through a cat");
    assert_eq!(client.wait_process(&id, &cat).unwrap(), 0);

    let window = Window { rows: 31, columns: 97 };
    client.resize_terminal(&id, &id, window, Wait::AtMost(LONG)).unwrap();
    // The process is told of its new size, and the terminal has it.
    reads(&client, &id, "31 97\r\n");

    let stats = client.stats_container(&id, LONG).unwrap().cgroup_stats.expect("counters");
    assert!(stats.pids_stats.expect("tasks").current >= 1);
    assert!(stats.memory_stats.and_then(|memory| memory.usage).expect("memory").usage > 0);
    let resources = Some(LinuxResources { pids: Some(LinuxPids { limit: 77 }), ..Default::default() });
    let update = UpdateContainerRequest { container_id: id.clone(), resources };
    tell(&client, method::UPDATE_CONTAINER, &update).unwrap();
    assert_eq!(
        client.stats_container(&id, LONG).unwrap().cgroup_stats.unwrap().pids_stats.unwrap().limit,
        77
    );

    client.pause_container(&id, LONG).unwrap();
    client.resume_container(&id, LONG).unwrap();
    client.signal_process(&id, &id, Signal::TERM, Wait::AtMost(LONG)).unwrap();
    assert_eq!(client.wait_process(&id, &id).unwrap(), 3);
    let text = read_all(&client, OutputStream::Stdout, &id, &id);
    assert_eq!(String::from_utf8_lossy(&text), "got it\r\n");
    client.remove_container(&id, LONG).unwrap();
    assert_eq!(code(&wait(&client, &id, &id).map(drop)), Code::InvalidArgument);
}

#[test]
fn containers_of_a_sandbox_come_and_go_on_their_own() {
    let mut guest = guest();
    let client = guest.client();
    let ids: Vec<_> = (0..4).map(|_| running(&client, "several", &["sleep", "1000"])).collect();
    for id in &ids {
        let (_, text) = output(&client, id, &["sh", "-c", "echo mine > /file; cat /file"]);
        assert_eq!(text, "mine\n");
    }
    // What one wrote the next does not see.
    client.remove_container(&ids[1], LONG).unwrap();
    let other = running(&client, "several", &["sleep", "1000"]);
    assert_eq!(output(&client, &other, &["sh", "-c", "test -e /file || echo clean"]).1, "clean\n");
    for id in [&ids[0], &ids[2], &ids[3], &other] {
        assert_eq!(output(&client, id, &["echo", "still here"]).1, "still here\n");
        client.remove_container(id, LONG).unwrap();
    }
}

#[test]
fn the_end_of_the_first_process_is_the_end_of_all() {
    let mut guest = guest();
    let client = guest.client();
    let id = running(&client, "first", &["sleep", "1000"]);
    let other = exec(&client, &id, &["sleep", "1000"]);
    tell(&client, method::SIGNAL_PROCESS, &kill_request(&id, &id)).unwrap();
    assert_eq!(wait(&client, &id, &id).unwrap(), 137);
    assert_eq!(wait(&client, &id, &other).unwrap(), 137);
    let late = tell(&client, method::EXEC_PROCESS, &further(&id, "late", &["true"]));
    assert_eq!(code(&late), Code::FailedPrecondition);
    client.remove_container(&id, LONG).unwrap();
}

#[test]
fn a_window_is_for_terminals() {
    let mut guest = guest();
    let client = guest.client();
    let id = running(&client, "window", &["sleep", "1000"]);
    let resize = TtyWinResizeRequest { container_id: id.clone(), exec_id: id.clone(), row: 1, column: 1 };
    assert_eq!(code(&tell(&client, method::TTY_WIN_RESIZE, &resize)), Code::FailedPrecondition);
    client.remove_container(&id, LONG).unwrap();
}

#[test]
fn a_client_that_leaves_takes_nothing_with_it() {
    let mut guest = guest();
    let client = guest.client();
    let id = running(&client, "stays", &["sh", "-c", "echo kept; sleep 1000"]);
    // A call that waits for ever, and nobody to hear its answer.
    let pending = client.begin_read(OutputStream::Stderr, &id, &id, 10).unwrap();
    guest.hang_up();
    drop(pending);
    let client = guest.client();
    let read = client.begin_read(OutputStream::Stdout, &id, &id, 100).unwrap().wait(Wait::AtMost(LONG));
    assert_eq!(read.unwrap(), Read::Data(b"kept\n".to_vec()));
    client.remove_container(&id, LONG).unwrap();
}
