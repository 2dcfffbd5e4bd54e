//! `emqx-config/README.md`: its REST calls are run as they stand there, by a shell, with a stand-in for
//! curl that keeps what it would have sent.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::emqx::{authentication, authorization, block, configuration, template, values};
use crate::text_of;

const KEEPING_CURL: &str = r#"#!/bin/sh
while [ "$1" != -X ]; do shift; done
printf '%s %s\n' "$2" "${3#http://127.0.0.1:18083/api/v5/}" >>calls
tr '\n' ' ' >>calls
echo >>calls
"#;

/// The calls in order: method and path, and the body.
fn calls() -> Vec<(String, Value)> {
    let page = text_of("emqx-config/README.md");
    let section = page.split_once("## REST API\n").unwrap().1;
    let script = section.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("curl");
    fs::write(&program, KEEPING_CURL).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    for secret in ["api-key", "api-secret", "webhook-token"] {
        fs::write(directory.path().join(secret), "0123456789abcdef\n").unwrap();
    }
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("/bin/sh");
    let shell = shell.args(["-euc", script]).current_dir(directory.path()).env("PATH", path);
    assert!(shell.status().unwrap().success());
    let kept = fs::read_to_string(directory.path().join("calls")).unwrap();
    let lines = kept.lines().collect::<Vec<_>>();
    let read = |body: &str| match body.trim() {
        "" => Value::Null,
        body => serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body}")),
    };
    lines.chunks(2).map(|call| (call[0].to_owned(), read(call[1]))).collect()
}

fn keys(body: &Value) -> BTreeSet<String> {
    body["body"].as_object().unwrap().keys().cloned().collect()
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
        ]
    );
    let [_, settings, login_cache, action_cache, login, source, connector, action, rules @ ..] =
        &*calls
    else {
        panic!()
    };
    assert_eq!(settings.1["no_match"], "deny");
    assert_eq!(login_cache.1, json!({"node_cache": {"enable": false}}));
    assert_eq!(action_cache.1, json!({"enable": false}));
    assert_eq!(keys(&login.1), template(&authentication()));
    assert_eq!(keys(&source.1), template(&authorization()));
    assert_eq!(login.1["body"]["clientid"], "${clientid}");
    assert_eq!(login.1["headers"]["authorization"], "Bearer 0123456789abcdef");
    let text = configuration();
    let urls = [&login.1, &source.1, &connector.1].map(|body| body["url"].as_str().unwrap());
    assert_eq!(values(&text, "url"), urls);
    assert_eq!(action.1["parameters"]["path"], "/emqx/events");
    assert_eq!(action.1["resource_opts"]["request_ttl"], "infinity");
    for (_, rule) in rules {
        let name = rule["id"].as_str().unwrap();
        let sql = values(&block(&text, &format!("rule_engine.rules.{name}")), "sql").remove(0);
        assert_eq!(rule["sql"], sql.replace("\\\"", "\""));
        assert_eq!(rule["actions"], json!(["http:fleetgate_events"]));
    }
}
