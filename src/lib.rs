//! Fleetgate lets an EMQX broker know its devices.

pub mod app;
pub mod authn;
pub mod authz;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod embedded;
pub mod http;
pub mod ingest;
pub mod lifecycle;
pub mod metrics;
pub mod presence;
pub mod registry;
pub mod secret;
