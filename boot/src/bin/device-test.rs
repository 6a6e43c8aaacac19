//! The device-test guest: entered by the VMM in 64-bit mode as a Linux kernel is, tests the devices, resets the machine.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use ferry_boot::memory::Heap;
use ferry_boot::report::reset;
use ferry_boot::serial::Serial;

#[global_allocator]
static HEAP: Heap = Heap::new();

/// Bytes of stack; the deepest user is the virtio drivers' vsock buffer.
const STACK_SIZE: usize = 64 << 10;

#[repr(align(16))]
struct Stack(#[expect(dead_code, reason = "only its address is used, by the entry")] [u8; STACK_SIZE]);

static mut STACK: Stack = Stack([0; STACK_SIZE]);

// Linux's 64-bit entry (Documentation/arch/x86/boot.rst): rsi holds the zero page; there is no stack yet.
global_asm!(
    ".section .text._start, \"ax\"",
    ".globl _start",
    "_start:",
    "lea rsp, [rip + {stack} + {size}]",
    "xor ebp, ebp",
    "mov rdi, rsi",
    "call {enter}",
    "ud2",
    stack = sym STACK,
    size = const STACK_SIZE,
    enter = sym enter,
);

extern "C" fn enter(zero_page: u64) -> ! {
    ferry_boot::device_test::run(zero_page)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial, "not ok {info}");
    reset()
}

// The compiler calls these by name, and no C library is linked. They copy by words: where ring 0 is interpreted, a
// repetition costs the same whether it moves one byte or eight.
global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp, strlen, rust_eh_personality, _Unwind_Resume",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, rdx",
    "jae 2f",
    // The ranges overlap with the target above the source: copy from the end.
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "mov rcx, rdx",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "memcpy:",
    "mov rax, rdi",
    "2:",
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep movsq",
    "mov rcx, rdx",
    "and rcx, 7",
    "rep movsb",
    "ret",
    "memset:",
    "mov r8, rdi",
    "movzx eax, sil",
    "mov rcx, 0x0101010101010101",
    "imul rax, rcx",
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep stosq",
    "mov rcx, rdx",
    "and rcx, 7",
    "rep stosb",
    "mov rax, r8",
    "ret",
    "memcmp:", // a - b of the first bytes that differ
    "bcmp:",
    "xor eax, eax",
    "mov rcx, rdx",
    "test rcx, rcx",
    "repe cmpsb",
    "je 3f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub eax, ecx",
    "3: ret",
    "strlen:",
    "xor eax, eax",
    "4: cmp byte ptr [rdi + rax], 0",
    "je 5f",
    "inc rax",
    "jmp 4b",
    "5: ret",
    // Nothing unwinds: panics abort.
    "rust_eh_personality:",
    "_Unwind_Resume:",
    "ud2",
);
