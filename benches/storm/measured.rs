//! What steps cost, as `cargo bench --bench storm -- real` measured it.

use std::time::Duration;

use crate::simulation::Costs;

/// The figures in `docs/SCALE.md`, which says of which commit and machine they are.
pub(crate) const MEASURED: Costs = Costs {
    // EMQX 5.8.9: 2,800 to 3,400 logins/s on two cores, client and constant HTTP server included.
    broker: Duration::from_micros(600),
    decision: Duration::from_micros(16),
    record: Duration::from_micros(22),
    secret: Duration::from_micros(14),
    query: Duration::from_micros(102),
    row: Duration::from_micros(5),
    hash: Duration::from_millis(18),
    wake: Duration::from_micros(18),
    // Within a data centre.
    way: Duration::from_micros(250),
    used: 0.83,
};

/// Names that a query then loaded together, over 32 connections always busy.
pub(crate) const NAMES: f64 = 5.1;

/// Fleetgate, for an event of either kind.
pub(crate) const EVENT: Duration = Duration::from_micros(32);

/// PostgreSQL, for the event of a connect and of a report.
pub(crate) const CONNECT: Duration = Duration::from_micros(35);
pub(crate) const REPORT: Duration = Duration::from_micros(21);

/// Fleetgate's memory for each device in use, and PostgreSQL's room on disk for each device; in bytes.
pub(crate) const MEMORY: f64 = 888.0;
pub(crate) const DISK: f64 = 1213.0;
