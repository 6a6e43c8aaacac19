//! The kernel's programs for cgroups (bpf(2)).

use syscalls::{Sysno, syscall};

use super::{Fd, Result};
use crate::spec::device_filter::Instruction;

/// Commands, kinds and flags of include/uapi/linux/bpf.h.
const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// The fields of union bpf_attr that a command reads, as numbers of 32 bits; the rest is zero.
fn bpf<const N: usize>(command: u32, fields: &[u32; N]) -> Result<usize> {
    // SAFETY: the kernel reads the given size; addresses among the fields are of what the caller holds.
    unsafe { syscall!(Sysno::bpf, command, fields.as_ptr(), N * size_of::<u32>()) }
}

/// Checks and loads a program that decides about the use of devices.
pub fn load_device_filter(program: &[Instruction]) -> Result<Fd> {
    let halves = |address: u64| [address as u32, (address >> 32) as u32];
    let [code_low, code_high] = halves(program.as_ptr() as u64);
    let [license_low, license_high] = halves(c"Apache-2.0".as_ptr() as u64);
    let fields =
        [CGROUP_DEVICE_PROGRAM, program.len() as u32, code_low, code_high, license_low, license_high];
    bpf(PROG_LOAD, &fields).map(Fd::new)
}

/// Lets a program decide for a cgroup, in the place of `old`. Programs of cgroups below decide too, and each may deny.
pub fn attach_device_filter(cgroup: &Fd, program: &Fd, old: Option<&Fd>) -> Result<()> {
    let flags = ALLOW_MULTI | if old.is_some() { REPLACE } else { 0 };
    let old = old.map_or(0, |old| old.raw() as u32);
    let fields = [cgroup.raw() as u32, program.raw() as u32, CGROUP_DEVICE, flags, old];
    bpf(PROG_ATTACH, &fields).map(|_| ())
}
