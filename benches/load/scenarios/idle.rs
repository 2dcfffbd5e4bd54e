//! A service that nobody asks anything.

use std::time::Duration;

use crate::support::fleetgate::Fleetgate;
use crate::support::process::cpu_time;
use crate::table::{Bar, Row};
use crate::turns::resident_mib;

const WATCHED: Duration = Duration::from_secs(20);

pub(super) async fn service(url: &str) -> [Row; 2] {
    let service = Fleetgate::start(url, &[]).await;
    let before = cpu_time(service.pid());
    tokio::time::sleep(WATCHED).await;
    let used = cpu_time(service.pid()).saturating_sub(before);
    let share = 100.0 * used.as_secs_f64() / WATCHED.as_secs_f64();
    [
        Row::figure("idle: memory", resident_mib(&service), "MiB resident", Bar::AtMost(40.0)),
        Row::figure("idle: processor", share, "% of a core", Bar::AtMost(0.5)),
    ]
}
