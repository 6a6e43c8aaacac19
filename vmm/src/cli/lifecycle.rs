//! `ferry stop`, `kill`, `wait`, `pause`, `unpause` and `update`: what is done to containers that run.

use super::target::{Names, request};
use super::{FAILED, Fault, print};
use crate::agent::Signal;
use crate::runtime::limits::Limits;
use crate::runtime::monitor::protocol::Request;
use crate::runtime::restart::Restart;
use crate::runtime::size::parse_size;
use crate::runtime::state::Listed;
use crate::runtime::supervise::SHUTDOWN_LIMIT;
use clap::Args;

/// Options of `ferry stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds until a container that does not end is killed; -1 for never [default: as it was made, 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true, visible_alias = "time", value_parser = parse_seconds)]
    timeout: Option<u32>,
    #[command(flatten)]
    names: Names,
}

/// Options of `ferry kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL", value_parser = parse_signal)]
    signal: Signal,
    #[command(flatten)]
    names: Names,
}

/// Options of `ferry update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Processor time, in processors: 0.5, 2
    #[arg(long, value_name = "N", value_parser = parse_cpu_millis)]
    cpus: Option<u64>,
    /// Weight of its processor time among containers of the same VM, 2 to 262144
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    cpu_shares: Option<u64>,
    /// Memory, such as 256m: at most what the machine has, or can grow to (run --memory-max)
    #[arg(short, long, value_name = "SIZE", value_parser = parse_limit)]
    memory: Option<u64>,
    /// Number of processes; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pids_limit: Option<i64>,
    /// Whether it is started again after its end: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = Restart::parse)]
    restart: Option<Restart>,
    #[command(flatten)]
    names: Names,
}

/// Reads the value of `--timeout`: what is negative never comes.
pub fn parse_seconds(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(seconds) if seconds < 0 => Ok(u32::MAX),
        Ok(seconds) => u32::try_from(seconds).map_err(|_| "that is more than a hundred years".to_owned()),
        Err(_) => Err("it is a number of seconds".to_owned()),
    }
}

/// Reads the name or number of a signal.
pub fn parse_signal(text: &str) -> Result<Signal, String> {
    Signal::parse(text).map_err(|error| error.to_string())
}

/// Reads a number of processors, in thousandths.
fn parse_cpu_millis(text: &str) -> Result<u64, String> {
    let fault = || "it is a number of processors: 0.5, 2".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || text == "." || !digits(whole) || !digits(fraction) || whole.len() > 5 {
        return Err(fault());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| fault())? };
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    let millis = whole * 1000 + thousandths.parse::<u64>().map_err(|_| fault())?;
    // The kernel takes a quota of 1 ms in 100 ms and no less.
    if millis < 10 { Err("that is too little: at least 0.01".to_owned()) } else { Ok(millis) }
}

fn parse_limit(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 6 << 20;
    match parse_size(text) {
        Ok(bytes) if bytes < LEAST => Err("that is too little for any process: at least 6m".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// `ferry stop`. One that does not run is stopped already.
pub fn stop(args: &StopArgs) -> Result<u8, Fault> {
    args.names.each(|container| {
        if container.alive && !container.record.status.is_over() {
            stopped(request(container, &Request::Stop { seconds: args.timeout }).map(drop), container)?;
        }
        wait_for_end(container)
    })
}

/// A container that has ended while it was asked to is stopped as well.
fn stopped(result: Result<(), Fault>, container: &Listed) -> Result<(), Fault> {
    if container.is_alive() { result } else { Ok(()) }
}

/// Its disk is in order, and its name can be had, when its ferry has ended.
fn wait_for_end(container: &Listed) -> Result<(), Fault> {
    if container.wait_for_end(SHUTDOWN_LIMIT) {
        return Ok(());
    }
    let (name, pid) = (&container.record.name, container.record.pid);
    Err(Fault::new(format_args!(
        "container {name} has ended, but its VM does not (process {pid}): ferry rm -f {name} ends it"
    )))
}

/// `ferry kill`.
pub fn kill(args: &KillArgs) -> Result<u8, Fault> {
    let number = args.signal.number();
    args.names.each(|container| request(container, &Request::Signal { number }).map(drop))
}

/// `ferry wait`: the exit statuses, one a line, in the order of the names.
pub fn wait(names: &Names) -> Result<u8, Fault> {
    let mut status = 0;
    for container in names.all()? {
        match exit_status(&container) {
            Ok(code) => drop(print(&format!("{code}\n"))?),
            Err(fault) => {
                super::report(&fault, false);
                status = FAILED;
            }
        }
    }
    Ok(status)
}

fn exit_status(container: &Listed) -> Result<u8, Fault> {
    let ended =
        |record: &crate::runtime::record::Record| record.exit_code.filter(|_| record.status.is_over());
    if let Some(code) = ended(&container.record) {
        return Ok(code);
    }
    let told = request(container, &Request::Wait).and_then(|end| end.exit().map_err(Fault::new));
    match told {
        Ok(code) => {
            // Whoever waits for a container goes on with it, or removes it. One that is started again has no end.
            let again = || container.reread().is_some_and(|record| !record.status.is_over());
            while !again() && !container.wait_for_end(std::time::Duration::from_millis(200)) {}
            Ok(code)
        }
        // It ended while the question was on its way, and perhaps its ferry with it.
        Err(fault) if !container.is_alive() => {
            let now = super::target::find(&container.record.id).ok();
            now.and_then(|now| ended(&now.record)).ok_or(fault)
        }
        Err(fault) => Err(fault),
    }
}

/// `ferry pause`.
pub fn pause(names: &Names) -> Result<u8, Fault> {
    names.each(|container| request(container, &Request::Pause).map(drop))
}

/// `ferry unpause`.
pub fn unpause(names: &Names) -> Result<u8, Fault> {
    names.each(|container| request(container, &Request::Unpause).map(drop))
}

/// `ferry update`.
pub fn update(args: &UpdateArgs) -> Result<u8, Fault> {
    let limits = Limits {
        cpu_millis: args.cpus,
        cpu_shares: args.cpu_shares,
        memory: args.memory,
        pids: args.pids_limit,
    };
    if limits == Limits::default() && args.restart.is_none() {
        return Err(Fault::new(
            "there is nothing to change: give --cpus, --memory, --pids-limit or --restart",
        ));
    }
    let asked = Request::Update { limits, restart: args.restart };
    args.names.each(|container| request(container, &asked).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_docker_reads_them() {
        assert_eq!(parse_cpu_millis("0.5"), Ok(500));
        assert_eq!(parse_cpu_millis(".25"), Ok(250));
        assert_eq!(parse_cpu_millis("2"), Ok(2000));
        assert_eq!(parse_cpu_millis("1.23456"), Ok(1234));
        for text in ["", ".", "0", "0.001", "-1", "1e3", "x", "1.x", "999999999"] {
            assert!(parse_cpu_millis(text).is_err(), "{text}");
        }
        assert_eq!(parse_seconds("0"), Ok(0));
        assert_eq!(parse_seconds("-1"), Ok(u32::MAX));
        assert!(parse_seconds("soon").is_err() && parse_seconds("99999999999").is_err());
        assert_eq!(parse_limit("64m"), Ok(64 << 20));
        assert!(parse_limit("1k").is_err());
    }
}
