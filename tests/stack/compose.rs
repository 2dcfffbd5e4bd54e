//! `docker/compose.yaml` as Docker Compose reads it with nothing set.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::text_of;

/// Where it is.
pub(crate) const FILE: &str = "docker/compose.yaml";

/// A variable that a file asks for, with its default.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) default: Option<String>,
}

/// What a text is made of: itself, and variables.
enum Piece {
    Text(String),
    Variable(Variable),
}

/// Takes `${NAME:-default}` apart; `$$` is a dollar sign. Anything else behind one is a mistake.
fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        pieces.push(Piece::Text(before.to_owned()));
        rest = if let Some(behind) = behind.strip_prefix('$') {
            pieces.push(Piece::Text("$".to_owned()));
            behind
        } else {
            let inner = behind.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (inner, behind) = inner.unwrap_or_else(|| panic!("a lone $ before {behind:.40}"));
            pieces.push(Piece::Variable(match inner.split_once(":-") {
                Some((name, default)) => {
                    Variable { name: name.to_owned(), default: Some(default.to_owned()) }
                }
                None => Variable { name: inner.to_owned(), default: None },
            }));
            behind
        };
    }
    pieces.push(Piece::Text(rest.to_owned()));
    pieces
}

/// Every string in a YAML value.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, found)),
        _ => {}
    }
}

fn filled_in(value: Value) -> Value {
    let fill = |text: &str| {
        let pieces = pieces(text).into_iter();
        let texts = pieces.map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Variable(variable) => variable.default.unwrap_or_default(),
        });
        texts.collect::<String>()
    };
    match value {
        Value::String(text) => Value::String(fill(&text)),
        Value::Array(items) => items.into_iter().map(filled_in).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, field)| (key, filled_in(field))).collect()
        }
        other => other,
    }
}

/// Reads a YAML file.
pub(crate) fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&text_of(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every variable that the file asks for.
pub(crate) fn variables() -> Vec<Variable> {
    let document = yaml(FILE);
    let mut found = Vec::new();
    strings(&document, &mut found);
    let pieces = found.into_iter().flat_map(pieces);
    let variables = pieces.filter_map(|piece| match piece {
        Piece::Variable(variable) => Some(variable),
        Piece::Text(_) => None,
    });
    variables.collect()
}

/// The whole file, with defaults for all variables.
pub(crate) fn document() -> Value {
    filled_in(yaml(FILE))
}

/// The services by name.
pub(crate) fn services() -> BTreeMap<String, Value> {
    serde_json::from_value(document()["services"].clone()).unwrap()
}

/// One service.
pub(crate) fn service(name: &str) -> Value {
    services().remove(name).unwrap_or_else(|| panic!("there is no service {name}"))
}

/// The texts of a list.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// A service's mounts: what, where, and whether it is read-only.
pub(crate) fn mounts(service: &Value) -> Vec<(String, String, bool)> {
    let mount = |text: String| {
        let parts = text.split(':').collect::<Vec<_>>();
        let options = parts.get(2).into_iter().flat_map(|options| options.split(','));
        (parts[0].to_owned(), parts[1].to_owned(), { options }.any(|option| option == "ro"))
    };
    texts(&service["volumes"]).into_iter().map(mount).collect()
}

#[test]
fn a_dollar_is_a_variable_or_doubled() {
    let all = filled_in(Value::from("a $${B} ${C:-d}:${E:-f:g}"));
    assert_eq!(all, "a ${B} d:f:g");
    assert!(std::panic::catch_unwind(|| filled_in(Value::from("$HOME"))).is_err());
}
