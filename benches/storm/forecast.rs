//! What storms of any size need, by simulation.

use std::time::Duration;

use crate::measured::MEASURED;
use crate::simulation::{Machines, Replica, Report, Retry, Storm, run};
use crate::table::{rate, show, time};

/// Every login is to be answered within this time: EMQX's `request_timeout`.
const LIMIT: Duration = Duration::from_secs(5);

const POOLS: [u32; 7] = [2, 4, 8, 16, 32, 64, 128];
const REPLICAS: [u32; 9] = [1, 2, 3, 4, 6, 8, 12, 16, 24];

/// Logins a second that one EMQX node is given: its processors are then busy for two thirds.
const LOGINS_OF_A_NODE: f64 = 9_000.0;

/// 100,000 clients within a minute over one EMQX node; small machines, nothing cached.
pub(crate) fn usual() -> Storm {
    Storm {
        clients: 100_000,
        chosen: 0,
        window: Duration::from_secs(60),
        retry: Some(Retry { first: Duration::from_secs(1), longest: Duration::from_secs(60) }),
        nodes: 1,
        pool: 32,
        timeout: LIMIT,
        replicas: 1,
        replica: Replica::with_cores(2),
        warm: false,
        machines: Machines::Apart { node: 8, replica: 2, database: 4 },
        costs: MEASURED,
        seed: 20_261_122,
    }
}

/// The storm of the command line.
pub(crate) fn one(storm: &Storm) {
    println!("\n{storm:#?}");
    show("This storm", &HEADS, vec![row(storm, &run(storm))]);
}

const HEADS: [&str; 13] = [
    "clients",
    "within",
    "nodes",
    "pool",
    "replicas",
    "logins/s",
    "p50",
    "p99",
    "longest",
    "timed out",
    "503",
    "over after",
    "all at once, < 5 s",
];

fn row(storm: &Storm, report: &Report) -> Vec<String> {
    let every = report.every_login_within(LIMIT);
    vec![
        storm.clients.to_string(),
        time(storm.window),
        storm.nodes.to_string(),
        storm.pool.to_string(),
        storm.replicas.to_string(),
        rate(report.logins_per_second()),
        time(report.latency(500)),
        time(report.latency(990)),
        time(report.latency(1000)),
        report.timed_out.to_string(),
        report.refused.to_string(),
        time(report.over_after()),
        if every { "yes" } else { "no" }.to_owned(),
    ]
}

/// A storm that is hard on one replica: pool sizes against replicas.
pub(crate) fn pools(storm: &Storm) {
    let storm = Storm { clients: 200_000, window: Duration::from_secs(5), ..storm.clone() };
    let storm = Storm { nodes: nodes(&storm), ..storm };
    let mut rows = Vec::new();
    for pool in [2, 8, 32, 128] {
        for replicas in [1, 2, 4] {
            let storm = Storm { pool, replicas, ..storm.clone() };
            rows.push(row(&storm, &run(&storm)));
        }
    }
    show("Pool size and replicas (generated secrets, nothing cached)", &HEADS, rows);
}

/// EMQX nodes that such a storm needs for its own work.
fn nodes(storm: &Storm) -> u32 {
    let rate = f64::from(storm.clients) / storm.window.as_secs_f64();
    (1..).find(|nodes| f64::from(*nodes) * LOGINS_OF_A_NODE >= rate).unwrap_or(1)
}

/// The fewest replicas, and with them the smallest pool, that let everybody in at once and in time.
pub(crate) fn smallest(storm: &Storm) {
    let mut rows = Vec::new();
    for clients in [10_000, 100_000, 1_000_000] {
        for seconds in [1, 10, 60, 300].into_iter().filter(|seconds| clients / seconds <= 100_000) {
            let window = Duration::from_secs(seconds.into());
            let storm = Storm { clients, window, ..storm.clone() };
            let storm = Storm { nodes: nodes(&storm), ..storm };
            rows.extend(smallest_for(&storm).map(|storm| row(&storm, &run(&storm))));
        }
    }
    show("The smallest that keeps every login under 5 s (nothing cached)", &HEADS, rows);
}

/// Nobody tries again here: whoever has to has already shown that it is not enough.
fn smallest_for(storm: &Storm) -> Option<Storm> {
    let storm = &Storm { retry: None, ..storm.clone() };
    let suffices = |storm: &Storm| run(storm).every_login_within(LIMIT);
    let pool = *POOLS.last()?;
    let replicas = |replicas: u32| Storm { pool, replicas, ..storm.clone() };
    let replicas = first(&REPLICAS, |count| suffices(&replicas(count)))?;
    let pooled = |pool: u32| Storm { pool, replicas, ..storm.clone() };
    let pool = first(&POOLS, |pool| suffices(&pooled(pool)))?;
    Some(pooled(pool))
}

/// The first that will do, of what gets better from one to the next.
fn first(options: &[u32], will_do: impl Fn(u32) -> bool) -> Option<u32> {
    options.get(options.partition_point(|option| !will_do(*option))).copied()
}

/// Everybody has a chosen password: processors alone help.
pub(crate) fn passwords(storm: &Storm) {
    let storm = Storm { clients: 10_000, chosen: 10_000, ..storm.clone() };
    let mut rows = Vec::new();
    for (seconds, replicas) in [(60, 1), (60, 2), (60, 3), (60, 4), (300, 1), (300, 2)] {
        let window = Duration::from_secs(seconds);
        let storm = Storm { window, replicas, ..storm.clone() };
        rows.push(row(&storm, &run(&storm)));
    }
    let storm = Storm { window: Duration::from_secs(60), replicas: 3, ..storm };
    for pool in [8, 64, 128] {
        let storm = Storm { pool, ..storm.clone() };
        rows.push(row(&storm, &run(&storm)));
    }
    show("Chosen passwords, none seen before (one hash thread on each replica)", &HEADS, rows);
}
