//! The program: what a language runtime would do before `main`, and then [`ferry_init::guest::run`].
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::fmt::Write;
use core::panic::PanicInfo;

use ferry_init::guest::run;
use ferry_init::heap::Heap;

/// Memory for what most guests need, of which the kernel provides what is touched. In bytes.
static mut MEMORY: [u8; 256 << 10] = [0; _];

#[global_allocator]
// SAFETY: this program has one thread, and nothing else names the memory.
static HEAP: Heap = unsafe { Heap::new(&raw mut MEMORY) };

// The kernel enters with the stack pointer aligned and no frame below; `main` never returns.
global_asm!(
    ".globl _start",
    "_start:",
    "xor %ebp, %ebp",
    "and $-16, %rsp",
    "call {main}",
    "ud2",
    main = sym main,
    options(att_syntax)
);

extern "C" fn main() -> ! {
    panic!("{}", run::run())
}

/// A message on the stack: a panic may be about memory.
struct Text {
    bytes: [u8; 512],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = &mut self.bytes[self.length..];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut text = Text { bytes: [0; 512], length: 0 };
    let _ = write!(text, "panic: {info}");
    run::panicked(&text.bytes[..text.length])
}

/// Named by the stock `core` and `alloc`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("nothing unwinds")
}

// The functions that compilers call by name. String instructions cannot be compiled into calls of these functions; eight
// bytes at once, since a processor that is emulated takes as long for one.
global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp",
    "memmove:",
    "mov %rdi, %rax",
    "sub %rsi, %rax",
    "cmp %rdx, %rax",
    "jae memcpy",
    // The destination begins inside the source: from the end.
    "mov %rdi, %rax",
    "mov %rdx, %rcx",
    "lea -1(%rdi, %rdx), %rdi",
    "lea -1(%rsi, %rdx), %rsi",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "memcpy:",
    "mov %rdi, %rax",
    "mov %rdx, %rcx",
    "shr $3, %rcx",
    "rep movsq",
    "mov %edx, %ecx",
    "and $7, %ecx",
    "rep movsb",
    "ret",
    "memset:",
    "mov %rdi, %r8",
    "movzbl %sil, %eax",
    "movabs $0x0101010101010101, %rcx",
    "imul %rcx, %rax",
    "mov %rdx, %rcx",
    "shr $3, %rcx",
    "rep stosq",
    "mov %edx, %ecx",
    "and $7, %ecx",
    "rep stosb",
    "mov %r8, %rax",
    "ret",
    "bcmp:",
    "memcmp:",
    "mov %rdx, %rcx",
    // Nothing is equal to nothing.
    "xor %eax, %eax",
    "repe cmpsb",
    "je 2f",
    "movzbl -1(%rdi), %eax",
    "movzbl -1(%rsi), %ecx",
    "sub %ecx, %eax",
    "2:",
    "ret",
    options(att_syntax)
);
