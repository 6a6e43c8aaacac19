//! Whether KVM can be used here, and how completely.

use super::entry;
use super::layout::{self, TEST_EXIT_PORT};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuExit, VmFd};
use std::arch::x86_64::__cpuid_count;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// What the host's KVM is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kvm {
    /// The guest's kernel mode is interpreted by KVM's instruction emulator, about a thousand times slower than
    /// hardware, and not every instruction is known to it.
    pub emulates_ring0: bool,
}

/// Why KVM cannot be used.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// There is no `/dev/kvm`.
    #[error(
        "there is no /dev/kvm: this machine has no hardware virtualisation, or it is switched off in its firmware, or \
         the kvm module is not loaded (modprobe kvm_intel or kvm_amd)"
    )]
    Absent,
    /// `/dev/kvm` may not be opened by this user.
    #[error("no permission to open /dev/kvm: run `sudo usermod -aG kvm $USER` and log in again")]
    Forbidden,
    /// The API has a version that this program does not know.
    #[error("/dev/kvm speaks API version {0}, and ferry needs 12")]
    Version(i32),
    /// Anything else that goes wrong with `/dev/kvm`.
    #[error("/dev/kvm cannot be used: {what}: {source}")]
    Failed {
        /// The step that failed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The API version, the same since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// How long 1,000 turns of a loop take at most on hardware, with their exit: a microsecond and a few, some tens where the
/// host is a guest itself. An emulator takes 560 on a fast processor and 1,600 on a slow one.
const LIMIT: Duration = Duration::from_micros(200);
/// Rounds of measuring, unless one was fast: a busy host only makes things slower.
const ROUNDS: usize = 3;
/// Where the loop lies in the scratch VM, above the tables at entry.
const CODE: u64 = 0x1_0000;

/// Opens `/dev/kvm`, checks its version, and finds out whether it emulates ring 0. What was found once is not looked for
/// again by this process.
pub fn probe() -> Result<Kvm, ProbeError> {
    examine(&open()?)
}

/// The same for a `/dev/kvm` that is open.
pub(super) fn examine(kvm: &kvm_ioctls::Kvm) -> Result<Kvm, ProbeError> {
    static FOUND: OnceLock<Kvm> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(*found);
    }
    // Without hardware for it there is nothing to measure, and a VM for measuring costs more than all else at a start.
    let found = if has_virtualisation() { measure(kvm)? } else { Kvm { emulates_ring0: true } };
    Ok(*FOUND.get_or_init(|| found))
}

/// Whether the processor says that it has VMX (Intel's SDM, volume 2, CPUID leaf 1) or SVM (AMD's APM, volume 3, leaf
/// 8000_0001h, which every 64-bit processor has): no guest's kernel mode can run on one that has neither.
fn has_virtualisation() -> bool {
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    leaf(1)[2] & VMX != 0 || leaf(0x8000_0001)[2] & SVM != 0
}

/// What tells this host's processor from one of another kind: its signature, and which features it says that it has.
pub(super) fn processor() -> [u32; 9] {
    // EBX of leaf 1 tells which of the processors it is.
    let ([signature, _, ecx, edx], [a, b, c, d], [.., more, most]) = (leaf(1), leaf(7), leaf(0x8000_0001));
    [signature, ecx, edx, a, b, c, d, more, most]
}

/// What a CPUID leaf of features says in EAX, EBX, ECX and EDX. In a virtual machine each CPUID is an exit, so what the C library
/// has asked for at the program's start is taken from there.
fn leaf(leaf: u32) -> [u32; 4] {
    #[cfg(target_env = "gnu")]
    {
        // Of glibc's `sys/platform/x86.h`, since 2.33, where the leaves have numbers: EAX, EBX, ECX and EDX, and which of their
        // bits can be used.
        unsafe extern "C" {
            fn __x86_get_cpuid_feature_leaf(number: u32) -> *const [u32; 8];
        }
        let number = match leaf {
            1 => Some(0),
            7 => Some(1),
            0x8000_0001 => Some(2),
            _ => None,
        };
        if let Some(number) = number {
            // SAFETY: takes a number, and returns a pointer to memory that stays as it is, for numbers that it does not know too.
            let [eax, ebx, ecx, edx, ..] = unsafe { *__x86_get_cpuid_feature_leaf(number) };
            return [eax, ebx, ecx, edx];
        }
    }
    let found = __cpuid_count(leaf, 0);
    [found.eax, found.ebx, found.ecx, found.edx]
}

fn measure(kvm: &kvm_ioctls::Kvm) -> Result<Kvm, ProbeError> {
    let vm = kvm.create_vm().map_err(failed("create a VM"))?;
    // Processors that cannot run real mode by themselves want these pages for every vCPU.
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(failed("place a VM's identity map"))?;
    vm.set_tss_address(layout::KVM_TSS as usize).map_err(failed("place a VM's task state segment"))?;
    // A vCPU without a local APIC would have KVM patch its own code, and patch it back.
    vm.create_irq_chip().map_err(failed("create a VM's interrupt controllers"))?;
    Ok(Kvm { emulates_ring0: fastest_loop(&vm)? > LIMIT })
}

/// Opens `/dev/kvm` and checks its version.
pub(super) fn open() -> Result<kvm_ioctls::Kvm, ProbeError> {
    let kvm = kvm_ioctls::Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => ProbeError::Absent,
        libc::EACCES | libc::EPERM => ProbeError::Forbidden,
        _ => failed("open it")(error),
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        other => Err(ProbeError::Version(other)),
    }
}

fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> ProbeError {
    move |error| ProbeError::Failed { what, source: error.into() }
}

/// Runs a short loop in ring 0 of a scratch VM and returns the shortest time of several.
fn fastest_loop(vm: &VmFd) -> Result<Duration, ProbeError> {
    let other = |what| move |error: String| ProbeError::Failed { what, source: io::Error::other(error) };
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x2_0000)])
        .map_err(|error| other("map memory")(error.to_string()))?;
    entry::write_tables(&memory).map_err(|error| other("write page tables")(error.to_string()))?;
    let port = TEST_EXIT_PORT.to_le_bytes();
    #[rustfmt::skip]
    let code = [
        0x66, 0xba, port[0], port[1],       //    mov dx, TEST_EXIT_PORT
        0xee,                               // 1: out dx, al
        0xb9, 0xe8, 0x03, 0x00, 0x00,       //    mov ecx, 1000
        0xff, 0xc9,                         // 2: dec ecx
        0x75, 0xfc,                         //    jnz 2b
        0xeb, 0xf4,                         //    jmp 1b
    ];
    memory.write_slice(&code, GuestAddress(CODE)).map_err(|error| other("write code")(error.to_string()))?;
    let address =
        memory.get_host_address(GuestAddress(0)).map_err(|error| other("map memory")(error.to_string()))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: 0x2_0000,
        userspace_addr: address as u64,
    };
    // SAFETY: the memory outlives the vCPU's last run below, and nothing else refers to it.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("give memory to a VM"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("create a vCPU"))?;
    let mut special = vcpu.get_sregs().map_err(failed("read registers"))?;
    entry::enter_long_mode(&mut special);
    vcpu.set_sregs(&special).map_err(failed("set registers"))?;
    vcpu.set_regs(&entry::registers(CODE)).map_err(failed("set registers"))?;

    let (mut fastest, mut started) = (Duration::MAX, None);
    let mut rounds = 0;
    // The first run up to the first exit only touches the pages.
    while rounds <= ROUNDS && fastest > LIMIT {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(..)) => {
                if let Some(started) = started {
                    fastest = fastest.min(Instant::elapsed(&started));
                }
                started = Some(Instant::now());
                rounds += 1;
            }
            Ok(exit) => return Err(other("run a loop in a scratch VM")(format!("{exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(failed("run a loop in a scratch VM")(error)),
        }
    }
    Ok(fastest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_way_out_of_missing_permission() {
        assert!(ProbeError::Forbidden.to_string().contains("sudo usermod -aG kvm $USER"));
    }

    #[test]
    fn the_c_library_knows_what_the_processor_says() {
        for number in [1, 7, 0x8000_0001] {
            let (found, said) = (leaf(number), __cpuid_count(number, 0));
            assert_eq!([found[0], found[3]], [said.eax, said.edx], "{number:#x}");
            // All but whether the system has switched XSAVE on (bit 27), which may be said in between.
            assert_eq!(found[2] | 1 << 27, said.ecx | 1 << 27, "{number:#x}");
        }
        assert_eq!(processor(), processor());
    }

    #[test]
    fn what_the_processor_says_is_what_is_measured() {
        let Ok(kvm) = open() else { return };
        if !has_virtualisation() {
            assert!(measure(&kvm).unwrap().emulates_ring0);
        }
        assert_eq!(examine(&kvm).unwrap(), measure(&kvm).unwrap());
    }

    #[test]
    fn measures_the_same_twice() {
        let Ok(kvm) = open() else { return };
        assert_eq!(measure(&kvm).unwrap(), measure(&kvm).unwrap());
    }
}
