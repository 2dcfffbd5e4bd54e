//! What a real EMQX sent, byte for byte, and what it must be answered.

use serde_json::Value;

use crate::support::app::{TestApp, start_with};
use crate::support::fleet::Fleet;
use crate::support::wire::Response;

/// The decision for each scenario, in order of arrival where a scenario has several requests.
const LOGINS: &[(&str, &[&str])] = &[
    ("authn_v5_good", &["allow"]),
    ("authn_v311_good", &["allow"]),
    ("authn_wrong_password", &["deny"]),
    ("authn_anonymous", &["deny"]),
    ("authn_username_only", &["deny"]),
    // EMQX made the client id up: it is not the device's own.
    ("authn_empty_clientid_v5", &["deny"]),
    ("authn_unicode", &["allow"]),
    ("authn_quotes_in_values", &["allow"]),
    ("authn_long_password", &["deny"]),
    ("authn_password_looks_numeric", &["allow"]),
    ("authn_tls_client_cert", &["allow"]),
    ("authn_wildcard_clientid", &["deny"]),
    ("authz_publish_qos0", &["allow"]),
    ("message_json", &["allow"]),
    ("disconnect_normal", &["allow"]),
    ("disconnect_tcp_closed", &["allow"]),
    ("disconnect_keepalive_timeout", &["allow"]),
    ("disconnect_takenover_v5_resume", &["allow", "allow"]),
    ("disconnect_discarded_clean_start", &["allow", "allow"]),
    ("disconnect_kicked", &["allow"]),
    ("disconnect_expired", &["allow"]),
    ("disconnect_with_will", &["allow"]),
    ("will_forbidden", &["allow"]),
    // No such device in this registry.
    ("acl_in_authn_response", &["deny"]),
    ("reconnect_same_second", &["allow", "allow", "allow"]),
];

const ACTIONS: &[(&str, &[&str])] = &[
    ("authz_publish_qos0", &["allow"]),
    ("authz_publish_qos1_retain", &["allow"]),
    ("authz_publish_qos2", &["allow"]),
    ("authz_publish_forbidden", &["deny"]),
    ("authz_subscribe_qos1", &["allow"]),
    ("authz_subscribe_wildcard", &["deny"]),
    ("authz_subscribe_shared", &["allow"]),
    ("authz_subscribe_shared_wildcard", &["deny"]),
    ("authz_subscribe_queue", &["allow"]),
    ("authz_subscribe_sys", &["deny"]),
    ("authz_subscribe_exclusive", &["allow"]),
    // `a/1` is granted, `b/2` is not.
    ("authz_subscribe_two_filters", &["allow", "deny"]),
    ("authz_subscribe_forbidden", &["deny"]),
    ("authz_publish_delayed", &["allow"]),
    ("authz_publish_sys", &["deny"]),
    ("message_json", &["allow"]),
    ("message_text", &["allow"]),
    ("message_empty", &["allow"]),
    ("message_empty_retained", &["allow"]),
    ("message_binary", &["allow"]),
    ("message_unicode", &["allow"]),
    ("message_64k", &["allow"]),
    ("message_v5_props", &["allow"]),
    ("disconnect_with_will", &["allow"]),
    ("will_forbidden", &["deny"]),
];

async fn provision(fleet: &Fleet) {
    // Two passwords at once: the recordings were made in two runs, as if one was being rotated.
    fleet
        .device("thermo-1")
        .await
        .password("thermo-1", "secret-1")
        .await
        .password("thermo-1", "s")
        .await;
    fleet.bind("thermo-1", "main", Some("floor2/lab/temp"), Some("floor2/lab/relay/set")).await;
    fleet.bind("thermo-1", "unicode", Some("floor2/läb/témp"), None).await;
    fleet.grant("thermo-1", "subscribe", "a/+").await;
    fleet.device("gerät-ß").await.client_id("gerät-ß", "ünï-✓").await;
    fleet.password("gerät-ß", "pässwörd-✓").await;
    fleet.device("u\"v\\w").await.client_id("u\"v\\w", "a\"b\\c").await;
    fleet.password("u\"v\\w", "p\"\\${username}\n").await;
    fleet.device("42").await.password("42", "12345").await;
    fleet.device("device-7").await.password("device-7", "secret-7").await;
    fleet.certificate("device-7", "device-7", true).await;
    for name in ["relay-1", "expiring", "fast-1"] {
        fleet.device(name).await.password(name, "s").await;
    }
    fleet.bind("relay-1", "main", Some("floor2/lab/relay/gone"), None).await;
}

async fn replay(app: &TestApp, line: &Value) -> Response {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut request = format!("{} {} HTTP/1.1\r\n", text(&line["method"]), text(&line["path"]));
    for (name, value) in line["headers"].as_object().unwrap() {
        request.push_str(&format!("{name}: {}\r\n", text(value)));
    }
    request.push_str("\r\n");
    request.push_str(&text(&line["body"]));
    app.connect().await.exchange(request.as_bytes()).await
}

async fn replay_file(file: &str, path: &str, expected: &[(&str, &[&str])]) {
    // The recordings follow one another faster than wrong passwords let them.
    let (app, fleet, _database) = start_with(|config| config.logins.limits = false).await;
    provision(&fleet).await;
    let mut seen = std::collections::HashMap::<String, Vec<String>>::new();
    let lines = std::fs::read_to_string(file).unwrap();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["path"], path);
        let response = replay(&app, &line).await;
        assert_eq!(response.status, 200, "{line}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        let scenario = line["scenario"].as_str().unwrap().to_owned();
        seen.entry(scenario).or_default().push(response.result());
    }
    for (scenario, decisions) in expected {
        assert_eq!(seen.remove(*scenario).as_deref().unwrap_or_default(), *decisions, "{scenario}");
    }
    assert!(seen.is_empty(), "scenarios without an expected decision: {seen:?}");
}

#[tokio::test]
async fn recorded_logins_are_decided() {
    replay_file("tests/recorded/authn.jsonl", "/emqx/authn", LOGINS).await;
}

#[tokio::test]
async fn recorded_actions_are_decided() {
    replay_file("tests/recorded/authz.jsonl", "/emqx/authz", ACTIONS).await;
}
