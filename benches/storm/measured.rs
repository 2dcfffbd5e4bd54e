//! What steps cost, as `cargo bench --bench storm -- real` measured it.

use std::time::Duration;

use crate::simulation::Costs;

/// The figures in `docs/SCALE.md`, which says of which commit and machine they are.
pub(crate) const MEASURED: Costs = Costs {
    // EMQX 5.8.9: 2,800 to 3,400 logins/s on two cores, client and constant HTTP server included.
    broker: Duration::from_micros(600),
    decision: Duration::from_micros(45),
    record: Duration::from_micros(25),
    query: Duration::from_micros(90),
    row: Duration::from_micros(25),
    hash: Duration::from_millis(30),
    // Within a data centre.
    way: Duration::from_micros(250),
};
