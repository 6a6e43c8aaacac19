//! What options and images become.

use super::*;

#[test]
fn only_containers_with_neighbours_have_queues_of_their_own() {
    let options = Options { command: vec!["id".into()], ..Options::default() };
    let kinds = |spec: &Spec| -> Vec<String> {
        let linux = spec.linux.as_ref().expect("it is Linux's");
        linux.namespaces.iter().map(|namespace| namespace.r#type.clone()).collect()
    };
    let alone = container_for(ID, &image(), &options).unwrap().oci;
    assert_eq!(kinds(&alone), ["mount", "uts", "pid", "cgroup"]);
    assert_eq!(kinds(&spec_for(ID, "/r", &image(), &options).unwrap()), NAMESPACES);
}

#[test]
fn shared_memory_is_as_large_as_is_said_of_it() {
    let shm = mounts(false).into_iter().find(|mount| mount.destination == "/dev/shm").unwrap();
    assert!(shm.options.contains(&format!("size={}", crate::runtime::details::SHM_BYTES)));
}

#[test]
fn a_further_process_is_like_the_first_unless_said_otherwise() {
    let made = Made {
        env: vec!["PATH=/bin".into(), "A=1".into()],
        user: "www:web".into(),
        working_dir: "/srv".into(),
        cap_drop: vec!["ALL".into()],
        ..Made::default()
    };
    let options = Options { command: vec!["id".into()], ..Options::default() };
    let process = exec_for(&made, &options).unwrap();
    assert_eq!((process.args, process.cwd.as_str()), (vec!["id".to_owned()], "/srv"));
    assert_eq!(process.user.unwrap().username, "www:web");
    assert!(process.env.contains(&"PATH=/bin".to_owned()) && process.env.contains(&"A=1".to_owned()));
    assert!(process.capabilities.unwrap().bounding.is_empty());
    let options = Options {
        environment: vec!["A=2".into()],
        user: Some("0".into()),
        working_dir: Some("/tmp".into()),
        privileged: true,
        ..options
    };
    let process = exec_for(&made, &options).unwrap();
    assert!(process.env.contains(&"A=2".to_owned()) && !process.env.contains(&"A=1".to_owned()));
    assert_eq!((process.cwd.as_str(), process.user.unwrap().username.as_str()), ("/tmp", ""));
    assert!(process.capabilities.unwrap().effective.contains(&"CAP_SYS_ADMIN".to_owned()));
}

const ID: &str = "0123456789abcdef";

fn image() -> ImageConfig {
    ImageConfig {
        user: "redis:999".into(),
        env: vec!["PATH=/bin".into(), "A=1".into()],
        entrypoint: vec!["/entry.sh".into()],
        cmd: vec!["serve".into()],
        working_dir: "/data".into(),
        ..Default::default()
    }
}

fn options() -> Options {
    Options::default()
}

#[test]
fn an_images_own_word_stands_without_options() {
    let container = container_for(ID, &image(), &options()).unwrap();
    let process = container.oci.process.unwrap();
    assert_eq!(process.args, ["/entry.sh", "serve"]);
    assert_eq!(process.env, ["PATH=/bin", "HOSTNAME=0123456789ab", "A=1"]);
    assert_eq!(process.cwd, "/data");
    assert_eq!(process.user.unwrap().username, "redis:999");
    assert_eq!(container.oci.hostname, "0123456789ab");
    assert!(!process.terminal && process.console_size.is_none());
    assert_eq!(
        container.oci.root.unwrap(),
        Root { path: format!("/run/kata-containers/{ID}/rootfs"), readonly: false }
    );
}

#[test]
fn options_replace_what_the_image_says() {
    let options = Options {
        command: vec!["id".into()],
        entrypoint: Entrypoint::Cleared,
        environment: vec!["A=2".into()],
        working_dir: Some("/tmp".into()),
        user: Some("0:5".into()),
        hostname: Some("box".into()),
        terminal: true,
        window: Some(Window { rows: 24, columns: 80 }),
        ..options()
    };
    let spec = container_for(ID, &image(), &options).unwrap().oci;
    let process = spec.process.unwrap();
    assert_eq!(process.args, ["id"]);
    assert_eq!(process.env, ["PATH=/bin", "HOSTNAME=box", "TERM=xterm", "A=2"]);
    assert_eq!((process.cwd.as_str(), spec.hostname.as_str()), ("/tmp", "box"));
    assert_eq!(process.user.unwrap().username, "0:5");
    assert!(process.terminal);
    assert_eq!(process.console_size.unwrap(), ConsoleSize { height: 24, width: 80 });
}

#[test]
fn root_holds_its_capabilities_and_others_have_them_as_a_bound() {
    for (user, holds) in
        [("", true), ("root", true), ("0:0", true), ("root:adm", true), ("redis", false), ("1000", false)]
    {
        let options = Options { user: Some(user.into()), ..options() };
        let process = container_for(ID, &image(), &options).unwrap().oci.process.unwrap();
        let sets = process.capabilities.unwrap();
        assert_eq!(sets.bounding.len(), 14);
        assert_eq!(sets.effective.is_empty(), !holds, "{user}");
        assert_eq!(sets.effective, sets.permitted);
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
    }
}

#[test]
fn the_root_is_the_last_storage() {
    for (writable, kinds, readonly) in [
        (Writable::Disk, ["erofs", "ext4", "overlay"], false),
        (Writable::Tmpfs, ["erofs", "tmpfs", "overlay"], false),
        (Writable::Nothing, ["erofs", "tmpfs", "overlay"], true),
    ] {
        let container = container_for(ID, &image(), &Options { writable, ..options() }).unwrap();
        assert_eq!(container.storages.iter().map(|s| s.fstype.as_str()).collect::<Vec<_>>(), kinds);
        let path = format!("/run/kata-containers/{ID}/rootfs");
        assert_eq!(container.oci.root.unwrap(), Root { path, readonly });
    }
}

#[test]
fn the_overlay_stands_on_the_storages_before_it() {
    let storages = storages("c", Writable::Disk);
    assert_eq!(storages[0].source, "serial=layers");
    assert_eq!(storages[1].source, "serial=scratch");
    assert_eq!(
        storages[2].options,
        [
            format!("lowerdir={}", storages[0].mount_point),
            format!("upperdir={}/upper", storages[1].mount_point),
            format!("workdir={}/work", storages[1].mount_point),
        ]
    );
}

#[test]
fn disks_are_named_in_their_order_and_mapped_layers_are_none() {
    let named = |are_mapped| {
        let mut storages = storages("c", Writable::Disk);
        name_disks(&mut storages, are_mapped);
        storages
    };
    let sources = |storages: &[Storage]| [0, 1, 2].map(|at| storages[at].source.clone());
    assert_eq!(sources(&named(false)), ["/dev/vda", "/dev/vdb", "overlay"]);
    let mapped = named(true);
    assert_eq!(sources(&mapped), ["/dev/pmem0", "/dev/vda", "overlay"]);
    assert_eq!((mapped[0].driver.as_str(), mapped[1].driver.as_str()), ("nvdimm", "mmioblk"));
    assert_eq!(mapped[0].options, ["ro", "dax=always"]);
}

#[test]
fn privileged_hides_nothing() {
    let linux = |privileged| {
        let container = container_for(ID, &image(), &Options { privileged, ..options() }).unwrap();
        (container.oci.linux.unwrap(), container.oci.mounts)
    };
    let (plain, mounts) = linux(false);
    assert!(
        plain.masked_paths.contains(&"/proc/kcore".into())
            && plain.readonly_paths.contains(&"/proc/sys".into())
    );
    let sys = |mounts: &[Mount]| mounts.iter().find(|m| m.destination == "/sys").unwrap().options.clone();
    assert!(sys(&mounts).contains(&"ro".into()));
    let (open, mounts) = linux(true);
    assert!(open.masked_paths.is_empty() && open.readonly_paths.is_empty());
    assert!(sys(&mounts).contains(&"rw".into()));
}

#[test]
fn what_makes_no_container_is_said() {
    let refused =
        |options: Options, image: &ImageConfig| container_for(ID, image, &options).unwrap_err().to_string();
    let none = ImageConfig::default();
    assert!(refused(options(), &none).starts_with("no command specified"));
    let dir = Options { working_dir: Some("data".into()), ..options() };
    assert!(refused(dir, &image()).contains("absolute path"));
    for name in ["two words", &"x".repeat(65), "new\nline"] {
        let named = Options { hostname: Some(name.to_owned()), ..options() };
        assert!(refused(named, &image()).contains("host name"), "{name}");
    }
    let nul = Options { command: vec!["a\0b".into()], ..options() };
    assert_eq!(refused(nul, &image()), "the command contains a NUL byte");
    let capability = Options { cap_add: vec!["FLY".into()], ..options() };
    assert!(refused(capability, &image()).contains("'FLY' is not a capability"));
}

#[test]
fn an_images_relative_working_directory_is_under_the_root() {
    let image = ImageConfig { working_dir: "app".into(), ..image() };
    let process = container_for(ID, &image, &options()).unwrap().oci.process.unwrap();
    assert_eq!(process.cwd, "/app");
}
