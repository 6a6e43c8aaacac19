//! `ferry logs`: what a detached container has written.

use super::Fault;
use super::target::{agent, find};
use crate::runtime::clock;
use crate::runtime::logs::{Follow, Line, Query, Reader, Stream};
use clap::Args;
use std::io::{self, Write};

/// Options of `ferry logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines at the end, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = parse_tail)]
    tail: Tail,
    /// Only lines from then on: a time (2026-01-31T12:00:00Z), or how long ago (10m, 1h30m)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<u64>,
    /// Only lines up to then
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<u64>,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Show the log of the container's kernel instead, as dmesg does
    #[arg(long, conflicts_with_all = ["follow", "tail", "since", "until", "timestamps"])]
    kernel: bool,
    /// Name, id, or beginning of an id
    container: String,
}

/// The value of `--tail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail(Option<usize>);

fn parse_tail(text: &str) -> Result<Tail, String> {
    match text.parse::<i64>() {
        // Docker takes every negative number for all.
        Ok(lines) => Ok(Tail(usize::try_from(lines).ok())),
        Err(_) if text == "all" => Ok(Tail(None)),
        Err(_) => Err("it is a number of lines, or all".to_owned()),
    }
}

/// A time, a number of seconds since 1970, or a duration before now; in nanoseconds since 1970.
fn parse_time(text: &str) -> Result<u64, String> {
    const SECOND: u64 = 1_000_000_000;
    if let Some(time) = clock::parse(text).or_else(|| clock::parse(&format!("{text}T00:00:00Z"))) {
        return Ok(time);
    }
    if let Some(time) = text.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(SECOND)) {
        return Ok(time);
    }
    let fault = || "it is a time (2026-01-31T12:00:00Z) or how long ago (10m, 1h30m)".to_owned();
    let ago = clock::parse_length(text, &clock::UNITS).ok_or_else(fault)?;
    Ok(clock::now().saturating_sub(ago))
}

/// `ferry logs`.
pub fn logs(args: &LogsArgs) -> Result<u8, Fault> {
    let container = find(&args.container)?;
    let record = &container.record;
    if args.kernel {
        let text = agent(&container)?.kernel_log().map_err(Fault::new)?;
        return write(io::stdout().write_all(&text));
    }
    if !record.made.detached {
        return Err(Fault::new(format_args!(
            "container {} was run in the foreground, so what it wrote was not kept: run it with -d",
            record.name
        )));
    }
    let query = Query { tail: args.tail.0, since: args.since, until: args.until };
    let mut more = || container.is_alive() && container.reread().is_some_and(|now| !now.status.is_over());
    let follow = if args.follow { Follow::While(&mut more) } else { Follow::No };
    let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
    let mut show = |line: &Line<'_>| {
        let to: &mut dyn Write = match line.stream {
            Stream::Stdout => &mut stdout,
            Stream::Stderr => &mut stderr,
        };
        if args.timestamps {
            write!(to, "{} ", line.time)?;
        }
        to.write_all(line.log.as_bytes())?;
        to.flush()
    };
    let fault = |error| Fault::new(format_args!("the log of container {}: {error}", record.name));
    let mut reader = Reader::open(container.directory()).map_err(fault)?;
    write(reader.show(&query, follow, &mut show))
}

/// A reader that has gone away is no failure.
fn write(result: io::Result<()>) -> Result<u8, Fault> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Fault::new(format_args!("the log cannot be shown: {error}")))
        }
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_and_times_are_read_as_docker_reads_them() {
        assert_eq!(parse_tail("all"), Ok(Tail(None)));
        assert_eq!(parse_tail("-1"), Ok(Tail(None)));
        assert_eq!(parse_tail("0"), Ok(Tail(Some(0))));
        assert!(parse_tail("some").is_err());
        assert_eq!(parse_time("2024-02-29T10:00:00Z"), Ok(1_709_200_800_000_000_000));
        assert_eq!(parse_time("2024-02-29"), Ok(1_709_164_800_000_000_000));
        assert_eq!(parse_time("1709200800"), Ok(1_709_200_800_000_000_000));
        let ago = clock::now() - parse_time("1h30m5s").unwrap();
        assert!((5404..5410).contains(&(ago / 1_000_000_000)), "{ago}");
        for text in ["", "x", "m", "10x", "1h2", "99999999999999999999h", "-5m"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
