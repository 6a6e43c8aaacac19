//! What each vCPU says of itself: the host's features as KVM offers them, with this machine's topology.
//!
//! See Intel's SDM volume 2 (CPUID) and AMD's APM volume 3, appendix E.

mod model;

pub use model::{Lacking, Model, apply};

use kvm_bindings::CpuId;

/// Leaf 1, ECX: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: the local APIC's timer has TSC-deadline mode.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, EDX: the package has several logical processors.
const MULTITHREADING: u32 = 1 << 28;
/// Level type "core" of the extended topology leaves.
const LEVEL_CORE: u32 = 2;
/// Level type "thread".
const LEVEL_THREAD: u32 = 1;

/// Features of KVM's leaf that end in a hypercall: PV EOI stays, what needs `vmcall` goes.
const HYPERCALL_FEATURES: u32 = 1 << 7 | 1 << 9 | 1 << 11 | 1 << 13;

/// Makes the leaves of vCPU `id` out of what KVM supports: `count` cores in one package, one thread each.
pub fn for_vcpu(supported: &CpuId, id: u8, count: u8, without_hypercalls: bool) -> CpuId {
    let mut leaves = supported.clone();
    let (apic_id, count) = (u32::from(id), u32::from(count));
    // Bits of an APIC id that number the cores.
    let width = count.next_power_of_two().trailing_zeros();
    for leaf in leaves.as_mut_slice() {
        match (leaf.function, leaf.index) {
            (1, _) => {
                leaf.ecx |= HYPERVISOR | TSC_DEADLINE;
                leaf.ebx = leaf.ebx & 0xffff | count << 16 | apic_id << 24;
                leaf.edx = if count > 1 { leaf.edx | MULTITHREADING } else { leaf.edx & !MULTITHREADING };
            }
            (4, _) if leaf.eax & 0x1f != 0 => {
                // Cores of the package, and threads that share this cache: the last level is everybody's.
                let level = leaf.eax >> 5 & 7;
                let sharing = if level >= 3 { (1 << width) - 1 } else { 0 };
                leaf.eax = leaf.eax & 0x3fff | sharing << 14 | ((1 << width) - 1) << 26;
            }
            (0xb | 0x1f, level) => {
                (leaf.eax, leaf.ebx, leaf.ecx) = match level {
                    0 => (0, 1, LEVEL_THREAD << 8),
                    1 => (width, count, LEVEL_CORE << 8 | 1),
                    other => (0, 0, other),
                };
                leaf.edx = apic_id;
            }
            (0x4000_0001, _) if without_hypercalls => leaf.eax &= !HYPERCALL_FEATURES,
            (0x8000_0008, _) => leaf.ecx = leaf.ecx & !0xf0ff | width << 12 | (count - 1),
            (0x8000_001e, _) => {
                (leaf.eax, leaf.ebx, leaf.ecx) = (apic_id, apic_id, 0);
            }
            // AMD's own extended topology says nothing, so that the leaf above is believed.
            (0x8000_0026, level) => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, level, apic_id),
            _ => {}
        }
    }
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    #[test]
    fn numbers_the_cores() {
        let host = [
            leaf(1, 0, [0x50654, 0x3010_0800, 0, 0]),
            leaf(4, 0, [0x7c00_4121, 0, 0, 0]),
            leaf(4, 3, [0x7c0f_c163, 0, 0, 0]),
            leaf(0xb, 0, [1, 2, 0x100, 99]),
            leaf(0xb, 1, [6, 64, 0x201, 99]),
            leaf(0x4000_0001, 0, [0x0100_7eff, 0, 0, 0]),
        ];
        let leaves = for_vcpu(&CpuId::from_entries(&host).unwrap(), 2, 3, true);
        let leaves = leaves.as_slice();
        assert_eq!(leaves[0].ebx, 0x0203_0800);
        assert_eq!(leaves[0].ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(leaves[0].edx, MULTITHREADING);
        assert_eq!(leaves[1].eax, 0x0c00_0121);
        assert_eq!(leaves[2].eax, 0x0c00_c163);
        assert_eq!((leaves[3].eax, leaves[3].ebx, leaves[3].ecx, leaves[3].edx), (0, 1, 0x100, 2));
        assert_eq!((leaves[4].eax, leaves[4].ebx, leaves[4].ecx, leaves[4].edx), (2, 3, 0x201, 2));
        assert_eq!(leaves[5].eax & HYPERCALL_FEATURES, 0);
    }

    #[test]
    fn says_nothing_of_threads_with_one_core() {
        let host = [leaf(1, 0, [0, 0, 0, MULTITHREADING]), leaf(4, 0, [0x121, 0, 0, 0])];
        let leaves = for_vcpu(&CpuId::from_entries(&host).unwrap(), 0, 1, false);
        assert_eq!(leaves.as_slice()[0].edx, 0);
        assert_eq!(leaves.as_slice()[0].ebx, 1 << 16);
        assert_eq!(leaves.as_slice()[1].eax, 0x121);
    }
}
