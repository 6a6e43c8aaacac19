//! The life of a detached container, one command after the other, as its user types them. One boot for all of it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::ferry::Ferry;
use crate::road::{stranger, xtask};

#[test]
fn a_detached_container_lives_through_all_commands() {
    let ferry = Ferry::new();
    let image = xtask(&["build", "image", "hello"]).run();
    image.exits(0);
    let image = format!("oci:{}", image.text().trim());
    let script = "trap 'echo bye; exit 3' TERM; echo one; echo two >&2; while :; do sleep 1; done";
    let id_file = ferry.home.path().join("id");
    let id_option = format!("--cidfile={}", id_file.display());
    let looked_at =
        ["--health-cmd", "test -e /tmp/well", "--health-interval", "5s", "--health-timeout", "5m"];
    let options = ["run", "-d", "--name", "web", "--network", "none", "--label", "tier=front", &id_option];
    let id = ferry.says(&[&options[..], &looked_at, &[&image, "sh", "-c", script]].concat());
    assert_eq!(id.trim().len(), 64, "{id}");
    assert_eq!(fs::read_to_string(&id_file).expect("its id"), id.trim());
    let other = ferry.refuses(&["run", "-d", "--name", "web", "--network", "none", &image, "true"]);
    assert!(other.contains("in use"), "{other}");

    let ps = ferry.says(&["ps"]);
    assert!(ps.contains("web") && ps.contains("Up ") && ps.contains("(health: starting)"), "{ps}");
    let state = ferry.inspect("web")["State"].clone();
    assert_eq!((&state["Status"], &state["Running"]), (&"running".into(), &true.into()));

    let exec = ferry.run(&[
        "exec",
        "-w",
        "/tmp",
        "-e",
        "A=1",
        "web",
        "sh",
        "-c",
        "pwd; echo $A; touch well; exit 9",
    ]);
    assert_eq!((exec.status.code(), exec.stdout.as_slice()), (Some(9), &b"/tmp\n1\n"[..]));
    assert_eq!(ferry.run(&["exec", "web", "no-such-program"]).status.code(), Some(127));

    stranger::whole_life(&over_vsock(ferry.home.path()), "foreign");

    // It was begun before the first look; each takes an emulated kernel some seconds.
    let health = || ferry.inspect("web")["State"]["Health"]["Status"].clone();
    let is_well = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(500));
        health() == "healthy"
    });
    assert!(is_well, "{}", ferry.inspect("web"));
    let well =
        ferry.says(&["ps", "-q", "--no-trunc", "--filter", "health=healthy", "--filter", "label=tier=front"]);
    assert_eq!(well, id);

    let stats = ferry.says(&["stats", "--no-stream", "--format", "json", "web"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["Name"], "web");
    let metrics = ferry.says(&["stats", "--metrics", "web"]);
    let kicks = metrics.lines().find(|line| line.contains("device=\"vsock\"") && line.contains("kicks"));
    let kicks = kicks.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(kicks.is_some_and(|kicks| kicks > 0), "{metrics}");
    ferry.says(&["update", "--pids-limit", "50", "web"]);

    ferry.says(&["pause", "web"]);
    assert!(ferry.says(&["ps"]).contains("(Paused)"));
    assert!(ferry.refuses(&["exec", "web", "true"]).contains("paused"));
    ferry.says(&["unpause", "web"]);

    let stopped = ferry.says(&["stop", "-t", "120", "web"]);
    assert_eq!(stopped, "web\n");
    assert_eq!(ferry.says(&["wait", "web"]), "3\n");
    let state = ferry.inspect("web")["State"].clone();
    assert_eq!((&state["Status"], &state["ExitCode"]), (&"exited".into(), &3.into()));
    let logs = ferry.run(&["logs", "web"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "one\nbye\n");
    assert_eq!(String::from_utf8_lossy(&logs.stderr), "two\n");
    assert_eq!(ferry.says(&["logs", "--tail", "1", "web"]), "bye\n");
    assert!(ferry.refuses(&["exec", "web", "true"]).contains("not running"));
    assert_eq!(ferry.says(&["rm", "web"]), "web\n");
    assert!(ferry.refuses(&["logs", "web"]).contains("no such container"));
    assert!(ferry.is_clean(), "something is left");
}

/// A client of the agent of the one guest that runs, over the socket of its vsock with the handshake that names the port.
fn over_vsock(home: &Path) -> ttrpc::Client {
    let runs = fs::read_dir(home).expect("a home").flatten();
    let run = runs.map(|entry| entry.path().join("vm/vsock")).find(|socket| socket.exists());
    let mut socket = UnixStream::connect(run.expect("its socket")).expect("it connects");
    socket.write_all(b"CONNECT 1024\n").expect("it is heard");
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("an answer");
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"OK "), "{}", String::from_utf8_lossy(&line));
    ttrpc::Client::new(socket.into_raw_fd()).expect("a client")
}
