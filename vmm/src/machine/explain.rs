//! Words for a guest's end: registers, and the part of its output that tells of a panic.

use kvm_ioctls::VcpuFd;

/// The registers that say where a vCPU was.
pub fn registers(vcpu: &VcpuFd) -> String {
    match (vcpu.get_regs(), vcpu.get_sregs()) {
        (Ok(regs), Ok(sregs)) => format!(
            "rip {:#x} rsp {:#x} rflags {:#x} rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} cr0 {:#x} cr2 {:#x} cr3 {:#x} \
             cr4 {:#x} efer {:#x} cs {:#x}",
            regs.rip,
            regs.rsp,
            regs.rflags,
            regs.rax,
            regs.rbx,
            regs.rcx,
            regs.rdx,
            sregs.cr0,
            sregs.cr2,
            sregs.cr3,
            sregs.cr4,
            sregs.efer,
            sregs.cs.selector
        ),
        _ => "registers unknown".into(),
    }
}

/// What a Linux kernel prints first when it panics.
const PANIC: &str = "Kernel panic - not syncing";

/// The output from the panic's first line on, if a panic was printed.
pub fn panic_text(output: &str) -> Option<&str> {
    let at = output.find(PANIC)?;
    let line = output[..at].rfind('\n').map_or(0, |newline| newline + 1);
    Some(&output[line..])
}

/// The last few lines of the output.
pub fn last_lines(output: &str) -> &str {
    let start = output.trim_end().rmatch_indices('\n').nth(9).map_or(0, |(newline, _)| newline + 1);
    output[start..].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_panic_with_its_whole_line() {
        let output = "fine\n[    1.2] Kernel panic - not syncing: VFS\nCPU: 0\n";
        assert_eq!(panic_text(output), Some("[    1.2] Kernel panic - not syncing: VFS\nCPU: 0\n"));
        assert_eq!(panic_text("all well\n"), None);
    }

    #[test]
    fn takes_ten_lines_at_most() {
        let output: String = (0..30).map(|n| format!("{n}\n")).collect();
        assert_eq!(last_lines(&output).lines().count(), 10);
        assert!(last_lines(&output).starts_with("20\n"));
        assert_eq!(last_lines("one"), "one");
    }
}
