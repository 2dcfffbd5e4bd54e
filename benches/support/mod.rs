//! What the benchmarks stand on: a private PostgreSQL with a registry, Fleetgate as a process of its
//! own, a connection as EMQX opens them, and what a process uses.
#![allow(dead_code, reason = "each benchmark uses its part")]

pub(crate) mod connection;
pub(crate) mod fleetgate;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod requests;
