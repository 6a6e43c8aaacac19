//! `ferry stats`: what containers use, once or again and again.

use super::containers::table;
use super::target::{agent, find};
use super::{Fault, Global, metrics, print};
use crate::agent::Client;
use crate::runtime::size::human_size;
use crate::runtime::state::{Listed, short};
use clap::{Args, ValueEnum};
use ferry_init::api::stats::{BlkioStats, StatsContainerResponse};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Options of `ferry stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    /// Show, once, what the VMs have done: exits of each vCPU by cause, each device's work, as Prometheus text or as JSON
    #[arg(long)]
    metrics: bool,
    /// How it is shown
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
    /// Names, ids, or beginnings of ids; none: all that run
    containers: Vec<String>,
}

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns
    Table,
    /// One JSON object a container and line, with Docker's names
    Json,
}

/// Between two looks: processor time is a difference.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long a guest may take over one look.
const LOOK: Duration = Duration::from_secs(20);

/// A container that is looked at.
struct Watched {
    container: Listed,
    client: Client,
    before: Look,
}

/// What was seen at one time.
struct Look {
    at: Instant,
    stats: StatsContainerResponse,
}

impl Look {
    fn take(client: &Client, id: &str) -> Result<Self, Fault> {
        let stats = client.stats_container(id, LOOK).map_err(Fault::new)?;
        Ok(Self { at: Instant::now(), stats })
    }

    fn cpu_nanoseconds(&self) -> u64 {
        let cpu = self.stats.cgroup_stats.as_ref().and_then(|stats| stats.cpu_stats.as_ref());
        cpu.and_then(|cpu| cpu.cpu_usage.as_ref()).map_or(0, |usage| usage.total_usage)
    }
}

/// `ferry stats`.
pub fn stats(args: &StatsArgs) -> Result<u8, Fault> {
    let wanted = match args.containers.is_empty() {
        true => {
            let all = Global::containers()?.list().map_err(Fault::new)?;
            all.into_iter().filter(|one| one.alive && one.record.status.has_process()).collect()
        }
        false => args.containers.iter().map(|wanted| find(wanted)).collect::<Result<Vec<_>, _>>()?,
    };
    if args.metrics {
        return metrics::show(&wanted, args.format == Format::Json);
    }
    let mut watched = Vec::new();
    for container in wanted {
        let client = agent(&container)?;
        let before = Look::take(&client, &container.record.id)?;
        watched.push(Watched { container, client, before });
    }
    let redrawn = !args.no_stream && args.format == Format::Table && std::io::stdout().is_terminal();
    loop {
        std::thread::sleep(BETWEEN);
        let mut rows = Vec::new();
        watched.retain_mut(|watched| match Look::take(&watched.client, &watched.container.record.id) {
            Ok(now) => {
                rows.push(row(&watched.container, &watched.before, &now));
                watched.before = now;
                true
            }
            // It has ended.
            Err(fault) => {
                tracing::debug!(fault = fault.message, "a container's counters");
                false
            }
        });
        let text = match args.format {
            Format::Json => rows.iter().map(|row| format!("{}\n", json(row))).collect(),
            Format::Table => {
                let header = HEADERS.map(str::to_owned);
                table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
            }
        };
        // From the top-left corner, with what was below gone.
        let before = if redrawn { "\x1b[H\x1b[J" } else { "" };
        print(&format!("{before}{text}"))?;
        if args.no_stream || watched.is_empty() {
            return Ok(0);
        }
    }
}

const HEADERS: [&str; 8] =
    ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"];

fn row(container: &Listed, before: &Look, now: &Look) -> [String; 8] {
    let record = &container.record;
    let [cpu, memory, share, network, blocks, pids] = cells(before, now, record.made.memory_mib << 20);
    [short(&record.id).to_owned(), record.name.clone(), cpu, memory, share, network, blocks, pids]
}

/// The counters as people read them; `machine` is the memory of the whole machine in bytes.
fn cells(before: &Look, now: &Look, machine: u64) -> [String; 6] {
    let elapsed = now.at.saturating_duration_since(before.at).as_nanos().max(1) as f64;
    let used = now.cpu_nanoseconds().saturating_sub(before.cpu_nanoseconds()) as f64;
    let cgroup = now.stats.cgroup_stats.clone().unwrap_or_default();
    let memory = cgroup.memory_stats.unwrap_or_default();
    let usage = memory.usage.unwrap_or_default();
    // As Docker does: what is only cached and not looked at does not count.
    let inactive = memory.stats.get("inactive_file").copied().unwrap_or(0);
    let in_use = usage.usage.saturating_sub(inactive);
    // No limit is a very high one, which no machine has.
    let limit = if usage.limit == 0 { machine } else { usage.limit.min(machine) };
    let share = in_use as f64 * 100.0 / limit.max(1) as f64;
    let network = now.stats.network_stats.iter().filter(|interface| interface.name != "lo");
    let (received, sent) = network.fold((0u64, 0u64), |(received, sent), interface| {
        (received.saturating_add(interface.rx_bytes), sent.saturating_add(interface.tx_bytes))
    });
    let blocks = cgroup.blkio_stats.unwrap_or_default();
    [
        format!("{:.2}%", used * 100.0 / elapsed),
        format!("{} / {}", human_size(in_use), human_size(limit)),
        format!("{share:.2}%"),
        format!("{} / {}", human_size(received), human_size(sent)),
        format!("{} / {}", human_size(blocks_of(&blocks, "read")), human_size(blocks_of(&blocks, "write"))),
        cgroup.pids_stats.map_or(0, |pids| pids.current).to_string(),
    ]
}

fn blocks_of(blocks: &BlkioStats, what: &str) -> u64 {
    let entries = blocks.io_service_bytes_recursive.iter();
    entries
        .filter(|entry| entry.op.eq_ignore_ascii_case(what))
        .fold(0, |sum, entry| sum.saturating_add(entry.value))
}

fn json([id, name, cpu, memory, share, network, blocks, pids]: &[String; 8]) -> serde_json::Value {
    serde_json::json!({
        "ID": id, "Container": id, "Name": name, "CPUPerc": cpu, "MemUsage": memory, "MemPerc": share,
        "NetIO": network, "BlockIO": blocks, "PIDs": pids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_init::api::stats::*;

    fn look(at: Instant, cpu: u64) -> Look {
        let usage = Some(CpuUsage { total_usage: cpu, ..CpuUsage::default() });
        let entry = |op: &str, value| BlkioStatsEntry { op: op.into(), value, ..BlkioStatsEntry::default() };
        let cgroup = CgroupStats {
            cpu_stats: Some(CpuStats { cpu_usage: usage, throttling_data: None }),
            memory_stats: Some(MemoryStats {
                usage: Some(MemoryData { usage: 80 << 20, limit: u64::MAX, ..MemoryData::default() }),
                stats: [("inactive_file".to_owned(), 16 << 20)].into_iter().collect(),
                ..MemoryStats::default()
            }),
            pids_stats: Some(PidsStats { current: 3, limit: 0 }),
            blkio_stats: Some(BlkioStats {
                io_service_bytes_recursive: vec![
                    entry("Read", 1024),
                    entry("write", 2048),
                    entry("read", 1024),
                ],
                ..BlkioStats::default()
            }),
            ..CgroupStats::default()
        };
        let interface =
            |name: &str, rx_bytes| NetworkStats { name: name.into(), rx_bytes, ..NetworkStats::default() };
        let network_stats = vec![interface("lo", 999), interface("eth0", u64::MAX), interface("eth1", 1)];
        Look { at, stats: StatsContainerResponse { cgroup_stats: Some(cgroup), network_stats } }
    }

    #[test]
    fn counters_become_columns() {
        let now = Instant::now();
        let before = look(now, 1_000_000_000);
        let after = look(now + Duration::from_secs(2), 1_500_000_000);
        let [cpu, memory, share, network, blocks, pids] = cells(&before, &after, 256 << 20);
        assert_eq!((cpu.as_str(), memory.as_str(), share.as_str()), ("25.00%", "64 MiB / 256 MiB", "25.00%"));
        assert!(network.ends_with(" / 0 B"), "{network}");
        assert_eq!((blocks.as_str(), pids.as_str()), ("2 KiB / 2 KiB", "3"));
    }

    #[test]
    fn a_guest_that_says_nothing_or_counts_backwards_is_shown_too() {
        let now = Instant::now();
        let empty = Look { at: now, stats: StatsContainerResponse::default() };
        let [cpu, ..] = cells(&look(now, 5), &empty, 0);
        assert_eq!(cpu, "0.00%");
    }
}
