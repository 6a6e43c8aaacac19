//! What a Pod says of one container.

use super::super::fields::{DocumentError, Field, Fields};
use super::super::quantity;
use super::{Security, Volume, name_of};
use crate::runtime::network::Protocol;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Its image.
    pub image: String,
    /// When the image's registry is asked; none: as the command line says.
    pub pull: Option<Pull>,
    /// What replaces the image's entrypoint and command.
    pub command: Vec<String>,
    /// What replaces the image's command.
    pub args: Vec<String>,
    /// Variables.
    pub env: Vec<EnvVar>,
    /// The directory it starts in.
    pub working_dir: Option<String>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Volumes, by where they are.
    pub mounts: Vec<Mount>,
    /// Limits and shares.
    pub resources: Resources,
    /// The user and groups, its own or the pod's.
    pub security: Security,
    /// Every capability, and nothing hidden.
    pub privileged: bool,
    /// Whether its programs may gain privileges.
    pub escalation: bool,
    /// Whether its root is read-only.
    pub read_only: bool,
    /// Capabilities besides the default ones.
    pub cap_add: Vec<String>,
    /// Default capabilities that it does not have.
    pub cap_drop: Vec<String>,
    /// What tells that it is alive.
    pub liveness: Option<Probe>,
    /// What tells that it has started; the other waits for it.
    pub startup: Option<Probe>,
    /// Whether its stdin is kept open for who attaches.
    pub stdin: bool,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Every time.
    Always,
    /// When it is not here.
    Missing,
    /// Never.
    Never,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvSource,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvSource {
    /// This text, in which `$(NAME)` stands for variables before it.
    Text(String),
    /// The pod's name.
    PodName,
    /// The pod's id.
    PodId,
    /// A label of the pod.
    Label(String),
    /// An annotation of the pod.
    Annotation(String),
}

/// A port of a container, which is one of the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The container's.
    pub container: u16,
    /// The host's, if it leads there.
    pub host: Option<u16>,
    /// The host's address; none: all of them.
    pub address: Option<Ipv4Addr>,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The volume's name.
    pub volume: String,
    /// Where it is.
    pub path: String,
    /// Whether it cannot be written there.
    pub read_only: bool,
}

/// `resources`: limits, and what is asked for at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a processor at most.
    pub cpu_limit: Option<u64>,
    /// Thousandths of a processor where others want it too.
    pub cpu_request: Option<u64>,
    /// Bytes of memory at most.
    pub memory_limit: Option<u64>,
    /// Bytes of memory that are not reclaimed first.
    pub memory_request: Option<u64>,
}

/// What tells whether a container is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// How to find out.
    pub check: Check,
    /// Before the first check.
    pub delay: Duration,
    /// Between two checks.
    pub period: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How many failures in a row mean that it is not.
    pub failures: u32,
    /// Seconds the container has to end then, where it is not the pod's.
    pub grace_seconds: Option<u32>,
}

/// How a probe finds out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A command in the container that ends with 0.
    Exec(Vec<String>),
    /// A connection to this port.
    Tcp(u16),
    /// An answer from 200 to 399 to a request.
    Http {
        /// The port.
        port: u16,
        /// What is asked for.
        path: String,
    },
}

/// Longest of a probe's times, in seconds.
const LONGEST_TIME: i64 = 86_400;
/// Least memory that a process can live in.
const LEAST_MEMORY: u64 = 6 << 20;

/// A quantity that is a whole number.
pub(super) fn amount(field: Field) -> Result<u64, DocumentError> {
    let text = field.clone().word()?;
    quantity::whole(&text).ok_or_else(|| field.wrong(format!("'{text}' is no quantity: 512Mi, 2Gi")))
}

/// Reads a container.
pub(super) fn container(
    field: Field,
    pod: &Security,
    volumes: &[Volume],
) -> Result<Container, DocumentError> {
    let mut fields = field.fields()?;
    let name = name_of(fields.need("name")?)?;
    let image = fields.need("image")?.text()?;
    let words = |fields: &mut Fields, name| -> Result<Vec<String>, DocumentError> {
        fields.list(name)?.into_iter().map(Field::text).collect()
    };
    let command = words(&mut fields, "command")?;
    let args = words(&mut fields, "args")?;
    let env = fields.list("env")?.into_iter().map(variable).collect::<Result<_, _>>()?;
    let working_dir = fields.text("workingDir")?.filter(|directory| !directory.is_empty());
    let ports = fields.list("ports")?.into_iter().map(port).collect::<Result<_, _>>()?;
    let mounts = fields
        .list("volumeMounts")?
        .into_iter()
        .map(|field| mount(field, volumes))
        .collect::<Result<Vec<_>, _>>()?;
    let pull = fields.take("imagePullPolicy").map(|field| {
        field.one_of(&[("Always", Pull::Always), ("IfNotPresent", Pull::Missing), ("Never", Pull::Never)])
    });
    let resources = resources(fields.map("resources")?)?;
    let liveness = fields.take("livenessProbe").map(probe).transpose()?;
    let startup = fields.take("startupProbe").map(probe).transpose()?;
    let (stdin, tty) = (fields.truth("stdin")?.unwrap_or(false), fields.truth("tty")?.unwrap_or(false));

    let mut context = fields.map("securityContext")?;
    let id = |context: &mut Fields, name| {
        context.number(name, 0, u32::MAX.into()).map(|number| number.map(|number| number as u32))
    };
    let security = Security {
        user: id(&mut context, "runAsUser")?.or(pod.user),
        group: id(&mut context, "runAsGroup")?.or(pod.group),
        groups: pod.groups.clone(),
        not_root: context.truth("runAsNonRoot")?.unwrap_or(pod.not_root),
    };
    let mut capabilities = context.map("capabilities")?;
    let cap_add = words(&mut capabilities, "add")?;
    let cap_drop = words(&mut capabilities, "drop")?;
    capabilities.end()?;
    let privileged = context.truth("privileged")?.unwrap_or(false);
    let escalation = context.truth("allowPrivilegeEscalation")?.unwrap_or(true);
    if privileged && !escalation {
        return Err(context.wrong("privileged and allowPrivilegeEscalation: false exclude each other"));
    }
    let read_only = context.truth("readOnlyRootFilesystem")?.unwrap_or(false);
    seccomp(&mut context)?;
    context.end()?;
    fields.end()?;
    Ok(Container {
        name,
        image,
        pull: pull.transpose()?,
        command,
        args,
        env,
        working_dir,
        ports,
        mounts,
        resources,
        security,
        privileged,
        escalation,
        read_only,
        cap_add,
        cap_drop,
        liveness,
        startup,
        stdin,
        tty,
    })
}

/// The runtime's own profile, which is none here, and none are what a profile may be.
pub(super) fn seccomp(context: &mut Fields) -> Result<(), DocumentError> {
    let mut profile = context.map("seccompProfile")?;
    if let Some(kind) = profile.take("type") {
        kind.one_of(&[("RuntimeDefault", ()), ("Unconfined", ())])?;
    }
    profile.end()
}

fn variable(field: Field) -> Result<EnvVar, DocumentError> {
    let mut fields = field.fields()?;
    let named = fields.need("name")?;
    let name = named.clone().text()?;
    if name.is_empty() || name.contains('=') {
        return Err(named.wrong("a variable's name is not empty and has no '='"));
    }
    let text = fields.text("value")?;
    let value = match (text, fields.take("valueFrom")) {
        (text, None) => EnvSource::Text(text.unwrap_or_default()),
        (Some(_), Some(source)) => return Err(source.wrong("there is a value already")),
        (None, Some(source)) => {
            let mut source = source.fields()?;
            let mut reference = source.need_or("fieldRef", "only fieldRef is supported")?.fields()?;
            if let Some(version) = reference.take("apiVersion") {
                version.one_of(&[("v1", ())])?;
            }
            let path = reference.need("fieldPath")?;
            reference.end()?;
            source.end()?;
            source_of(path)?
        }
    };
    fields.end()?;
    Ok(EnvVar { name, value })
}

fn source_of(field: Field) -> Result<EnvSource, DocumentError> {
    let path = field.clone().text()?;
    let inner = |name: &str| {
        let rest = path.strip_prefix("metadata.")?.strip_prefix(name)?;
        rest.strip_prefix("['")?.strip_suffix("']").map(str::to_owned)
    };
    match path.as_str() {
        "metadata.name" => Ok(EnvSource::PodName),
        "metadata.uid" => Ok(EnvSource::PodId),
        _ => inner("labels").map(EnvSource::Label).or_else(|| inner("annotations").map(EnvSource::Annotation)).ok_or_else(
            || {
                field.unsupported(&format!(
                    "'{path}' is none of metadata.name, metadata.uid, metadata.labels['…'], metadata.annotations['…']"
                ))
            },
        ),
    }
}

fn port(field: Field) -> Result<Port, DocumentError> {
    let mut fields = field.fields()?;
    // A name is for services, which there are none of; it is a word for people.
    fields.text("name")?;
    let container = fields.need("containerPort")?.number(1, 65_535)? as u16;
    let host = fields.number("hostPort", 1, 65_535)?.map(|port| port as u16);
    let address = match fields.take("hostIP") {
        Some(field) => {
            let text = field.clone().text()?;
            let address: Ipv4Addr = text.parse().map_err(|_| field.wrong("an IPv4 address is wanted"))?;
            Some(address).filter(|address| !address.is_unspecified())
        }
        None => None,
    };
    let protocol = match fields.take("protocol") {
        Some(field) => field.one_of(&[("TCP", Protocol::Tcp), ("UDP", Protocol::Udp)])?,
        None => Protocol::Tcp,
    };
    fields.end()?;
    Ok(Port { container, host, address, protocol })
}

fn mount(field: Field, volumes: &[Volume]) -> Result<Mount, DocumentError> {
    let mut fields = field.fields()?;
    let named = fields.need("name")?;
    let volume = named.clone().text()?;
    if !volumes.iter().any(|other| other.name == volume) {
        return Err(named.wrong(format!("the pod has no volume called {volume}")));
    }
    let at = fields.need("mountPath")?;
    let path = at.clone().text()?;
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.trim_matches('/').is_empty()
    {
        return Err(at.wrong("the absolute path of a directory below the root is wanted"));
    }
    let read_only = fields.truth("readOnly")?.unwrap_or(false);
    fields.end()?;
    Ok(Mount { volume, path, read_only })
}

fn resources(mut fields: Fields) -> Result<Resources, DocumentError> {
    let mut read = |name: &str| -> Result<(Option<u64>, Option<u64>), DocumentError> {
        let mut fields = fields.map(name)?;
        let cpu = fields.take("cpu").map(|field| {
            let text = field.clone().word()?;
            // The kernel takes a quota of 1 ms in 100 ms and no less.
            match quantity::thousandths(&text) {
                Some(millis @ 10..=1_000_000) => Ok(millis),
                Some(0) => Err(field.wrong("nothing can run without a processor")),
                Some(_) => Err(field.wrong("from 10m to 1000 is wanted")),
                None => Err(field.wrong(format!("'{text}' is no number of processors: 500m, 2"))),
            }
        });
        let memory = fields.take("memory").map(|field| match amount(field.clone())? {
            bytes if bytes < LEAST_MEMORY => Err(field.wrong("too little for any process: at least 6Mi")),
            bytes => Ok(bytes),
        });
        fields.end()?;
        Ok((cpu.transpose()?, memory.transpose()?))
    };
    let (cpu_limit, memory_limit) = read("limits")?;
    let (cpu_request, memory_request) = read("requests")?;
    fields.end()?;
    Ok(Resources { cpu_limit, cpu_request, memory_limit, memory_request })
}

fn probe(field: Field) -> Result<Probe, DocumentError> {
    let mut fields = field.clone().fields()?;
    let seconds = |fields: &mut Fields, name, least, default| -> Result<Duration, DocumentError> {
        let number = fields.number(name, least, LONGEST_TIME)?.unwrap_or(default);
        Ok(Duration::from_secs(number.unsigned_abs()))
    };
    let exec = fields.take("exec").map(|field| -> Result<Check, DocumentError> {
        let mut fields = field.fields()?;
        let command: Vec<String> =
            fields.need("command")?.list()?.into_iter().map(Field::text).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Check::Exec(command))
    });
    let tcp = fields.take("tcpSocket").map(|field| {
        let mut fields = field.fields()?;
        let port = fields.need("port")?.number(1, 65_535)? as u16;
        fields.end()?;
        Ok(Check::Tcp(port))
    });
    let http = fields.take("httpGet").map(|field| {
        let mut fields = field.fields()?;
        let port = fields.need("port")?.number(1, 65_535)? as u16;
        let path = fields.text("path")?.unwrap_or_default();
        if let Some(scheme) = fields.take("scheme") {
            scheme.one_of(&[("HTTP", ())])?;
        }
        fields.end()?;
        Ok(Check::Http { port, path })
    });
    let delay = seconds(&mut fields, "initialDelaySeconds", 0, 0)?;
    let period = seconds(&mut fields, "periodSeconds", 1, 10)?;
    let timeout = seconds(&mut fields, "timeoutSeconds", 1, 1)?;
    let failures = fields.number("failureThreshold", 1, 1_000_000)?.unwrap_or(3) as u32;
    let grace = fields.number("terminationGracePeriodSeconds", 1, LONGEST_TIME)?;
    // One success is enough for these probes, in Kubernetes too.
    fields.number("successThreshold", 1, 1)?;
    fields.end()?;
    let checks: Vec<Check> = [exec, tcp, http].into_iter().flatten().collect::<Result<_, _>>()?;
    let [check] = <[Check; 1]>::try_from(checks)
        .map_err(|_| field.wrong("how to find out? one of exec, tcpSocket and httpGet"))?;
    Ok(Probe { check, delay, period, timeout, failures, grace_seconds: grace.map(|seconds| seconds as u32) })
}
