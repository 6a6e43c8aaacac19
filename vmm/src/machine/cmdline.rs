//! The guest kernel's command line, for ferry's own machine and for QEMU: the one place that knows it.
//!
//! See Linux's Documentation/admin-guide/kernel-parameters.txt for every word.

use super::Backing;

/// The kernel's limit on x86, its terminating zero included (`COMMAND_LINE_SIZE`).
pub const LIMIT: usize = 2048;

/// What every boot gets: the serial console for panics only, a panic that ends the machine at once, and memory that comes
/// later in use as soon as it is there (its name in the kernel's configuration changes between versions).
const ALWAYS: &str = "console=ttyS0 quiet panic=-1 memhp_default_state=online";

/// What ferry's kernel needs on a KVM that interprets ring 0 instruction by instruction (see [`crate::machine::Kvm`]).
///
/// `ferry.emulated_ring0` makes it do without what such an emulator does not know: features it cannot mask in CPUID, and
/// breakpoints for patching code. Every instruction counts there, and no other guest is near, so mitigations are off; and
/// what is slow there for twenty seconds has not stalled.
const EMULATED_RING0: &str = "mitigations=off rcupdate.rcu_cpu_stall_suppress=1 ferry.emulated_ring0";

/// The smallest piece of free memory that a guest gives back: 128 KiB. By itself Linux gives back pieces of 2 MiB, and those
/// only while more than 64 MiB are free, so that a small guest would keep what its processes have left.
const GIVE_BACK: &str = "page_reporting.page_reporting_order=5";

/// How the guest's processor is provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// By hardware, or by a complete emulator such as QEMU's TCG.
    Complete,
    /// By a KVM that emulates ring 0.
    EmulatedRing0,
}

/// The command line for ferry's machine: a reset is the keyboard controller's.
pub fn for_ferry(processor: Processor, backing: Backing, extra: &str) -> String {
    // Of a huge page the host takes nothing back but the whole.
    match backing.huge_pages {
        true => join(&["reboot=k"], processor, extra),
        false => join(&["reboot=k", GIVE_BACK], processor, extra),
    }
}

/// The command line for QEMU's microvm: it has no keyboard controller, but resets at a triple fault.
///
/// An emulator on a busy host gets no processor for some ticks, and then the kernel's check of its timer fails, which is
/// a panic, and so does its measuring of delays. Both are left out; the delays are for hardware that is not there.
pub fn for_qemu(processor: Processor, extra: &str) -> String {
    join(&["reboot=t", "no_timer_check", "lpj=1000000"], processor, extra)
}

fn join(reset: &[&str], processor: Processor, extra: &str) -> String {
    let mut words = vec![ALWAYS];
    words.extend(reset);
    if processor == Processor::EmulatedRing0 {
        words.push(EMULATED_RING0);
    }
    if !extra.trim().is_empty() {
        words.push(extra.trim());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_extra_words_last() {
        assert_eq!(
            for_ferry(Processor::Complete, Backing::default(), " init=/x "),
            "console=ttyS0 quiet panic=-1 memhp_default_state=online reboot=k page_reporting.page_reporting_order=5 init=/x"
        );
        let huge = Backing { huge_pages: true, prefault: false };
        assert!(!for_ferry(Processor::Complete, huge, "").contains("page_reporting"));
        assert_eq!(
            for_qemu(Processor::Complete, ""),
            "console=ttyS0 quiet panic=-1 memhp_default_state=online reboot=t no_timer_check lpj=1000000"
        );
    }

    #[test]
    fn switches_the_kernel_over_where_ring_0_is_emulated() {
        let line = for_ferry(Processor::EmulatedRing0, Backing::default(), "");
        assert!(line.split(' ').any(|word| word == "ferry.emulated_ring0"));
        assert!(line.split(' ').all(|word| !word.is_empty()), "{line}");
        assert!(line.len() < LIMIT);
    }
}
