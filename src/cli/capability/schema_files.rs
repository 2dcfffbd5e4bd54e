//! Schemas from files, bundled and checked.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::error::CliError;
use crate::domain::schema::{SchemaDocument, UsableSchema, bundle};
use crate::read_file::read_at_most;

/// Most files that a schema may refer to.
const MAX_FILES: usize = 100;
/// Most bytes of a file. Of a large one a schema may use a part.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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
pub(super) fn read_schema(
    path: &Path,
    documents: &[SchemaDocument],
) -> Result<UsableSchema, CliError> {
    let refuse = |why: String| refusal(path, &why);
    let schema = read(path)?;
    let others = documents.iter().filter(|document| Path::new(&document.path) != path).cloned();
    let schema = bundle(&schema, others.collect())
        .map_err(|error| refuse(format!("refers to what cannot be found: {error}")))?;
    UsableSchema::new(schema)
        .map_err(|error| refuse(format!("is not a usable JSON Schema: {error}")))
}

fn refusal(path: &Path, why: &str) -> CliError {
    CliError::Failed(format!("schema file {}: {why}", path.display()))
}

fn read(path: &Path) -> Result<Value, CliError> {
    let refuse = |why: String| refusal(path, &why);
    let bytes = read_at_most(path, MAX_FILE_BYTES).map_err(|error| {
        refuse(match error.kind() {
            ErrorKind::FileTooLarge => {
                format!("is larger than {MAX_FILE_BYTES} bytes; write a smaller schema")
            }
            _ => format!("cannot be read: {error}; name a file that holds a JSON Schema"),
        })
    })?;
    let text =
        str::from_utf8(&bytes).map_err(|_| refuse("is not UTF-8; save it as UTF-8".to_owned()))?;
    match serde_json::from_str(text) {
        Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(schema),
        Ok(_) => {
            Err(refuse("is not a JSON Schema; a schema is a JSON object, true or false".to_owned()))
        }
        Err(error) => Err(refuse(format!("is not valid JSON: {error}"))),
    }
}
