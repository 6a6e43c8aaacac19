//! A guest of a few dozen instructions: an interpreter of the scripts that the tests write.
//!
//! It is entered as a kernel is, in 64-bit mode at 1 MiB, and plays a list of memory and port accesses. So a test drives a
//! device through a real vCPU in thousands of instructions, without a driver or an operating system.

#[allow(dead_code, reason = "each test binary uses what it needs")]
pub mod driver;

use ferry_vmm::machine::Image;
use std::arch::global_asm;

/// Where the interpreter is loaded and entered.
pub const CODE: u64 = 0x10_0000;
/// Where its script lies.
pub const SCRIPT: u64 = 0x10_1000;

global_asm!(
    ".pushsection .rodata",
    ".globl ferry_guest_start",
    "ferry_guest_start:",
    "    lea rsi, [rip + ferry_guest_start + 0x1000]",
    // Each operation is 24 bytes: code, address, value.
    "2:  mov rcx, [rsi]",
    "    mov rdi, [rsi + 8]",
    "    mov rax, [rsi + 16]",
    "    add rsi, 24",
    "    dec rcx",
    "    jz 3f",
    "    dec rcx",
    "    jz 4f",
    "    dec rcx",
    "    jz 5f",
    "    dec rcx",
    "    jz 6f",
    "    dec rcx",
    "    jz 7f",
    "    dec rcx",
    "    jz 8f",
    "    dec rcx",
    "    jz 9f",
    "    ud2",
    // 1: write 32 bits
    "3:  mov dword ptr [rdi], eax",
    "    jmp 2b",
    // 2: read 32 bits and send them through the serial port
    "4:  mov eax, dword ptr [rdi]",
    "    mov edx, 0x3f8",
    "    out dx, al",
    "    shr eax, 8",
    "    out dx, al",
    "    shr eax, 8",
    "    out dx, al",
    "    shr eax, 8",
    "    out dx, al",
    "    jmp 2b",
    // 3: wait until 16 bits have the value
    "5:  cmp word ptr [rdi], ax",
    "    jne 5b",
    "    jmp 2b",
    // 4: write a byte to a port
    "6:  mov edx, edi",
    "    out dx, al",
    "    jmp 2b",
    // 5: write 64 bits
    "7:  mov qword ptr [rdi], rax",
    "    jmp 2b",
    // 6: run an instruction: the address's lowest byte, executed from the script itself
    "8:  lea rdx, [rsi - 16]",
    "    call rdx",
    "    jmp 2b",
    // 7: spin for ever
    "9:  jmp 9b",
    ".globl ferry_guest_end",
    "ferry_guest_end:",
    ".popsection",
);

unsafe extern "C" {
    static ferry_guest_start: u8;
    static ferry_guest_end: u8;
}

/// A script, written operation by operation.
#[derive(Default)]
pub struct Script(Vec<u8>);

#[allow(dead_code, reason = "each test binary uses what it needs")]
impl Script {
    fn op(mut self, code: u64, address: u64, value: u64) -> Self {
        for word in [code, address, value] {
            self.0.extend(word.to_le_bytes());
        }
        self
    }

    /// Writes 32 bits.
    pub fn write(self, address: u64, value: u32) -> Self {
        self.op(1, address, value.into())
    }

    /// Reads 32 bits and sends them through the serial port.
    pub fn read(self, address: u64) -> Self {
        self.op(2, address, 0)
    }

    /// Waits until the 16 bits at an address have a value.
    pub fn wait(self, address: u64, value: u16) -> Self {
        self.op(3, address, value.into())
    }

    /// Writes a byte to a port.
    pub fn out(self, port: u16, value: u8) -> Self {
        self.op(4, port.into(), value.into())
    }

    /// Writes 64 bits.
    pub fn write64(self, address: u64, value: u64) -> Self {
        self.op(5, address, value)
    }

    /// Executes up to seven bytes of code; a `ret` is added.
    pub fn run(self, code: &[u8]) -> Self {
        let mut bytes = [0xc3; 8];
        bytes[..code.len()].copy_from_slice(code);
        self.op(6, u64::from_le_bytes(bytes), 0)
    }

    /// Spins for ever.
    pub fn spin(self) -> Self {
        self.op(7, 0, 0)
    }

    /// Ends the run by the keyboard controller.
    pub fn reset(self) -> Self {
        self.out(0x64, 0xfe).spin()
    }

    /// The kernel that plays this script.
    pub fn kernel(self) -> Image {
        // SAFETY: the two symbols are the ends of one piece of read-only data, defined above.
        let code = unsafe {
            let (start, end) = (&raw const ferry_guest_start, &raw const ferry_guest_end);
            std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
        };
        let mut contents = code.to_vec();
        contents.resize((SCRIPT - CODE) as usize, 0);
        contents.extend(self.0);
        let length = contents.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend([CODE, 64, 0].map(u64::to_le_bytes).concat());
        file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
        file.extend([4096, CODE, CODE, length, length, 4096].map(u64::to_le_bytes).concat());
        file.resize(4096, 0);
        file.extend(contents);
        Image::Bytes(file.into())
    }
}
