//! Containers whose process is an init system: what systemd expects of a container manager (its own page "Container
//! Interface"), given where podman would give it, by the name of the program.

use crate::agent::Signal;
use ferry_init::api::oci::{Mount, Spec};

/// Says to systemd, and to whoever asks it, what kind of container it is in.
const CONTAINER: &str = "container=";

/// Filesystems in memory that it expects to be empty at its start.
const EMPTY: [(&str, &str); 3] = [("/run", "mode=755"), ("/run/lock", "mode=1777"), ("/tmp", "mode=1777")];

/// The signal that asks systemd to halt, SIGRTMIN+3.
const HALT: i32 = 37;

/// Whether a command is an init system's.
pub fn is_init_system(args: &[String]) -> bool {
    let program = args.first().map(String::as_str).unwrap_or_default();
    matches!(program, "/sbin/init" | "/usr/sbin/init" | "/usr/local/sbin/init" | "systemd")
        || program.ends_with("/systemd")
}

/// How a command is asked to end where nobody says.
pub fn stop_signal(args: &[String]) -> Signal {
    Signal::from_number(HALT).filter(|_| is_init_system(args)).unwrap_or(Signal::TERM)
}

/// Gives a container what its init system expects.
pub fn prepare(spec: &mut Spec) {
    if let Some(process) = &mut spec.process
        && !process.env.iter().any(|variable| variable.starts_with(CONTAINER))
    {
        process.env.push(format!("{CONTAINER}ferry"));
    }
    // It makes cgroups for its services, below its own, which is the root of its cgroup namespace.
    let cgroups = spec.mounts.iter_mut().filter(|mount| mount.destination == "/sys/fs/cgroup");
    for mount in cgroups {
        mount.options.retain(|option| option != "ro");
        mount.options.push("rw".to_owned());
    }
    for (destination, mode) in EMPTY {
        spec.mounts.push(Mount {
            destination: destination.to_owned(),
            source: "tmpfs".to_owned(),
            r#type: "tmpfs".to_owned(),
            options: ["nosuid", "nodev", "strictatime", mode].map(str::to_owned).into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_init::api::oci::Process;

    fn words(command: &str) -> Vec<String> {
        command.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn init_systems_are_known_by_their_names() {
        for command in ["/sbin/init", "/usr/sbin/init 3", "/lib/systemd/systemd --unit=x", "systemd"] {
            assert_eq!(stop_signal(&words(command)).number(), 37, "{command}");
        }
        for command in ["init", "/usr/bin/tini -- sh", "sh -c systemd", "/bin/systemd-run x", ""] {
            assert_eq!(stop_signal(&words(command)), Signal::TERM, "{command}");
        }
    }

    #[test]
    fn it_gets_empty_directories_and_cgroups_of_its_own() {
        let mut spec = Spec {
            process: Some(Process { env: vec!["container=mine".into()], ..Default::default() }),
            mounts: vec![Mount {
                destination: "/sys/fs/cgroup".into(),
                options: vec!["ro".into(), "nosuid".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        prepare(&mut spec);
        assert_eq!(spec.mounts[0].options, ["nosuid", "rw"]);
        let empty: Vec<&str> = spec.mounts[1..].iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(empty, ["/run", "/run/lock", "/tmp"]);
        assert_eq!(spec.process.unwrap().env, ["container=mine"], "the user's word stands");
    }
}
