//! Every integration test is part of this one program, so that they share one PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod answers;
mod api;
mod api_bulk;
mod api_events;
mod api_fleet;
mod api_selector;
mod apply;
mod asked_over_mqtt;
mod audit;
mod cache;
mod capabilities;
mod certificates;
mod changes;
mod cli;
mod clocks;
mod commands;
mod connections;
mod database_errors;
mod database_tls;
mod dev;
mod doctor;
mod doctor_emqx;
mod embedded;
mod ended_sessions;
mod entitled;
mod events;
mod failover;
mod faults;
mod fleet;
mod gateways;
mod health;
mod imported;
mod imports;
mod kick_outs;
mod load;
mod locks;
mod log_lines;
mod logins;
mod merges;
mod monitoring;
mod moving_in;
mod outages;
mod pooler;
mod presence;
mod recorded;
mod remote;
mod replay;
mod requests;
mod reserved;
mod revocation;
mod roles;
mod rules;
mod schema;
mod secrets;
mod selectors;
mod shared_topics;
mod start;
mod state;
mod strangers;
mod support;
mod sweeps;
mod token;
mod upgrade;
mod work;
