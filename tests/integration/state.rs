//! What devices report: order, forms, limits, schemas.

use std::sync::atomic::{AtomicI64, Ordering};

use base64ct::{Base64, Encoding};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::support::app::{TOKEN, TestApp, eventually, start, start_with};
use crate::support::bus::{last_seen, message, state};
use crate::support::fleet::Fleet;
use crate::support::postgres::fresh_database;
use crate::support::serve::Serve;
use crate::support::wire::{Connection, post};

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
        "1e200000".to_owned(),
        "1e-20000".to_owned(),
        format!("0.{}", "1".repeat(20_000)),
        format!("[{}1]", "1e131071,".repeat(10)),
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
    for (position, text) in [deep(100), "9".repeat(60_000)].iter().enumerate() {
        report(&app, AT + i64::try_from(position).unwrap(), "00", text).await;
        assert_eq!(main_value(&fleet).await, Some(serde_json::from_str(text).unwrap()));
    }
    assert_eq!(app.metric("fleetgate_ingest_commit_failures_total").await, 0.0);
}

/// P1: what PostgreSQL cannot hold is judged as the JSON it is, and the entry says why it is text.
#[tokio::test]
async fn json_that_conforms_is_stored_whatever_postgresql_can_hold() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "temp", Some("t/temp"), None).await;
    schema(&fleet, &json!({"type": ["array", "number"]})).await;
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let cases = [
        (r#"[{"d":"x\u0000"}]"#.to_owned(), "U+0000"),
        (r#"[{"\u0000":1}]"#.to_owned(), "U+0000"),
        (r#"["\ud800"]"#.to_owned(), "surrogate"),
        ("1e200000".to_owned(), "digits"),
        ("-1E-16384".to_owned(), "digits"),
        (deep(101), "nested"),
        (deep(129), "nested"),
        (deep(1000), "nested"),
    ];
    for (at, (text, why)) in (AT..).zip(&cases) {
        let event = message("t", "t/temp", at, "00", text);
        assert_eq!(app.event(&event).await.status, 204);
        let entry = state(&fleet, "t").await["temp"].clone();
        assert_eq!((&entry["at"], &entry["value"]), (&json!(at), &json!(text)));
        assert!(entry["kept_as_text"].as_str().unwrap().contains(why), "{entry}");
    }
    assert_eq!(violation(&fleet).await, None);
    for (at, bad) in (AT + 100..).zip([r#"{"d":"\u0000"}"#, r#""\ud800""#]) {
        app.event(&message("t", "t/temp", at, "00", bad)).await;
        let broken = violation(&fleet).await.unwrap();
        assert!(broken["message"].as_str().unwrap().contains("expected"), "{broken}");
    }
    app.event(&message("t", "t/temp", AT + 200, "00", "[1]")).await;
    assert_eq!(state(&fleet, "t").await["temp"].get("kept_as_text"), None);
}

/// P1: a property name is text of a stranger's and comes to PostgreSQL in a violation.
#[tokio::test]
async fn a_violation_at_a_hostile_property_is_noted() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "temp", Some("t/temp"), None).await;
    schema(&fleet, &json!({"additionalProperties": {"type": "null"}})).await;
    let event = message("t", "t/temp", AT, "00", r#"{"a\u0000\u001b":271828}"#);
    assert_eq!(app.event(&event).await.status, 204);
    let broken = violation(&fleet).await.unwrap();
    assert_eq!(broken["pointer"], r"/a\0\u{1b}");
    assert_eq!(broken["message"], r#"breaks "type" of the schema: expected null, got number"#);
}

/// P2, P4: bytes and text that are not JSON break every schema, and the violation says why.
#[tokio::test]
async fn what_is_not_json_breaks_a_schema_and_is_told_so() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "temp", Some("t/temp"), None).await;
    fleet.bind("t", "main", Some("t/main"), None).await;
    schema(&fleet, &json!({})).await;
    let cases: [(&[u8], &str); 9] = [
        (b"\x08\x96\x01", "not UTF-8"),
        (b"21 \xb0C", "not UTF-8"),
        (b"nan", "not JSON"),
        (b"NaN", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"+1", "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b"{} x", "not JSON"),
        (b" ", "not JSON"),
    ];
    for (at, (payload, why)) in (AT..).zip(cases) {
        for topic in ["t/temp", "t/main"] {
            let event = json!({
                "event": "message.publish", "id": "00", "clientid": "t", "username": "t",
                "topic": topic, "publish_received_at": at,
                "payload_base64": Base64::encode_string(payload),
            });
            assert_eq!(app.event(&event).await.status, 204);
        }
        let broken = violation(&fleet).await.unwrap();
        assert_eq!((&broken["at"], &broken["pointer"]), (&json!(at), &json!("")));
        assert!(broken["message"].as_str().unwrap().contains(why), "{broken}");
        let state = state(&fleet, "t").await;
        assert_eq!((state.get("temp"), &state["main"]["at"]), (None, &json!(at)));
    }
}

/// P3: whatever a device writes as a number is there again, digit for digit; jsonb writes exponents
/// out and knows no minus zero.
#[tokio::test]
async fn every_digit_of_a_number_is_kept() {
    let (app, fleet, _database) = with_device().await;
    for (at, number) in (AT..).zip([
        "12345678901234567890123.50",
        "89441100680000000001",
        "9007199254740993",
        "0.1000",
        "1.0",
        "1",
        "-0.000000000000000000000000000000000001",
        &format!("{}.{}", "7".repeat(500), "3".repeat(500)),
    ]) {
        report(&app, at, "00", &format!("[{number}]")).await;
        let text: String =
            fleet.value("SELECT state -> 'main' -> 'value' ->> 0 FROM device_state").await;
        assert_eq!(text, number);
        assert_eq!(main_value(&fleet).await.unwrap().to_string(), format!("[{number}]"));
    }
    let written = ["1.50e3", "1E400", "25e-4", "-0"];
    report(&app, AT + 100, "00", &format!("[{}]", written.join(","))).await;
    let expected = format!("[1500,1{},0.0025,0]", "0".repeat(400));
    assert_eq!(main_value(&fleet).await.unwrap().to_string(), expected);
}

/// P5: a device whose payload is too large was heard all the same, and can be found.
#[tokio::test]
async fn payloads_have_a_limit() {
    let (app, fleet, _database) = with_device().await;
    let text = |bytes: usize| "x".repeat(bytes);
    report(&app, AT, "00", &text(64 * 1024)).await;
    assert_eq!(main_value(&fleet).await, Some(json!(text(64 * 1024))));
    let mut connection = app.connect().await;
    let sizes = [64 * 1024 + 1, 100_000, 380_000, 1024 * 1024, 12_000_000];
    for (at, size) in (AT + 1..).zip(sizes) {
        let mut event = message("t", "t/main", at, "00", &text(size));
        for twice in [false, true] {
            if twice {
                event["payload"] = json!("\u{1}".repeat(size / 4));
                event["payload_base64"] = json!(Base64::encode_string(text(size).as_bytes()));
            }
            let bytes = post("/emqx/events", TOKEN, &event.to_string());
            connection.send(&bytes).await;
            assert_eq!(connection.receive().await.unwrap().status, 204, "{size}");
        }
        assert!(main_value(&fleet).await == Some(json!(text(64 * 1024))), "not stored");
        assert_eq!(last_seen(&fleet, "t").await, at, "but heard");
        let broken = violation(&fleet).await.unwrap();
        assert_eq!((&broken["at"], &broken["binding"]), (&json!(at), &json!("main")));
        assert!(broken["message"].as_str().unwrap().contains("too large"), "{broken}");
    }
    let count = r#"fleetgate_events_total{kind="message",outcome="too_large"}"#;
    assert_eq!(app.metric(count).await, 10.0);
    report(&app, AT + 50, "00", "1").await;
    assert_eq!(main_value(&fleet).await, Some(json!(1)));
}

/// P5: beyond every limit an event is lost, counted, and the connection goes on.
#[tokio::test]
async fn a_body_that_is_no_event_of_any_size_is_refused_and_the_connection_goes_on() {
    let (app, fleet, _database) = with_device().await;
    let mut connection = app.connect().await;
    let many = format!("{{\"event\":\"message.publish\",\"user\":[{}1]}}", "1,".repeat(800_000));
    let token = TOKEN;
    let mut bytes = post("/emqx/events", token, &many);
    bytes.extend(post("/emqx/events", token, &message("t", "t/main", AT, "00", "1").to_string()));
    connection.send(&bytes).await;
    assert_eq!(connection.receive().await.unwrap().status, 413);
    assert_eq!(connection.receive().await.unwrap().status, 204, "the connection stays usable");
    assert_eq!(main_value(&fleet).await, Some(json!(1)));
    let count = r#"fleetgate_events_total{kind="unreadable",outcome="too_large"}"#;
    assert_eq!(app.metric(count).await, 1.0);
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
    assert!(stored("\"late\"").await);
    schema(&fleet, &json!({"type": "nonsense"})).await;
    eventually("nothing passes what does not compile", || async { !stored("\"late\"").await })
        .await;
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

/// A system that is short of threads or memory loses no report: it is put off, not called a violation.
#[tokio::test]
async fn a_deep_report_that_cannot_be_judged_at_present_is_put_off() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("t").await.bind("t", "temp", Some("t/temp"), None).await;
    schema(&fleet, &json!({"type": "array"})).await;
    let serve = Serve::start(&[
        ("FLEETGATE_DATABASE_URL", database.url.clone()),
        ("FLEETGATE_INGEST_KEEP_SESSIONS", "876000h".to_owned()),
    ]);
    let tell = async |at: i64, payload: &str| {
        let event = message("t", "t/temp", at, "00", payload).to_string();
        let mut connection = Connection::open(serve.address).await;
        connection.exchange(&post("/emqx/events", TOKEN, &event)).await.status
    };
    eventually("it serves", || async { tell(AT, "[]").await == 204 }).await;
    let pages = std::fs::read_to_string(format!("/proc/{}/statm", serve.pid())).unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    // Less than the stack of the thread that deep values are judged on.
    let memory = |most| Rlimit { current: most, maximum: None };
    let short = memory(Some(pages * 4096 + 64 * 1024 * 1024));
    prlimit(Some(serve.pid()), Resource::As, short).unwrap();
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    assert_eq!(tell(AT + 1, &deep).await, 503);
    assert_eq!(tell(AT + 2, "[1]").await, 204);
    assert_eq!(violation(&fleet).await, None);
    prlimit(Some(serve.pid()), Resource::As, memory(None)).unwrap();
    assert_eq!(tell(AT + 3, &deep).await, 204);
    assert_eq!(state(&fleet, "t").await["temp"]["value"], json!(deep));
    let log = serve.stop();
    assert!(log.contains("no thread could be started"), "{log}");
}
