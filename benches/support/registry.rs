//! A registry of any size in a private PostgreSQL, fsync on.

use std::ops::Range;

use fleetgate::domain::password_hash::{Cost, hash_password};
use fleetgate::embedded::{Home, PrivatePostgres};
use fleetgate::registry::migrate::migrate;
use tokio_postgres::{Client, NoTls};

use super::requests::device_name;

/// Every connection of every process in a benchmark.
const MAX_CONNECTIONS: u16 = 600;

/// What all devices show. The stored hash is one and the same too: checking it costs the same, and a
/// million of them would take minutes to make.
pub(crate) const SECRET: &str = "Zm9yLWJlbmNobWFya3Mtb25seS1ub3QtYS1zZWNyZXQ";

pub(crate) struct Registry {
    server: PrivatePostgres,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let server = PrivatePostgres::start(&Home::Temporary, MAX_CONNECTIONS);
        Self { server: server.expect("a private PostgreSQL") }
    }

    /// A libpq connection string of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        self.server.connection_string(database)
    }

    /// Makes a migrated database with these devices; those of `chosen` have a chosen password, the
    /// others a generated secret.
    pub(crate) async fn create(&self, database: &str, devices: u32, chosen: Range<u32>) {
        let admin = connect(&self.url("postgres")).await;
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        let mut client = connect(&self.url(database)).await;
        migrate(&mut client).await.unwrap();
        fill(&client, devices, chosen).await;
        client.batch_execute("VACUUM ANALYZE").await.unwrap();
        client.batch_execute("CHECKPOINT").await.unwrap();
    }
}

/// As a bulk import does it: without a notice and a foreign key check for each row.
async fn fill(client: &Client, devices: u32, chosen: Range<u32>) {
    let hash = |cost| hash_password(SECRET.as_bytes(), b"bench-bench-salt", cost);
    let (generated, full) = (hash(Cost::Generated), hash(Cost::Chosen));
    let (devices, from, to) = (i64::from(devices), i64::from(chosen.start), i64::from(chosen.end));
    client.batch_execute("SET session_replication_role = replica").await.unwrap();
    client
        .execute(
            "INSERT INTO devices (name, kind, area, floor)
             SELECT 'device-' || lpad(number::text, 7, '0'), 'sensor', 'lab', '2'
             FROM generate_series(0, $1::bigint - 1) AS number ORDER BY number",
            &[&devices],
        )
        .await
        .unwrap();
    client
        .execute(
            "INSERT INTO device_credentials (device_id, kind, hash)
             SELECT id, CASE WHEN is_chosen THEN 'password' ELSE 'secret' END,
                    CASE WHEN is_chosen THEN $4 ELSE $3 END
             FROM (SELECT id, substr(name, 8)::bigint BETWEEN $1::bigint AND $2::bigint - 1 AS is_chosen
                   FROM devices) AS device",
            &[&from, &to, &generated, &full],
        )
        .await
        .unwrap();
    client
        .batch_execute(
            "INSERT INTO topic_bindings (device_id, name, state_topic, command_topic)
             SELECT id, 'main', 'lab/' || name || '/state', 'lab/' || name || '/set' FROM devices;
             SET session_replication_role = origin",
        )
        .await
        .unwrap();
    assert_eq!(device_name(0), "device-0000000", "the same names as in SQL");
}

/// A connection of its own, driven by a task of the current runtime.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}
