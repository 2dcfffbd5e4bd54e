//! Checks of the tables and of what the role may do with them.

use std::cmp::Ordering;

use tokio_postgres::Client;

use super::finding::Finding;
use super::finding::Status;
use super::session::Session;
use crate::registry::error::RegistryError;
use crate::registry::migrate::schema_version;

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
            "run `fleetgate migrate` (`serve` does so by itself when it starts)",
        ),
        Ordering::Greater => Finding::failure(
            SCHEMA,
            format!("version {}; this fleetgate knows up to {}", version.applied, version.known),
            "use the newer fleetgate that made it",
        ),
    })
}

/// What serving needs on each table, and what commands that change devices need besides. A NULL is a
/// table that the role's search path does not lead to.
const MISSING_PRIVILEGES: &str = "
    SELECT wanted.name, needed.privilege, needed.serving
    FROM (VALUES
        ('fleetgate_schema_history', '{SELECT}', '{}'),
        ('devices', '{SELECT,UPDATE}', '{INSERT,DELETE}'),
        ('device_credentials', '{SELECT}', '{INSERT,UPDATE,DELETE}'),
        ('topic_bindings', '{SELECT}', '{INSERT,UPDATE,DELETE}'),
        ('topic_grants', '{SELECT}', '{INSERT,UPDATE,DELETE}'),
        ('capabilities', '{SELECT}', '{INSERT,UPDATE,DELETE}'),
        ('device_capabilities', '{}', '{SELECT,INSERT,UPDATE,DELETE}'),
        ('client_sessions', '{SELECT,INSERT,UPDATE}', '{}'),
        ('device_state', '{SELECT,INSERT,UPDATE}', '{}'),
        ('session_evictions', '{SELECT,INSERT,UPDATE,DELETE}', '{}'),
        ('presence_sweeps', '{SELECT,INSERT,UPDATE}', '{}')) AS wanted (name, serving, provisioning)
    CROSS JOIN LATERAL (
        SELECT unnest(wanted.serving::text[]), true
        UNION ALL SELECT unnest(wanted.provisioning::text[]), false) AS needed (privilege, serving)
    WHERE has_table_privilege(to_regclass(wanted.name), needed.privilege) IS NOT TRUE
    ORDER BY wanted.name, needed.privilege";

async fn privileges(client: &Client) -> Result<Finding, RegistryError> {
    let rows =
        client.query(MISSING_PRIVILEGES, &[]).await.map_err(RegistryError::on(PRIVILEGES))?;
    let role: String = client
        .query_one("SELECT current_user::text", &[])
        .await
        .map_err(RegistryError::on(PRIVILEGES))?
        .get(0);
    let missing = |for_serving: bool| {
        let rows = rows.iter().filter(|row| row.get::<_, bool>(2) == for_serving);
        let named =
            rows.map(|row| format!("{} on {}", row.get::<_, &str>(1), row.get::<_, &str>(0)));
        named.collect::<Vec<_>>()
    };
    Ok(judge(&role, &missing(true), &missing(false)))
}

fn judge(role: &str, for_serving: &[String], for_provisioning: &[String]) -> Finding {
    let missing = |privileges: &[String]| format!("role {role:?} lacks {}", privileges.join(", "));
    let grants = |privileges: &[String]| {
        let grants = privileges.iter().map(|privilege| format!("GRANT {privilege} TO {role:?};"));
        grants.collect::<Vec<_>>().join(" ")
    };
    if !for_serving.is_empty() {
        let grants = grants(for_serving);
        let remedy = format!("serving needs them; as the owner of the tables: {grants}");
        return Finding::failure(PRIVILEGES, missing(for_serving), remedy);
    }
    if !for_provisioning.is_empty() {
        let grants = grants(for_provisioning);
        let remedy = format!(
            "enough to serve; for commands that change devices, as the owner of the tables: {grants}"
        );
        return Finding::warning(PRIVILEGES, missing(for_provisioning), remedy);
    }
    Finding::ok(PRIVILEGES, format!("role {role:?} can serve and provision"))
}
