//! A Pod (`v1`) of Kubernetes as `podman kube play` reads it: the fields that mean something to containers on one machine,
//! and an error for every other.

mod container;
mod names;
mod volume;

pub use container::{Check, Container, EnvSource, EnvVar, Mount, Port, Probe, Pull, Resources};
pub use volume::{Claim, EmptyDir, Expected, HostPath, Medium, Source, Volume};

use super::fields::{DocumentError, Field, Fields};
use super::yaml::{self, YamlError};
use crate::runtime::details::parse_sysctl;
use crate::runtime::resolver::Resolver;
use crate::runtime::restart::Restart;
use std::collections::BTreeMap;

/// The most containers of a pod, init containers included.
pub const MOST_CONTAINERS: usize = 64;
/// The longest time to end, in seconds: a day.
const LONGEST_GRACE: i64 = 86_400;

/// Why a file is no pod.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// It is no YAML.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// It is not one document.
    #[error("it holds {0} documents: one Pod is wanted")]
    Documents(usize),
    /// It is another kind of document.
    #[error("it is a {kind} ({version}), and only a Pod (v1) can be run")]
    Kind {
        /// Its kind.
        kind: String,
        /// Its apiVersion.
        version: String,
    },
    /// Something in it.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// A pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// Its name, the beginning of its containers' names.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The host name of all its containers.
    pub hostname: String,
    /// Containers that run first, one after the other.
    pub init: Vec<Container>,
    /// Containers that run side by side.
    pub containers: Vec<Container>,
    /// What they share files by.
    pub volumes: Vec<Volume>,
    /// Whether a container is started again after its end.
    pub restart: Restart,
    /// How its containers find others by their names.
    pub resolver: Resolver,
    /// Settings of its kernel.
    pub sysctls: BTreeMap<String, String>,
    /// Whether its containers see each other's processes.
    pub shares_processes: bool,
    /// Seconds a container has to end before it is killed.
    pub grace_seconds: u32,
}

/// What a pod's `securityContext` says for all containers that do not say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// The user.
    pub user: Option<u32>,
    /// The group.
    pub group: Option<u32>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Whether root is refused.
    pub not_root: bool,
}

/// Reads a pod.
pub fn parse(text: &str) -> Result<Pod, PodError> {
    let mut documents = yaml::documents(text)?;
    let (Some(document), true) = (documents.pop(), documents.is_empty()) else {
        return Err(PodError::Documents(documents.len() + usize::from(!documents.is_empty())));
    };
    let mut fields = Fields::document(document)?;
    let version = fields.text("apiVersion")?.unwrap_or_default();
    let kind = fields.need("kind")?.text()?;
    if (kind.as_str(), version.as_str()) != ("Pod", "v1") {
        return Err(PodError::Kind { kind, version });
    }
    let pod = pod(&mut fields)?;
    fields.refuse("status", "it is a cluster's")?;
    fields.end()?;
    Ok(pod)
}

fn pod(fields: &mut Fields) -> Result<Pod, DocumentError> {
    let mut metadata = fields.map("metadata")?;
    let name = name_of(metadata.need("name")?)?;
    let labels = texts(metadata.map("labels")?)?;
    let annotations = texts(metadata.map("annotations")?)?;
    // When a cluster or podman has written it down; nothing follows from it.
    metadata.take("creationTimestamp");
    metadata.end()?;

    let mut spec = fields.need("spec")?.fields()?;
    let hostname = match spec.take("hostname") {
        Some(field) => name_of(field)?,
        None => name.clone(),
    };
    if hostname.len() > 63 {
        return Err(spec.wrong(
            "the pod's name is too long for a host name: give it one of at most 63 letters (hostname)",
        ));
    }
    let restart = match spec.take("restartPolicy") {
        Some(field) => field.one_of(&[
            ("Always", Restart::Always),
            ("OnFailure", Restart::OnFailure(0)),
            ("Never", Restart::No),
        ])?,
        None => Restart::Always,
    };
    for (name, reason) in [
        ("hostNetwork", "a pod has a machine, and so a network, of its own: publish ports (hostPort)"),
        ("hostPID", "a pod runs in a machine of its own, which has no processes of the host"),
        ("hostIPC", "a pod runs in a machine of its own, which shares no memory with the host"),
    ] {
        if let Some(field) = spec.take(name)
            && field.clone().truth()?
        {
            return Err(field.unsupported(reason));
        }
    }
    // No token of a cluster is ever mounted, and there are no services whose variables could be set.
    for name in ["automountServiceAccountToken", "enableServiceLinks"] {
        if let Some(field) = spec.take(name)
            && field.clone().truth()?
        {
            return Err(field.unsupported("there is no cluster: false is the only answer"));
        }
    }
    let resolver = names::resolver(&mut spec)?;
    let mut security_fields = spec.map("securityContext")?;
    let sysctls = sysctls(&mut security_fields)?;
    let security = security(security_fields)?;
    let volumes: Vec<Volume> =
        spec.list("volumes")?.into_iter().map(volume::volume).collect::<Result<_, _>>()?;
    unique("volume", volumes.iter().map(|volume| volume.name.as_str()), &spec)?;
    let mut read = |list: &str| -> Result<Vec<Container>, DocumentError> {
        spec.list(list)?.into_iter().map(|field| container::container(field, &security, &volumes)).collect()
    };
    let (init, containers) = (read("initContainers")?, read("containers")?);
    if let Some(probe) = init.iter().find(|one| one.liveness.is_some() || one.startup.is_some()) {
        return Err(spec.wrong(format!(
            "the init container {} has a probe: it is waited for until it ends",
            probe.name
        )));
    }
    if containers.is_empty() {
        return Err(DocumentError::Missing("spec.containers".to_owned()));
    }
    if init.len() + containers.len() > MOST_CONTAINERS {
        return Err(spec.wrong(format!("more than {MOST_CONTAINERS} containers")));
    }
    let all = || init.iter().chain(&containers);
    unique("container", all().map(|container| container.name.as_str()), &spec)?;
    let pod = Pod {
        name,
        labels,
        annotations,
        hostname,
        restart,
        resolver,
        sysctls,
        shares_processes: spec.truth("shareProcessNamespace")?.unwrap_or(false),
        grace_seconds: spec.number("terminationGracePeriodSeconds", 0, LONGEST_GRACE)?.unwrap_or(30) as u32,
        init,
        containers,
        volumes,
    };
    spec.end()?;
    Ok(pod)
}

fn sysctls(security: &mut Fields) -> Result<BTreeMap<String, String>, DocumentError> {
    let each = |field: Field| {
        let mut setting = field.clone().fields()?;
        let (name, value) = (setting.need("name")?.text()?, setting.need("value")?.text()?);
        setting.end()?;
        parse_sysctl(&format!("{name}={value}")).map_err(|error| field.wrong(error))
    };
    security.list("sysctls")?.into_iter().map(each).collect()
}

fn security(mut fields: Fields) -> Result<Security, DocumentError> {
    let id = |fields: &mut Fields, name| {
        fields.number(name, 0, u32::MAX.into()).map(|number| number.map(|number| number as u32))
    };
    let security = Security {
        user: id(&mut fields, "runAsUser")?,
        group: id(&mut fields, "runAsGroup")?,
        groups: fields
            .list("supplementalGroups")?
            .into_iter()
            .map(|field| field.number(0, u32::MAX.into()).map(|group| group as u32))
            .collect::<Result<_, _>>()?,
        not_root: fields.truth("runAsNonRoot")?.unwrap_or(false),
    };
    container::seccomp(&mut fields)?;
    fields.end()?;
    Ok(security)
}

/// A name as Kubernetes has it for pods and containers (a DNS subdomain).
fn name_of(field: Field) -> Result<String, DocumentError> {
    let name = field.clone().text()?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = name.bytes().all(|byte| fits(byte) || matches!(byte, b'-' | b'.'));
    let ends = name.bytes().next().is_some_and(fits) && name.bytes().last().is_some_and(fits);
    if name.len() > 253 || !inner || !ends {
        return Err(field.wrong("a name of small letters, digits, '-' and '.' is wanted"));
    }
    Ok(name)
}

fn texts(fields: Fields) -> Result<BTreeMap<String, String>, DocumentError> {
    fields.rest().map(|(name, field)| Ok((name, field.text()?))).collect()
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>, spec: &Fields) -> Result<(), DocumentError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(spec.wrong(format!("there are two {what}s called {name}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
