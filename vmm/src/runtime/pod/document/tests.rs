use super::*;
use crate::runtime::network::Protocol;
use std::time::Duration;

const WHOLE: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: shop
  creationTimestamp: "2026-01-31T12:00:00Z"
  labels: {app: shop, tier: front}
  annotations:
    note: "kept"
spec:
  hostname: front
  restartPolicy: OnFailure
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 7
  hostNetwork: false
  automountServiceAccountToken: false
  securityContext:
    runAsUser: 1000
    supplementalGroups: [2000, 3000]
    seccompProfile: {type: RuntimeDefault}
  volumes:
  - name: data
    emptyDir: {}
  - name: cache
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  - name: conf
    hostPath: {path: /etc/shop, type: DirectoryOrCreate}
  initContainers:
  - name: prepare
    image: busybox
    command: [sh, -c, "echo ready > /data/ready"]
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: web
    image: example/web:1
    imagePullPolicy: Never
    args: ["--port", "$(PORT)"]
    workingDir: /srv
    env:
    - {name: PORT, value: "8080"}
    - name: POD
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - name: TIER
      valueFrom: {fieldRef: {apiVersion: v1, fieldPath: "metadata.labels['tier']"}}
    ports:
    - {name: http, containerPort: 8080, hostPort: 80, hostIP: 127.0.0.1}
    - {containerPort: 53, protocol: UDP}
    volumeMounts:
    - {name: data, mountPath: /data, readOnly: true}
    - {name: cache, mountPath: /cache}
    resources:
      limits: {cpu: 1500m, memory: 128Mi}
      requests: {cpu: 0.5, memory: 64Mi}
    securityContext:
      runAsUser: 33
      runAsGroup: 34
      runAsNonRoot: true
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {add: [NET_ADMIN], drop: [ALL]}
    livenessProbe:
      exec: {command: [test, -e, /data/ready]}
      initialDelaySeconds: 3
      periodSeconds: 5
      failureThreshold: 2
    stdin: true
    tty: true
status: {}
"#;

#[test]
fn a_pod_is_what_it_says() {
    let pod = parse(WHOLE).unwrap();
    assert_eq!((pod.name.as_str(), pod.hostname.as_str(), pod.grace_seconds), ("shop", "front", 7));
    assert_eq!((pod.restart, pod.shares_processes), (Restart::OnFailure(0), true));
    assert_eq!(pod.labels["tier"], "front");
    assert_eq!(pod.annotations["note"], "kept");
    let empty = |medium, limit| Source::EmptyDir(EmptyDir { medium, limit });
    assert_eq!(pod.volumes[0].source, empty(Medium::Disk, None));
    assert_eq!(pod.volumes[1].source, empty(Medium::Memory, Some(64 << 20)));
    let conf = HostPath { path: "/etc/shop".into(), expected: Expected::DirectoryOrCreate };
    assert_eq!(pod.volumes[2].source, Source::HostPath(conf));
    assert_eq!(pod.init[0].command, ["sh", "-c", "echo ready > /data/ready"]);
    assert_eq!(
        (pod.init[0].security.user, pod.init[0].security.groups.as_slice()),
        (Some(1000), &[2000, 3000][..])
    );
    let web = &pod.containers[0];
    assert_eq!(
        (web.args.as_slice(), web.pull),
        (&["--port".to_owned(), "$(PORT)".to_owned()][..], Some(Pull::Never))
    );
    assert_eq!(web.env[1].value, EnvSource::PodName);
    assert_eq!(web.env[2].value, EnvSource::Label("tier".into()));
    assert_eq!((web.ports[0].container, web.ports[0].host), (8080, Some(80)));
    assert_eq!((web.ports[1].host, web.ports[1].protocol), (None, Protocol::Udp));
    assert!(web.mounts[0].read_only && !web.mounts[1].read_only);
    assert_eq!((web.resources.cpu_limit, web.resources.cpu_request), (Some(1500), Some(500)));
    assert_eq!(web.resources.memory_limit, Some(128 << 20));
    assert_eq!((web.security.user, web.security.group, web.security.not_root), (Some(33), Some(34), true));
    assert!(web.read_only && !web.escalation && !web.privileged && web.stdin && web.tty);
    let probe = web.liveness.as_ref().unwrap();
    assert_eq!(
        (probe.delay, probe.period, probe.timeout, probe.failures),
        (Duration::from_secs(3), Duration::from_secs(5), Duration::from_secs(1), 2)
    );
}

#[test]
fn probes_run_commands_connect_or_ask() {
    let exec = "exec: {command: [test, -e, /data/ready]}";
    let check = |probe: &str| {
        parse(&WHOLE.replace(exec, probe)).map(|pod| pod.containers[0].liveness.clone().unwrap().check)
    };
    assert_eq!(check("tcpSocket: {port: 80}"), Ok(Check::Tcp(80)));
    let http = Check::Http { port: 8080, path: "/health".into() };
    assert_eq!(check("httpGet: {port: 8080, path: /health, scheme: HTTP}"), Ok(http));
    for (probe, words) in [
        ("httpGet: {port: 80, scheme: HTTPS}", "httpGet.scheme is not supported"),
        ("httpGet: {port: 80, httpHeaders: [{name: a, value: b}]}", "httpGet.httpHeaders is not supported"),
        ("tcpSocket: {port: http}", "tcpSocket.port: a number from 1"),
        ("tcpSocket: {port: 80}\n      httpGet: {port: 80}", "one of exec, tcpSocket and httpGet"),
    ] {
        let error = check(probe).unwrap_err().to_string();
        assert!(error.contains(words), "{probe}: {error}");
    }
}

#[test]
fn what_it_leaves_out_is_kubernetes_default() {
    let pod =
        parse("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: b, image: c}]}}")
            .unwrap();
    assert_eq!((pod.restart, pod.shares_processes, pod.grace_seconds), (Restart::Always, false, 30));
    assert_eq!(pod.hostname, "a");
    let one = &pod.containers[0];
    assert!(one.escalation && !one.privileged && !one.read_only && !one.stdin && one.pull.is_none());
    assert_eq!(one.resources, Resources::default());
}

/// The document with one line put in after `after`.
fn with(after: &str, line: &str) -> String {
    assert!(WHOLE.contains(after), "{after}");
    WHOLE.replacen(after, &format!("{after}\n{line}"), 1)
}

/// Fails unless it is no pod, for this reason.
#[track_caller]
fn refuses(document: &str, words: &str) {
    let error = parse(document).unwrap_err().to_string();
    assert!(error.contains(words), "{words}: {error}");
}

#[test]
fn names_and_settings_of_the_kernel_are_the_pods() {
    let pod = |after: &str, line: &str| parse(&with(after, line));
    let aliases = "  hostAliases: [{ip: 192.0.2.7, hostnames: [db, db.example]}, {ip: \"2001:db8::1\", hostnames: [six]}]";
    let hosts = pod("  hostname: front", aliases).unwrap().resolver.hosts;
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["db:192.0.2.7", "db.example:192.0.2.7", "six:2001:db8::1"]);
    let dns = "  dnsConfig: {nameservers: [192.0.2.53], searches: [a.example],
      options: [{name: ndots, value: \"2\"}, {name: edns0}]}";
    let resolver = pod("  hostname: front", dns).unwrap().resolver;
    assert_eq!(resolver.lines(&[]), ["192.0.2.53", "search a.example", "options ndots:2 edns0"]);
    let sysctls = "    sysctls: [{name: net.core.somaxconn, value: \"99\"}]";
    assert_eq!(pod("    runAsUser: 1000", sysctls).unwrap().sysctls["net.core.somaxconn"], "99");
    for (after, line, words) in [
        ("  hostname: front", "  hostAliases: [{ip: there, hostnames: [db]}]", "'there' is no IP address"),
        ("  hostname: front", "  hostAliases: [{ip: 192.0.2.7, hostnames: [\"a b\"]}]", "no name of a host"),
        (
            "  hostname: front",
            "  dnsConfig: {nameserver: [192.0.2.53]}",
            "dnsConfig.nameserver is not supported",
        ),
        ("    runAsUser: 1000", "    sysctls: [{name: \"../x\", value: \"1\"}]", "no name of a setting"),
    ] {
        refuses(&with(after, line), words);
    }
}

#[test]
fn every_field_that_is_not_done_is_named_with_its_path() {
    let web = "    image: example/web:1";
    for (after, line, words) in [
        ("  hostname: front", "  nodeSelector: {disk: ssd}", "spec.nodeSelector is not supported"),
        ("  hostname: front", "  subdomain: x", "spec.subdomain is not supported"),
        ("  hostname: front", "  hostPID: true", "spec.hostPID is not supported"),
        ("  hostname: front", "  dnsPolicy: ClusterFirst", "spec.dnsPolicy is not supported"),
        (
            web,
            "    lifecycle: {preStop: {exec: {command: [x]}}}",
            "spec.containers[0].lifecycle is not supported",
        ),
        (
            web,
            "    readinessProbe: {exec: {command: [x]}}",
            "spec.containers[0].readinessProbe is not supported",
        ),
        (web, "    envFrom: [{configMapRef: {name: x}}]", "spec.containers[0].envFrom is not supported"),
        (web, "    imagePulPolicy: Always", "spec.containers[0].imagePulPolicy is not supported"),
        (
            "    - {name: PORT, value: \"8080\"}",
            "    - {name: X, valueFrom: {secretKeyRef: {name: a, key: b}}}",
            "spec.containers[0].env[1].valueFrom.secretKeyRef is not supported",
        ),
        (
            "    - {name: PORT, value: \"8080\"}",
            "    - {name: X, valueFrom: {fieldRef: {fieldPath: status.podIP}}}",
            "fieldPath is not supported: 'status.podIP' is none of",
        ),
        (
            "    emptyDir: {}",
            "  - {name: etc, hostPath: {path: /etc, type: Socket}}",
            "spec.volumes[1].hostPath.type is not supported: 'Socket' is not one of",
        ),
        (
            "    emptyDir: {}",
            "  - {name: conf, configMap: {name: x}}",
            "spec.volumes[1].configMap is not supported",
        ),
        (
            "      runAsNonRoot: true",
            "      procMount: Unmasked",
            "spec.containers[0].securityContext.procMount",
        ),
        ("    runAsUser: 1000", "    fsGroup: 1", "spec.securityContext.fsGroup is not supported"),
        (
            "    - {name: cache, mountPath: /cache}",
            "    - {name: cache, mountPath: /c, subPath: x}",
            "spec.containers[0].volumeMounts[2].subPath is not supported",
        ),
        (
            "      failureThreshold: 2",
            "      grpc: {port: 1}",
            "spec.containers[0].livenessProbe.grpc is not supported",
        ),
    ] {
        refuses(&with(after, line), words);
    }
    let network = parse(&WHOLE.replace("hostNetwork: false", "hostNetwork: true")).unwrap_err().to_string();
    assert!(network.contains("spec.hostNetwork is not supported: a pod has a machine"), "{network}");
    let storage =
        parse(&WHOLE.replace("cpu: 1500m,", "cpu: 1500m, ephemeral-storage: 1Gi,")).unwrap_err().to_string();
    assert!(
        storage.contains("spec.containers[0].resources.limits.ephemeral-storage is not supported"),
        "{storage}"
    );
}

#[test]
fn what_makes_no_sense_is_said_with_its_path() {
    for (from, to, words) in [
        ("name: shop", "name: Shop", "metadata.name: a name of small letters"),
        ("kind: Pod", "kind: Deployment", "it is a Deployment (v1), and only a Pod (v1)"),
        ("cpu: 1500m", "cpu: lots", "spec.containers[0].resources.limits.cpu: 'lots' is no number"),
        ("memory: 128Mi", "memory: 128", "limits.memory: too little"),
        ("containerPort: 8080", "containerPort: 0", "ports[0].containerPort: a number from 1 to 65535"),
        ("value: \"8080\"", "value: 8080", "env[0].value: text is wanted: put it in quotes"),
        ("mountPath: /cache", "mountPath: cache", "volumeMounts[1].mountPath: the absolute path"),
        ("name: cache, mountPath", "name: cash, mountPath", "the pod has no volume called cash"),
        ("path: /etc/shop", "path: etc/shop", "volumes[2].hostPath.path: the absolute path"),
        (
            "    emptyDir: {}",
            "    emptyDir: {}\n    hostPath: {path: /x}",
            "one of an emptyDir, a hostPath and",
        ),
        ("    emptyDir: {}", "", "There are emptyDir, hostPath and persistentVolumeClaim"),
        ("    emptyDir: {}", "    persistentVolumeClaim: {}", "persistentVolumeClaim.claimName is missing"),
        (
            "    emptyDir: {}",
            "    persistentVolumeClaim: {claimName: ../x}",
            "claimName: a volume's name has",
        ),
        ("name: prepare", "name: web", "there are two containers called web"),
        ("medium: Memory,", "", "sizeLimit without medium: Memory"),
        (
            "restartPolicy: OnFailure",
            "restartPolicy: Sometimes",
            "'Sometimes' is not one of Always, OnFailure, Never",
        ),
        ("    image: example/web:1", "", "spec.containers[0].image is missing"),
        ("exec: {command: [test, -e, /data/ready]}", "", "livenessProbe: how to find out? one of"),
    ] {
        assert!(WHOLE.contains(from), "{from}");
        refuses(&WHOLE.replacen(from, to, 1), words);
    }
    assert!(matches!(parse("a: 1\n---\nb: 2\n"), Err(PodError::Documents(2))));
    assert!(matches!(parse(""), Err(PodError::Documents(0))));
    assert!(matches!(parse("a: [\n"), Err(PodError::Yaml(_))));
}
