//! `config.toml` in `$XDG_CONFIG_HOME/ferry` or `~/.config/ferry`: defaults for options that are not given.

use super::keys::DetachKeys;
use super::values::{LogOption, Overlay, check_log_files, parse_log_size, parse_memory, parse_overlay};
use crate::runtime::logs::Capacity;
use crate::runtime::shape::Shape;
use crate::sandbox::UserRange;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the file may say; a key that is not here is an error, so that a misspelt one is noticed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cpus: Option<u8>,
    memory: Option<String>,
    overlay: Option<String>,
    log_size: Option<String>,
    log_files: Option<u32>,
    detach_keys: Option<String>,
    uid_range: Option<String>,
    #[serde(default)]
    registries: BTreeMap<String, ferry_images::registry::Settings>,
}

/// The defaults in force.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Number of vCPUs.
    pub cpus: Option<u8>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Where what containers write goes.
    pub overlay: Option<Overlay>,
    /// Bytes of one file of a detached container's log.
    pub log_size: Option<u64>,
    /// Number of those files.
    pub log_files: Option<u32>,
    /// The keys that leave a container running.
    pub detach_keys: Option<DetachKeys>,
    /// The users of root's VMs; of no concern to others.
    pub users: Option<UserRange>,
    /// What is settled about registries, by host and port.
    pub registries: BTreeMap<String, ferry_images::registry::Settings>,
}

impl Settings {
    /// Where the file is, whether there is one or not.
    pub fn path() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(config.join("ferry/config.toml"))
    }

    /// Reads the file; without one there are no settings.
    pub fn load() -> Result<Self, String> {
        let Some(path) = Self::path() else { return Ok(Self::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| {
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        let of = |key: &str, error: String| format!("{key}: {error}");
        let cpus = written.cpus.map(|cpus| super::values::parse_cpus(&cpus.to_string()));
        Ok(Self {
            cpus: cpus.transpose().map_err(|error| of("cpus", error))?,
            memory_mib: written
                .memory
                .as_deref()
                .map(parse_memory)
                .transpose()
                .map_err(|error| of("memory", error))?,
            overlay: written
                .overlay
                .as_deref()
                .map(parse_overlay)
                .transpose()
                .map_err(|error| of("overlay", error))?,
            log_size: written
                .log_size
                .as_deref()
                .map(parse_log_size)
                .transpose()
                .map_err(|error| of("log_size", error))?,
            log_files: written
                .log_files
                .map(check_log_files)
                .transpose()
                .map_err(|error| of("log_files", error))?,
            detach_keys: written
                .detach_keys
                .as_deref()
                .map(DetachKeys::parse)
                .transpose()
                .map_err(|error| of("detach_keys", error))?,
            users: written
                .uid_range
                .as_deref()
                .map(UserRange::parse)
                .transpose()
                .map_err(|error| of("uid_range", error))?,
            registries: check_registries(written.registries)?,
        })
    }

    /// How much of a detached container's output is kept, as these options change it.
    pub fn log_capacity(&self, options: &[LogOption]) -> Capacity {
        let mut capacity = Capacity::default();
        capacity.bytes = self.log_size.unwrap_or(capacity.bytes);
        capacity.files = self.log_files.unwrap_or(capacity.files);
        for option in options {
            match option {
                LogOption::Size(bytes) => capacity.bytes = *bytes,
                LogOption::Files(files) => capacity.files = *files,
            }
        }
        capacity
    }

    /// The keys that detach, where an option may say others.
    pub fn detach_keys(&self, option: Option<&DetachKeys>) -> DetachKeys {
        option.or(self.detach_keys.as_ref()).cloned().unwrap_or_default()
    }

    /// The machine that they make the default.
    pub fn shape(&self) -> Shape {
        let mut shape = Shape::default();
        shape.vcpus = self.cpus.unwrap_or(shape.vcpus);
        shape.memory_mib = self.memory_mib.unwrap_or(shape.memory_mib);
        if let Some(Overlay::Disk(Some(bytes))) = self.overlay {
            shape.scratch_bytes = bytes;
        }
        // The file may be everybody's; who is not root has no use for this.
        // SAFETY: takes nothing.
        shape.users = self.users.filter(|_| unsafe { libc::geteuid() } == 0);
        shape
    }
}

fn check_registries(
    registries: BTreeMap<String, ferry_images::registry::Settings>,
) -> Result<BTreeMap<String, ferry_images::registry::Settings>, String> {
    for (name, settings) in &registries {
        settings.check().map_err(|error| format!("registries.\"{name}\": {error}"))?;
    }
    Ok(registries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_sets_defaults() {
        let settings = Settings::parse("cpus = 2\nmemory = \"1g\"\noverlay = \"disk=20g\"\n").unwrap();
        let shape = settings.shape();
        assert_eq!((shape.vcpus, shape.memory_mib, shape.scratch_bytes), (2, 1024, 20 << 30));
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        assert_eq!(Settings::default().shape(), Shape::default());
    }

    #[test]
    fn logs_are_bounded_as_the_file_and_then_the_options_say() {
        let settings = Settings::parse("log_size = \"1m\"\nlog_files = 5\n").unwrap();
        assert_eq!(settings.log_capacity(&[]), Capacity { bytes: 1 << 20, files: 5 });
        let options = [LogOption::Files(2), LogOption::Size(8192)];
        assert_eq!(settings.log_capacity(&options), Capacity { bytes: 8192, files: 2 });
        assert_eq!(Settings::default().log_capacity(&[]), Capacity { bytes: 10 << 20, files: 3 });
        assert!(Settings::parse("log_files = 0").unwrap_err().starts_with("log_files: "));
        assert!(Settings::parse("log_size = \"1\"").unwrap_err().starts_with("log_size: "));
    }

    #[test]
    fn keys_that_detach_are_the_options_the_files_or_dockers() {
        let settings = Settings::parse("detach_keys = \"ctrl-e,q\"\n").unwrap();
        let keys = |text| DetachKeys::parse(text).unwrap();
        assert_eq!(settings.detach_keys(None), keys("ctrl-e,q"));
        assert_eq!(settings.detach_keys(Some(&keys("a"))), keys("a"));
        assert_eq!(Settings::default().detach_keys(None), keys("ctrl-p,ctrl-q"));
        assert!(Settings::parse("detach_keys = \"ctrl-\"").unwrap_err().starts_with("detach_keys: "));
    }

    #[test]
    fn registries_have_mirrors_and_may_be_insecure() {
        let text = "[registries.\"docker.io\"]\nmirrors = [\"m.example:5000\"]\n[registries.\"m.example:5000\"]\ninsecure = true\n";
        let registries = Settings::parse(text).unwrap().registries;
        assert_eq!(registries["docker.io"].mirrors, ["m.example:5000"]);
        assert!(registries["m.example:5000"].insecure && !registries["docker.io"].insecure);
        for mirror in ["http://m.example", "m.example:port", "", "mirror", "m.example/A"] {
            let text = format!("[registries.\"docker.io\"]\nmirrors = [\"{mirror}\"]\n");
            assert!(Settings::parse(&text).unwrap_err().contains("is not HOST[:PORT][/PREFIX]"), "{mirror}");
        }
        let misspelt = Settings::parse("[registries.\"docker.io\"]\nmirror = []\n").unwrap_err();
        assert!(misspelt.starts_with("line 2: unknown field"), "{misspelt}");
    }

    #[test]
    fn faults_name_the_line_or_the_key() {
        assert!(
            Settings::parse("cpus = 2\nmemori = \"1g\"\n").unwrap_err().starts_with("line 2: unknown field")
        );
        assert!(
            Settings::parse("memory = \"lots\"").unwrap_err().starts_with("memory: 'lots' is not a size")
        );
        assert!(Settings::parse("cpus = 0").unwrap_err().starts_with("cpus: "));
        assert!(Settings::parse("uid_range = \"0-5\"").unwrap_err().starts_with("uid_range: "));
        assert!(Settings::parse("overlay = \"nfs\"").unwrap_err().starts_with("overlay: "));
    }
}
