//! A million devices, a tenth of them active.

use super::GENERATED;
use crate::plan::{Length, Traffic};
use crate::support::fleetgate::Fleetgate;
use crate::table::{Bar, Row};
use crate::turns::{POOL, TURN, TURNS, in_turn, load, resident_mib};

pub(super) const DEVICES: u32 = 1_000_000;
const ACTIVE: u32 = 100_000;

/// 100 MiB and 600 bytes for each active device.
const MOST_MIB: f64 = 100.0 + 600.0 * 100_000.0 / (1024.0 * 1024.0);

pub(super) async fn registry(small_url: &str, large_url: &str) -> Vec<Row> {
    let large = Fleetgate::start(large_url, &[]).await;
    let ready = large.ready_after.as_secs_f64();
    load(&large, POOL, &Traffic::Logins(0..ACTIVE), Length::Once).await;
    let small = Fleetgate::start(small_url, &[]).await;
    load(&small, POOL, &Traffic::Actions(GENERATED), Length::Once).await;
    let turn = Length::Time(TURN);
    let compared = in_turn(
        TURNS,
        async |_| load(&large, POOL, &Traffic::Actions(0..ACTIVE), turn).await,
        async |_| load(&small, POOL, &Traffic::Actions(GENERATED), turn).await,
    )
    .await;
    let resident = resident_mib(&large);
    let of = |what: &str| format!("1,000,000 devices, 100,000 active: {what}");
    vec![
        Row::figure(&of("authz"), compared.ratio, "of the small registry", Bar::AtLeast(0.9))
            .run(&compared.ours)
            .against("small registry", &compared.other),
        Row::figure(&of("memory"), resident, "MiB resident", Bar::AtMost(MOST_MIB.round())),
        Row::figure(&of("start to ready"), ready, "s", Bar::AtMost(2.0)),
    ]
}
