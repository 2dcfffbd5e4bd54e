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
//! What is done to the fleet on purpose is in [`crate::fleet`].

pub mod cache;
pub mod changes;
pub mod commands;
pub mod connection;
mod connection_error;
mod encryption;
pub mod error;
pub mod events;
pub mod freshness;
pub mod hearing;
mod heartbeat;
pub mod imported;
pub mod inspection;
pub mod kickouts;
pub mod live;
pub mod locks;
pub mod lookup;
pub mod lookup_batches;
pub mod migrate;
pub mod pool;
pub mod presence;
pub mod probe;
pub mod recent_logins;
pub mod replicas;
pub mod reports;
pub mod requests;
pub mod roles;
pub mod schemas;
pub mod selector;
mod server;
pub mod session;
mod single_flight;
pub mod sweep;
pub mod work;
