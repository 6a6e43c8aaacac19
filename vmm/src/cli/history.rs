//! `ferry history`: how an image came to be, step by step, as its makers have written it down.

use super::containers::table;
use super::image::{self, since};
use super::{Fault, Global, print};
use crate::runtime::size::human_size;
use clap::Args;
use serde_json::Value;

/// Characters of a step that are shown, as in Docker.
const SHOWN: usize = 45;

/// Options and operands of `ferry history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// A name, an id, or the beginning of an id
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// `ferry history`: the last step first.
pub fn history(global: &Global, args: &HistoryArgs) -> Result<u8, Fault> {
    let store = global.store()?;
    let found = image::known(&store, &args.image)?;
    let said = found.said()?;
    let mut rows = steps(&said["history"], found.layers(), args.no_trunc);
    rows.push(["CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned));
    rows.reverse();
    print(&table(&rows))
}

/// The steps, first to last. Each but the empty ones has made the next layer, whose size is that of its EROFS image.
fn steps(history: &Value, layers: &[u64], whole: bool) -> Vec<[String; 4]> {
    let mut layers = layers.iter();
    let history = history.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut row = |step: &Value| {
        let bytes = match step["empty_layer"] == true {
            true => Some(0),
            false => layers.next().copied(),
        };
        let text = |field: &str| one_line(step[field].as_str().unwrap_or_default());
        let by = match text("created_by") {
            by if whole || by.chars().count() <= SHOWN => by,
            by => by.chars().take(SHOWN - 1).chain(['…']).collect(),
        };
        [since(&step["created"]), by, bytes.map_or_else(|| "N/A".to_owned(), human_size), text("comment")]
    };
    history.iter().map(&mut row).collect()
}

/// What the image's makers have written, for a terminal: no control characters, but as long as it is.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_step_has_the_layer_it_made() {
        let long = "RUN x".repeat(400);
        let history = json!([
            { "created_by": "ADD rootfs", "comment": "base" },
            { "created_by": long, "empty_layer": true },
            { "created_by": "COPY\n\u{1b}[2J" },
            {},
        ]);
        let rows = steps(&history, &[4096, 8192], false);
        let sizes: Vec<_> = rows.iter().map(|row| row[2].as_str()).collect();
        assert_eq!(sizes, [human_size(4096), human_size(0), human_size(8192), "N/A".to_owned()]);
        assert_eq!((rows[0][1].as_str(), rows[0][3].as_str()), ("ADD rootfs", "base"));
        assert_eq!(rows[1][1].chars().count(), SHOWN);
        assert!(!rows[2][1].contains(['\n', '\u{1b}']), "{:?}", rows[2][1]);
        assert_eq!(steps(&Value::Null, &[1], false), [] as [[String; 4]; 0]);
        assert_eq!(steps(&history, &[], true)[1][1], long);
    }
}
