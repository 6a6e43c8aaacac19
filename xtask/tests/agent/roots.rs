//! Roots of odd images: without what every Linux has, and with links in the place of everything that is mounted on.

use ferry_init::api::agent::Storage;
use ferry_init::api::guest::CopyFileRequest;
use ferry_init::api::oci::{LinuxDevice, Mount, Process, Spec, User};
use ferry_init::api::ttrpc::Code;
use ferry_vmm::agent::session::ContainerSpec;
use ferry_vmm::agent::{Client, OutputStream};

use crate::guest::*;

const BASE: &str = "/run/kata-containers";

fn bind(source: &str, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        source: source.into(),
        r#type: "bind".into(),
        options: vec!["rbind".into()],
    }
}

fn filesystem(kind: &str, destination: &str) -> Mount {
    Mount { destination: destination.into(), source: kind.into(), r#type: kind.into(), ..Default::default() }
}

/// A container whose root is this directory of the guest's, and has nothing but the programs of another container.
fn bare(donor: &str, root: &str, script: &str, change: impl FnOnce(&mut Spec)) -> ContainerSpec {
    let mut spec = container(&fresh("bare"), &["sh", "-c", script], |_| {});
    spec.storages.clear();
    spec.oci.root.as_mut().expect("a root").path = root.into();
    spec.oci.mounts = vec![bind(&format!("{BASE}/{donor}/rootfs/usr/bin"), "/usr/bin")];
    let linux = spec.oci.linux.as_mut().expect("a part about Linux");
    linux.masked_paths.clear();
    linux.readonly_paths.clear();
    change(&mut spec.oci);
    spec
}

/// The same on an empty file system in memory.
fn empty(donor: &str, script: &str, change: impl FnOnce(&mut Spec)) -> ContainerSpec {
    let root = format!("{BASE}/{}/rootfs", fresh("empty"));
    let mut spec = bare(donor, &root, script, change);
    spec.storages = vec![Storage {
        driver: "ephemeral".into(),
        source: "tmpfs".into(),
        fstype: "tmpfs".into(),
        mount_point: root,
        ..Default::default()
    }];
    spec
}

fn process(spec: &mut Spec) -> &mut Process {
    spec.process.as_mut().expect("a process")
}

/// What it prints.
#[track_caller]
fn prints(client: &Client, spec: &ContainerSpec) -> String {
    let id = running_as(client, spec);
    let mut text = read_all(client, OutputStream::Stdout, &id, &id);
    text.extend(read_all(client, OutputStream::Stderr, &id, &id));
    wait(client, &id, &id).expect("it ends");
    client.remove_container(&id, LONG).unwrap();
    String::from_utf8(text).expect("text")
}

/// The sentence with which it is refused, when it is made or when it is started.
#[track_caller]
fn refused(client: &Client, spec: &ContainerSpec) -> String {
    let result = create(client, spec).and_then(|()| {
        let result = client.start_container(&spec.id);
        client.remove_container(&spec.id, LONG).unwrap();
        result
    });
    assert_ne!(code(&result), Code::Ok);
    result.expect_err("it is refused").to_string()
}

#[test]
fn an_image_without_users_proc_or_devices_runs() {
    let mut guest = guest();
    let client = guest.client();
    let donor = running(&client, "donor", &["sleep", "1000"]);
    let script = "id -u; id -g; echo $HOME; ls -a / | grep -v '^[.]'; [ -e /proc/self ] || echo no proc; echo x > /dev/null && echo device";
    let text = prints(
        &client,
        &empty(&donor, script, |spec| {
            process(spec).user = Some(User { uid: 1234, gid: 56, ..Default::default() });
        }),
    );
    assert_eq!(text, "1234\n56\n/\ndev\nusr\nno proc\ndevice\n");
    // A name is looked up in a file that is not there.
    let named = empty(&donor, "true", |spec| {
        process(spec).user = Some(User { username: "www".into(), ..Default::default() });
    });
    assert!(refused(&client, &named).contains("www"), "{}", refused(&client, &named));
    // Numbers need none.
    let numbered = empty(&donor, "id -u; id -g", |spec| {
        process(spec).user = Some(User { username: "7:8".into(), ..Default::default() });
    });
    assert_eq!(prints(&client, &numbered), "7\n8\n");
    let terminal =
        empty(&donor, "[ -t 0 ] && [ -t 1 ] && echo terminal", |spec| process(spec).terminal = true);
    assert_eq!(prints(&client, &terminal), "terminal\r\n");
    // What is to be hidden or protected is not there; parameters of the kernel cannot be set.
    let hidden = empty(&donor, "echo fine", |spec| {
        let linux = spec.linux.as_mut().expect("a part about Linux");
        linux.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
        linux.readonly_paths = vec!["/proc/sys".into()];
    });
    assert_eq!(prints(&client, &hidden), "fine\n");
    let parameter = empty(&donor, "true", |spec| {
        spec.linux.as_mut().expect("a part about Linux").sysctl =
            [("kernel.msgmax".to_owned(), "1".to_owned())].into_iter().collect();
    });
    assert!(refused(&client, &parameter).contains("kernel.msgmax"));
    // Further processes, and a look at its files.
    let id = running_as(&client, &empty(&donor, "sleep 1000", |_| {}));
    assert_eq!(output(&client, &id, &["sh", "-c", "id -u; exit 3"]), (3, "0\n".to_owned()));
    assert_eq!(client.list_processes(&id).unwrap().processes.len(), 1);
    for id in [&id, &donor] {
        client.remove_container(id, LONG).unwrap();
    }
}

/// Links, by where they are in the root and where they lead, and what is mounted or made there.
fn traps() -> Vec<(Vec<(&'static str, &'static str)>, Mount)> {
    let out = "/run/outside";
    vec![
        (vec![("proc", "/run/outside/proc")], filesystem("proc", "/proc")),
        (vec![("proc", "../../../../../../run/outside/up")], filesystem("proc", "/proc")),
        (vec![("dev", "/run/outside/dev")], filesystem("tmpfs", "/dev")),
        (vec![("etc", "/run/outside/etc")], bind("", "/etc/hosts")),
        (
            vec![("etc/resolv.conf", "../../../../../../run/outside/resolv.conf")],
            bind("", "/etc/resolv.conf"),
        ),
        (
            vec![("a", "b"), ("b", "/c/.."), ("c", "../../../../run/outside")],
            filesystem("tmpfs", "/a/deep/er"),
        ),
        (vec![("self", "/proc/1/root/run/outside")], filesystem("tmpfs", "/self/x")),
        (vec![("self", "/proc/self/cwd/../../outside")], filesystem("tmpfs", "/self/x")),
        (vec![("round", "about"), ("about", "round")], filesystem("tmpfs", "/round/x")),
        (vec![], filesystem("tmpfs", "/../../../../run/outside/dots")),
        (vec![("usr", out)], filesystem("tmpfs", "/usr/share")),
    ]
}

#[test]
fn links_in_the_place_of_everything_lead_nowhere_outside() {
    let mut guest = guest();
    let client = guest.client();
    let donor = running(&client, "donor", &["sleep", "1000"]);
    let mut looking = privileged(&fresh("looker"), &["sleep", "1000"]);
    looking.oci.mounts.push(bind("/", "/guest"));
    let looker = running_as(&client, &looking);
    // All that there is of the guest's own but the roots themselves.
    let outside = || {
        let list = "cd /guest && find . -xdev | grep -v '^./run/kata-containers/' | sort; ls run/kata-containers | grep -v ^hostile";
        output(&client, &looker, &["sh", "-c", list]).1
    };
    for (links, target) in traps() {
        let directory = fresh("hostile");
        let root = format!("{BASE}/{directory}/rootfs");
        let copied = |path: &str, mode: u32, data: &[u8]| {
            let request = CopyFileRequest {
                path: format!("{root}/{path}"),
                file_mode: mode,
                file_size: data.len() as i64,
                data: data.to_vec(),
                ..Default::default()
            };
            client.copy_file(&request).expect("it is copied");
        };
        copied("bin", 0o040_755, b"");
        for (path, leads) in &links {
            copied(path, 0o120_777, leads.as_bytes());
        }
        let before = outside();
        let spec = bare(&donor, &root, "echo ran", |spec| {
            spec.mounts.push(target.clone());
            let linux = spec.linux.as_mut().expect("a part about Linux");
            linux.masked_paths = links.iter().map(|(path, _)| format!("/{path}/hidden")).collect();
            linux.readonly_paths = vec!["/../../run/kata-containers".into()];
            linux.devices.push(LinuxDevice {
                path: "/../../run/outside/node".into(),
                r#type: "c".into(),
                major: 1,
                minor: 3,
                ..Default::default()
            });
        });
        let words = match links.iter().any(|(path, _)| *path == "round") {
            true => refused(&client, &spec),
            false => prints(&client, &spec),
        };
        assert!(words == "ran\n" || words.contains("symbolic links"), "{links:?}: {words}");
        let mut after = outside();
        after = after.replace(&format!("{}\n", spec.id), "");
        assert_eq!(after, before, "{links:?} on {}", target.destination);
    }
    for id in [&looker, &donor] {
        client.remove_container(id, LONG).unwrap();
    }
}
