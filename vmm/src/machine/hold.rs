//! Holding a machine: while somebody holds it, its vCPUs are out of the guest, and others may look at their state and change
//! it. [Pausing](super::Handle::pause) holds all of them; a debugger holds those that it does not let go.
//!
//! A vCPU's state belongs to its thread. Others send that thread on [errands](Hold::errand) while it waits here.

use super::Exit;
use super::ending::Ending;
use crate::devices::virtio::Memory;
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// What a vCPU's thread does for somebody else.
type Errand = Box<dyn FnOnce(&mut VcpuFd) + Send>;

/// Why a vCPU stopped that is being debugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At a breakpoint in memory.
    Breakpoint,
    /// At what a debug register watches: bits 0 to 3 of DR6.
    Watched(u8),
    /// After one step.
    Step,
    /// Because of an exception that could not be delivered, or of an instruction that KVM does not know: the machine ends
    /// when it goes on.
    Fatal,
}

#[derive(Default)]
struct Place {
    /// Its thread runs it.
    alive: bool,
    /// Its thread waits here.
    waiting: bool,
    /// The debugger holds it.
    debugged: bool,
    /// The debugger wants a single step of it.
    steps: bool,
    errands: Vec<Errand>,
}

struct State {
    places: Vec<Place>,
    paused: bool,
    /// How many look at the machine right now.
    looking: u32,
    /// The guest's memory, until the run is over.
    memory: Option<Memory>,
    /// The run is over: nobody is held any more.
    over: bool,
    /// The first stop since the debugger let go.
    stop: Option<(usize, Stop)>,
    breakpoints: BTreeSet<u64>,
    looked_after: Vec<LookedAfter>,
}

/// Memory that is looked at after each step, where KVM does not watch it itself.
#[derive(Clone, Copy, Debug)]
pub struct LookedAfter {
    /// Which debug register stands for it.
    pub register: u8,
    /// Where it is.
    pub address: GuestAddress,
    /// How many bytes, up to 8.
    pub length: usize,
    /// What was there.
    pub before: [u8; 8],
}

impl LookedAfter {
    /// What is there now.
    pub fn now(&self, memory: &Memory) -> [u8; 8] {
        let mut bytes = [0; 8];
        // What cannot be read has not changed.
        match memory.read_slice(&mut bytes[..self.length.min(8)], self.address) {
            Ok(()) => bytes,
            Err(_) => self.before,
        }
    }
}

/// Who attends to stops.
pub struct Debugger {
    /// Written to at a stop and at the end.
    pub bell: EventFd,
    /// Whether KVM interprets the guest's kernel mode, where it does not watch memory: steps do it then.
    pub steps_to_watch: bool,
}

/// Holds the vCPUs of a machine.
pub struct Hold {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether any vCPU may be held: for threads that look often.
    wanted: AtomicBool,
    debugger: Option<Debugger>,
    ending: Arc<Ending>,
}

impl Hold {
    /// For a machine of `count` vCPUs. With a debugger they are held from the start.
    pub fn new(count: usize, memory: Memory, ending: Arc<Ending>, debugger: Option<Debugger>) -> Self {
        let debugged = debugger.is_some();
        let place = || Place { debugged, ..Place::default() };
        let state = State {
            places: (0..count).map(|_| place()).collect(),
            paused: false,
            looking: 0,
            memory: Some(memory),
            over: false,
            stop: None,
            breakpoints: BTreeSet::new(),
            looked_after: Vec::new(),
        };
        let wanted = AtomicBool::new(debugged);
        Self { state: Mutex::new(state), changed: Condvar::new(), wanted, debugger, ending }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Who attends to stops, if anybody.
    pub fn debugger(&self) -> Option<&Debugger> {
        self.debugger.as_ref()
    }

    // What vCPUs' threads call.

    /// The thread of a vCPU begins.
    pub fn arrive(&self, number: usize) {
        self.state().places[number].alive = true;
    }

    /// It ends.
    pub fn leave(&self, number: usize) {
        let mut state = self.state();
        state.places[number].alive = false;
        // Whoever waits for an answer sees that there will be none.
        state.places[number].errands.clear();
        self.changed.notify_all();
    }

    /// Whether some vCPU may be held now.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Waits while this vCPU is held, and runs the errands that come meanwhile. Whether it was held at all.
    pub fn stay(&self, number: usize, vcpu: &mut VcpuFd) -> bool {
        let mut state = self.state();
        let mut held = false;
        loop {
            let place = &mut state.places[number];
            let errands = std::mem::take(&mut place.errands);
            if !errands.is_empty() {
                drop(state);
                errands.into_iter().for_each(|errand| errand(vcpu));
                state = self.state();
                continue;
            }
            let is_held = place.debugged;
            if state.over || !(is_held || state.paused || state.looking > 0) {
                state.places[number].waiting = false;
                return held;
            }
            held = true;
            state.places[number].waiting = true;
            self.changed.notify_all();
            state = self.wait(state);
        }
    }

    /// Whether a debugger has put a breakpoint at this address.
    pub fn has_breakpoint(&self, address: u64) -> bool {
        self.debugger.is_some() && self.state().breakpoints.contains(&address)
    }

    /// This vCPU has made a step: why that is worth a stop, if it is.
    pub fn stepped(&self, number: usize) -> Option<Stop> {
        let mut guard = self.state();
        let state = &mut *guard;
        let steps = state.places[number].steps.then_some(Stop::Step);
        let Some(memory) = &state.memory else { return steps };
        for watch in &mut state.looked_after {
            let now = watch.now(memory);
            if now != watch.before {
                watch.before = now;
                return Some(Stop::Watched(1 << watch.register));
            }
        }
        steps
    }

    /// This vCPU has stopped: the debugger holds all of them now. False if there is none.
    pub fn stopped(&self, number: usize, stop: Stop) -> bool {
        let Some(debugger) = &self.debugger else { return false };
        let mut state = self.state();
        if state.over {
            return false;
        }
        state.stop.get_or_insert((number, stop));
        self.hold_for_debugger(&mut state);
        // The counter is far from its end.
        let _ = debugger.bell.write(1);
        true
    }

    // What others call.

    fn hold_for_debugger(&self, state: &mut State) {
        state.places.iter_mut().for_each(|place| place.debugged = true);
        self.wanted.store(true, Ordering::Release);
        self.ending.kick();
    }

    fn wait_until_all_wait(&self, mut state: MutexGuard<'_, State>) -> bool {
        while !state.over && state.places.iter().any(|place| place.alive && !place.waiting) {
            state = self.wait(state);
        }
        !state.over
    }

    /// Takes every vCPU out of the guest, and returns when none is in it any more. False when the run is over.
    pub fn pause(&self) -> bool {
        let mut state = self.state();
        state.paused = true;
        self.wanted.store(true, Ordering::Release);
        self.ending.kick();
        self.wait_until_all_wait(state)
    }

    /// Lets them go on that nobody else holds.
    pub fn resume(&self) {
        let mut state = self.state();
        state.paused = false;
        self.let_go(&mut state);
    }

    /// Looks at the registers of all vCPUs and at the guest's memory while no vCPU is in the guest. Nothing when the run is
    /// over, or has not begun.
    pub fn while_held<T>(&self, look: impl FnOnce(&[(kvm_regs, kvm_sregs)], &Memory) -> T) -> Option<T> {
        let mut state = self.state();
        state.looking += 1;
        self.wanted.store(true, Ordering::Release);
        self.ending.kick();
        let result = self.wait_until_all_wait(state).then(|| self.registers()).flatten();
        let memory = self.state().memory.clone();
        let result = result.zip(memory).map(|(vcpus, memory)| look(&vcpus, &memory));
        let mut state = self.state();
        state.looking -= 1;
        self.let_go(&mut state);
        result
    }

    fn registers(&self) -> Option<Vec<(kvm_regs, kvm_sregs)>> {
        let count = self.state().places.len();
        let of = |vcpu| self.errand(vcpu, |fd| Some((fd.get_regs().ok()?, fd.get_sregs().ok()?))).flatten();
        (0..count).map(of).collect()
    }

    fn let_go(&self, state: &mut State) {
        let debugged = state.places.iter().any(|place| place.debugged);
        self.wanted.store(debugged || state.paused || state.looking > 0, Ordering::Release);
        self.changed.notify_all();
    }

    /// Ends every hold, for good: the run is over.
    pub fn release_for_good(&self) {
        let mut state = self.state();
        state.over = true;
        state.memory = None;
        self.changed.notify_all();
        if let Some(debugger) = &self.debugger {
            let _ = debugger.bell.write(1);
        }
    }

    /// Ends the run, as the debugger's user wants it.
    pub fn end(&self) {
        self.ending.set(Exit::Killed);
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        self.state().over
    }

    /// The debugger takes all vCPUs, and returns when none is in the guest any more. False when the run is over.
    pub fn take_all(&self) -> bool {
        let mut state = self.state();
        self.hold_for_debugger(&mut state);
        self.wait_until_all_wait(state)
    }

    /// The debugger lets those vCPUs go on for which `goes` is true, those for which `steps` is true for one step.
    pub fn let_some_go(&self, goes: impl Fn(usize) -> bool, steps: impl Fn(usize) -> bool) {
        let mut state = self.state();
        state.stop = None;
        for (number, place) in state.places.iter_mut().enumerate() {
            (place.debugged, place.steps) = (!goes(number), steps(number));
        }
        self.let_go(&mut state);
    }

    /// The first stop since the debugger let vCPUs go on.
    pub fn take_stop(&self) -> Option<(usize, Stop)> {
        self.state().stop.take()
    }

    /// Notes where the debugger has breakpoints in memory, and what is to be looked at after each step.
    pub fn set_breakpoints(&self, addresses: impl Iterator<Item = u64>, looked_after: Vec<LookedAfter>) {
        let mut state = self.state();
        state.breakpoints = addresses.collect();
        state.looked_after = looked_after;
    }

    /// Has a held vCPU's thread do something, and returns its answer; none if the vCPU is gone.
    pub fn errand<T: Send + 'static>(
        &self,
        number: usize,
        errand: impl FnOnce(&mut VcpuFd) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = mpsc::channel();
        let mut state = self.state();
        let place = state.places.get_mut(number).filter(|place| place.alive)?;
        place.errands.push(Box::new(move |vcpu| drop(answer.send(errand(vcpu)))));
        self.changed.notify_all();
        drop(state);
        answered.recv().ok()
    }
}
