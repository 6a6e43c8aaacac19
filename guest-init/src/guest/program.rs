//! The last steps of a process on its way to its program: who it is, where it is, what it may, and exec.

use alloc::ffi::CString;

use super::inside::{Kind, reach};
use super::stdio::ChildStdio;
use crate::api::oci::{Process, Spec};
use crate::fault::reason;
use crate::prelude::*;
use crate::spec::annotation::Further;
use crate::spec::capability::{COUNT, Sets};
use crate::spec::environment::{self, candidates};
use crate::spec::limit;
use crate::spec::seccomp::{self, Filter};
use crate::spec::user::{Identity, home_of, look_up};
use crate::sys::file::*;
use crate::sys::process::*;
use linux_raw_sys::general::RLIMIT_NOFILE;

/// Open files that a process may have when its specification says nothing: the limits that Docker's own service
/// has passed on since it followed systemd. A program that wants more raises its soft limit itself; one that closes
/// every number up to it does not take minutes.
const SOFT_OPEN_FILES: u64 = 1024;
const OPEN_FILES: u64 = 1 << 19;

/// Largest passwd or group file read, in bytes.
const FILE_LIMIT: usize = 4 << 20;

/// What must be done before the container's namespaces are entered, because it needs the guest's /proc.
pub fn before_entering(process: &Process) -> Result {
    if process.oom_score_adj != 0 {
        write_control(CWD, "/proc/self/oom_score_adj", format!("{}", process.oom_score_adj).as_bytes())
            .context("set oom_score_adj")?;
    }
    Ok(())
}

/// Becomes the program, in the container. Returns only with why it cannot.
pub fn become_program(spec: &Spec, process: &Process, stdio: &ChildStdio, first: bool) -> Fault {
    match prepare(spec, process, stdio, first) {
        Ok((arguments, environment)) => run(process, &arguments, &environment),
        Err(fault) => fault,
    }
}

/// Arguments and environment.
type Strings = (Vec<CString>, Vec<CString>);

fn prepare(spec: &Spec, process: &Process, stdio: &ChildStdio, first: bool) -> Result<Strings> {
    refuse_if!(process.args.is_empty(), InvalidArgument, "no program to run: the process has no arguments");
    new_session().context("start a session")?;
    stdio.install(process.console_size.as_ref(), first).context("set up stdio")?;
    set_limit(RLIMIT_NOFILE, SOFT_OPEN_FILES, OPEN_FILES).context("limit open files")?;
    for limit in &process.rlimits {
        let resource = limit::resource(limit)?;
        set_limit(resource, limit.soft, limit.hard).context(format_args!("set {}", limit.r#type))?;
    }
    let further = Further::parse(spec)?;
    if let Some(scheduler) = &further.scheduler {
        set_scheduler(scheduler).context("set the scheduling policy")?;
    }
    if let Some(priority) = further.io_priority {
        set_io_priority(priority).context("set the I/O priority")?;
    }
    let identity = identify(process)?;
    go_to(&process.cwd)?;
    if let Some(mask) = further.umask {
        umask(mask);
    }
    if let Some(personality) = further.personality {
        set_personality(personality).context("set the personality")?;
    }
    let terminal = process.terminal.then_some("xterm");
    let environment = environment::complete(&process.env, identity.home.as_deref(), terminal);
    let strings = |strings: &[String]| c_strings(strings).context("arguments or environment");
    let strings = (strings(&process.args)?, strings(&environment)?);
    if identity.uid != 0 {
        // A program that opens /dev/stdout opens the pipe again, as its own user.
        stdio.give_to(identity.uid, u32::MAX).context("give stdio to the user")?;
    }
    set_blocked_signals(0).context("unblock signals")?;
    take_rights(spec, process, &identity)?;
    Ok(strings)
}

/// Whom the process runs as.
fn identify(process: &Process) -> Result<Identity> {
    let nobody = Default::default();
    let user = process.user.as_ref().unwrap_or(&nobody);
    let mut identity = if !user.username.is_empty() {
        look_up(&user.username, &database("/etc/passwd")?, &database("/etc/group")?)?
    } else {
        let needs_home = environment::value(&process.env, "HOME").is_none();
        let home = if needs_home { home_of(user.uid, &database("/etc/passwd")?) } else { None };
        Identity { uid: user.uid, gid: user.gid, groups: Vec::new(), home }
    };
    identity.groups.extend(&user.additional_gids);
    Ok(identity)
}

/// The bytes of passwd or group; none when the image has no such file.
fn database(path: &str) -> Result<Vec<u8>> {
    let file = match open(CWD, path, O_RDONLY | O_NONBLOCK, 0) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => return Ok(Vec::new()),
        other => other.context(format_args!("open {path}"))?,
    };
    // A pipe or a device would never end.
    match stat_at(file.raw(), "").context(path)?.st_mode & S_IFMT {
        S_IFREG => read_to_end(file.raw(), FILE_LIMIT).context(format_args!("read {path}")),
        _ => Ok(Vec::new()),
    }
}

/// Goes to the working directory, which is made when the image has it not, as Docker does.
fn go_to(directory: &str) -> Result {
    let directory = if directory.is_empty() { "/" } else { directory };
    let is_absolute = directory.starts_with('/');
    refuse_if!(!is_absolute, InvalidArgument, "working directory `{directory}` is not absolute");
    let doing = format_args!("go to the working directory {directory}");
    match chdir(directory) {
        Err(Errno::ENOENT) => {
            reach(CWD, directory, Kind::Directory, 0o755).context(doing)?;
            chdir(directory).context(doing)
        }
        other => other.context(doing),
    }
}

/// Changes to the user and leaves it the rights that it is to have.
fn take_rights(spec: &Spec, process: &Process, identity: &Identity) -> Result {
    let install = |filter: Filter| set_filter(filter.flags, &filter.program).context("filter system calls");
    let filter =
        spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()).map(seccomp::filter).transpose()?;
    seccomp::bar(spec).map_or(Ok(()), install)?;
    // A filter is installed by right, or by a process that can gain none: then it comes last, and need allow less.
    let (now, last) = if process.no_new_privileges { (None, filter) } else { (filter, None) };
    now.map_or(Ok(()), install)?;
    let sets = process.capabilities.as_ref().map(Sets::parse).transpose()?;
    if let Some(sets) = &sets {
        for capability in (0..COUNT).filter(|capability| sets.bounding & 1 << capability == 0) {
            // The kernel may be older than the list.
            drop_bounding(capability).despite(Errno::EINVAL).context("limit capabilities")?;
        }
        if identity.uid != 0 {
            keep_capabilities().context("keep capabilities")?;
        }
    }
    set_groups(&identity.groups).context("set supplementary groups")?;
    set_gid(identity.gid).context("set the group")?;
    set_uid(identity.uid).context("set the user")?;
    if let Some(sets) = sets {
        set_capabilities(sets.effective, sets.permitted, sets.inheritable).context("set capabilities")?;
        for capability in (0..COUNT).filter(|capability| sets.ambient & 1 << capability != 0) {
            raise_ambient(capability).context("raise an ambient capability")?;
        }
    }
    if process.no_new_privileges {
        no_new_privileges().context("forbid new privileges")?;
    }
    last.map_or(Ok(()), install)
}

/// Executes the program, which is looked for as execvp(3) does.
fn run(process: &Process, arguments: &[CString], environment: &[CString]) -> Fault {
    let program = &process.args[0];
    let path = environment::value(&process.env, "PATH").unwrap_or(environment::DEFAULT_PATH);
    let mut found = None;
    for candidate in candidates(program, path) {
        // To look is less than to try.
        if let Err(Errno::ENOENT | Errno::ENOTDIR) = stat_at(CWD, &candidate) {
            continue;
        }
        match execute(&candidate, arguments, environment) {
            // Another directory may have one that can be executed.
            errno @ (Errno::EACCES | Errno::ENOENT) => found = found.or(Some(errno)),
            errno => return refusal(program, errno),
        }
    }
    match found {
        Some(errno) => refusal(program, errno),
        None if program.contains('/') => {
            fault!(NotFound, "exec {program}: not found: no such file or directory")
        }
        None => fault!(NotFound, "exec {program}: not found in PATH ({path})"),
    }
}

/// Why a program that is there was not executed.
fn refusal(program: &str, errno: Errno) -> Fault {
    match errno {
        Errno::ENOENT => fault!(NotFound, "exec {program}: its interpreter was not found"),
        Errno::EACCES | Errno::EPERM => fault!(PermissionDenied, "exec {program}: permission denied"),
        Errno::ENOEXEC => fault!(PermissionDenied, "exec {program}: not executable: exec format error"),
        errno => fault!(Internal, "exec {program}: {}", reason(errno)),
    }
}
