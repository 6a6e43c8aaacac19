//! PID 1: how large it is, what it holds and what it costs the guest. Its limits stand beside the figures.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use ferry_images::ImageConfig;
use ferry_init::api::agent::{CreateContainerRequest, CreateSandboxRequest, Empty};
use ferry_init::api::guest::Metrics;
use ferry_init::api::method;
use ferry_init::api::oci::{Process, Spec};
use ferry_vmm::agent::session::{ExecSpec, start_exec};
use ferry_vmm::agent::{self, Client, OutputStream, Patience, Read, Transport, Wait};
use ferry_vmm::runtime::command::Entrypoint;
use ferry_vmm::runtime::oci::{Options, Writable, container_for};

use super::instructions::{Clock, Counter};
use super::{Figure, boot};
use crate::build;
use crate::kernel;
use crate::setup::{self, Need};
use crate::workshop::Workshop;

/// Longer than any answer takes.
const LONG: Duration = Duration::from_secs(120);

/// Containers at once, and the memory of the guest that has room for them.
const MANY: usize = 100;
const MANY_MEMORY: &str = "768m";

/// Executions that count, after some that do not: what is made at first use is made once.
const EXECUTIONS: u64 = 50;
const WARM_UP: u64 = 5;

pub fn figures(workshop: &mut Workshop) -> Result<Vec<Figure>> {
    setup::prepare(workshop, &[Need::Kernel, Need::Qemu])?;
    kernel::build(workshop)?;
    let figure = |metric, unit, value| Figure { subject: "PID 1", metric, unit, value };
    let program = build::init::build(workshop)?.program;
    let bytes = fs::metadata(&program).with_context(|| program.display().to_string())?.len();
    let lines = Lines::of(&workshop.checkout.join("guest-init/src"))?;
    let mut figures = vec![
        figure("binary", "bytes (limit 262144)", bytes as f64),
        figure("lines", "lines of code without tests (limit 9000)", lines.code as f64),
        figure("lines_with_comments", "lines without tests", lines.all as f64),
    ];
    for (clock, metric, unit) in [
        (Clock::Instructions, "to_container", "guest instructions (limit 3000000)"),
        (Clock::Host, "to_container_by_host_clock", "guest instructions"),
    ] {
        let (_, to_container) = boot::count(&Counter::new(workshop, clock)?)?;
        figures.push(figure(metric, unit, to_container as f64));
    }

    let counter = Counter::new(workshop, Clock::Instructions)?;
    let mut guest = Guest::start(boot::MEMORY, &counter)?;
    let first = guest.container("1")?;
    figures.push(figure(
        "guest_memory_1",
        "bytes in use of 128 MiB (limit 12582912)",
        guest.memory_in_use()? as f64,
    ));
    figures.push(figure("resident_1", "bytes (limit 1048576)", guest.resident(&first)? as f64));
    for _ in 0..WARM_UP {
        guest.execute(&first, &["true"])?;
    }
    let before = counter.read()?.all;
    for _ in 0..EXECUTIONS {
        guest.execute(&first, &["true"])?;
    }
    let each = (counter.read()?.all - before) / EXECUTIONS;
    figures.push(figure("exec_true", "guest instructions (limit 2000000)", each as f64));
    drop(guest);

    let counter = Counter::new(workshop, Clock::Instructions)?;
    let mut guest = Guest::start(MANY_MEMORY, &counter)?;
    let first = guest.container("1")?;
    for number in 2..=MANY {
        guest.container(&number.to_string())?;
    }
    figures.push(figure("resident_100", "bytes (limit 4194304)", guest.resident(&first)? as f64));
    Ok(figures)
}

/// A guest without containers at first. It ends with this value.
struct Guest {
    xtask: Child,
    client: Client,
    process: Option<Process>,
    executions: u64,
}

impl Guest {
    fn start(memory: &str, counter: &Counter) -> Result<Guest> {
        let mut xtask = Command::new(std::env::current_exe().context("where xtask is")?)
            .args(["guest", "--memory", memory])
            .args(counter.arguments())
            .arg("hello")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(xtask.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let transport = Transport::Stream { socket: PathBuf::from(line.trim_end()) };
        let patience = Patience { since: Instant::now(), limit: LONG, alive: &|| true };
        let client = agent::connect(&transport, &patience).map_err(|error| anyhow!("{error}"))?;
        let sandbox = CreateSandboxRequest { sandbox_id: "bench".to_owned(), ..Default::default() };
        client.create_sandbox(&sandbox)?;
        Ok(Guest { xtask, client, process: None, executions: 0 })
    }

    /// A container of a sleeping process, which sees the guest's processes.
    fn container(&mut self, id: &str) -> Result<String> {
        let options = Options {
            command: ["sleep", "1000000"].map(str::to_owned).into(),
            entrypoint: Entrypoint::Cleared,
            writable: Writable::Tmpfs,
            ..Options::default()
        };
        let mut spec = container_for(id, &ImageConfig::default(), &options)?;
        self.process.clone_from(&spec.oci.process);
        see_the_guest(&mut spec.oci);
        let request = CreateContainerRequest {
            container_id: id.to_owned(),
            storages: spec.storages,
            oci: Some(spec.oci),
            ..Default::default()
        };
        self.client.create_container(&request)?;
        self.client.start_container(id)?;
        Ok(id.to_owned())
    }

    /// Runs a command in a container; what it writes.
    fn execute(&mut self, container: &str, command: &[&str]) -> Result<String> {
        self.executions += 1;
        let args = command.iter().map(|word| (*word).to_owned()).collect();
        let process = Process { args, ..self.process.clone().context("no container yet")? };
        let exec =
            ExecSpec { container: container.to_owned(), id: format!("exec-{}", self.executions), process };
        start_exec(&self.client, &exec)?;
        let mut text = Vec::new();
        let read = || self.client.begin_read(OutputStream::Stdout, container, &exec.id, 1 << 16);
        while let Read::Data(data) = read()?.wait(Wait::AtMost(LONG))? {
            text.extend(data);
        }
        match self.client.wait_process(container, &exec.id)? {
            0 => Ok(String::from_utf8(text)?),
            status => bail!("{command:?} has ended with {status}"),
        }
    }

    /// Memory in pages of PID 1, in bytes.
    fn resident(&mut self, container: &str) -> Result<u64> {
        let text = self.execute(container, &["cat", "/proc/1/status"])?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let number = line.split_whitespace().nth(1).context("no number")?;
        Ok(number.parse::<u64>()? * 1024)
    }

    /// Memory that the guest uses for anything but caches of files on disks, in bytes.
    fn memory_in_use(&self) -> Result<u64> {
        let metrics: Metrics =
            self.client.call(method::AGENT_SERVICE, method::GET_METRICS, &Empty {}, Wait::AtMost(LONG))?;
        let item = |name: &str| -> Result<u64> {
            let line =
                metrics.metrics.lines().find_map(|line| line.split_once(&format!("item=\"{name}\"}} ")));
            Ok(line.with_context(|| format!("no {name}"))?.1.parse()?)
        };
        let caches = item("Buffers")? + item("Cached")? + item("SReclaimable")? - item("Shmem")?;
        Ok(item("MemTotal")? - item("MemFree")? - caches)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The end of its input is the guest's.
        drop(self.xtask.stdin.take());
        let _ = self.xtask.wait();
    }
}

fn see_the_guest(spec: &mut Spec) {
    if let Some(linux) = &mut spec.linux {
        linux.namespaces.retain(|namespace| namespace.r#type != "pid");
    }
}

/// Lines of Rust without tests: those with code, and all.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lines {
    code: usize,
    all: usize,
}

impl Lines {
    fn of(directory: &Path) -> Result<Lines> {
        let mut lines = Lines::default();
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "tests" {
                lines.add(Lines::of(&path)?);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                lines.add(Lines::in_file(&fs::read_to_string(&path)?));
            }
        }
        Ok(lines)
    }

    fn add(&mut self, other: Lines) {
        self.code += other.code;
        self.all += other.all;
    }

    /// Code is what is neither blank nor a comment. A module of tests begins behind `#[cfg(test)]` and ends at the first
    /// brace in the first column.
    fn in_file(text: &str) -> Lines {
        let mut found = Lines::default();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let next = lines.peek().copied().unwrap_or_default();
            if line.trim() == "#[cfg(test)]" && next.contains("mod ") {
                if next.ends_with('{') {
                    lines.by_ref().take_while(|line| *line != "}").for_each(drop);
                } else {
                    lines.next();
                }
                continue;
            }
            found.all += 1;
            let line = line.trim();
            found.code += usize::from(!line.is_empty() && !line.starts_with("//"));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blanks_and_tests_are_no_code() {
        let text = "//! Doc.\n\nfn a() {\n    // Why.\n    b();\n}\n\n#[cfg(test)]\nmod tests {\n    fn c() {\n    }\n}\n#[cfg(test)]\nmod d;\nfn e() {}\n";
        assert_eq!(Lines::in_file(text), Lines { code: 4, all: 8 });
    }
}
