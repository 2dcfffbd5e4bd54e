//! Fleetgate lets an EMQX broker know its devices.
//!
//! From top to bottom; a module uses only what stands below it (`tests/layers.rs` says exactly which):
//!
//! - [`cli`]: the commands. [`app`] puts the service together, starts and stops it.
//! - [`http`]: what EMQX asks and reports, the HTTP API, health and metrics.
//! - [`authn`] decides logins, [`authz`] publishes and subscribes.
//! - [`ingest`] writes what EMQX reports; [`presence`] has the order of sessions.
//! - [`commands`] sends commands to devices and follows what becomes of them; [`requests`]: those that services ask for over
//!   MQTT.
//! - [`kickouts`] kicks out clients whose rights are gone, [`sweep`] repairs presence from EMQX's list of clients.
//! - [`work`] carries out what has to be done elsewhere after a commit: the workers of the work queue.
//! - [`fleet`]: what is done to devices, credentials, bindings, grants, capabilities, rules, commands, locks and API tokens; the
//!   audit log, export and import.
//! - [`remote`]: the same over the HTTP API of another Fleetgate.
//! - [`wording`]: what its errors say, for the command line and the HTTP API.
//! - [`provision`] makes the secrets and certificates of a bus, [`embedded`] runs a private PostgreSQL.
//! - [`registry`] is PostgreSQL, with the devices in memory; [`emqx`] is EMQX's REST API.
//! - [`domain`]: names, topics, rights, credentials, events, values. Pure: no I/O.
//! - [`config`], [`metrics`], [`logging`], [`lifecycle`], and what many use: [`backoff`], [`causes`], [`clock`], [`http_client`],
//!   [`read_file`], [`secret`], [`tls`], [`write_file`].

pub mod app;
pub mod authn;
pub mod authz;
pub mod backoff;
pub mod causes;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod domain;
pub mod embedded;
pub mod emqx;
pub mod fleet;
pub mod http;
pub mod http_client;
pub mod ingest;
pub mod kickouts;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod presence;
pub mod provision;
pub mod read_file;
pub mod registry;
pub mod remote;
pub mod requests;
pub mod secret;
pub mod sweep;
pub mod tls;
pub mod wording;
pub mod work;
pub mod write_file;
