//! What events and devices cost beside logins: processor time, and room on PostgreSQL's disk.

use std::time::Duration;

use fleetgate::clock::Clock;
use tokio_postgres::Client;

use crate::costs::database_time;
use crate::generator::closed_loop;
use crate::support::fleetgate::Fleetgate;
use crate::support::process::cpu_time;
use crate::support::registry::connect;
use crate::support::requests::{device_name, post, state_topic};
use crate::table::{micros, show};

/// Connections over which events come, each with one under way: a transaction has so many at most.
const CONNECTIONS: u32 = 256;

/// Each kind of event comes so often for each device.
const ROUNDS: i64 = 3;

/// Measures with the first `devices` of a database, and prints what it found.
pub(crate) async fn measure(url: &str, devices: u32) {
    let service = Fleetgate::start(url, &[]).await;
    let database = connect(url).await;
    let began = Clock::System.now_micros() / 1000 - 3_600_000;
    let mut rows = Vec::new();
    for (name, event) in [("connect", connected as Event), ("report", reported as Event)] {
        // The first round makes the rows, and loads the devices.
        send(&service, devices, began, event).await;
        let before = used(&service, &database).await;
        for round in 1..=ROUNDS {
            send(&service, devices, began + round * 60_000, event).await;
        }
        let after = used(&service, &database).await;
        let events = devices * u32::try_from(ROUNDS).expect("a few");
        let each = |after: Duration, before| micros(after.saturating_sub(before) / events);
        rows.push(vec![name.into(), each(after.0, before.0), each(after.1, before.1)]);
    }
    show("Events, 256 at a time", &["event", "Fleetgate", "PostgreSQL"], rows);
    println!("\nOn disk for each device: {} bytes", on_disk(&database, devices).await);
}

/// An event of a device at a moment, in ms since 1970.
type Event = fn(u32, i64) -> String;

fn connected(client: u32, at_ms: i64) -> String {
    let name = device_name(client);
    format!(
        r#"{{"event":"client.connected","clientid":"{name}","username":"{name}","connected_at":{at_ms}}}"#
    )
}

fn reported(client: u32, at_ms: i64) -> String {
    let (name, topic) = (device_name(client), state_topic(&device_name(client)));
    format!(
        r#"{{"event":"message.publish","id":"{at_ms}","clientid":"{name}","username":"{name}","topic":"{topic}","publish_received_at":{at_ms},"payload_base64":"MjEuNQ=="}}"#
    )
}

async fn send(service: &Fleetgate, devices: u32, at_ms: i64, event: Event) {
    let request = move |client| post("/emqx/events", &event(client, at_ms));
    closed_loop(service.address(), devices, CONNECTIONS, request).await;
}

async fn used(service: &Fleetgate, database: &Client) -> (Duration, Duration) {
    (cpu_time(service.pid()), database_time(database).await)
}

/// Tables and indexes, one credential, one binding, a session and a value for each device.
async fn on_disk(database: &Client, devices: u32) -> i64 {
    let sizes = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
                 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let row = database.query_one(sizes, &[]).await.expect("the sizes");
    row.get::<_, i64>(0) / i64::from(devices)
}
