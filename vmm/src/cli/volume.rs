//! `ferry volume`: the volumes that ferry keeps, which containers see and which outlive them.

use super::containers::table;
use super::filter::is_labelled;
use super::format::Template;
use super::{FAILED, Fault, Global, print};
use crate::runtime::clock;
use crate::runtime::details::parse_label;
use crate::runtime::name;
use crate::runtime::size::human_size;
use crate::runtime::state::Listed;
use crate::runtime::volumes::Stored;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Operands of `ferry volume`.
#[derive(Debug, Args)]
pub struct VolumeArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a volume; one of that name that is here already stays as it is
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show everything about volumes, as JSON
    Inspect(InspectArgs),
    /// Remove volumes, with what is in them, that no container has
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Remove volumes that no container has and that nobody named
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Say something about it: NAME[=VALUE], for ferry volume inspect and ferry volume ls --filter label=NAME
    #[arg(short, long, value_name = "LABEL", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Its name [default: one by chance, of a volume that ferry volume prune removes]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: name=, label= or dangling= (which no container has) and a value; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Show them by a template, such as '{{.Name}} {{.Mountpoint}}', as a 'table {{.Name}}\t{{.Driver}}', or as json
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse, conflicts_with = "quiet")]
    format: Option<Template>,
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// Show them by a template, such as '{{.Mountpoint}}' or '{{json .Labels}}'
    #[arg(short, long, value_name = "TEMPLATE", value_parser = Template::parse)]
    format: Option<Template>,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// One that is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Also those that have names
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: label= and a value; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Changes nothing: nobody is asked in any case
    #[arg(short, long)]
    force: bool,
}

/// One filter. Several of one key are alternatives, those of different keys must all fit, as in Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    /// A part of a name.
    Name(String),
    /// A label, perhaps with its value.
    Label(String),
    /// Whether no container has it.
    Dangling(bool),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("name", name)) => Ok(Self::Name(name.to_owned())),
            Some(("label", label)) => Ok(Self::Label(label.to_owned())),
            Some(("dangling", "true" | "1")) => Ok(Self::Dangling(true)),
            Some(("dangling", "false" | "0")) => Ok(Self::Dangling(false)),
            Some(("dangling", _)) => Err("dangling is true or false".to_owned()),
            _ => Err("it is name=, label= or dangling= and a value".to_owned()),
        }
    }

    fn fits(&self, volume: &Stored, containers: &[Listed]) -> bool {
        match self {
            Self::Name(name) => volume.record.name.contains(name),
            Self::Label(label) => is_labelled(&volume.record.labels, label),
            Self::Dangling(dangling) => volume.user(containers).is_none() == *dangling,
        }
    }
}

/// `ferry volume`.
pub fn volume(args: VolumeArgs) -> Result<u8, Fault> {
    match args.command {
        Command::Create(args) => create(args),
        Command::Ls(args) => list(&args),
        Command::Inspect(args) => inspect(&args),
        Command::Rm(args) => remove(&args),
        Command::Prune(args) => prune(&args),
    }
}

fn create(args: CreateArgs) -> Result<u8, Fault> {
    let (name, anonymous) = match args.name {
        Some(name) => (name, false),
        None => (name::id(), true),
    };
    let labels = args.label.into_iter().collect();
    let (made, _) = Global::containers()?.volumes().create(&name, labels, anonymous).map_err(Fault::new)?;
    print(&format!("{}\n", made.record.name))
}

/// The volumes that fit.
fn fitting(filters: &[Filter]) -> Result<Vec<Stored>, Fault> {
    let containers = Global::containers()?;
    let mut volumes = containers.volumes().list().map_err(Fault::new)?;
    let list = containers.list().map_err(Fault::new)?;
    volumes.retain(|volume| super::filter::all_keys_fit(filters, |filter| filter.fits(volume, &list)));
    Ok(volumes)
}

fn list(args: &ListArgs) -> Result<u8, Fault> {
    let volumes = fitting(&args.filter)?;
    if args.quiet {
        return print(&volumes.iter().map(|volume| format!("{}\n", volume.record.name)).collect::<String>());
    }
    if let Some(template) = &args.format {
        let things: Vec<_> = volumes.iter().map(listed).collect();
        return print(&template.show_all(&things).map_err(Fault::new)?);
    }
    let header = ["DRIVER", "VOLUME NAME"].map(str::to_owned);
    let rows = volumes.iter().map(|volume| [DRIVER.to_owned(), volume.record.name.clone()]);
    print(&table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
}

/// What Docker calls volumes that are directories of the host's.
const DRIVER: &str = "local";

/// What a template finds in a volume of a list.
fn listed(volume: &Stored) -> Value {
    let labels = volume.record.labels.iter().map(|(name, value)| format!("{name}={value}"));
    json!({
        "Name": volume.record.name,
        "Driver": DRIVER,
        "Scope": DRIVER,
        "Mountpoint": volume.data(),
        "Labels": labels.collect::<Vec<_>>().join(","),
    })
}

fn inspect(args: &InspectArgs) -> Result<u8, Fault> {
    let containers = Global::containers()?;
    let one = |name: &String| {
        let volume = containers.volumes().find(name).map_err(Fault::new)?;
        Ok(json!({
            "Name": volume.record.name,
            "Driver": DRIVER,
            "Scope": DRIVER,
            "Mountpoint": volume.data(),
            "CreatedAt": clock::rfc3339(volume.record.created),
            "Labels": volume.record.labels,
            "Anonymous": volume.record.anonymous,
        }))
    };
    let found = args.names.iter().map(one).collect::<Result<Vec<_>, Fault>>()?;
    match &args.format {
        Some(template) => print(&template.show_all(&found).map_err(Fault::new)?),
        None => print(&format!("{:#}\n", Value::Array(found))),
    }
}

/// Each on its own; one that cannot be removed does not keep the others.
fn remove(args: &RemoveArgs) -> Result<u8, Fault> {
    let containers = Global::containers()?;
    let mut status = 0;
    for name in &args.names {
        match containers.remove_volume(name) {
            Ok(()) => drop(print(&format!("{name}\n"))?),
            Err(error) if args.force && error.is_no_volume() => {}
            Err(error) => {
                super::report(&Fault::new(error), false);
                status = FAILED;
            }
        }
    }
    Ok(status)
}

fn prune(args: &PruneArgs) -> Result<u8, Fault> {
    if args.filter.iter().any(|filter| !matches!(filter, Filter::Label(_))) {
        return Err(Fault::new("volume prune: the filters are label=NAME and label=NAME=VALUE"));
    }
    let containers = Global::containers()?;
    let (mut names, mut bytes) = (String::new(), 0);
    for volume in fitting(&[&args.filter[..], &[Filter::Dangling(true)]].concat())? {
        let name = &volume.record.name;
        if !args.all && !volume.record.anonymous {
            continue;
        }
        let size = volume.bytes();
        match containers.remove_volume(name) {
            Ok(()) => {
                names += &format!("{name}\n");
                bytes += size;
            }
            // Somebody has come to use it, or has removed it.
            Err(error) if error.is_of_volumes_use() => {}
            Err(error) => return Err(Fault::new(error)),
        }
    }
    let deleted = if names.is_empty() { names } else { format!("Deleted Volumes:\n{names}\n") };
    print(&format!("{deleted}Total reclaimed space: {}\n", human_size(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_known_or_said_to_be_none() {
        assert_eq!(Filter::parse("label=a=b"), Ok(Filter::Label("a=b".to_owned())));
        assert_eq!(Filter::parse("dangling=true"), Ok(Filter::Dangling(true)));
        for text in ["", "name", "driver=local", "dangling=perhaps"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
