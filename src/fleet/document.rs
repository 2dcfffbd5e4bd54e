//! JSON documents in columns.

use serde_json::Value;
use tokio_postgres::Row;

use crate::registry::error::RegistryError;

/// Reads a `jsonb` column of a thing's row; `None` for NULL. Every digit of a number is kept.
///
/// # Errors
/// Names thing and column when the document is one that PostgreSQL holds and Fleetgate cannot read,
/// which only somebody in `psql` can have written: nested deeper than 127 levels, for one.
pub(super) fn document(
    row: &Row,
    thing: &str,
    column: &str,
) -> Result<Option<Value>, RegistryError> {
    row.try_get(column).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        RegistryError::Database {
            thing: thing.to_owned(),
            message: format!(
                "its {column} cannot be read: {}; write another with psql",
                cause.unwrap_or_else(|| error.to_string())
            ),
        }
    })
}
