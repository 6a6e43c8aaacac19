//! `--format`: Go templates as far as commands have use for them: text, `{{.Field.Inner}}`, `{{json .Field}}`, `table` before
//! it for columns with a header, and `json` for everything. What else Go knows is an error and not printed as it stands.

use serde_json::Value;

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    table: bool,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

impl Template {
    /// Reads the value of `--format`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "json" {
            return Ok(Self { table: false, pieces: vec![Piece::Field { path: vec![], json: true }] });
        }
        let (table, mut rest) = match text.strip_prefix("table ") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut pieces = Vec::new();
        while let Some((before, after)) = rest.split_once("{{") {
            pieces.push(Piece::Text(unescaped(before)));
            let (inner, after) = after.split_once("}}").ok_or("a '{{' without its '}}'")?;
            pieces.push(field(inner)?);
            rest = after;
        }
        pieces.push(Piece::Text(unescaped(rest)));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(Self { table, pieces })
    }

    /// One thing, as the template has it, without a newline at its end.
    pub fn show(&self, thing: &Value) -> Result<String, String> {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => Ok(text.clone()),
                Piece::Field { path, json } => {
                    let value = find(thing, path)?;
                    Ok(match value {
                        Value::String(text) if !json => text.clone(),
                        Value::Null if !json => String::new(),
                        value => value.to_string(),
                    })
                }
            })
            .collect()
    }

    /// Several things, one a line, and in columns with a header where the template says `table`.
    pub fn show_all(&self, things: &[Value]) -> Result<String, String> {
        let mut lines = Vec::with_capacity(things.len() + 1);
        if self.table {
            lines.push(self.header());
        }
        for thing in things {
            lines.push(self.show(thing)?);
        }
        if !self.table {
            return Ok(lines.iter().map(|line| format!("{line}\n")).collect());
        }
        let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
        let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<&str>| {
            let cells: String =
                row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}   ")).collect();
            cells.trim_end().to_owned() + "\n"
        };
        Ok(cells.iter().map(line).collect())
    }

    /// The names of the fields, in capitals and words.
    fn header(&self) -> String {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Field { path, .. } => words(path.last().map_or("", String::as_str)),
            })
            .collect()
    }
}

fn words(name: &str) -> String {
    let mut out = String::new();
    let mut before_small = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && before_small {
            out.push(' ');
        }
        before_small = letter.is_ascii_lowercase();
        out.push(letter.to_ascii_uppercase());
    }
    out
}

fn field(inner: &str) -> Result<Piece, String> {
    let inner = inner.trim();
    let (json, path) = match inner.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, inner),
    };
    let not_known = || {
        format!(
            "'{{{{{inner}}}}}' is not supported in a template: {{{{.Field}}}} and {{{{json .Field}}}} are"
        )
    };
    let names = path.strip_prefix('.').ok_or_else(not_known)?;
    if names.is_empty() {
        return Ok(Piece::Field { path: vec![], json });
    }
    let fits = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let path: Vec<String> = names.split('.').map(str::to_owned).collect();
    if path.iter().all(|name| fits(name)) { Ok(Piece::Field { path, json }) } else { Err(not_known()) }
}

fn find<'a>(thing: &'a Value, path: &[String]) -> Result<&'a Value, String> {
    path.iter().try_fold(thing, |value, name| {
        value.get(name).ok_or_else(|| {
            let known: Vec<&str> =
                value.as_object().into_iter().flat_map(|map| map.keys()).map(String::as_str).collect();
            match known.is_empty() {
                true => format!("--format: there is no .{} here", path.join(".")),
                false => format!(
                    "--format: there is no .{} here, where {name} would be one of {}",
                    path.join("."),
                    known.join(", ")
                ),
            }
        })
    })
}

/// `\t` and `\n` are hard to type.
fn unescaped(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn thing() -> Value {
        json!({"ID": "abc", "State": {"Running": true, "ExitCode": 3}, "Args": ["a", "b"], "Names": "web", "RunningFor": null})
    }

    #[test]
    fn fields_are_put_in() {
        for (template, text) in [
            ("{{.ID}}", "abc"),
            ("{{ .State.ExitCode }}/{{.State.Running}}", "3/true"),
            ("{{json .State}}", r#"{"ExitCode":3,"Running":true}"#),
            ("{{json .ID}}", "\"abc\""),
            ("{{.Args}}", r#"["a","b"]"#),
            (r"{{.ID}}\t{{.Names}}\n", "abc\tweb\n"),
            ("plain", "plain"),
            ("[{{.RunningFor}}]", "[]"),
        ] {
            assert_eq!(Template::parse(template).unwrap().show(&thing()).unwrap(), text, "{template}");
        }
        let all = Template::parse("json").unwrap().show(&json!({"a": 1})).unwrap();
        assert_eq!(all, r#"{"a":1}"#);
    }

    #[test]
    fn tables_have_a_header_and_columns() {
        let template = Template::parse(r"table {{.Names}}\t{{.RunningFor}}\t{{.ID}}").unwrap();
        let shown = template
            .show_all(&[thing(), json!({"Names": "longer", "RunningFor": "1 s", "ID": "d"})])
            .unwrap();
        assert_eq!(
            shown,
            "NAMES    RUNNING FOR   ID\nweb                    abc\nlonger   1 s           d\n"
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        for template in
            ["{{range .Args}}x{{end}}", "{{index .A \"b\"}}", "{{ID}}", "{{.}", "{{..}}", "{{.a b}}"]
        {
            assert!(Template::parse(template).is_err(), "{template}");
        }
        let error = Template::parse("{{.State.Pid}}").unwrap().show(&thing()).unwrap_err();
        assert!(error.contains("no .State.Pid here") && error.contains("ExitCode"), "{error}");
        let error = Template::parse("{{.ID.x}}").unwrap().show(&thing()).unwrap_err();
        assert!(error.contains("no .ID.x"), "{error}");
    }
}
