//! What a recipe says of running its containers where no host tells PID 1: which services there are, in which order they
//! start, when they are started again and how their health is told. Durations are written `500ms`, `30s`, `2m` or `1h`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};

use super::Error;
use super::describe::Recipe;

/// An appliance: containers that one machine runs by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appliance {
    /// What they have in common.
    pub settings: Settings,
    /// The services, by name.
    pub services: BTreeMap<String, Service>,
}

/// The table `[appliance]`: what all services have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// The machine's host name; none: the recipe's name.
    pub hostname: Option<String>,
    /// The network, where no host sets it up.
    pub network: Option<Network>,
    /// What the machine does when its services have ended.
    pub at_end: AtEnd,
    /// The service whose end ends all of them, and whose exit status is the machine's.
    pub status_of: Option<String>,
}

/// A network card's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// The card's name in the guest.
    #[serde(default = "first_card")]
    pub device: String,
    /// Address and length of the prefix, `192.0.2.7/24`.
    pub address: String,
    /// The way out.
    pub gateway: Option<std::net::IpAddr>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<std::net::IpAddr>,
}

fn first_card() -> String {
    "eth0".to_owned()
}

/// What a machine does at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtEnd {
    /// It switches itself off.
    #[default]
    PowerOff,
    /// It starts anew.
    Reboot,
    /// It stands still.
    Halt,
}

/// The table `[service]` of a recipe, or `[services.NAME]` of an appliance's. What the latter leaves open is as in the
/// former, and what that leaves open is as the image has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Service {
    /// The recipe of its image.
    pub image: Option<String>,
    /// What replaces the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// What replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Variables besides the image's.
    pub env: BTreeMap<String, String>,
    /// What replaces the image's user.
    pub user: Option<String>,
    /// What replaces the image's working directory.
    pub workdir: Option<String>,
    /// Services that must be up before it starts: healthy, where their health is checked.
    pub after: Vec<String>,
    /// Services that must have ended with success before it starts.
    pub after_success_of: Vec<String>,
    /// When it is started again.
    pub restart: Option<Restart>,
    /// How its health is told.
    pub health: Option<Health>,
    /// Where what it writes outside of its volumes goes.
    pub writable: Option<Writable>,
    /// Directories that are kept over a reboot, besides the image's volumes.
    pub volumes: Vec<String>,
    /// Kernel parameters by dotted name, set before it starts. Those that no namespace has are the machine's.
    pub sysctl: BTreeMap<String, String>,
    /// The signal that asks it to end, instead of the image's.
    pub stop_signal: Option<String>,
    /// How long it has then.
    pub stop_timeout: Option<Time>,
}

/// When a service is started again: Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    No,
    /// When it has failed, at most this often in a row; 0: without a limit.
    OnFailure(u32),
    /// Whatever its end.
    Always,
}

/// Where what a service writes goes, its volumes excepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writable {
    /// To memory: each start finds the image as it was built.
    #[default]
    Memory,
    /// To the disk, where it is kept.
    Disk,
    /// Nowhere: the root is read-only.
    Nothing,
}

/// How a service's health is told: by one of `exec`, `tcp` and `http`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Health {
    /// A command in the container that ends with 0.
    pub exec: Vec<String>,
    /// A port that takes a connection.
    pub tcp: Option<u16>,
    /// A request that is answered with a status from 200 to 399.
    pub http: Option<Http>,
    /// From the end of one check to the next.
    pub interval: Option<Time>,
    /// How long a check may take.
    pub timeout: Option<Time>,
    /// How long after its start failures do not count.
    pub start_period: Option<Time>,
    /// Failures in a row that make it unhealthy.
    pub failures: Option<u32>,
    /// Successes in a row that make it healthy.
    pub successes: Option<u32>,
}

/// A request for a health check.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The path.
    #[serde(default = "root_path")]
    pub path: String,
    /// The host that is asked for.
    pub host: Option<String>,
}

fn root_path() -> String {
    "/".to_owned()
}

/// A length of time in whole milliseconds, at most 49 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub u32);

impl Time {
    fn parse(text: &str) -> Option<Self> {
        let unit = text.find(|c: char| !c.is_ascii_digit())?;
        let factor = match &text[unit..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        text[..unit].parse::<u32>().ok()?.checked_mul(factor).map(Self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("`{text}` is no length of time such as 500ms, 30s, 2m or 1h"))
        })
    }
}

impl<'de> Deserialize<'de> for Restart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let policy = match text.split_once(':') {
            None => match text.as_str() {
                "no" => Some(Self::No),
                "on-failure" => Some(Self::OnFailure(0)),
                "always" => Some(Self::Always),
                _ => None,
            },
            Some(("on-failure", limit)) => limit.parse().ok().map(Self::OnFailure),
            Some(_) => None,
        };
        policy.ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{text}` is no restart policy: no, on-failure, on-failure:N, always"
            ))
        })
    }
}

impl Service {
    /// This, and what it leaves open as in `below`.
    fn over(self, below: &Self) -> Self {
        let mut env = below.env.clone();
        env.extend(self.env);
        let mut sysctl = below.sysctl.clone();
        sysctl.extend(self.sysctl);
        let mut volumes = below.volumes.clone();
        volumes.extend(self.volumes);
        Self {
            image: self.image,
            entrypoint: self.entrypoint.or_else(|| below.entrypoint.clone()),
            command: self.command.or_else(|| below.command.clone()),
            env,
            user: self.user.or_else(|| below.user.clone()),
            workdir: self.workdir.or_else(|| below.workdir.clone()),
            after: self.after,
            after_success_of: self.after_success_of,
            restart: self.restart.or(below.restart),
            health: self.health.or_else(|| below.health.clone()),
            writable: self.writable.or(below.writable),
            volumes,
            sysctl,
            stop_signal: self.stop_signal.or_else(|| below.stop_signal.clone()),
            stop_timeout: self.stop_timeout.or(below.stop_timeout),
        }
    }
}

impl Health {
    /// What is wrong with it, if anything is.
    fn fault(&self) -> Option<&'static str> {
        let ways = [!self.exec.is_empty(), self.tcp.is_some(), self.http.is_some()];
        (ways.iter().filter(|way| **way).count() != 1)
            .then_some("a health check by one of `exec`, `tcp` and `http`")
    }
}

/// Puts an appliance together: the recipe `name`'s services, or its own image as the only one. `own` reads what another
/// recipe's `[service]` table says.
pub(super) fn appliance(
    name: &str,
    recipe: &Recipe,
    own: impl Fn(&str) -> Result<Service, Error>,
) -> Result<Appliance, Error> {
    let wrong = |value: &str, what| Error::Value { value: value.to_owned(), what };
    let mut services = BTreeMap::new();
    if recipe.services.is_empty() {
        let service = Service { image: Some(name.to_owned()), ..recipe.service.clone() };
        services.insert(name.to_owned(), service);
    }
    for (service_name, service) in &recipe.services {
        if !is_service_name(service_name) {
            return Err(wrong(service_name, "a service's name: letters, digits and `-`, 63 at most"));
        }
        let image = service.image.clone().unwrap_or_else(|| service_name.clone());
        let mut merged = service.clone().over(&own(&image)?);
        merged.image = Some(image);
        services.insert(service_name.clone(), merged);
    }
    let names: BTreeSet<&String> = services.keys().collect();
    for service in services.values() {
        let unknown = |other: &&String| !names.contains(*other);
        if let Some(other) = service.after.iter().chain(&service.after_success_of).find(unknown) {
            return Err(wrong(other, "a service of this appliance"));
        }
        if let Some(what) = service.health.as_ref().and_then(Health::fault) {
            return Err(wrong("health", what));
        }
    }
    if let Some(other) = recipe.appliance.status_of.as_ref().filter(|other| !names.contains(other)) {
        return Err(wrong(other, "a service of this appliance"));
    }
    let mut settings = recipe.appliance.clone();
    settings.hostname.get_or_insert_with(|| name.to_owned());
    Ok(Appliance { settings, services })
}

fn is_service_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Appliance, String> {
        let recipe: Recipe = toml::from_str(text).map_err(|error| error.to_string())?;
        let own = |image: &str| match image {
            "db" => Ok(toml::from_str(
                "restart = \"always\"\nenv = { A = \"1\", B = \"1\" }\nvolumes = [\"/data\"]",
            )
            .unwrap()),
            _ => Ok(Service::default()),
        };
        appliance("it", &recipe, own).map_err(|error| error.to_string())
    }

    #[test]
    fn a_service_is_as_its_image_has_it_unless_the_appliance_says_otherwise() {
        let read = read(
            r#"
            [appliance]
            at-end = "reboot"
            status-of = "app"
            [services.db]
            env = { B = "2" }
            health = { tcp = 6379, interval = "500ms", start-period = "2m" }
            [services.app]
            image = "python"
            after = ["db"]
            restart = "on-failure:3"
            "#,
        );
        let appliance = read.unwrap();
        assert_eq!(
            (appliance.settings.at_end, appliance.settings.hostname.as_deref()),
            (AtEnd::Reboot, Some("it"))
        );
        let db = &appliance.services["db"];
        assert_eq!((db.image.as_deref(), db.restart), (Some("db"), Some(Restart::Always)));
        assert_eq!(
            (db.env["A"].as_str(), db.env["B"].as_str(), &db.volumes[..]),
            ("1", "2", &["/data".to_owned()][..])
        );
        let health = db.health.as_ref().unwrap();
        assert_eq!((health.interval, health.start_period), (Some(Time(500)), Some(Time(120_000))));
        assert_eq!(appliance.services["app"].restart, Some(Restart::OnFailure(3)));
    }

    #[test]
    fn an_ordinary_recipe_is_an_appliance_of_one_service() {
        let appliance = read("[service]\nrestart = \"always\"").unwrap();
        assert_eq!(appliance.services["it"].image.as_deref(), Some("it"));
        assert_eq!(appliance.services["it"].restart, Some(Restart::Always));
    }

    #[test]
    fn says_what_is_wrong_with_a_service() {
        for (text, expected) in [
            ("[services.a]\nafter = [\"b\"]", "`b` is not a service of this appliance"),
            ("[services.a]\n[appliance]\nstatus-of = \"b\"", "`b` is not a service of this appliance"),
            ("[services.\"a/b\"]", "a service's name"),
            ("[services.a]\nhealth = { tcp = 1, exec = [\"x\"] }", "one of `exec`, `tcp` and `http`"),
            ("[services.a]\nhealth = {}", "one of `exec`, `tcp` and `http`"),
            ("[services.a]\nhealth = { tcp = 1, interval = \"5\" }", "no length of time"),
            ("[services.a]\nhealth = { tcp = 1, interval = \"99999h\" }", "no length of time"),
            ("[services.a]\nrestart = \"sometimes\"", "no restart policy"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
