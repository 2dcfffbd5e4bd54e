//! Whose word counts: events of disabled devices, under foreign client ids, and what a device did not say.

use serde_json::{Value, json};

use crate::support::app::{TestApp, eventually, start};
use crate::support::bus::{connected, disconnected, is_online, last_seen, message, state};
use crate::support::fleet::Fleet;
use crate::support::postgres::TestDatabase;

const AT: i64 = 1_795_356_000_000;

async fn with_devices() -> (TestApp, Fleet, TestDatabase) {
    let (app, fleet, database) = start().await;
    for name in ["a", "b"] {
        let topic = format!("{name}/main");
        fleet.device(name).await.bind(name, "main", Some(&topic), None).await;
    }
    (app, fleet, database)
}

async fn tell(app: &TestApp, event: &Value) {
    assert_eq!(app.event(event).await.status, 204, "{event}");
}

async fn count(app: &TestApp, kind: &str, outcome: &str) -> f64 {
    app.counted(&format!(r#"fleetgate_events_total{{kind="{kind}",outcome="{outcome}"}}"#)).await
}

#[tokio::test]
async fn an_event_under_a_client_id_that_is_not_the_devices_own_moves_nobodys_session() {
    let (app, fleet, _database) = with_devices().await;
    fleet.device_of_kind("s", "service").await;
    tell(&app, &connected("a", "a", AT)).await;
    let rows = "SELECT jsonb_agg(to_jsonb(s)) FROM client_sessions s";
    let before: Value = fleet.value(rows).await;
    for client_id in ["a", "s", "s:1", "b:1", "B", "", "undefined", "a/b", "b\u{0}"] {
        tell(&app, &connected_or_not(client_id, connected(client_id, "b", AT + 5))).await;
        let ended = disconnected(client_id, "b", AT, AT + 9, "normal");
        tell(&app, &connected_or_not(client_id, ended)).await;
        let mut report = message("b", "b/main", AT + 7, "00", "1");
        report["clientid"] = json!(client_id);
        tell(&app, &report).await;
    }
    assert_eq!(fleet.value::<Value>(rows).await, before);
    assert!(is_online(&fleet, "a").await && !is_online(&fleet, "b").await);
    assert_eq!((last_seen(&fleet, "b").await, state(&fleet, "b").await), (-1, json!({})));
    assert_eq!(count(&app, "message", "foreign_client_id").await, 9.0);
    assert_eq!(count(&app, "connected", "foreign_client_id").await, 7.0);
}

/// An event of a session names its client id; without one it is none.
fn connected_or_not(client_id: &str, event: Value) -> Value {
    let named = client_id != "undefined" && !client_id.is_empty();
    if named { event } else { json!({"event": "session.terminated"}) }
}

#[tokio::test]
async fn a_disabled_device_changes_nothing_but_that_it_goes() {
    let (app, fleet, _database) = with_devices().await;
    for name in ["a", "b"] {
        tell(&app, &message(name, &format!("{name}/main"), AT, "00", "1")).await;
    }
    tell(&app, &connected("a", "a", AT)).await;
    fleet.enabled("a", false).await.enabled("b", false).await;
    eventually("the change is heard", || async {
        tell(&app, &message("a", "a/main", AT, "00", "1")).await;
        tell(&app, &message("b", "b/main", AT, "00", "1")).await;
        count(&app, "message", "disabled").await >= 4.0
    })
    .await;
    for name in ["a", "b"] {
        tell(&app, &connected(name, name, AT + 10)).await;
        tell(&app, &message(name, &format!("{name}/main"), AT + 11, "00", "2")).await;
        tell(&app, &message(name, "elsewhere", AT + 12, "00", "3")).await;
        assert_eq!(last_seen(&fleet, name).await, AT);
        assert_eq!(state(&fleet, name).await["main"]["value"], 1);
    }
    assert!(is_online(&fleet, "a").await, "until it is told that it went");
    assert!(!is_online(&fleet, "b").await);
    tell(&app, &disconnected("a", "a", AT, AT + 20, "kicked")).await;
    assert!(!is_online(&fleet, "a").await);
    assert_eq!(last_seen(&fleet, "a").await, AT);
}

#[tokio::test]
async fn last_seen_is_when_the_device_itself_was_heard() {
    let (app, fleet, _database) = with_devices().await;
    let began = AT + 1000;
    for (reason, heard) in [
        ("keepalive_timeout", began),
        ("kicked", began),
        ("not_authorized", began),
        ("internal_error", began),
        ("", began),
        ("normal", AT + 9000),
        ("tcp_closed", AT + 9000),
        ("ssl_closed", AT + 9000),
        ("disconnect_with_will_message", AT + 9000),
        ("takenover", began),
        ("discarded", began),
    ] {
        fleet.sql("DELETE FROM device_state", &[]).await;
        tell(&app, &connected("a", "a", began)).await;
        tell(&app, &disconnected("a", "a", began, AT + 9000, reason)).await;
        assert_eq!(last_seen(&fleet, "a").await, heard, "{reason}");
    }
    // The connect is lost: the session that ran out had begun.
    fleet.sql("DELETE FROM device_state", &[]).await;
    tell(&app, &disconnected("a", "a", began, AT + 9000, "keepalive_timeout")).await;
    assert_eq!(last_seen(&fleet, "a").await, began);
}

/// As recorded: EMQX sends a will with the client's id and name, and without its attributes.
#[tokio::test]
async fn a_will_is_a_value_and_no_sign_of_life() {
    let (app, fleet, _database) = with_devices().await;
    let with = |attributes: Value, at: i64, payload: &str| {
        let mut event = message("a", "a/main", at, "00", payload);
        event["client_attrs"] = attributes;
        event
    };
    tell(&app, &with(json!({"device": "a", "kind": "sensor"}), AT, "1")).await;
    tell(&app, &with(json!({}), AT + 10, "\"gone\"")).await;
    assert_eq!(last_seen(&fleet, "a").await, AT);
    assert_eq!(state(&fleet, "a").await["main"]["value"], "gone");
    // Where nobody knows: an older configuration, an older release.
    for (at, unknown) in (AT + 20..).zip([json!("undefined"), json!(null), json!(7), json!([])]) {
        tell(&app, &with(unknown, at, "2")).await;
        assert_eq!(last_seen(&fleet, "a").await, at);
    }
    tell(&app, &message("a", "a/main", AT + 30, "00", "3")).await;
    assert_eq!(last_seen(&fleet, "a").await, AT + 30);
}

/// What logs in is seen, and nothing else: the longest client ids there are.
#[tokio::test]
async fn a_login_and_presence_go_by_one_rule_of_client_ids() {
    let (app, fleet, _database) = start().await;
    fleet.device_of_kind("svc", "service").await;
    let secret = fleet.secret("svc").await;
    for (instance, own) in [(1, true), (124, true), (125, false), (128, false), (0, false)] {
        let client_id = format!("svc:{}", "x".repeat(instance));
        let login = crate::support::app::login_body(&client_id, "svc", &secret, "");
        let answer = app.post("/emqx/authn", &login.to_string()).await.result();
        assert_eq!(answer, if own { "allow" } else { "deny" }, "{instance}");
        tell(&app, &connected(&client_id, "svc", AT)).await;
        assert_eq!(is_online(&fleet, "svc").await, own, "{instance}");
        fleet.sql("DELETE FROM client_sessions", &[]).await;
    }
}
