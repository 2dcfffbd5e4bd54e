//! What a real EMQX told, byte for byte, and the rows that it leaves.

use serde_json::{Value, json};

use crate::support::app::{TestApp, start};
use crate::support::bus::{is_online, last_seen, rows, state};
use crate::support::fleet::Fleet;
use crate::support::wire::{Connection, post};

fn lines(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("tests/recorded/{file}")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn request(line: &Value) -> Vec<u8> {
    let token = line["headers"]["authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap();
    post(line["path"].as_str().unwrap(), token, line["body"].as_str().unwrap())
}

async fn replay(connection: &mut Connection, lines: &[Value]) {
    for line in lines {
        assert_eq!(connection.exchange(&request(line)).await.status, 204, "{}", line["scenario"]);
    }
}

async fn provision(fleet: &Fleet) {
    fleet.device("thermo-1").await;
    fleet.bind("thermo-1", "main", Some("floor2/lab/temp"), Some("floor2/lab/relay/set")).await;
    fleet.bind("thermo-1", "unicode", Some("floor2/läb/témp"), None).await;
    fleet.device("gerät-ß").await.client_id("gerät-ß", "ünï-✓").await;
    fleet.device("u\"v\\w").await.client_id("u\"v\\w", "a\"b\\c").await;
    for name in ["42", "device-7", "relay-1", "expiring", "fast-1"] {
        fleet.device(name).await;
    }
    fleet.bind("relay-1", "main", Some("floor2/lab/relay/gone"), None).await;
}

/// `(client id, began, ended)` of every session.
async fn sessions(fleet: &Fleet) -> Vec<(String, i64, i64)> {
    let text: Value = fleet
        .value(
            "SELECT jsonb_agg(jsonb_build_array(client_id, (extract(epoch FROM connected_at) * 1000)::bigint,
                 (extract(epoch FROM ended_at) * 1000)::bigint) ORDER BY client_id)
             FROM client_sessions WHERE NOT open AND NOT inferred",
        )
        .await;
    serde_json::from_value(text).unwrap()
}

#[tokio::test]
async fn the_recorded_events_leave_exactly_these_rows() {
    let (app, fleet, _database) = start().await;
    provision(&fleet).await;
    replay(&mut app.connect().await, &lines("events.jsonl")).await;
    let expected = [
        ("42", 1_795_356_290_557, 1_795_356_290_577),
        ("a\"b\\c", 1_795_356_289_714, 1_795_356_289_734),
        ("device-7", 1_795_356_291_028, 1_795_356_291_048),
        ("expiring", 1_795_356_316_959, 1_795_356_319_001),
        ("fast-1", 1_795_356_326_571, 1_795_356_326_590),
        ("relay-1", 1_795_356_323_810, 1_795_356_324_813),
        ("thermo-1", 1_795_356_300_157, 1_795_356_303_833),
        ("ünï-✓", 1_795_356_289_293, 1_795_356_289_312),
    ];
    let expected = expected.map(|(client, began, ended)| (client.to_owned(), began, ended));
    assert_eq!(sessions(&fleet).await, expected);
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM client_sessions WHERE open").await, 0);
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM devices WHERE online").await, 0);
    for (name, seen) in [
        ("thermo-1", 1_795_356_303_833),
        ("gerät-ß", 1_795_356_289_312),
        ("relay-1", 1_795_356_324_813),
        // The broker ended its session: it was heard when that began.
        ("expiring", 1_795_356_316_959),
        ("fast-1", 1_795_356_326_590),
    ] {
        assert_eq!(last_seen(&fleet, name).await, seen, "{name}");
    }
    assert_eq!(
        state(&fleet, "thermo-1").await,
        json!({
            "main": {"value": {"c": 1}, "at": 1_795_356_303_533_i64, "id": "000660DDF6B7A68AF440000020CF0009"},
            "unicode": {"value": {"°": "✓"}, "at": 1_795_356_302_431_i64, "id": "000660DDF6A6D586F440000020CF0007"},
        })
    );
    assert_eq!(
        state(&fleet, "relay-1").await,
        json!({"main": {"value": {"gone": true}, "at": 1_795_356_323_158_i64, "id": "000660DDF7D3CB14F440000023700000"}})
    );
    assert_counted(&app).await;
}

async fn assert_counted(app: &TestApp) {
    for (metric, value) in [
        (r#"fleetgate_events_total{kind="message",outcome="written"}"#, 13.0),
        (r#"fleetgate_events_total{kind="message",outcome="no_device"}"#, 2.0),
        (r#"fleetgate_events_total{kind="connected",outcome="no_device"}"#, 1.0),
        (r#"fleetgate_events_stale_total{reason="takenover"}"#, 1.0),
        (r#"fleetgate_events_stale_total{reason="discarded"}"#, 1.0),
        // Another authenticator had let it in under `thermo/+/#`, and under one that EMQX made up.
        (r#"fleetgate_events_total{kind="connected",outcome="foreign_client_id"}"#, 2.0),
        (r#"fleetgate_events_total{kind="disconnected",outcome="foreign_client_id"}"#, 2.0),
        // Published late: `$delayed`.
        (r#"fleetgate_events_stale_total{reason="report_order"}"#, 1.0),
        ("fleetgate_ingest_queue_depth", 0.0),
        ("fleetgate_ingest_oldest_event_seconds", 0.0),
    ] {
        assert_eq!(app.metric(metric).await, value, "{metric}");
    }
}

#[tokio::test]
async fn every_recorded_payload_is_kept_as_it_was() {
    let (app, fleet, _database) = start().await;
    provision(&fleet).await;
    let mut connection = app.connect().await;
    let expected = [
        ("message_json", json!({"celsius": 21.5, "ok": true})),
        ("message_text", json!(21.5)),
        ("message_binary", json!({"base64": "AP/+AYAiXA=="})),
        ("message_v5_props", json!({"c": 1})),
    ];
    for line in lines("events.jsonl") {
        replay(&mut connection, std::slice::from_ref(&line)).await;
        let body: Value = serde_json::from_str(line["body"].as_str().unwrap()).unwrap();
        if body["event"] != "message.publish" {
            continue;
        }
        let scenario = line["scenario"].as_str().unwrap();
        let main = &state(&fleet, "thermo-1").await["main"];
        if let Some((_, value)) = expected.iter().find(|(name, _)| *name == scenario) {
            assert_eq!(main["value"], *value, "{scenario}");
        }
        match scenario {
            "message_empty_retained" => {
                assert_eq!((&main["at"], main.get("value")), (&body["publish_received_at"], None));
            }
            "message_64k" => assert_eq!(main["value"]["blob"].as_str().unwrap().len(), 65_000),
            _ => {}
        }
    }
}

async fn four_clients(fleet: &Fleet) {
    for name in ["d0", "d1", "d2", "d3"] {
        fleet.device(name).await;
        fleet.bind(name, "main", Some("floor2/x"), None).await;
    }
}

async fn assert_after_the_outage(fleet: &Fleet) {
    let expected = [
        ("d0", 1_795_356_167_759, 1_795_356_167_763),
        ("d1", 1_795_356_167_968, 1_795_356_167_973),
        ("d2", 1_795_356_168_179, 1_795_356_168_181),
        ("d3", 1_795_356_168_387, 1_795_356_168_391),
    ];
    let sessions = sessions(fleet).await;
    assert_eq!(sessions, expected.map(|(name, began, ended)| (name.to_owned(), began, ended)));
    for (position, (name, _, ended)) in expected.into_iter().enumerate() {
        assert!(!is_online(fleet, name).await, "{name}");
        assert_eq!(last_seen(fleet, name).await, ended, "{name}");
        assert_eq!(state(fleet, name).await["main"]["value"], json!(16 + position), "{name}");
    }
}

#[tokio::test]
async fn the_recorded_outage_ends_with_everybody_offline() {
    let (app, fleet, _database) = start().await;
    four_clients(&fleet).await;
    replay(&mut app.connect().await, &lines("outage.jsonl")).await;
    assert_after_the_outage(&fleet).await;
}

#[tokio::test]
async fn the_recorded_outage_on_sixteen_connections_at_once_ends_the_same() {
    let (app, fleet, _database) = start().await;
    four_clients(&fleet).await;
    let lines = lines("outage.jsonl");
    let address = app.address;
    let connections = (0..16).map(|connection| {
        let share: Vec<Value> = lines.iter().skip(connection).step_by(16).cloned().collect();
        tokio::spawn(async move { replay(&mut Connection::open(address).await, &share).await })
    });
    for connection in connections.collect::<Vec<_>>() {
        connection.await.unwrap();
    }
    assert_after_the_outage(&fleet).await;
    let once = rows(&fleet).await;
    replay(&mut app.connect().await, &lines).await;
    assert_eq!(rows(&fleet).await, once, "every event again changes nothing");
}
