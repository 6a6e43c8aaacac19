//! `ferry ps`, `ferry rm` and `ferry inspect`: the containers that runs have left.

use super::{FAILED, Fault, Global, print};
use crate::agent::printable;
use crate::runtime::clock;
use crate::runtime::state::{Error, Force, Listed, Status, short};
use clap::Args;
use std::time::Duration;

/// Options of `ferry ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also those that have ended
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
}

/// Operands of `ferry rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Also one that runs: its VM is ended
    #[arg(short, long)]
    force: bool,
    /// Names, ids, or beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Operands of `ferry inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Names, ids, or beginnings of ids: of containers, then of images
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `ferry ps`.
pub fn ps(args: &PsArgs) -> Result<u8, Fault> {
    let mut list = Global::containers()?.list().map_err(Fault::new)?;
    list.retain(|one| args.all || !one.record.status.is_over());
    if args.quiet {
        let id = |one: &Listed| {
            if args.no_trunc { one.record.id.clone() } else { short(&one.record.id).to_owned() }
        };
        return print(&list.iter().map(|one| id(one) + "\n").collect::<String>());
    }
    let header = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"].map(str::to_owned);
    let rows: Vec<[String; 6]> =
        std::iter::once(header).chain(list.iter().map(|one| row(one, args.no_trunc))).collect();
    print(&table(&rows))
}

fn row(one: &Listed, whole: bool) -> [String; 6] {
    let record = &one.record;
    let cut = |text: &str, length: usize| match printable(text) {
        text if whole || text.chars().count() <= length => text,
        text => text.chars().take(length - 1).chain(['…']).collect(),
    };
    let id = if whole { record.id.as_str() } else { short(&record.id) };
    [
        id.to_owned(),
        cut(&record.made.image, 32),
        format!("\"{}\"", cut(&record.made.args.join(" "), 20)),
        clock::ago(record.created),
        status(one),
        record.name.clone(),
    ]
}

/// As Docker says it: `Up 5 minutes`, `Exited (0) 2 hours ago`.
fn status(one: &Listed) -> String {
    let record = &one.record;
    let code = record.exit_code.unwrap_or(0);
    match record.status {
        Status::Created => "Starting".to_owned(),
        Status::Running | Status::Paused => {
            let up = Duration::from_nanos(clock::now().saturating_sub(record.started));
            let paused = if record.status == Status::Paused { " (Paused)" } else { "" };
            format!("Up {}{paused}", clock::roughly(up))
        }
        Status::Restarting => format!("Restarting ({code}) {}", clock::ago(record.finished)),
        Status::Exited => format!("Exited ({code}) {}", clock::ago(record.finished)),
        Status::Dead => format!("Dead ({})", record.reason),
    }
}

/// Columns as wide as their widest cell, three blanks apart.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: String =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}   ")).collect();
        cells.trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// `ferry rm`: each on its own; one that cannot be removed does not keep the others.
pub fn rm(args: &RmArgs) -> Result<u8, Fault> {
    let containers = Global::containers()?;
    let force = if args.force { Force::Yes } else { Force::No };
    let mut status = 0;
    for wanted in &args.containers {
        let removed = containers.find(wanted).and_then(|found| containers.remove(&found, force));
        match removed {
            Ok(()) => drop(print(&format!("{wanted}\n"))?),
            Err(error) => {
                eprintln!("ferry: {error}");
                status = FAILED;
            }
        }
    }
    Ok(status)
}

/// `ferry inspect`: an array, as in Docker.
pub fn inspect(global: &Global, args: &InspectArgs) -> Result<u8, Fault> {
    let containers = Global::containers()?;
    let one = |wanted: &String| match containers.find(wanted) {
        Ok(found) => Ok(found.record.inspect()),
        Err(error @ Error::NotFound(_)) => {
            let found = super::image::find(&global.store()?, wanted)?;
            found.map_or_else(
                || Err(Fault::new(format_args!("{error}, nor an image"))),
                |image| image.inspect(),
            )
        }
        Err(error) => Err(Fault::new(error)),
    };
    let found = args.containers.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    print(&format!("{:#}\n", serde_json::Value::Array(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["ID".to_owned(), "NAME".to_owned()], ["abc".to_owned(), "ä".to_owned()]];
        assert_eq!(table(&rows), "ID    NAME\nabc   ä\n");
    }
}
