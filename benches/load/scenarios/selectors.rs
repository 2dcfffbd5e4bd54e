//! How long it takes to find the devices that a selector means, among 100,000, warm.

use std::time::{Duration, Instant};

use fleetgate::domain::selector::Selector;
use fleetgate::registry::selector::{Condition, values};
use tokio_postgres::Client;

use crate::support::registry::connect;
use crate::table::{Bar, Row};

pub(super) const DEVICES: u32 = 100_000;
const TURNS: usize = 20;

/// A tenth has the capability, a hundredth of all is in the area `lab`, every device has a firmware and a temperature.
const FILL: &str = "
    INSERT INTO capabilities (name) VALUES ('switch'), ('temperature');
    SET session_replication_role = replica;
    INSERT INTO device_capabilities SELECT id, 'temperature' FROM devices;
    INSERT INTO device_capabilities SELECT id, 'switch' FROM devices WHERE id % 10 = 0;
    UPDATE devices SET area = 'area-' || id / 10 % 100, meta = jsonb_build_object('fw', '1.' || id / 10 % 20, 'rack', id);
    INSERT INTO device_state (device_id, last_seen, state)
    SELECT id, now(), jsonb_build_object('temperature', jsonb_build_object('value', id % 40 + 0.5, 'at', 1, 'id', '0A'))
    FROM devices;
    SET session_replication_role = origin";

pub(super) async fn found(url: &str) -> Vec<Row> {
    let client = connect(url).await;
    client.batch_execute(FILL).await.expect("a fleet");
    client.batch_execute("VACUUM ANALYZE").await.expect("statistics");
    let narrow = "capability=switch,area=area-7,meta/fw=\"1.7\"";
    let wide = "capability=temperature,state/temperature>39";
    vec![
        median(&client, narrow, "selector: capability, area and meta", 20.0).await,
        median(&client, wide, "selector: a state, 100,000 candidates", 300.0).await,
    ]
}

async fn median(client: &Client, selector: &str, scenario: &str, at_most: f64) -> Row {
    let selector: Selector = selector.parse().expect("a selector");
    let condition = Condition::of(&selector, 0);
    let statement = format!(
        "SELECT device.id, device.name FROM devices AS device
         LEFT JOIN device_state AS heard ON heard.device_id = device.id
         WHERE {} ORDER BY device.name",
        condition.sql()
    );
    let values = values(&[], [&condition]);
    let mut times: Vec<Duration> = Vec::new();
    let mut matches = 0;
    for _ in 0..=TURNS {
        let began = Instant::now();
        matches = client.query(&statement, &values).await.expect("devices").len();
        times.push(began.elapsed());
    }
    // The first one warms it up.
    times.remove(0);
    times.sort();
    assert!(matches > 0, "{scenario} finds some");
    let median = times[times.len() / 2].as_secs_f64() * 1e3;
    Row::figure(
        &format!("{scenario} ({matches} match)"),
        median,
        "ms, median",
        Bar::AtMost(at_most),
    )
    .quantiles(&times)
}
