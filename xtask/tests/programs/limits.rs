//! Limits what a process may have: `limits PID address-space KIB`, which is how many KiB more than it has, or `unlimited`.
//! Built by the tests as a static program.

use std::fs;
use std::process::ExitCode;

#[repr(C)]
struct Limit {
    soft: u64,
    hard: u64,
}

const ADDRESS_SPACE: i32 = 9;

unsafe extern "C" {
    fn prlimit(pid: i32, resource: i32, new: *const Limit, old: *mut Limit) -> i32;
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [pid, resource, amount] = &words[..] else { return ExitCode::FAILURE };
    assert_eq!(resource, "address-space");
    let has = fs::read_to_string(format!("/proc/{pid}/statm")).expect("the process");
    let pages: u64 = has.split(' ').next().and_then(|pages| pages.parse().ok()).expect("its pages");
    let most = match amount.as_str() {
        "unlimited" => u64::MAX,
        more => pages * 4096 + more.parse::<u64>().expect("a number of KiB") * 1024,
    };
    let limit = Limit { soft: most, hard: u64::MAX };
    // SAFETY: one limit is read, and none is written.
    let set = unsafe { prlimit(pid.parse().expect("a process"), ADDRESS_SPACE, &limit, std::ptr::null_mut()) };
    println!("{}", if set == 0 { "limited".to_owned() } else { std::io::Error::last_os_error().to_string() });
    ExitCode::SUCCESS
}
