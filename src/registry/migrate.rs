//! Brings the schema up to date.

use tokio_postgres::{Client, GenericClient};

use crate::causes::causes;
use crate::registry::error::RegistryError;
use crate::registry::roles;
use crate::secret::Secret;

mod embedded {
    refinery::embed_migrations!("sql");
}

/// Where refinery notes what it has applied.
pub(super) const HISTORY: &str = "fleetgate_schema_history";

/// Key of the advisory lock that lets one process migrate at a time: "fgmigr" in ASCII. Nothing else
/// in the database may use it.
const MIGRATION_LOCK: i64 = 0x6667_6d69_6772;

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The migrations that were applied now, in order, as `V1__registry`.
    pub applied: Vec<String>,
    /// The version that the database has now.
    pub version: i64,
}

/// How the database's schema compares with this binary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersion {
    /// Newest migration that the database has; 0 before the first.
    pub applied: i64,
    /// Newest migration that this binary carries.
    pub known: i64,
}

impl SchemaVersion {
    /// Refuses a schema that this binary cannot work with.
    ///
    /// # Errors
    /// [`RegistryError::SchemaMissing`] when `fleetgate migrate` has to run first,
    /// [`RegistryError::SchemaNewer`] when a newer release made the schema.
    pub fn require_current(self) -> Result<(), RegistryError> {
        match self.applied.cmp(&self.known) {
            std::cmp::Ordering::Less => Err(RegistryError::SchemaMissing),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => {
                Err(RegistryError::SchemaNewer { applied: self.applied, known: self.known })
            }
        }
    }
}

/// Applies the migrations that the database does not have yet, and grants the serving roles what they
/// need on the tables of then (see [`roles`]).
///
/// Replicas may call this at the same time: refinery itself takes no lock, so this takes a session's
/// advisory lock on the same connection. Each migration runs in its own transaction. A role that may
/// not create tables is enough where there is nothing to apply.
///
/// # Errors
/// A newer schema, a role that may not change an older one, a migration that fails, a database that is
/// away.
pub async fn migrate(client: &mut Client) -> Result<Migrated, RegistryError> {
    let present = schema_version(client).await?;
    if present.applied == present.known {
        return Ok(Migrated { applied: Vec::new(), version: present.known });
    }
    if present.applied < present.known {
        roles::require_owner(client, present).await?;
    }
    alone(client, migrate_alone).await
}

/// Makes a role a serving role, see [`roles::grant`]. The schema must be up to date.
///
/// # Errors
/// Those of [`roles::grant`], and a connection that is not the owner's.
pub async fn grant_to(
    client: &mut Client,
    role: &str,
    password: Option<&Secret>,
) -> Result<(), RegistryError> {
    roles::require_owner(client, schema_version(client).await?).await.map_err(
        |error| match error {
            RegistryError::MayNotMigrate { role, applied, known } if applied == known => {
                RegistryError::MayNotGrant(role)
            }
            other => other,
        },
    )?;
    alone(client, async |client| roles::grant(client, role, password).await).await
}

/// Grants again what the noted serving roles need: what was taken from them, or lost in a dump, comes
/// back. Nothing where the connection is not the owner's. Returns the roles.
///
/// # Errors
/// A database that is away.
pub async fn grant_again(client: &mut Client) -> Result<Vec<String>, RegistryError> {
    match roles::require_owner(client, schema_version(client).await?).await {
        Err(RegistryError::MayNotMigrate { .. }) => return Ok(Vec::new()),
        owner => owner?,
    }
    alone(client, roles::grant_again).await
}

/// Works while nobody else migrates or grants: two that change the same table's privileges at the same time would get into
/// each other's way.
async fn alone<T>(
    client: &mut Client,
    work: impl AsyncFnOnce(&mut Client) -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let on_lock = || RegistryError::on("the migration lock");
    let lock = "SELECT pg_advisory_lock($1)";
    client.execute(lock, &[&MIGRATION_LOCK]).await.map_err(on_lock())?;
    let done = work(client).await;
    let unlock = "SELECT pg_advisory_unlock($1)";
    let unlocked = client.execute(unlock, &[&MIGRATION_LOCK]).await.map_err(on_lock());
    // What failed first is what matters.
    let done = done?;
    unlocked.map(|_| done)
}

async fn migrate_alone(client: &mut Client) -> Result<Migrated, RegistryError> {
    let before = schema_version(client).await?;
    if before.applied > before.known {
        before.require_current()?;
    }
    // Functions that are made keep the schema of the tables, not what "$user" means to whoever calls them.
    let in_schema = "SELECT set_config('search_path', quote_ident(current_schema()), false) WHERE current_schema() IS NOT NULL";
    client.execute(in_schema, &[]).await.map_err(RegistryError::on("the schema"))?;
    let migrated = apply(client, before).await;
    let reset = client.batch_execute("RESET search_path").await;
    let migrated = migrated?;
    reset.map_err(RegistryError::on("the schema"))?;
    Ok(migrated)
}

async fn apply(client: &mut Client, before: SchemaVersion) -> Result<Migrated, RegistryError> {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    let report =
        runner.run_async(client).await.map_err(|error| RegistryError::Migration(causes(&error)))?;
    let applied = report.applied_migrations().iter().map(ToString::to_string).collect();
    roles::grant_again(client).await?;
    Ok(Migrated { applied, version: before.known })
}

/// Compares the database's schema with this binary's.
///
/// # Errors
/// A schema of before the first release, which has a migration of another content (released ones never change); a history that the role
/// may not read, a database that is away.
pub async fn schema_version(client: &impl GenericClient) -> Result<SchemaVersion, RegistryError> {
    let on_history = || RegistryError::on("the schema's history");
    let row = client
        .query_one(
            "SELECT has_table_privilege(to_regclass($1), 'SELECT'), current_user::text",
            &[&HISTORY],
        )
        .await
        .map_err(on_history())?;
    let readable: Option<bool> = row.get(0);
    if readable == Some(false) {
        let missing = format!("SELECT on {HISTORY}");
        return Err(RegistryError::PrivilegesMissing { role: row.get(1), missing });
    }
    let mut version = SchemaVersion { applied: 0, known: 0 };
    let (mut versions, mut checksums) = (Vec::new(), Vec::new());
    for migration in embedded::migrations::runner().get_migrations() {
        version.known = version.known.max(i64::from(migration.version()));
        versions.push(migration.version());
        checksums.push(migration.checksum().to_string());
    }
    if readable.is_some() {
        let applied = format!(
            "SELECT coalesce(max(version), 0)::bigint, coalesce(bool_or(checksum <> known.sum), false)
             FROM {HISTORY} LEFT JOIN unnest($1::int[], $2::text[]) AS known (version, sum) USING (version)"
        );
        let row =
            client.query_one(&applied, &[&versions, &checksums]).await.map_err(on_history())?;
        if row.get(1) {
            return Err(RegistryError::SchemaBeforeFirstRelease);
        }
        version.applied = row.get(0);
    }
    Ok(version)
}
