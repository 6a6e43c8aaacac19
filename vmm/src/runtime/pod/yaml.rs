//! YAML 1.2 as the values that JSON has, which is all that Kubernetes documents use of it: maps with names for keys, lists
//! and scalars of the core schema. Anchors stand for what they name; tags, other keys and repeated keys are refused.
//!
//! A document is somebody's file: its size, depth and what its aliases unfold to are bounded.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// The longest text that is read, in bytes.
pub const LONGEST: usize = 1 << 20;
/// The deepest nesting.
const DEEPEST: usize = 64;
/// The most values, those that aliases stand for included.
const MOST_VALUES: usize = 100_000;

/// A text that is no YAML of this kind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct YamlError {
    line: usize,
    what: String,
}

/// The documents of a text; empty ones are left out.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    let line = |line: usize, what: &str| YamlError { line, what: what.to_owned() };
    if text.len() > LONGEST {
        return Err(line(1, "the text is longer than 1 MiB"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), values: 0 };
    let mut found = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(found),
            (Event::DocumentStart(_), _) => {
                let first = reader.next()?;
                found.push(reader.value(first, 0)?);
                reader.anchors.clear();
            }
            _ => {}
        }
        found.retain(|document| !document.is_null());
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What anchors stand for, and how many values that is.
    anchors: HashMap<usize, (Value, usize)>,
    values: usize,
}

fn at(span: Span, what: impl Into<String>) -> YamlError {
    YamlError { line: span.start.line(), what: what.into() }
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        let fault =
            |error: ScanError| YamlError { line: error.marker().line(), what: error.info().to_owned() };
        self.parser.next_event().unwrap_or(Ok((Event::StreamEnd, Span::default()))).map_err(fault)
    }

    fn count(&mut self, more: usize, span: Span) -> Result<(), YamlError> {
        self.values += more;
        if self.values > MOST_VALUES {
            return Err(at(span, format!("more than {MOST_VALUES} values")));
        }
        Ok(())
    }

    fn value(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Value, YamlError> {
        if depth > DEEPEST {
            return Err(at(span, format!("nested deeper than {DEEPEST}")));
        }
        self.count(1, span)?;
        let before = self.values;
        let (value, anchor) = match event {
            Event::Scalar(_, _, _, Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag)) => {
                return Err(at(span, format!("the tag {tag} is not supported")));
            }
            Event::Scalar(text, ScalarStyle::Plain, anchor, None) => (plain(&text), anchor),
            Event::Scalar(text, _, anchor, None) => (Value::String(text.into_owned()), anchor),
            Event::Alias(anchor) => {
                let (value, values) = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| at(span, "an alias inside what it names"))?;
                self.count(values, span)?;
                return Ok(value);
            }
            Event::SequenceStart(anchor, None) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, None) => (self.mapping(depth)?, anchor),
            other => return Err(at(span, format!("a value is wanted, and not {other:?}"))),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.values - before + 1));
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(list)),
                item => list.push(self.value(item, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut map = Map::new();
        loop {
            let (key, span) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Object(map)),
                (Event::Scalar(key, _, _, None), span) => (key.into_owned(), span),
                (_, span) => return Err(at(span, "a key is not a name")),
            };
            let item = self.next()?;
            let value = self.value(item, depth + 1)?;
            if map.contains_key(&key) {
                return Err(at(span, format!("{key} is there twice")));
            }
            map.insert(key, value);
        }
    }
}

/// A plain scalar by YAML 1.2's core schema.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let radix = |prefix: &str, radix| {
        let digits = text.strip_prefix(prefix).filter(|digits| !digits.starts_with(['+', '-']))?;
        i64::from_str_radix(digits, radix).ok()
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return number.into();
    }
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = digits.parse::<i64>().ok().map(|number| if negative { -number } else { number });
        return number.map_or_else(|| Value::String(text.to_owned()), Value::from);
    }
    let is_float = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.contains(|c: char| c.is_ascii_digit())
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+'));
    let float = if is_float { text.parse().ok().and_then(Number::from_f64) } else { None };
    float.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn documents_are_what_json_would_say() {
        let text = "# a comment\napiVersion: v1\nlist:\n- a\n- 'b: c'\n- \"d\\n\"\n- |\n  two\n  lines\n- {x: 1, y: [2, 3]}\n\
                    n: ~\nt: true\nyes: yes\ni: -7\nhex: 0x1F\nf: 1.5\nv: 1.2.3\nport: 8080\nempty:\nport2: \"8080\"\n\
                    cpu: 500m\n";
        let expected = json!({
            "apiVersion": "v1",
            "list": ["a", "b: c", "d\n", "two\nlines\n", {"x": 1, "y": [2, 3]}],
            "n": null, "t": true, "yes": "yes", "i": -7, "hex": 31, "f": 1.5, "v": "1.2.3", "port": 8080,
            "empty": null, "port2": "8080", "cpu": "500m",
        });
        assert_eq!(documents(text).unwrap(), [expected]);
        assert_eq!(documents("{\"a\": [1, \"b\"]}").unwrap(), [json!({"a": [1, "b"]})], "JSON is YAML");
        assert_eq!(
            documents("---\na: 1\n---\n---\nb: 2\n...\n").unwrap(),
            [json!({"a": 1}), json!({"b": 2})]
        );
        assert_eq!(documents("").unwrap(), Vec::<Value>::new());
    }

    #[test]
    fn aliases_stand_for_what_they_name() {
        let text = "a: &x {k: [1]}\nb: *x\nc: &y text\nd: *y\n";
        assert_eq!(documents(text).unwrap()[0]["b"], json!({"k": [1]}));
        assert_eq!(documents(text).unwrap()[0]["d"], json!("text"));
    }

    #[test]
    fn what_is_not_of_this_kind_is_refused_with_its_line() {
        for (text, line, words) in [
            ("a: 1\nb: 2\na: 3\n", 3, "twice"),
            ("a: !!binary eHg=\n", 1, "tag"),
            ("? [a]\n: b\n", 1, "not a name"),
            ("a: [1, 2\n", 2, ""),
            ("a: &x [*x]\n", 1, ""),
        ] {
            let error = documents(text).unwrap_err();
            assert!(error.what.contains(words), "{text}: {error}");
            assert!(error.line.abs_diff(line) <= 1, "{text}: {error}");
        }
    }

    #[test]
    fn nothing_unfolds_without_end() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            bomb += &format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
        }
        assert!(documents(&bomb).unwrap_err().what.contains("more than"));
        let deep = "[".repeat(5000) + &"]".repeat(5000);
        assert!(documents(&deep).is_err());
        assert!(documents(&" ".repeat(LONGEST + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_documents_or_an_error(text in "[ -~\n&*\\[\\]{}:,#|>'\"-]{0,200}") {
            let _ = documents(&text);
        }

        #[test]
        fn what_json_writes_is_read_back(number in any::<i64>(), text in "\\PC{0,20}", truth in any::<bool>()) {
            let value = json!({"n": number, "t": text, "b": [truth, null]});
            prop_assert_eq!(documents(&value.to_string()).unwrap(), vec![value]);
        }
    }
}
