//! What a virtual machine costs its host: memory, processor time until the guest runs, the size of the programs, and what a
//! request costs each device. Beside it what QEMU's microvm costs, measured in the same run.
//!
//! The processes are looked at while their guest does nothing: a kernel of three bytes that halts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ferry_vmm::sandbox::{Lock, Role};
use serde_json::Value;

use super::Figure;
use crate::build;
use crate::elf::{HEADER, PROGRAM_HEADER, PT_LOAD, Segment};
use crate::kernel;
use crate::setup::{self, Need};
use crate::workshop::Workshop;

/// The guest's memory in MiB, which the figures about memory are for.
const MEMORY_MIB: u64 = 128;
/// How long a process may take to have its machine running.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it has then to come to rest.
const REST: Duration = Duration::from_millis(500);
/// Starts of which the one with the least processor time counts.
const STARTS: usize = 40;

const FERRY: &str = "ferry";
const FERRY_VMM: &str = "ferry-vmm (machine and devices only)";
const QEMU: &str = "QEMU microvm";

/// The figures of the benchmark inside of ferry's library, with their units.
const INSIDE: [(&str, &str); 19] = [
    ("copy_4k_ns", "ns a copy"),
    ("copy_1500_ns", "ns a copy"),
    ("blk_memory_4k_read_ns", "ns a request"),
    ("blk_memory_4k_read_allocations", "allocations a request"),
    ("blk_file_4k_read_ns", "ns a request"),
    ("blk_file_4k_read_allocations", "allocations a request"),
    ("net_1500_send_ns", "ns a packet"),
    ("net_1500_send_allocations", "allocations a packet"),
    ("net_1500_receive_ns", "ns a packet"),
    ("net_1500_receive_allocations", "allocations a packet"),
    ("blk_file_system_calls", "system calls a batch"),
    ("net_passt_send_system_calls", "system calls a batch"),
    ("net_passt_receive_system_calls", "system calls a batch"),
    ("vsock_send_system_calls", "system calls a batch"),
    ("console_send_system_calls", "system calls a batch"),
    ("bare_cpu_seconds_to_first_run", "seconds"),
    ("user_space_exits_per_kick", "exits"),
    ("user_space_exits_per_interrupt", "exits"),
    ("user_space_exits_per_batch", "exits"),
];

fn figure(subject: &'static str, metric: &'static str, unit: &'static str, value: f64) -> Figure {
    Figure { subject, metric, unit, value }
}

pub fn figures(workshop: &mut Workshop) -> Result<Vec<Figure>> {
    setup::prepare(workshop, &[Need::Kernel, Need::Kvm])?;
    let place = place()?;
    let kernel = kernel::build(workshop)?;
    let init = build::init::build(workshop)?;
    let length =
        |path: &Path| fs::metadata(path).map(|data| data.len()).with_context(|| path.display().to_string());
    let ferry =
        build::ferry::distribution(workshop, &kernel, &init.initrd, &workshop.target_dir.join("bench"))?;
    // What is inside lies in the file as it is.
    let carried = length(&kernel.vmlinux)? + length(&init.initrd)?;
    let bare = build::ferry::machine_only(workshop)?;
    let bytes = |subject, bytes: u64| figure(subject, "vmm_binary_bytes", "bytes", bytes as f64);
    let mut figures =
        vec![bytes(FERRY, length(&ferry)?.saturating_sub(carried)), bytes(FERRY_VMM, length(&bare)?)];
    let allowed = Lock::allowed(Role::Vcpu).len();
    figures.push(figure(FERRY, "vcpu_filter_system_calls", "system calls", allowed as f64));

    let idle = place.path().join("idle");
    fs::write(&idle, kernel_of(&IDLE))?;
    let resetting = place.path().join("resetting");
    fs::write(&resetting, kernel_of(&RESETTING))?;
    figures.extend(seconds(FERRY, || ferry_told(&ferry, &resetting, place.path()))?);
    figures.push(memory(FERRY, || Running::ferry(&ferry, &idle, place.path()))?);
    let alone = self::place()?;
    figures.extend(seconds(FERRY_VMM, || ferry_vmm_told(&bare, &resetting, alone.path()))?);
    figures.push(memory(FERRY_VMM, || Running::ferry_vmm(&bare, &idle, alone.path()))?);
    if workshop.tools.find("qemu-system-x86_64").is_some() {
        figures.push(memory(QEMU, || Running::qemu(workshop, alone.path()))?);
        let [least, _] = seconds(QEMU, || cpu_seconds(Running::qemu(workshop, alone.path())?.machine))?;
        figures.push(least);
    }
    figures.extend(inside(workshop)?);
    Ok(figures)
}

/// A directory in memory, as `$XDG_RUNTIME_DIR` is, where ferry has its sockets on hosts with one: what a disk's file system
/// does when a file is made is not the machine's.
fn place() -> Result<tempfile::TempDir> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let place = runtime.unwrap_or_else(|| PathBuf::from("/dev/shm"));
    tempfile::tempdir_in(&place).with_context(|| format!("no directory in {}", place.display()))
}

/// `hlt`, and again. Interrupts are off at entry.
const IDLE: [u8; 3] = [0xf4, 0xeb, 0xfd];
/// `mov al, 0xfe; out 0x64, al`: the keyboard controller's reset; and then the same.
const RESETTING: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// An ELF file with this code at 1 MiB.
fn kernel_of(code: &[u8]) -> Vec<u8> {
    const ENTRY: u64 = 0x10_0000;
    let offset = HEADER + PROGRAM_HEADER;
    let segment = Segment {
        kind: PT_LOAD,
        flags: 5,
        offset,
        virtual_address: ENTRY,
        physical_address: ENTRY,
        in_file: code.len(),
        in_memory: code.len() as u64,
    };
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // An executable for x86-64, entered there, its program headers behind this one.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([ENTRY, HEADER as u64, 0].map(u64::to_le_bytes).concat());
    file.extend([0, 0, 0, 0, HEADER as u8, 0, PROGRAM_HEADER as u8, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(segment.bytes(1));
    file.extend(code);
    file
}

/// `ferry run`, as a user starts it: its VM has a process of its own.
fn ferry_command(program: &Path, kernel: &Path, place: &Path) -> Result<Command> {
    let image = place.join("image");
    fs::create_dir_all(image.join("bin"))?;
    fs::write(image.join("bin/true"), "")?;
    let mut command = Command::new(program);
    command
        .args(["run", "--rm", "--memory", &format!("{MEMORY_MIB}m"), "--report"])
        .arg(place.join("report.json"))
        .arg("--kernel")
        .arg(kernel)
        .arg(format!("dir:{}", image.display()))
        .arg("/bin/true")
        .env("XDG_RUNTIME_DIR", place)
        .env("XDG_DATA_HOME", place.join("data"));
    Ok(command)
}

/// The machine alone, with devices of the same kinds.
fn ferry_vmm_command(program: &Path, kernel: &Path, place: &Path) -> Result<Command> {
    let disk = place.join("disk");
    fs::File::create(&disk)?.set_len(1 << 20)?;
    let socket = place.join("vsock");
    let _ = fs::remove_file(&socket);
    let mut command = Command::new(program);
    command
        .args(["--memory", &MEMORY_MIB.to_string(), "--balloon", "yes", "--kernel"])
        .arg(kernel)
        .arg("--disk")
        .arg(format!("{}:ro", disk.display()))
        .arg("--disk")
        .arg(&disk)
        .arg("--vsock")
        .arg(socket)
        .args(["--metrics", "-"])
        .env("XDG_RUNTIME_DIR", place);
    Ok(command)
}

fn quietly(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Runs a machine whose guest resets itself at once; processor seconds of its process until the guest was entered.
fn ferry_told(program: &Path, kernel: &Path, place: &Path) -> Result<f64> {
    let mut command = ferry_command(program, kernel, place)?;
    quietly(&mut command).status().with_context(|| format!("cannot start {command:?}"))?;
    let report = place.join("report.json");
    let text = fs::read_to_string(&report).with_context(|| format!("no {}", report.display()))?;
    until_entered(&text, "/metrics/cpu_ns_to_first_run")
}

/// The same for the machine alone.
fn ferry_vmm_told(program: &Path, kernel: &Path, place: &Path) -> Result<f64> {
    let mut command = ferry_vmm_command(program, kernel, place)?;
    let output = quietly(&mut command)
        .stdout(Stdio::piped())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    until_entered(&String::from_utf8_lossy(&output.stdout), "/cpu_ns_to_first_run")
}

fn until_entered(report: &str, figure: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(report)?;
    let nanoseconds = report.pointer(figure).and_then(Value::as_f64).filter(|value| *value > 0.0);
    Ok(nanoseconds.context("the report does not say when the guest was entered")? / 1e9)
}

/// A process with a machine whose guest does nothing.
struct Running {
    child: Child,
    /// The process that the machine is in, where it is not the one that was started.
    machine: u32,
}

impl Running {
    fn ferry(program: &Path, idle: &Path, place: &Path) -> Result<Self> {
        let child = quietly(&mut ferry_command(program, idle, place)?).spawn()?;
        let mut running = Self { machine: child.id(), child };
        running.machine =
            running.wait_for(|pid| child_of(pid).filter(|child| has_thread(*child, "vcpu0")))?;
        Ok(running)
    }

    fn ferry_vmm(program: &Path, idle: &Path, place: &Path) -> Result<Self> {
        let child = quietly(&mut ferry_vmm_command(program, idle, place)?).spawn()?;
        let mut running = Self { machine: child.id(), child };
        running.machine = running.wait_for(|pid| has_thread(pid, "vcpu0").then_some(pid))?;
        Ok(running)
    }

    /// QEMU with the same devices as far as it has them; stopped before the first instruction, since it has no kernel.
    fn qemu(workshop: &Workshop, place: &Path) -> Result<Self> {
        let disk = place.join("disk");
        let drive =
            |id: &str, more: &str| format!("id={id},file={},format=raw,if=none{more}", disk.display());
        let child = workshop
            .tools
            .command("qemu-system-x86_64")
            .args(["-M", "microvm", "-accel", "kvm", "-cpu", "host,-arch-capabilities", "-S"])
            .args(["-m", &format!("{MEMORY_MIB}m"), "-nodefaults", "-no-user-config", "-display", "none"])
            .args([
                "-serial",
                "null",
                "-drive",
                &drive("a", ",readonly=on"),
                "-drive",
                &drive("b", ",file.locking=off"),
            ])
            .args(["-device", "virtio-blk-device,drive=a", "-device", "virtio-blk-device,drive=b"])
            .args(["-device", "virtio-rng-device", "-device", "virtio-balloon-device"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let mut running = Self { machine: child.id(), child };
        running.wait_for(|pid| guest_memory(pid).map(|_| pid))?;
        Ok(running)
    }

    /// Waits until `ready` finds the machine's process.
    fn wait_for(&mut self, ready: impl Fn(u32) -> Option<u32>) -> Result<u32> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(pid) = ready(self.child.id()) {
                thread::sleep(REST);
                return Ok(pid);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("a process that was to be measured has ended: {status}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("a process that was to be measured has no machine after {} s", PATIENCE.as_secs())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: sends a signal to a process that this one has started and not yet waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

fn memory(subject: &'static str, start: impl Fn() -> Result<Running>) -> Result<Figure> {
    let bytes = private_bytes(start().context(subject)?.machine).context(subject)?;
    Ok(figure(subject, "private_bytes_outside_guest_ram", "bytes", bytes as f64))
}

/// The least of several starts, and the very first one in its place, which finds nothing that one before it has kept.
fn seconds(subject: &'static str, start: impl Fn() -> Result<f64>) -> Result<[Figure; 2]> {
    let first = start().context(subject)?;
    let mut least = f64::INFINITY;
    for _ in 0..STARTS {
        least = least.min(start().context(subject)?);
    }
    let of = |metric, value| figure(subject, metric, "seconds", value);
    Ok([of("cpu_seconds_to_first_run", least), of("cpu_seconds_to_first_run_nothing_kept", first)])
}

fn child_of(pid: u32) -> Option<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks.flatten().find_map(|task| {
        let children = fs::read_to_string(task.path().join("children")).ok()?;
        children.split_whitespace().find_map(|child| {
            let child = child.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name.trim_end() == "ferry-vm").then_some(child)
        })
    })
}

fn has_thread(pid: u32, name: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .into_iter()
        .any(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name))
}

/// Processor time of all threads that live.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// One mapping of a process.
struct Mapping {
    start: u64,
    end: u64,
    private: u64,
}

fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(parse_smaps(&text))
}

fn parse_smaps(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let range = first.split_once('-').and_then(|(start, end)| {
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
        });
        match (range, first, mappings.last_mut()) {
            (Some((start, end)), ..) => mappings.push(Mapping { start, end, private: 0 }),
            (None, "Private_Clean:" | "Private_Dirty:" | "Private_Hugetlb:", Some(mapping)) => {
                let kib = rest.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
                mapping.private += kib.unwrap_or(0) << 10;
            }
            _ => {}
        }
    }
    mappings
}

/// Where the guest's memory ends: the end of the one mapping that is nearly as large.
fn end_of_guest_memory(mappings: &[Mapping]) -> Option<u64> {
    let nearly = (MEMORY_MIB << 20) / 4 * 3..=MEMORY_MIB << 20;
    mappings.iter().find(|mapping| nearly.contains(&(mapping.end - mapping.start))).map(|mapping| mapping.end)
}

fn guest_memory(pid: u32) -> Option<u64> {
    end_of_guest_memory(&mappings(pid).ok()?)
}

/// Bytes that this process alone has, without those of its guest's memory.
fn private_bytes(pid: u32) -> Result<u64> {
    let mappings = mappings(pid)?;
    outside_guest_memory(&mappings).context("the guest's memory is not found among the process's mappings")
}

fn outside_guest_memory(mappings: &[Mapping]) -> Option<u64> {
    let end = end_of_guest_memory(mappings)?;
    let guest = end - (MEMORY_MIB << 20)..end;
    Some(
        mappings
            .iter()
            .filter(|mapping| !guest.contains(&mapping.start))
            .map(|mapping| mapping.private)
            .sum(),
    )
}

/// The benchmark inside of ferry's library, optimised as the product is.
fn inside(workshop: &Workshop) -> Result<Vec<Figure>> {
    let output = build::ferry::benchmark(workshop)?
        .stderr(Stdio::inherit())
        .output()
        .context("the benchmark of the devices does not start")?;
    ensure!(output.status.success(), "the benchmark of the devices: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut figures = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let said: Value = serde_json::from_str(line)?;
        let known = INSIDE.iter().find(|(metric, unit)| said["metric"] == *metric && said["unit"] == *unit);
        let ((metric, unit), value) =
            known.zip(said["value"].as_f64()).with_context(|| format!("odd: {line}"))?;
        figures.push(figure(FERRY, metric, unit, value));
    }
    ensure!(!figures.is_empty(), "the benchmark of the devices says nothing");
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_kernel_is_an_executable() {
        let file = kernel_of(&IDLE);
        let (_, segments) = crate::elf::parse(&file).unwrap();
        assert_eq!((segments.len(), segments[0].in_file), (1, 3));
        assert_eq!(&file[segments[0].offset..], [0xf4, 0xeb, 0xfd]);
    }

    #[test]
    fn memory_of_the_guest_does_not_count() {
        let text = "\
00400000-00500000 r-xp 00000000 08:01 1 /ferry
Rss:                 100 kB
Private_Clean:        40 kB
Private_Dirty:         0 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Private_Dirty:       900 kB
7f0000100000-7f0008000000 rw-p 00000000 00:00 0
Private_Dirty:       800 kB
7f0008000000-7f0008010000 rw-p 00000000 00:00 0
Private_Dirty:         8 kB
";
        let mappings = parse_smaps(text);
        assert_eq!(mappings.len(), 4);
        assert_eq!(outside_guest_memory(&mappings), Some(48 << 10));
        assert_eq!(outside_guest_memory(&mappings[..2]), None);
    }
}
