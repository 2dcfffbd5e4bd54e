//! Checks of the tables and of what the role may do with them.

use std::cmp::Ordering;

use tokio_postgres::Client;

use super::finding::Finding;
use super::finding::Status;
use super::session::Session;
use crate::registry::error::RegistryError;
use crate::registry::migrate::schema_version;
use crate::registry::roles::{Missing, missing_privileges};

const SCHEMA: &str = "schema";
const PRIVILEGES: &str = "privileges";

/// The checks of this module, in order.
pub(super) const CHECKS: [&str; 2] = [SCHEMA, PRIVILEGES];

/// Whether the tables can be read.
pub(super) async fn examine(session: &mut Session<'_>) -> bool {
    let client = session.client;
    let schema = session.check(SCHEMA, version(client)).await;
    if schema != Status::Ok {
        session.report.skip(&[PRIVILEGES], "the schema is missing or another one, see above");
        return false;
    }
    session.check(PRIVILEGES, privileges(client)).await != Status::Failure
}

async fn version(client: &Client) -> Result<Finding, RegistryError> {
    let version = schema_version(client).await?;
    Ok(match version.applied.cmp(&version.known) {
        Ordering::Equal => Finding::ok(SCHEMA, format!("version {}", version.applied)),
        Ordering::Less => Finding::failure(
            SCHEMA,
            format!("version {}; this fleetgate needs {}", version.applied, version.known),
            "run `fleetgate migrate` with the URL of the role that owns the tables (`serve` does so by itself \
             when it connects as that role)",
        ),
        Ordering::Greater => Finding::failure(
            SCHEMA,
            format!("version {}; this fleetgate knows up to {}", version.applied, version.known),
            "use the newer fleetgate that made it",
        ),
    })
}

async fn privileges(client: &Client) -> Result<Finding, RegistryError> {
    let Missing { role, for_serving, for_provisioning } = missing_privileges(client).await?;
    Ok(finding_of(&role, &for_serving, &for_provisioning))
}

fn finding_of(role: &str, for_serving: &[String], for_provisioning: &[String]) -> Finding {
    let missing = |privileges: &[String]| format!("role {role:?} lacks {}", privileges.join(", "));
    let grants = |privileges: &[String]| {
        let grants = privileges.iter().map(|privilege| format!("GRANT {privilege} TO {role:?};"));
        let grants = grants.collect::<Vec<_>>().join(" ");
        format!(
            "run `fleetgate migrate --grant-to {role}` as the owner of the tables, which says: {grants}"
        )
    };
    if !for_serving.is_empty() {
        let grants = grants(for_serving);
        let remedy = format!("serving needs them; {grants}");
        return Finding::failure(PRIVILEGES, missing(for_serving), remedy);
    }
    if !for_provisioning.is_empty() {
        let grants = grants(for_provisioning);
        let remedy = format!("enough to serve; for commands that change devices, {grants}");
        return Finding::warning(PRIVILEGES, missing(for_provisioning), remedy);
    }
    Finding::ok(PRIVILEGES, format!("role {role:?} can serve and provision"))
}
