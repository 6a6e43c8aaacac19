//! One vCPU: its state at entry, and the loop that runs it and deals with what comes out.

use super::ending::Ending;
use super::hold::{Hold, Stop};
use super::metrics::Exits;
use super::{Error, Exit, cpuid, entry, explain};
use crate::devices::bus::Bus;
use crate::sandbox::Lock;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_debug_exit_arch, kvm_msr_entry};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::{Arc, Mutex};

/// IA32_MISC_ENABLE with fast string operations on.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// IA32_MTRR_DEF_TYPE: enabled, and everything write-back. The holes are KVM's own business.
const MTRR_DEFAULT: (u32, u64) = (0x2ff, 1 << 11 | 6);
/// `KVM_INTERNAL_ERROR_EMULATION`: an instruction that KVM's emulator does not know.
const EMULATION_FAILURE: u32 = 1;

/// #BP, the exception of `int3`.
const BREAKPOINT: u32 = 3;

/// The buses a vCPU's accesses go to.
pub struct Buses {
    /// Ports.
    pub ports: Bus,
    /// Memory-mapped registers.
    pub memory: Bus,
}

/// A vCPU that belongs to the thread that runs it.
pub struct Vcpu {
    number: usize,
    fd: VcpuFd,
    exits: Arc<Exits>,
}

impl Vcpu {
    /// Takes a new vCPU and sets what all of them have in common.
    pub fn new(
        fd: VcpuFd,
        id: u8,
        count: u8,
        supported: &CpuId,
        without_hypercalls: bool,
    ) -> Result<Self, Error> {
        let step = Error::kvm;
        let leaves = cpuid::for_vcpu(supported, id, count, without_hypercalls);
        fd.set_cpuid2(&leaves).map_err(step("set the CPUID leaves"))?;
        // The local APIC stays as it is after a reset, with the boot processor's LINT0 as ExtINT: kernels set up the rest.
        let registers = [MTRR_DEFAULT, MISC_ENABLE].map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        });
        let mut done = 0;
        while done < registers.len() {
            let list = Msrs::from_entries(&registers[done..])
                .map_err(|_| Error::Internal("a list of two MSRs is too long"))?;
            // It ends before a register that this KVM does not have, which stays as it is.
            done += fd.set_msrs(&list).map_err(step("set the MSRs"))?.max(1);
        }
        Ok(Self { number: id.into(), fd, exits: Arc::default() })
    }

    /// Its exits, counted.
    pub fn exits(&self) -> Arc<Exits> {
        self.exits.clone()
    }

    /// Its CPUID leaves, as KVM has them.
    pub fn cpuid(&self) -> Result<CpuId, Error> {
        self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("tell the CPUID leaves"))
    }

    /// Makes this the boot processor, which starts at `entry` in 64-bit mode.
    pub fn start_at(&self, entry: u64) -> Result<(), Error> {
        let mut special = self.fd.get_sregs().map_err(Error::kvm("read the special registers"))?;
        entry::enter_long_mode(&mut special);
        self.fd.set_sregs(&special).map_err(Error::kvm("set the special registers"))?;
        self.fd.set_regs(&entry::registers(entry)).map_err(Error::kvm("set the registers"))
    }

    /// Runs the vCPU until the machine's run is over, and ends the run itself where the guest does.
    pub fn run(&mut self, buses: &Buses, ending: &Ending, hold: &Hold) -> Result<(), Error> {
        let _kickable = Kickable::new(&mut self.fd);
        let exits = self.exits.clone();
        // An access that KVM completes when the vCPU is run again: before that its registers are those before.
        let mut access_pending = false;
        exits.first_run();
        while !ending.is_over() {
            if hold.is_wanted() {
                if access_pending {
                    self.fd.set_kvm_immediate_exit(1);
                } else if hold.stay(self.number, &mut self.fd) {
                    // Where the guest uses KVM's clock, its watchdogs learn that time has passed without it.
                    let _ = self.fd.kvmclock_ctrl();
                    continue;
                }
            }
            match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    Exits::count(&exits.port_writes);
                    buses.ports.write(port.into(), data);
                    access_pending = true;
                }
                Ok(VcpuExit::IoIn(port, data)) => {
                    Exits::count(&exits.port_reads);
                    buses.ports.read(port.into(), data);
                    access_pending = true;
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    Exits::count(&exits.register_writes);
                    buses.memory.write(address, data);
                    access_pending = true;
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    Exits::count(&exits.register_reads);
                    buses.memory.read(address, data);
                    access_pending = true;
                }
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Exits::count(&exits.others),
                Ok(VcpuExit::Debug(debug)) => {
                    Exits::count(&exits.others);
                    access_pending = false;
                    self.debugged(debug, hold);
                }
                Ok(VcpuExit::Shutdown) => {
                    let detail = explain::registers(&self.fd);
                    self.last_look(hold);
                    ending.set(Exit::TripleFault { detail });
                }
                Ok(VcpuExit::SystemEvent(..)) => ending.set(Exit::Reset),
                Ok(VcpuExit::InternalError) => {
                    Exits::count(&exits.others);
                    if !self.complete_instruction(hold) {
                        let exit = self.internal_error();
                        self.last_look(hold);
                        ending.set(exit);
                    }
                }
                Ok(other) => {
                    let detail = format!("an exit that means nothing here: {other:?}");
                    ending.set(self.unexpected(detail));
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    Exits::count(&exits.others);
                    access_pending = false;
                    self.fd.set_kvm_immediate_exit(0);
                }
                Err(error) => return Err(Error::kvm("run a vCPU")(error)),
            }
        }
        Ok(())
    }

    /// Lets a debugger, if there is one, look at a guest that is about to end.
    fn last_look(&mut self, hold: &Hold) {
        if hold.stopped(self.number, Stop::Fatal) {
            hold.stay(self.number, &mut self.fd);
        }
    }

    /// Tells the debugger why this vCPU has stopped, unless it is none of its business.
    fn debugged(&mut self, debug: kvm_debug_exit_arch, hold: &Hold) {
        /// DR6: the condition of a debug register was met; a step was made.
        const WATCHED: u64 = 0xf;
        const STEPPED: u64 = 1 << 14;
        let stop = match debug.exception {
            BREAKPOINT if hold.has_breakpoint(debug.pc) => Stop::Breakpoint,
            BREAKPOINT => {
                self.skip_byte(Some(BREAKPOINT as u8));
                return;
            }
            _ if debug.dr6 & WATCHED != 0 => Stop::Watched((debug.dr6 & WATCHED) as u8),
            _ if debug.dr6 & STEPPED != 0 => match hold.stepped(self.number) {
                Some(stop) => stop,
                None => return,
            },
            _ => return,
        };
        hold.stopped(self.number, stop);
    }

    /// What KVM said in its run page of an emulation failure: its reason and the instruction's bytes.
    fn failure(&mut self) -> (u32, Vec<u8>, String) {
        /// `KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`.
        const HAS_BYTES: u64 = 1;
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so this is the union's live member.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let data = internal.data;
        let words = &data[..data.len().min(internal.ndata as usize)];
        let mut instruction = Vec::new();
        if internal.suberror == EMULATION_FAILURE && words.len() >= 3 && words[0] & HAS_BYTES != 0 {
            let bytes: Vec<u8> = words[1..3].iter().flat_map(|word| word.to_le_bytes()).collect();
            let length = usize::from(bytes[0]).min(15);
            instruction = bytes[1..=length].to_vec();
        }
        let words: Vec<_> = words.iter().map(|word| format!("{word:#x}")).collect();
        (internal.suberror, instruction, words.join(" "))
    }

    /// Completes an instruction that KVM's emulator does not know and that has no effect here or a simple one: `fwait`
    /// with no exception pending, and `int3`, which may be a debugger's breakpoint.
    fn complete_instruction(&mut self, hold: &Hold) -> bool {
        let (suberror, instruction, _) = self.failure();
        match instruction.first() {
            _ if suberror != EMULATION_FAILURE => false,
            Some(0x9b) => self.skip_byte(None),
            Some(0xcc) => match self.fd.get_regs() {
                Ok(registers) if hold.has_breakpoint(registers.rip) => {
                    self.take_exception_back().is_ok() && hold.stopped(self.number, Stop::Breakpoint)
                }
                _ => self.skip_byte(Some(BREAKPOINT as u8)),
            },
            _ => false,
        }
    }

    /// Goes one byte on, and into an exception's handler if there is one.
    fn skip_byte(&mut self, exception: Option<u8>) -> bool {
        let Ok(mut registers) = self.fd.get_regs() else { return false };
        registers.rip = registers.rip.wrapping_add(1);
        self.fd.set_regs(&registers).is_ok() && self.set_exception(exception).is_ok()
    }

    /// KVM has queued an invalid-opcode exception for an instruction that it does not know.
    fn take_exception_back(&mut self) -> Result<(), kvm_ioctls::Error> {
        self.set_exception(None)
    }

    fn set_exception(&mut self, exception: Option<u8>) -> Result<(), kvm_ioctls::Error> {
        let mut events = self.fd.get_vcpu_events()?;
        events.exception.injected = u8::from(exception.is_some());
        events.exception.pending = 0;
        events.exception.nr = exception.unwrap_or_default();
        events.exception.has_error_code = 0;
        self.fd.set_vcpu_events(&events)
    }

    fn internal_error(&mut self) -> Exit {
        let (suberror, instruction, words) = self.failure();
        let what = match suberror {
            EMULATION_FAILURE => "an instruction KVM cannot emulate",
            2 => "simultaneous exceptions",
            3 => "an event that could not be delivered",
            4 => "an unexpected exit reason",
            _ => "an unknown reason",
        };
        let detail = format!("{what} (data {words}); {}", explain::registers(&self.fd));
        Exit::InternalError { suberror, instruction, detail }
    }

    fn unexpected(&mut self, detail: String) -> Exit {
        let suberror = self.fd.get_kvm_run().exit_reason;
        let detail = format!("{detail}; {}", explain::registers(&self.fd));
        Exit::InternalError { suberror, instruction: Vec::new(), detail }
    }
}

thread_local! {
    /// The `immediate_exit` byte of the vCPU that this thread runs, if it runs one.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// While it lives, the kick signal takes this thread out of KVM_RUN, and the next KVM_RUN returns at once.
struct Kickable;

impl Kickable {
    fn new(fd: &mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
        Self
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// The signal that kicks a vCPU's thread.
pub fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Installs the kick signal's handler for this process.
pub fn install_kick() -> io::Result<()> {
    extern "C" fn kicked(_: libc::c_int) {
        let byte = IMMEDIATE_EXIT.get();
        if !byte.is_null() {
            // SAFETY: set by this very thread to a byte of the run page of the vCPU it owns, and cleared before that
            // is unmapped. KVM reads it; a volatile store of a byte is all that a signal handler does.
            unsafe { byte.write_volatile(1) };
        }
    }
    // SAFETY: an all-zero sigaction is a valid one, filled in below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = kicked as *const () as usize;
    // SAFETY: `action` is a complete sigaction whose handler only stores a byte (see there).
    match unsafe { libc::sigaction(kick_signal(), &action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A vCPU's thread, to be kicked from others.
pub struct VcpuThread {
    thread: std::thread::JoinHandle<Result<(), Error>>,
}

impl VcpuThread {
    /// Starts the thread that runs `vcpu`, locked in if there is a lock, as soon as the gate is open.
    pub fn spawn(
        number: usize,
        mut vcpu: Vcpu,
        lock: Option<Lock>,
        gate: Arc<Mutex<()>>,
        buses: Arc<Buses>,
        ending: Arc<Ending>,
        hold: Arc<Hold>,
    ) -> io::Result<Self> {
        let run = move || {
            let locked = lock.map_or(Ok(()), |lock| Ok(lock.enter()?));
            drop(gate.lock());
            hold.arrive(number);
            let result = locked.and_then(|()| vcpu.run(&buses, &ending, &hold));
            hold.leave(number);
            if result.is_err() {
                // Whoever waits for the end must not wait for ever; the error itself comes with the join.
                ending.set(Exit::Killed);
            }
            result
        };
        let thread = std::thread::Builder::new().name(format!("vcpu{number}")).spawn(run)?;
        Ok(Self { thread })
    }

    /// Takes the thread out of the guest.
    pub fn kick(&self) {
        use std::os::unix::thread::JoinHandleExt;
        // SAFETY: the thread has not been joined, so its id is valid; the signal has a handler.
        unsafe { libc::pthread_kill(self.thread.as_pthread_t(), kick_signal()) };
    }

    /// Waits for the thread.
    pub fn join(self) -> Result<(), Error> {
        self.thread.join().unwrap_or(Err(Error::Internal("a vCPU's thread panicked")))
    }
}
