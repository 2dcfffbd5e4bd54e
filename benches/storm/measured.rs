//! What steps cost, as `cargo bench --bench storm -- real` measured it.

use std::time::Duration;

use crate::simulation::Costs;

/// The figures in `docs/SCALE.md`, which says of which commit and machine they are.
pub(crate) const MEASURED: Costs = Costs {
    // EMQX 5.8.9: 2,800 to 3,400 logins/s on two cores, client and constant HTTP server included.
    broker: Duration::from_micros(600),
    decision: Duration::from_micros(48),
    record: Duration::from_micros(26),
    query: Duration::from_micros(155),
    row: Duration::from_micros(6),
    // 17 ms in a loop, 21 to 28 ms between other work; higher here, because then nothing else counts.
    hash: Duration::from_millis(30),
    // Within a data centre.
    way: Duration::from_micros(250),
};

/// Names that a query then loaded together, over 32 connections always busy.
pub(crate) const NAMES: f64 = 4.5;

/// Fleetgate, for an event of either kind.
pub(crate) const EVENT: Duration = Duration::from_micros(32);

/// PostgreSQL, for the event of a connect and of a report.
pub(crate) const CONNECT: Duration = Duration::from_micros(80);
pub(crate) const REPORT: Duration = Duration::from_micros(45);

/// Fleetgate's memory for each device in use, and PostgreSQL's room on disk for each device; in bytes.
pub(crate) const MEMORY: f64 = 831.0;
pub(crate) const DISK: f64 = 1400.0;
