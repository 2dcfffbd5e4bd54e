//! What devices report: order, forms, limits, schemas.

use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};

use crate::support::app::{TestApp, eventually, start, start_with};
use crate::support::bus::{last_seen, message, state};
use crate::support::fleet::Fleet;
use crate::support::wire::post;

const AT: i64 = 1_795_356_000_000;

async fn report(app: &TestApp, at: i64, id: &str, payload: &str) {
    assert_eq!(app.event(&message("t", "t/main", at, id, payload)).await.status, 204, "{payload}");
}

async fn with_device() -> (TestApp, Fleet, crate::support::postgres::TestDatabase) {
    let (app, fleet, database) = start().await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    (app, fleet, database)
}

async fn main_value(fleet: &Fleet) -> Option<Value> {
    state(fleet, "t").await["main"].get("value").cloned()
}

#[tokio::test]
async fn newer_reports_win_and_ids_decide_within_a_millisecond() {
    let (app, fleet, _database) = with_device().await;
    report(&app, AT, "0B", "1").await;
    report(&app, AT, "0A", "2").await;
    assert_eq!(main_value(&fleet).await, Some(json!(1)));
    report(&app, AT, "0C", "3").await;
    report(&app, AT - 1, "0F", "4").await;
    assert_eq!(main_value(&fleet).await, Some(json!(3)));
    report(&app, AT + 1, "00", "").await;
    assert_eq!(main_value(&fleet).await, None);
    report(&app, AT, "0F", "5").await;
    assert_eq!(main_value(&fleet).await, None, "a cleared value keeps late reports out");
    assert_eq!(last_seen(&fleet, "t").await, AT + 1);
    assert_eq!(app.metric(r#"fleetgate_events_stale_total{reason="report_order"}"#).await, 3.0);
}

#[tokio::test]
async fn payloads_that_jsonb_cannot_hold_are_kept_as_text_and_spoil_nothing() {
    let (app, fleet, _database) = with_device().await;
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let texts = [
        r#"{"a":"\u0000"}"#.to_owned(),
        r#"{"\u0000":1}"#.to_owned(),
        "1e999".to_owned(),
        "1e-20000".to_owned(),
        format!("0.{}", "1".repeat(20_000)),
        "9".repeat(60_000),
        r#""\ud800""#.to_owned(),
        r#"["\udc00\ud800"]"#.to_owned(),
        deep(101),
        deep(30_000),
        "{\"open".to_owned(),
    ];
    let mut requests = Vec::new();
    for (position, text) in texts.iter().enumerate() {
        let name = format!("p{position}");
        fleet.device(&name).await.bind(&name, "main", Some("t/p"), None).await;
        requests.push(message(&name, "t/p", AT, "00", text));
    }
    let answers =
        futures_util::future::join_all(requests.iter().map(|event| app.event(event))).await;
    assert!(answers.iter().all(|answer| answer.status == 204));
    for (position, text) in texts.iter().enumerate() {
        let state = state(&fleet, &format!("p{position}")).await;
        assert_eq!(state["main"]["value"], json!(text), "{}", &text[..text.len().min(40)]);
    }
    let kept = [("1e308", json!(1e308)), (&*deep(100), serde_json::from_str(&deep(100)).unwrap())];
    for (position, (text, value)) in kept.into_iter().enumerate() {
        report(&app, AT + i64::try_from(position).unwrap(), "00", text).await;
        assert_eq!(main_value(&fleet).await, Some(value));
    }
    assert_eq!(app.metric("fleetgate_ingest_commit_failures_total").await, 0.0);
}

#[tokio::test]
async fn every_digit_of_a_number_is_kept() {
    let (app, fleet, _database) = with_device().await;
    report(&app, AT, "00", "12345678901234567890123.50").await;
    let text: String = fleet.value("SELECT state -> 'main' ->> 'value' FROM device_state").await;
    assert_eq!(text, "12345678901234567890123.50");
}

#[tokio::test]
async fn payloads_have_a_limit() {
    let (app, fleet, _database) = with_device().await;
    let text = |bytes: usize| "x".repeat(bytes);
    report(&app, AT, "00", &text(64 * 1024)).await;
    assert_eq!(main_value(&fleet).await, Some(json!(text(64 * 1024))));
    report(&app, AT + 1, "00", &text(64 * 1024 + 1)).await;
    assert_eq!(main_value(&fleet).await, Some(json!(text(64 * 1024))), "not stored");
    assert_eq!(last_seen(&fleet, "t").await, AT + 1, "but heard");
    let count = r#"fleetgate_events_total{kind="message",outcome="too_large"}"#;
    assert_eq!(app.metric(count).await, 1.0);
    let mut connection = app.connect().await;
    let huge = message("t", "t/main", AT + 2, "00", &text(2_000_000)).to_string();
    let small = message("t", "t/main", AT + 3, "00", "1").to_string();
    let token = crate::support::app::TOKEN;
    let mut bytes = post("/emqx/events", token, &huge);
    bytes.extend(post("/emqx/events", token, &small));
    connection.send(&bytes).await;
    assert_eq!(connection.receive().await.unwrap().status, 413);
    assert_eq!(connection.receive().await.unwrap().status, 204, "the connection stays usable");
    assert_eq!(main_value(&fleet).await, Some(json!(1)));
}

#[tokio::test]
async fn only_a_devices_own_state_topics_change_its_state() {
    let (app, fleet, _database) = with_device().await;
    fleet.grant("t", "publish", "free/#").await;
    fleet.device_of_kind("s", "service").await.bind("s", "main", Some("s/main"), None).await;
    for (name, topic) in
        [("t", "free/x"), ("s", "s/main"), ("nobody", "t/main"), ("undefined", "x")]
    {
        assert_eq!(app.event(&message(name, topic, AT, "00", "1")).await.status, 204);
    }
    assert_eq!(state(&fleet, "t").await, json!({}));
    assert_eq!(last_seen(&fleet, "t").await, AT);
    assert_eq!(last_seen(&fleet, "s").await, -1);
    for (outcome, count) in [("seen", 1.0), ("service", 1.0), ("no_device", 2.0)] {
        let metric = format!(r#"fleetgate_events_total{{kind="message",outcome="{outcome}"}}"#);
        assert_eq!(app.metric(&metric).await, count, "{outcome}");
    }
}

async fn schema(fleet: &Fleet, schema: &Value) {
    fleet.sql("UPDATE capabilities SET state_schema = $1 WHERE name = 'temp'", &[schema]).await;
}

async fn violation(fleet: &Fleet) -> Option<Value> {
    fleet.value("SELECT (SELECT last_violation FROM device_state)").await
}

#[tokio::test]
async fn a_report_that_breaks_its_schema_is_stored_nowhere() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "temp", Some("t/temp"), None).await;
    schema(&fleet, &json!({"properties": {"c": {"maximum": 50}}, "required": ["c"]})).await;
    let report = async |at: i64, payload: &str| {
        let event = message("t", "t/temp", at, "00", payload);
        assert_eq!(app.event(&event).await.status, 204);
    };
    report(AT, r#"{"c":20}"#).await;
    report(AT + 2, r#"{"c":271828}"#).await;
    report(AT + 1, r"{}").await;
    assert_eq!(state(&fleet, "t").await["temp"]["value"], json!({"c": 20}));
    let expected = json!({
        "at": AT + 2, "binding": "temp", "pointer": "/c",
        "message": "breaks \"maximum\" of the schema",
    });
    assert_eq!(violation(&fleet).await, Some(expected), "the newest one");
    assert_eq!(app.metric("fleetgate_schema_violations_total").await, 2.0);
    assert_eq!(last_seen(&fleet, "t").await, AT + 2);
    report(AT + 3, "").await;
    assert_eq!(state(&fleet, "t").await["temp"].get("value"), None, "clearing needs no schema");
}

#[tokio::test]
async fn a_changed_schema_counts_at_once() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "temp", Some("t/temp"), None).await;
    let clock = AtomicI64::new(AT);
    let stored = async |payload: &str| {
        let at = clock.fetch_add(1, Ordering::Relaxed);
        app.event(&message("t", "t/temp", at, "00", payload)).await;
        state(&fleet, "t").await["temp"]["at"] == at
    };
    assert!(stored("1").await);
    schema(&fleet, &json!({"type": "string"})).await;
    eventually("the schema is in force", || async { !stored("2").await }).await;
    assert!(stored("late").await, "text is judged as a string");
    schema(&fleet, &json!({"type": "nonsense"})).await;
    eventually("nothing passes what does not compile", || async { !stored("late").await }).await;
    let message = violation(&fleet).await.unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("does not compile"), "{message}");
    schema(&fleet, &Value::Bool(true)).await;
    eventually("repaired", || async { stored("3").await }).await;
}

#[tokio::test]
async fn a_smaller_payload_limit_can_be_set() {
    let (app, fleet, _database) = start_with(|config| config.ingest.max_payload = 4).await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    report(&app, AT, "00", "1234").await;
    report(&app, AT + 1, "00", "12345").await;
    assert_eq!(main_value(&fleet).await, Some(json!(1234)));
}

#[tokio::test]
async fn one_report_may_be_that_of_several_bindings() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "main", Some("t/all"), None).await;
    fleet
        .bind("t", "temp", Some("t/all"), None)
        .await
        .bind("t", "late", Some("t/late"), None)
        .await;
    let send = async |topic: &str, at: i64, payload: &str| {
        assert_eq!(app.event(&message("t", topic, at, "00", payload)).await.status, 204);
    };
    send("t/all", AT, "1").await;
    send("t/late", AT, "2").await;
    send("t/all", AT - 1, "3").await;
    send("t/all", AT, "1").await;
    let entry = |value: i64| json!({"value": value, "at": AT, "id": "00"});
    let expected = json!({"main": entry(1), "temp": entry(1), "late": entry(2)});
    assert_eq!(state(&fleet, "t").await, expected);
    let stale = app.metric(r#"fleetgate_events_stale_total{reason="report_order"}"#).await;
    assert_eq!(stale, 4.0, "the older and the repeated one, for each of two bindings");
}
