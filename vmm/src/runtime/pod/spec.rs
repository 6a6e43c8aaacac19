//! What the guest is told of a pod: the sandbox, the container that holds its namespaces, and its containers.
//!
//! The holder stands in for Kubernetes' pause container: it is created and never started, and the others join its host
//! name, its shared memory and, if the pod says so, its processes. They all outlive any one container that way.

use super::document::{Container, EmptyDir, EnvSource, Medium, Pod, Security, Source};
use super::host_path::HostPaths;
use crate::agent::session::ContainerSpec;
use crate::runtime::command::Entrypoint;
use crate::runtime::details::{Details, SHM_BYTES};
use crate::runtime::limits::Limits;
use crate::runtime::oci::{self, Options, SpecError, Writable, guest_path, memory, scratch_disk};
use crate::runtime::volume::{self, Kept, Volume};
use ferry_images::ImageConfig;
use ferry_init::api::agent::{CreateContainerRequest, CreateSandboxRequest};
use ferry_init::api::guest::CopyFileRequest;
use ferry_init::api::oci::{
    Linux, LinuxDeviceCgroup, LinuxMemory, LinuxNamespace, LinuxResources, Mount, Process, Root, Spec,
};

/// What a volume that anybody may write to has for a mode.
const VOLUME_MODE: u32 = 0o777;
/// A directory's type among the bits of its mode.
const DIRECTORY: u32 = 0o040_000;

/// Why a container of a pod cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Its image and options do not go together.
    #[error("container {name}: {error}")]
    Spec {
        /// The container.
        name: String,
        /// Why.
        error: SpecError,
    },
    /// It would run as root.
    #[error("container {0} is not to run as root (runAsNonRoot), and {1}: say which user (runAsUser)")]
    Root(String, &'static str),
}

/// What is prepared before there are containers.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// The sandbox itself.
    pub request: CreateSandboxRequest,
    /// Directories to be made in it.
    pub directories: Vec<CopyFileRequest>,
    /// The container that holds its namespaces.
    pub holder: CreateContainerRequest,
}

/// The sandbox of the pod `id`, which sees this of the host and whose name servers are these.
pub fn sandbox(pod: &Pod, id: &str, host_paths: &HostPaths, dns: Vec<String>) -> Sandbox {
    let mut storages =
        vec![memory(guest_path(id, "shm"), vec!["mode=1777".to_owned(), format!("size={SHM_BYTES}")])];
    let mut directories = Vec::new();
    for volume in &pod.volumes {
        match volume.source {
            Source::EmptyDir(EmptyDir { medium: Medium::Memory, limit }) => {
                let mut options = vec![format!("mode={VOLUME_MODE:04o}")];
                options.extend(limit.map(|bytes| format!("size={bytes}")));
                storages.push(memory(volume_path(id, &volume.name, Medium::Memory), options));
            }
            Source::EmptyDir(EmptyDir { medium: Medium::Disk, .. }) => directories.push(CopyFileRequest {
                path: volume_path(id, &volume.name, Medium::Disk),
                file_mode: DIRECTORY | VOLUME_MODE,
                ..Default::default()
            }),
            Source::HostPath(_) | Source::Claim(_) => {}
        }
    }
    storages.extend(host_paths.values().map(|shared| shared.storage.clone()));
    if !directories.is_empty() {
        storages.push(scratch_disk(guest_path(id, "scratch")));
    }
    Sandbox {
        request: CreateSandboxRequest {
            hostname: pod.hostname.clone(),
            sandbox_id: id.to_owned(),
            dns,
            storages,
            ..Default::default()
        },
        directories,
        holder: holder(pod, id),
    }
}

/// Where an empty directory is in the guest.
fn volume_path(id: &str, name: &str, medium: Medium) -> String {
    match medium {
        Medium::Memory => guest_path(id, &format!("memory/{name}")),
        Medium::Disk => guest_path(id, &format!("scratch/volumes/{name}")),
    }
}

fn holder(pod: &Pod, id: &str) -> CreateContainerRequest {
    let root = guest_path(id, "rootfs");
    let kinds = ["mount", "uts", "ipc"].into_iter().chain(pod.shares_processes.then_some("pid"));
    let spec = Spec {
        // Whatever its name, it is never run.
        process: Some(Process { args: vec!["pause".to_owned()], cwd: "/".to_owned(), ..Default::default() }),
        root: Some(Root { path: root.clone(), readonly: false }),
        hostname: pod.hostname.clone(),
        linux: Some(Linux {
            resources: Some(LinuxResources::default()),
            cgroups_path: format!("/{id}"),
            namespaces: kinds.map(|kind| namespace(kind, "")).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    CreateContainerRequest {
        container_id: id.to_owned(),
        exec_id: id.to_owned(),
        storages: vec![memory(root, vec!["mode=0755".to_owned(), "size=64k".to_owned()])],
        oci: Some(spec),
        ..Default::default()
    }
}

fn namespace(kind: &str, path: &str) -> LinuxNamespace {
    LinuxNamespace { r#type: kind.to_owned(), path: path.to_owned() }
}

/// A container of the pod as the guest is told of it.
pub struct Member {
    /// The container.
    pub spec: ContainerSpec,
    /// What it was made of.
    pub options: Options,
    /// Its limits.
    pub limits: Limits,
}

/// What all containers of a pod have in common.
#[derive(Clone, Copy)]
pub struct Common<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container that holds its namespaces.
    pub pod_id: &'a str,
    /// What it sees of the host.
    pub host_paths: &'a HostPaths,
    /// The most bytes of a core, where a container has a root to write it to.
    pub core_limit: Option<u64>,
}

/// The container `id` of a pod. Its image's layers are the disk of this serial number.
pub fn member(
    common: &Common<'_>,
    container: &Container,
    id: &str,
    image: &ImageConfig,
    layers_serial: &str,
) -> Result<Member, MemberError> {
    let Common { pod, pod_id, host_paths, core_limit } = *common;
    let mut options = options(pod, pod_id, container, image)?;
    options.core_limit = core_limit.filter(|_| options.writable != Writable::Nothing);
    let storages = oci::storages_on(id, layers_serial, &format!("/{id}"), options.writable);
    let root = guest_path(id, "rootfs");
    let mut oci = oci::spec_for(id, &root, image, &options)
        .map_err(|error| MemberError::Spec { name: container.name.clone(), error })?;
    if let Some(process) = &mut oci.process {
        process.no_new_privileges = !container.escalation;
        let user = process.user.get_or_insert_default();
        user.additional_gids.extend(&container.security.groups);
    }
    let shared = format!("container:{pod_id}");
    let limits = limits(container);
    if let Some(linux) = &mut oci.linux {
        for namespace in &mut linux.namespaces {
            if matches!(namespace.r#type.as_str(), "uts" | "ipc")
                || (namespace.r#type == "pid" && pod.shares_processes)
            {
                namespace.path.clone_from(&shared);
            }
        }
        linux.resources = Some(resources(container, &limits));
        linux.sysctl.extend(pod.sysctls.clone());
    }
    // Every alias has its address, so nobody asks for the host's.
    let hosts = pod.resolver.hosts_file(&mut oci, guest_path(id, "hosts"), None).ok().flatten();
    if pod.shares_processes {
        // Process 1 is the holder's.
        oci.annotations.insert(oci::PID1_ANNOTATION.to_owned(), "false".to_owned());
    }
    mount(pod, pod_id, host_paths, container, &mut oci.mounts);
    // Which the record of the container shows.
    options.volumes = of_host(pod, host_paths, container);
    let files = hosts.into_iter().collect();
    let spec = ContainerSpec { id: id.to_owned(), storages, oci, files, ..Default::default() };
    Ok(Member { spec, options, limits })
}

fn limits(container: &Container) -> Limits {
    let resources = &container.resources;
    Limits {
        cpu_millis: resources.cpu_limit,
        // As Kubernetes has it: 1024 for a processor, within what the kernel takes.
        cpu_shares: resources.cpu_request.map(|millis| (millis * 1024 / 1000).clamp(2, 262_144)),
        memory: resources.memory_limit,
        pids: None,
    }
}

fn resources(container: &Container, limits: &Limits) -> LinuxResources {
    let mut resources = limits.resources();
    if let Some(bytes) = container.resources.memory_request {
        let memory = resources.memory.get_or_insert_with(LinuxMemory::default);
        memory.reservation = i64::try_from(bytes).unwrap_or(i64::MAX);
    }
    if !container.privileged {
        let rule = |allow, kind: &str, access: &str| LinuxDeviceCgroup {
            allow,
            r#type: kind.to_owned(),
            major: -1,
            minor: -1,
            access: access.to_owned(),
        };
        // Docker's: nodes may be made, and only those that every container has may be used. Otherwise one container
        // could reach another's disk.
        resources.devices = vec![rule(false, "a", "rwm"), rule(true, "c", "m"), rule(true, "b", "m")];
    }
    resources
}

fn mount(pod: &Pod, pod_id: &str, host_paths: &HostPaths, container: &Container, mounts: &mut Vec<Mount>) {
    for mount in &mut *mounts {
        if mount.destination == "/dev/shm" {
            *mount = Mount {
                destination: "/dev/shm".to_owned(),
                source: guest_path(pod_id, "shm"),
                r#type: "bind".to_owned(),
                options: ["rbind", "rprivate", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec(),
            };
        }
    }
    for mount in &container.mounts {
        let Some(volume) = pod.volumes.iter().find(|volume| volume.name == mount.volume) else { continue };
        let path = match &volume.source {
            Source::EmptyDir(directory) => Some(volume_path(pod_id, &volume.name, directory.medium)),
            Source::HostPath(_) | Source::Claim(_) => {
                host_paths.get(&volume.name).map(|shared| shared.seen.clone())
            }
        };
        let is_read = matches!(&volume.source, Source::Claim(claim) if claim.read_only);
        mounts.extend(path.map(|path| volume::mount(path, &mount.path, mount.read_only || is_read)));
    }
}

/// What a container sees of the host.
fn of_host(pod: &Pod, host_paths: &HostPaths, container: &Container) -> Vec<Volume> {
    let seen = |mount: &super::document::Mount| {
        let volume = pod.volumes.iter().find(|volume| volume.name == mount.volume)?;
        let (source, read_only, kept) = match &volume.source {
            Source::EmptyDir(_) => return None,
            Source::HostPath(host) => (host.path.clone(), mount.read_only, None),
            Source::Claim(claim) => {
                let kept = Kept { name: claim.name.clone(), anonymous: false, copies: false };
                let source = host_paths.get(&volume.name)?.share.source.clone();
                (source, mount.read_only || claim.read_only, Some(kept))
            }
        };
        Some(Volume { source, target: mount.path.clone(), read_only, kept })
    };
    container.mounts.iter().filter_map(seen).collect()
}

fn options(
    pod: &Pod,
    pod_id: &str,
    container: &Container,
    image: &ImageConfig,
) -> Result<Options, MemberError> {
    let mut variables: Vec<(String, String)> = image
        .env
        .iter()
        .filter_map(|variable| variable.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let of_image = variables.len();
    for variable in &container.env {
        let value = match &variable.value {
            EnvSource::Text(text) => expand(text, &variables),
            EnvSource::PodName => pod.name.clone(),
            EnvSource::PodId => pod_id.to_owned(),
            EnvSource::Label(name) => pod.labels.get(name).cloned().unwrap_or_default(),
            EnvSource::Annotation(name) => pod.annotations.get(name).cloned().unwrap_or_default(),
        };
        variables.push((variable.name.clone(), value));
    }
    let words = |words: &[String]| words.iter().map(|word| expand(word, &variables)).collect::<Vec<_>>();
    let args = words(&container.args);
    // A pod's command replaces the image's entrypoint, and takes the image's command away with it.
    let (entrypoint, command) = match container.command.is_empty() {
        true => (Entrypoint::Image, args),
        false => (Entrypoint::Cleared, [words(&container.command), args].concat()),
    };
    Ok(Options {
        command,
        entrypoint,
        environment: variables[of_image..].iter().map(|(name, value)| format!("{name}={value}")).collect(),
        working_dir: container.working_dir.clone(),
        user: user(container, image)?,
        hostname: Some(pod.hostname.clone()),
        terminal: container.tty,
        window: None,
        writable: if container.read_only { Writable::Nothing } else { Writable::Disk },
        privileged: container.privileged,
        cap_add: container.cap_add.clone(),
        cap_drop: container.cap_drop.clone(),
        vsock: false,
        volumes: Vec::new(),
        core_limit: None,
        details: Details { labels: pod.labels.clone(), ..Details::default() },
        ..Options::default()
    })
}

/// Puts the values of variables in for `$(NAME)`; `$$` is a dollar sign, and names that are nobody's stay as they are.
fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let named = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        let value = named.and_then(|(name, after)| {
            // The last one of a name is the one that the process gets.
            let found = variables.iter().rev().find(|(other, _)| other == name)?;
            Some((&found.1, after))
        });
        match value {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

fn user(container: &Container, image: &ImageConfig) -> Result<Option<String>, MemberError> {
    let Security { user, group, not_root, .. } = container.security;
    let of_image = image.user.split(':').next().unwrap_or_default();
    if not_root {
        let why = match (user, of_image) {
            (Some(0), _) => Some("runAsUser is 0"),
            (Some(_), _) => None,
            (None, "" | "0" | "root") => Some("the image runs as root"),
            // Who that is, only the image's passwd says.
            (None, name) if name.parse::<u32>().is_err() => Some("the image runs as a user by name"),
            (None, _) => None,
        };
        if let Some(why) = why {
            return Err(MemberError::Root(container.name.clone(), why));
        }
    }
    Ok(match (user, group) {
        (None, None) => None,
        (Some(user), None) => Some(user.to_string()),
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (None, Some(group)) => Some(format!("{}:{group}", if of_image.is_empty() { "0" } else { of_image })),
    })
}

#[cfg(test)]
mod tests {
    use super::super::document::parse;
    use super::*;

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {tier: front}}
spec:
  securityContext: {supplementalGroups: [7]}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: cache, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: conf, hostPath: {path: /}}
  containers:
  - name: web
    image: img
    command: [serve, \"$(HOST):$(PORT)\", $$(PORT), $(NOBODY), \"a$\"]
    args: [-x]
    env:
    - {name: PORT, value: \"80\"}
    - {name: HOST, value: \"h-$(PORT)-$(LATER)-$(IMG)\"}
    - {name: LATER, value: x}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['tier']\"}}}
    volumeMounts:
    - {name: data, mountPath: /data, readOnly: true}
    - {name: cache, mountPath: /cache}
    - {name: conf, mountPath: /conf, readOnly: true}
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 1, memory: 32Mi}}
    securityContext: {allowPrivilegeEscalation: false, runAsGroup: 5}
";

    fn image() -> ImageConfig {
        ImageConfig {
            user: "www:x".into(),
            env: vec!["IMG=yes".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["cmd".into()],
            ..ImageConfig::default()
        }
    }

    fn host_paths() -> HostPaths {
        [("conf".to_owned(), volume::shared("pod0", 0, "/".as_ref(), true).unwrap())].into()
    }

    fn common<'a>(pod: &'a Pod, host_paths: &'a HostPaths) -> Common<'a> {
        Common { pod, pod_id: "pod0", host_paths, core_limit: Some(1 << 20) }
    }

    fn made(text: &str) -> (Pod, Member) {
        let pod = parse(text).unwrap();
        let member =
            member(&common(&pod, &host_paths()), &pod.containers[0], "c0", &image(), "layers-0").unwrap();
        (pod, member)
    }

    #[test]
    fn a_container_is_made_of_its_image_and_the_pod() {
        let (_, member) = made(POD);
        let oci = &member.spec.oci;
        let process = oci.process.as_ref().unwrap();
        assert_eq!(process.args, ["serve", "h-80-$(LATER)-yes:80", "$(PORT)", "$(NOBODY)", "a$", "-x"]);
        assert!(
            process.env.contains(&"IMG=yes".to_owned()) && process.env.contains(&"TIER=front".to_owned())
        );
        assert!(process.no_new_privileges);
        let user = process.user.as_ref().unwrap();
        assert_eq!((user.username.as_str(), user.additional_gids.as_slice()), ("www:5", &[7][..]));
        let linux = oci.linux.as_ref().unwrap();
        let path = |kind: &str| {
            linux
                .namespaces
                .iter()
                .find(|namespace| namespace.r#type == kind)
                .map(|found| found.path.as_str())
        };
        assert_eq!(
            (path("uts"), path("ipc"), path("pid")),
            (Some("container:pod0"), Some("container:pod0"), Some(""))
        );
        let resources = linux.resources.as_ref().unwrap();
        assert_eq!(resources.memory.as_ref().map(|m| (m.limit, m.reservation)), Some((64 << 20, 32 << 20)));
        assert_eq!(resources.cpu.as_ref().map(|cpu| (cpu.quota, cpu.shares)), Some((50_000, 1024)));
        assert!(!resources.devices[0].allow);
        let mount = |at: &str| oci.mounts.iter().find(|mount| mount.destination == at).unwrap();
        assert!(mount("/data").source.ends_with("pod0/scratch/volumes/data"));
        assert!(mount("/data").options.contains(&"ro".to_owned()));
        assert!(mount("/cache").source.ends_with("pod0/memory/cache"));
        assert_eq!(mount("/conf").source, "/run/kata-containers/pod0/volumes/0");
        assert!(mount("/conf").options.contains(&"ro".to_owned()));
        assert_eq!(member.options.volumes.len(), 1, "{:?}", member.options.volumes);
        assert!(mount("/dev/shm").source.ends_with("pod0/shm"));
        assert_eq!(member.spec.storages[0].source, "serial=layers-0");
        assert!(
            member.spec.storages[2].options.iter().any(|option| option.ends_with("/c0/scratch/c0/upper"))
        );
    }

    #[test]
    fn arguments_alone_follow_the_images_entrypoint() {
        let (_, member) = made(&POD.replace("    command: ", "    # command: "));
        assert_eq!(member.spec.oci.process.unwrap().args, ["/entry", "-x"]);
    }

    #[test]
    fn cores_are_left_where_there_is_a_root_to_write_to() {
        let limits = |text: &str| {
            let (_, Member { spec, options, .. }) = made(text);
            let rlimits = spec.oci.process.unwrap().rlimits;
            let core = rlimits.iter().find(|limit| limit.r#type == "RLIMIT_CORE").map(|limit| limit.hard);
            assert_eq!(spec.oci.linux.unwrap().sysctl.len(), usize::from(core.is_some()));
            (options.core_limit, core)
        };
        assert_eq!(limits(POD), (Some(1 << 20), Some(1 << 20)));
        let read_only =
            POD.replace("securityContext: {allow", "securityContext: {readOnlyRootFilesystem: true, allow");
        assert_eq!(limits(&read_only), (None, None));
    }

    #[test]
    fn processes_are_shared_where_the_pod_says_so() {
        let text = POD.replace("spec:\n", "spec:\n  shareProcessNamespace: true\n");
        let (pod, member) = made(&text);
        let linux = member.spec.oci.linux.unwrap();
        assert!(linux.namespaces.iter().any(|one| one.r#type == "pid" && one.path == "container:pod0"));
        let holder = sandbox(&pod, "pod0", &host_paths(), vec![]).holder.oci.unwrap().linux.unwrap();
        assert!(holder.namespaces.iter().any(|one| one.r#type == "pid" && one.path.is_empty()));
    }

    #[test]
    fn volumes_are_made_before_there_are_containers() {
        let (pod, _) = made(POD);
        let sandbox = sandbox(&pod, "pod0", &host_paths(), vec!["192.0.2.1".into()]);
        assert_eq!(sandbox.directories.len(), 1);
        assert_eq!(sandbox.directories[0].file_mode, 0o040_777);
        let storages = &sandbox.request.storages;
        let cache = storages.iter().find(|storage| storage.mount_point.ends_with("memory/cache")).unwrap();
        assert!(cache.options.contains(&"size=1048576".to_owned()));
        assert!(storages.iter().any(|storage| storage.source == "serial=scratch"));
        assert!(storages.iter().any(|storage| storage.driver == "virtio-fs" && storage.source == "volume0"));
        assert_eq!(sandbox.request.dns, ["192.0.2.1"]);
    }

    #[test]
    fn nobody_is_root_who_must_not_be() {
        let pod = |context: &str, user: &str| {
            let text = POD.replace("allowPrivilegeEscalation: false, runAsGroup: 5", context);
            let pod = parse(&text).unwrap();
            let image = ImageConfig { user: user.into(), ..image() };
            member(&common(&pod, &host_paths()), &pod.containers[0], "c", &image, "l")
                .map(|made| made.options.user)
        };
        assert_eq!(pod("runAsNonRoot: true, runAsUser: 5", "").unwrap().as_deref(), Some("5"));
        assert_eq!(pod("runAsNonRoot: true", "1000:1000").unwrap(), None);
        for (context, user) in [
            ("runAsNonRoot: true", ""),
            ("runAsNonRoot: true", "www"),
            ("runAsNonRoot: true, runAsUser: 0", "5"),
        ] {
            assert!(matches!(pod(context, user), Err(MemberError::Root(..))), "{context} {user}");
        }
    }
}
