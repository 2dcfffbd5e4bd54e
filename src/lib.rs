//! Fleetgate lets an EMQX broker know its devices.

pub mod authn;
pub mod authz;
pub mod clock;
pub mod config;
pub mod domain;
pub mod metrics;
pub mod registry;
pub mod secret;
