//! `fleetgate emqx apply`: what it does to brokers in all kinds of states.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::commands::{fleetgate, run};
use crate::support::fake_emqx::FakeEmqx;
use crate::support::fake_emqx_config::{Broker, Caches, Fault, exchanges};

const TOKEN: &str = "a-token-that-nobody-sees";

/// The calls that a fresh EMQX 5.8 needs, in the only order that is safe.
const FRESH: [&str; 9] = [
    "PUT authorization/settings",
    "POST authentication",
    "POST authorization/sources",
    "DELETE authorization/sources/file",
    "POST connectors",
    "POST actions",
    "POST rules",
    "POST rules",
    "POST rules",
];

/// Exit code, standard output, standard error. None of them ever shows a secret.
async fn apply_with(emqx: &FakeEmqx, secret: &str, flags: &[&str]) -> (i32, String, String) {
    let api = emqx.settings();
    let mut command = fleetgate(&[&["emqx", "apply"], flags].concat());
    command.env("FLEETGATE_EMQX_API_URL", &api.url);
    command.env("FLEETGATE_EMQX_API_KEY", &api.key);
    command.env("FLEETGATE_EMQX_API_SECRET", secret);
    command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN);
    let result = tokio::task::spawn_blocking(|| run(command)).await.unwrap();
    for output in [&result.1, &result.2] {
        assert!(!output.contains(TOKEN) && !output.contains(secret), "a secret: {output}");
    }
    result
}

async fn apply(emqx: &FakeEmqx, flags: &[&str]) -> (i32, String, String) {
    apply_with(emqx, emqx.settings().secret.expose(), flags).await
}

async fn applied() -> FakeEmqx {
    let emqx = FakeEmqx::start().await;
    let (code, _, stderr) = apply(&emqx, &[]).await;
    assert_eq!(code, 0, "{stderr}");
    emqx.broker(|broker| broker.calls.clear());
    emqx
}

fn calls(emqx: &FakeEmqx) -> Vec<String> {
    emqx.broker(|broker| {
        broker.calls.iter().map(|call| format!("{} {}", call.method, call.path)).collect()
    })
}

/// Everything that a run may change, secrets in the clear.
fn state(emqx: &FakeEmqx) -> Value {
    emqx.broker(|broker| {
        json!([
            broker.settings,
            broker.caches.as_ref().map(|caches| [&caches.logins, &caches.actions]),
            broker.authenticators,
            broker.sources,
            broker.connector,
            broker.action,
            broker.rules
        ])
    })
}

fn never_more_open(before: [bool; 3], emqx: &FakeEmqx) {
    let mut last = before;
    for exposure in emqx.broker(|broker| broker.exposures.clone()) {
        for (was, is) in last.into_iter().zip(exposure.holes()) {
            assert!(was || !is, "a step opened it: {exposure:?}");
        }
        last = exposure.holes();
    }
}

#[tokio::test]
async fn a_fresh_broker_gets_all_it_needs() {
    let emqx = FakeEmqx::start().await;
    let before = emqx.broker(|broker| broker.exposure().holes());
    let (code, stdout, stderr) = apply(&emqx, &["--fleetgate-url", "http://10.0.0.7:8080/"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(calls(&emqx), FRESH);
    assert!(stdout.ends_with("9 changes made.\n"), "{stdout}");
    assert!(stderr.contains("Sessions that were open before"), "{stderr}");
    never_more_open(before, &emqx);
    emqx.broker(|broker| {
        assert_eq!(broker.exposure().holes(), [false; 3]);
        let bearer = json!(format!("Bearer {TOKEN}"));
        let authenticator = &broker.authenticators[0];
        assert_eq!(authenticator["url"], "http://10.0.0.7:8080/emqx/authn");
        assert_eq!(authenticator["headers"]["authorization"], bearer);
        assert_eq!(authenticator["enable_pipelining"], 1);
        assert_eq!(broker.sources.len(), 1);
        assert_eq!(broker.sources[0]["url"], "http://10.0.0.7:8080/emqx/authz");
        assert_eq!(broker.settings["cache"]["enable"], false);
        assert_eq!(broker.connector.as_ref().unwrap()["url"], "http://10.0.0.7:8080");
        let action = broker.action.as_ref().unwrap();
        assert_eq!(action["parameters"]["headers"]["authorization"], bearer);
        assert_eq!(action["resource_opts"]["request_ttl"], "infinity");
        assert_eq!(broker.rules.len(), 3);
    });
}

#[tokio::test]
async fn a_second_run_changes_nothing() {
    let emqx = applied().await;
    let (code, stdout, _) = apply(&emqx, &[]).await;
    assert_eq!((code, calls(&emqx)), (0, Vec::new()), "{stdout}");
    assert!(stdout.contains("nothing to change"), "{stdout}");
    let (_, stdout, _) = apply(&emqx, &["--json"]).await;
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result, json!({"dry_run": false, "changes": [], "left_alone": []}));
}

#[tokio::test]
async fn a_dry_run_shows_all_and_changes_nothing() {
    let emqx = FakeEmqx::start().await;
    let before = state(&emqx);
    let (code, stdout, _) = apply(&emqx, &["--dry-run"]).await;
    assert_eq!((code, calls(&emqx)), (0, Vec::new()));
    assert_eq!(state(&emqx), before);
    for part in [
        "would change authorization settings (PUT /api/v5/authorization/settings)",
        "no_match: \"allow\" → \"deny\"",
        "would create authenticator",
        "headers.authorization: \"******\"",
        "would delete authorization source file",
        "{allow, all}",
        "9 changes to make; nothing was changed",
    ] {
        assert!(stdout.contains(part), "no {part:?} in {stdout}");
    }
    let (_, stdout, _) = apply(&emqx, &["--dry-run", "--json"]).await;
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["changes"].as_array().unwrap().len(), 9);
    assert_eq!(result["changes"][1]["kind"], "create");

    emqx.broker(|broker| broker.unreadable = Some("listeners"));
    let (code, _, stderr) = apply(&emqx, &["--dry-run"]).await;
    assert!(code == 1 && stderr.contains("Nothing was changed before it"), "{stderr}");
    let (code, _, stderr) = apply(&emqx, &[]).await;
    assert!(code == 1 && stderr.contains("Done before it: PUT"), "{stderr}");
}

#[tokio::test]
async fn a_broker_that_remembers_for_the_whole_node_forgets() {
    let emqx = FakeEmqx::start().await;
    emqx.broker(|broker| broker.caches = Some(Caches::since_6_2()));
    let before = state(&emqx);
    let (code, stdout, _) = apply(&emqx, &["--dry-run"]).await;
    assert_eq!((code, state(&emqx)), (0, before));
    for part in [
        "would change authentication settings (PUT /api/v5/authentication/settings)\n  \
         node_cache.enable: true → false",
        "would change authorization node cache (PUT /api/v5/authorization/node_cache)\n  \
         enable: true → false",
        "11 changes to make",
    ] {
        assert!(stdout.contains(part), "no {part:?} in {stdout}");
    }
    let (code, _, stderr) = apply(&emqx, &[]).await;
    assert_eq!(code, 0, "{stderr}");
    let mut expected = FRESH.to_vec();
    expected.splice(1..1, ["PUT authentication/settings", "PUT authorization/node_cache"]);
    assert_eq!(calls(&emqx), expected);
    let mut off = Caches::since_6_2();
    off.logins["node_cache"]["enable"] = json!(false);
    off.actions["enable"] = json!(false);
    assert_eq!(emqx.broker(|broker| broker.caches.clone()), Some(off), "the rest of it stays");
    let (_, stdout, _) = apply(&emqx, &[]).await;
    assert!(stdout.contains("nothing to change"), "{stdout}");
    emqx.broker(|broker| {
        broker.calls.clear();
        broker.caches.as_mut().unwrap().logins["node_cache"]["enable"] = json!(true);
    });
    apply(&emqx, &[]).await;
    assert_eq!(calls(&emqx), ["PUT authentication/settings"]);
}

/// A way in which a broker differs from what it should be, and the call that repairs it.
type Drift = (&'static str, fn(&mut Broker));

const DRIFTS: [Drift; 21] = [
    ("PUT authorization/settings", |b| b.settings["no_match"] = json!("allow")),
    ("PUT authorization/settings", |b| b.settings["cache"]["enable"] = json!(true)),
    ("PUT authorization/settings", |b| b.settings["deny_action"] = json!("disconnect")),
    ("PUT authentication/password_based:http", |b| b.authenticators[0]["enable"] = json!(false)),
    ("PUT authentication/password_based:http", |b| {
        b.authenticators[0]["url"] = json!("http://10.0.0.8:8080/emqx/authn");
    }),
    ("PUT authentication/password_based:http", |b| {
        b.authenticators[0]["body"].as_object_mut().unwrap().remove("cert_common_name");
    }),
    ("PUT authentication/password_based:http", |b| {
        b.authenticators[0]["headers"].as_object_mut().unwrap().remove("authorization");
    }),
    ("POST authentication", |b| b.authenticators.clear()),
    ("PUT authentication/password_based:http/position/front", |b| {
        b.authenticators.insert(0, json!({"id": "password_based:built_in_database"}));
    }),
    ("PUT authorization/sources/http", |b| b.sources[0]["enable_pipelining"] = json!(100)),
    ("POST authorization/sources/http/move", |b| {
        b.sources.insert(0, json!({"type": "built_in_database", "enable": true}));
    }),
    ("DELETE authorization/sources/file", |b| {
        b.sources.push(json!({"type": "file", "enable": false, "rules": "{allow, all}."}));
    }),
    ("PUT connectors/http:fleetgate", |b| b.connector.as_mut().unwrap()["pool_size"] = json!(8)),
    ("PUT connectors/http:fleetgate", |b| {
        b.connector.as_mut().unwrap()["resource_opts"]["health_check_interval"] = json!("15s");
    }),
    ("PUT actions/http:fleetgate_events", |b| {
        b.action.as_mut().unwrap()["resource_opts"]["request_ttl"] = json!("45s");
    }),
    ("PUT actions/http:fleetgate_events", |b| b.action.as_mut().unwrap()["enable"] = json!(false)),
    ("PUT rules/fleetgate_messages", |b| {
        b.rules["fleetgate_messages"]["sql"] = json!("SELECT * FROM \"#\"");
    }),
    ("PUT rules/fleetgate_presence", |b| b.rules["fleetgate_presence"]["actions"] = json!([])),
    ("POST rules", |b| drop(b.rules.remove("fleetgate_messages"))),
    ("PUT rules/fleetgate_commands", |b| {
        b.rules["fleetgate_commands"]["sql"] = json!("SELECT * FROM \"$events/message_acked\"");
    }),
    // An EMQX that was configured by a release without commands.
    ("POST rules", |b| drop(b.rules.remove("fleetgate_commands"))),
];

#[tokio::test]
async fn what_emqx_fills_in_for_a_file_is_no_change() {
    let emqx = applied().await;
    emqx.broker(Broker::made_by_file);
    let (code, stdout, _) = apply(&emqx, &[]).await;
    assert_eq!((code, calls(&emqx)), (0, Vec::new()), "{stdout}");
    assert!(stdout.contains("nothing to change"), "{stdout}");
    // What somebody added is one.
    emqx.broker(|broker| {
        broker.connector.as_mut().unwrap()["headers"]["authorization"] = json!("Basic theirs");
    });
    let (_, stdout, _) = apply(&emqx, &[]).await;
    assert!(stdout.contains("headers.authorization: \"******\" → nothing"), "{stdout}");
    assert!(!stdout.contains("keep-alive") && !stdout.contains("theirs"), "{stdout}");
    assert_eq!(calls(&emqx), ["PUT connectors/http:fleetgate"]);
}

#[tokio::test]
async fn a_deleted_source_is_told_in_a_line() {
    let emqx = FakeEmqx::start().await;
    let rules = "%% A comment of the file that comes with EMQX.\n".repeat(200) + "{allow, all}.\n";
    emqx.broker(|broker| broker.sources[0]["rules"] = json!(rules));
    for flags in [&["--dry-run"][..], &[]] {
        let (_, stdout, _) = apply(&emqx, flags).await;
        let mut after =
            stdout.lines().skip_while(|line| !line.contains("authorization source file"));
        let rules = after.nth(1).unwrap();
        assert!(rules.contains("rules:") && rules.len() < 120, "{stdout}");
        assert!(stdout.lines().all(|line| line.len() < 400), "{stdout}");
    }
}

#[tokio::test]
async fn each_drift_is_found_and_repaired_by_one_call() {
    let emqx = applied().await;
    for (call, drift) in DRIFTS {
        emqx.broker(|broker| {
            drift(broker);
            broker.calls.clear();
            broker.exposures.clear();
        });
        let before = emqx.broker(|broker| broker.exposure().holes());
        let at = ["--fleetgate-url", "http://fleetgate:8080"];
        let (_, dry, _) = apply(&emqx, &[&at[..], &["--dry-run", "--json"]].concat()).await;
        let dry: Value = serde_json::from_str(&dry).unwrap();
        assert_eq!(dry["changes"].as_array().unwrap().len(), 1, "{call}: {dry}");
        let (code, _, stderr) = apply(&emqx, &at).await;
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(calls(&emqx), [call]);
        never_more_open(before, &emqx);
        let (_, stdout, _) = apply(&emqx, &at).await;
        assert!(stdout.contains("nothing to change"), "{call}: {stdout}");
    }
}

#[tokio::test]
async fn what_others_set_up_is_left_alone_and_told() {
    let emqx = FakeEmqx::start().await;
    emqx.broker(|broker| {
        broker.authenticators.push(json!({"id": "password_based:built_in_database"}));
        broker.sources.push(json!({"type": "built_in_database", "enable": true}));
    });
    let (code, stdout, stderr) = apply(&emqx, &[]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("moved authenticator"), "{stdout}");
    for part in ["authenticator password_based:built_in_database", "source built_in_database"] {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    emqx.broker(|broker| {
        assert_eq!(broker.authenticators[0]["id"], "password_based:http");
        assert_eq!((broker.authenticators.len(), broker.sources.len()), (2, 2));
    });
}

#[tokio::test]
async fn flapping_detection_is_told_and_left_to_the_operator() {
    let emqx = applied().await;
    emqx.broker(|broker| broker.zone = Some(json!({"flapping_detect": {"enable": true}})));
    let (code, stdout, stderr) = apply(&emqx, &[]).await;
    assert_eq!((code, calls(&emqx)), (0, Vec::new()), "{stdout}");
    assert!(stderr.contains("flapping_detect is on"), "{stderr}");
    let (_, stdout, _) = apply(&emqx, &["--json"]).await;
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["hazards"].as_array().unwrap().len(), 1, "{result}");
}

/// The key's role need not reach everything, and what it does not reach is nothing that `apply` changes.
#[tokio::test]
async fn limits_that_the_key_may_not_read_are_passed_over() {
    for path in ["configs/global_zone", "banned?page=1&limit=100", "listeners"] {
        let emqx = FakeEmqx::start().await;
        emqx.broker(|broker| broker.forbidden = Some(path));
        let (code, stdout, stderr) = apply(&emqx, &[]).await;
        assert_eq!((code, calls(&emqx).len()), (0, FRESH.len()), "{path}: {stderr}");
        assert!(stdout.ends_with("9 changes made.\n"), "{stdout}");
    }
}

#[tokio::test]
async fn a_token_is_sent_again_on_demand_only() {
    let emqx = applied().await;
    emqx.broker(|broker| {
        broker.authenticators[0]["headers"]["authorization"] = json!("Bearer old");
    });
    let (_, stdout, _) = apply(&emqx, &[]).await;
    assert!(stdout.contains("nothing to change"), "EMQX does not show it: {stdout}");
    let (code, _, stderr) = apply(&emqx, &["--rotate-token"]).await;
    assert_eq!(code, 0, "{stderr}");
    let expected = [
        "PUT authentication/password_based:http",
        "PUT authorization/sources/http",
        "PUT actions/http:fleetgate_events",
    ];
    assert_eq!(calls(&emqx), expected);
    let token = emqx.broker(|broker| broker.authenticators[0]["headers"]["authorization"].clone());
    assert_eq!(token, json!(format!("Bearer {TOKEN}")));
}

/// Where the parts of a broker take Fleetgate to be.
fn places(emqx: &FakeEmqx) -> [Value; 3] {
    emqx.broker(|broker| {
        let connector = broker.connector.as_ref().unwrap()["url"].clone();
        [broker.authenticators[0]["url"].clone(), broker.sources[0]["url"].clone(), connector]
    })
}

#[tokio::test]
async fn without_a_url_emqx_stays_with_the_fleetgate_that_it_asks() {
    let emqx = FakeEmqx::start().await;
    apply(&emqx, &["--fleetgate-url", "http://10.0.0.7:8080"]).await;
    emqx.broker(|broker| broker.calls.clear());
    let there = places(&emqx);
    assert_eq!(there[2], "http://10.0.0.7:8080");
    let (code, _, stderr) = apply(&emqx, &["--rotate-token"]).await;
    assert!(code == 0 && stderr.contains("EMQX reaches Fleetgate at http://10.0.0.7:8080;"));
    assert_eq!((places(&emqx), calls(&emqx).len()), (there.clone(), 3), "the token alone");
    // The authenticator says it, then the source, then the connector.
    for with_source in [true, false] {
        emqx.broker(|broker| {
            broker.authenticators.clear();
            broker.sources.truncate(usize::from(with_source));
        });
        let (code, _, stderr) = apply(&emqx, &[]).await;
        assert_eq!((code, places(&emqx)), (0, there.clone()), "{stderr}");
    }
    // It is moved by saying so, and a run that broke off is completed without saying it again.
    emqx.broker(|broker| broker.fault = Some((broker.calls.len() + 1, Fault::Refused)));
    apply(&emqx, &["--fleetgate-url", "http://10.0.0.8:8080"]).await;
    emqx.broker(|broker| broker.fault = None);
    apply(&emqx, &[]).await;
    assert_eq!(places(&emqx)[2], "http://10.0.0.8:8080");
}

#[tokio::test]
async fn a_url_that_it_would_not_set_up_is_not_taken_over() {
    let emqx = applied().await;
    emqx.broker(|b| b.authenticators[0]["url"] = json!("https://u:hush@f:8443/emqx/authn"));
    let (code, _, stderr) = apply(&emqx, &["--rotate-token"]).await;
    assert_eq!((code, calls(&emqx)), (1, Vec::new()), "{stderr}");
    assert!(stderr.contains("--fleetgate-url") && !stderr.contains("hush"), "{stderr}");
}

/// An authenticator or source that asks another service, and the calls that replace it when that is wanted.
type Other = (fn(&mut Broker), &'static str, [&'static str; 2]);

const OTHERS: [Other; 2] = [
    (
        |b| {
            let url = "http://u:hush@legacy:9000/auth?key=hush";
            let http = json!({"id": "password_based:http", "enable": true, "url": url});
            b.authenticators.push(http);
        },
        "authenticator",
        ["PUT authentication/password_based:http", "POST authorization/sources"],
    ),
    (
        |b| {
            b.sources
                .push(json!({"type": "http", "enable": false, "url": "http://legacy:9000/acl"}));
        },
        "authorization source http",
        ["POST authentication", "PUT authorization/sources/http"],
    ),
];

#[tokio::test]
async fn what_asks_another_service_is_replaced_only_when_that_is_wanted() {
    for (other, name, replaced) in OTHERS {
        let emqx = FakeEmqx::start().await;
        emqx.broker(other);
        let before = state(&emqx);
        for flags in [&["--dry-run"][..], &[], &["--rotate-token"]] {
            let (code, stdout, stderr) = apply(&emqx, flags).await;
            assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
            for part in
                [name, "asks http://legacy:9000/a", "--replace-others", "Nothing was changed"]
            {
                assert!(stderr.contains(part), "no {part:?} in {stderr}");
            }
            assert!(!stderr.contains("hush"), "{stderr}");
            assert_eq!(state(&emqx), before);
        }
        let (code, stdout, _) = apply(&emqx, &["--replace-others", "--dry-run"]).await;
        assert!(code == 0 && !stdout.contains("hush"), "{stdout}");
        let (code, _, stderr) = apply(&emqx, &["--replace-others"]).await;
        assert_eq!(code, 0, "{stderr}");
        assert!(replaced.iter().all(|call| calls(&emqx).contains(&(*call).to_owned())));
        let (_, stdout, _) = apply(&emqx, &[]).await;
        assert!(stdout.contains("nothing to change"), "{stdout}");
    }
}

/// Brokers as they may be found.
const BEGINNINGS: [fn(&mut Broker); 5] = [
    |_| {},
    // Anybody logs in, nobody may do anything.
    |b| b.sources[0]["rules"] = json!("{deny, all}."),
    // A file that denies, and nothing behind it.
    |b| {
        b.sources[0]["rules"] = json!("{deny, all}.");
        b.authenticators.push(json!({"id": "password_based:built_in_database", "enable": true}));
    },
    |b| b.settings["no_match"] = json!("deny"),
    |b| b.caches = Some(Caches::since_6_2()),
];

#[tokio::test]
async fn a_run_that_breaks_off_opens_nothing_and_the_next_one_completes() {
    for beginning in BEGINNINGS {
        for change in 0..FRESH.len() {
            let emqx = FakeEmqx::start().await;
            let before = emqx.broker(|broker| {
                beginning(broker);
                broker.fault = Some((change, Fault::Refused));
                broker.exposure().holes()
            });
            let (code, stdout, stderr) = apply(&emqx, &[]).await;
            assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
            assert!(stderr.contains("/api/v5/") && stderr.contains("Run the command again"));
            assert_eq!(stderr.contains("Done before it"), change > 0, "{stderr}");
            never_more_open(before, &emqx);
            emqx.broker(|broker| broker.fault = None);
            let (code, _, stderr) = apply(&emqx, &[]).await;
            assert_eq!(code, 0, "{stderr}");
            never_more_open(before, &emqx);
            let end = emqx.broker(|broker| broker.exposure().holes());
            assert_eq!(end, [false; 3]);
        }
    }
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_not_made_twice() {
    let emqx = FakeEmqx::start().await;
    emqx.broker(|broker| broker.fault = Some((1, Fault::AnswerLost)));
    // Each lost answer looks like a broker that is away, which after some is not asked for a while.
    for _ in 0..FRESH.len() {
        if apply(&emqx, &[]).await.0 == 0 {
            break;
        }
    }
    let mut made = calls(&emqx);
    made.retain(|call| call.starts_with("POST"));
    assert_eq!(made.len(), 7, "{made:?}");
    let (code, stdout, _) = apply(&emqx, &[]).await;
    assert!(code == 0 && stdout.contains("nothing to change"), "{stdout}");
}

#[tokio::test]
async fn a_wrong_key_names_the_setting() {
    let emqx = FakeEmqx::start().await;
    let (code, _, stderr) = apply_with(&emqx, "another-secret", &[]).await;
    assert_eq!(code, 1);
    for part in ["GET /api/v5/authentication", "emqx.api_secret", "Nothing was changed"] {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    emqx.go_away();
    let (code, _, stderr) = apply(&emqx, &[]).await;
    assert!(code == 1 && stderr.contains("emqx.api_url"), "{stderr}");
}

#[test]
fn without_an_api_it_says_what_to_set() {
    let mut command = fleetgate(&["emqx", "apply"]);
    command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN);
    let (code, _, stderr) = run(command);
    assert!(code == 2 && stderr.contains("emqx.api_url"), "{stderr}");
}

/// Every key with the objects around it; what clients are asked for is free.
fn keys(value: &Value, around: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = format!("{around}/{key}");
        if key != "body" {
            found.extend(keys(value, &name));
        }
        found.insert(name);
    }
    found
}

/// EMQX accepted the recorded requests. What is sent besides is in its answers.
#[tokio::test]
async fn requests_have_the_shape_that_emqx_accepted() {
    let emqx = applied().await;
    let (code, _, stderr) = apply(&emqx, &["--rotate-token"]).await;
    assert_eq!(code, 0, "{stderr}");
    let mut sent = emqx.broker(|broker| broker.calls.clone());
    let fresh = FakeEmqx::start().await;
    apply(&fresh, &[]).await;
    sent.extend(fresh.broker(|broker| broker.calls.clone()));
    assert_eq!(sent.len(), 3 + FRESH.len());
    for call in sent {
        let path = format!("/api/v5/{}", call.path);
        let path = path.replace("fleetgate_messages", "fleetgate_presence");
        let path = path.replace("fleetgate_commands", "fleetgate_presence");
        let all = exchanges();
        let same = all.iter().find(|e| e.method == call.method && e.path == path);
        let same = same.unwrap_or_else(|| panic!("{} {path} was not recorded", call.method));
        assert!((200..300).contains(&same.status), "{} {path}", call.method);
        let (ours, theirs) = (keys(&call.body, ""), keys(&same.request, ""));
        let missing: Vec<_> = theirs.difference(&ours).collect();
        assert!(missing.is_empty(), "{} {path} lacks {missing:?}", call.method);
        let shown: Vec<_> = match path.as_str() {
            "/api/v5/authentication/password_based:http" => vec!["/enable"],
            _ => keys(&same.response, "").into_iter().map(|key| key.leak() as &str).collect(),
        };
        let added: Vec<_> =
            ours.difference(&theirs).filter(|key| !shown.contains(&key.as_str())).collect();
        assert!(added.is_empty(), "{} {path} has {added:?}", call.method);
    }
}
