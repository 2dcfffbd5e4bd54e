//! Databases for tests: one private PostgreSQL for the whole test program, a fresh database a test.
//!
//! The server is started by the first test that asks, and goes, files and all, when the program ends.
//! A database is a copy of a template that was migrated once.
//!
//! The service and the commands connect as the serving role, as they should in the field: what needs
//! more than that fails in tests. Setting up a test is for the owner, who is a superuser.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use fleetgate::embedded::{Home, PrivatePostgres};
use fleetgate::registry::migrate::{grant_to, migrate};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// Tests run side by side, each with pools of its own.
const MAX_CONNECTIONS: u16 = 300;

const TEMPLATE: &str = "fleetgate_template";

/// The role that owns the tables: the superuser of a private PostgreSQL.
pub(crate) const OWNER: &str = "fleetgate";
/// The role that the service and the commands connect as.
pub(crate) const SERVING_ROLE: &str = "serving";

/// A database that only one test uses.
pub(crate) struct TestDatabase {
    /// How to connect to it as the serving role: a libpq connection string. An empty database has no
    /// tables to serve yet: there it is the owner's.
    pub(crate) url: String,
}

impl TestDatabase {
    /// How to connect to it as the owner.
    pub(crate) fn owner_url(&self) -> String {
        as_owner(&self.url)
    }
}

/// The same connection string for the owner.
pub(crate) fn as_owner(url: &str) -> String {
    url.replace(&format!("user={SERVING_ROLE} "), &format!("user={OWNER} "))
}

/// The same connection string for the serving role.
pub(crate) fn as_serving(url: &str) -> String {
    url.replace(&format!("user={OWNER} "), &format!("user={SERVING_ROLE} "))
}

/// A fresh, migrated database on the shared server.
pub(crate) async fn fresh_database() -> TestDatabase {
    new_database(shared().await).await
}

/// An empty database on the shared server.
pub(crate) async fn empty_database() -> TestDatabase {
    create_database(shared().await, "").await
}

/// The unix socket of the shared server, for a proxy in front of it.
pub(crate) async fn socket_path() -> PathBuf {
    shared().await.socket_path()
}

async fn shared() -> &'static PrivatePostgres {
    static SHARED: OnceCell<PrivatePostgres> = OnceCell::const_new();
    SHARED.get_or_init(new_server).await
}

/// A server of the test's own, for tests that stop, kill or freeze it.
pub(crate) async fn new_server() -> PrivatePostgres {
    let start = || PrivatePostgres::start(&Home::Temporary, MAX_CONNECTIONS);
    let server = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
    let admin = connect(&server.connection_string("postgres")).await;
    // With hundreds of databases a worker would be started every tenth of a second, for nothing.
    admin.batch_execute("ALTER SYSTEM SET autovacuum_naptime = '1h'").await.unwrap();
    // Each checkpoint would wait for the disk once for each of the hundreds of files that a database has, and all commits with
    // it. What tests kill are processes: what those have written stays.
    admin.batch_execute("ALTER SYSTEM SET fsync = off").await.unwrap();
    admin.batch_execute("ALTER SYSTEM SET jit = off").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    admin.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).await.unwrap();
    admin.batch_execute(&format!("CREATE ROLE {SERVING_ROLE} LOGIN")).await.unwrap();
    let mut template = connect(&server.connection_string(TEMPLATE)).await;
    migrate(&mut template).await.unwrap();
    grant_to(&mut template, SERVING_ROLE, None).await.unwrap();
    server
}

/// A fresh, migrated database on a server made by [`new_server`].
pub(crate) async fn new_database(server: &PrivatePostgres) -> TestDatabase {
    let made = create_database(server, &format!("TEMPLATE {TEMPLATE} STRATEGY wal_log")).await;
    TestDatabase { url: as_serving(&made.url) }
}

async fn create_database(server: &PrivatePostgres, options: &str) -> TestDatabase {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let admin = connect(&server.connection_string("postgres")).await;
    admin.batch_execute(&format!("CREATE DATABASE {name} {options}")).await.unwrap();
    TestDatabase { url: server.connection_string(&name) }
}

/// A plain connection, driven by a task of the current runtime.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    // Its error reaches whoever uses the client.
    tokio::spawn(connection);
    client
}
