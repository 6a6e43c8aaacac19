//! What an image says about how it is to be run: the `config` object of the OCI image configuration (image-spec,
//! config.md), which Docker's is but for names of media types.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Deserializer};

/// How to run an image. Everything is as written in the image; empty where the image says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `name`, `uid`, `name:group`, `uid:gid`…; empty for root.
    pub user: String,
    /// `NAME=value` entries in order.
    pub env: Vec<String>,
    /// Words put in front of the command.
    pub entrypoint: Vec<String>,
    /// The command when the user gives none.
    pub cmd: Vec<String>,
    /// Where the process starts; empty for `/`.
    pub working_dir: String,
    /// The signal that asks it to stop, by name or number; SIGTERM where there is none.
    pub stop_signal: Option<String>,
    /// Directories that are meant to hold data of their own.
    pub volumes: Vec<String>,
    /// `port`, `port/tcp` or `port/udp`.
    pub exposed_ports: Vec<String>,
    /// Free-form labels.
    pub labels: BTreeMap<String, String>,
    /// How it is told whether its container is well.
    pub health: Option<HealthCheck>,
}

/// Docker's `HEALTHCHECK` (docker-image-spec, `config.Healthcheck`). Times are in nanoseconds, and 0 like everything that the
/// image leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthCheck {
    /// `NONE`, `CMD` and the words of a command, or `CMD-SHELL` and a line for a shell.
    #[serde(default, deserialize_with = "or_nothing")]
    pub test: Vec<String>,
    /// From the end of one check to the next.
    #[serde(default, deserialize_with = "or_nothing")]
    pub interval: i64,
    /// How long a check may take.
    #[serde(default, deserialize_with = "or_nothing")]
    pub timeout: i64,
    /// How long after its start failures do not count.
    #[serde(default, deserialize_with = "or_nothing")]
    pub start_period: i64,
    /// From the end of one check to the next meanwhile.
    #[serde(default, deserialize_with = "or_nothing")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, deserialize_with = "or_nothing")]
    pub retries: u32,
}

/// What is `null` is left out.
fn or_nothing<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(value: D) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

impl ImageConfig {
    /// What the configuration `json` says, which has been understood as `parsed`.
    pub(crate) fn of(parsed: &ImageConfiguration, json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Docker {
            config: Option<Further>,
        }
        #[derive(Deserialize)]
        struct Further {
            #[serde(rename = "Healthcheck")]
            health: Option<HealthCheck>,
        }
        // The OCI's specification, and so its library, does not know it.
        let docker: Docker = serde_json::from_slice(json)?;
        Ok(Self { health: docker.config.and_then(|config| config.health), ..Self::from(parsed) })
    }
}

impl From<&ImageConfiguration> for ImageConfig {
    fn from(configuration: &ImageConfiguration) -> Self {
        let Some(config) = configuration.config() else { return Self::default() };
        let words = |field: &Option<Vec<String>>| field.clone().unwrap_or_default();
        let sorted = |field: &Option<Vec<String>>| {
            let mut words = field.clone().unwrap_or_default();
            words.sort();
            words
        };
        Self {
            user: config.user().clone().unwrap_or_default(),
            env: words(config.env()),
            entrypoint: words(config.entrypoint()),
            cmd: words(config.cmd()),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone().filter(|signal| !signal.is_empty()),
            volumes: sorted(config.volumes()),
            exposed_ports: sorted(config.exposed_ports()),
            labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
            health: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> ImageConfig {
        let parsed = ImageConfiguration::from_reader(json.as_bytes()).unwrap();
        ImageConfig::of(&parsed, json.as_bytes()).unwrap()
    }

    #[test]
    fn takes_what_docker_writes() {
        let config = parsed(
            r#"{"architecture":"amd64","os":"linux","docker_version":"24","container_config":{"Hostname":"x"},
                "rootfs":{"type":"layers","diff_ids":[]},
                "config":{"Hostname":"","User":"redis:999","Env":["PATH=/bin","A=b=c"],"Entrypoint":["/e.sh"],
                "Cmd":["redis-server"],"WorkingDir":"/data","StopSignal":"SIGINT","ArgsEscaped":true,"OnBuild":null,
                "Volumes":{"/data":{}},"ExposedPorts":{"6379/tcp":{},"53/udp":{}},"Labels":{"a":"b"},
                "Healthcheck":{"Test":["CMD","x"],"Interval":5000000000,"StartPeriod":null,"Retries":2}}}"#,
        );
        let health = HealthCheck {
            test: vec!["CMD".into(), "x".into()],
            interval: 5_000_000_000,
            retries: 2,
            ..HealthCheck::default()
        };
        assert_eq!(config.health, Some(health));
        assert_eq!(config.user, "redis:999");
        assert_eq!(config.env, ["PATH=/bin", "A=b=c"]);
        assert_eq!(
            (config.entrypoint, config.cmd),
            (vec!["/e.sh".to_owned()], vec!["redis-server".to_owned()])
        );
        assert_eq!(
            (config.volumes, config.exposed_ports),
            (vec!["/data".into()], vec!["53/udp".into(), "6379/tcp".into()])
        );
        assert_eq!((config.working_dir.as_str(), config.stop_signal.as_deref()), ("/data", Some("SIGINT")));
        assert_eq!(config.labels["a"], "b");
    }

    #[test]
    fn an_image_may_say_nothing() {
        let rootfs = r#""architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}"#;
        assert_eq!(parsed(&format!("{{{rootfs}}}")), ImageConfig::default());
        let nulls = r#""config":{"Env":null,"Entrypoint":null,"Cmd":null,"Volumes":null,"Labels":null,"StopSignal":""}"#;
        assert_eq!(parsed(&format!("{{{rootfs},{nulls}}}")), ImageConfig::default());
    }
}
