//! Lines of JSON into the fleet.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Remote, RemoteError, Wrong, WrongLine};
use crate::fleet::imports::{Counts, OnConflict};

/// Longest time of an import, its answer included: a little more than the API's own.
const TIMEOUT: Duration = Duration::from_secs(630);

/// What was imported, or would be.
#[derive(Debug, Default)]
pub struct Imported {
    /// What was done.
    pub counts: Counts,
    /// The wrong lines: not all of them, if they are many.
    pub wrong: Vec<WrongLine>,
    /// How many lines are wrong.
    pub wrong_lines: usize,
}

/// Imports lines, chunk by chunk to the first that is refused, or tries all of them.
///
/// # Errors
/// An API that is away, or refuses more than the lines.
pub async fn import(
    api: &Remote,
    lines: String,
    on_conflict: OnConflict,
    dry_run: bool,
) -> Result<Imported, RemoteError> {
    #[derive(Deserialize)]
    struct Answer {
        added: usize,
        updated: usize,
        skipped: usize,
        kept_passwords: usize,
        wrong: Vec<Line>,
        wrong_lines: usize,
    }
    #[derive(Deserialize)]
    struct Line {
        line: u64,
        message: String,
        #[serde(default)]
        thing: Option<Value>,
        #[serde(default)]
        rule: Option<Value>,
    }
    let wrong_line = |Line { line, message, thing, rule }| WrongLine {
        line,
        wrong: Wrong::read(thing, rule, message),
    };
    let (word, columns) = match on_conflict {
        OnConflict::Fail => ("fail", None),
        OnConflict::Skip => ("skip", None),
        OnConflict::Update => ("update", None),
        OnConflict::Complete(columns) => ("complete", Some(columns)),
    };
    let call = api.post(&["imports"]).with("on_conflict", Some(word)).with("columns", columns);
    let call = call.with("dry_run", Some(dry_run)).lines(lines).within(TIMEOUT);
    match call.read().await {
        Ok(Answer { added, updated, skipped, kept_passwords, wrong, wrong_lines }) => {
            Ok(Imported {
                counts: Counts { added, updated, skipped, kept_passwords },
                wrong: wrong.into_iter().map(wrong_line).collect(),
                wrong_lines,
            })
        }
        Err(RemoteError::Refused { lines: wrong, wrong_lines, .. }) if !wrong.is_empty() => {
            Ok(Imported { wrong_lines: wrong_lines.max(wrong.len()), wrong, ..Imported::default() })
        }
        Err(error) => Err(error),
    }
}
