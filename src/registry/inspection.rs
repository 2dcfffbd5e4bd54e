//! What an operator wants to know of a PostgreSQL server (`fleetgate doctor`), and the making of a database.

use jiff::Timestamp;
use tokio_postgres::Client;

use crate::registry::error::RegistryError;

/// The oldest server that has what the schema uses; `sql/V1__registry.sql` says the same.
pub const OLDEST_SERVER: i32 = 15;

/// Asks the shortest question there is.
///
/// # Errors
/// A database that is away.
pub async fn ping(client: &Client) -> Result<(), RegistryError> {
    client.batch_execute("SELECT 1").await.map_err(RegistryError::on("database"))
}

/// The server's version: its main number, and as it writes it.
///
/// # Errors
/// A database that is away.
pub async fn server_version(client: &Client) -> Result<(i32, String), RegistryError> {
    let statement = "SELECT current_setting('server_version_num')::integer / 10000, current_setting('server_version')";
    let row = client.query_one(statement, &[]).await;
    let row = row.map_err(RegistryError::on("server version"))?;
    Ok((row.get(0), row.get(1)))
}

/// The database's clock.
///
/// # Errors
/// A database that is away.
pub async fn clock(client: &Client) -> Result<Timestamp, RegistryError> {
    let row = client.query_one("SELECT clock_timestamp()", &[]).await;
    Ok(row.map_err(RegistryError::on("clock"))?.get(0))
}

/// How many connections the server leaves to this role and database.
///
/// # Errors
/// A database that is away.
pub async fn connection_limit(client: &Client) -> Result<usize, RegistryError> {
    // -1 stands for no limit of their own.
    let statement = "SELECT least(
            current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint,
            (SELECT nullif(rolconnlimit, -1)::bigint FROM pg_roles WHERE rolname = current_user),
            (SELECT nullif(datconnlimit, -1)::bigint FROM pg_database WHERE datname = current_database()))";
    let row = client.query_one(statement, &[]).await;
    let row = row.map_err(RegistryError::on("connections"))?;
    Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Listens on a channel, whose name is a word.
///
/// # Errors
/// A database that is away.
pub async fn listen(client: &Client, channel: &str) -> Result<(), RegistryError> {
    let listening = client.batch_execute(&format!("LISTEN {channel}")).await;
    listening.map_err(RegistryError::on("LISTEN"))
}

/// Notifies whoever listens on a channel, whose name is a word.
///
/// # Errors
/// A database that is away.
pub async fn notify(client: &Client, channel: &str) -> Result<(), RegistryError> {
    let notified = client.batch_execute(&format!("NOTIFY {channel}")).await;
    notified.map_err(RegistryError::on("NOTIFY"))
}

/// Makes a database, whose name is a word, unless it is there.
///
/// # Errors
/// A role that may not; a server that is away.
pub async fn create_database(client: &Client, name: &str) -> Result<(), RegistryError> {
    let on_database = || RegistryError::on(format!("database {name:?}"));
    let found = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await;
    if found.map_err(on_database())?.is_none() {
        let create = format!("CREATE DATABASE {name}");
        client.batch_execute(&create).await.map_err(on_database())?;
    }
    Ok(())
}
