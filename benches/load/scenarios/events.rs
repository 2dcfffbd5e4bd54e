//! Events, answered after COMMIT, against a client that writes the same batches and does nothing else.

use std::sync::atomic::{AtomicI64, Ordering};

use fleetgate::clock::Clock;

use super::GENERATED;
use crate::bare;
use crate::plan::{Length, Traffic};
use crate::support::fleetgate::Fleetgate;
use crate::table::{Bar, Row};
use crate::turns::{Compared, TURN, TURNS, in_turn, load};

/// Batches that are written side by side, as Fleetgate does (`ingest.writers`).
const WRITERS: usize = 2;

/// Each run's moments begin this many ms after those of the run before.
const APART_MS: i64 = 60_000;

pub(super) async fn durable(url: &str) -> Vec<Row> {
    let began = Clock::System.now_micros() / 1000 - 24 * 3_600_000;
    let since = AtomicI64::new(began);
    let mut rows = Vec::new();
    for connections in [256, 32] {
        let compared = compared(url, connections, &since).await;
        let name = format!("events, {connections} connections, durable");
        let row = Row::figure(&name, compared.ratio, "of a bare client", Bar::AtLeast(0.5));
        rows.push(row.run(&compared.ours).against("bare client", &compared.other));
    }
    rows
}

async fn compared(url: &str, connections: usize, since: &AtomicI64) -> Compared {
    let service = Fleetgate::start(url, &[]).await;
    let next = || since.fetch_add(APART_MS, Ordering::Relaxed);
    let events = |since_ms| Traffic::Events { devices: GENERATED, since_ms };
    load(&service, connections, &events(next()), Length::Time(TURN)).await;
    in_turn(
        TURNS,
        async |_| load(&service, connections, &events(next()), Length::Time(TURN)).await,
        async |_| {
            let batch = connections / WRITERS;
            bare::events(url, WRITERS, batch, GENERATED.end, next(), TURN).await
        },
    )
    .await
}
