//! `ferry images` and `ferry load`: what is in the store.

use super::containers::table;
use super::format::Template;
use super::image::{self, shown, since, split};
use super::progress::Show;
use super::{Fault, Global, print};
use crate::runtime::size::human_size;
use clap::Args;
use ferry_images::reference::{Name, ParseReferenceError};
use ferry_images::source::{self, Access, Keep, Pull};
use ferry_images::store::Named;
use ferry_images::{Grammar, Progress, Reference, Registries, Store};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::IsTerminal;

/// Options of `ferry images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Only image ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Show them by a template, such as '{{.Repository}}:{{.Tag}}', as a 'table {{.ID}}\t{{.Size}}', or as json
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse, conflicts_with = "quiet")]
    format: Option<Template>,
    /// Only that name, or all of that repository: [HOST[:PORT]/]REPOSITORY[:TAG]
    #[arg(value_name = "NAME", value_parser = name_or_repository)]
    name: Option<Name>,
}

/// Options of `ferry load`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  docker save redis:7 | ferry load\n  ferry run --rm redis:7")]
pub struct LoadArgs {
    /// The image: an archive, a directory, or any other source that ferry run takes [default: an archive on standard
    /// input]
    #[arg(short, long, value_name = "IMAGE", default_value = "-", hide_default_value = true)]
    input: String,
}

/// `ferry images`: every name in the store.
pub fn images(global: &Global, args: &ImagesArgs) -> Result<u8, Fault> {
    let store = global.store()?;
    let mut names = store.names().map_err(Fault::new)?;
    if let Some(wanted) = &args.name {
        names.retain(|named| is_of(&named.name, wanted));
    }
    if args.quiet {
        let mut ids: Vec<String> =
            names.iter().map(|named| shown(&named.image, args.no_trunc) + "\n").collect();
        ids.sort();
        ids.dedup();
        return print(&ids.concat());
    }
    let rows: Vec<_> = names.iter().map(|named| row(&store, named, args.no_trunc)).collect();
    if let Some(template) = &args.format {
        let things: Vec<_> = rows.iter().zip(&names).map(|(row, named)| fields(row, named)).collect();
        return print(&template.show_all(&things).map_err(Fault::new)?);
    }
    let header = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned);
    print(&table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
}

/// Whether a complete name is what `wanted` means: that name, or one of that repository where it has no tag.
fn is_of(name: &str, wanted: &Name) -> bool {
    let repository = format!("{}/{}", wanted.registry, wanted.repository);
    match wanted.tag {
        None => split(name).0 == repository,
        Some(_) => name == wanted.to_string(),
    }
}

/// The name of an image; of all of a repository where neither tag nor digest is written.
fn name_or_repository(text: &str) -> Result<Name, ParseReferenceError> {
    let name: Name = text.parse()?;
    let all = split(text).1.is_none() && name.digest.is_none();
    Ok(Name { tag: name.tag.filter(|_| !all), ..name })
}

fn row(store: &Store, named: &Named, whole: bool) -> [String; 5] {
    let (repository, tag) = split(&named.name);
    let image = image::named(store, named).ok().flatten();
    let created = image.as_ref().and_then(|image| image.said().ok()).map(|said| since(&said["created"]));
    let bytes = image.as_ref().and_then(image::Found::bytes);
    [
        repository.to_owned(),
        tag.unwrap_or("<none>").to_owned(),
        shown(&named.image, whole),
        created.unwrap_or_else(|| "N/A".to_owned()),
        bytes.map_or_else(|| "incomplete".to_owned(), human_size),
    ]
}

/// What a template finds in an image.
fn fields(row: &[String; 5], named: &Named) -> Value {
    let [repository, tag, id, created, size] = row;
    json!({
        "Repository": repository,
        "Tag": tag,
        "ID": id,
        "Digest": named.index.or(named.manifest).map_or_else(|| "<none>".to_owned(), |digest| digest.to_string()),
        "CreatedSince": created,
        "Size": size,
    })
}

/// `ferry load`.
pub fn load(global: &Global, args: &LoadArgs) -> Result<u8, Fault> {
    let reference = Reference::parse(&args.input, Grammar::Registry).map_err(Fault::new)?;
    if reference == Reference::Stdin && std::io::stdin().is_terminal() {
        return Err(Fault::new(
            "there is no image on standard input: name a file (-i FILE), or pipe docker save into this",
        ));
    }
    if let Reference::Registry(name) = &reference {
        return Err(Fault::new(format_args!(
            "{name} is no file: get it from its registry with `ferry pull {name}`"
        )));
    }
    let store = global.store()?;
    let progress = Show::new();
    let registries = Registries::new(BTreeMap::new());
    let access = Access { registries: &registries, pull: Pull::Never, keep: Keep::Packed };
    let loaded = source::resolve(&store, &reference, &access, &progress);
    progress.end();
    let image = loaded.map_err(Fault::new)?;
    let names = store.names().map_err(Fault::new)?;
    let mut lines: String = names
        .iter()
        .filter(|named| named.image == image.digest)
        .map(|n| format!("Loaded image: {}\n", n.name))
        .collect();
    if lines.is_empty() {
        lines = format!("Loaded image ID: {}\n", image.digest);
    }
    print(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_stands_for_all_its_names_and_a_name_for_itself() {
        let names = [
            "docker.io/library/redis:7",
            "docker.io/library/redis:latest",
            "docker.io/library/redis@sha256:00",
            "docker.io/library/redistribution:7",
            "localhost:5000/redis:7",
        ];
        for (wanted, fitting) in
            [("redis", &[0, 1, 2][..]), ("redis:7", &[0]), ("localhost:5000/redis", &[4]), ("redi", &[])]
        {
            let wanted = name_or_repository(wanted).unwrap();
            let found: Vec<_> = (0..names.len()).filter(|index| is_of(names[*index], &wanted)).collect();
            assert_eq!(found, fitting, "{wanted}");
        }
    }
}
