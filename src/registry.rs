//! The registry: PostgreSQL, the single source of truth, behind a bounded read-through cache.
//!
//! ```text
//!            find(name)                                     NOTIFY fleetgate_device
//!  authn ──► cache.rs ──miss──► lookup_batches.rs ──► lookup.rs ──► PostgreSQL ──► changes.rs
//!  authz        ▲                                     pool.rs                        │
//!               └──────────────────────── freshness.rs ◄────────────────────────────┘
//! ```
//!
//! [`cache`] and [`schemas`] answer from memory while [`freshness`] trusts what is there; [`changes`] listens
//! for what makes it outdated.
//!
//! The remaining files hold one table each and serve the command line. Their functions take a
//! [`tokio_postgres::GenericClient`], so that they work on a plain client, a pooled one and inside a
//! transaction. A lookup that finds nothing is `Ok(None)` or `Ok(false)`; what a constraint in `sql/`
//! refuses is [`error::RegistryError::Refused`] with the thing and the remedy.

pub mod bindings;
pub mod cache;
pub mod capabilities;
pub mod changes;
pub mod connection;
mod connection_error;
pub mod credentials;
pub mod devices;
mod document;
mod encryption;
pub mod error;
pub mod events;
pub mod freshness;
pub mod grants;
pub mod hearing;
mod heartbeat;
pub mod kickouts;
pub mod locks;
pub mod lookup;
pub mod lookup_batches;
pub mod migrate;
pub mod pool;
pub mod presence;
pub mod probe;
pub mod replicas;
pub mod reports;
pub mod roles;
pub mod schemas;
mod server;
pub mod session;
pub mod sessions;
mod single_flight;
pub mod sweep;
pub mod work;
