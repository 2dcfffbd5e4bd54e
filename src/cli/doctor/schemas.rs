//! A check of the capabilities' schemas.

use tokio_postgres::Client;

use super::finding::Finding;
use super::session::Session;
use crate::fleet::checks::{self, UnusableSchema};
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
    let found = checks::schemas(client).await?;
    if found.unusable.is_empty() {
        return Ok(Finding::ok(SCHEMAS, format!("{} compiled, all usable", found.read)));
    }
    let named = found.unusable.iter().take(MOST_NAMED).map(|unusable| {
        let UnusableSchema { capability, what, devices, error } = unusable;
        format!("the {what} schema of {capability:?} ({devices} devices): {error}")
    });
    let named = named.collect::<Vec<_>>().join("; ");
    let more = if found.unusable.len() > MOST_NAMED { "; …" } else { "" };
    Ok(Finding::failure(
        SCHEMAS,
        format!("{} cannot be used: {named}{more}", found.unusable.len()),
        "no report of such a state is stored until `fleetgate capability set NAME --state-schema FILE` \
         (or --no-state-schema) mends it",
    ))
}
