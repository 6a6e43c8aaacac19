//! The guest's counters in Prometheus's text format, under the names that Kata's agent gives them.

use crate::prelude::*;
use crate::sys::file::{CWD, read_file};

/// Most bytes of one file of /proc.
const LIMIT: usize = 1 << 18;

/// Reads what there is.
pub fn read() -> String {
    let file =
        |path: &str| String::from_utf8(read_file(CWD, path, LIMIT).unwrap_or_default()).unwrap_or_default();
    let mut text = memory(&file("/proc/meminfo"));
    text.push_str(&load(&file("/proc/loadavg")));
    text.push_str(&processors(&file("/proc/stat")));
    text
}

/// Lines of `Name:  NUMBER kB`; lines without the unit are counts.
fn memory(meminfo: &str) -> String {
    let mut text = String::from("# TYPE kata_guest_meminfo gauge\n");
    for (name, value) in meminfo.lines().filter_map(|line| line.split_once(':')) {
        let mut words = value.split_ascii_whitespace();
        let Some(number) = words.next().and_then(|number| number.parse::<u64>().ok()) else { continue };
        let number = if words.next().is_some() { number.saturating_mul(1024) } else { number };
        text.push_str(&format!("kata_guest_meminfo{{item=\"{name}\"}} {number}\n"));
    }
    text
}

fn load(loadavg: &str) -> String {
    let mut text = String::from("# TYPE kata_guest_load gauge\n");
    for (value, name) in loadavg.split(' ').zip(["load1", "load5", "load15"]) {
        text.push_str(&format!("kata_guest_load{{item=\"{name}\"}} {value}\n"));
    }
    text
}

/// Lines of `cpuN` and counters in ticks, in the order of proc_stat(5).
fn processors(stat: &str) -> String {
    const ITEMS: [&str; 10] =
        ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"];
    let mut text = String::from("# TYPE kata_guest_cpu_time gauge\n");
    for line in stat.lines().filter(|line| line.starts_with("cpu")) {
        let mut words = line.split_ascii_whitespace();
        let processor = match words.next() {
            Some("cpu") => "total",
            Some(name) => name,
            None => continue,
        };
        for (value, item) in words.zip(ITEMS) {
            text.push_str(&format!("kata_guest_cpu_time{{cpu=\"{processor}\",item=\"{item}\"}} {value}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_become_lines() {
        let memory = memory("MemTotal:  2 kB\nHugePages_Total:  3\nnonsense\nX: y kB\n");
        assert!(
            memory.ends_with("{item=\"MemTotal\"} 2048\nkata_guest_meminfo{item=\"HugePages_Total\"} 3\n")
        );
        assert!(load("0.5 0.25 0.1 1/50 123\n").ends_with("{item=\"load15\"} 0.1\n"));
        let processors = processors("cpu  1 2\ncpu0 3 4\nintr 5\n");
        assert!(processors.contains("{cpu=\"total\",item=\"nice\"} 2\n"));
        assert!(processors.ends_with("{cpu=\"cpu0\",item=\"nice\"} 4\n"));
    }
}
