//! Every integration test is part of this one program, so that they share one PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod cache;
mod changes;
mod cli;
mod dev;
mod doctor;
mod embedded;
mod faults;
mod logins;
mod recorded;
mod requests;
mod schema;
mod support;
mod tables;
mod token;
