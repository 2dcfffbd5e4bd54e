//! How long a device that was disabled is still let through, with both replicas under full load.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::GENERATED;
use crate::plan::{Length, Traffic};
use crate::support::connection::Connection;
use crate::support::fleetgate::Fleetgate;
use crate::support::registry::connect;
use crate::support::requests::{ACTIONS, authorization, device_name};
use crate::table::{Bar, Row};
use crate::turns::{POOL, load};

/// How often a device is disabled and enabled again.
const CHANGES: u32 = 200;

/// Longer than all changes take.
const LOAD: Duration = Duration::from_secs(30);

/// Devices that nobody else asks about.
const CHANGED: std::ops::Range<u32> = 900..GENERATED.end;

pub(super) async fn two_replicas(url: &str) -> Row {
    let replicas = [Fleetgate::start(url, &[]).await, Fleetgate::start(url, &[]).await];
    let actions = Traffic::Actions(0..CHANGED.start);
    let loads = async {
        let [a, b] = &replicas;
        let half = POOL / 2;
        let length = Length::Time(LOAD);
        tokio::join!(load(a, half, &actions, length), load(b, half, &actions, length))
    };
    let changes = changes(url, &replicas);
    let mut times = tokio::select! {
        times = changes => times,
        _ = loads => panic!("{CHANGES} changes took longer than {LOAD:?}"),
    };
    times.sort();
    let p99 = times[times.len() * 99 / 100].as_secs_f64() * 1e3;
    Row::figure("change → refused by both replicas", p99, "ms, p99", Bar::AtMost(100.0))
        .quantiles(&times)
}

async fn changes(url: &str, replicas: &[Fleetgate; 2]) -> Vec<Duration> {
    let client = connect(url).await;
    let [mut a, mut b] = [open(&replicas[0]).await, open(&replicas[1]).await];
    let mut times = Vec::new();
    for number in CHANGED.cycle().take(CHANGES as usize) {
        let device = device_name(number);
        let question = authorization(&device, ACTIONS[0]);
        tokio::join!(until(&mut a, &question, "allow"), until(&mut b, &question, "allow"));
        enable(&client, &device, false).await;
        let committed = Instant::now();
        tokio::join!(until(&mut a, &question, "deny"), until(&mut b, &question, "deny"));
        times.push(committed.elapsed());
        enable(&client, &device, true).await;
    }
    times
}

async fn open(replica: &Fleetgate) -> Connection {
    Connection::open(replica.address()).await.expect("fleetgate listens")
}

async fn enable(client: &Client, device: &str, enabled: bool) {
    let changed = "UPDATE devices SET enabled = $2 WHERE name = $1";
    assert_eq!(client.execute(changed, &[&device, &enabled]).await.expect("an update"), 1);
}

/// Asks again and again until this is the answer.
async fn until(connection: &mut Connection, question: &[u8], result: &str) {
    let wanted = format!(r#"{{"result":"{result}"}}"#);
    while connection.exchange(question).await.expect("an answer").body != wanted.as_bytes() {}
}
