//! Brings the schema up to date.

use tokio_postgres::{Client, GenericClient};

use crate::registry::error::{RegistryError, causes};

mod embedded {
    refinery::embed_migrations!("sql");
}

/// Where refinery notes what it has applied.
const HISTORY: &str = "fleetgate_schema_history";

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

/// Applies the migrations that the database does not have yet.
///
/// Replicas may call this at the same time: refinery itself takes no lock, so this takes a session's
/// advisory lock on the same connection. Each migration runs in its own transaction. A role that may
/// not create tables is enough where there is nothing to apply.
///
/// # Errors
/// A newer schema, a migration that fails, a database that is away.
pub async fn migrate(client: &mut Client) -> Result<Migrated, RegistryError> {
    let present = schema_version(client).await?;
    if present.applied == present.known {
        return Ok(Migrated { applied: Vec::new(), version: present.known });
    }
    let on_lock = || RegistryError::on("the migration lock");
    client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await.map_err(on_lock())?;
    let migrated = migrate_alone(client).await;
    let unlocked = client.execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK]).await;
    let migrated = migrated?;
    unlocked.map_err(on_lock())?;
    Ok(migrated)
}

async fn migrate_alone(client: &mut Client) -> Result<Migrated, RegistryError> {
    let before = schema_version(client).await?;
    if before.applied > before.known {
        before.require_current()?;
    }
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    let report =
        runner.run_async(client).await.map_err(|error| RegistryError::Migration(causes(&error)))?;
    let applied = report.applied_migrations().iter().map(ToString::to_string).collect();
    Ok(Migrated { applied, version: before.known })
}

/// Compares the database's schema with this binary's.
///
/// # Errors
/// A database that is away.
pub async fn schema_version(client: &impl GenericClient) -> Result<SchemaVersion, RegistryError> {
    let on_history = || RegistryError::on("the schema's history");
    let exists: bool = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&HISTORY])
        .await
        .map_err(on_history())?
        .get(0);
    let applied = if exists {
        let newest = format!("SELECT coalesce(max(version), 0)::bigint FROM {HISTORY}");
        client.query_one(&newest, &[]).await.map_err(on_history())?.get(0)
    } else {
        0
    };
    Ok(SchemaVersion { applied, known: known_version() })
}

fn known_version() -> i64 {
    let runner = embedded::migrations::runner();
    runner
        .get_migrations()
        .iter()
        .map(|migration| i64::from(migration.version()))
        .max()
        .unwrap_or(0)
}
