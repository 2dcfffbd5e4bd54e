//! The endpoint: what is refused, what is put off, what is never lost.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fleetgate::secret::Secret;
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::app::{TOKEN, TestApp, config, eventually, start, start_with};
use crate::support::bus::{connected, disconnected, is_online, message, state};
use crate::support::fleet::Fleet;
use crate::support::postgres::{fresh_database, socket_path};
use crate::support::proxy::{Proxy, Weather};
use crate::support::wire::{Connection, post};

const AT: i64 = 1_795_356_000_000;

#[tokio::test]
async fn malformed_events_are_refused_by_reason_and_never_repeated() {
    let (app, _fleet, _database) = start().await;
    let base = message("t", "t/main", AT, "00", "271828");
    let without = |field: &str| {
        let mut event = base.clone();
        event.as_object_mut().unwrap().remove(field);
        event
    };
    let with = |field: &str, value: Value| {
        let mut event = base.clone();
        event[field] = value;
        event.to_string()
    };
    let bodies = [
        (String::new(), "not JSON", "json"),
        ("{\"event\":\"message.publish\",\"payload\":\"271828".to_owned(), "not JSON", "json"),
        ("[]".to_owned(), "wrong type", "json"),
        (format!(r#"["client.connected", "t", "t", {AT}]"#), "wrong type", "json"),
        (without("event").to_string(), "event is missing", "json"),
        (without("topic").to_string(), "topic is missing", "missing_field"),
        (without("payload").to_string(), "payload_base64 is missing", "missing_field"),
        (with("publish_received_at", json!("undefined")), "publish_received_at is missing", "missing_field"),
        (with("publish_received_at", json!("271828")), "wrong type", "json"),
        (with("publish_received_at", json!(1.5)), "wrong type", "json"),
        (with("publish_received_at", json!(-1)), "not a valid time", "time"),
        (with("publish_received_at", json!(u64::MAX)), "not a valid time", "time"),
        (with("payload_base64", json!("271828!")), "not base64", "base64"),
        (with("id", json!("a\0b")), "not a valid message id", "id"),
        (with("id", json!("0".repeat(65))), "not a valid message id", "id"),
        (json!({"event": "client.connected", "username": "t", "connected_at": AT}).to_string(), "clientid is missing", "missing_field"),
        (json!({"event": "client.disconnected", "clientid": "t", "username": "t", "connected_at": AT}).to_string(), "disconnected_at is missing", "missing_field"),
    ];
    for (body, why, _) in &bodies {
        let answer = app.post("/emqx/events", body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.body.contains(why), "{body}: {}", answer.body);
        assert!(!answer.body.contains("271828"), "{}", answer.body);
    }
    for reason in ["json", "missing_field", "time", "base64", "id"] {
        let expected = bodies.iter().filter(|(_, _, counted)| *counted == reason).count();
        let metric = format!(r#"fleetgate_events_malformed_total{{reason="{reason}"}}"#);
        assert_eq!(app.metric(&metric).await, expected as f64, "{reason}");
    }
}

#[tokio::test]
async fn other_events_and_strangers_are_dealt_with_and_counted() {
    let (app, fleet, _database) = start().await;
    for event in [
        json!({"event": "session.subscribed", "clientid": "t", "username": "t", "topic": 7}),
        json!({"event": "undefined"}),
    ] {
        assert_eq!(app.event(&event).await.status, 204, "{event}");
    }
    assert_eq!(app.event(&connected("x", "nobody", AT)).await.status, 204);
    let anonymous = json!({"event": "client.connected", "clientid": "x", "username": "undefined", "connected_at": AT});
    assert_eq!(app.event(&anonymous).await.status, 204);
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM client_sessions").await, 0);
    for (metric, count) in [
        (r#"fleetgate_events_total{kind="other",outcome="unknown_event"}"#, 2.0),
        (r#"fleetgate_events_total{kind="connected",outcome="no_device"}"#, 2.0),
    ] {
        assert_eq!(app.metric(metric).await, count, "{metric}");
    }
}

#[tokio::test]
async fn nothing_is_taken_without_the_token() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await;
    let body = connected("t", "t", AT).to_string();
    let answer = app.connect().await.exchange(&post("/emqx/events", "wrong", &body)).await;
    assert_eq!(answer.status, 401);
    assert!(!is_online(&fleet, "t").await);
}

#[tokio::test]
async fn the_token_of_before_is_taken_where_it_is_configured() {
    let before = "the-token-of-before".to_owned();
    let previous = Secret::new(before.clone());
    let (app, fleet, _database) =
        start_with(|config| config.emqx.previous_webhook_token = Some(previous)).await;
    fleet.device("t").await;
    let ask = async |token: &str| {
        let body = connected("t", "t", AT).to_string();
        app.connect().await.exchange(&post("/emqx/events", token, &body)).await.status
    };
    assert_eq!((ask(&before).await, ask(TOKEN).await, ask("wrong").await), (204, 204, 401));
}

/// A service behind a network that can be disturbed, which knows the device `t`.
async fn behind_a_proxy(
    change: impl FnOnce(&mut fleetgate::config::Config),
) -> (TestApp, Fleet, Proxy, crate::support::postgres::TestDatabase) {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    let mut settings = config(&proxy.url(&database.url));
    change(&mut settings);
    let app = TestApp::start(settings).await;
    app.ready().await;
    assert_eq!(app.event(&message("t", "t/main", AT, "00", "0")).await.status, 204);
    (app, fleet, proxy, database)
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let (app, _fleet, proxy, _database) = behind_a_proxy(|config| {
        config.ingest.queue = 1;
        config.ingest.batch = 1;
        config.ingest.writers = 1;
    })
    .await;
    proxy.set(Weather::Frozen);
    let send = |n: i64| {
        let event = message("t", "t/main", AT + n, "00", "1").to_string();
        let address = app.address;
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.exchange(&post("/emqx/events", TOKEN, &event)).await
        })
    };
    let writing = send(1);
    eventually("the first is being written", || async {
        app.metric("fleetgate_ingest_oldest_event_seconds").await > 0.0
    })
    .await;
    let waiting = send(2);
    eventually("the second waits", || async {
        app.metric("fleetgate_ingest_queue_depth").await == 1.0
    })
    .await;
    let refused = app.event(&message("t", "t/main", AT + 3, "00", "3")).await;
    assert!(!waiting.is_finished(), "it is refused before those that wait are answered");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.body.contains("too many events"), "{}", refused.body);
    proxy.set(Weather::Delay(Duration::ZERO));
    for answer in [writing, waiting] {
        assert!([204, 503].contains(&answer.await.unwrap().status));
    }
    eventually("it takes events again", || async {
        app.event(&message("t", "t/main", AT + 4, "00", "4")).await.status == 204
    })
    .await;
}

#[tokio::test]
async fn while_the_database_is_away_events_are_put_off() {
    let (app, fleet, proxy, _database) = behind_a_proxy(|_| {}).await;
    proxy.set(Weather::Refusing);
    proxy.cut();
    let event = message("t", "t/main", AT + 1, "00", "1");
    let answer = app.event(&event).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let stranger = app.event(&connected("x", "nobody", AT)).await;
    assert_eq!(stranger.status, 503, "whether it is a device cannot be known");
    proxy.set(Weather::Delay(Duration::ZERO));
    eventually("it is taken", || async { app.event(&event).await.status == 204 }).await;
    assert_eq!(state(&fleet, "t").await["main"]["value"], 1);
}

#[tokio::test]
async fn a_transaction_that_takes_too_long_is_put_off() {
    let (app, fleet, _database) =
        start_with(|config| config.database.query_timeout = Duration::from_millis(300)).await;
    fleet.device("t").await;
    fleet.sql("BEGIN", &[]).await;
    fleet.sql("UPDATE devices SET meta = '{\"held\": true}'", &[]).await;
    let event = connected("t", "t", AT);
    assert_eq!(app.event(&event).await.status, 503);
    fleet.sql("COMMIT", &[]).await;
    eventually("it is taken", || async { app.event(&event).await.status == 204 }).await;
    assert!(is_online(&fleet, "t").await);
}

#[tokio::test]
async fn an_event_that_waits_for_a_lock_holds_up_no_other_device() {
    let (app, fleet, _database) = start().await;
    for name in ["locked", "free"] {
        fleet.device(name).await;
    }
    fleet.sql("BEGIN", &[]).await;
    fleet.sql("UPDATE devices SET meta = '{\"held\": true}' WHERE name = 'locked'", &[]).await;
    let locked = connected("locked", "locked", AT);
    let mut waiting = pin!(app.event(&locked));
    let committing = || async { app.metric("fleetgate_ingest_oldest_event_seconds").await > 0.0 };
    tokio::select! {
        answer = &mut waiting => panic!("answered before it could be written: {answer:?}"),
        () = eventually("it is being written", committing) => {}
    }
    assert_eq!(app.event(&connected("free", "free", AT)).await.status, 204);
    assert!(waiting.as_mut().now_or_never().is_none());
    fleet.sql("COMMIT", &[]).await;
    assert_eq!(waiting.await.status, 204);
}

#[tokio::test]
async fn an_event_that_takes_too_long_does_not_fail_those_that_share_its_batch() {
    let (app, fleet, _database) = start_with(|config| {
        config.ingest.linger = Duration::from_millis(200);
        config.database.query_timeout = Duration::from_secs(1);
    })
    .await;
    let names: Vec<String> = (0..30).map(|n| format!("d{n}")).collect();
    for name in &names {
        fleet.device(name).await;
    }
    fleet.sql("BEGIN", &[]).await;
    fleet.sql("UPDATE devices SET meta = '{\"held\": true}' WHERE name = 'd17'", &[]).await;
    for round in 0..2 {
        let events: Vec<Value> =
            names.iter().map(|name| connected(name, name, AT + round)).collect();
        let answers = join_all(events.iter().map(|event| app.event(event))).await;
        for (name, answer) in names.iter().zip(answers) {
            assert_eq!(answer.status, if name == "d17" { 503 } else { 204 }, "{round} {name}");
        }
    }
    fleet.sql("COMMIT", &[]).await;
    assert_eq!(app.event(&connected("d17", "d17", AT)).await.status, 204);
    // 60 events alone would be 60 batches; one that fails is halved until the event is by itself.
    let batches = app.metric("fleetgate_ingest_batch_events_count").await;
    assert!(batches < 45.0, "they shared batches: {batches}");
}

#[tokio::test]
async fn one_event_that_the_database_refuses_does_not_hold_up_the_others() {
    let (app, fleet, _database) =
        start_with(|config| config.ingest.linger = Duration::from_millis(200)).await;
    let names: Vec<String> = (0..30).map(|n| format!("d{n}")).collect();
    for name in &names {
        fleet.device(name).await;
    }
    fleet
        .sql("ALTER TABLE client_sessions ADD CONSTRAINT poisoned CHECK (client_id <> 'd17')", &[])
        .await;
    let events: Vec<Value> = names.iter().map(|name| connected(name, name, AT)).collect();
    let answers = join_all(events.iter().map(|event| app.event(event))).await;
    for (name, answer) in names.iter().zip(answers) {
        assert_eq!(answer.status, if name == "d17" { 400 } else { 204 }, "{name}");
        assert_eq!(is_online(&fleet, name).await, name != "d17", "{name}");
    }
    let refused = r#"fleetgate_events_total{kind="connected",outcome="refused"}"#;
    assert_eq!(app.metric(refused).await, 1.0);
    let batches = app.metric("fleetgate_ingest_batch_events_count").await;
    assert!(batches < 25.0, "they shared batches: {batches}");
}

#[tokio::test]
async fn events_of_a_device_that_is_deleted_meanwhile_change_nothing() {
    let (app, fleet, _database) = start().await;
    for round in 0..20 {
        fleet.device("t").await;
        let at = AT + round * 10;
        let event = connected("t", "t", at);
        let (answer, _) =
            tokio::join!(app.event(&event), fleet.sql("DELETE FROM devices WHERE name = 't'", &[]));
        assert_eq!(answer.status, 204);
    }
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM client_sessions").await, 0);
}

#[tokio::test]
async fn stopping_answers_every_pipelined_event() {
    const EVENTS: i64 = 100;
    let (app, fleet, _database) = start_with(|config| config.http.workers = 1).await;
    fleet.device("t").await;
    let mut bytes = Vec::new();
    for n in 0..EVENTS / 2 {
        let began = AT + n * 10;
        for event in
            [connected("t", "t", began), disconnected("t", "t", began, began + 5, "normal")]
        {
            bytes.extend(post("/emqx/events", TOKEN, &event.to_string()));
        }
    }
    let mut connection = app.connect().await;
    connection.send(&bytes).await;
    let mut committed = 0;
    assert_eq!(connection.receive().await.unwrap().status, 204);
    committed += 1;
    let stopping = tokio::task::spawn_blocking(move || app.stop());
    for n in 1..EVENTS {
        match connection.receive().await.expect("answered").status {
            204 => committed += 1,
            status => assert_eq!(status, 503, "{n}"),
        }
    }
    drop(connection);
    stopping.await.unwrap().unwrap();
    let last: i64 = fleet
        .value("SELECT (extract(epoch FROM connected_at) * 1000)::bigint FROM client_sessions")
        .await;
    assert_eq!(last, AT + (committed - 1) / 2 * 10, "as far as was acknowledged");
}

#[tokio::test]
async fn stopping_under_steady_traffic_leaves_no_event_unanswered() {
    let (app, fleet, _database) = start_with(|config| config.http.workers = 2).await;
    fleet.device("t").await;
    let begun = Arc::new(Semaphore::new(0));
    let senders: Vec<_> =
        (0..8).map(|_| tokio::spawn(send_until_refused(app.address, begun.clone()))).collect();
    eventually("each has had an event committed", || async { begun.available_permits() == 8 })
        .await;
    let stopping = tokio::task::spawn_blocking(move || app.stop());
    for sender in senders {
        sender.await.unwrap();
    }
    stopping.await.unwrap().unwrap();
}

/// Keeps twenty events on their way, as EMQX does, until one is refused; then it waits for the
/// answers to the others, as EMQX does. `begun` gets a permit when the first is committed.
async fn send_until_refused(address: std::net::SocketAddr, begun: Arc<Semaphore>) {
    let event = connected("t", "t", AT).to_string();
    let request = post("/emqx/events", TOKEN, &event);
    let mut connection = Connection::open(address).await;
    for _ in 0..20 {
        connection.send(&request).await;
    }
    let (mut committed, mut waiting, mut refused) = (false, 20, false);
    while waiting > 0 {
        match connection.receive().await.expect("answered").status {
            204 if !committed => {
                committed = true;
                begun.add_permits(1);
            }
            204 => {}
            status => {
                assert_eq!(status, 503);
                refused = true;
            }
        }
        waiting -= 1;
        if !refused {
            connection.send(&request).await;
            waiting += 1;
        }
    }
}
