//! HTTP: the calls that EMQX makes, the pages that operators read, and on a socket of its own the API.
//!
//! Routes only; what a request means is decided in [`crate::authn`], [`crate::authz`],
//! [`crate::ingest`] and [`crate::fleet`].

use std::sync::Arc;

use actix_web::web;

use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::http::connections::Connections;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::registry::cache::DeviceCache;
use crate::registry::freshness::Freshness;
use crate::registry::pool::Postgres;
use crate::secret::Secret;

pub mod api;
pub mod connections;
pub mod emqx;
pub mod ops;
pub mod server;

/// What handlers work with; one for the process, shared by all workers.
pub struct AppState {
    /// What EMQX must show.
    pub webhook_tokens: Vec<Secret>,
    /// Whether a login answer carries the device's rights.
    pub acl_in_login: bool,
    /// Decides logins.
    pub authenticator: Authenticator,
    /// Decides actions.
    pub authorizer: Authorizer,
    /// Takes events in.
    pub ingest: Ingest,
    /// Largest payload that is stored, in bytes.
    pub max_payload: usize,
    /// Counts everything.
    pub metrics: Arc<Metrics>,
    /// The registry in memory.
    pub devices: Arc<DeviceCache>,
    /// Whether it can be trusted.
    pub freshness: Arc<Freshness>,
    /// Connections to PostgreSQL.
    pub postgres: Postgres,
    /// Who is connected.
    pub connections: Arc<Connections>,
}

/// Every route for EMQX and operators; those of the API are [`api::routes`].
pub fn routes(service: &mut web::ServiceConfig) {
    service
        .service(web::resource("/emqx/authn").route(web::post().to(emqx::authn::handle)))
        .service(web::resource("/emqx/authz").route(web::post().to(emqx::authz::handle)))
        .service(web::resource("/emqx/events").route(web::post().to(emqx::events::handle)))
        .service(web::resource("/healthz").route(web::get().to(ops::healthz)))
        .service(web::resource("/readyz").route(web::get().to(ops::readyz)))
        .service(web::resource("/metrics").route(web::get().to(ops::metrics)));
}
