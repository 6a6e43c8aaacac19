//! A pod that is left running: its containers by their names, a look into one with the tools of another image, a core of a
//! process that crashes in it, and the machine's memory for a debugger. One boot for all of it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::ferry::{Ferry, image};
use crate::road::full;

#[test]
fn a_pod_left_running_is_looked_into_leaves_cores_and_is_dumped() {
    if !full() {
        println!("left out: it is for machines with hardware KVM (--full)");
        return;
    }
    let ferry = Ferry::new();
    let place = ferry.home.path();
    let tools = format!("oci:{}", image("hello").display());
    let (file, cores, dump) = (place.join("pod.yaml"), place.join("cores"), place.join("dump"));
    let [file_path, cores_path, dump_path] = [&file, &cores, &dump].map(|path| path.display().to_string());
    fs::create_dir(&cores).expect("a directory");
    let script = "trap 'echo bye; exit 3' TERM; echo up > /data/up; while :; do sleep 1; done";
    let pod = format!(
        r#"{{apiVersion: v1, kind: Pod, metadata: {{name: shop}}, spec: {{
restartPolicy: Never, terminationGracePeriodSeconds: 120, volumes: [{{name: data, emptyDir: {{}}}}], containers: [
{{name: server, image: "{tools}", command: [sh, -c, "{script}"], volumeMounts: [{{name: data, mountPath: /data}}]}},
{{name: other, image: "{tools}", command: [sleep, "1000"], volumeMounts: [{{name: data, mountPath: /data}}]}}]}}}}"#
    );
    fs::write(&file, pod).expect("the pod's file");
    let ids = ferry.says(&["run", "-d", "--network", "none", "--core-dir", &cores_path, "--pod", &file_path]);
    assert_eq!(ids.lines().count(), 2, "{ids}");
    // It stays when its command has ended.
    std::thread::sleep(Duration::from_secs(1));
    let ps = ferry.says(&["ps"]);
    assert!(ps.contains("shop-server") && ps.contains("shop-other"), "{ps}");

    let look = "ps; ls /mnt/bin/sh; hostname; cat /proc/1/root/data/up";
    let seen = ferry.says(&["debug", "--image", &tools, "shop-server", "sh", "-c", look]);
    assert!(seen.contains("trap") && seen.ends_with("/mnt/bin/sh\nshop\nup\n"), "{seen}");

    let crash = ferry.run(&["exec", "shop-other", "sh", "-c", "kill -ABRT $$"]);
    assert_eq!(crash.status.code(), Some(134));
    let began = Instant::now();
    let core = loop {
        let core = fs::read_dir(&cores).expect("a directory").flatten().next();
        if let Some(core) = core.filter(|core| core.metadata().is_ok_and(|core| core.len() > 4096)) {
            break core;
        }
        assert!(began.elapsed() < PATIENCE, "no core comes");
        std::thread::sleep(Duration::from_millis(200));
    };
    let name = core.file_name().to_string_lossy().into_owned();
    assert!(name.starts_with("shop-other-core.sh."), "{name}");
    assert!(fs::read(core.path()).expect("the core").starts_with(b"\x7fELF"));

    ferry.says(&["dump", "shop-server", &dump_path]);
    let symbols = format!("{}.debug", ferry.kernel.display());
    let gdb = Command::new("gdb")
        .args(["-nx", "-batch", "-ex", "backtrace", "-ex", "x/s (char *)&linux_banner"])
        .args([&symbols, &dump_path])
        .output();
    match gdb {
        Err(_) => println!("skipped: there is no gdb"),
        Ok(gdb) => {
            let said = String::from_utf8_lossy(&gdb.stdout);
            assert!(said.contains("Linux version ") && said.contains("#0  0x"), "{said}");
        }
    }

    ferry.says(&["stop", "shop"]);
    assert_eq!(ferry.says(&["wait", "shop-server"]), "3\n");
    assert_eq!(ferry.says(&["logs", "shop-server"]), "bye\n");
    assert_eq!(ferry.says(&["rm", "shop"]).lines().count(), 2);
    assert!(ferry.is_clean(), "something is left");
}
