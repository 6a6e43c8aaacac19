//! `ferry ps`, `ferry rm` and `ferry inspect`: the containers that runs have left.

use super::filter::{Filter, fit};
use super::format::Template;
use super::target::{expand, request};
use super::{FAILED, Fault, Global, print};
use crate::agent::printable;
use crate::runtime::clock;
use crate::runtime::health::{Health, State};
use crate::runtime::monitor::protocol::Request;
use crate::runtime::network;
use crate::runtime::state::{Containers, Error, Force, Listed, Status, short};
use crate::runtime::supervise::SHUTDOWN_LIMIT;
use clap::Args;
use std::collections::BTreeMap;
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
    /// Only those that fit: id=, name=, status=, exited=, ancestor=, pod=, label=, volume= or health= and a
    /// value; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Show them by a template, such as '{{.Names}} {{.Status}}', as a 'table {{.ID}}\t{{.Names}}', or as json
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse, conflicts_with = "quiet")]
    format: Option<Template>,
    /// Only the newest, whether they run or not: so many
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "latest")]
    last: Option<usize>,
    /// Only the newest one, whether it runs or not
    #[arg(short, long)]
    latest: bool,
}

/// Operands of `ferry rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Also one that runs: its VM is ended
    #[arg(short, long)]
    force: bool,
    /// Also its volumes that have no name and that no other container has
    #[arg(short, long)]
    volumes: bool,
    /// Names, ids, or beginnings of ids; a pod's name stands for all its containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Operands of `ferry inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Show them by a template, such as '{{.State.Status}}' or '{{json .Config.Env}}'
    #[arg(short, long, value_name = "TEMPLATE", value_parser = Template::parse)]
    format: Option<Template>,
    /// Names, ids, or beginnings of ids: of containers, then of images
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `ferry ps`.
pub fn ps(args: &PsArgs) -> Result<u8, Fault> {
    let mut list = Global::containers()?.list().map_err(Fault::new)?;
    let newest = if args.latest { Some(1) } else { args.last };
    let all = args.all || newest.is_some() || args.filter.iter().any(Filter::is_about_all);
    list.retain(|one| (all || !one.record.status.is_over()) && fit(&args.filter, one));
    list.truncate(newest.unwrap_or(usize::MAX));
    if args.quiet {
        let id = |one: &Listed| {
            if args.no_trunc { one.record.id.clone() } else { short(&one.record.id).to_owned() }
        };
        return print(&list.iter().map(|one| id(one) + "\n").collect::<String>());
    }
    if let Some(template) = &args.format {
        let things: Vec<_> = list.iter().map(|one| fields(one, args.no_trunc)).collect();
        return print(&template.show_all(&things).map_err(Fault::new)?);
    }
    let header =
        ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"].map(str::to_owned);
    let rows: Vec<[String; 7]> =
        std::iter::once(header).chain(list.iter().map(|one| row(one, args.no_trunc))).collect();
    print(&table(&rows))
}

fn row(one: &Listed, whole: bool) -> [String; 7] {
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
        ports(one),
        record.name.clone(),
    ]
}

/// What a template finds in a container.
fn fields(one: &Listed, whole: bool) -> serde_json::Value {
    let record = &one.record;
    let [id, image, command, running_for, status, ports, names] = row(one, whole);
    serde_json::json!({
        "ID": id,
        "Image": image,
        "Command": command,
        "CreatedAt": clock::rfc3339(record.created),
        "RunningFor": running_for,
        "State": record.status.word(),
        "Status": status,
        "Ports": ports,
        "Names": names,
        "Pod": record.pod,
        "Labels": listed_labels(&record.made.details.labels),
        "Mounts": record.made.volumes.iter().map(|volume| volume.name().map_or_else(|| volume.source.display().to_string(), str::to_owned)).collect::<Vec<_>>().join(","),
    })
}

/// Which ports of the host lead to one that runs.
fn ports(one: &Listed) -> String {
    let network = one.record.made.network.as_ref().filter(|_| !one.record.status.is_over());
    let published = network.map(network::Plan::published).unwrap_or_default();
    network::folded(published)
}

fn listed_labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// As Docker says it: `Up 5 minutes`, `Exited (0) 2 hours ago`.
fn status(one: &Listed) -> String {
    let record = &one.record;
    let code = record.exit_code.unwrap_or(0);
    match record.status {
        Status::Created => "Starting".to_owned(),
        Status::Running | Status::Paused => {
            let up = Duration::from_nanos(clock::now().saturating_sub(record.started));
            let note = match &record.health {
                _ if record.status == Status::Paused => " (Paused)".to_owned(),
                Some(Health { state: State::Starting, .. }) => " (health: starting)".to_owned(),
                Some(Health { state, .. }) => format!(" ({})", state.word()),
                None => String::new(),
            };
            format!("Up {}{note}", clock::roughly(up))
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
    for wanted in expand(&args.containers)? {
        let found = containers.find(&wanted).map_err(Fault::new);
        let removed = found.and_then(|found| {
            let volumes = found.record.made.volumes.clone();
            remove(&containers, found, force)?;
            if args.volumes {
                containers.drop_volumes(&volumes);
            }
            Ok(())
        });
        match removed {
            Ok(()) => drop(print(&format!("{wanted}\n"))?),
            Err(fault) => {
                super::report(&fault, false);
                status = FAILED;
            }
        }
    }
    Ok(status)
}

/// One of a pod's containers goes alone: the process that keeps it keeps the others too.
fn remove(containers: &Containers, found: Listed, force: Force) -> Result<(), Fault> {
    let found = match found.alive && !found.record.pod.is_empty() && force == Force::Yes {
        true => {
            let stopped = request(&found, &Request::Stop { seconds: Some(0) });
            if !found.wait_for_end(SHUTDOWN_LIMIT) {
                stopped?;
            }
            match containers.find(&found.record.id) {
                Ok(found) => found,
                // It went away with its end.
                Err(Error::NotFound(_)) => return Ok(()),
                Err(error) => return Err(Fault::new(error)),
            }
        }
        false => found,
    };
    containers.remove(&found, force).map_err(Fault::new)
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
    match &args.format {
        Some(template) => print(&template.show_all(&found).map_err(Fault::new)?),
        None => print(&format!("{:#}\n", serde_json::Value::Array(found))),
    }
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
