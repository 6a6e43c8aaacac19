//! Reading a document field by field, with the path to each: whatever nobody has asked for in the end is an error that
//! names it, so that nothing a document says is passed over in silence.

use serde_json::{Map, Value};

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It says something that is not done here.
    #[error("{path} is not supported{}", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    Unsupported {
        /// The way to it: `spec.containers[0].lifecycle`.
        path: String,
        /// Why, where there is something to say.
        reason: String,
    },
    /// Something is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// Something makes no sense.
    #[error("{path}: {what}")]
    Wrong {
        /// The way to it.
        path: String,
        /// Why.
        what: String,
    },
}

/// A map that is being read.
#[derive(Debug)]
pub struct Fields {
    path: String,
    left: Map<String, Value>,
}

/// One value.
#[derive(Debug, Clone)]
pub struct Field {
    path: String,
    value: Value,
}

impl Fields {
    /// The whole document.
    pub fn document(value: Value) -> Result<Self, DocumentError> {
        Field { path: String::new(), value }.fields()
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field, if it says something: null, and empty maps and lists, say nothing.
    pub fn take(&mut self, name: &str) -> Option<Field> {
        let value = self.left.remove(name).filter(says_something)?;
        Some(Field { path: self.path_of(name), value })
    }

    /// A field that has to be there.
    pub fn need(&mut self, name: &str) -> Result<Field, DocumentError> {
        self.take(name).ok_or_else(|| DocumentError::Missing(self.path_of(name)))
    }

    /// A field that has to be there, and stands for the only one of several kinds that is done here.
    pub fn need_or(&mut self, name: &str, otherwise: &str) -> Result<Field, DocumentError> {
        let other = || self.left.keys().next().map(|name| self.path_of(name));
        let refused = other().map(|path| DocumentError::Unsupported { path, reason: otherwise.to_owned() });
        self.take(name).ok_or_else(|| refused.unwrap_or_else(|| DocumentError::Missing(self.path_of(name))))
    }

    /// A field, even if it says nothing: that it is there may be enough.
    pub fn take_any(&mut self, name: &str) -> Option<Field> {
        let value = match self.left.remove(name)? {
            Value::Null => Value::Object(Map::new()),
            value => value,
        };
        Some(Field { path: self.path_of(name), value })
    }

    /// The text of a field.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, DocumentError> {
        self.take(name).map(Field::text).transpose()
    }

    /// The truth of a field.
    pub fn truth(&mut self, name: &str) -> Result<Option<bool>, DocumentError> {
        self.take(name).map(Field::truth).transpose()
    }

    /// The number of a field, within bounds.
    pub fn number(&mut self, name: &str, least: i64, most: i64) -> Result<Option<i64>, DocumentError> {
        self.take(name).map(|field| field.number(least, most)).transpose()
    }

    /// The items of a field; none where it is not there.
    pub fn list(&mut self, name: &str) -> Result<Vec<Field>, DocumentError> {
        self.take(name).map_or(Ok(Vec::new()), Field::list)
    }

    /// The map of a field; an empty one where it is not there.
    pub fn map(&mut self, name: &str) -> Result<Fields, DocumentError> {
        let path = self.path_of(name);
        self.take(name).map_or(Ok(Fields { path, left: Map::new() }), Field::fields)
    }

    /// Every field that is left, with its name.
    pub fn rest(self) -> impl Iterator<Item = (String, Field)> {
        let Fields { path, left } = self;
        left.into_iter().map(move |(name, value)| {
            let path = format!("{path}.{name}");
            (name, Field { path, value })
        })
    }

    /// A field that is known, and not done here.
    pub fn refuse(&mut self, name: &str, reason: &str) -> Result<(), DocumentError> {
        self.take(name).map_or(Ok(()), |field| Err(field.unsupported(reason)))
    }

    /// Nothing may be left that says something.
    pub fn end(self) -> Result<(), DocumentError> {
        match self.left.iter().find(|(_, value)| says_something(value)) {
            Some((name, _)) => {
                Err(DocumentError::Unsupported { path: self.path_of(name), reason: String::new() })
            }
            None => Ok(()),
        }
    }

    /// Something about the map as a whole.
    pub fn wrong(&self, what: impl Into<String>) -> DocumentError {
        DocumentError::Wrong { path: self.path.clone(), what: what.into() }
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

impl Field {
    /// It makes no sense.
    pub fn wrong(&self, what: impl Into<String>) -> DocumentError {
        DocumentError::Wrong { path: self.path.clone(), what: what.into() }
    }

    /// It is not done here.
    pub fn unsupported(&self, reason: &str) -> DocumentError {
        DocumentError::Unsupported { path: self.path.clone(), reason: reason.to_owned() }
    }

    /// As text.
    pub fn text(self) -> Result<String, DocumentError> {
        match &self.value {
            Value::String(text) if text.contains('\0') => Err(self.wrong("it contains a NUL byte")),
            Value::String(text) => Ok(text.clone()),
            Value::Bool(_) | Value::Number(_) => Err(self.wrong("text is wanted: put it in quotes")),
            _ => Err(self.wrong("text is wanted")),
        }
    }

    /// As text, which may look like a number, as quantities and ports do.
    pub fn word(self) -> Result<String, DocumentError> {
        match &self.value {
            Value::Number(number) => Ok(number.to_string()),
            _ => self.text(),
        }
    }

    /// As true or false.
    pub fn truth(self) -> Result<bool, DocumentError> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false is wanted"))
    }

    /// As a whole number.
    pub fn number(self, least: i64, most: i64) -> Result<i64, DocumentError> {
        match self.value.as_i64() {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.wrong(format!("a number from {least} to {most} is wanted"))),
        }
    }

    /// As one of these words.
    pub fn one_of<T: Copy>(self, words: &[(&str, T)]) -> Result<T, DocumentError> {
        let text = self.clone().text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.unsupported(&format!("'{text}' is not one of {}", words.join(", ")))
        })
    }

    /// As a list.
    pub fn list(self) -> Result<Vec<Field>, DocumentError> {
        let Field { path, value } = self;
        match value {
            Value::Array(list) => Ok(list
                .into_iter()
                .enumerate()
                .map(|(number, value)| Field { path: format!("{path}[{number}]"), value })
                .collect()),
            value => Err(Field { path, value }.wrong("a list is wanted")),
        }
    }

    /// As a map.
    pub fn fields(self) -> Result<Fields, DocumentError> {
        let Field { path, value } = self;
        match value {
            Value::Object(left) => Ok(Fields { path, left }),
            value if path.is_empty() => {
                Err(Field { path: "the document".to_owned(), value }.wrong("a map is wanted"))
            }
            value => Err(Field { path, value }.wrong("a map is wanted")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_nobody_asks_for_is_named_with_its_path() {
        let mut fields = Fields::document(json!({"spec": {"list": [{"a": 1}, {"a": 2, "b": 3}]}})).unwrap();
        let mut spec = fields.map("spec").unwrap();
        let mut list = spec.list("list").unwrap();
        let mut second = list.pop().unwrap().fields().unwrap();
        assert_eq!(second.number("a", 0, 9).unwrap(), Some(2));
        assert_eq!(second.end().unwrap_err().to_string(), "spec.list[1].b is not supported");
        assert!(spec.end().is_ok() && fields.end().is_ok());
    }

    #[test]
    fn what_says_nothing_is_nothing() {
        let mut fields = Fields::document(json!({"a": null, "b": {}, "c": [], "d": ""})).unwrap();
        assert!(fields.take("a").is_none() && fields.take("b").is_none());
        assert_eq!(fields.end().unwrap_err().to_string(), "d is not supported");
    }

    #[test]
    fn kinds_are_checked_and_named() {
        let fields = || Fields::document(json!({"t": 1, "n": "x", "l": {"k": 1}, "m": [1]})).unwrap();
        let says = |error: DocumentError, words: &str| assert!(error.to_string().contains(words), "{error}");
        says(fields().text("t").unwrap_err(), "t: text is wanted: put it in quotes");
        says(fields().number("n", 0, 5).unwrap_err(), "n: a number from 0 to 5 is wanted");
        says(fields().truth("n").unwrap_err(), "true or false");
        says(fields().list("l").unwrap_err(), "a list is wanted");
        says(fields().map("m").unwrap_err(), "a map is wanted");
        says(fields().need("x").unwrap_err(), "x is missing");
        says(Fields::document(json!([1])).unwrap_err(), "the document: a map is wanted");
    }
}
