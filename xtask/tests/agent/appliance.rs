//! Appliances: guests that run their services without a host, whose host looks on all the same.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ferry_images::layer::{Limits, convert};
use ferry_images::verity::{self, Salt, Sealed};
use ferry_init::api::agent::{CreateContainerRequest, Empty, ReadStreamRequest, Storage};
use ferry_init::api::appliance::*;
use ferry_init::api::method;
use ferry_init::api::oci::{Mount, Spec};
use ferry_init::api::protobuf::Message;
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::session::ContainerSpec;
use ferry_vmm::agent::{self, CallError, Client, Patience, Transport, Wait};

use crate::every::methods;
use crate::guest::{self, LONG, code, output, tell};
use crate::road::tarball::Tarball;

/// A guest on QEMU that is an appliance.
struct Booted {
    xtask: Child,
    socket: PathBuf,
    /// Its end is the guest's.
    input: Option<ChildStdin>,
}

/// Files of one test.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Bench {
        Bench(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An EROFS image of this name that holds these files.
    fn image(&self, name: &str, files: &[(&str, &[u8])]) -> File {
        let mut tar = Tarball::new();
        for (name, data) in files {
            tar.file(name, data);
        }
        let file = File::options().read(true).write(true).create(true).truncate(true).open(self.path(name));
        let file = file.expect("a file");
        let scratch = tempfile::tempfile().expect("a file");
        convert(&tar.bytes()[..], &file, &scratch, &Limits::default()).expect("an image");
        file
    }

    /// The same, with a hash tree behind its data.
    fn sealed(&self, name: &str, files: &[(&str, &[u8])]) -> (File, Sealed) {
        let file = self.image(name, files);
        let end = file.metadata().expect("its size").len();
        let salt = Salt::new(b"salt").expect("a salt");
        let sealed = verity::seal(&file, salt, &file, end).expect("a hash tree");
        (file, sealed)
    }

    /// Boots an appliance with these further disks.
    fn boot(&self, appliance: &Appliance, disks: &[&str]) -> Booted {
        drop(self.image("spec", &[(FILE_NAME, &appliance.encode_to_vec())]));
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args([
            "guest",
            "--memory",
            "256m",
            "--cmdline",
            &format!("{BOOT_WORD}=serial=spec"),
            "hello",
        ]);
        for disk in [&["spec"], disks].concat() {
            command.arg("--disk").arg(format!("{disk}={}", self.path(disk).display()));
        }
        let errors = File::create(self.path("stderr")).expect("a file");
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut xtask = spawned.expect("xtask starts");
        let mut line = String::new();
        let output = xtask.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("xtask says where the socket is");
        let input = xtask.stdin.take();
        Booted { xtask, socket: PathBuf::from(line.trim_end()), input }
    }
}

impl Booted {
    fn client(&self) -> Client {
        let transport = Transport::Stream { socket: self.socket.clone() };
        let patience = Patience { since: Instant::now(), limit: LONG, alive: &|| true };
        agent::connect(&transport, &patience).expect("the agent answers")
    }

    /// Waits for its end: the appliance's status and what xtask has said.
    fn end(mut self, bench: &Bench) -> (i32, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.xtask.try_wait().expect("its status") {
                break status;
            }
            assert!(began.elapsed() < LONG, "it does not end: {}", said(&bench.path("stderr")));
            thread::sleep(Duration::from_millis(50));
        };
        (status.code().expect("a status"), said(&bench.path("stderr")))
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.xtask.wait();
    }
}

fn said(path: &Path) -> String {
    let mut text = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut text)).expect("what xtask has said");
    String::from_utf8_lossy(&text).into_owned()
}

/// A service that runs this script of a shell, for whom it is given to be changed before it is encoded.
fn service(name: &str, script: &str, change: impl FnOnce(&mut ContainerSpec)) -> Service {
    let mut container = guest::container(name, &["sh", "-c", script], |_| {});
    change(&mut container);
    let create = CreateContainerRequest {
        container_id: container.id.clone(),
        exec_id: container.id,
        storages: container.storages,
        oci: Some(container.oci),
        ..Default::default()
    };
    Service { create: create.encode_to_vec(), log: Some(Log::default()), ..Default::default() }
}

fn restart(policy: RestartPolicy, initial_ms: u32) -> Option<Restart> {
    Some(Restart { policy: policy.into(), initial_ms, ..Default::default() })
}

/// Shows a file or directory of the guest's in a container.
fn bind(spec: &mut Spec, source: &str, destination: &str) {
    spec.mounts.push(Mount {
        destination: destination.into(),
        source: source.into(),
        r#type: "bind".into(),
        options: vec!["bind".into()],
    });
}

/// Mounts a sealed disk for a container, in its /sealed.
fn with_sealed(container: &mut ContainerSpec, disk: &str, sealed: &Sealed) {
    let source = format!("serial={disk}");
    let (root, first) = (sealed.root.hex(), sealed.offset / verity::BLOCK + 1);
    let place = format!("/run/ferry/of-{}", container.id);
    container.storages.push(Storage {
        driver: "blk".into(),
        driver_options: vec![format!("verity={source},{root},{},{first},{}", sealed.blocks, sealed.salt)],
        source,
        fstype: "erofs".into(),
        options: vec!["ro".into()],
        mount_point: place.clone(),
        ..Default::default()
    });
    bind(&mut container.oci, &place, "/sealed");
}

fn call<A: Message + Default>(client: &Client, name: &'static str, message: &impl Message) -> A {
    try_call(client, name, message).expect("an answer")
}

fn try_call<A: Message + Default>(
    client: &Client,
    name: &'static str,
    message: &impl Message,
) -> Result<A, CallError> {
    client.call(method::SUPERVISOR_SERVICE, name, message, Wait::AtMost(LONG))
}

fn named(name: &str) -> ServiceRequest {
    ServiceRequest { name: name.into() }
}

fn status(client: &Client, name: &str) -> ServiceStatus {
    let list: ListServicesResponse = call(client, method::LIST_SERVICES, &ListServicesRequest {});
    list.services.into_iter().find(|service| service.name == name).expect("the service")
}

fn log(client: &Client, name: &str) -> String {
    let log: ServiceLogResponse = call(client, method::SERVICE_LOG, &named(name));
    String::from_utf8(log.text).expect("text")
}

/// Waits until a service is like this.
#[track_caller]
fn until(client: &Client, name: &str, is_so: impl Fn(&ServiceStatus) -> bool) -> ServiceStatus {
    let began = Instant::now();
    loop {
        let status = status(client, name);
        if is_so(&status) {
            return status;
        }
        assert!(began.elapsed() < LONG, "{name} stays like this: {status:?}, {}", log(client, name));
        thread::sleep(Duration::from_millis(100));
    }
}

fn is_healthy(status: &ServiceStatus) -> bool {
    status.state == ServiceState::Running as i32 && status.health == Health::Healthy as i32
}

/// The seconds since boot that a service has written, one a line, in milliseconds.
fn times(client: &Client, name: &str) -> Vec<u64> {
    let seconds = |line: &str| line.trim().parse::<f64>().ok().map(|seconds| (seconds * 1000.0) as u64);
    log(client, name).lines().filter_map(seconds).collect()
}

const TIME: &str = "cut -d' ' -f1 /proc/uptime";

#[test]
fn an_appliance_runs_its_services_by_itself_from_its_boot_to_its_end() {
    let bench = Bench::new();
    let data = vec![7; 3 * verity::BLOCK as usize];
    let files: [(&str, &[u8]); 2] = [("good", b"as it was sealed\n"), ("data", &data)];
    let (_, sealed) = bench.sealed("sealed", &files);
    let (rotten_file, rotten) = bench.sealed("rotten", &files);
    let (spoiled_file, spoiled) = bench.sealed("spoiled", &files);
    // The data of a file, which is found when it is read; and the superblock, which is found at once.
    let mut bytes = vec![0; (rotten.blocks * verity::BLOCK) as usize];
    rotten_file.read_exact_at(&mut bytes, 0).expect("the image");
    let at = bytes.windows(64).position(|window| window == [7; 64]).expect("the file's data");
    rotten_file.write_all_at(&[8], at as u64 + 5000).expect("a change");
    spoiled_file.write_all_at(&[0], 1024 + 40).expect("a change");

    let waits = |name: &str, until: Until| After { service: name.into(), until: until.into() };
    let loops = |word: &str, status: u32| {
        format!("{TIME}; trap 'echo {word}; exit {status}' TERM; while :; do sleep 0.1; done")
    };
    let command = |words: &[&str]| HealthCheck {
        exec: words.iter().map(|word| (*word).into()).collect(),
        interval_ms: 200,
        ..Default::default()
    };
    let console = Some(Log { console: true, ..Default::default() });
    let services = vec![
        Service {
            after: vec![waits("store", Until::Ready), waits("first", Until::Completed)],
            log: Some(Log { console: true, file: "/run/ferry/logs/app.log".into(), ..Default::default() }),
            ..service("app", &loops("app ends", 9), |_| {})
        },
        Service {
            health: Some(HealthCheck { start_period_ms: 60_000, ..command(&["test", "-e", "/ready"]) }),
            log: console.clone(),
            ..service("store", &format!("(sleep 1; touch /ready) & {}", loops("store ends", 0)), |_| {})
        },
        service("first", "sleep 0.2", |_| {}),
        Service {
            restart: restart(RestartPolicy::Always, 50),
            ..service("crash", &format!("{TIME}; exit 3"), |_| {})
        },
        Service {
            restart: restart(RestartPolicy::OnFailure, 50),
            health: Some(HealthCheck { failures: 2, ..command(&["sh", "-c", "exit 6"]) }),
            ..service("sick", &loops("better now", 0), |_| {})
        },
        Service {
            restart: restart(RestartPolicy::Always, 50),
            health: Some(HealthCheck {
                http: Some(HttpCheck { port: 8080, path: "/page".into(), ..Default::default() }),
                interval_ms: 200,
                start_period_ms: 60_000,
                ..Default::default()
            }),
            ..service("page", "mkdir /www; echo ok >/www/page; exec httpd -f -p 8080 -h /www", |_| {})
        },
        Service {
            health: Some(HealthCheck { tcp_port: 8081, start_period_ms: 60_000, ..Default::default() }),
            ..service("port", "mkdir /www; exec httpd -f -p 8081 -h /www", |_| {})
        },
        service("looker", "sleep 100000", |container| {
            container.oci.linux.as_mut().expect("linux").namespaces.retain(|one| one.r#type != "pid");
            container.storages.push(Storage {
                driver: "local".into(),
                mount_point: "/run/ferry/logs".into(),
                options: vec!["mode=0750".into()],
                ..Default::default()
            });
            bind(&mut container.oci, "/run/ferry/logs", "/logs");
        }),
        service("sealed", "sleep 100000", |container| with_sealed(container, "sealed", &sealed)),
        service("rotten", "sleep 100000", |container| with_sealed(container, "rotten", &rotten)),
        service("spoiled", "sleep 100000", |container| with_sealed(container, "spoiled", &spoiled)),
    ];
    let appliance = Appliance { services, status_of: "app".into(), ..Default::default() };
    let booted = bench.boot(&appliance, &["sealed", "rotten", "spoiled"]);
    let client = booted.client();

    // Order: one that is ready a second after its start, and one that is done.
    until(&client, "store", is_healthy);
    until(&client, "app", |_| !times(&client, "app").is_empty());
    let (store, app) = (times(&client, "store")[0], times(&client, "app")[0]);
    assert!(app >= store + 1000, "app began at {app} ms, store at {store} ms");
    let first = status(&client, "first");
    assert_eq!((first.state, first.last_status), (ServiceState::Ended.into(), Some(0)));

    // Crash loops back off, each time twice as long.
    let crash = until(&client, "crash", |crash| crash.restarts >= 4);
    assert_eq!(crash.last_status, Some(3));
    let begins = times(&client, "crash");
    for (number, gap) in begins.windows(2).map(|pair| pair[1] - pair[0]).enumerate() {
        // What a clock of hundredths of a second shows of it.
        assert!(gap + 20 >= 50 << number, "{begins:?}");
    }

    // Health.
    let sick = until(&client, "sick", |sick| sick.restarts >= 2);
    assert!(sick.problem.contains("ended with 6"), "{sick:?}");
    assert!(log(&client, "sick").contains("better now"), "it is asked to stop");
    until(&client, "port", is_healthy);
    until(&client, "page", is_healthy);
    assert_eq!(output(&client, "page", &["rm", "/www/page"]).0, 0);
    until(&client, "page", |page| page.restarts >= 1);
    let page = until(&client, "page", is_healthy);
    assert!(page.problem.contains("404"), "{page:?}");
    let probe =
        |tcp_port: u32| ProbeRequest { container_id: "looker".into(), tcp_port, ..Default::default() };
    assert!(try_call::<Empty>(&client, method::PROBE, &probe(8080)).is_ok());
    assert_eq!(
        code(&try_call::<Empty>(&client, method::PROBE, &probe(9)).map(drop)),
        Code::FailedPrecondition
    );

    // On demand.
    let Empty {} = call(&client, method::STOP_SERVICE, &named("page"));
    assert_eq!(status(&client, "page").state, ServiceState::Ended as i32);
    let Empty {} = call(&client, method::START_SERVICE, &named("page"));
    until(&client, "page", is_healthy);
    assert_eq!(
        code(&try_call::<Empty>(&client, method::STOP_SERVICE, &named("x")).map(drop)),
        Code::NotFound
    );

    // What a service writes is kept, here and there.
    let read = ReadStreamRequest { container_id: "app".into(), exec_id: "app".into(), len: 10 };
    assert_eq!(code(&tell(&client, method::READ_STDOUT, &read)), Code::FailedPrecondition);
    assert_eq!(output(&client, "looker", &["cat", "/logs/app.log"]).1, log(&client, "app"));

    // What does not match its root hash is not read.
    let reads = |name: &str| {
        output(&client, name, &["sh", "-c", "cat /sealed/good; cat /sealed/data 2>&1 | tail -c 19"]).1
    };
    assert!(reads("sealed").starts_with("as it was sealed\n\u{7}\u{7}"));
    let text = reads("rotten");
    assert!(text.starts_with("as it was sealed\n") && text.ends_with("Input/output error\n"), "{text}");
    // Nor for a container that a host makes, which shares the device of others.
    let verified = |count: usize| {
        let began = Instant::now();
        let list = || output(&client, "looker", &["ls", "/sys/block"]).1;
        while list().matches("dm-").count() != count {
            assert!(began.elapsed() < LONG, "not {count} verified disks: {}", list());
            thread::sleep(Duration::from_millis(100));
        }
    };
    let mut made = guest::container("made", &["sleep", "100000"], |_| {});
    with_sealed(&mut made, "sealed", &sealed);
    guest::running_as(&client, &made);
    assert!(reads("made").starts_with("as it was sealed\n\u{7}\u{7}"));
    verified(2);
    client.remove_container("made", LONG).expect("it is removed");
    verified(2);
    let Empty {} = call(&client, method::STOP_SERVICE, &named("sealed"));
    verified(1);
    let spoiled = until(&client, "spoiled", |spoiled| spoiled.state == ServiceState::Ended as i32);
    assert_eq!(spoiled.last_status, Some(125));
    assert!(spoiled.problem.contains("do not match its root hash"), "{spoiled:?}");

    // The orderly end, asked for by a signal to PID 1: what needs others stops before them.
    let end = client
        .begin::<WaitEndResponse>(method::SUPERVISOR_SERVICE, method::WAIT_END, &WaitEndRequest {})
        .expect("the call is made");
    let _ = guest::exec(&client, "looker", &["kill", "-TERM", "1"]);
    let answer = end.wait(Wait::AtMost(LONG)).expect("the end");
    assert_eq!((answer.status, answer.at_end), (9, AtEnd::PowerOff.into()));
    let (status, said) = booted.end(&bench);
    assert_eq!(status, 9, "{said}");
    let place = |words: &str| said.find(words).unwrap_or_else(|| panic!("no {words:?} in {said}"));
    assert!(place("app: app ends") < place("store: store ends"));
    assert!(place("store: store ends") < place("ferry-init: ended: poweroff, status 9"));
    assert!(said.contains("verity: "), "the kernel says what is wrong with a disk: {said}");
}

#[test]
fn the_end_of_one_job_is_the_end_of_all() {
    let bench = Bench::new();
    let services = vec![
        Service { restart: restart(RestartPolicy::Always, 50), ..service("side", "sleep 100000", |_| {}) },
        service("job", "sleep 0.5; exit 7", |_| {}),
    ];
    // The side has no handler for SIGTERM, which its shell's child would not hear of: its time is up soon.
    let mut appliance =
        Appliance { services, status_of: "job".into(), at_end: AtEnd::Reboot.into(), ..Default::default() };
    appliance.services[0].grace_ms = 500;
    let (status, said) = bench.boot(&appliance, &[]).end(&bench);
    assert_eq!(status, 7, "{said}");
    assert!(said.contains("ferry-init: ended: reboot, status 7"), "{said}");
}

#[test]
fn a_host_may_start_a_service_again_and_say_how_the_machine_ends() {
    let bench = Bench::new();
    let script = "trap 'echo asked; exit 4' TERM; echo begun; while :; do sleep 0.1; done";
    let services = vec![service("only", script, |_| {})];
    let booted = bench.boot(&Appliance { services, status_of: "only".into(), ..Default::default() }, &[]);
    let client = booted.client();
    let begun =
        |times: usize| until(&client, "only", |_| log(&client, "only").matches("begun").count() == times);
    begun(1);
    let Empty {} = call(&client, method::RESTART_SERVICE, &named("only"));
    begun(2);
    assert!(log(&client, "only").contains("asked"), "it is asked to stop first");
    let request = EndApplianceRequest { at_end: Some(AtEnd::Reboot.into()) };
    let Empty {} = call(&client, method::END_APPLIANCE, &request);
    let (status, said) = booted.end(&bench);
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("ferry-init: ended: reboot, status 4"), "{said}");
    // With the appliance above, every call of the supervisor has been made.
    let made = [
        method::LIST_SERVICES,
        method::SERVICE_LOG,
        method::START_SERVICE,
        method::STOP_SERVICE,
        method::RESTART_SERVICE,
        method::PROBE,
        method::END_APPLIANCE,
        method::WAIT_END,
    ];
    assert_eq!(BTreeSet::from(made), methods(method::SUPERVISOR_SERVICE));
}

#[test]
fn a_specification_that_makes_no_sense_is_told_on_the_console() {
    let bench = Bench::new();
    let after = |name: &str| vec![After { service: name.into(), until: Until::Ready.into() }];
    let services = vec![
        Service { after: after("b"), ..service("a", "true", |_| {}) },
        Service { after: after("a"), ..service("b", "true", |_| {}) },
    ];
    let (status, said) = bench.boot(&Appliance { services, ..Default::default() }, &[]).end(&bench);
    assert_eq!(status, 125, "{said}");
    assert!(said.contains("services wait for each other: a after b after a"), "{said}");
}
