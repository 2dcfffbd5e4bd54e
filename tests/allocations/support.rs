//! What the integration tests start a service with, as far as it is needed here.

#![allow(dead_code, reason = "the integration tests use all of it")]

#[path = "../integration/support/app.rs"]
pub(crate) mod app;
#[path = "../integration/support/fleet.rs"]
pub(crate) mod fleet;
#[path = "../integration/support/postgres.rs"]
pub(crate) mod postgres;
#[path = "../integration/support/wire.rs"]
pub(crate) mod wire;
