//! The machine as a debugger sees it: registers, memory, breakpoints, and which vCPU goes on how.

use super::super::hold::{Hold, LookedAfter, Stop};
use super::paging::Mode;
use crate::devices::virtio::Memory;
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target as GdbTarget, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_fpu,
    kvm_guest_debug, kvm_regs, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

/// Why the guest stopped.
pub type Reason = MultiThreadStopReason<u64>;

/// `int3`.
const INT3: u8 = 0xcc;
/// Bytes of a page of the least size: what is next to each other in one is so in guest memory too.
const PAGE: u64 = 4096;

/// The machine is gone while a debugger asks for it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the machine has ended")]
pub struct Lost;

/// What a debug register watches, encoded as in DR7: what (0: execution, 1: writes, 3: any access) and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    address: u64,
    what: u64,
    length: u64,
}

/// How a vCPU goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Stay,
    Go,
    Step,
}

/// A machine under a debugger's eyes.
pub struct Target {
    hold: Arc<Hold>,
    memory: Memory,
    /// What the debugger wants of each vCPU, and of those of which it says nothing.
    actions: Vec<Option<Action>>,
    others: Action,
    watches: [Option<Watch>; 4],
    /// Breakpoints in memory: where, by virtual address, the physical one and what was there.
    planted: BTreeMap<u64, (u64, u8)>,
    steps_to_watch: bool,
    /// The vCPU that was let go last, for what has no vCPU of its own.
    current: Tid,
}

fn tid(number: usize) -> Tid {
    Tid::MIN.saturating_add(number)
}

fn number(tid: Tid) -> usize {
    tid.get() - 1
}

impl Target {
    /// Takes the machine's vCPUs.
    pub fn new(hold: Arc<Hold>, memory: Memory, vcpus: usize) -> Self {
        hold.take_all();
        let steps_to_watch = hold.debugger().is_some_and(|debugger| debugger.steps_to_watch);
        let mut target = Self {
            steps_to_watch,
            hold,
            memory,
            actions: vec![None; vcpus],
            others: Action::Stay,
            watches: [None; 4],
            planted: BTreeMap::new(),
            current: tid(0),
        };
        target.quiet_bell();
        target
    }

    /// What becomes readable when the guest stops.
    pub fn bell(&self) -> RawFd {
        self.hold.debugger().map_or(-1, |debugger| debugger.bell.as_raw_fd())
    }

    fn quiet_bell(&mut self) {
        if let Some(debugger) = self.hold.debugger() {
            let _ = debugger.bell.read();
        }
    }

    /// Why the guest stopped, if it has; then no vCPU is in the guest.
    pub fn stopped(&mut self) -> Option<Reason> {
        self.quiet_bell();
        let stop = self.hold.take_stop();
        if !self.hold.take_all() {
            return Some(Reason::Exited(0));
        }
        let (vcpu, stop) = stop?;
        let tid = tid(vcpu);
        self.current = tid;
        Some(match stop {
            Stop::Breakpoint => Reason::SwBreak(tid),
            Stop::Step => Reason::SignalWithThread { tid, signal: Signal::SIGTRAP },
            Stop::Fatal => Reason::SignalWithThread { tid, signal: Signal::SIGSEGV },
            Stop::Watched(which) => match self.watches.get(which.trailing_zeros() as usize) {
                Some(Some(watch)) if watch.what != 0 => {
                    let kind = if watch.what == 1 { WatchKind::Write } else { WatchKind::ReadWrite };
                    Reason::Watch { tid, kind, addr: watch.address }
                }
                _ => Reason::HwBreak(tid),
            },
        })
    }

    /// Stops the guest because the debugger's user wants that.
    pub fn interrupt(&mut self) -> Reason {
        match self.hold.take_all() {
            true => Reason::SignalWithThread { tid: self.current, signal: Signal::SIGINT },
            false => Reason::Exited(0),
        }
    }

    /// Takes everything back that a debugger has put into the guest, and lets it go on.
    pub fn detach(mut self) {
        self.hold.take_all();
        let planted: Vec<u64> = self.planted.keys().copied().collect();
        for address in planted {
            self.unplant(address);
        }
        self.watches = [None; 4];
        for vcpu in 0..self.actions.len() {
            let off = kvm_guest_debug::default();
            let _ = self.on(vcpu, move |fd| fd.set_guest_debug(&off));
        }
        self.hold.set_breakpoints(std::iter::empty(), Vec::new());
        self.hold.let_some_go(|_| true, |_| false);
    }

    fn on<T: Send + 'static>(
        &self,
        vcpu: usize,
        errand: impl FnOnce(&mut VcpuFd) -> Result<T, kvm_ioctls::Error> + Send + 'static,
    ) -> TargetResult<T, Self> {
        match self.hold.errand(vcpu, errand) {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(TargetError::Errno(error.errno() as u8)),
            None => Err(TargetError::NonFatal),
        }
    }

    fn mode(&self, vcpu: usize) -> TargetResult<Mode, Self> {
        let kvm_sregs { cr0, cr3, cr4, efer, .. } = self.on(vcpu, |fd| fd.get_sregs())?;
        Ok(Mode { cr0, cr3, cr4, efer })
    }

    /// Calls `piece` with each piece of a virtual range that lies together in guest memory: its physical address, and which
    /// bytes of the range it is. How many bytes came before the first that are not mapped.
    fn pieces(
        &self,
        mode: Mode,
        start: u64,
        length: usize,
        mut piece: impl FnMut(u64, std::ops::Range<usize>) -> bool,
    ) -> usize {
        let mut done = 0;
        while done < length {
            let Some(address) = start.checked_add(done as u64) else { break };
            let step = ((PAGE - address % PAGE) as usize).min(length - done);
            let found = mode.translate(&self.memory, address);
            if !found.is_some_and(|physical| piece(physical, done..done + step)) {
                break;
            }
            done += step;
        }
        done
    }

    /// Writes `byte` where virtual `address` is on any vCPU; where that was, and what was there.
    fn exchange(&self, address: u64, byte: u8) -> Option<(u64, u8)> {
        let modes = (0..self.actions.len()).filter_map(|vcpu| self.mode(vcpu).ok());
        let physical = modes.into_iter().find_map(|mode| mode.translate(&self.memory, address))?;
        let before = self.memory.read_obj(GuestAddress(physical)).ok()?;
        self.memory.write_obj(byte, GuestAddress(physical)).ok()?;
        Some((physical, before))
    }

    fn unplant(&mut self, address: u64) -> bool {
        let Some((physical, before)) = self.planted.remove(&address) else { return false };
        // What the guest has written there itself is not changed back.
        match self.memory.read_obj(GuestAddress(physical)) {
            Ok(INT3) => self.memory.write_obj(before, GuestAddress(physical)).is_ok(),
            _ => true,
        }
    }

    /// The memory that is looked at after each step, where KVM does not watch it.
    fn looked_after(&self) -> Vec<LookedAfter> {
        let watches = self.watches.iter().enumerate().filter_map(|(place, watch)| Some((place, (*watch)?)));
        let watches = watches.filter(|(_, watch)| self.steps_to_watch && watch.what != 0);
        let found = watches.filter_map(|(place, watch)| {
            let mode = self.mode(number(self.current)).ok()?;
            let address = GuestAddress(mode.translate(&self.memory, watch.address)?);
            let length = watch.length as usize;
            let new = LookedAfter { register: place as u8, address, length, before: [0; 8] };
            Some(LookedAfter { before: new.now(&self.memory), ..new })
        });
        found.collect()
    }

    /// What a vCPU is asked to watch for while it goes on.
    fn debug(&self, action: Action) -> kvm_guest_debug {
        let mut debug = kvm_guest_debug { control: KVM_GUESTDBG_ENABLE, ..Default::default() };
        if !self.planted.is_empty() {
            debug.control |= KVM_GUESTDBG_USE_SW_BP;
        }
        let looks = self.steps_to_watch && self.watches.iter().flatten().any(|watch| watch.what != 0);
        if action == Action::Step || looks {
            debug.control |= KVM_GUESTDBG_SINGLESTEP;
        }
        // Exact matches, locally and globally, and bit 10, which is always one (SDM volume 3, section 18.2.4).
        let mut control = 1 << 8 | 1 << 9 | 1 << 10;
        for (place, watch) in self.watches.iter().enumerate() {
            let Some(watch) = watch else { continue };
            debug.arch.debugreg[place] = watch.address;
            let length = match watch.length {
                1 => 0,
                2 => 1,
                4 => 3,
                _ => 2,
            };
            control |= 2 << (2 * place) | (watch.what | length << 2) << (16 + 4 * place);
            debug.control |= KVM_GUESTDBG_USE_HW_BP;
        }
        debug.arch.debugreg[7] = control;
        debug
    }

    fn add_watch(&mut self, watch: Watch) -> bool {
        match self.watches.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(watch),
            None => return false,
        }
        true
    }

    fn remove_watch(&mut self, watch: Watch) -> bool {
        match self.watches.iter_mut().find(|place| **place == Some(watch)) {
            Some(place) => *place = None,
            None => return false,
        }
        true
    }
}

/// What DR7 can watch of the wish: pieces of 1, 2, 4 or 8 bytes at a multiple of their length. Reads alone are watched as any
/// access.
fn watch(address: u64, length: u64, kind: WatchKind) -> Option<Watch> {
    let fits = matches!(length, 1 | 2 | 4 | 8) && address.is_multiple_of(length);
    let what = if kind == WatchKind::Write { 1 } else { 3 };
    fits.then_some(Watch { address, what, length })
}

impl GdbTarget for Target {
    type Arch = X86_64_SSE;
    type Error = Lost;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

/// The order in which gdb numbers the general registers.
fn general(registers: &mut kvm_regs) -> [&mut u64; 16] {
    let r = registers;
    [
        &mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp, &mut r.rsp,
        &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
    ]
}

impl MultiThreadBase for Target {
    fn read_registers(&mut self, to: &mut X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        let (mut registers, special, fpu) =
            self.on(number(tid), |fd| Ok((fd.get_regs()?, fd.get_sregs()?, fd.get_fpu()?)))?;
        for (to, from) in to.regs.iter_mut().zip(general(&mut registers)) {
            *to = *from;
        }
        to.rip = registers.rip;
        to.eflags = registers.rflags as u32;
        to.segments.cs = special.cs.selector.into();
        to.segments.ss = special.ss.selector.into();
        to.segments.ds = special.ds.selector.into();
        to.segments.es = special.es.selector.into();
        to.segments.fs = special.fs.selector.into();
        to.segments.gs = special.gs.selector.into();
        for (to, from) in to.st.iter_mut().zip(&fpu.fpr) {
            to.copy_from_slice(&from[..10]);
        }
        for (to, from) in to.xmm.iter_mut().zip(fpu.xmm) {
            *to = u128::from_le_bytes(from);
        }
        to.fpu.fctrl = fpu.fcw.into();
        to.fpu.fstat = fpu.fsw.into();
        to.fpu.ftag = fpu.ftwx.into();
        to.fpu.fop = fpu.last_opcode.into();
        to.mxcsr = fpu.mxcsr;
        Ok(())
    }

    /// Segments stay as they are: a selector alone would not be what the guest would have loaded.
    fn write_registers(&mut self, from: &X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        let from = from.clone();
        self.on(number(tid), move |fd| {
            let mut registers = fd.get_regs()?;
            for (to, from) in general(&mut registers).into_iter().zip(from.regs) {
                *to = from;
            }
            registers.rip = from.rip;
            registers.rflags = registers.rflags & !0xffff_ffff | u64::from(from.eflags);
            fd.set_regs(&registers)?;
            let before = fd.get_fpu()?;
            let mut fpu: kvm_fpu = before;
            for (to, from) in fpu.fpr.iter_mut().zip(&from.st) {
                to[..10].copy_from_slice(from);
            }
            for (to, from) in fpu.xmm.iter_mut().zip(from.xmm) {
                *to = from.to_le_bytes();
            }
            fpu.mxcsr = from.mxcsr;
            if fpu == before { Ok(()) } else { fd.set_fpu(&fpu) }
        })
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let mode = self.mode(number(tid))?;
        let length = data.len();
        let done = self.pieces(mode, start, length, |physical, range| {
            self.memory.read_slice(&mut data[range], GuestAddress(physical)).is_ok()
        });
        // The guest's code as it is without the debugger's breakpoints.
        let end = start.saturating_add(done as u64);
        for (address, (_, before)) in self.planted.range(start..end) {
            data[(address - start) as usize] = *before;
        }
        if done == 0 && length > 0 { Err(TargetError::NonFatal) } else { Ok(done) }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let mode = self.mode(number(tid))?;
        let done = self.pieces(mode, start, data.len(), |physical, range| {
            self.memory.write_slice(&data[range], GuestAddress(physical)).is_ok()
        });
        if done < data.len() { Err(TargetError::NonFatal) } else { Ok(()) }
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), Lost> {
        (0..self.actions.len()).for_each(|vcpu| active(tid(vcpu)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Target {
    fn thread_extra_info(&self, tid: Tid, mut to: &mut [u8]) -> Result<usize, Lost> {
        let room = to.len();
        // What does not fit is left out.
        let _ = io::Write::write_fmt(&mut to, format_args!("vCPU {}", number(tid)));
        Ok(room - to.len())
    }
}

impl MultiThreadResume for Target {
    fn clear_resume_actions(&mut self) -> Result<(), Lost> {
        self.actions.fill(None);
        self.others = Action::Go;
        Ok(())
    }

    /// A guest takes no signals: what the debugger would send is left out.
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Lost> {
        self.set_action(tid, Action::Go);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Lost> {
        let actions: Vec<Action> = self.actions.iter().map(|action| action.unwrap_or(self.others)).collect();
        for (vcpu, action) in actions.iter().enumerate() {
            let debug = self.debug(*action);
            // Where KVM cannot do it, the guest goes on without.
            let _ = self.on(vcpu, move |fd| fd.set_guest_debug(&debug));
        }
        self.hold.set_breakpoints(self.planted.keys().copied(), self.looked_after());
        self.quiet_bell();
        self.hold.let_some_go(|vcpu| actions[vcpu] != Action::Stay, |vcpu| actions[vcpu] == Action::Step);
        // What waits for a stop then finds the end.
        if let (true, Some(debugger)) = (self.hold.is_over(), self.hold.debugger()) {
            let _ = debugger.bell.write(1);
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl Target {
    fn set_action(&mut self, tid: Tid, action: Action) {
        if let Some(place) = self.actions.get_mut(number(tid)) {
            *place = Some(action);
            self.current = tid;
        }
    }
}

impl MultiThreadSingleStep for Target {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Lost> {
        self.set_action(tid, Action::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Target {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Lost> {
        self.others = Action::Stay;
        Ok(())
    }
}

impl Breakpoints for Target {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Target {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        if self.planted.contains_key(&address) {
            return Ok(true);
        }
        let Some(found) = self.exchange(address, INT3) else { return Ok(false) };
        self.planted.insert(address, found);
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.unplant(address))
    }
}

impl HwBreakpoint for Target {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.add_watch(Watch { address, what: 0, length: 1 }))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.remove_watch(Watch { address, what: 0, length: 1 }))
    }
}

impl HwWatchpoint for Target {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(watch(address, length, kind).is_some_and(|watch| self.add_watch(watch)))
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        Ok(watch(address, length, kind).is_some_and(|watch| self.remove_watch(watch)))
    }
}
