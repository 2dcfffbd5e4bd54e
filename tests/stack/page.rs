//! `emqx-config/README.md`: its REST calls are run as they stand there, by a shell, with a stand-in for
//! curl that keeps what it would have sent.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fleetgate::emqx::setup::HIDDEN;
use serde_json::Value;

use crate::state::{State, configured, flatten, with_token, without_names};
use crate::text_of;

const KEEPING_CURL: &str = r#"#!/bin/sh
while [ "$1" != -X ]; do shift; done
printf '%s %s\n' "$2" "${3#http://127.0.0.1:18083/api/v5/}" >>calls
tr '\n' ' ' >>calls
echo >>calls
"#;

/// The calls as they stand there.
pub(crate) fn script() -> String {
    let page = text_of("emqx-config/README.md");
    let section = page.split_once("## REST API\n").unwrap().1;
    section.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0.to_owned()
}

/// The calls in order: method and path, and the body.
fn calls() -> Vec<(String, Value)> {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("curl");
    fs::write(&program, KEEPING_CURL).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    for secret in ["api-key", "api-secret", "webhook-token"] {
        fs::write(directory.path().join(secret), "0123456789abcdef\n").unwrap();
    }
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("/bin/sh");
    let shell = shell.args(["-euc", &script()]).current_dir(directory.path()).env("PATH", path);
    assert!(shell.status().unwrap().success());
    let kept = fs::read_to_string(directory.path().join("calls")).unwrap();
    let lines = kept.lines().collect::<Vec<_>>();
    let read = |body: &str| match body.trim() {
        "" => Value::Null,
        body => serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body}")),
    };
    lines.chunks(2).map(|call| (call[0].to_owned(), read(call[1]))).collect()
}

#[test]
fn its_rest_calls_lead_to_the_same_state() {
    let calls = calls();
    let order = calls.iter().map(|(call, _)| call.as_str()).collect::<Vec<_>>();
    assert_eq!(
        order,
        [
            "DELETE authorization/sources/file",
            "PUT authorization/settings",
            "PUT authentication/settings",
            "PUT authorization/node_cache",
            "POST authentication",
            "POST authorization/sources",
            "POST connectors",
            "POST actions",
            "POST rules",
            "POST rules",
            "POST rules",
        ]
    );
    let places = [
        "authorization",
        "authentication_settings",
        "authorization.node_cache",
        "authentication.0",
        "authorization.sources.0",
        "connectors.http.fleetgate",
        "actions.http.fleetgate_events",
        "rule_engine.rules.fleetgate_presence",
        "rule_engine.rules.fleetgate_messages",
        "rule_engine.rules.fleetgate_commands",
    ];
    let mut told = State::new();
    for (place, (_, body)) in places.iter().zip(&calls[1..]) {
        flatten(place, body, &mut told);
    }
    for (path, value) in &mut told {
        if path.ends_with(".authorization") {
            assert_eq!(*value, "Bearer 0123456789abcdef");
            *value = HIDDEN.into();
        }
    }
    let configured = with_token(configured());
    let mut told = without_names(told);
    // EMQX takes these settings as a whole only; and it enables what is made, unless it is told otherwise.
    for default in ["max_size", "ttl", "excludes"] {
        assert!(told.remove(&format!("authorization.cache.{default}")).is_some(), "{default}");
    }
    told.retain(|path, value| {
        configured.contains_key(path) || !path.ends_with(".enable") || value != true
    });
    assert_eq!(told, configured);
}
