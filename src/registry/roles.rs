//! Who may do what with the tables: one role owns them, others serve.
//!
//! The owner makes the tables and migrates. A serving role reads and writes rows: it may not change the
//! schema, empty a table (TRUNCATE), touch the history of migrations or write the audit log. The triggers and functions of
//! `sql/` run as whoever calls them, but for those of the audit log (`sql/V15`), so these privileges are all that stands
//! between a stolen password of `serve` and the tables.
//!
//! [`TABLES`] names every table with what a role needs there. Tests hold it to what the migrations make
//! (`tests/integration/roles.rs`): a table that is missing there could not be served from.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use crate::registry::error::RegistryError;
use crate::registry::migrate::{HISTORY, SchemaVersion};
use crate::secret::Secret;

/// Every privilege on rows.
const ALL: &str = "SELECT,INSERT,UPDATE,DELETE";

/// Every table and view: what `serve` needs on it, and what the commands that change devices need besides.
const TABLES: [(&str, &str, &str); 28] = [
    (HISTORY, "SELECT", ""),
    ("serving_roles", "", ""),
    ("devices", "SELECT,UPDATE", "INSERT,DELETE"),
    ("device_credentials", "SELECT", "INSERT,UPDATE,DELETE"),
    ("topic_bindings", "SELECT", "INSERT,UPDATE,DELETE"),
    ("topic_grants", "SELECT", "INSERT,UPDATE,DELETE"),
    ("capabilities", "SELECT", "INSERT,UPDATE,DELETE"),
    ("device_capabilities", "SELECT", "INSERT,UPDATE,DELETE"),
    ("routing_rules", "SELECT", "INSERT,UPDATE,DELETE"),
    ("device_state", "SELECT,INSERT,UPDATE", ""),
    ("device_presence", "SELECT", ""),
    ("presence_sweeps", "SELECT,INSERT,UPDATE", ""),
    ("client_sessions", ALL, ""),
    ("kick_outs_to_confirm", ALL, ""),
    ("login_locks", ALL, ""),
    ("replicas", ALL, ""),
    ("session_pruning", ALL, ""),
    ("shared_addresses", ALL, ""),
    ("commands", "SELECT,INSERT,DELETE", ""),
    ("command_deliveries", ALL, ""),
    ("command_requests", ALL, ""),
    ("api_tokens", "SELECT", "INSERT,UPDATE"),
    ("api_requests", "SELECT", "INSERT"),
    ("device_versions", "SELECT", "INSERT,UPDATE"),
    ("command_pauses", "SELECT", "INSERT,DELETE"),
    ("audit", "SELECT", ""),
    ("untrusted_timestamps", ALL, ""),
    ("work_queue", ALL, ""),
];

/// Functions that run as the owner, and that nobody calls but serving roles (`sql/V22`).
const CLOSED: [&str; 1] = ["fleetgate_prune_audit(interval, integer)"];

/// A privilege that a role may need.
struct Need {
    table: &'static str,
    privilege: &'static str,
    /// For `serve`; otherwise only for commands that change devices.
    serving: bool,
}

/// What the connected role lacks, each as `UPDATE on devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The role.
    pub role: String,
    /// What `serve` cannot do without.
    pub for_serving: Vec<String>,
    /// What commands that change devices need besides.
    pub for_provisioning: Vec<String>,
}

impl Missing {
    /// Refuses a role that cannot serve.
    ///
    /// # Errors
    /// [`RegistryError::PrivilegesMissing`] with what is missing on which table.
    pub fn require_serving(self) -> Result<(), RegistryError> {
        if self.for_serving.is_empty() {
            return Ok(());
        }
        Err(RegistryError::PrivilegesMissing {
            role: self.role,
            missing: self.for_serving.join(", "),
        })
    }
}

/// Tells what the connected role lacks to serve and to provision. A table that its search path does not
/// lead to counts as one without privileges.
///
/// # Errors
/// A database that is away.
pub async fn missing_privileges(client: &impl GenericClient) -> Result<Missing, RegistryError> {
    let on_privileges = || RegistryError::on("the privileges");
    let needs = needs();
    let tables: Vec<&str> = needs.iter().map(|need| need.table).collect();
    let privileges: Vec<&str> = needs.iter().map(|need| need.privilege).collect();
    let serving: Vec<bool> = needs.iter().map(|need| need.serving).collect();
    let rows = client
        .query(MISSING, &[&tables, &privileges, &serving, &HISTORY])
        .await
        .map_err(on_privileges())?;
    let lacks = |for_serving: bool| {
        let rows = rows.iter().filter(|row| row.get::<_, bool>(1) == for_serving);
        rows.map(|row| row.get(0)).collect()
    };
    Ok(Missing {
        role: current_role(client).await?,
        for_serving: lacks(true),
        for_provisioning: lacks(false),
    })
}

const MISSING: &str = "
    SELECT privilege || ' on ' || name, serving
    FROM unnest($1::text[], $2::text[], $3::boolean[]) AS need (name, privilege, serving)
    WHERE has_table_privilege(to_regclass(name), privilege) IS NOT TRUE
    UNION ALL
    SELECT 'EXECUTE on function ' || function.oid::regprocedure, true
    FROM pg_proc AS function
    JOIN pg_class AS history ON history.relnamespace = function.pronamespace
    WHERE history.oid = to_regclass($4) AND starts_with(function.proname, 'fleetgate_')
      AND NOT has_function_privilege(function.oid, 'EXECUTE')
    ORDER BY 1";

/// Every privilege on every table.
fn needs() -> Vec<Need> {
    let mut needs = Vec::new();
    for (table, serving, provisioning) in TABLES {
        for (privileges, serving) in [(serving, true), (provisioning, false)] {
            let privileges = privileges.split(',').filter(|privilege| !privilege.is_empty());
            needs.extend(privileges.map(|privilege| Need { table, privilege, serving }));
        }
    }
    needs
}

fn table_names() -> Vec<&'static str> {
    TABLES.iter().map(|(table, ..)| *table).collect()
}

/// The role that this connection acts as.
///
/// # Errors
/// A database that is away.
pub async fn current_role(client: &impl GenericClient) -> Result<String, RegistryError> {
    let row = client.query_one("SELECT current_user::text", &[]).await;
    Ok(row.map_err(RegistryError::on("the role"))?.get(0))
}

/// Refuses a role that may not change the schema: it must own the tables (or be a member of their owner),
/// or, where there are none yet, be allowed to make them.
///
/// # Errors
/// [`RegistryError::MayNotMigrate`] with the role, [`RegistryError::Unreachable`].
pub async fn require_owner(
    client: &impl GenericClient,
    version: SchemaVersion,
) -> Result<(), RegistryError> {
    let row = client.query_one(IS_OWNER, &[&HISTORY]).await;
    let row = row.map_err(RegistryError::on("the schema's owner"))?;
    if row.get::<_, Option<bool>>(0) == Some(true) {
        return Ok(());
    }
    let SchemaVersion { applied, known } = version;
    Err(RegistryError::MayNotMigrate { role: row.get(1), applied, known })
}

const IS_OWNER: &str = "
    SELECT coalesce(pg_has_role(history.relowner, 'USAGE')
                        AND has_schema_privilege(history.relnamespace, 'CREATE'),
                    has_schema_privilege(current_schema(), 'CREATE')),
           current_user::text
    FROM (SELECT) AS always
    LEFT JOIN pg_class AS history ON history.oid = to_regclass($1)";

/// Makes a role a serving role: grants it what serving and provisioning need on the tables of now, takes
/// everything else that it has on them, and notes it, so that later migrations do the same. With a
/// password, the role is made where it is missing, and may log in with that password.
///
/// # Errors
/// There is no such role, or it owns the tables, or it is a superuser that would get a password.
pub async fn grant(
    client: &mut Client,
    role: &str,
    password: Option<&Secret>,
) -> Result<(), RegistryError> {
    let thing = format!("role {role:?}");
    let transaction = client.transaction().await.map_err(RegistryError::on(&thing))?;
    let found = transaction
        .query_opt(
            &format!("SELECT rolsuper, owns FROM ({ROLES}) AS roles WHERE name = $2"),
            &[&table_names(), &role],
        )
        .await
        .map_err(RegistryError::on(&thing))?
        .map(|row| (row.get::<_, bool>(0), row.get::<_, bool>(1)));
    if let Some((_, true)) = found {
        return Err(RegistryError::Refused(format!(
            "{thing} owns the tables, or is a member of the role that does, and would lose its own rights on them; \
             name another role, for `serve` to connect as"
        )));
    }
    let found = found.map(|(superuser, _)| superuser);
    match (found, password) {
        (None, None) => return Err(no_role(role)),
        (Some(true), Some(_)) => {
            return Err(RegistryError::Refused(format!(
                "{thing} is a superuser; its password is not changed here: name a role that may do no more than serve"
            )));
        }
        (found, Some(password)) => {
            set_password(&transaction, role, password, found.is_some()).await?;
        }
        (Some(_), None) => {}
    }
    grant_tables(&transaction, role).await?;
    transaction
        .execute("INSERT INTO serving_roles (name) VALUES ($1) ON CONFLICT DO NOTHING", &[&role])
        .await
        .map_err(RegistryError::on(&thing))?;
    transaction.commit().await.map_err(RegistryError::on(&thing))
}

/// Refuses what [`grant`] would refuse of a role that is missing or may not be made, before anything else is done.
///
/// # Errors
/// There is no such role, or with a password, whoever is connected may not make roles; a database that is away.
pub async fn require_grantable(
    client: &impl GenericClient,
    role: &str,
    with_password: bool,
) -> Result<(), RegistryError> {
    let statement =
        "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1), rolsuper OR rolcreaterole
         FROM pg_roles WHERE rolname = current_user";
    let row = client.query_one(statement, &[&role]).await;
    let row = row.map_err(RegistryError::on(format!("role {role:?}")))?;
    match (with_password, row.get(0), row.get(1)) {
        (false, false, _) => Err(no_role(role)),
        (true, _, false) => Err(may_not_make(role)),
        _ => Ok(()),
    }
}

fn no_role(role: &str) -> RegistryError {
    RegistryError::Refused(format!(
        "role {role:?} does not exist; make it first (CREATE ROLE … LOGIN), or have it made with --role-password-file"
    ))
}

fn may_not_make(role: &str) -> RegistryError {
    RegistryError::Refused(format!(
        "role {role:?} can only be made, and given a password, by a role with CREATEROLE; have that done \
         (CREATE ROLE … LOGIN PASSWORD …), and leave --role-password-file out"
    ))
}

/// Every role: its name, whether it is a superuser, and whether it has the rights of an owner of one of our tables. A superuser is
/// a member of every role; only the tables that it owns itself count.
const ROLES: &str = "
    SELECT rolname::text AS name, rolsuper, EXISTS (
        SELECT FROM unnest($1::text[]) AS named (name) JOIN pg_class ON pg_class.oid = to_regclass(name)
        WHERE relowner = role.oid OR NOT rolsuper AND pg_has_role(role.oid, relowner, 'MEMBER')) AS owns
    FROM pg_roles AS role";

/// Grants again to the roles noted by [`grant`]; returns those that are still there. Roles that own tables by
/// now keep what they have. Takes from everybody else what is for serving roles alone.
///
/// # Errors
/// A database that is away, a role that does not own the tables.
pub async fn grant_again(client: &mut Client) -> Result<Vec<String>, RegistryError> {
    let on_roles = || RegistryError::on("the serving roles");
    let transaction = client.transaction().await.map_err(on_roles())?;
    let rows = transaction
        .query(
            &format!(
                "SELECT name FROM serving_roles JOIN ({ROLES}) AS roles USING (name) WHERE NOT owns ORDER BY name"
            ),
            &[&table_names()],
        )
        .await
        .map_err(on_roles())?;
    let roles: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    close_functions(&transaction).await?;
    for role in &roles {
        grant_tables(&transaction, role).await?;
    }
    transaction.commit().await.map_err(on_roles())?;
    Ok(roles)
}

/// Takes the functions of [`CLOSED`] from everybody who may log in, as the migrations did: a dump that was restored without
/// privileges has given them back.
async fn close_functions(client: &impl GenericClient) -> Result<(), RegistryError> {
    let on_functions = || RegistryError::on("the functions for serving roles alone");
    let statement = "
        SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', to_regprocedure(name))
        FROM unnest($1::text[]) AS closed (name)
        WHERE has_function_privilege('public', to_regprocedure(name), 'EXECUTE')";
    let open = client.query(statement, &[&CLOSED.as_slice()]).await.map_err(on_functions())?;
    for row in open {
        client.batch_execute(row.get(0)).await.map_err(on_functions())?;
    }
    Ok(())
}

/// The server is sent what it stores of the password (SCRAM-SHA-256), never the password: a statement may
/// be logged.
async fn set_password(
    client: &impl GenericClient,
    role: &str,
    password: &Secret,
    exists: bool,
) -> Result<(), RegistryError> {
    let stored = postgres_protocol::password::scram_sha_256(password.expose().as_bytes());
    let verb = if exists { "ALTER" } else { "CREATE" };
    let command = format!("SELECT format('{verb} ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)");
    let on_role = || RegistryError::on(format!("role {role:?}"));
    let row = client.query_one(&command, &[&role, &stored]).await.map_err(on_role())?;
    client.batch_execute(row.get(0)).await.map_err(|error| match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => may_not_make(role),
        _ => on_role()(error),
    })
}

async fn grant_tables(client: &impl GenericClient, role: &str) -> Result<(), RegistryError> {
    let on_role = || RegistryError::on(format!("role {role:?}"));
    let needs = needs();
    let privileges = TABLES.iter().map(|(table, ..)| {
        let of_table = needs.iter().filter(|need| need.table == *table);
        of_table.map(|need| need.privilege).collect::<Vec<_>>().join(", ")
    });
    let privileges: Vec<String> = privileges.collect();
    let rows = client
        .query(GRANTS, &[&role, &table_names(), &privileges, &HISTORY])
        .await
        .map_err(on_role())?;
    for row in rows {
        client.batch_execute(row.get(0)).await.map_err(on_role())?;
    }
    Ok(())
}

/// The statements that grant: on the database and schema where the role would not get in, on each table
/// exactly what is needed, on the functions that constraints and statements call, and on the sequences
/// behind columns (those of identity columns need nothing).
const GRANTS: &str = "
    WITH home AS (
        SELECT namespace.oid, namespace.nspname FROM pg_class AS history
        JOIN pg_namespace AS namespace ON namespace.oid = history.relnamespace
        WHERE history.oid = to_regclass($4)
    ), tables AS (
        SELECT to_regclass(name) AS id, privileges
        FROM unnest($2::text[], $3::text[]) AS named (name, privileges)
    )
    SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), $1::text)
    WHERE NOT has_database_privilege($1::name, current_database(), 'CONNECT')
    UNION ALL
    SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, $1::text) FROM home
    WHERE NOT has_schema_privilege($1::name, oid, 'USAGE')
    UNION ALL
    SELECT format('REVOKE ALL ON TABLE %s FROM %I', id, $1::text)
           || CASE WHEN privileges = '' THEN '' ELSE format('; GRANT %s ON TABLE %s TO %I', privileges, id, $1::text) END
    FROM tables WHERE id IS NOT NULL
    UNION ALL
    SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', function.oid::regprocedure, $1::text)
    FROM pg_proc AS function JOIN home ON home.oid = function.pronamespace
    WHERE starts_with(function.proname, 'fleetgate_')
    UNION ALL
    SELECT format('GRANT USAGE ON SEQUENCE %s TO %I', sequence.oid::regclass, $1::text)
    FROM tables JOIN pg_depend AS part ON part.refclassid = 'pg_class'::regclass AND part.refobjid = tables.id
    JOIN pg_class AS sequence ON part.classid = 'pg_class'::regclass AND sequence.oid = part.objid
    WHERE sequence.relkind = 'S' AND part.deptype = 'a'";
