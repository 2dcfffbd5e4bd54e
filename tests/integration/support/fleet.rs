//! Devices for tests, written straight into the database as its owner: a second pair of eyes on the
//! schema.

use fleetgate::domain::password_hash::{Cost, hash_password};
use fleetgate::secret::{Secret, random_bytes};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

use super::postgres::as_owner;

pub(crate) struct Fleet(Client);

impl Fleet {
    /// Connects as the owner, whose role soever the connection string names.
    pub(crate) async fn connect(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(&as_owner(url), NoTls).await.unwrap();
        tokio::spawn(connection);
        Self(client)
    }

    /// One statement, again when PostgreSQL undid it for a deadlock: TRUNCATE and the service's queries lock
    /// tables in orders of their own.
    pub(crate) async fn sql(&self, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> u64 {
        loop {
            match self.0.execute(statement, parameters).await {
                Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {}
                outcome => return outcome.unwrap(),
            }
        }
    }

    /// Several statements.
    pub(crate) async fn batch(&self, statements: &str) {
        self.0.batch_execute(statements).await.unwrap();
    }

    pub(crate) async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        query: &str,
    ) -> T {
        self.0.query_one(query, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn device(&self, name: &str) -> &Self {
        self.device_of_kind(name, "sensor").await
    }

    pub(crate) async fn device_of_kind(&self, name: &str, kind: &str) -> &Self {
        self.sql("INSERT INTO devices (name, kind) VALUES ($1, $2)", &[&name, &kind]).await;
        self
    }

    pub(crate) async fn client_id(&self, name: &str, client_id: &str) -> &Self {
        self.sql("UPDATE devices SET client_id = $2 WHERE name = $1", &[&name, &client_id]).await;
        self
    }

    pub(crate) async fn enabled(&self, name: &str, enabled: bool) -> &Self {
        self.sql("UPDATE devices SET enabled = $2 WHERE name = $1", &[&name, &enabled]).await;
        self
    }

    /// Gives a device a generated secret.
    pub(crate) async fn secret(&self, name: &str) -> String {
        let secret = Secret::generate().expose().to_owned();
        self.hash(
            name,
            "secret",
            &hash_password(secret.as_bytes(), &random_bytes(), Cost::Generated),
        )
        .await;
        secret
    }

    /// Gives a device a chosen password, hashed at full cost.
    pub(crate) async fn password(&self, name: &str, password: &str) -> &Self {
        let hash = hash_password(password.as_bytes(), &random_bytes(), Cost::Chosen);
        self.hash(name, "password", &hash).await
    }

    /// Gives a device a credential with this stored hash.
    pub(crate) async fn hash(&self, name: &str, kind: &str, hash: &str) -> &Self {
        self.sql(
            "INSERT INTO device_credentials (device_id, kind, hash)
             SELECT id, $2, $3 FROM devices WHERE name = $1",
            &[&name, &kind, &hash],
        )
        .await;
        self
    }

    pub(crate) async fn certificate(&self, name: &str, common_name: &str, required: bool) -> &Self {
        self.sql(
            "INSERT INTO device_credentials (device_id, kind, common_name, certificate_required)
             SELECT id, 'certificate', $2, $3 FROM devices WHERE name = $1",
            &[&name, &common_name, &required],
        )
        .await;
        self
    }

    /// Revokes every credential of a device.
    pub(crate) async fn revoke(&self, name: &str) -> &Self {
        self.sql(
            "UPDATE device_credentials SET revoked_at = now()
             WHERE device_id = (SELECT id FROM devices WHERE name = $1)",
            &[&name],
        )
        .await;
        self
    }

    /// Binds topics; a binding but `main` brings its capability into being.
    pub(crate) async fn bind(
        &self,
        name: &str,
        binding: &str,
        state_topic: Option<&str>,
        command_topic: Option<&str>,
    ) -> &Self {
        if binding != "main" {
            self.sql(
                "INSERT INTO capabilities (name) VALUES ($1) ON CONFLICT DO NOTHING",
                &[&binding],
            )
            .await;
            self.sql(
                "INSERT INTO device_capabilities (device_id, capability)
                 SELECT id, $2 FROM devices WHERE name = $1",
                &[&name, &binding],
            )
            .await;
        }
        self.sql(
            "INSERT INTO topic_bindings (device_id, name, state_topic, command_topic)
             SELECT id, $2, $3, $4 FROM devices WHERE name = $1",
            &[&name, &binding, &state_topic, &command_topic],
        )
        .await;
        self
    }

    pub(crate) async fn grant(&self, name: &str, action: &str, filter: &str) -> &Self {
        self.sql(
            "INSERT INTO topic_grants (device_id, action, topic_filter)
             SELECT id, $2, $3 FROM devices WHERE name = $1",
            &[&name, &action, &filter],
        )
        .await;
        self
    }
}
