//! `ferry top`: the processes of a container, as the container numbers them.

use super::containers::table;
use super::target::{agent, find};
use super::{Fault, print};
use crate::agent::printable;
use clap::Args;
use ferry_init::api::ferry::{ListProcessesResponse, ProcessInfo};

/// Operands of `ferry top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Name, id, or beginning of an id
    container: String,
}

/// `ferry top`.
pub fn top(args: &TopArgs) -> Result<u8, Fault> {
    let container = find(&args.container)?;
    let answer = agent(&container)?.list_processes(&container.record.id).map_err(Fault::new)?;
    print(&shown(&answer))
}

fn shown(answer: &ListProcessesResponse) -> String {
    let header = ["UID", "PID", "PPID", "S", "%CPU", "RSS", "TIME", "CMD"].map(str::to_owned);
    let rows: Vec<_> =
        std::iter::once(header).chain(answer.processes.iter().map(|process| row(process, answer))).collect();
    table(&rows)
}

fn row(process: &ProcessInfo, answer: &ListProcessesResponse) -> [String; 8] {
    // What the guest says of its clock is as little believed as the rest.
    let second = u64::from(answer.ticks_per_second.max(1));
    let age = answer.now_ticks.saturating_sub(process.start_ticks).max(1);
    let percent = process.cpu_ticks as f64 * 100.0 / age as f64;
    let time = process.cpu_ticks / second;
    let words: Vec<_> = process.args.iter().map(|word| String::from_utf8_lossy(word)).collect();
    let command = match words.is_empty() {
        true => format!("[{}]", printable(&String::from_utf8_lossy(&process.name))),
        false => printable(&words.join(" ")),
    };
    [
        process.uid.to_string(),
        process.pid.to_string(),
        process.ppid.to_string(),
        printable(&process.state),
        format!("{percent:.1}"),
        format!("{}K", process.rss_bytes / 1024),
        format!("{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60),
        command,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_shown_whatever_the_guest_says() {
        let process = ProcessInfo {
            pid: 7,
            ppid: 1,
            uid: 33,
            state: "S".into(),
            start_ticks: 100,
            cpu_ticks: 6150,
            rss_bytes: 4096,
            args: vec![b"sh\x1b[31m".to_vec(), b"-c".to_vec()],
            name: b"sh".to_vec(),
        };
        let zombie = ProcessInfo { args: vec![], state: "Z\n".into(), ..process.clone() };
        let answer = ListProcessesResponse {
            processes: vec![process, zombie],
            ticks_per_second: 100,
            now_ticks: 12_400,
        };
        let lines: Vec<_> = shown(&answer).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "UID   PID   PPID   S   %CPU   RSS   TIME       CMD");
        assert_eq!(lines[1], "33    7     1      S   50.0   4K    00:01:01   sh [31m -c");
        assert_eq!(lines[2], "33    7     1      Z   50.0   4K    00:01:01   [sh]");
        let none = ListProcessesResponse { ticks_per_second: 0, now_ticks: 0, ..answer };
        assert_eq!(shown(&none).lines().count(), 3);
    }
}
