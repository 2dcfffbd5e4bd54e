//! Schemas from files, bundled and checked.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::error::CliError;
use crate::domain::schema::{MAX_SCHEMA_BYTES, SchemaDocument, StateSchema, bundle};
use crate::domain::value::StateValue;
use crate::read_file::read_at_most;

/// Most files that a schema may refer to.
const MAX_FILES: usize = 100;

/// Reads the files that schemas may refer to; of a directory those that end in `.json`.
pub(super) fn read_documents(paths: &[PathBuf]) -> Result<Vec<SchemaDocument>, CliError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let unreadable = |error| refusal(path, &format!("cannot be listed: {error}"));
            for entry in fs::read_dir(path).map_err(unreadable)? {
                let file = entry.map_err(unreadable)?.path();
                if file.extension().is_some_and(|ending| ending == "json") {
                    files.push(file);
                }
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    if files.len() > MAX_FILES {
        return Err(CliError::Usage(format!(
            "--schema-file: these are {} files; at most {MAX_FILES} can be given",
            files.len()
        )));
    }
    let document = |file: &PathBuf| {
        Ok(SchemaDocument { path: file.to_string_lossy().into_owned(), schema: read(file)? })
    };
    files.iter().map(document).collect()
}

/// Reads a schema, with what it refers to in it.
pub(super) fn read_schema(path: &Path, documents: &[SchemaDocument]) -> Result<Value, CliError> {
    let refuse = |why: String| refusal(path, &why);
    let schema = read(path)?;
    let others = documents.iter().filter(|document| Path::new(&document.path) != path).cloned();
    let schema = bundle(&schema, others.collect())
        .map_err(|error| refuse(format!("refers to what cannot be found: {error}")))?;
    if schema.to_string().len() > MAX_SCHEMA_BYTES {
        return Err(refuse(format!(
            "is larger than {MAX_SCHEMA_BYTES} bytes with what it refers to; write a smaller schema"
        )));
    }
    StateSchema::compile(&schema)
        .map_err(|error| refuse(format!("is not a usable JSON Schema: {error}")))?;
    Ok(schema)
}

fn refusal(path: &Path, why: &str) -> CliError {
    CliError::Failed(format!("schema file {}: {why}", path.display()))
}

fn read(path: &Path) -> Result<Value, CliError> {
    let refuse = |why: String| refusal(path, &why);
    let bytes = read_at_most(path, MAX_SCHEMA_BYTES as u64).map_err(|error| {
        refuse(match error.kind() {
            ErrorKind::FileTooLarge => {
                format!("is larger than {MAX_SCHEMA_BYTES} bytes; write a smaller schema")
            }
            _ => format!("cannot be read: {error}; name a file that holds a JSON Schema"),
        })
    })?;
    let text =
        str::from_utf8(&bytes).map_err(|_| refuse("is not UTF-8; save it as UTF-8".to_owned()))?;
    if let Some(why) = StateValue::read(text.as_bytes()).and_then(|value| value.as_text()) {
        return Err(refuse(format!("cannot be stored: {}", why.why())));
    }
    match serde_json::from_str(text) {
        Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(schema),
        Ok(_) => {
            Err(refuse("is not a JSON Schema; a schema is a JSON object, true or false".to_owned()))
        }
        Err(error) => Err(refuse(format!("is not valid JSON: {error}"))),
    }
}
