//! What a unikernel cannot give: debuggers, profilers and tracers in the guest, tools beside a container, and cores.

use std::fs;

use ferry_init::api::guest::CopyFileRequest;
use ferry_vmm::agent::{Client, OutputStream};
use ferry_vmm::runtime::cores::{self, Collector, Cores, Processes};

use crate::guest::*;
use crate::road::program;

/// Puts a program into a container.
fn put(client: &Client, id: &str, path: &str, program: &[u8]) {
    for (number, piece) in program.chunks(1 << 20).enumerate() {
        let request = CopyFileRequest {
            path: format!("/run/kata-containers/{id}/rootfs{path}"),
            file_size: program.len() as i64,
            file_mode: 0o100_755,
            offset: (number << 20) as i64,
            data: piece.to_vec(),
            ..Default::default()
        };
        client.copy_file(&request).expect("it is copied");
    }
}

#[test]
fn debuggers_profilers_and_tracers_work() {
    let mut guest = guest();
    let client = guest.client();
    let program = fs::read(program::debugging()).expect("the program");
    let script = "until [ -x /debugging ]; do sleep 0.1; done; exec /debugging";
    let id = running_as(&client, &privileged(&fresh("debugging"), &["sh", "-c", script]));
    put(&client, &id, "/debugging", &program);
    let text = read_all(&client, OutputStream::Stdout, &id, &id);
    assert_eq!(String::from_utf8_lossy(&text), "ptrace works\nperf works\nbpf works\n");
    client.remove_container(&id, LONG).unwrap();
    // A container without privileges still debugs its own processes.
    let id = running(&client, "unprivileged", &["sleep", "1000"]);
    put(&client, &id, "/debugging", &program);
    let (_, text) = output(&client, &id, &["/debugging"]);
    assert!(text.starts_with("ptrace works\n") && text.contains("bpf Operation not permitted"), "{text}");
    client.remove_container(&id, LONG).unwrap();
}

#[test]
fn a_crash_leaves_a_core_of_a_limited_size() {
    let mut guest = guest();
    let client = guest.client();
    const LIMIT: u64 = 256 << 10;
    let spec =
        container_with(&fresh("crash"), &["sleep", "1000"], |options| options.core_limit = Some(LIMIT));
    create(&client, &spec).unwrap();
    client.start_container(&spec.id).unwrap();
    let id = &spec.id;
    cores::prepare(&client, id).unwrap();
    put(&client, id, "/debugging", &fs::read(program::debugging()).expect("the program"));
    let place = tempfile::tempdir().expect("a directory");
    let wanted = Cores { directory: place.path().to_owned(), limit: LIMIT };
    let mut collector = Collector::new(&client, id, "web", &wanted);
    assert_eq!(collector.collect(Processes::Running), 0);
    let mut request = further(id, &fresh("exec"), &["/debugging", "crash"]);
    if let Some(process) = &mut request.process {
        process.rlimits.clone_from(&spec.oci.process.as_ref().expect("a process").rlimits);
        process.user = None;
    }
    client.exec_process(&request).unwrap();
    assert_eq!(client.wait_process(id, &request.exec_id).unwrap(), 128 + 6);
    // It is fetched when it does not change any more, and once.
    assert_eq!((0..2).map(|_| collector.collect(Processes::Running)).sum::<usize>(), 1);
    assert_eq!(collector.collect(Processes::Ended), 0);
    let core = fs::read_dir(place.path()).expect("a directory").next().expect("a core").expect("a core");
    let name = core.file_name().to_string_lossy().into_owned();
    assert!(name.starts_with("web-core.debugging."), "{name}");
    let core = fs::read(core.path()).expect("the core");
    assert_eq!(&core[..4], b"\x7fELF");
    assert!(core.len() as u64 <= LIMIT && core.len() > 4096, "{} bytes", core.len());
    client.remove_container(id, LONG).unwrap();
}
