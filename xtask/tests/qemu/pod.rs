//! Several containers in one virtual machine, as a Kubernetes Pod describes them.

use std::fs;

use crate::road::image::{Image, Packing};
use crate::road::tarball::Tarball;
use crate::road::{Xtask, program, xtask};

/// A pod in a file, and the run of it.
fn pod(directory: &tempfile::TempDir, spec: &str) -> Xtask {
    let file = directory.path().join("pod.yaml");
    let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: shop, labels: {tier: front}}\nspec:\n";
    fs::write(&file, format!("{head}{spec}")).expect("the pod's file");
    xtask(&["run", "--on", "qemu", "--network", "none", "--pod", file.to_str().expect("UTF-8")])
}

/// What one container has written, without its name.
fn of(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_once(" | "));
    lines.filter(|(who, _)| who.trim() == name).map(|(_, line)| line.to_owned()).collect()
}

#[test]
fn containers_of_a_pod_share_network_name_memory_and_volumes() {
    let spec = r#"
  restartPolicy: Never
  hostAliases: [{ip: 192.0.2.7, hostnames: [db]}]
  dnsConfig: {nameservers: [192.0.2.53], options: [{name: ndots, value: "2"}]}
  securityContext: {sysctls: [{name: net.core.somaxconn, value: "99"}]}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: cache, emptyDir: {medium: Memory, sizeLimit: 4Mi}}
  initContainers:
  - name: prepare
    image: hello
    command: [sh, -c, "echo prepared > /data/ready"]
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: server
    image: hello
    command: [sh, -c, "cat /data/ready; hostname; df /cache | tail -1; touch /data/x || echo read-only;
      cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /proc/sys/net/core/somaxconn /etc/resolv.conf;
      tail -n 1 /etc/hosts; touch /dev/shm/seen; echo served | nc -l -p 8000"]
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    volumeMounts:
    - {name: data, mountPath: /data, readOnly: true}
    - {name: cache, mountPath: /cache}
  - name: client
    image: hello
    env:
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: WORDS, value: "$(TIER) door"}
    command: [sh, -c, "until [ -e /dev/shm/seen ]; do sleep 0.1; done; echo $(WORDS);
      until nc 127.0.0.1 8000; do sleep 0.1; done; touch /data/x; id -u; grep -i nonewprivs /proc/self/status; ps; exit 4"]
    securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false}
    volumeMounts: [{name: data, mountPath: /data}]
"#;
    let directory = tempfile::tempdir().expect("a directory");
    let outcome = pod(&directory, spec).run();
    outcome.exits(4);
    let text = outcome.text();
    let server = of(&text, "server");
    assert_eq!(server[..2], ["prepared", "shop"], "{text}");
    assert!(server[2].starts_with("tmpfs") && server[2].contains("4096"), "{text}");
    assert_eq!(
        server[3..],
        [
            "read-only",
            "67108864",
            "50000 100000",
            "99",
            "nameserver 192.0.2.53",
            "options ndots:2",
            "192.0.2.7\tdb"
        ],
        "{text}"
    );
    let client = of(&text, "client");
    assert_eq!(client[..3], ["front door", "served", "1000"], "{text}");
    assert!(client[3].ends_with('1'), "{text}");
    assert!(!client.iter().any(|line| line.contains("nc -l")), "no processes of others: {text}");
}

#[test]
fn a_pods_containers_are_restarted_probed_and_see_each_other_only_if_it_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut layer = Tarball::new();
    layer.program("hostile", &fs::read(program::hostile()).expect("the program"));
    Image::new(&["/hostile"]).layer(layer, Packing::Plain).write_layout(directory.path(), "hostile");
    let spec = r#"
  restartPolicy: OnFailure
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  volumes: [{name: data, emptyDir: {}}]
  containers:
  - name: failing
    image: hello
    command: [sh, -c, "if [ -e /data/once ]; then echo again; else touch /data/once; exit 3; fi"]
    volumeMounts: [{name: data, mountPath: /data}]
  - name: unwell
    image: hello
    command: [sh, -c, "if [ -e /data/probed ]; then echo restarted; exit 0; fi; touch /data/probed; exec sleep 1000"]
    livenessProbe: {exec: {command: ["false"]}, initialDelaySeconds: 4, periodSeconds: 1, failureThreshold: 2}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: silent
    image: hello
    command: [sh, -c, "if [ -e /data/silent ]; then echo restarted; exit 0; fi; touch /data/silent; exec sleep 900"]
    livenessProbe: {tcpSocket: {port: 9000}, initialDelaySeconds: 1, periodSeconds: 1, failureThreshold: 2}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: answering
    image: hello
    command: [sh, -c, "mkdir /www; echo page > /www/index.html; httpd -p 8080 -h /www; sleep 8; echo well"]
    livenessProbe: {httpGet: {port: 8080, path: /index.html}, initialDelaySeconds: 2, periodSeconds: 1, timeoutSeconds: 20}
  - name: watcher
    image: hello
    command: [sh, -c, "until ps | grep -q 'slee[p] 1000'; do sleep 0.1; done; echo seen;
      kill -9 1; ls /proc/1/root/init /proc/1/root/run 2>/dev/null; echo alive"]
  - name: hostile
    image: oci:DIRECTORY:hostile
"#
    .replace("DIRECTORY", directory.path().to_str().expect("UTF-8"));
    let outcome = pod(&directory, &spec).run();
    outcome.exits(0);
    let text = outcome.text();
    assert_eq!(of(&text, "failing"), ["again"], "{text}");
    assert_eq!(of(&text, "unwell"), ["restarted"], "{text}");
    assert_eq!(of(&text, "silent"), ["restarted"], "{text}");
    assert_eq!(of(&text, "answering"), ["well"], "{text}");
    assert_eq!(of(&text, "watcher"), ["seen", "alive"], "{text}");
    assert_eq!(
        of(&text, "hostile"),
        [
            "socket 97",
            "socket with noise in its upper half 97",
            "x32 socket 38",
            "io_uring 1",
            "ports refused"
        ],
        "{text}"
    );
}

#[test]
fn what_a_pod_asks_for_and_does_not_get_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let outcome =
        pod(&directory, "  containers: [{name: a, image: hello, lifecycle: {preStop: {}}, tty: 1}]").run();
    assert!(
        outcome.exits(125).one_line_of_error().contains("spec.containers[0].tty: true or false is wanted")
    );
    let outcome =
        pod(&directory, "  containers: [{name: a, image: hello, command: [no-such-program]}]").run();
    let line = outcome.exits(127).one_line_of_error();
    assert!(line.contains("container a: cannot run 'no-such-program'"), "{line}");
}
