//! What fleets of any size need, by multiplication: the formulas of `docs/SCALE.md`.

use std::time::Duration;

use crate::measured::{CONNECT, DISK, EVENT, MEASURED, MEMORY, NAMES, REPORT};
use crate::simulation::Costs;
use crate::table::{rate, show};

/// Share of a processor that is planned with. Queues grow without bound towards 1.
const BUSY: f64 = 0.7;

const FLEETS: [f64; 3] = [1e4, 1e6, 1e8];

/// Fleetgate without a device in memory, in bytes.
const EMPTY: f64 = 40.0 * MIB;
const MIB: f64 = 1_048_576.0;

/// A device reports once a minute and loses its connection once a day.
const REPORTS_A_SECOND: f64 = 1.0 / 60.0;
const SESSIONS_A_SECOND: f64 = 1.0 / 86_400.0;

/// Rows that a connect writes (session, online flag, last seen), and a report (last known values).
const ROWS_OF_CONNECT: f64 = 3.0;
const ROWS_OF_REPORT: f64 = 1.0;

/// Everybody logs in once, nothing is in memory; each login makes a connect event and a first report.
pub(crate) fn reconnect() {
    let Costs { broker, decision, record, secret, query, row, .. } = MEASURED;
    let mut rows = Vec::new();
    for devices in FLEETS {
        for seconds in [300.0, 60.0] {
            let logins = devices / seconds;
            let load = row + query.div_f64(NAMES);
            rows.push(vec![
                rate(devices),
                format!("{seconds} s"),
                rate(logins),
                rate(2.0 * logins),
                rate(logins * (ROWS_OF_CONNECT + ROWS_OF_REPORT)),
                cores(logins, decision + record + secret + 2 * EVENT),
                cores(logins, load + CONNECT + REPORT),
                cores(logins, broker),
            ]);
        }
    }
    let heads =
        ["devices", "within", "logins/s", "events/s", "rows/s", "Fleetgate", "PostgreSQL", "EMQX"];
    show("Everybody reconnects; cores", &heads, rows);
}

/// The rest of the time.
pub(crate) fn every_day() {
    let rows = FLEETS.map(|devices| {
        let (reports, sessions) = (devices * REPORTS_A_SECOND, devices * SESSIONS_A_SECOND);
        let connects = 2.0 * sessions;
        let total = |report: Duration, connect: Duration| {
            let busy = reports * report.as_secs_f64() + connects * connect.as_secs_f64();
            format!("{:.2}", busy / BUSY)
        };
        vec![
            rate(devices),
            rate(reports + connects),
            rate(reports * ROWS_OF_REPORT + connects * ROWS_OF_CONNECT),
            total(EVENT, EVENT),
            total(REPORT, CONNECT),
            format!("{:.0} MiB", (EMPTY + devices * MEMORY) / MIB),
            format!("{:.2} GB", devices * DISK / 1e9),
        ]
    });
    let heads = [
        "devices",
        "events/s",
        "rows/s",
        "Fleetgate cores",
        "PostgreSQL cores",
        "memory of a replica",
        "disk",
    ];
    show("A report a minute and a session a day from each device", &heads, rows.to_vec());
}

fn cores(per_second: f64, cost: Duration) -> String {
    format!("{:.2}", per_second * cost.as_secs_f64() / BUSY)
}
