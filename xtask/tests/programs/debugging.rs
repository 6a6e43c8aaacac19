//! Uses what debuggers, profilers and tracers stand on, and says what came of it. Built by the tests as a static program.

use std::io::Error;

const PTRACE_TRACEME: i64 = 0;
const PTRACE_PEEKUSER: i64 = 3;
const PTRACE_CONT: i64 = 7;
const PTRACE_SINGLESTEP: i64 = 9;
const SYS_PTRACE: i64 = 101;
const SYS_PERF_EVENT_OPEN: i64 = 298;
const SYS_BPF: i64 = 321;
const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const SIGTRAP: i32 = 5;
const SIGSTOP: i32 = 19;
/// Offset of the instruction pointer in `struct user`.
const RIP: i64 = 16 * 8;

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
    fn fork() -> i32;
    fn raise(signal: i32) -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn read(fd: i32, buffer: *mut u8, length: usize) -> isize;
    fn _exit(status: i32) -> !;
    fn abort() -> !;
}

fn ptrace(request: i64, pid: i32) -> i64 {
    // SAFETY: none of the requests used here writes to memory of ours.
    unsafe { syscall(SYS_PTRACE, request, i64::from(pid), 0i64, 0i64) }
}

/// A child stops itself, is stepped once, and goes on.
fn debugger() -> Result<String, Error> {
    // SAFETY: there is one thread; the child calls nothing but system calls.
    let pid = unsafe { fork() };
    if pid == 0 {
        ptrace(PTRACE_TRACEME, 0);
        // SAFETY: they take no memory.
        unsafe {
            raise(SIGSTOP);
            _exit(3)
        }
    }
    let mut status = 0;
    // SAFETY: it writes one number.
    unsafe { waitpid(pid, &mut status, 0) };
    let stopped = status >> 8 & 0xff;
    let mut before = 0u64;
    // SAFETY: the system call writes the word to where its last argument points.
    let peeked = unsafe { syscall(SYS_PTRACE, PTRACE_PEEKUSER, i64::from(pid), RIP, &raw mut before) };
    if peeked != 0 || ptrace(PTRACE_SINGLESTEP, pid) != 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: as above.
    unsafe { waitpid(pid, &mut status, 0) };
    let stepped = status >> 8 & 0xff;
    ptrace(PTRACE_CONT, pid);
    // SAFETY: as above.
    unsafe { waitpid(pid, &mut status, 0) };
    let exit = status >> 8 & 0xff;
    let as_wanted = (stopped, stepped, exit) == (SIGSTOP, SIGTRAP, 3) && before != 0;
    Ok(if as_wanted { "works".into() } else { format!("stopped {stopped}, stepped {stepped}, exit {exit}") })
}

/// Counts page faults by software.
fn profiler() -> Result<String, Error> {
    let mut attributes = [0u8; 112];
    attributes[0..4].copy_from_slice(&1u32.to_le_bytes()); // PERF_TYPE_SOFTWARE
    attributes[4..8].copy_from_slice(&112u32.to_le_bytes());
    attributes[8..16].copy_from_slice(&2u64.to_le_bytes()); // PERF_COUNT_SW_PAGE_FAULTS
    // SAFETY: the attributes are of the size that they say.
    let counter = unsafe { syscall(SYS_PERF_EVENT_OPEN, attributes.as_ptr(), 0i64, -1i64, -1i64, 0i64) };
    if counter < 0 {
        return Err(Error::last_os_error());
    }
    let touched: Vec<u8> = std::hint::black_box(vec![1; 1 << 20]);
    let mut count = [0; 8];
    // SAFETY: the array has as many bytes as we say.
    unsafe { read(counter as i32, count.as_mut_ptr(), 8) };
    let count = u64::from_le_bytes(count);
    Ok(if count > 0 && touched[7] == 1 { "works".into() } else { "counts nothing".into() })
}

/// Loads a socket filter that drops everything.
fn tracer() -> Result<String, Error> {
    // mov r0, 0; exit
    let program: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let mut attributes = [0u8; 72];
    attributes[0..4].copy_from_slice(&BPF_PROG_TYPE_SOCKET_FILTER.to_le_bytes());
    attributes[4..8].copy_from_slice(&2u32.to_le_bytes());
    attributes[8..16].copy_from_slice(&(program.as_ptr() as u64).to_le_bytes());
    attributes[16..24].copy_from_slice(&(licence.as_ptr() as u64).to_le_bytes());
    // SAFETY: the attributes, the program and the licence outlive the call.
    match unsafe { syscall(SYS_BPF, BPF_PROG_LOAD, attributes.as_ptr(), 72i64) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok("works".into()),
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("crash") {
        println!("crashing");
        // SAFETY: that is what is wanted.
        unsafe { abort() }
    }
    for (name, result) in [("ptrace", debugger()), ("perf", profiler()), ("bpf", tracer())] {
        println!("{name} {}", result.unwrap_or_else(|error| error.to_string()));
    }
}
