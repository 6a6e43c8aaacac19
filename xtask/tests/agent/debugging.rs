//! What a unikernel cannot give: debuggers, profilers and tracers in the guest, tools beside a container, and cores.

use std::fs;

use ferry_images::source::{Access, Keep, Pull};
use ferry_images::{Reference, Registries, Store};
use ferry_init::api::guest::CopyFileRequest;
use ferry_vmm::agent::{Client, OutputStream};
use ferry_vmm::cli::run::prepare;
use ferry_vmm::runtime::command::Entrypoint;
use ferry_vmm::runtime::cores::{self, Collector, Cores, Processes};
use ferry_vmm::runtime::debug::Tools;
use ferry_vmm::runtime::oci::{Options, Writable};
use ferry_vmm::runtime::record::{Made, Record};

use crate::guest::*;
use crate::road::{program, xtask};

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

#[test]
fn tools_look_into_a_container_that_has_none() {
    let mut guest = guest();
    let client = guest.client();
    // One whose writable layer is on a disk, beside which there is room for the tools.
    let id = fresh("bare");
    let options = |options: &mut Options| options.writable = Writable::Disk;
    let mut spec = container_with(&id, &["sh", "-c", "echo inside > /mark; exec sleep 1000"], options);
    for storage in &mut spec.storages {
        if storage.source == "serial=scratch" {
            storage.source = "serial=volume".to_owned();
            storage.options.clear();
        }
    }
    running_as(&client, &spec);
    let built = xtask(&["build", "image", "hello"]).run();
    built.exits(0);
    let layout = std::path::PathBuf::from(built.text().trim());
    let place = tempfile::tempdir().expect("a directory");
    let store = Store::open(place.path()).expect("a store");
    let registries = Registries::new(Default::default());
    let access = Access { registries: &registries, pull: Pull::Never, keep: Keep::Converted };
    let reference = Reference::OciLayout { path: layout, name: None };
    let image = prepare(&store, "tools", &reference, &access, &()).expect("the tools' image");
    let made = Made { writable: Writable::Disk, hostname: "bare".into(), ..Made::default() };
    let target = Record::new(&id, "bare", made);
    let script = "cat /mnt/mark /proc/1/root/mark; ps | grep -c 'slee[p] 1000'; echo out > /mnt/from-outside";
    let options = Options {
        command: ["sh", "-c", script].map(str::to_owned).into(),
        entrypoint: Entrypoint::Cleared,
        ..Options::default()
    };
    let tools_id = fresh("debug");
    let tools = Tools::make(&client, &target, &tools_id, &image, &options).expect("tools");
    client.start_container(&tools_id).unwrap();
    let text = read_all(&client, OutputStream::Stdout, &tools_id, &tools_id);
    assert_eq!(String::from_utf8_lossy(&text), "inside\ninside\n1\n");
    drop(tools);
    assert_eq!(output(&client, &id, &["cat", "/from-outside"]), (0, "out\n".to_owned()));
    client.remove_container(&id, LONG).unwrap();
}
