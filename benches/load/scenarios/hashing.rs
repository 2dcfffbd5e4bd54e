//! Slow password checks must not slow decisions down.

use super::{CHOSEN, GENERATED};
use crate::plan::{Length, Traffic};
use crate::support::fleetgate::Fleetgate;
use crate::table::{Bar, Row};
use crate::turns::{POOL, TURN, TURNS, load, median_by};

/// One more than are checked or wait at most (`hashing.queue`).
const LOGINS: usize = 65;

pub(super) async fn full_queue(url: &str) -> Row {
    // Limits would refuse most of these logins without a hash, and no device could keep the line full.
    let settings = [
        ("FLEETGATE_HASHING_THREADS", "1"),
        ("FLEETGATE_HASHING_QUEUE", "64"),
        ("FLEETGATE_LOGINS_LIMITS", "false"),
    ];
    let service = Fleetgate::start(url, &settings).await;
    let actions = Traffic::Actions(GENERATED);
    load(&service, POOL, &actions, Length::Once).await;
    let mut pairs = Vec::new();
    for _ in 0..TURNS {
        let alone = load(&service, POOL, &actions, Length::Time(TURN)).await;
        // The logins begin before and end after what is measured.
        let (beside, _) = tokio::join!(
            load(&service, POOL, &actions, Length::Time(TURN)),
            load(&service, LOGINS, &Traffic::WrongLogins(CHOSEN), Length::Time(TURN)),
        );
        pairs.push((alone, beside));
    }
    let (alone, beside) = median_by(pairs, |(alone, beside)| {
        beside.report.p99.as_secs_f64() / alone.report.p99.as_secs_f64()
    });
    let ratio = beside.report.p99.as_secs_f64() / alone.report.p99.as_secs_f64();
    Row::figure("authz while hashes queue", ratio, "× its p99 alone", Bar::AtMost(5.0))
        .run(&beside)
        .against("alone", &alone)
}
