//! Which instructions a guest's programs are offered: all that the host has, or a level of the x86-64 psABI and no more,
//! so that a guest finds the same on every host.
//!
//! The levels are those of the x86-64 psABI, section "Micro-Architecture Levels". What only a kernel can use (page sizes,
//! mitigations, timers) stays as the host has it.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// What a guest's processor is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub enum Model {
    /// Like the host's.
    #[default]
    Host,
    /// x86-64-v2: SSE4.2, POPCNT, CMPXCHG16B.
    V2,
    /// x86-64-v3: AVX2, BMI2, FMA besides.
    V3,
}

impl Model {
    const NAMES: [(Self, &'static str); 3] =
        [(Self::Host, "host"), (Self::V2, "x86-64-v2"), (Self::V3, "x86-64-v3")];
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(model, _)| model == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |(model, name): &(Self, &str)| {
            (text == *name || name.strip_prefix("x86-64-") == Some(text)).then_some(*model)
        };
        let model = Self::NAMES.iter().find_map(named);
        model.ok_or_else(|| "it is host, x86-64-v2 or x86-64-v3".to_owned())
    }
}

/// The host cannot be what is asked for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("this host's processor is no {model}: it lacks {lacks} (--cpu host takes it as it is)")]
pub struct Lacking {
    model: Model,
    lacks: &'static str,
}

/// A register of a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}
use Register::{Ebx, Ecx, Edx};

/// A register with bits that stand for instructions of programs.
struct Word {
    function: u32,
    index: u32,
    register: Register,
    /// The bits of x86-64-v2, with names.
    v2: &'static [(u32, &'static str)],
    /// Those that x86-64-v3 adds.
    v3: &'static [(u32, &'static str)],
    /// Bits of instructions that are in neither.
    later: &'static [u32],
}

/// See Intel's SDM volume 2 (CPUID), AMD's APM volume 3, appendix E.
const WORDS: [Word; 6] = [
    Word {
        function: 1,
        index: 0,
        register: Ecx,
        v2: &[(0, "SSE3"), (9, "SSSE3"), (13, "CMPXCHG16B"), (19, "SSE4.1"), (20, "SSE4.2"), (23, "POPCNT")],
        v3: &[(12, "FMA"), (22, "MOVBE"), (26, "XSAVE"), (28, "AVX"), (29, "F16C")],
        // PCLMULQDQ, AES, RDRAND.
        later: &[1, 25, 30],
    },
    Word {
        function: 7,
        index: 0,
        register: Ebx,
        v2: &[],
        v3: &[(3, "BMI1"), (5, "AVX2"), (8, "BMI2")],
        // HLE, RTM, MPX, AVX-512 (F, DQ, IFMA, PF, ER, CD, BW, VL), RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
        later: &[4, 11, 14, 16, 17, 21, 26, 27, 28, 30, 31, 18, 19, 23, 24, 29],
    },
    Word {
        function: 7,
        index: 0,
        register: Ecx,
        v2: &[],
        v3: &[],
        // PREFETCHWT1, AVX-512 (VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ), PKU, WAITPKG, shadow stacks, GFNI, VAES, VPCLMULQDQ,
        // RDPID, key locker, CLDEMOTE, MOVDIRI, MOVDIR64B, ENQCMD.
        later: &[0, 1, 6, 11, 12, 14, 3, 5, 7, 8, 9, 10, 22, 23, 25, 27, 28, 29],
    },
    Word {
        function: 7,
        index: 0,
        register: Edx,
        v2: &[],
        v3: &[],
        // AVX-512 (4VNNIW, 4FMAPS, VP2INTERSECT, FP16), user interrupts, SERIALIZE, TSXLDTRK, branch tracking, AMX.
        later: &[2, 3, 8, 23, 5, 14, 16, 20, 22, 24, 25],
    },
    Word {
        function: 0x8000_0001,
        index: 0,
        register: Ecx,
        v2: &[(0, "LAHF")],
        v3: &[(5, "LZCNT")],
        // SSE4A, misaligned SSE, 3DNow prefetch, XOP, LWP, FMA4, TBM, MONITORX.
        later: &[6, 7, 8, 11, 15, 16, 21, 29],
    },
    Word {
        function: 0x8000_0001,
        index: 0,
        register: Edx,
        v2: &[],
        v3: &[],
        // MMX extensions and 3DNow.
        later: &[22, 30, 31],
    },
];

/// Leaves about nothing but what is in neither level: more of leaf 7, processor trace, key locker, AMX, AVX10.
const LATER_LEAVES: [(u32, Option<u32>); 6] =
    [(7, Some(1)), (0x14, None), (0x19, None), (0x1d, None), (0x1e, None), (0x24, None)];

/// Bits of XCR0: x87, SSE, AVX; and how long their state is together (SDM volume 1, section 13.4).
const AVX_STATE: u32 = 0b111;
const AVX_STATE_BYTES: u32 = 832;

fn register(leaf: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Ebx => &mut leaf.ebx,
        Ecx => &mut leaf.ecx,
        Edx => &mut leaf.edx,
    }
}

fn bits(named: &[(u32, &str)]) -> u32 {
    named.iter().fold(0, |bits, (bit, _)| bits | 1 << bit)
}

/// Takes away what the model has not; an error names what it has and the host has not.
pub fn apply(model: Model, leaves: &mut CpuId) -> Result<(), Lacking> {
    if model == Model::Host {
        return Ok(());
    }
    for word in &WORDS {
        let needed = word.v2.iter().chain(if model == Model::V3 { word.v3 } else { &[] });
        let leaf = leaves
            .as_mut_slice()
            .iter_mut()
            .find(|leaf| (leaf.function, leaf.index) == (word.function, word.index));
        let mut none = 0;
        let value = leaf.map_or(&mut none, |leaf| register(leaf, word.register));
        if let Some((_, lacks)) = needed.clone().find(|(bit, _)| *value & 1 << bit == 0) {
            return Err(Lacking { model, lacks });
        }
        let later = word.later.iter().fold(0, |bits, bit| bits | 1 << bit);
        *value &= !later;
        if model == Model::V2 {
            *value &= !bits(word.v3);
        }
    }
    for leaf in leaves.as_mut_slice() {
        let is_later = LATER_LEAVES
            .iter()
            .any(|(function, index)| leaf.function == *function && index.is_none_or(|i| i == leaf.index));
        match (leaf.function, leaf.index) {
            _ if is_later => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            (0xd, _) if model == Model::V2 => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            (0xd, 0) => {
                (leaf.eax, leaf.edx) = (leaf.eax & AVX_STATE, 0);
                (leaf.ebx, leaf.ecx) = (leaf.ebx.min(AVX_STATE_BYTES), AVX_STATE_BYTES);
            }
            // No supervisor state, and of the others only AVX's.
            (0xd, 1) => (leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0),
            (0xd, 3..) => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has everything.
    fn host() -> CpuId {
        let leaf = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let leaves: Vec<_> = [(1, 0), (7, 0), (7, 1), (7, 2), (0xd, 0), (0xd, 1), (0xd, 2), (0xd, 9)]
            .into_iter()
            .chain([(0x14, 0), (0x1d, 1), (0x8000_0001, 0)])
            .map(|(function, index)| leaf(function, index))
            .collect();
        CpuId::from_entries(&leaves).unwrap()
    }

    fn find(leaves: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *leaves.as_slice().iter().find(|leaf| (leaf.function, leaf.index) == (function, index)).unwrap()
    }

    #[test]
    fn a_level_has_its_instructions_and_no_later_ones() {
        for (model, avx) in [(Model::V2, 0), (Model::V3, 1)] {
            let mut leaves = host();
            apply(model, &mut leaves).unwrap();
            let one = find(&leaves, 1, 0);
            assert_eq!(one.ecx >> 28 & 1, avx, "AVX");
            assert_eq!(one.ecx >> 20 & 1, 1, "SSE4.2");
            assert_eq!(one.ecx >> 25 & 1, 0, "AES is in no level");
            assert_eq!(
                (one.ecx >> 24 & 1, one.ecx >> 21 & 1),
                (1, 1),
                "TSC-deadline and x2APIC are the kernel's"
            );
            let seven = find(&leaves, 7, 0);
            assert_eq!(seven.ebx >> 5 & 1, avx, "AVX2");
            assert_eq!(seven.ebx >> 16 & 1, 0, "AVX-512");
            assert_eq!((seven.ebx >> 7 & 1, seven.edx >> 26 & 1), (1, 1), "SMEP and IBRS are the kernel's");
            assert_eq!((find(&leaves, 7, 1).eax, find(&leaves, 0x1d, 1).ebx), (0, 0));
            assert_eq!(find(&leaves, 7, 2).edx, u32::MAX, "mitigations stay");
            let state = find(&leaves, 0xd, 0);
            assert_eq!((state.eax, state.ecx), if avx == 1 { (7, 832) } else { (0, 0) });
            assert_eq!(find(&leaves, 0xd, 9).eax, 0);
        }
    }

    #[test]
    fn the_hosts_own_is_left_alone() {
        let mut leaves = host();
        apply(Model::Host, &mut leaves).unwrap();
        assert_eq!(leaves.as_slice(), host().as_slice());
    }

    #[test]
    fn a_host_that_lacks_something_is_told_what() {
        let mut leaves = host();
        leaves.as_mut_slice()[1].ebx = !(1 << 5);
        assert!(apply(Model::V2, &mut leaves.clone()).is_ok());
        let error = apply(Model::V3, &mut leaves).unwrap_err().to_string();
        assert!(error.contains("x86-64-v3: it lacks AVX2"), "{error}");
        let mut nothing = CpuId::from_entries(&[]).unwrap();
        assert!(apply(Model::V2, &mut nothing).unwrap_err().to_string().contains("SSE3"));
    }

    #[test]
    fn models_are_read_as_they_are_written() {
        for model in [Model::Host, Model::V2, Model::V3] {
            assert_eq!(model.to_string().parse(), Ok(model));
        }
        assert_eq!("v3".parse(), Ok(Model::V3));
        assert!("v4".parse::<Model>().is_err() && "".parse::<Model>().is_err());
    }
}
