//! Event streams: what those who watch the fleet over the HTTP API are told.

use std::time::Duration;

use fleetgate::domain::api_token::Scope;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::api::{ApiClient, make_token, make_token_for, start_api};
use crate::support::app::{TestApp, config, eventually};
use crate::support::bus::{connected, message, now};
use crate::support::wire::Connection;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(20);

/// An open stream.
struct Events {
    connection: Connection,
    received: String,
}

impl Events {
    /// Opens a stream and takes the `reload` that it begins with.
    async fn open(client: &ApiClient) -> Self {
        let mut connection = Connection::open(client.address).await;
        connection.send(&client.request("GET", "/events", &[], "")).await;
        let head = connection.head().await.unwrap();
        assert_eq!(head.status, 200);
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(head.header(name), Some(value));
        }
        let mut events = Self { connection, received: String::new() };
        assert_eq!(events.next().await, Some(("reload".to_owned(), json!({}))));
        events
    }

    /// The next event; `None`: the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            while let Some((block, rest)) = self.received.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.received = rest;
                if let Some((event, data)) = block.split_once("\ndata: ") {
                    let event = event.strip_prefix("event: ").unwrap().to_owned();
                    return Some((event, serde_json::from_str(data).unwrap()));
                }
            }
            let piece = timeout(LONG, self.connection.piece()).await.expect("nothing came");
            self.received += &piece??;
        }
    }

    /// Waits for an event. Others may come before it.
    async fn until(&mut self, event: &str, data: Value) -> Vec<(String, Value)> {
        let wanted = (event.to_owned(), data);
        let mut before = Vec::new();
        loop {
            let next = self.next().await;
            let next =
                next.unwrap_or_else(|| panic!("the stream ended before {wanted:?}: {before:?}"));
            if next == wanted {
                return before;
            }
            before.push(next);
        }
    }
}

/// The bodies of a recorded scenario's events.
fn recorded(scenario: &str) -> Vec<String> {
    let lines = std::fs::read_to_string("tests/recorded/events.jsonl").unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let some = lines.filter(|line| line["scenario"] == scenario);
    some.map(|line| line["body"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn streams_of_every_replica_tell_of_what_devices_do() {
    let (first, root, fleet, database) = start_api().await;
    fleet.device("relay-1").await.device("thermo-1").await;
    fleet.bind("thermo-1", "main", Some("floor2/lab/temp"), None).await;
    let mut settings = config(&database.url);
    settings.api.listen = Some(([127, 0, 0, 1], 0).into());
    let second = TestApp::start(settings).await;
    second.ready().await;
    let elsewhere = ApiClient { address: second.api_address.unwrap(), token: root.token.clone() };
    let mut streams = [Events::open(&root).await, Events::open(&elsewhere).await];
    let comes_and_goes = recorded("disconnect_normal");
    assert_eq!(comes_and_goes.len(), 2);
    for (body, online) in comes_and_goes.iter().zip([true, false]) {
        assert_eq!(first.post("/emqx/events", body).await.status, 204);
        for stream in &mut streams {
            stream.until("presence", json!({"device": "relay-1", "online": online})).await;
        }
    }
    // A connect and a report, one to each replica.
    for (body, app) in recorded("message_json").iter().zip([&first, &second]) {
        assert_eq!(app.post("/emqx/events", body).await.status, 204);
    }
    for stream in &mut streams {
        stream.until("state", json!({"device": "thermo-1"})).await;
    }
    let state = elsewhere.get("/devices/thermo-1/state").await.json();
    assert_eq!(state["state"]["main"]["value"], json!({"celsius": 21.5, "ok": true}), "{state}");
}

#[tokio::test]
async fn a_stream_tells_what_administrators_change_by_whatever_way() {
    let (_app, root, fleet, _database) = start_api().await;
    for name in ["area", "meta", "capability", "enabled"] {
        fleet.device(name).await;
    }
    fleet.batch("INSERT INTO capabilities (name) VALUES ('switch')").await;
    let mut events = Events::open(&root).await;
    let changed = |name: &str, exists: bool| json!({"device": name, "exists": exists});
    assert_eq!(root.put("/devices/plug", &json!({"kind": "plug"})).await.status, 201);
    // Whatever was told of the others' beginning came before.
    events.until("device", changed("plug", true)).await;
    assert_eq!(root.patch("/devices/area", &json!({"area": "lab"})).await.status, 200);
    events.until("device", changed("area", true)).await;
    for (name, change) in [
        ("meta", "UPDATE devices SET meta = '{\"room\": 1}' WHERE name = 'meta'"),
        (
            "capability",
            "INSERT INTO device_capabilities (device_id, capability)
             SELECT id, 'switch' FROM devices WHERE name = 'capability'",
        ),
        ("enabled", "UPDATE devices SET enabled = false WHERE name = 'enabled'"),
    ] {
        fleet.sql(change, &[]).await;
        events.until("device", changed(name, true)).await;
    }
    fleet.sql("UPDATE devices SET name = 'socket' WHERE name = 'plug'", &[]).await;
    events.until("device", changed("plug", false)).await;
    assert_eq!(root.delete("/devices/socket").await.status, 204);
    events.until("device", changed("socket", false)).await;
    // What nobody can be told one by one.
    fleet
        .batch("INSERT INTO devices (name, kind) SELECT 'd' || n, 'x' FROM generate_series(1, 3000) AS n")
        .await;
    events.until("reload", json!({})).await;
}

#[tokio::test]
async fn what_a_replica_that_died_did_not_tell_is_looked_at() {
    let (_app, root, fleet, _database) = start_api().await;
    let mut events = Events::open(&root).await;
    // Whatever the start told is over.
    assert_eq!(root.put("/devices/plug", &json!({"kind": "plug"})).await.status, 201);
    events.until("device", json!({"device": "plug", "exists": true})).await;
    let dead = "INSERT INTO replicas (id, started_at, noted_at, listening, bound)
        VALUES ('dead', now() - interval '1 hour', now() - interval '1 hour', false, '20 s')";
    fleet.sql(dead, &[]).await;
    eventually("it is forgotten", || async {
        fleet.value::<i64>("SELECT count(*) FROM replicas WHERE id = 'dead'").await == 0
    })
    .await;
    events.until("reload", json!({})).await;
}

#[tokio::test]
async fn a_gateway_s_presence_is_told_of_those_behind_it() {
    let (app, root, fleet, _database) = start_api().await;
    fleet.device("bridge").await.device("lamp").await;
    fleet
        .batch(
            "UPDATE devices SET gateway = (SELECT id FROM devices WHERE name = 'bridge'),
                availability_topic = 'lamp/there' WHERE name = 'lamp'",
        )
        .await;
    let mut events = Events::open(&root).await;
    let at = now();
    assert_eq!(app.event(&connected("bridge", "bridge", at)).await.status, 204);
    let before = events.until("presence", json!({"device": "lamp", "online": true})).await;
    assert!(before.contains(&("presence".to_owned(), json!({"device": "bridge", "online": true}))));
    let offline = message("bridge", "lamp/there", at + 1, "01", "offline");
    assert_eq!(app.event(&offline).await.status, 204);
    let before = events.until("presence", json!({"device": "lamp", "online": false})).await;
    assert!(!before.iter().any(|(event, _)| event == "state"), "{before:?}");
}

#[tokio::test]
async fn a_token_with_a_selector_hears_of_its_devices_alone() {
    let (app, root, fleet, database) = start_api().await;
    fleet.device("hidden").await.device("shown").await.device_of_kind("service", "service").await;
    fleet.batch("UPDATE devices SET area = 'lab' WHERE name <> 'hidden'").await;
    let token = make_token_for(&database.url, "lab", &[Scope::Read], Some("area=lab")).await;
    let mut lab = Events::open(&root.with(&token)).await;
    let mut all = Events::open(&root).await;
    for name in ["hidden", "service", "shown"] {
        assert_eq!(app.event(&connected(name, name, now())).await.status, 204);
    }
    fleet.batch("UPDATE devices SET meta = '{\"n\": 1}'").await;
    // All of it has been told once the last is.
    assert_eq!(app.event(&connected("shown:2", "shown", now())).await.status, 204);
    all.until("device", json!({"device": "hidden", "exists": true})).await;
    fleet.sql("DELETE FROM devices WHERE name = 'hidden'", &[]).await;
    all.until("device", json!({"device": "hidden", "exists": false})).await;
    fleet.sql("UPDATE devices SET enabled = false WHERE name = 'shown'", &[]).await;
    let mut told = lab.until("device", json!({"device": "shown", "exists": true})).await;
    fleet.sql("UPDATE devices SET enabled = true WHERE name = 'shown'", &[]).await;
    told.extend(lab.until("device", json!({"device": "shown", "exists": true})).await);
    assert!(told.contains(&("presence".to_owned(), json!({"device": "shown", "online": true}))));
    assert!(
        told.iter().all(|(event, data)| event == "reload" || data["device"] == "shown"),
        "{told:?}"
    );
    let no_scope = make_token(&database.url, "commands", &[Scope::Commands]).await;
    assert_eq!(root.with(&no_scope).get("/events").await.problem(403).0, "scope_missing");
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let (_app, root, fleet, database) = start_api().await;
    let token = make_token(&database.url, "short", &[Scope::Read]).await;
    let mut ends = Events::open(&root.with(&token)).await;
    let mut stays = Events::open(&root).await;
    fleet.sql("UPDATE api_tokens SET revoked_at = now() WHERE name = 'short'", &[]).await;
    let ended = async { while ends.next().await.is_some() {} };
    timeout(Duration::from_secs(15), ended).await.expect("it ends within 15 s");
    fleet.device("still").await;
    stays.until("device", json!({"device": "still", "exists": true})).await;
}

/// What it sees now it is told of by a new stream.
#[tokio::test]
async fn a_stream_ends_when_its_token_gets_another_selector_or_may_not_read() {
    let (_app, root, fleet, database) = start_api().await;
    for (selector, change) in [
        (Some("area=lab"), "selector = '{\"area\": \"attic\"}'"),
        (None, "selector = '{\"area\": \"lab\"}'"),
        (None, "scopes = '{commands}'"),
    ] {
        fleet.batch("DELETE FROM api_tokens WHERE name = 'narrow'").await;
        let scopes = [Scope::Read, Scope::Commands];
        let token = make_token_for(&database.url, "narrow", &scopes, selector).await;
        let mut ends = Events::open(&root.with(&token)).await;
        fleet.batch(&format!("UPDATE api_tokens SET {change} WHERE name = 'narrow'")).await;
        let ended = async { while ends.next().await.is_some() {} };
        timeout(Duration::from_secs(15), ended).await.expect("it ends within 15 s");
    }
}

#[tokio::test]
async fn the_eleventh_stream_of_a_token_is_refused() {
    let (app, root, fleet, database) = start_api().await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(Events::open(&root).await);
    }
    let refused = root.get("/events").await;
    assert_eq!(refused.problem(429).0, "busy");
    assert!(refused.header("retry-after").is_some());
    let other = root.with(&make_token(&database.url, "other", &[Scope::Read]).await);
    streams.push(Events::open(&other).await);
    // None of them holds a transaction or a connection that others wait for.
    assert_eq!(root.get("/devices").await.status, 200);
    let open: i64 = fleet
        .value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND xact_start IS NOT NULL AND pid <> pg_backend_pid() AND state LIKE 'idle in%'",
        )
        .await;
    assert_eq!(open, 0);
    streams.remove(0);
    let root = &root;
    let opens = || async move {
        let mut connection = Connection::open(root.address).await;
        connection.send(&root.request("GET", "/events", &[], "")).await;
        connection.head().await.unwrap().status == 200
    };
    eventually("there is room for another", opens).await;
    // The service does not wait for those who watch.
    app.stop().unwrap();
    for mut stream in streams {
        while stream.next().await.is_some() {}
    }
}
