//! Devices for tests: made by the operations of `fleetgate::fleet`, as the owner of the tables; or by SQL, as
//! somebody in `psql` does.

use fleetgate::domain::acl::Action;
use fleetgate::domain::credential::CredentialId;
use fleetgate::domain::name::BindingName;
use fleetgate::domain::password_hash::{Cost, hash_password};
use fleetgate::fleet::bindings::{self, NewBinding};
use fleetgate::fleet::capabilities::{self, NewCapability};
use fleetgate::fleet::credentials::{self, NewCredential, Terms};
use fleetgate::fleet::devices::{self, DeviceChange, NewDevice};
use fleetgate::fleet::error::Rule;
use fleetgate::fleet::{FleetError, grants};
use fleetgate::secret::random_bytes;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::postgres::{as_owner, connect};

pub(crate) struct Fleet {
    url: String,
    /// For SQL.
    client: Client,
    /// For operations, which need transactions; opened when there is one.
    operations: Mutex<Option<Client>>,
}

impl Fleet {
    /// Connects as the owner, whose role soever the connection string names.
    pub(crate) async fn connect(url: &str) -> Self {
        let url = as_owner(url);
        Self { client: connect(&url).await, url, operations: Mutex::new(None) }
    }

    async fn operations(&self) -> MappedMutexGuard<'_, Client> {
        let mut client = self.operations.lock().await;
        // A test may have ended every session.
        let is_open = match client.as_ref() {
            Some(open) => open.batch_execute("").await.is_ok(),
            None => false,
        };
        if !is_open {
            *client = Some(connect(&self.url).await);
        }
        MutexGuard::map(client, |client| client.as_mut().unwrap())
    }

    /// One statement, again when PostgreSQL undid it for a deadlock: TRUNCATE and the service's queries lock
    /// tables in orders of their own.
    pub(crate) async fn sql(&self, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> u64 {
        loop {
            match self.client.execute(statement, parameters).await {
                Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {}
                outcome => return outcome.unwrap(),
            }
        }
    }

    /// Several statements.
    pub(crate) async fn batch(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap();
    }

    pub(crate) async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        query: &str,
    ) -> T {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn device(&self, name: &str) -> &Self {
        self.device_of_kind(name, "sensor").await
    }

    pub(crate) async fn device_of_kind(&self, name: &str, kind: &str) -> &Self {
        let device = NewDevice::new(name.parse().unwrap(), kind.parse().unwrap());
        devices::add(&mut *self.operations().await, &device).await.unwrap();
        self
    }

    pub(crate) async fn client_id(&self, name: &str, client_id: &str) -> &Self {
        let client_id = Some(Some(client_id.parse().unwrap()));
        self.set(name, DeviceChange { client_id, ..DeviceChange::default() }).await
    }

    pub(crate) async fn enabled(&self, name: &str, enabled: bool) -> &Self {
        self.set(name, DeviceChange { enabled: Some(enabled), ..DeviceChange::default() }).await
    }

    async fn set(&self, name: &str, change: DeviceChange) -> &Self {
        let name = name.parse().unwrap();
        devices::set(&mut *self.operations().await, &name, &change).await.unwrap();
        self
    }

    /// Gives a device a generated secret.
    pub(crate) async fn secret(&self, name: &str) -> String {
        let (secret, credential) = NewCredential::generate();
        self.credential(name, &credential).await;
        secret.expose().to_owned()
    }

    /// Gives a device a chosen password, hashed at full cost; also one that Fleetgate would not let anybody
    /// choose, as an import can bring it.
    pub(crate) async fn password(&self, name: &str, password: &str) -> &Self {
        let hash = hash_password(password.as_bytes(), &random_bytes(), Cost::Chosen);
        self.hash(name, "password", &hash).await
    }

    /// Gives a device a `secret` or `password` with this stored hash.
    pub(crate) async fn hash(&self, name: &str, kind: &'static str, hash: &str) -> &Self {
        self.credential(name, &NewCredential::hashed(kind, hash.to_owned())).await
    }

    pub(crate) async fn certificate(&self, name: &str, common_name: &str, required: bool) -> &Self {
        let credential = NewCredential::certificate(common_name.to_owned(), required);
        self.credential(name, &credential).await
    }

    async fn credential(&self, name: &str, credential: &NewCredential) -> &Self {
        let name = name.parse().unwrap();
        let client = self.operations().await;
        credentials::add(&*client, &name, credential, &Terms::default()).await.unwrap();
        self
    }

    /// Revokes every credential of a device.
    pub(crate) async fn revoke(&self, name: &str) -> &Self {
        let client = self.operations().await;
        for row in credentials::list(&*client, &name.parse().unwrap()).await.unwrap() {
            credentials::revoke(&*client, CredentialId(row.id)).await.unwrap();
        }
        drop(client);
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
        let topic = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        let (name, binding) = (name.parse().unwrap(), binding.parse::<BindingName>().unwrap());
        let mut client = self.operations().await;
        if let Some(capability) = binding.capability() {
            match capabilities::add(&*client, &NewCapability::new(capability)).await {
                Ok(_) | Err(FleetError::Rule { rule: Rule::CapabilityExists, .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let binding = NewBinding::exact(binding, topic(state_topic), topic(command_topic));
        bindings::add(&mut *client, &name, &binding).await.unwrap();
        drop(client);
        self
    }

    pub(crate) async fn grant(&self, name: &str, action: &str, filter: &str) -> &Self {
        let action = match action {
            "publish" => Action::Publish,
            "subscribe" => Action::Subscribe,
            other => panic!("{other}"),
        };
        let client = self.operations().await;
        let (name, filter) = (name.parse().unwrap(), filter.parse().unwrap());
        grants::add(&*client, &name, action, &filter).await.unwrap();
        drop(client);
        self
    }
}
