//! What is said of a value that breaks its schema: where, which rule, which property, which types;
//! never the value, which may be a secret. Names of properties may come from the payload.

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use super::Violation;

/// Longest JSON pointer that a violation tells, in bytes: keys of a payload may be long.
pub(super) const MAX_POINTER_BYTES: usize = 256;
/// Longest name of a property that a violation tells, in characters.
const MAX_NAME_CHARS: usize = 64;
/// Most properties that a violation names.
const MAX_NAMES: usize = 3;
/// Longest text about a schema that cannot be used, in characters: some repeat the schema.
pub(super) const MAX_ERROR_CHARS: usize = 300;

pub(super) fn violation(error: &ValidationError<'_>) -> Violation {
    let keyword = error.kind().keyword();
    let message = match (details(error), keyword) {
        (_, "falseSchema") => "is not allowed by the schema".to_owned(),
        (Some(details), _) => format!("breaks \"{keyword}\" of the schema: {details}"),
        (None, _) => format!("breaks \"{keyword}\" of the schema"),
    };
    Violation { pointer: pointer(error.instance_path().as_str()), message }
}

fn details(error: &ValidationError<'_>) -> Option<String> {
    match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().map(name)?;
            Some(format!("the property {name} is missing"))
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            Some(format!("{} is not allowed", names(unexpected)))
        }
        Kind::PropertyNames { error } => {
            let name = error.instance().as_str().map(name)?;
            Some(format!("the name {name} is not allowed"))
        }
        Kind::Type { kind } => {
            Some(format!("expected {}, got {}", expected(kind), got(error.instance())))
        }
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            Some(format!("none of its {} alternatives fits", context.len()))
        }
        Kind::OneOfMultipleValid { .. } => {
            Some("more than one of its alternatives fits".to_owned())
        }
        Kind::BacktrackLimitExceeded { .. } => {
            Some("the pattern takes too long to match".to_owned())
        }
        _ => None,
    }
}

fn expected(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => one.to_string(),
        TypeKind::Multiple(several) => {
            several.iter().map(|one: JsonType| one.to_string()).collect::<Vec<_>>().join(" or ")
        }
    }
}

fn got(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn names(all: &[String]) -> String {
    let shown = all.iter().take(MAX_NAMES).map(|text| name(text)).collect::<Vec<_>>().join(", ");
    match all.len().checked_sub(MAX_NAMES) {
        None | Some(0) => format!("the property {shown}"),
        Some(more) => format!("the property {shown} (and {more} more)"),
    }
}

fn name(text: &str) -> String {
    format!("\"{}\"", visible(text, MAX_NAME_CHARS))
}

fn pointer(pointer: &str) -> String {
    let end = pointer.floor_char_boundary(MAX_POINTER_BYTES);
    let shown = visible(pointer.get(..end).unwrap_or_default(), usize::MAX);
    if end < pointer.len() { format!("{shown}…") } else { shown }
}

/// A text without control characters and other invisible ones, at most so many of its characters.
pub(crate) fn visible(text: &str, most: usize) -> String {
    let mut shown = String::new();
    let mut rest = text.chars();
    for c in rest.by_ref().take(most) {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    if rest.next().is_some() {
        shown.push('…');
    }
    shown
}
