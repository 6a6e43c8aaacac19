//! The mounts of a container: its root, and what the specification mounts in it.
//!
//! Everything here runs in the container's own mount namespace. Sources of bind mounts are taken hold of while
//! the guest's root is still there; then the container's root becomes the root, and the rest is walked in it.

use super::inside::{Kind, reach};
use super::storage::make_directories;
use crate::api::oci::{Mount, Spec};
use crate::network_files;
use crate::prelude::*;
use crate::spec::mount_options::{FILESYSTEM, Options};
use crate::sys::file::{CWD, O_PATH, chdir, chown, open, write_file};
use crate::sys::mount::{self as m, Recursion, attach, clone_tree, set_attributes};

/// A mount that is made, and mounted nowhere yet.
pub struct Prepared<'a> {
    mount: &'a Mount,
    options: Options,
    tree: Fd,
    kind: Kind,
}

/// Where the guest keeps what it makes for containers, and where their roots are mounted (Kata's).
pub const BASE: &str = "/run/kata-containers";

/// Opens [`BASE`], which is made.
pub fn make_base() -> SysResult<Fd> {
    make_directories(BASE)?;
    open(CWD, BASE, O_PATH, 0)
}

/// Where the guest keeps what it makes for a container.
pub fn directory(id: &str) -> String {
    format!("{BASE}/{id}")
}

/// Lets somebody else write there: the container's root, where that is not the guest's.
pub fn give_directory(id: &str, uid: u32, gid: u32) -> Result {
    let path = directory(id);
    make_directories(&path).and_then(|()| chown(CWD, &path, uid, gid)).context(format_args!("make {path}"))
}

/// Takes hold of the sources of bind mounts and makes filesystems, in the guest's root: sources are paths of the guest,
/// and in a user namespace the kernel gives a new /proc only to who can see an old one.
pub fn prepare<'a>(id: &str, spec: &'a Spec, dns: &[String]) -> Result<Vec<Prepared<'a>>> {
    let mut prepared = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        let doing = format_args!("mount on {}", mount.destination);
        let options = Options::parse(&mount.options);
        let is_bind = options.bind.is_some() || mount.r#type == "bind";
        let tree = if is_bind {
            hold_source(id, spec, mount, &options, dns)
        } else {
            new_filesystem(mount, &options).context(&mount.r#type)
        };
        let tree = tree.map_err(|fault| fault.while_doing(doing))?;
        let mut kind = Kind::Directory;
        if is_bind {
            let looked_at = bind_attributes(&tree, &options).and_then(|()| Kind::of(tree.raw(), ""));
            kind = looked_at.context(doing)?;
        }
        prepared.push(Prepared { mount, options, tree, kind });
    }
    Ok(prepared)
}

fn hold_source(id: &str, spec: &Spec, mount: &Mount, options: &Options, dns: &[String]) -> Result<Fd> {
    let recursive = options.bind.unwrap_or(Recursion::One);
    let source = &mount.source;
    // An empty source would be the working directory.
    match if source.is_empty() { Err(Errno::ENOENT) } else { clone_tree(CWD, source, recursive) } {
        Ok(tree) => Ok(tree),
        Err(Errno::ENOENT) if network_files::PATHS.contains(&mount.destination.as_str()) => {
            let path = write_network_file(id, spec, &mount.destination, dns)?;
            clone_tree(CWD, &path, Recursion::One).context("bind")
        }
        Err(_) if source.is_empty() => Err(fault!(InvalidArgument, "a bind mount needs a source")),
        Err(errno) => Err(Fault::system(&format_args!("source {source}"), errno)),
    }
}

/// Writes one of the files that Docker writes for a container, for a mount that asks for it without a source.
fn write_network_file(id: &str, spec: &Spec, destination: &str, dns: &[String]) -> Result<String> {
    let text = network_files::text(destination, &spec.hostname, dns).unwrap_or_default();
    let directory = directory(id);
    let name = destination.rsplit('/').next().unwrap_or_default();
    let path = format!("{directory}/{name}");
    let write = || write_file(CWD, &path, text.as_bytes(), 0o644);
    // Mostly the container's root is mounted in the directory.
    let missing = |errno| if errno == Errno::ENOENT { make_directories(&directory) } else { Err(errno) };
    write().or_else(|errno| missing(errno).and_then(|()| write())).context(format_args!("write {path}"))?;
    Ok(path)
}

/// Makes the container's root the root of this mount namespace; the guest's is gone from it.
pub fn enter_root(path: &str) -> Result {
    (|| {
        chdir(path)?;
        match m::pivot_root(".", ".") {
            // A directory that is no mount, of the guest's own root or of another, becomes one.
            Err(Errno::EINVAL | Errno::EBUSY) => {
                m::mount(".", path, "", m::MS_BIND | m::MS_REC, "")?;
                chdir(path)?;
                m::pivot_root(".", ".")?;
            }
            other => other?,
        }
        // The old root lies on top of the new one.
        m::detach(".")?;
        chdir("/")
    })()
    .context(format_args!("enter the root {path}"))
}

/// Mounts one of the specification's mounts. The root is the container's.
pub fn mount(prepared: &Prepared<'_>) -> Result {
    let Prepared { mount, options, tree, kind } = prepared;
    let doing = format_args!("mount {} on {}", mount.r#type, mount.destination);
    let target = reach(CWD, &mount.destination, *kind, 0o755).context(doing)?;
    attach(tree, target.raw(), "").context(doing)?;
    // The target's descriptor is of what lies below the new mount.
    propagate(tree, options).context(doing)
}

fn propagate(mount: &Fd, options: &Options) -> SysResult<()> {
    let recursive = if options.propagate_tree { Recursion::Tree } else { Recursion::One };
    match options.propagation {
        0 => Ok(()),
        propagation => set_attributes(mount.raw(), "", 0, 0, propagation, recursive),
    }
}

fn bind_attributes(tree: &Fd, options: &Options) -> SysResult<()> {
    if options.set_tree | options.clear_tree != 0 {
        set_attributes(tree.raw(), "", options.set_tree, options.clear_tree, 0, Recursion::Tree)?;
    }
    if options.set | options.clear != 0 {
        set_attributes(tree.raw(), "", options.set, options.clear, 0, Recursion::One)?;
    }
    Ok(())
}

fn new_filesystem(mount: &Mount, options: &Options) -> SysResult<Fd> {
    let (fstype, with_data) = match mount.r#type.as_str() {
        // What cgroup v1's name means on a cgroup v2 system; its options named v1 hierarchies.
        "cgroup" => ("cgroup2", false),
        fstype => (fstype, true),
    };
    let filesystem = m::open_filesystem(fstype)?;
    if with_data {
        // The source is a name to be shown, and the device of a filesystem that has one.
        m::set_option(&filesystem, "source", if mount.source.is_empty() { fstype } else { &mount.source })?;
        for word in &options.data {
            match word.split_once('=') {
                Some((name, value)) => m::set_option(&filesystem, name, value)?,
                None => m::set_flag(&filesystem, word)?,
            }
        }
        for (word, _) in FILESYSTEM.iter().filter(|(_, flag)| options.superblock & flag != 0) {
            m::set_flag(&filesystem, word)?;
        }
    }
    m::create(&filesystem)?;
    m::mount_filesystem(&filesystem, options.set | options.set_tree)
}

/// Makes the root itself read-only, which the mounts on it are not.
pub fn make_root_read_only() -> Result {
    let root = reach(CWD, "/", Kind::Directory, 0).context("root")?;
    set_attributes(root.raw(), "", m::MOUNT_ATTR_RDONLY, 0, 0, Recursion::One)
        .context("make the root read-only")
}

/// Sets the propagation of the root.
pub fn set_root_propagation(name: &str) -> Result {
    let options = Options::parse(&[name.into()]);
    refuse_if!(options.propagation == 0, InvalidArgument, "no propagation `{name}`");
    let root = reach(CWD, "/", Kind::Directory, 0);
    root.and_then(|root| propagate(&root, &options)).context("set the root's propagation")
}

/// Makes paths read-only; those that are not there need nothing. Nothing is made here, and the container's root is the root:
/// wherever a link leads, it is a mount of the container's that is copied, and one that is mounted on.
pub fn make_read_only(paths: &[String]) -> Result {
    for path in paths.iter().filter(|path| !path.is_empty()) {
        let result = m::mount(path, path, "", m::MS_BIND | m::MS_REC, "")
            .and_then(|()| set_attributes(CWD, path, m::MOUNT_ATTR_RDONLY, 0, 0, Recursion::Tree));
        unless_missing(result).context(format_args!("make {path} read-only"))?;
    }
    Ok(())
}

/// Hides paths: directories below an empty read-only tmpfs, files below the null device.
pub fn mask(paths: &[String]) -> Result {
    // One empty filesystem serves for all directories: it is mounted where it is first needed, and copied from there.
    let mut empty = None;
    for path in paths.iter().filter(|path| !path.is_empty()) {
        let result = Kind::of(CWD, path).and_then(|kind| match (kind, empty) {
            (Kind::File, _) => m::mount("/dev/null", path, "", m::MS_BIND, ""),
            (Kind::Directory, Some(empty)) => m::mount(empty, path, "", m::MS_BIND, ""),
            (Kind::Directory, None) => {
                empty = Some(path);
                m::mount("tmpfs", path, "tmpfs", m::MS_RDONLY, "")
            }
        });
        unless_missing(result).context(format_args!("mask {path}"))?;
    }
    Ok(())
}

fn unless_missing(result: SysResult<()>) -> SysResult<()> {
    match result {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
        other => other,
    }
}
