//! Fleetgate lets an EMQX broker know its devices.

pub mod app;
pub mod authn;
pub mod authz;
pub mod backoff;
pub mod causes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod embedded;
pub mod emqx;
pub mod evictions;
pub mod http;
pub mod http_client;
pub mod ingest;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod presence;
pub mod provision;
pub mod read_file;
pub mod registry;
pub mod secret;
pub mod sweep;
pub mod tls;
pub mod write_file;
