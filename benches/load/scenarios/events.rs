//! Events, answered after COMMIT, against a client that writes the same batches and does nothing else.

use std::sync::atomic::{AtomicI64, Ordering};

use fleetgate::clock::Clock;

use super::GENERATED;
use crate::bare;
use crate::plan::{Length, Traffic};
use crate::support::fleetgate::Fleetgate;
use crate::support::registry::connect;
use crate::table::{Bar, Row};
use crate::turns::{TURN, TURNS, in_turn, load, load_and_watch};

/// The bare clients, and what Fleetgate must reach: one is the measure, two show what PostgreSQL does
/// with both processors to itself. Their batches hold as many events as Fleetgate has callers.
const BARE: [(usize, &str, Option<Bar>); 2] =
    [(1, "of a bare client", Some(Bar::AtLeast(0.5))), (2, "of two bare clients", None)];

/// The timestamps of each run begin this many ms after those of the run before.
const APART_MS: i64 = 60_000;

pub(super) async fn durable(url: &str) -> Vec<Row> {
    let began = Clock::System.now().as_millisecond() - 24 * 3_600_000;
    let since = AtomicI64::new(began);
    let mut rows = Vec::new();
    let database = connect(url).await;
    for connections in [256, 32] {
        let service = Fleetgate::start(url, &[]).await;
        let (name, length) = (format!("events, {connections} connections"), Length::Time(TURN));
        load(&service, connections, &events(&since), length).await;
        for (clients, unit, bar) in BARE {
            let batch = connections / clients;
            let compared = in_turn(
                TURNS,
                async |_| {
                    load_and_watch(&service, &database, connections, &events(&since), length).await
                },
                async |_| {
                    bare::events(url, clients, batch, GENERATED.end, next(&since), TURN).await
                },
            )
            .await;
            let row = Row::figure(&name, compared.ratio, unit, bar);
            rows.push(row.run(&compared.ours).against("bare", &compared.other));
        }
    }
    rows
}

fn events(since: &AtomicI64) -> Traffic {
    Traffic::Events { devices: GENERATED, since_ms: next(since) }
}

fn next(since: &AtomicI64) -> i64 {
    since.fetch_add(APART_MS, Ordering::Relaxed)
}
