//! Whole runs in guests that are an agent in this process: what they return, and what they leave behind.

use super::*;
use crate::agent::fake::{Script, running};
use crate::runtime::fake_guest::{FakeGuest, FakeVmm, request};
use crate::runtime::interrupt::Forwarding;
use crate::runtime::size::MIB;
use crate::runtime::volume::Kept;
use ferry_init::api::method;
use ferry_init::api::ttrpc::Code;

struct Outcome {
    result: Result<u8, Failure>,
    guest: Option<Arc<FakeGuest>>,
    containers: Containers,
    _root: tempfile::TempDir,
}

impl Outcome {
    /// Directories of containers, and of sockets.
    fn left(&self) -> usize {
        let sockets = self
            .guest
            .as_ref()
            .is_some_and(|guest| guest.socket.parent().unwrap().parent().unwrap().exists());
        let containers = self.containers.root().join("containers");
        std::fs::read_dir(containers).map_or(0, Iterator::count) + usize::from(sockets)
    }
}

fn run_it(request: &Request, script: Option<Script>) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    let containers = Containers::open(root.path());
    let vmm = FakeVmm { scripts: Mutex::new(script.into_iter().collect()), ..FakeVmm::default() };
    let host = Host {
        containers: &containers,
        launch: &vmm,
        interrupts: &Interrupts::uninstalled(Forwarding::ToContainer),
        progress: &(),
        milestone: &|_, _| {},
    };
    let result = run(request, &host);
    let guest = vmm.guest.into_inner().unwrap();
    Outcome { result, guest, containers, _root: root }
}

#[test]
fn a_container_that_is_kept_has_its_status_and_its_disk() {
    let outcome = run_it(&request(), Some(running(|_| 7)));
    assert_eq!(outcome.result.as_ref().unwrap(), &7);
    let kept = outcome.containers.find("web").unwrap();
    assert!(!kept.alive);
    assert_eq!((kept.record.status, kept.record.exit_code), (Status::Exited, Some(7)));
    assert!(kept.record.started >= kept.record.created && kept.record.finished >= kept.record.started);
    let guest = outcome.guest.as_ref().unwrap();
    assert!(guest.was_asked(method::REMOVE_CONTAINER) && guest.was_asked(method::DESTROY_SANDBOX));
    let (Contents::Scratch(scratch) | Contents::Throwaway(scratch)) = &guest.disks[1].contents else {
        panic!("{:?}", guest.disks)
    };
    assert_eq!(std::fs::metadata(scratch).unwrap().len(), 64 * MIB);
    assert_eq!(outcome.left(), 1);
}

#[test]
fn a_container_that_is_thrown_away_leaves_nothing_and_is_not_waited_for() {
    let request = Request { afterwards: Afterwards::ThrowAway, ..request() };
    let outcome = run_it(&request, Some(running(|_| 3)));
    assert_eq!(outcome.result.as_ref().unwrap(), &3);
    let guest = outcome.guest.as_ref().unwrap();
    assert!(!guest.was_asked(method::DESTROY_SANDBOX) && guest.was_stopped());
    assert_eq!(outcome.left(), 0);
}

/// What can keep a container from running, with the status and the reason that are told.
fn failures() -> Vec<(Option<Script>, u8, &'static str)> {
    let refused = |method, code| Some(Script { refuse: Some((method, code, "its words")), ..running(|_| 0) });
    vec![
        (None, 125, "vmm-error"),
        (refused(method::START_CONTAINER, Code::NotFound), 127, "start-failed"),
        (refused(method::START_CONTAINER, Code::PermissionDenied), 126, "start-failed"),
        (refused(method::CREATE_SANDBOX, Code::Internal), 125, "start-failed"),
        (Some(Script { die_at: Some(method::CREATE_CONTAINER), ..running(|_| 0) }), 125, "guest-panic"),
    ]
}

#[test]
fn a_container_that_never_ran_is_remembered_with_the_reason_and_without_its_disk() {
    for (script, status, reason) in failures() {
        let outcome = run_it(&request(), script);
        let failure = outcome.result.as_ref().unwrap_err();
        assert_eq!(failure.status, status, "{}", failure.message);
        assert!(!failure.message.contains('\n'));
        let kept = outcome.containers.find("web").unwrap();
        let shown = kept.record.inspect();
        assert_eq!(shown["State"]["Reason"], reason, "{shown}");
        assert_eq!(
            (&shown["State"]["Status"], &shown["State"]["ExitCode"]),
            (&"dead".into(), &status.into())
        );
        assert_eq!(shown["State"]["Error"], failure.message);
        assert!(!kept.alive && !kept.directory().join(SCRATCH).exists());
        assert_eq!(outcome.left(), 1, "its sockets are gone: {}", failure.message);
    }
}

#[test]
fn every_failure_of_a_container_to_be_thrown_away_leaves_nothing() {
    for (script, status, _) in failures() {
        let outcome = run_it(&Request { afterwards: Afterwards::ThrowAway, ..request() }, script);
        assert_eq!(outcome.result.as_ref().unwrap_err().status, status);
        assert_eq!(outcome.left(), 0);
    }
}

#[test]
fn a_process_that_is_killed_for_want_of_memory_is_told_from_one_that_is_killed() {
    for (starves, status, reason) in [(true, 137, "oom"), (false, 137, ""), (true, 1, "")] {
        let outcome = run_it(&request(), Some(Script { starves, ..running(move |_| status) }));
        assert_eq!(outcome.result.as_ref().unwrap(), &(status as u8));
        let shown = outcome.containers.find("web").unwrap().record.inspect();
        assert_eq!(shown["State"]["Reason"], reason, "{shown}");
        if status == 137 {
            assert_eq!(shown["State"]["OOMKilled"], starves, "{shown}");
        }
    }
}

#[test]
fn a_guest_that_dies_under_its_process_is_remembered_with_the_reason() {
    let script =
        Script { die_at: Some(method::WAIT_PROCESS), ..running(|world| world.signals.read(1).len() as i32) };
    let outcome = run_it(&request(), Some(script));
    let failure = outcome.result.as_ref().unwrap_err();
    assert_eq!((failure.status, failure.reason), (125, Reason::GuestPanic));
    let kept = outcome.containers.find("web").unwrap().record;
    assert_eq!((kept.status, kept.reason.as_str()), (Status::Dead, "guest-panic"));
    assert!(kept.error.contains("Kernel panic: at last"), "{}", kept.error);
}

#[test]
fn volumes_without_a_name_stay_only_with_a_container_that_stays() {
    let volume = |name: &str, target: &str| Volume {
        target: target.to_owned(),
        kept: Some(Kept { name: name.to_owned(), anonymous: name.is_empty(), copies: false }),
        ..Volume::default()
    };
    for (afterwards, script, stays) in [
        (Afterwards::ThrowAway, Some(running(|_| 3)), false),
        (Afterwards::ThrowAway, None, false),
        (Afterwards::Keep, Some(running(|_| 3)), true),
        (Afterwards::Keep, None, true),
    ] {
        let mut request = Request { afterwards, ..request() };
        request.options.volumes = vec![volume("named", "/x"), volume("", "/y")];
        let outcome = run_it(&request, script);
        let volumes = outcome.containers.volumes().list().unwrap();
        assert_eq!(volumes.len(), 1 + usize::from(stays), "{afterwards:?}: {volumes:?}");
        if stays {
            let seen = outcome.containers.find("web").unwrap().record.made.volumes;
            assert!(seen.iter().all(|volume| volume.source.is_dir()), "{seen:?}");
            assert_eq!(seen[0].name(), Some("named"));
        }
    }
    // A name that is somebody's is found out when the volumes are there.
    let mut request = Request { name: Some("a b".into()), ..request() };
    request.options.volumes = vec![volume("", "/y")];
    let outcome = run_it(&request, Some(running(|_| 0)));
    assert!(outcome.result.is_err() && outcome.containers.volumes().list().unwrap().is_empty());
}

#[test]
fn what_cannot_work_is_said_before_a_guest_is_started() {
    let small = Request { shape: Shape { memory_mib: 8, ..Shape::default() }, ..request() };
    let tiny = Request { shape: Shape { scratch_bytes: 4096, ..Shape::default() }, ..request() };
    let named = Request { name: Some("a b".into()), ..request() };
    let mut empty = request();
    empty.image.image.config.cmd.clear();
    for (request, words) in
        [(small, "too little"), (tiny, "too small"), (named, "invalid"), (empty, "no command")]
    {
        let outcome = run_it(&request, Some(running(|_| 0)));
        let failure = outcome.result.as_ref().unwrap_err();
        assert!(failure.message.contains(words), "{}", failure.message);
        assert_eq!(failure.status, 125);
        assert!(outcome.guest.is_none() && outcome.left() == 0);
    }
}
