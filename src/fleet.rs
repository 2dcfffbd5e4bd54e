//! What is done to the fleet: one file a subject, each operation once.
//!
//! ```text
//!  cli, http/api, requests, tests ──► fleet/<subject>.rs ──► registry (connection) ──► PostgreSQL
//! ```
//!
//! An operation takes a typed request, checks its rules, runs its statements in one transaction and returns a
//! typed outcome or a [`FleetError`]: which thing, which rule. It words nothing for people; whoever calls it
//! does (`src/wording.rs`). What the constraints and triggers of `sql/` guarantee is not checked a second
//! time here: their names are read as rules ([`error::Rule::of`]), so that a row written in `psql` is as good
//! as one by command. Kick-outs and notices to the replicas come from triggers too.
//!
//! Operations take a [`GenericClient`]. Whoever changes something calls them within [`act`]: one transaction, in which it is
//! noted who acts.

pub mod actor;
pub mod api_tokens;
pub mod audit;
pub mod bindings;
pub mod capabilities;
pub mod checks;
pub mod commands;
pub mod credentials;
pub mod devices;
pub mod document;
pub mod error;
pub mod exports;
pub mod grants;
pub mod imports;
pub mod locks;
mod one_thing;
pub mod part;
pub mod rights;
pub mod routing;
pub mod rules;
pub mod sessions;
pub mod tokens;
pub mod watch;
pub mod wire;

use tokio_postgres::{Client, GenericClient, Transaction};

use crate::registry::error::RegistryError;

pub use actor::Actor;
pub use error::FleetError;
pub use part::Part;

/// What an operation that may be repeated found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added<T> {
    /// It was not there, and is now.
    New(T),
    /// The same was there already; nothing was changed.
    Same(T),
}

impl<T> Added<T> {
    /// What is there now.
    pub fn into_inner(self) -> T {
        match self {
            Self::New(thing) | Self::Same(thing) => thing,
        }
    }
}

/// Does one operation or several in the name of `actor`, all or none: whatever `work` returns an error for is undone.
///
/// # Errors
/// What `work` says; a database that is away.
pub async fn act<T, E: From<FleetError>>(
    client: &mut Client,
    actor: &Actor,
    work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let failed = |error| E::from(FleetError::Registry(error));
    let begun = client.transaction().await;
    let mut transaction = begun.map_err(RegistryError::on(REGISTRY)).map_err(failed)?;
    actor.note(&transaction).await.map_err(failed)?;
    let outcome = work(&mut transaction).await?;
    transaction.commit().await.map_err(RegistryError::on(REGISTRY)).map_err(failed)?;
    Ok(outcome)
}

const REGISTRY: &str = "the registry";

/// Whether nobody has put anything into the registry.
///
/// # Errors
/// A database that is away.
pub async fn is_empty(client: &impl GenericClient) -> Result<bool, FleetError> {
    let statement =
        "SELECT NOT EXISTS (SELECT FROM devices) AND NOT EXISTS (SELECT FROM capabilities)";
    let row = client.query_one(statement, &[]).await.map_err(RegistryError::on(REGISTRY))?;
    Ok(row.get(0))
}
