//! A check of the capabilities' schemas.

use tokio_postgres::Client;

use super::finding::Finding;
use super::session::Session;
use crate::domain::schema::StateSchema;
use crate::registry::error::RegistryError;

const SCHEMAS: &str = "capability schemas";

/// The checks of this module, in order.
pub(super) const CHECKS: [&str; 1] = [SCHEMAS];

/// Most capabilities that a finding names.
const MOST_NAMED: usize = 5;

pub(super) async fn examine(session: &mut Session<'_>) {
    let client = session.client;
    session.check(SCHEMAS, schemas(client)).await;
}

/// `capability add` and `set` refuse what does not compile; somebody in `psql` can write it.
async fn schemas(client: &Client) -> Result<Finding, RegistryError> {
    let query = "SELECT name, what, schema, devices FROM capabilities
        CROSS JOIN LATERAL (VALUES ('state', state_schema::text), ('command', command_schema::text)) AS each (what, schema)
        CROSS JOIN LATERAL (SELECT count(*) AS devices FROM device_capabilities WHERE capability = name) AS counted
        WHERE schema IS NOT NULL ORDER BY name, what DESC";
    let rows = client.query(query, &[]).await.map_err(RegistryError::on(SCHEMAS))?;
    let unusable: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let (name, what, devices): (&str, &str, i64) = (row.get(0), row.get(1), row.get(3));
            let error = StateSchema::read(row.get(2)).err()?;
            Some(format!("the {what} schema of {name:?} ({devices} devices): {error}"))
        })
        .collect();
    if unusable.is_empty() {
        return Ok(Finding::ok(SCHEMAS, format!("{} compiled, all usable", rows.len())));
    }
    let more = if unusable.len() > MOST_NAMED { "; …" } else { "" };
    let named = unusable.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join("; ");
    Ok(Finding::failure(
        SCHEMAS,
        format!("{} cannot be used: {named}{more}", unusable.len()),
        "no report of such a state is stored until `fleetgate capability set NAME --state-schema FILE` \
         (or --no-state-schema) mends it",
    ))
}
