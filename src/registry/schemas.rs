//! The compiled state schemas of capabilities, each compiled once until it changes.
//!
//! A capability shares [`Freshness`] with the devices: its key there begins with `/`, which no name
//! holds. NOTIFY `fleetgate_capability` raises that key's version; what was compiled while nobody
//! listened is not trusted later. So a payload is never judged by a schema older than the last change
//! that was heard.
//!
//! **A schema that does not compile lets nothing through** (`capability add` refuses it, but `psql`
//! can write it): every payload counts as a violation that says so. Stored values are what other
//! programs act on; a missing one is seen at once, an unchecked one is not.

use std::sync::Arc;

use futures_util::future::FutureExt;
use quick_cache::sync::Cache;
use tokio::sync::OnceCell;

use crate::domain::schema::{NotJudged, StateSchema, Violation};
use crate::domain::value::Judged;
use crate::logging::log_throttled;
use crate::registry::cache::CacheError;
use crate::registry::error::RegistryError;
use crate::registry::freshness::{Freshness, Stamp};
use crate::registry::pool::Postgres;

/// Capabilities whose schema is kept. A fleet has some dozens.
const KEPT: usize = 1024;

/// What a capability demands of a payload.
#[derive(Clone)]
enum Demand {
    Nothing,
    Schema(Arc<StateSchema>),
    /// A schema that cannot be used; why.
    Unusable(Arc<str>),
}

type Loaded = Result<Demand, CacheError>;

struct Flight {
    stamp: Stamp,
    loaded: OnceCell<Loaded>,
}

/// See the module documentation.
pub struct SchemaCache {
    flights: Cache<Box<str>, Arc<Flight>>,
    freshness: Arc<Freshness>,
    postgres: Postgres,
}

impl SchemaCache {
    /// An empty cache in front of `postgres`.
    #[must_use]
    pub fn new(postgres: Postgres, freshness: Arc<Freshness>) -> Self {
        Self { flights: Cache::new(KEPT), freshness, postgres }
    }

    /// Judges a value by the state schema of a capability; one without schema takes every value.
    ///
    /// # Errors
    /// [`CacheError`] when the schema cannot be had, or the value not be judged at present; nothing is known
    /// of it then.
    pub async fn check(
        &self,
        capability: &str,
        judged: &Judged,
    ) -> Result<Result<(), Violation>, CacheError> {
        Ok(match self.find(capability).await? {
            Demand::Nothing => Ok(()),
            Demand::Schema(schema) => schema.check(judged).await.inspect_err(tell)?,
            Demand::Unusable(why) => Err(Violation::of_all(format!(
                "the state schema of its capability does not compile: {why}"
            ))),
        })
    }

    /// Forgets a capability that changed.
    pub fn changed(&self, capability: &str) {
        self.freshness.changed(&key(capability));
        self.flights.remove(capability);
    }

    /// Forgets all.
    pub fn everything_changed(&self) {
        self.freshness.everything_changed();
        self.flights.clear();
    }

    async fn find(&self, capability: &str) -> Loaded {
        let flight = self.flight(capability, &key(capability));
        let loaded = flight.loaded.get_or_init(|| self.load(capability)).await.clone();
        if loaded.is_err() {
            self.flights.remove(capability);
        }
        loaded
    }

    /// A flight that is not older than what was heard by now.
    fn flight(&self, capability: &str, key: &str) -> Arc<Flight> {
        if let Some(flight) = self.flights.get(capability)
            && self.freshness.trusts(flight.stamp)
        {
            return flight;
        }
        let stamp = self.freshness.stamp(key);
        let flight = Arc::new(Flight { stamp, loaded: OnceCell::new() });
        self.flights.insert(capability.into(), flight.clone());
        flight
    }

    async fn load(&self, capability: &str) -> Loaded {
        let name: Arc<str> = capability.into();
        let schema = self.postgres.run(|client| {
            let name = name.clone();
            async move { state_schema(client, &name).await }.boxed()
        });
        match schema.await {
            Ok(None) => Ok(Demand::Nothing),
            Ok(Some(schema)) => Ok(compiled(capability, &schema)),
            Err(error) => Err(CacheError::Registry(Arc::new(error))),
        }
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

fn tell(error: &NotJudged) {
    log_throttled!(error, "a report cannot be judged; EMQX is asked to send it again", %error);
}

fn key(capability: &str) -> String {
    format!("/{capability}")
}

fn compiled(capability: &str, schema: &str) -> Demand {
    match StateSchema::read(schema) {
        Ok(schema) => Demand::Schema(Arc::new(schema)),
        Err(error) => {
            log_throttled!(error, "the state schema of a capability does not compile; none of its reports is stored until it does", capability, %error);
            Demand::Unusable(error.to_string().into())
        }
    }
}
