//! What several tests need.

pub(crate) mod api;
pub(crate) mod app;
pub(crate) mod bus;
pub(crate) mod cluster;
pub(crate) mod commands;
pub(crate) mod database;
pub(crate) mod fake_emqx;
pub(crate) mod fake_emqx_config;
pub(crate) mod fleet;
pub(crate) mod handshake;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod selector_model;
pub(crate) mod serve;
pub(crate) mod wire;
