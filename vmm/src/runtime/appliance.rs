//! What PID 1 is told of a machine that runs containers by itself: a recipe's services become the messages that stand in
//! the specification partition of its disk.
//!
//! A service's root is its image under a writable layer in memory, unless the recipe says otherwise, so that a restart finds
//! it as it was built. Its volumes are on the disk's state partition, each beginning as what the image has there, as with
//! Docker: a directory of the state partition laid over the image's.

use super::oci::{self, Options, SpecError, Writable};
use crate::agent::{Signal, UnknownSignal};
use ferry_images::ImageConfig;
use ferry_images::digest::Digest;
use ferry_images::disk::{Place, Root, layout};
use ferry_images::recipe::service::{self, Appliance, Health, Network, Service};
use ferry_images::verity::{BLOCK, Sealed};
use ferry_init::api::agent::{CreateContainerRequest, CreateSandboxRequest, Storage};
use ferry_init::api::appliance as api;
use ferry_init::api::guest::{Interfaces, Routes};
use ferry_init::api::oci::Mount;
use ferry_init::api::protobuf::Message;
use ferry_init::api::types::{Interface, IpAddress, IpFamily, Route};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub use api::{BOOT_WORD, FILE_NAME};

/// Where the guest mounts the state partition.
const STATE: &str = "/run/ferry/state";

/// What an image brings to its service.
#[derive(Debug, Clone)]
pub struct Ingredients<'a> {
    /// How the image is run.
    pub config: &'a ImageConfig,
    /// Where it is on the disk.
    pub root: Root,
    /// Those of the service's [`volumes`] that are directories of the image.
    pub directories: Vec<String>,
}

/// Why a recipe makes no appliance.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A service's container.
    #[error("service `{service}`: {cause}")]
    Container {
        /// Which.
        service: String,
        /// What is wrong.
        cause: SpecError,
    },
    /// Its stop signal.
    #[error("service `{service}`: {cause}")]
    Signal {
        /// Which.
        service: String,
        /// What is wrong.
        cause: UnknownSignal,
    },
    /// A service whose image was not given.
    #[error("service `{0}` has no image")]
    NoImage(String),
    /// A volume at a path that cannot be one.
    #[error("service `{service}`: the volume `{path}` needs to be an absolute path below the root")]
    Volume {
        /// Which.
        service: String,
        /// The path.
        path: String,
    },
    /// The network's address.
    #[error("the appliance's address `{0}` is not one with the length of its prefix, such as 192.0.2.7/24")]
    Address(String),
}

/// The directories of a service that are kept: the image's volumes and the recipe's, each once.
pub fn volumes(service: &Service, config: &ImageConfig) -> Vec<String> {
    let mut volumes = config.volumes.clone();
    volumes.extend(service.volumes.iter().cloned());
    volumes.sort();
    volumes.dedup();
    volumes
}

/// The content of the file [`FILE_NAME`] for `appliance`, whose services' images are `images`, by the services' names. It is
/// a function of these alone.
pub fn specification(
    appliance: &Appliance,
    images: &BTreeMap<String, Ingredients<'_>>,
) -> Result<Vec<u8>, Error> {
    compose(appliance, images).map(|message| message.encode_to_vec())
}

/// The status in the last line that PID 1 of an appliance writes to the console.
pub fn status_in(console: &str) -> Option<i32> {
    let (_, line) = console.rsplit_once(api::ENDED)?;
    let (_, status) = line.lines().next()?.rsplit_once("status ")?;
    status.trim().parse().ok()
}

fn compose(
    appliance: &Appliance,
    images: &BTreeMap<String, Ingredients<'_>>,
) -> Result<api::Appliance, Error> {
    let mut services = Vec::with_capacity(appliance.services.len());
    let mut keeps = false;
    for (name, service) in &appliance.services {
        let image = images.get(name).ok_or_else(|| Error::NoImage(name.clone()))?;
        let composed = compose_service(name, service, image)?;
        keeps |= composed.kept;
        services.push(composed.service);
    }
    let settings = &appliance.settings;
    let network = settings.network.as_ref();
    let (interfaces, routes) = match network.map(card).transpose()? {
        Some((interface, route)) => (
            Some(Interfaces { interfaces: vec![interface] }),
            route.map(|route| Routes { routes: vec![route] }),
        ),
        None => (None, None),
    };
    let at_end = match settings.at_end {
        service::AtEnd::PowerOff => api::AtEnd::PowerOff,
        service::AtEnd::Reboot => api::AtEnd::Reboot,
        service::AtEnd::Halt => api::AtEnd::Halt,
    };
    let sandbox = CreateSandboxRequest {
        hostname: settings.hostname.clone().unwrap_or_default(),
        dns: network.map(|network| network.dns.iter().map(IpAddr::to_string).collect()).unwrap_or_default(),
        storages: if keeps { vec![state()] } else { Vec::new() },
        ..Default::default()
    };
    Ok(api::Appliance {
        services,
        sandbox: Some(sandbox),
        interfaces,
        routes,
        at_end: at_end as i32,
        status_of: settings.status_of.clone().unwrap_or_default(),
    })
}

/// The partition that is written to, for all services.
fn state() -> Storage {
    Storage {
        driver: "blk".to_owned(),
        source: partition(layout::STATE),
        fstype: "ext4".to_owned(),
        options: vec!["noatime".to_owned()],
        mount_point: STATE.to_owned(),
        ..Default::default()
    }
}

fn partition(name: &str) -> String {
    format!("partname={name}")
}

/// A service, and whether it keeps anything on the state partition.
struct Composed {
    service: api::Service,
    kept: bool,
}

fn compose_service(name: &str, service: &Service, image: &Ingredients<'_>) -> Result<Composed, Error> {
    let wrong = |cause| Error::Container { service: name.to_owned(), cause };
    let writable = match service.writable.unwrap_or_default() {
        service::Writable::Nothing => Writable::Nothing,
        service::Writable::Memory | service::Writable::Disk => Writable::Tmpfs,
    };
    let options = Options {
        environment: service.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        working_dir: service.workdir.clone(),
        user: service.user.clone(),
        hostname: Some(name.to_owned()),
        writable,
        ..Options::default()
    };
    let mut storages = oci::storages(name, writable);
    let on_disk = service.writable == Some(service::Writable::Disk);
    let kept = format!("{STATE}/{}", file_name(name));
    if on_disk {
        lay_over_state(&mut storages, &kept);
    }
    let root = storages.last().map(|storage| storage.mount_point.clone()).unwrap_or_default();
    let layers = name_partitions(&mut storages, &image.root);
    let mut spec = oci::spec_for(name, &root, &commanded(service, image.config), &options).map_err(wrong)?;
    if let Some(linux) = &mut spec.linux {
        for (name, value) in &service.sysctl {
            linux.sysctl.insert(name.clone(), value.clone());
        }
    }
    let volumes = volumes(service, image.config);
    for path in &volumes {
        let storage = volume(name, path, &layers, &kept, image.directories.contains(path))?;
        spec.mounts.push(Mount {
            destination: path.clone(),
            source: storage.mount_point.clone(),
            r#type: "bind".to_owned(),
            options: ["rbind", "rprivate", "rw"].map(str::to_owned).into(),
        });
        storages.push(storage);
    }
    let signal = service.stop_signal.as_deref().or(image.config.stop_signal.as_deref());
    let signal = signal.map(Signal::parse).transpose();
    let signal = signal.map_err(|cause| Error::Signal { service: name.to_owned(), cause })?;
    let after = |services: &[String], until: api::Until| {
        let after = |service: &String| api::After { service: service.clone(), until: until as i32 };
        services.iter().map(after).collect::<Vec<_>>()
    };
    let create = CreateContainerRequest {
        container_id: name.to_owned(),
        exec_id: name.to_owned(),
        storages,
        oci: Some(spec),
        ..Default::default()
    };
    let service = api::Service {
        create: create.encode_to_vec(),
        after: [
            after(&service.after, api::Until::Ready),
            after(&service.after_success_of, api::Until::Completed),
        ]
        .concat(),
        restart: service.restart.map(restart),
        health: service.health.as_ref().map(health),
        stop_signal: signal.map_or(0, |signal| signal.number().into()),
        grace_ms: service.stop_timeout.map_or(0, |time| time.0),
        log: Some(api::Log { console: true, ..Default::default() }),
    };
    Ok(Composed { service, kept: on_disk || !volumes.is_empty() })
}

/// The image's configuration with the service's own entrypoint and command. As in Docker, a new entrypoint leaves the image's
/// command without a meaning.
fn commanded(service: &Service, config: &ImageConfig) -> ImageConfig {
    let mut config = config.clone();
    if let Some(entrypoint) = &service.entrypoint {
        config.entrypoint = entrypoint.clone();
        config.cmd = Vec::new();
    }
    if let Some(command) = &service.command {
        config.cmd = command.clone();
    }
    config
}

/// The container's layers are partitions. Returns where they are mounted.
fn name_partitions(storages: &mut [Storage], root: &Root) -> String {
    let Some(layers) = storages.first_mut() else { return String::new() };
    layers.driver = "blk".to_owned();
    layers.source = partition(&root.metadata.name);
    layers.options.extend(root.layers.iter().map(|layer| format!("device={}", partition(&layer.name))));
    layers.driver_options.extend(std::iter::once(&root.metadata).chain(&root.layers).filter_map(verity));
    layers.mount_point.clone()
}

/// What the guest is told of a partition's hash tree. Its blocks begin behind the tree's superblock.
fn verity(place: &Place) -> Option<String> {
    let Sealed { root, salt, blocks, offset } = place.sealed.as_ref()?;
    let (source, first) = (partition(&place.name), offset / BLOCK + 1);
    let salt: String = salt.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("verity={source},{},{blocks},{first},{salt}", root.hex()))
}

/// The writable layer is on the state partition instead of in memory.
fn lay_over_state(storages: &mut Vec<Storage>, kept: &str) {
    storages.retain(|storage| storage.driver != "ephemeral");
    if let Some(root) = storages.last_mut() {
        let lower = root.options.iter().find(|option| option.starts_with("lowerdir=")).cloned();
        root.options = lower.into_iter().chain(upper(&format!("{kept}/root"))).collect();
        root.driver_options = Vec::new();
    }
}

/// Overlay options for a writable directory below `place`. The guest makes what is not there.
fn upper(place: &str) -> [String; 2] {
    [format!("upperdir={place}/upper"), format!("workdir={place}/work")]
}

/// A directory of the state partition, over what the image has at that path.
fn volume(service: &str, path: &str, layers: &str, kept: &str, in_image: bool) -> Result<Storage, Error> {
    let whole = path.starts_with('/')
        && path.split('/').all(|name| !matches!(name, "." | ".."))
        && path.split('/').any(|name| !name.is_empty())
        // Options of a mount are apart by commas, and lower directories by colons.
        && !path.contains([',', ':', '\\', '\0']);
    if !whole {
        return Err(Error::Volume { service: service.to_owned(), path: path.to_owned() });
    }
    let place = format!("{kept}/volumes/{}", file_name(path));
    Ok(match in_image {
        true => Storage {
            driver: "overlayfs".to_owned(),
            source: "overlay".to_owned(),
            fstype: "overlay".to_owned(),
            options: std::iter::once(format!("lowerdir={layers}{path}")).chain(upper(&place)).collect(),
            mount_point: format!("{}/volumes/{}", parent(layers), file_name(path)),
            ..Default::default()
        },
        false => Storage {
            driver: "local".to_owned(),
            source: "local".to_owned(),
            fstype: "local".to_owned(),
            options: vec!["mode=0755".to_owned()],
            mount_point: format!("{place}/upper"),
            ..Default::default()
        },
    })
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A file name that stands for `text` alone and that people recognise.
fn file_name(text: &str) -> String {
    let mut name = String::new();
    for byte in text.trim_matches('/').bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    if name.len() <= 200 { name } else { Digest::of(text.as_bytes()).hex() }
}

fn restart(policy: service::Restart) -> api::Restart {
    let (policy, limit) = match policy {
        service::Restart::No => (api::RestartPolicy::No, 0),
        service::Restart::OnFailure(limit) => (api::RestartPolicy::OnFailure, limit),
        service::Restart::Always => (api::RestartPolicy::Always, 0),
    };
    api::Restart { policy: policy as i32, limit, ..Default::default() }
}

fn health(health: &Health) -> api::HealthCheck {
    let ms = |time: Option<service::Time>| time.map_or(0, |time| time.0);
    api::HealthCheck {
        exec: health.exec.clone(),
        tcp_port: health.tcp.unwrap_or_default().into(),
        http: health.http.as_ref().map(|http| api::HttpCheck {
            port: http.port.into(),
            path: http.path.clone(),
            host: http.host.clone().unwrap_or_default(),
        }),
        interval_ms: ms(health.interval),
        timeout_ms: ms(health.timeout),
        start_period_ms: ms(health.start_period),
        failures: health.failures.unwrap_or_default(),
        successes: health.successes.unwrap_or_default(),
    }
}

/// The network card and the way out.
fn card(network: &Network) -> Result<(Interface, Option<Route>), Error> {
    let malformed = || Error::Address(network.address.clone());
    let (address, prefix) = network.address.split_once('/').ok_or_else(malformed)?;
    let address: IpAddr = address.parse().map_err(|_| malformed())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= longest).ok_or_else(malformed)?;
    let family = |address: IpAddr| {
        let family = if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
        i32::from(family)
    };
    let interface = Interface {
        device: network.device.clone(),
        name: network.device.clone(),
        ip_addresses: vec![IpAddress {
            family: family(address),
            address: address.to_string(),
            mask: prefix.to_string(),
        }],
        ..Default::default()
    };
    let route = network.gateway.map(|gateway| Route {
        gateway: gateway.to_string(),
        device: network.device.clone(),
        family: family(gateway),
        ..Default::default()
    });
    Ok((interface, route))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_images::verity::Salt;

    fn ingredients(config: &ImageConfig) -> Ingredients<'_> {
        let place = |name: &str, sealed| Place { name: name.into(), sealed };
        let sealed = Sealed {
            root: Digest::of(b"tree"),
            salt: Salt::from(Digest::of(b"salt")),
            blocks: 7,
            offset: 7 * BLOCK,
        };
        let root = Root {
            metadata: place("image-1", None),
            layers: vec![place("layer-1", Some(sealed)), place("layer-2", None)],
        };
        Ingredients { config, root, directories: vec!["/data".into()] }
    }

    fn composed(service: Service, config: &ImageConfig) -> Result<api::Appliance, Error> {
        let appliance = Appliance {
            settings: service::Settings::default(),
            services: [("db".to_owned(), service)].into(),
        };
        compose(&appliance, &[("db".to_owned(), ingredients(config))].into())
    }

    fn created(service: &api::Service) -> CreateContainerRequest {
        CreateContainerRequest::decode(&service.create).unwrap()
    }

    fn config() -> ImageConfig {
        ImageConfig {
            cmd: vec!["serve".into()],
            env: vec!["PATH=/bin".into()],
            volumes: vec!["/data".into()],
            stop_signal: Some("SIGQUIT".into()),
            ..Default::default()
        }
    }

    #[test]
    fn a_service_stands_on_its_partitions_and_keeps_its_volumes() {
        let service = Service {
            volumes: vec!["/data".into(), "/var/new dir".into()],
            env: [("A".to_owned(), "1".to_owned())].into(),
            sysctl: [("vm.overcommit_memory".to_owned(), "1".to_owned())].into(),
            restart: Some(service::Restart::OnFailure(4)),
            ..Default::default()
        };
        let appliance = composed(service, &config()).unwrap();
        assert_eq!(appliance.sandbox.unwrap().storages, [state()]);
        let service = &appliance.services[0];
        let create = created(service);
        let [layers, memory, root, data, new] = &create.storages[..] else { panic!("{:?}", create.storages) };
        assert_eq!((layers.driver.as_str(), layers.source.as_str()), ("blk", "partname=image-1"));
        assert_eq!(layers.options, ["ro", "device=partname=layer-1", "device=partname=layer-2"]);
        let (tree, salt) = (Digest::of(b"tree").hex(), Digest::of(b"salt").hex());
        assert_eq!(layers.driver_options, [format!("verity=partname=layer-1,{tree},7,8,{salt}")]);
        assert_eq!(memory.fstype, "tmpfs");
        let spec = create.oci.as_ref().unwrap();
        assert_eq!(spec.root.as_ref().unwrap().path, root.mount_point);
        assert!(data.options[0].ends_with("/layers/data"), "{data:?}");
        assert_eq!(data.options[1], "upperdir=/run/ferry/state/db/volumes/data/upper");
        assert_eq!(
            (new.driver.as_str(), new.mount_point.as_str()),
            ("local", "/run/ferry/state/db/volumes/var%2fnew%20dir/upper")
        );
        let binds: Vec<_> = spec.mounts.iter().rev().take(2).rev().collect();
        assert_eq!((binds[0].destination.as_str(), &binds[0].source), ("/data", &data.mount_point));
        assert_eq!((binds[1].destination.as_str(), &binds[1].source), ("/var/new dir", &new.mount_point));
        assert!(spec.process.as_ref().unwrap().env.contains(&"A=1".to_owned()));
        let parameters = &spec.linux.as_ref().unwrap().sysctl;
        assert_eq!(parameters.get("vm.overcommit_memory").map(String::as_str), Some("1"));
        assert_eq!(service.restart.as_ref().unwrap().limit, 4);
        assert_eq!(service.stop_signal, u32::from(Signal::QUIT.number()));
    }

    #[test]
    fn a_writable_layer_on_disk_is_kept_there_and_nothing_else_needs_the_partition() {
        let plain = ImageConfig { volumes: Vec::new(), ..config() };
        let on_disk = Service { writable: Some(service::Writable::Disk), ..Default::default() };
        let appliance = composed(on_disk, &plain).unwrap();
        let storages = &created(&appliance.services[0]).storages;
        assert_eq!(storages.len(), 2);
        assert!(storages[1].options[1].starts_with("upperdir=/run/ferry/state/db/root/"), "{storages:?}");
        assert_eq!(appliance.sandbox.unwrap().storages.len(), 1);
        let appliance = composed(Service::default(), &plain).unwrap();
        assert!(appliance.sandbox.unwrap().storages.is_empty());
    }

    #[test]
    fn says_what_is_wrong() {
        let message = |service| composed(service, &config()).unwrap_err().to_string();
        let volume = |path: &str| Service { volumes: vec![path.into()], ..Default::default() };
        for path in ["data", "/", "/a/../b", "/a,b", "/a:b"] {
            assert!(message(volume(path)).contains("absolute path below the root"), "{path}");
        }
        let signal = Service { stop_signal: Some("SIGNOTHING".into()), ..Default::default() };
        assert!(message(signal).starts_with("service `db`: "));
        for address in ["192.0.2.7", "192.0.2.7/33", "x/24"] {
            let network =
                Network { device: "eth0".into(), address: address.into(), gateway: None, dns: Vec::new() };
            assert!(card(&network).unwrap_err().to_string().contains(address));
        }
    }

    #[test]
    fn the_last_line_on_the_console_tells_the_status() {
        let console = format!("[1] app: {0}no\r\n[2] {0}poweroff, status 7\r\n[3] reboot\r\n", api::ENDED);
        assert_eq!(status_in(&console), Some(7));
        assert_eq!(status_in("[1] nothing of the kind\n"), None);
    }

    #[test]
    fn a_name_on_the_disk_stands_for_one_path() {
        assert_ne!(file_name("/a/b"), file_name("/a-b"));
        assert_ne!(file_name("/a%2fb"), file_name("/a/b"));
        assert_eq!(file_name(&"x".repeat(4000)).len(), 64);
    }
}
