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

/// Tables with the privileges on them, the first of which serving needs and the others provisioning.
/// A NULL is a table that the role's search path does not lead to.
const MISSING_PRIVILEGES: &str = "
    SELECT wanted.name, privilege, privilege = 'SELECT' AND serving
    FROM (VALUES ('devices', true), ('device_credentials', true), ('topic_bindings', true),
                 ('topic_grants', true), ('fleetgate_schema_history', true),
                 ('capabilities', false), ('device_capabilities', false)) AS wanted (name, serving)
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    WHERE NOT (wanted.name = 'fleetgate_schema_history' AND privilege <> 'SELECT')
      AND has_table_privilege(to_regclass(wanted.name), privilege) IS NOT TRUE
    ORDER BY wanted.name, privilege";

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
    if !for_serving.is_empty() {
        let remedy = format!(
            "serving needs them; as the owner of the tables: GRANT SELECT ON ALL TABLES IN SCHEMA \
             public TO {role:?};"
        );
        return Finding::failure(PRIVILEGES, missing(for_serving), remedy);
    }
    if !for_provisioning.is_empty() {
        let remedy = "enough to serve; commands that change devices need a role with these (as the \
                      owner of the tables: GRANT ... TO ...)";
        return Finding::warning(PRIVILEGES, missing(for_provisioning), remedy);
    }
    Finding::ok(PRIVILEGES, format!("role {role:?} can serve and provision"))
}
