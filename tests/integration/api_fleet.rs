//! The HTTP API: everything besides devices that the command line can do to the fleet.

use fleetgate::domain::api_token::Scope;
use serde_json::{Value, json};

use crate::support::api::{ApiClient, make_token, start_api};
use crate::support::app::{eventually, start_with};
use crate::support::bus::{connected, message, now};
use crate::support::fake_emqx::FakeEmqx;

async fn device(root: &ApiClient, name: &str) {
    let body = json!({"kind": "sensor", "area": "lab", "floor": "1"});
    assert_eq!(root.put(&format!("/devices/{name}"), &body).await.status, 201);
}

#[tokio::test]
async fn credentials_let_a_device_in_until_they_are_revoked() {
    let (app, root, fleet, _database) = start_api().await;
    device(&root, "a").await;
    device(&root, "b").await;
    let made =
        root.post("/devices/a/credentials", &json!({"kind": "secret", "label": "first"})).await;
    assert_eq!((made.status, made.header("cache-control")), (201, Some("no-store")));
    let (secret, id) =
        (made.json()["secret"].as_str().unwrap().to_owned(), made.json()["id"].clone());
    eventually("the secret lets it in", || app.lets_in("a", &secret)).await;
    let password = json!({"kind": "password", "password": "correct horse", "expires_at": "2099-01-01T00:00:00Z"});
    let chosen = root.post("/devices/a/credentials", &password).await;
    assert_eq!(chosen.status, 201);
    assert!(chosen.json().get("secret").is_none() && !chosen.body.contains("correct horse"));
    eventually("the password lets it in", || app.lets_in("a", "correct horse")).await;
    let certificate = json!({"kind": "certificate", "common_name": "a.example", "required": false});
    assert_eq!(root.post("/devices/a/credentials", &certificate).await.status, 201);

    // No secret and no hash in any other answer.
    let hash: String =
        fleet.value("SELECT hash FROM device_credentials WHERE kind = 'secret'").await;
    for path in ["/devices/a", "/devices/a/credentials", "/devices", "/tokens", "/devices/a/state"]
    {
        let body = root.get(path).await.body;
        for hidden in [&secret, &hash, "argon2id", "correct horse", &root.token] {
            assert!(!body.contains(hidden), "{path}: {body}");
        }
    }
    let listed = root.get("/devices/a/credentials").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 3);

    let of_another = root.delete(&format!("/devices/b/credentials/{id}")).await;
    assert_eq!(of_another.problem(404).0, "not_found", "it is not that device's");
    assert_eq!(
        root.delete(&format!("/devices/a/credentials/{id}")).await.json(),
        json!({"id": id, "was_valid": true, "outcome": "revoked"})
    );
    assert_eq!(
        root.delete(&format!("/devices/a/credentials/{id}")).await.json()["was_valid"],
        false
    );
    eventually("it is refused", || async { !app.lets_in("a", &secret).await }).await;

    for (body, pointers) in [
        (json!({"kind": "password"}), &["/password"][..]),
        (json!({"kind": "password", "password": "short"}), &["/password"]),
        (json!({"kind": "password", "password": "a\nb\nlong enough"}), &["/password"]),
        (
            json!({"kind": "secret", "password": "x", "common_name": "y"}),
            &["/password", "/common_name"],
        ),
        (json!({"kind": "certificate", "common_name": "undefined"}), &["/common_name"]),
        (json!({"kind": "secret", "label": ""}), &["/label"]),
        (json!({"kind": "token"}), &["/kind"]),
        (json!({"kind": "secret", "expires_at": "tomorrow"}), &["/expires_at"]),
        (
            json!({"kind": "secret", "not_before": "2030-01-01T00:00:00Z", "expires_at": "2029-01-01T00:00:00Z"}),
            &["/expires_at"],
        ),
    ] {
        let answer = root.post("/devices/a/credentials", &body).await;
        assert_eq!(answer.problem(422).1, pointers, "{body}: {}", answer.body);
    }
    let reader =
        root.with(&make_token(&_database.url, "devices", &[Scope::Read, Scope::Devices]).await);
    let refused = reader.post("/devices/a/credentials", &json!({"kind": "secret"})).await;
    assert_eq!(refused.problem(403).0, "scope_missing", "who changes devices makes no credentials");
}

#[tokio::test]
async fn bindings_and_grants_are_rights_and_authorize_tells_which() {
    let (app, root, _fleet, _database) = start_api().await;
    device(&root, "a").await;
    assert_eq!(root.put("/capabilities/temperature", &json!({})).await.status, 201);
    let made = root.put("/devices/a/bindings/temperature", &json!({"conventional": true})).await;
    assert_eq!(
        (made.status, &made.json()["state_topic"]),
        (201, &json!("lab/1/a/temperature/state"))
    );
    let exact = json!({"state_topic": "x/state", "command_topic": "x/set", "reply_topic": "x/reply", "merge": true});
    let replaced = root.put("/devices/a/bindings/temperature", &exact).await;
    assert_eq!(replaced.status, 200);
    assert_eq!(
        replaced.json(),
        json!({"name": "temperature", "state_topic": "x/state", "command_topic": "x/set", "reply_topic": "x/reply", "merge": true})
    );
    assert_eq!(root.get("/devices/a/bindings").await.json(), json!([replaced.json()]));
    let grant = json!({"action": "publish", "topic_filter": "logs/#"});
    let given = root.post("/devices/a/grants", &grant).await;
    assert_eq!(given.status, 201);
    let id = given.json()["id"].clone();
    let again = root.post("/devices/a/grants", &grant).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &id));

    let ask = async |device: &str, action: &str, topic: &str| {
        let body = json!({"device": device, "action": action, "topic": topic});
        let answer = root.post("/authorize", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    eventually("the rights are heard of", || async {
        ask("a", "publish", "logs/x").await["allowed"] == true
    })
    .await;
    let bound = json!([{"device": "a", "binding": "temperature", "grant": null}]);
    for (action, topic, right) in [
        ("publish", "x/state", "state_topic"),
        ("publish", "x/reply", "reply_topic"),
        ("subscribe", "x/set", "command_topic"),
        ("subscribe", "$share/g/x/set", "command_topic"),
    ] {
        let answer = ask("a", action, topic).await;
        assert_eq!((&answer["right"], &answer["rows"]), (&json!(right), &bound), "{topic}");
    }
    let by_grant = ask("a", "publish", "logs/deep/down").await;
    assert_eq!(
        by_grant,
        json!({"allowed": true, "refused": null, "right": "grant", "topic": "logs/#",
        "rows": [{"device": "a", "binding": null, "grant": id}]})
    );
    // What EMQX is told is the same.
    for (name, action, topic) in [
        ("a", "publish", "x/state"),
        ("a", "publish", "x/set"),
        ("a", "subscribe", "x/set"),
        ("a", "subscribe", "logs/#"),
        ("a", "publish", "logs/1"),
        ("a", "publish", "a/#"),
        ("nobody", "publish", "x/state"),
        ("a", "publish", "fleetgate/results/a/1"),
    ] {
        let allowed = ask(name, action, topic).await["allowed"] == true;
        assert_eq!(
            app.action(name, action, topic).await.result() == "allow",
            allowed,
            "{name} {action} {topic}"
        );
    }
    assert_eq!(ask("nobody", "publish", "x").await["refused"], "unknown_device");
    assert_eq!(ask("a", "publish", "a/#").await["refused"], "malformed_topic");
    assert_eq!(ask("a", "publish", "y").await["refused"], "not_granted");

    assert_eq!(root.delete(&format!("/devices/a/grants/{id}")).await.status, 204);
    assert_eq!(root.delete(&format!("/devices/a/grants/{id}")).await.problem(404).0, "not_found");
    assert_eq!(root.delete("/devices/a/bindings/temperature").await.status, 204);
    assert_eq!(root.delete("/devices/a/bindings/temperature").await.problem(404).0, "not_found");
    eventually("the rights are gone", || async {
        ask("a", "publish", "x/state").await["allowed"] == false
    })
    .await;

    for (path, body, status, pointers) in [
        ("/devices/a/bindings/main", json!({}), 422, &[][..]),
        (
            "/devices/a/bindings/main",
            json!({"state_topic": "a/#", "command_topic": "$x"}),
            422,
            &["/state_topic"],
        ),
        (
            "/devices/a/bindings/main",
            json!({"conventional": true, "state_topic": "a"}),
            422,
            &["/conventional"],
        ),
        (
            "/devices/a/bindings/main",
            json!({"command_topic": "a", "merge": true}),
            422,
            &["/state_topic"],
        ),
        ("/devices/a/bindings/unknown", json!({"state_topic": "a"}), 404, &[]),
        ("/devices/nobody/bindings/main", json!({"state_topic": "a"}), 404, &[]),
    ] {
        let answer = root.put(path, &body).await;
        assert_eq!(
            answer.problem(status).1.first().map(String::as_str),
            pointers.first().copied(),
            "{body}: {}",
            answer.body
        );
    }
    let wrong = root
        .post("/devices/a/grants", &json!({"action": "publish", "topic_filter": "$share/g/a"}))
        .await;
    assert_eq!(wrong.problem(422).1, ["/topic_filter"]);
    let wrong =
        root.post("/devices/a/grants", &json!({"action": "delete", "topic_filter": "a"})).await;
    assert_eq!(wrong.problem(422).1, ["/action"]);
}

#[tokio::test]
async fn presence_values_and_sessions_are_told() {
    let (app, root, _fleet, _database) = start_api().await;
    device(&root, "a").await;
    assert_eq!(
        root.put("/devices/a/bindings/main", &json!({"state_topic": "t"})).await.status,
        201
    );
    app.hears(2.0).await;
    assert_eq!(app.event(&connected("a", "a", now())).await.status, 204);
    assert_eq!(app.event(&message("a", "t", now(), "m1", "{\"x\":1.10}")).await.status, 204);
    eventually("the value is there", || async {
        root.get("/devices/a/state").await.body.contains("\"value\":{\"x\":1.10}")
    })
    .await;
    let state = root.get("/devices/a/state").await.json();
    assert_eq!((&state["online"], &state["state"]["main"]["id"]), (&json!(true), &json!("m1")));
    let sessions = root.get("/devices/a/sessions").await.json();
    assert_eq!((&sessions[0]["client_id"], &sessions[0]["open"]), (&json!("a"), &json!(true)));
    assert_eq!(root.get("/devices/b/state").await.status, 404);
    assert_eq!(root.get("/devices/b/sessions").await.status, 404);
}

#[tokio::test]
async fn capabilities_and_rules_are_made_changed_and_removed() {
    let (_app, root, _fleet, _database) = start_api().await;
    let schema = json!({"type": "number", "maximum": 85});
    let made = root
        .put(
            "/capabilities/relay",
            &json!({"state_schema": schema, "confirm": "state", "ack_timeout": 10}),
        )
        .await;
    assert_eq!((made.status, &made.json()["state_schema"]), (201, &schema));
    let patched = root
        .patch(
            "/capabilities/relay",
            &json!({"state_schema": {"maximum": null}, "only_latest": true}),
        )
        .await
        .json();
    assert_eq!(patched["state_schema"], json!({"type": "number"}));
    assert_eq!(
        (&patched["confirm"], &patched["ack_timeout"], &patched["only_latest"]),
        (&json!("state"), &json!(10), &json!(true))
    );
    let replaced = root.put("/capabilities/relay", &json!({"description": "switches"})).await;
    assert_eq!(
        (replaced.status, &replaced.json()["state_schema"], &replaced.json()["confirm"]),
        (200, &Value::Null, &json!("delivered"))
    );
    for (name, body, pointer) in [
        ("main", json!({}), "/name"),
        ("a", json!({"state_schema": {"type": "nothing"}}), "/state_schema"),
        ("a", json!({"command_schema": 7}), "/command_schema"),
        ("a", json!({"ack_timeout": 1}), "/ack_timeout"),
        ("a", json!({"confirm": "maybe"}), "/confirm"),
        ("a", json!({"command_expiry": -1}), "/command_expiry"),
    ] {
        assert_eq!(
            root.put(&format!("/capabilities/{name}"), &body).await.problem(422).1,
            [pointer],
            "{body}"
        );
    }

    device(&root, "a").await;
    let bound = json!({"state_topic": "a/state", "command_topic": "a/set"});
    assert_eq!(root.put("/devices/a/bindings/relay", &bound).await.status, 201);
    assert_eq!(root.delete("/capabilities/relay").await.problem(409).0, "capability_in_use");
    let rule =
        json!({"capability": "relay", "selector": "area=lab", "priority": 5, "enabled": false});
    let made = root.put("/rules/first", &rule).await;
    assert_eq!(
        (made.status, &made.json()["selector"], &made.json()["enabled"]),
        (201, &json!({"area": "lab"}), &json!(false))
    );
    let trial = root.get("/rules/first/test").await.json();
    assert_eq!(trial["choice"]["devices"], json!([{"name": "a", "online": false}]));
    let changed = root
        .patch(
            "/rules/first",
            &json!({"enabled": true, "selector": {"area": null, "kind": "sensor"}}),
        )
        .await;
    assert_eq!(
        (changed.status, &changed.json()["selector"]),
        (200, &json!({"kind": "sensor"})),
        "{}",
        changed.body
    );
    assert_eq!(root.get("/rules?capability=relay").await.json()[0]["priority"], 5);
    assert_eq!(root.get("/rules/first").await.json()["enabled"], true);
    for (body, pointer) in [
        (json!({"capability": "other"}), "/capability"),
        (json!({"selector": {"colour": "red"}}), "/selector/colour"),
        (json!({"priority": 2_000_000}), "/priority"),
        (json!({"strategy": "some"}), "/strategy"),
        (json!({"capability": null}), ""),
    ] {
        assert_eq!(root.patch("/rules/first", &body).await.problem(422).1, [pointer], "{body}");
    }
    assert_eq!(root.put("/rules/other", &json!({"capability": "nothing"})).await.status, 404);
    assert_eq!(root.delete("/rules/first").await.status, 204);
    assert_eq!(root.get("/rules/first").await.status, 404);
    assert_eq!(root.delete("/devices/a").await.status, 204);
    assert_eq!(root.delete("/capabilities/relay").await.status, 204);
}

/// A service with EMQX's API, an API of its own, and two relays.
async fn with_relays() -> (
    crate::support::app::TestApp,
    ApiClient,
    FakeEmqx,
    crate::support::fleet::Fleet,
    crate::support::postgres::TestDatabase,
) {
    let emqx = FakeEmqx::start().await;
    let settings = emqx.settings();
    let (app, fleet, database) = start_with(|config| {
        config.api.listen = Some(([127, 0, 0, 1], 0).into());
        config.emqx.api = Some(settings);
        config.commands.max_devices = 3;
    })
    .await;
    let token = make_token(&database.url, "root", &[Scope::Admin]).await;
    let root = ApiClient { address: app.api_address.unwrap(), token };
    let schema = json!({"command_schema": {"enum": ["on", "off"]}});
    assert_eq!(root.put("/capabilities/relay", &schema).await.status, 201);
    for name in ["a", "b"] {
        device(&root, name).await;
        let bound = json!({"command_topic": format!("{name}/set")});
        assert_eq!(root.put(&format!("/devices/{name}/bindings/relay"), &bound).await.status, 201);
    }
    (app, root, emqx, fleet, database)
}

#[tokio::test]
async fn a_command_is_sent_once_however_often_it_is_asked_for() {
    let (_app, root, _emqx, fleet, database) = with_relays().await;
    let body = json!({"capability": "relay", "payload": "on", "devices": ["a", "b", "a"], "expires_in": 600});
    let tried = root.post("/commands/check", &body).await.json();
    assert_eq!(tried["devices"].as_array().unwrap().len(), 2);
    let count = "SELECT count(*) FROM commands";
    assert_eq!(fleet.value::<i64>(count).await, 0, "nothing was sent");

    let key = [("idempotency-key", "k 1")];
    let many = (0..5).map(|_| {
        let (root, body) = (&root, body.to_string());
        async move { root.send("POST", "/commands", &key, &body).await }
    });
    let answers = futures_util::future::join_all(many).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 201], "{}", answers[0].body);
    let id = answers[0].json()["id"].as_str().unwrap().to_owned();
    assert!(answers.iter().all(|answer| answer.json()["id"] == id));
    assert_eq!(fleet.value::<i64>(count).await, 1);
    let mut other = body.clone();
    other["payload"] = json!("off");
    let refused = root.send("POST", "/commands", &key, &other.to_string()).await;
    assert_eq!(refused.problem(422).0, "key_in_use");
    // Another token's key is another one, and without a key each request is a command.
    let second = root.with(&make_token(&database.url, "second", &[Scope::Commands]).await);
    assert_eq!(second.send("POST", "/commands", &key, &body.to_string()).await.status, 201);
    assert_eq!(root.post("/commands", &body).await.status, 201);
    assert_eq!(fleet.value::<i64>(count).await, 3);
    // A request that failed leaves its key free.
    let key = [("idempotency-key", "k2")];
    let wrong = json!({"capability": "relay", "payload": "perhaps", "devices": ["a"]});
    assert_eq!(
        root.send("POST", "/commands", &key, &wrong.to_string()).await.problem(422).0,
        "payload"
    );
    assert_eq!(root.send("POST", "/commands", &key, &body.to_string()).await.status, 201);
    for key in ["", &"x".repeat(256), "\u{e9}"] {
        let answer =
            root.send("POST", "/commands", &[("idempotency-key", key)], &body.to_string()).await;
        assert_eq!(answer.problem(400).0, "bad_key", "{key}");
    }

    let shown = root.get(&format!("/commands/{id}")).await.json();
    assert_eq!(
        (&shown["asked_by"], shown["deliveries"].as_array().unwrap().len()),
        (&json!("API token root"), 2)
    );
    let listed = root.get("/commands?device=a&limit=10").await.json();
    assert_eq!(listed["next"], json!(null));
    let listed = listed["items"].clone();
    let (mut paged, mut path) = (Vec::new(), "/commands?device=a&limit=1".to_owned());
    while paged.len() < 5 {
        let page = root.get(&path).await.json();
        paged.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/commands?device=a&limit=1&after={next}");
    }
    assert_eq!(json!(paged), listed, "page by page");
    assert_eq!(root.get("/commands?after=x").await.problem(400).0, "bad_query");
    assert_eq!(listed.as_array().unwrap().len(), 4);
    let cancelled = root.send("POST", &format!("/commands/{id}/cancel"), &[], "").await;
    assert_eq!(cancelled.json(), json!({"cancelled": 2}));
    eventually("it has ended", || async {
        root.get(&format!("/commands/{id}")).await.json()["open"] == 0
    })
    .await;
    let retried = root.send("POST", &format!("/commands/{id}/retry"), &[], "").await;
    assert_eq!(retried.problem(409).0, "nothing_to_retry", "it was cancelled");
    for path in ["/commands/1", "/commands/%00", "/commands/6e3ba64c-7a39-4a3b-8f0a-000000000000"] {
        assert_eq!(root.get(path).await.problem(404).0, "not_found", "{path}");
    }
}

#[tokio::test]
async fn commands_that_cannot_be_sent_are_told() {
    let (_app, root, _emqx, fleet, _database) = with_relays().await;
    for (body, status, word, pointers) in [
        (
            json!({"capability": "relay", "payload": "on", "devices": []}),
            422,
            "no_devices",
            &[][..],
        ),
        (
            json!({"capability": "relay", "payload": "on", "devices": ["a", "x/y"]}),
            422,
            "invalid",
            &["/devices/1"],
        ),
        (
            json!({"capability": "relay", "payload": "on", "devices": ["nobody"]}),
            404,
            "not_found",
            &[],
        ),
        (
            json!({"capability": "relay", "payload": 1, "devices": ["a"]}),
            422,
            "payload",
            &["/payload"],
        ),
        (json!({"capability": "relay", "payload": "on"}), 409, "no_rules", &[]),
        (
            json!({"capability": "relay", "payload": "on", "selector": "area=roof"}),
            409,
            "no_match",
            &[],
        ),
        (
            json!({"capability": "relay", "payload": "on", "selector": {"colour": 1}}),
            422,
            "invalid",
            &["/selector/colour"],
        ),
        (
            json!({"capability": "relay", "payload": "on", "rule": "r", "devices": ["a"]}),
            422,
            "invalid",
            &[""],
        ),
        (
            json!({"capability": "relay", "payload": "on", "devices": ["a"], "expires_in": 0}),
            422,
            "expiry_out_of_range",
            &["/expires_in"],
        ),
        (
            json!({"capability": "relay", "payload": "on", "devices": ["a", "b", "c", "d"]}),
            422,
            "too_many_devices",
            &[],
        ),
        (
            json!({"capability": "nothing", "payload": "on", "devices": ["a"]}),
            404,
            "not_found",
            &[],
        ),
        (json!({"capability": "relay", "devices": ["a"]}), 422, "invalid", &[""]),
    ] {
        for path in ["/commands", "/commands/check"] {
            let answer = root.post(path, &body).await;
            assert_eq!(
                answer.problem(status),
                (word.to_owned(), pointers.iter().map(|p| (*p).to_owned()).collect()),
                "{body}: {}",
                answer.body
            );
        }
    }
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM commands").await, 0);
    let all = json!({});
    assert_eq!(root.post("/commands/pause", &all).await.status, 204);
    assert_eq!(root.post("/commands/pause", &json!({"capability": "nothing"})).await.status, 404);
    assert_eq!(root.post("/commands/pause", &json!({"capability": "relay"})).await.status, 204);
    let pauses = root.get("/commands/pauses").await.json();
    assert_eq!(pauses.as_array().map(Vec::len), Some(2), "{pauses}");
    assert_eq!(
        (&pauses[0]["capability"], &pauses[1]["capability"]),
        (&json!(null), &json!("relay"))
    );
    assert_eq!(pauses[0]["paused_by"], "API token root");
    for (body, was_paused, all_are_paused) in [
        (json!({"capability": "relay"}), true, true),
        (json!({"capability": "relay"}), false, true),
        (json!({}), true, false),
        (json!({}), false, false),
    ] {
        assert_eq!(
            root.post("/commands/resume", &body).await.json(),
            json!({"was_paused": was_paused, "all_are_paused": all_are_paused})
        );
    }
    assert_eq!(root.post("/commands/resume", &json!({"capability": "nothing"})).await.status, 404);

    let (_app, root, _fleet, _database) = start_api().await;
    let body = json!({"capability": "relay", "payload": "on"});
    assert_eq!(root.post("/commands", &body).await.problem(409).0, "no_broker");
}

#[tokio::test]
async fn locks_are_listed_and_ended() {
    let (app, root, fleet, _database) = start_api().await;
    fleet.device("a").await;
    fleet.password("a", "correct horse").await;
    app.hears(2.0).await;
    // Long enough to outlast the test.
    let lock =
        "INSERT INTO login_locks VALUES ('a', '127.0.0.1', 5, now() + interval '10 minutes')";
    fleet.sql(lock, &[]).await;
    eventually("the lock holds", || async {
        app.metric("fleetgate_login_locks{kind=\"device_address\"}").await == 1.0
    })
    .await;
    assert_eq!(app.login("a", "correct horse").await.result(), "deny");
    assert_eq!(root.get("/locks?name=a").await.json()[0]["locked"], true);
    assert_eq!(root.get("/locks?address=10.0.0.0/8").await.json(), json!([]));
    for query in ["", "?all=true&name=a", "?address=x", "?name=%2F"] {
        assert_eq!(
            root.delete(&format!("/locks{query}")).await.problem(400).0,
            "bad_query",
            "{query}"
        );
    }
    assert!(root.delete("/locks?name=a").await.json()["cleared"].as_u64().unwrap() > 0);
    assert_eq!(root.get("/locks?name=a").await.json(), json!([]));
    eventually("it is forgotten", || async {
        app.metric("fleetgate_login_locks{kind=\"device_address\"}").await == 0.0
    })
    .await;
    assert_eq!(app.login("a", "correct horse").await.result(), "allow");
}

#[tokio::test]
async fn the_log_tells_which_token_changed_what() {
    let (_app, root, fleet, database) = start_api().await;
    let admin = root.with(&make_token(&database.url, "second", &[Scope::Admin]).await);
    device(&root, "a").await;
    assert_eq!(admin.patch("/devices/a", &json!({"floor": "2"})).await.status, 200);
    let secret = admin.post("/devices/a/credentials", &json!({"kind": "secret"})).await.json();
    let token = admin.post("/tokens", &json!({"name": "third", "scopes": ["read"]})).await.json();
    let log = root.get("/audit?device=a").await;
    let entries = log.json()["items"].as_array().unwrap().clone();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| {
            format!("{} {}", entry["subject"].as_str().unwrap(), entry["action"].as_str().unwrap())
        })
        .collect();
    assert_eq!(told, ["credential added", "device changed", "device added"]);
    let id = |client: &ApiClient| client.token.split('_').nth(1).unwrap().to_owned();
    assert_eq!(entries[2]["actor"], format!("token:{}:root", id(&root)));
    assert_eq!(entries[1]["actor"], format!("token:{}:second", id(&admin)));
    assert_eq!(
        (&entries[1]["before"], &entries[1]["after"]),
        (&json!({"floor": "1"}), &json!({"floor": "2"}))
    );
    let all = root.get("/audit").await.body;
    for hidden in [secret["secret"].as_str().unwrap(), token["token"].as_str().unwrap(), "argon2id"]
    {
        assert!(!all.contains(hidden), "{all}");
    }
    // Pages, by one token, since a time.
    let by = format!("/audit?actor=token%3A{}&limit=2", id(&admin));
    let first = root.get(&by).await.json();
    let next = first["next"].as_str().unwrap();
    let second = root.get(&format!("{by}&after={next}")).await.json();
    assert_eq!(
        (first["items"].as_array().unwrap().len(), second["items"].as_array().unwrap().len()),
        (2, 1),
        "{first} {second}"
    );
    assert_eq!(
        root.get("/audit?since=2099-01-01T00:00:00Z").await.json(),
        json!({"items": [], "next": null})
    );
    for query in ["since=yesterday", "actor=%00", "device=%2F", "after=YQ", "limit=0"] {
        assert_eq!(
            root.get(&format!("/audit?{query}")).await.problem(400).0,
            "bad_query",
            "{query}"
        );
    }
    let read = root.with(&make_token(&database.url, "devices", &[Scope::Devices]).await);
    assert_eq!(read.get("/audit").await.problem(403).0, "scope_missing");
    drop(fleet);
}

#[tokio::test]
async fn tokens_are_made_by_who_may_do_everything() {
    let (_app, root, _fleet, database) = start_api().await;
    let made = root
        .post(
            "/tokens",
            &json!({"name": "dashboard", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z"}),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let dashboard = root.with(&token);
    assert_eq!(dashboard.get("/whoami").await.json()["scopes"], json!(["read"]));
    let listed = root.get("/tokens").await;
    assert!(
        listed.body.contains("dashboard")
            && !listed.body.contains(token.rsplit('_').next().unwrap())
    );
    assert_eq!(
        root.post("/tokens", &json!({"name": "dashboard", "scopes": ["read"]}))
            .await
            .problem(409)
            .0,
        "api_token_exists"
    );
    assert_eq!(
        root.post("/tokens", &json!({"name": "a/b", "scopes": []})).await.problem(422).1,
        ["/name", "/scopes"]
    );
    let most = [Scope::Read, Scope::Devices, Scope::Credentials, Scope::Commands];
    let most = root.with(&make_token(&database.url, "most", &most).await);
    for refused in [
        most.get("/tokens").await,
        most.post("/tokens", &json!({"name": "x", "scopes": ["admin"]})).await,
        most.delete("/tokens/root").await,
    ] {
        assert_eq!(refused.problem(403).0, "scope_missing");
    }
    let revoked = root.delete("/tokens/dashboard").await.json();
    assert_eq!(revoked["valid"], false);
    assert_eq!(dashboard.get("/whoami").await.status, 401);
    assert_eq!(root.delete("/tokens/nobody").await.problem(404).0, "not_found");
}
