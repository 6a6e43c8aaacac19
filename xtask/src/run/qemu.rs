//! Guests on QEMU's `microvm` without KVM: the same kernel, PID 1 and disks as on ferry's own machine.
//!
//! QEMU gets its files by descriptor and dies with xtask, so a run leaves nothing behind however it ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ferry_images::Segment;
use ferry_vmm::agent::{Transport, printable};
use ferry_vmm::machine::cmdline::{self, Processor};
use ferry_vmm::runtime::guest::{Contents, End, Guest, Launch, LaunchError, Plan, Reason, Serial};
use ferry_vmm::runtime::network::{self, OtherEnd};

use crate::tools::Tools;

/// Starts guests on QEMU.
#[derive(Debug)]
pub struct Qemu<'a> {
    /// Where the program is.
    pub tools: &'a Tools,
    /// Further arguments of the user's, after all others.
    pub further: &'a [OsString],
}

/// The size of a disk sector in bytes.
const SECTOR: u64 = 512;

/// More than a panic with its backtrace.
const TAIL: u64 = 16 << 10;

/// What a Linux kernel prints first when it panics.
const PANIC: &str = "Kernel panic - not syncing: ";

impl Launch for Qemu<'_> {
    fn has_network(&self) -> bool {
        true
    }

    fn shares(&self) -> Result<(), LaunchError> {
        let why = "-v: QEMU shares directories only by handing the guest's memory to another process: run it with --on kvm";
        Err(LaunchError(why.to_owned()))
    }

    fn launch(&self, plan: &Plan) -> Result<Arc<dyn Guest>, LaunchError> {
        let own = [
            ("--memory-limit", plan.memory_limit.is_some()),
            ("--dump-fdt", plan.tell.device_tree.is_some()),
        ];
        if let Some((option, _)) = own.into_iter().find(|(_, is_given)| *is_given) {
            let text = "is for ferry's own machine: run it with --on kvm, or leave it out";
            return Err(LaunchError(format!("{option} {text}")));
        }
        self.start(plan)
            .map(|guest| Arc::new(guest) as Arc<dyn Guest>)
            .map_err(|error| LaunchError(format!("cannot start qemu-system-x86_64: {error}")))
    }
}

impl Qemu<'_> {
    fn start(&self, plan: &Plan) -> io::Result<Running> {
        let socket = plan.directory.join("agent");
        let serial = tempfile::tempfile()?;
        let complaints = tempfile::tempfile()?;
        // Files that QEMU opens by their descriptors' names; they need stay open here only until it has started.
        let mut given = vec![serial.try_clone()?];
        let mut qemu = self.machine(plan);
        qemu.arg("-chardev").arg(format!("file,id=serial,path={}", descriptor(&given[0])));
        qemu.args(["-serial", "chardev:serial"]);
        // A comma in a value is written twice.
        let path = socket.display().to_string().replace(',', ",,");
        qemu.arg("-chardev").arg(format!("socket,id=agent,server=on,wait=off,path={path}"));
        // The agent's port and the one before it, which is a console's.
        qemu.args(["-device", "virtio-serial-device,max_ports=2"]);
        qemu.args([
            "-device",
            "virtserialport,chardev=agent,name=agent.channel.0",
            "-device",
            "virtio-rng-device",
        ]);
        for disk in &plan.disks {
            let (format, file) = match &disk.contents {
                // Files are mapped only where that was asked of the launcher.
                Contents::Layers(segments) | Contents::Mapped(segments) => {
                    let (text, files) = vmdk(segments)?;
                    let mut file = tempfile::tempfile()?;
                    file.write_all(text.as_bytes())?;
                    given.extend(files);
                    ("vmdk,readonly=on", file)
                }
                // Whatever is on it goes with the run: nothing need reach the host's disk.
                Contents::Scratch(path) | Contents::Throwaway(path) => {
                    ("raw,cache=unsafe,discard=unmap", File::options().read(true).write(true).open(path)?)
                }
            };
            let serial = &disk.serial;
            qemu.arg("-drive").arg(format!("if=none,id={serial},file={},format={format}", descriptor(&file)));
            qemu.arg("-device").arg(format!("virtio-blk-device,drive={serial},serial={serial}"));
            given.push(file);
        }
        if let Some(network) = &plan.network {
            let backend = match network::other_end(network).map_err(io::Error::other)? {
                OtherEnd::Stream(socket) => {
                    let socket = File::from(OwnedFd::from(socket));
                    let backend = format!("stream,server=off,addr.type=fd,addr.str={}", socket.as_raw_fd());
                    given.push(socket);
                    backend
                }
                OtherEnd::Tap(name) => format!("tap,ifname={name},script=no,downscript=no"),
            };
            let mac = network.mac.map(|byte| format!("{byte:02x}")).join(":");
            qemu.args(["-netdev", &format!("{backend},id=network")]);
            qemu.args(["-device", &format!("virtio-net-device,netdev=network,mac={mac},ctrl_vlan=off")]);
        }
        if let Some(socket) = &plan.gdb {
            let path = socket.display().to_string().replace(',', ",,");
            qemu.arg("-gdb").arg(format!("unix:{path},server=on,wait=off")).arg("-S");
        }
        qemu.args(self.further);
        qemu.stdin(Stdio::null()).stdout(complaints.try_clone()?).stderr(complaints.try_clone()?);
        tie(&mut qemu, given.iter().map(AsRawFd::as_raw_fd).collect());
        let child = qemu.spawn()?;
        let shown = (plan.serial == Serial::Stderr).then(|| Shown::start(&serial)).transpose()?;
        Ok(Running { socket, child: Mutex::new(child), serial, complaints, shown })
    }

    /// The machine without its devices.
    fn machine(&self, plan: &Plan) -> Command {
        let mut qemu = self.tools.command("qemu-system-x86_64");
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            self.tools.unpacked(data).for_each(|path| {
                qemu.arg("-L").arg(path);
            });
        }
        // With a thread for each vCPU it translates code that another vCPU is just writing, and half of an instruction gets
        // run: just-in-time compilers, as Java's, write code beside code that runs, and crash now and then.
        qemu.args(["-M", "microvm,acpi=off,rtc=on", "-accel", "tcg,thread=single", "-cpu", "max"]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        qemu.args(["-global", "virtio-mmio.force-legacy=false"]);
        qemu.arg("-smp").arg(plan.vcpus.to_string());
        qemu.arg("-m").arg(format!("{}M", plan.memory_mib));
        for (option, file) in [("-kernel", &plan.kernel), ("-initrd", &plan.initrd)] {
            if let Some(file) = file {
                qemu.arg(option).arg(file);
            }
        }
        qemu.arg("-append").arg(cmdline::for_qemu(Processor::Complete, &plan.cmdline_extra));
        qemu
    }
}

/// A guest that runs. Dropping it ends it.
struct Running {
    socket: PathBuf,
    child: Mutex<Child>,
    serial: File,
    complaints: File,
    /// Its serial output, where people see it.
    shown: Option<Shown>,
}

impl Guest for Running {
    fn transport(&self) -> Transport {
        Transport::Stream { socket: self.socket.clone() }
    }

    fn wait(&self, at_most: Duration) -> Option<End> {
        let until = Instant::now() + at_most;
        loop {
            if let Ok(Some(status)) = self.child().try_wait() {
                return Some(self.end(status));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    fn stop(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
        if let Some(shown) = &self.shown {
            shown.finish();
        }
    }

    fn serial_tail(&self) -> String {
        tail(&self.serial).unwrap_or_default()
    }
}

impl Running {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, status: ExitStatus) -> End {
        if let Some(panic) = panic_in(&self.serial_tail()) {
            return End { reason: Reason::GuestPanic, detail: panic };
        }
        if status.success() {
            return End { reason: Reason::Reset, detail: String::new() };
        }
        let words = tail(&self.complaints).unwrap_or_default();
        let last = printable(words.trim().lines().last().unwrap_or_default());
        let reason = if status.code().is_some() { Reason::VmmError } else { Reason::VmmKilled };
        End { reason, detail: if last.is_empty() { format!("QEMU: {status}") } else { last } }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A name that leads to an open file, in this process and in a child that has inherited it.
fn descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Lets QEMU inherit these descriptors, live no longer than this process's thread, and not hear the terminal's signals.
fn tie(command: &mut Command, given: Vec<RawFd>) {
    let prepare = move || {
        // SAFETY: plain system calls on numbers, which may be made between fork and exec.
        let done = unsafe {
            libc::setsid() != -1
                && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
                && given.iter().all(|fd| libc::fcntl(*fd, libc::F_SETFD, 0) == 0)
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// A VMDK descriptor (VMware's Virtual Disk Format 1.1) of a disk that is the segments one behind the other, and the files
/// that it names.
///
/// QEMU skips extents that are not `RW`; the drive itself is read-only.
fn vmdk(segments: &[Segment]) -> io::Result<(String, Vec<File>)> {
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\n\
         # Extent description\n",
    );
    let mut files = Vec::new();
    for segment in segments {
        let file = File::open(&segment.path)?;
        text += &format!("RW {} FLAT \"{}\" 0\n", segment.bytes / SECTOR, descriptor(&file));
        files.push(file);
    }
    Ok((text, files))
}

/// The end of what is in a file that another process writes.
fn tail(file: &File) -> io::Result<String> {
    // A file description of our own: the other one's offset is QEMU's.
    let mut file = File::open(descriptor(file))?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Shows what the guest's serial port says on standard error.
struct Shown {
    over: Arc<AtomicBool>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Shown {
    fn start(log: &File) -> io::Result<Self> {
        // A file description of our own: the other one's offset is QEMU's.
        let mut log = File::open(descriptor(log))?;
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = thread::spawn(move || {
            loop {
                // Asked before the last look, so that nothing comes after it.
                let last = told.load(Ordering::Acquire);
                if io::copy(&mut log, &mut io::stderr()).is_err() || last {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        Ok(Self { over, thread: Mutex::new(Some(thread)) })
    }

    /// Shows the rest; nothing is written any more.
    fn finish(&self) {
        self.over.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// The reason of a kernel's panic, if it had one.
fn panic_in(serial: &str) -> Option<String> {
    let (_, reason) = serial.split_once(PANIC)?;
    Some(printable(reason.lines().next().unwrap_or_default().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_by_its_reason() {
        let serial =
            "[    0.1] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    0.2] CPU: 0\n";
        assert_eq!(panic_in(serial).as_deref(), Some("VFS: Unable to mount root fs"));
        assert_eq!(panic_in("all is well"), None);
    }

    #[test]
    fn the_disk_descriptor_counts_sectors_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let segment = |name: &str, bytes| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            Segment { path, bytes }
        };
        let (text, files) = vmdk(&[segment("a\"b,c", 4096), segment("d", 1 << 20)]).unwrap();
        let extents: Vec<&str> = text.lines().filter(|line| line.starts_with("RW ")).collect();
        assert_eq!(extents[0], format!("RW 8 FLAT \"{}\" 0", descriptor(&files[0])));
        assert!(extents[1].starts_with("RW 2048 FLAT "), "{text}");
    }

    #[test]
    fn the_end_of_a_file_is_read_whatever_another_is_doing_to_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'x'; TAIL as usize]).unwrap();
        file.write_all(b"the end").unwrap();
        let tail = tail(&file).unwrap();
        assert!(tail.ends_with("the end"));
        assert_eq!(tail.len(), TAIL as usize);
    }
}
