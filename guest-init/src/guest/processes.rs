//! The processes of a container, as the kernel shows them in /proc (proc_pid_stat(5), proc_pid_status(5)).

use super::space::Space;
use crate::api::ferry::{ListProcessesResponse, ProcessInfo};
use crate::prelude::*;
use crate::sys::event::since_boot;
use crate::sys::file::{CWD, read_page};

/// The kernel's unit of time for programs, in ticks a second (USER_HZ, the same on every x86-64).
const TICKS: u32 = 100;

/// Bytes in a page.
const PAGE: u64 = 4096;

/// Most bytes of the arguments of all processes; of those of one there is a page.
const ALL_ARGUMENTS: usize = 1 << 20;

/// The processes in the container's cgroup, but for the one that holds its namespaces.
pub fn list(space: &Space) -> Result<ListProcessesResponse> {
    let holder = space.holder();
    let mut left = ALL_ARGUMENTS;
    let mut found = Vec::new();
    for pid in space.cgroup()?.processes()?.into_iter().filter(|pid| Some(*pid) != holder) {
        // One that has ended meanwhile is left out.
        let (Ok(stat), Ok(status)) = (file(pid, "stat"), file(pid, "status")) else { continue };
        let Some((parent, mut info)) = describe(&stat, &status) else { continue };
        let arguments = file(pid, "cmdline").unwrap_or_default();
        if arguments.len() <= left {
            left -= arguments.len();
            info.args = split(&arguments);
        }
        found.push((pid, parent, info));
    }
    let numbers: Vec<(i32, u32)> = found.iter().map(|(pid, _, info)| (*pid, info.pid)).collect();
    let number = |parent: i32| match numbers.iter().find(|(pid, _)| *pid == parent) {
        Some((_, number)) => *number,
        None => u32::from(Some(parent) == holder && space.owns_pids()),
    };
    let mut processes = Vec::with_capacity(found.len());
    for (_, parent, info) in found {
        let at = processes.partition_point(|other: &ProcessInfo| other.pid < info.pid);
        processes.insert(at, ProcessInfo { ppid: number(parent), ..info });
    }
    let now_ticks = since_boot() / (1000 / u64::from(TICKS));
    Ok(ListProcessesResponse { processes, ticks_per_second: TICKS, now_ticks })
}

fn file(pid: i32, name: &str) -> SysResult<Vec<u8>> {
    read_page(CWD, &format!("/proc/{pid}/{name}"))
}

fn split(arguments: &[u8]) -> Vec<Vec<u8>> {
    match arguments.strip_suffix(&[0]).unwrap_or(arguments) {
        [] => Vec::new(),
        arguments => arguments.split(|&byte| byte == 0).map(Vec::from).collect(),
    }
}

/// From /proc/PID/stat and /proc/PID/status: the parent's number among the guest's, and the rest but for `ppid` and
/// `args`.
fn describe(stat: &[u8], status: &[u8]) -> Option<(i32, ProcessInfo)> {
    // The name is the process's to choose: it may have blanks and parentheses.
    let (begin, end) = (stat.iter().position(|&b| b == b'(')?, stat.iter().rposition(|&b| b == b')')?);
    let name = stat.get(begin + 1..end)?.to_vec();
    let fields: Vec<&str> = core::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().collect();
    // As the manual counts them: the state is the third.
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |at| field(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let status = String::from_utf8_lossy(status);
    let of_status = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let numbers = line.split_ascii_whitespace().filter_map(|number| number.parse::<u32>().ok());
        Some(numbers.collect::<Vec<_>>())
    };
    let info = ProcessInfo {
        // One number for each namespace that it is in, its own last.
        pid: *of_status("NSpid:")?.last()?,
        ppid: 0,
        uid: *of_status("Uid:")?.get(1)?,
        state: field(3)?.into(),
        start_ticks: number(22),
        cpu_ticks: number(14) + number(15),
        rss_bytes: number(24) * PAGE,
        args: Vec::new(),
        name,
    };
    Some((field(4)?.parse().ok()?, info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_imitates_the_fields_deceives_nobody() {
        let stat = b"77 (a) R 1 (b)) S 5 77 77 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 4242 8192 3 18446744073709551615\n";
        let status = b"Name:\ta) R 1 (b)\nUid:\t1\t1000\t1\t1\nNSpid:\t77\t4\n";
        let (parent, info) = describe(stat, status).unwrap();
        assert_eq!((parent, info.pid, info.uid, info.state.as_str()), (5, 4, 1000, "S"));
        assert_eq!((info.cpu_ticks, info.start_ticks, info.rss_bytes), (42, 4242, 3 * PAGE));
        assert_eq!(info.name, b"a) R 1 (b)");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(describe(b"", b""), None);
        assert_eq!(describe(b")(", b"Uid:\t1\t1\nNSpid:\t1\n"), None);
        assert_eq!(describe(b"1 (x) S", b"Uid:\t1\t1\nNSpid:\t1\n"), None);
    }

    #[test]
    fn arguments_end_with_a_nul_each() {
        assert_eq!(split(b"sh\0-c\0\0"), [b"sh".to_vec(), b"-c".to_vec(), b"".to_vec()]);
        assert!(split(b"").is_empty() && split(b"\0").is_empty());
    }
}
