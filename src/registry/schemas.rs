//! The compiled state schemas of capabilities, each compiled once until it changes.
//!
//! A capability shares [`Freshness`] with the devices: its key there begins with `/`, which no name
//! holds. NOTIFY `fleetgate_capability` raises that key's version; what was compiled without LISTEN
//! is not trusted later. So a payload is never validated by a schema older than the last change
//! that was heard.
//!
//! **A schema that does not compile lets nothing through** (`capability add` refuses it, but `psql`
//! can write it): every payload is a violation that says so. Stored values are what other
//! programs act on; a missing one is seen at once, an unchecked one is not.

use std::sync::Arc;

use futures_util::future::FutureExt;
use quick_cache::sync::Cache;

use crate::domain::schema::{NotValidated, StateSchema, Violation};
use crate::domain::value::SchemaInput;
use crate::logging::log_throttled;
use crate::registry::cache::CacheError;
use crate::registry::error::RegistryError;
use crate::registry::freshness::{Freshness, Stamp};
use crate::registry::pool::Postgres;
use crate::registry::single_flight::{SingleFlight, Stamped};

/// Most capabilities whose schema is kept. A fleet has some dozens.
const MAX_SCHEMAS: usize = 1024;

/// What a capability requires of a payload.
#[derive(Clone)]
enum SchemaState {
    /// Nothing.
    None,
    /// That it matches this schema.
    Compiled(Arc<StateSchema>),
    /// A schema that cannot be used; why.
    Invalid(Arc<str>),
}

/// See the module documentation.
pub struct SchemaCache {
    known: Cache<Box<str>, Stamped<SchemaState>>,
    loading: SingleFlight<Box<str>, SchemaState, CacheError>,
    freshness: Arc<Freshness>,
    postgres: Postgres,
}

impl SchemaCache {
    /// An empty cache in front of `postgres`.
    #[must_use]
    pub fn new(postgres: Postgres, freshness: Arc<Freshness>) -> Self {
        Self {
            known: Cache::new(MAX_SCHEMAS),
            loading: SingleFlight::default(),
            freshness,
            postgres,
        }
    }

    /// Validates a value by the state schema of a capability: how it violates it, or `None` if it is valid.
    /// Without a schema every value is.
    ///
    /// # Errors
    /// [`CacheError`] when the schema cannot be had, or the value not be validated at present; nothing is known
    /// of it then.
    pub async fn find_violation(
        &self,
        capability: &str,
        input: &SchemaInput,
    ) -> Result<Option<Violation>, CacheError> {
        Ok(match self.find(capability).await? {
            SchemaState::None => None,
            SchemaState::Compiled(schema) => {
                schema.find_violation(input).await.inspect_err(log_failure)?
            }
            SchemaState::Invalid(why) => Some(Violation::of_all(format!(
                "the state schema of its capability does not compile: {why}"
            ))),
        })
    }

    /// Forgets a capability that changed.
    pub fn changed(&self, capability: &str) {
        self.freshness.changed(&key(capability));
        self.known.remove(capability);
    }

    /// Forgets all.
    pub fn everything_changed(&self) {
        self.freshness.everything_changed();
        self.known.clear();
    }

    async fn find(&self, capability: &str) -> Result<SchemaState, CacheError> {
        if let Some(known) = self.known.get(capability)
            && self.freshness.trusts(known.stamp)
        {
            return Ok(known.value);
        }
        let (name, key) = (Box::from(capability), key(capability));
        let load = |stamp| self.load(capability, stamp);
        let loaded = self.loading.load(&name, || self.freshness.stamp(&key), load).await?;
        Ok(loaded.value)
    }

    async fn load(&self, capability: &str, stamp: Stamp) -> Result<SchemaState, CacheError> {
        let name: Arc<str> = capability.into();
        let schema = self.postgres.run(|client| {
            let name = name.clone();
            async move { state_schema(client, &name).await }.boxed()
        });
        let schema = schema.await.map_err(|error| CacheError::Registry(Arc::new(error)))?;
        let value = schema.map_or(SchemaState::None, |schema| compile(capability, &schema));
        self.known.insert(capability.into(), Stamped { value: value.clone(), stamp });
        Ok(value)
    }
}

/// The text of a schema: one that this program cannot read must not be taken for none.
async fn state_schema(
    client: &deadpool_postgres::ClientWrapper,
    capability: &str,
) -> Result<Option<String>, RegistryError> {
    let query = "SELECT state_schema::text FROM capabilities WHERE name = $1";
    let row = client.query_opt(query, &[&capability]).await;
    let row = row.map_err(RegistryError::on(format!("capability {capability:?}")))?;
    Ok(row.and_then(|row| row.get(0)))
}

fn log_failure(error: &NotValidated) {
    log_throttled!(error, "a report cannot be validated; EMQX is asked to send it again", %error);
}

fn key(capability: &str) -> String {
    format!("/{capability}")
}

fn compile(capability: &str, schema: &str) -> SchemaState {
    match StateSchema::read(schema) {
        Ok(schema) => SchemaState::Compiled(Arc::new(schema)),
        Err(error) => {
            log_throttled!(error, "the state schema of a capability does not compile; none of its reports is stored until it does", capability, %error);
            SchemaState::Invalid(error.to_string().into())
        }
    }
}
