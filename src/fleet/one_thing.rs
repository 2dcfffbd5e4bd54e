//! Statements about one thing that has to be there.

use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};

use crate::fleet::error::{FleetError, Thing};

/// The row of a thing.
///
/// # Errors
/// There is no such thing; what PostgreSQL says.
pub(super) async fn row_of(
    client: &impl GenericClient,
    thing: &Thing,
    statement: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Row, FleetError> {
    let row = client.query_opt(statement, values).await.map_err(FleetError::on(thing))?;
    row.ok_or_else(|| FleetError::NotFound(thing.clone()))
}

/// Changes or removes a thing.
///
/// # Errors
/// There is no such thing; what PostgreSQL says.
pub(super) async fn change(
    client: &impl GenericClient,
    thing: &Thing,
    statement: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<(), FleetError> {
    match client.execute(statement, values).await.map_err(FleetError::on(thing))? {
        0 => Err(FleetError::NotFound(thing.clone())),
        _ => Ok(()),
    }
}
