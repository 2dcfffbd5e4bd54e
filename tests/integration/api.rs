//! The HTTP API: who may use it, what it refuses, devices.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetgate::domain::api_token::Scope;
use fleetgate::http::api::openapi;
use fleetgate::secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::secrets::Secrets;
use crate::support::api::{ApiClient, make_token, start_api};
use crate::support::app::{TestApp, config, eventually, start_with};
use crate::support::bus::{connected, message, now};
use crate::support::commands::{fleetgate, run};
use crate::support::fleet::Fleet;
use crate::support::postgres::{as_owner, connect, fresh_database};
use crate::support::wire::Connection;

/// Every operation: method, path with a name in each place, whether it takes a body.
fn operations() -> Vec<(String, String, bool)> {
    let document: Value = serde_json::from_str(&openapi::text(&openapi::document())).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let parts = path.trim_start_matches("/api/v1").split('/');
            let filled = parts.map(|part| if part.starts_with('{') { "1" } else { part });
            let filled = filled.collect::<Vec<_>>().join("/");
            operations.push((
                method.to_uppercase(),
                filled,
                operation.get("requestBody").is_some(),
            ));
        }
    }
    operations
}

#[tokio::test]
async fn nothing_but_the_description_is_told_without_a_valid_token() {
    let (_app, root, fleet, database) = start_api().await;
    let revoked = make_token(&database.url, "revoked", &[Scope::Admin]).await;
    let expired = make_token(&database.url, "expired", &[Scope::Admin]).await;
    assert_eq!(root.with(&revoked).get("/whoami").await.status, 200);
    fleet.sql("UPDATE api_tokens SET revoked_at = now() WHERE name = 'revoked'", &[]).await;
    fleet.sql("UPDATE api_tokens SET expires_at = now() WHERE name = 'expired'", &[]).await;
    let id = root.token.split('_').nth(1).unwrap();
    let wrong = format!("fg1_{id}_{}", "A".repeat(43));
    let unknown = format!("fg1_999_{}", "A".repeat(43));
    let mut answers = Vec::new();
    for token in ["", "x", &wrong, &unknown, &revoked, &expired] {
        let answer = root.with(token).send("GET", "/whoami", &[("x-request-id", "same")], "").await;
        assert_eq!(answer.problem(401).0, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"fleetgate\""));
        answers.push(answer.body);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    for (method, path, _) in operations() {
        let status = root.with("").send(&method, &path, &[], "").await.status;
        assert_eq!(status, if path == "/openapi.json" { 200 } else { 401 }, "{method} {path}");
    }
    let wrong_scheme = root.send("GET", "/whoami", &[("authorization", "Basic eDp5")], "").await;
    assert_eq!(wrong_scheme.status, 401);
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say() {
    let (_app, root, _fleet, database) = start_api().await;
    let none = make_token(&database.url, "commands only", &[Scope::Commands]).await;
    let none = root.with(&none);
    let told = none.get("/whoami").await.json();
    let expected = json!({"token": "commands only", "scopes": ["commands"], "selector": null, "expires_at": null});
    assert_eq!(told, expected);
    assert_eq!(none.get("/devices").await.problem(403).0, "scope_missing");
    let read = root.with(&make_token(&database.url, "reader", &[Scope::Read]).await);
    assert_eq!(read.get("/devices").await.status, 200);
    let refused = read.put("/devices/a", &json!({"kind": "sensor"})).await;
    assert_eq!(refused.problem(403).0, "scope_missing");
    assert!(refused.header("www-authenticate").unwrap().contains("scope=\"devices\""));
    assert_eq!(root.get("/devices/a").await.problem(404).0, "not_found", "nothing was made");
    // Before the body is read, however wrong it is.
    assert_eq!(read.send("PUT", "/devices/a", &[], "{").await.status, 403);
}

#[tokio::test]
async fn wrong_tokens_are_slowed_and_valid_ones_are_not() {
    let (_app, root, _fleet, _database) = start_api().await;
    assert_eq!(root.get("/whoami").await.status, 200);
    let stranger = root.with("fg1_1_wrong");
    for _ in 0..5 {
        assert_eq!(stranger.get("/whoami").await.status, 401);
    }
    let began = Instant::now();
    let (slow, fast) = tokio::join!(stranger.get("/whoami"), async {
        let answer = root.get("/whoami").await;
        (answer, began.elapsed())
    });
    assert_eq!((slow.status, fast.0.status), (401, 200));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(fast.1 < Duration::from_millis(900), "{:?}", fast.1);
}

#[tokio::test]
async fn another_host_and_another_origin_are_refused() {
    let (_app, root, _fleet, _database) = start_api().await;
    for host in ["evil.example", "127.0.0.1", "127.0.0.1:1", ""] {
        let answer = root.send("GET", "/whoami", &[("host", host)], "").await;
        assert_eq!(answer.problem(421).0, "wrong_host", "{host}");
    }
    let by_name = format!("LocalHost:{}", root.address.port());
    assert_eq!(root.send("GET", "/whoami", &[("host", &by_name)], "").await.status, 200);
    let preflight = [("origin", "https://evil.example"), ("access-control-request-method", "PUT")];
    let answer = root.send("OPTIONS", "/devices/a", &preflight, "").await;
    assert_eq!(answer.problem(405).0, "method_not_allowed");
    assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control")));
    assert_eq!(answer.header("allow"), Some("GET, PUT, PATCH, DELETE"));
    let check = root.send("DELETE", "/commands/check", &[], "").await;
    assert_eq!((check.status, check.header("allow")), (405, Some("POST")));
    assert_eq!(root.get("/nothing").await.problem(404).0, "no_such_path");
    let outside = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n\r\n", root.address);
    let outside = Connection::open(root.address).await.exchange(outside.as_bytes()).await;
    assert_eq!(outside.status, 404, "what operators read is not here");
}

#[tokio::test]
async fn emqx_s_socket_has_no_api_and_none_is_there_when_it_is_off() {
    let (app, _root, _fleet, _database) = start_api().await;
    assert_eq!(app.get("/api/v1/openapi.json").await.status, 404);
    let (app, _fleet, _database) = start_with(|_| {}).await;
    assert_eq!(app.api_address, None);
}

#[tokio::test]
async fn a_device_is_made_read_replaced_changed_and_removed() {
    let (_app, root, fleet, _database) = start_api().await;
    let body = r#"{"kind": "sensor", "area": "lab", "meta": {"room": "101", "n": 1.50}}"#;
    let made = root.send("PUT", "/devices/two%20words", &[("if-none-match", "*")], body);
    let made = made.await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.header("location"), Some("/api/v1/devices/two%20words"));
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let device = made.json();
    assert_eq!(device["name"], "two words");
    assert!(made.body.contains("1.50"), "every digit stays: {}", made.body);
    let again = root.send("PUT", "/devices/two%20words", &[("if-none-match", "*")], body);
    assert_eq!(again.await.problem(412).0, "precondition_failed");

    let shown = root.get("/devices/two%20words").await;
    assert_eq!((shown.status, shown.header("etag")), (200, made.header("etag")));
    let replaced = root.put("/devices/two%20words", &json!({"kind": "relay", "floor": "2"})).await;
    assert_eq!(replaced.status, 200);
    let device = replaced.json();
    assert_eq!(
        (&device["kind"], &device["area"], &device["floor"]),
        (&json!("relay"), &Value::Null, &json!("2"))
    );
    assert_eq!(device["meta"], json!({}), "what is left out is gone");
    assert_ne!(replaced.header("etag"), made.header("etag"));

    let patch = json!({"meta": {"a": {"b": 1}}, "area": "lab"});
    assert_eq!(root.patch("/devices/two%20words", &patch).await.status, 200);
    let patch = json!({"meta": {"a": {"b": null, "c": 2}}, "floor": null});
    let device = root.patch("/devices/two%20words", &patch).await.json();
    assert_eq!(device["meta"], json!({"a": {"c": 2}}));
    assert_eq!(
        (&device["area"], &device["floor"], &device["kind"]),
        (&json!("lab"), &Value::Null, &json!("relay"))
    );

    let renamed = root.patch("/devices/two%20words", &json!({"name": "one"})).await;
    assert_eq!(renamed.json()["name"], "one");
    assert_eq!(renamed.json()["client_id"], "one", "its client id follows its name");
    assert_eq!(root.get("/devices/two%20words").await.status, 404);
    assert_eq!(root.delete("/devices/one").await.status, 204);
    assert_eq!(root.delete("/devices/one").await.problem(404).0, "not_found");
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM devices").await, 0);
}

#[tokio::test]
async fn a_change_holds_for_the_version_that_it_names() {
    let (app, root, fleet, database) = start_api().await;
    fleet.device("a").await;
    let version = async || root.get("/devices/a").await.header("etag").unwrap().to_owned();
    let first = version().await;
    // Presence and reports are not the administrator's.
    let url = as_owner(&database.url);
    let counting = connect(&url).await;
    let name: String =
        counting.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    fleet.batch(&format!("ALTER DATABASE \"{name}\" SET track_functions = 'all'")).await;
    fleet.batch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> current_user AND datname = current_database()").await;
    fleet.batch("INSERT INTO topic_bindings (device_id, name, state_topic) SELECT id, 'main', 't' FROM devices").await;
    let bound = version().await;
    assert_ne!(first, bound, "a binding is the administrator's");
    app.ready().await;
    eventually("an event is taken", || async {
        app.event(&connected("a", "a", now())).await.status == 204
    })
    .await;
    assert_eq!(app.event(&message("a", "t", now(), "m", "1")).await.status, 204);
    eventually("the device is online", || async {
        root.get("/devices?selector=online").await.json()["items"][0]["name"] == "a"
    })
    .await;
    assert_eq!(version().await, bound);
    counting
        .batch_execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
        .await
        .unwrap();
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions
         WHERE funcname LIKE 'fleetgate_raise_version%' OR funcname = 'fleetgate_touch_device'";
    let presence = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions WHERE funcname LIKE 'fleetgate%'";
    let before: i64 = counting.query_one(calls, &[]).await.unwrap().get(0);
    assert_eq!(before, 0, "no trigger of versions is called by presence");
    eventually("the calls are counted at all", || async {
        counting.batch_execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
        counting.query_one(presence, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;

    // Whatever belongs to it raises the version once a transaction.
    let number =
        "SELECT number FROM device_versions JOIN devices ON id = device_id WHERE name = 'a'";
    for change in [
        "INSERT INTO topic_grants (device_id, action, topic_filter) SELECT id, 'publish', 'x/#' FROM devices WHERE name = 'a'",
        "UPDATE topic_grants SET topic_filter = 'y/#'",
        "DELETE FROM topic_grants",
        "UPDATE topic_bindings SET merge = true, updated_at = now()",
        "INSERT INTO device_credentials (device_id, kind, not_before) SELECT id, 'token', now() FROM devices WHERE name = 'a'",
        "UPDATE device_credentials SET revoked_at = now()",
        "UPDATE devices SET meta = '{\"x\": 1}', area = 'lab'",
        "BEGIN; UPDATE devices SET area = 'b'; UPDATE devices SET area = 'c'; DELETE FROM topic_bindings; COMMIT",
    ] {
        let before: i64 = fleet.value(number).await;
        fleet.batch(change).await;
        assert_eq!(fleet.value::<i64>(number).await, before + 1, "{change}");
    }
    let before: i64 = fleet.value(number).await;
    fleet.batch("UPDATE devices SET area = 'c'; UPDATE device_credentials SET label = label").await;
    assert_eq!(fleet.value::<i64>(number).await, before, "nothing was changed");

    let stale =
        root.send("PATCH", "/devices/a", &[("if-match", &bound)], "{\"floor\":\"1\"}").await;
    assert_eq!(stale.problem(412).0, "precondition_failed");
    assert_eq!(root.send("DELETE", "/devices/a", &[("if-match", &bound)], "").await.status, 412);
    // So with what belongs to it.
    let there = root.put("/devices/a/bindings/main", &json!({"state_topic": "t"})).await;
    assert_eq!(there.status, 201);
    let secret = root.post("/devices/a/credentials", &json!({"kind": "secret"})).await;
    let secret = format!("/devices/a/credentials/{}", secret.json()["id"]);
    let grant = json!({"action": "publish", "topic_filter": "y"});
    let grant = root.post("/devices/a/grants", &grant).await;
    let grant = format!("/devices/a/grants/{}", grant.json()["id"]);
    for (method, path, body) in [
        ("PUT", "/devices/a/bindings/main", "{\"state_topic\":\"u\"}"),
        ("PATCH", "/devices/a/bindings/main", "{\"merge\":true}"),
        ("DELETE", "/devices/a/bindings/main", ""),
        ("POST", "/devices/a/credentials", "{\"kind\":\"secret\"}"),
        ("DELETE", secret.as_str(), ""),
        ("POST", "/devices/a/grants", "{\"action\":\"publish\",\"topic_filter\":\"z\"}"),
        ("DELETE", grant.as_str(), ""),
    ] {
        let refused = root.send(method, path, &[("if-match", &bound)], body).await;
        assert_eq!(refused.problem(412).0, "precondition_failed", "{method} {path}");
        let now = version().await;
        let done = root.send(method, path, &[("if-match", &now)], body).await;
        assert!(done.status < 300, "{method} {path}: {}", done.body);
    }
    let now = version().await;
    // What has no version cannot be held to one.
    for (method, path) in
        [("PUT", "/capabilities/x"), ("DELETE", "/grants/1"), ("POST", "/commands")]
    {
        let refused = root.send(method, path, &[("if-match", &now)], "{}").await;
        assert_eq!(refused.problem(412).0, "precondition_failed", "{method} {path}");
    }
    let done = root.send("PATCH", "/devices/a", &[("if-match", &now)], "{\"floor\":\"1\"}").await;
    assert_eq!(done.status, 200);
    assert_eq!(done.header("etag").unwrap(), version().await, "the version of after the change");
    // Of many who change the same version, one does.
    let now = version().await;
    let race = (0..8).map(|floor| {
        let (root, now) = (&root, &now);
        async move {
            let body = format!("{{\"floor\":\"f{floor}\"}}");
            root.send("PATCH", "/devices/a", &[("if-match", now)], &body).await.status
        }
    });
    let mut statuses = futures_util::future::join_all(race).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
    // A device that is made anew under the old name is another one.
    let now = version().await;
    fleet.batch("DELETE FROM devices").await;
    fleet.device("a").await;
    assert_ne!(version().await, now);
}

#[tokio::test]
async fn a_change_is_noted_in_the_name_of_the_token() {
    let (_app, root, fleet, _database) = start_api().await;
    fleet
        .batch(
            "CREATE TABLE acted (actor text);
             GRANT INSERT ON acted TO PUBLIC;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO acted VALUES (current_setting('fleetgate.actor', true)); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT ON devices FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    assert_eq!(root.put("/devices/a", &json!({"kind": "sensor"})).await.status, 201);
    let id = root.token.split('_').nth(1).unwrap();
    assert_eq!(fleet.value::<String>("SELECT actor FROM acted").await, format!("token:{id}:root"));
}

#[tokio::test]
async fn lists_come_in_pages_and_by_selector() {
    let (_app, root, _fleet, _database) = start_api().await;
    for number in 0..5 {
        let body = json!({"kind": if number % 2 == 0 { "sensor" } else { "relay" }, "area": "lab"});
        assert_eq!(root.put(&format!("/devices/d{number}"), &body).await.status, 201);
    }
    let names = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = root.get("/devices?limit=2").await.json();
    assert_eq!(names(&first), ["d0", "d1"]);
    let after = first["next"].as_str().unwrap();
    assert_ne!(after, "d1", "opaque");
    let second = root.get(&format!("/devices?limit=2&after={after}")).await.json();
    assert_eq!(names(&second), ["d2", "d3"]);
    let third = root
        .get(&format!("/devices?limit=2&after={}", second["next"].as_str().unwrap()))
        .await
        .json();
    assert_eq!((names(&third), &third["next"]), (vec!["d4".to_owned()], &Value::Null));
    for selector in ["kind%3Drelay%2Carea%3Dlab", "%7B%22kind%22%3A%22relay%22%7D"] {
        let found = root.get(&format!("/devices?selector={selector}")).await.json();
        assert_eq!(names(&found), ["d1", "d3"], "{selector}");
    }
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=%21",
        "after=AA",
        "selector=colour%3Dred",
        "limt=1",
        "selector=a&selector=b",
    ] {
        assert_eq!(
            root.get(&format!("/devices?{query}")).await.problem(400).0,
            "bad_query",
            "{query}"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_in_a_body_is_told_where_it_is() {
    let (_app, root, fleet, _database) = start_api().await;
    fleet.device("taken").await;
    let deep =
        format!("{{\"kind\":\"k\",\"meta\":{}1{}}}", "{\"a\":".repeat(5000), "}".repeat(5000));
    let cases: &[(&str, u16, &str, &[&str])] = &[
        ("{", 400, "not_json", &[]),
        ("{\"kind\":\"k\"} x", 400, "not_json", &[]),
        ("\u{1}", 400, "not_json", &[]),
        (&deep, 400, "not_json", &[]),
        ("[]", 422, "invalid", &[""]),
        ("null", 422, "invalid", &[""]),
        ("{}", 422, "invalid", &[""]),
        ("{\"kind\":7}", 422, "invalid", &["/kind"]),
        ("{\"kind\":\"k\",\"colour\":1}", 422, "invalid", &["/colour"]),
        ("{\"kind\":\"k\",\"kind\":\"l\"}", 422, "invalid", &[""]),
        ("{\"kind\":\"k\",\"enabled\":\"yes\"}", 422, "invalid", &["/enabled"]),
        ("{\"kind\":\"k\",\"meta\":[]}", 422, "invalid", &["/meta"]),
        ("{\"kind\":\"k\",\"meta\":{\"a\":\"\\u0000\"}}", 422, "invalid", &["/meta"]),
        ("{\"kind\":\"k\",\"meta\":{\"a\":1e999999}}", 422, "invalid", &["/meta"]),
        (
            "{\"kind\":\"a/b\",\"area\":\"\\u0000\",\"floor\":\" \"}",
            422,
            "invalid",
            &["/kind", "/area", "/floor"],
        ),
        ("{\"kind\":\"k\",\"name\":\"other\"}", 422, "invalid", &["/name"]),
        ("{\"kind\":\"k\",\"client_id\":\"taken\"}", 409, "client_id_taken", &["/client_id"]),
        ("{\"kind\":\"k\",\"gateway\":\"nobody\"}", 404, "not_found", &[]),
        (
            "{\"kind\":\"k\",\"availability_topic\":\"a\"}",
            422,
            "availability_without_gateway",
            &["/availability_topic"],
        ),
        (
            "{\"kind\":\"service\",\"gateway\":\"taken\"}",
            422,
            "service_behind_gateway",
            &["/gateway"],
        ),
    ];
    for (body, status, word, pointers) in cases {
        let answer = root.send("PUT", "/devices/new", &[], body).await;
        let shown: String = body.chars().take(60).collect();
        let (told, at) = answer.problem(*status);
        assert_eq!(
            (told.as_str(), at.as_slice()),
            (*word, &pointers.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()[..]),
            "{shown}: {}",
            answer.body
        );
    }
    assert_eq!(root.get("/devices/new").await.status, 404, "nothing was made");
    let json = "{\"kind\":\"k\"}";
    for media_type in ["text/plain", "", "application/x-www-form-urlencoded"] {
        let answer = root.send("PUT", "/devices/new", &[("content-type", media_type)], json).await;
        assert_eq!(answer.problem(415).0, "media_type", "{media_type}");
    }
    let charset = [("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(root.send("PUT", "/devices/new", &charset, json).await.status, 201);
    let large = format!("{{\"kind\":\"{}\"}}", "k".repeat(600_000));
    assert_eq!(root.send("PUT", "/devices/new", &[], &large).await.problem(413).0, "too_large");
    assert_eq!(root.send("PUT", "/devices/%ff", &[], json).await.problem(404).0, "no_such_path");
    for name in ["a%2Fb", "%00", "undefined"] {
        let answer = root.send("PUT", &format!("/devices/{name}"), &[], json).await;
        assert_eq!(answer.status, 422, "{name}: {}", answer.body);
        assert_eq!(root.get(&format!("/devices/{name}")).await.status, 404, "{name}");
    }
    assert_eq!(root.patch("/devices/new", &json!({"kind": null})).await.problem(422).1, [""]);
    assert_eq!(root.patch("/devices/new", &json!([])).await.problem(422).1, [""]);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (_app, root, _fleet, _database) = start_api().await;
    let mut connection = Connection::open(root.address).await;
    let head = [("content-type", "application/json"), ("content-length", "100")];
    connection.send(&root.request("PUT", "/devices/a", &head, "")).await;
    let began = Instant::now();
    let answer = connection.receive().await;
    assert!(answer.is_none_or(|answer| answer.status == 408));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn requests_have_ids_and_a_stop_answers_what_was_asked() {
    let (app, root, fleet, database) = start_api().await;
    let answer = root.send("GET", "/whoami", &[("x-request-id", "my-id.1")], "").await;
    assert_eq!(answer.header("x-request-id"), Some("my-id.1"));
    for id in ["a b", "\u{e9}", &"x".repeat(65)] {
        let answer = root.send("GET", "/whoami", &[("x-request-id", id)], "").await;
        assert_eq!(answer.header("x-request-id").unwrap().len(), 16, "{id}");
    }
    // A request that waits in PostgreSQL when the service is told to stop.
    fleet.device("a").await;
    fleet.batch("BEGIN; SELECT FROM devices FOR UPDATE").await;
    let mut connection = Connection::open(root.address).await;
    connection.send(&root.request("PATCH", "/devices/a", &[], "{\"floor\":\"1\"}")).await;
    waits_for_a_lock(&database.url).await;
    let stopping = std::thread::spawn(move || app.stop());
    fleet.batch("COMMIT").await;
    let answer = connection.receive().await.expect("it is answered");
    assert_eq!(answer.status, 200, "{}", answer.body);
    stopping.join().unwrap().unwrap();
}

/// By a connection of its own: within a transaction what sessions do is looked at once.
async fn waits_for_a_lock(url: &str) {
    let watcher = Fleet::connect(url).await;
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE wait_event_type = 'Lock' AND datname = current_database()";
    eventually("it waits", || async { watcher.value::<i64>(waits).await == 1 }).await;
}

/// However long it waits within the grace period.
#[tokio::test]
async fn a_stop_answers_what_has_no_body() {
    let (app, fleet, database) = start_with(|config| {
        config.api.listen = Some(([127, 0, 0, 1], 0).into());
        let url = config.database.url.expose();
        let patient = "options='-c statement_timeout=20s -c lock_timeout=20s'";
        config.database.url = Secret::new(format!("{url} {patient}"));
    })
    .await;
    let token = make_token(&database.url, "root", &[Scope::Admin]).await;
    let root = ApiClient { address: app.api_address.unwrap(), token };
    fleet.device("a").await;
    fleet.batch("BEGIN; SELECT FROM devices FOR UPDATE").await;
    let mut connection = Connection::open(root.address).await;
    connection.send(&root.request("DELETE", "/devices/a", &[], "")).await;
    waits_for_a_lock(&database.url).await;
    let stopping = std::thread::spawn(move || app.stop());
    // Half a request is given up after two seconds.
    let early = tokio::time::timeout(Duration::from_millis(2500), connection.receive()).await;
    assert!(early.is_err(), "{:?}", early.map(|answer| answer.map(|it| it.status)));
    fleet.batch("COMMIT").await;
    let answer = connection.receive().await.expect("it is answered");
    assert_eq!(answer.status, 204, "{}", answer.body);
    stopping.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let (_app, root, fleet, _database) = start_api().await;
    fleet.device("a").await;
    fleet.batch("BEGIN; SELECT FROM devices FOR UPDATE").await;
    let answer = root.patch("/devices/a", &json!({"floor": "1"})).await;
    assert_eq!(answer.problem(503).0, "unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    fleet.batch("COMMIT").await;
    assert_eq!(root.patch("/devices/a", &json!({"floor": "1"})).await.status, 200);
}

/// Another replica on the machine, most of all: what EMQX asks is answered all the same.
#[tokio::test]
async fn a_port_that_is_taken_keeps_no_device_out() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let (app, fleet, _database) = start_with(|config| config.api.listen = Some(address)).await;
    assert_eq!(app.api_address, None);
    let secret = fleet.device("a").await.secret("a").await;
    assert!(app.lets_in("a", &secret).await);
}

#[tokio::test]
async fn serve_writes_the_first_token_once() {
    let database = fresh_database().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let settings = || {
        let mut config = config(&database.url);
        config.api.listen = Some(([127, 0, 0, 1], 0).into());
        config.api.first_token_file = Some(file.clone());
        config
    };
    let app = TestApp::start(settings()).await;
    eventually("the token is written", || async { file.exists() }).await;
    let token = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let client = ApiClient { address: app.api_address.unwrap(), token: token.trim().to_owned() };
    eventually("it is valid", || async { client.get("/whoami").await.status == 200 }).await;
    assert_eq!(client.get("/whoami").await.json()["scopes"], json!(["admin"]));
    app.stop().unwrap();
    let revoke = |arguments: &[&str]| {
        let mut command = fleetgate(arguments);
        command.env("FLEETGATE_DATABASE_URL", &database.url);
        run(command)
    };
    assert_eq!(revoke(&["api-token", "revoke", "first"]).0, 0);
    std::fs::remove_file(&file).unwrap();
    let app = TestApp::start(settings()).await;
    app.ready().await;
    let client = ApiClient { address: app.api_address.unwrap(), token: token.trim().to_owned() };
    assert_eq!(client.get("/whoami").await.status, 401);
    app.stop().unwrap();
    assert!(!file.exists(), "a revoked token is not replaced");
}

#[tokio::test]
async fn the_first_token_replaces_no_file_of_others() {
    let database = fresh_database().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.pem");
    let settings = || {
        let mut config = config(&database.url);
        config.api.listen = Some(([127, 0, 0, 1], 0).into());
        config.api.first_token_file = Some(file.clone());
        config
    };
    std::fs::write(&file, "a key").unwrap();
    let app = TestApp::start(settings()).await;
    app.ready().await;
    app.stop().unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a key");
    // What a start that was killed left behind is replaced.
    std::fs::write(&file, "fg1_1_left-behind\n").unwrap();
    let app = TestApp::start(settings()).await;
    let replaced = || async { !std::fs::read_to_string(&file).unwrap().contains("left-behind") };
    eventually("the token is written", replaced).await;
    app.stop().unwrap();
}

#[tokio::test]
async fn the_command_line_makes_lists_and_revokes_tokens() {
    let (_app, root, fleet, database) = start_api().await;
    let run = |arguments: &[&str]| {
        let mut command = fleetgate(arguments);
        command.env("FLEETGATE_DATABASE_URL", &database.url);
        run(command)
    };
    let (code, stdout, stderr) =
        run(&["api-token", "add", "dashboard", "--scope", "read,commands", "--expires", "90d"]);
    assert_eq!(code, 0, "{stderr}");
    let client = root.with(stdout.trim());
    assert_eq!(client.get("/whoami").await.json()["scopes"], json!(["read", "commands"]));
    assert!(stderr.contains("shown once") && !stderr.contains(stdout.trim()), "{stderr}");
    let secret = stdout.trim().splitn(3, '_').nth(2).unwrap();
    let stored: String =
        fleet.value("SELECT api_tokens::text FROM api_tokens WHERE name = 'dashboard'").await;
    assert!(!stored.contains(secret));
    let (_, listed, _) = run(&["api-token", "list", "--json"]);
    assert!(listed.contains("dashboard") && !listed.contains(secret), "{listed}");
    let (code, _, stderr) = run(&["api-token", "add", "dashboard", "--scope", "read"]);
    assert!(code == 1 && stderr.contains("exists already"), "{stderr}");
    assert_eq!(run(&["api-token", "add", "x", "--scope", "everything"]).0, 2);
    assert_eq!(run(&["api-token", "revoke", "dashboard"]).0, 0);
    assert_eq!(client.get("/whoami").await.status, 401);
    assert_eq!(run(&["api-token", "revoke", "dashboard"]).0, 0, "again");
    assert_eq!(run(&["api-token", "revoke", "nobody"]).0, 3);

    let add = |selector: &str, scopes: &str| {
        run(&["api-token", "add", "lab", "--scope", scopes, "--selector", selector])
    };
    for (selector, scopes, words) in [
        ("area=lab", "admin", "could make a token without one"),
        ("area=lab,online", "read", "/online: is not for a token"),
        ("colour=red", "read", "is not a field of a selector"),
    ] {
        let (code, _, stderr) = add(selector, scopes);
        assert!(code == 2 && stderr.contains(words), "{stderr}");
    }
    let (code, stdout, stderr) = add("area = lab, kind in (light, fan)", "read");
    assert!(code == 0 && stderr.contains("where area=lab,kind in (light,fan)"), "{stderr}");
    let means = json!({"area": "lab", "kind": ["light", "fan"]});
    assert_eq!(root.with(stdout.trim()).get("/whoami").await.json()["selector"], means);
    let (_, listed, _) = run(&["api-token", "list"]);
    assert!(listed.contains("area=lab,kind in (light,fan)"), "{listed}");
}

#[tokio::test]
async fn tokens_travel_over_tls_with_the_certificate_of_the_bus() {
    let secrets = Secrets::made();
    let (certificate, key) =
        (secrets.file("emqx/tls/server.pem"), secrets.file("emqx/tls/server.key"));
    let (app, _fleet, database) = start_with(|config| {
        config.api.listen = Some(([127, 0, 0, 1], 0).into());
        config.api.tls_certificate = Some(certificate.clone());
        config.api.tls_key = Some(key.clone());
    })
    .await;
    let token = make_token(&database.url, "root", &[Scope::Read]).await;
    let root = ApiClient { address: app.api_address.unwrap(), token };
    let config = fleetgate::tls::trusting(Some(&secrets.file("emqx/tls/ca.pem"))).unwrap();
    let connect = async || {
        let socket = TcpStream::connect(root.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config.clone())).connect(name, socket).await.unwrap()
    };
    let mut stream = connect().await;
    for _ in 0..2 {
        stream.write_all(&root.request("GET", "/whoami", &[], "")).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let mut rest = vec![0; 4096];
        let read = stream.read(&mut rest).await.unwrap();
        assert!(String::from_utf8_lossy(&rest[..read]).ends_with("\"expires_at\":null}"));
    }
    // Plain HTTP gets no answer there.
    let mut answer = vec![0; 64];
    let mut raw = TcpStream::connect(root.address).await.unwrap();
    raw.write_all(&root.request("GET", "/whoami", &[], "")).await.unwrap();
    let read = raw.read(&mut answer).await.unwrap_or(0);
    assert!(!answer[..read].starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer[..read]));
    // Files that were replaced are read for the next connection; what cannot be used changes nothing.
    // Those end sooner.
    let others = Secrets::made_days_ago(100);
    let trusts_others = fleetgate::tls::trusting(Some(&others.file("emqx/tls/ca.pem"))).unwrap();
    let is_trusted = async |config: &rustls::ClientConfig| {
        let socket = TcpStream::connect(root.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config.clone())).connect(name, socket).await.is_ok()
    };
    assert!(!is_trusted(&trusts_others).await);
    let end = async || app.metric("fleetgate_api_certificate_end_timestamp_seconds").await;
    let of_before = fleetgate::tls::end_of(&certificate).unwrap();
    assert_eq!(end().await, of_before as f64);
    std::fs::write(&certificate, "nonsense").unwrap();
    assert!(is_trusted(&config).await, "the certificate of before stays");
    std::fs::copy(others.file("emqx/tls/server.key"), &key).unwrap();
    std::fs::copy(others.file("emqx/tls/server.pem"), &certificate).unwrap();
    assert!(is_trusted(&trusts_others).await);
    let of_now = fleetgate::tls::end_of(&certificate).unwrap();
    assert!(of_now < of_before, "{of_now} {of_before}");
    assert_eq!(end().await, of_now as f64);
    // A stop ends the connection properly.
    let stopping = std::thread::spawn(move || app.stop());
    let mut end = Vec::new();
    let read = stream.read_to_end(&mut end).await;
    assert!(read.is_ok(), "closed with TLS's own word: {read:?}");
    stopping.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_address_keeps_no_device_out_and_is_told() {
    let (served, _fleet, database) =
        start_with(|config| config.api.listen = Some(([127, 0, 0, 1], 0).into())).await;
    assert_eq!(served.metric("fleetgate_api_serving").await, 1.0);
    let mut settings = config(&database.url);
    settings.api.listen = served.api_address;
    let without = TestApp::start(settings).await;
    without.ready().await;
    assert_eq!(without.api_address, None);
    assert_eq!(without.metric("fleetgate_api_serving").await, 0.0);
    let nobody_wants_one = TestApp::start(config(&database.url)).await;
    let metrics = nobody_wants_one.get("/metrics").await.body;
    for absent in ["fleetgate_api_serving", "fleetgate_api_certificate_end"] {
        assert!(!metrics.contains(absent), "{absent}");
    }
}

#[tokio::test]
async fn what_a_patch_does_not_name_is_neither_judged_nor_changed() {
    let (_app, root, fleet, _database) = start_api().await;
    fleet.device("a").await;
    fleet.batch("UPDATE devices SET meta = jsonb_build_object('x', repeat('y', 100000))").await;
    let patched = root.patch("/devices/a", &json!({"enabled": false})).await;
    assert_eq!((patched.status, &patched.json()["enabled"]), (200, &json!(false)));
    let kept = "SELECT length(meta ->> 'x') FROM devices";
    assert_eq!(fleet.value::<i32>(kept).await, 100_000);
    assert_eq!(
        root.patch("/devices/a", &json!({"meta": {"z": 1}})).await.problem(422).1,
        ["/meta"]
    );

    fleet
        .batch("INSERT INTO capabilities (name, state_schema) VALUES ('dim', '{\"type\": \"nothing\"}')")
        .await;
    let patched = root.patch("/capabilities/dim", &json!({"description": "light"})).await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    assert_eq!(patched.json()["state_schema"], json!({"type": "nothing"}));
    let unusable = json!({"state_schema": {"type": "nothing"}});
    assert_eq!(root.patch("/capabilities/dim", &unusable).await.problem(422).1, ["/state_schema"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_device_is_pointed_at_where_it_stands() {
    let (_app, root, fleet, _database) = start_api().await;
    fleet.device("a").await;
    for part in ["bindings", "capabilities"] {
        let pointer = [format!("/{part}")];
        let taken_away = json!({part: []});
        assert_eq!(root.patch("/devices/a", &taken_away).await.problem(422).1, pointer);
        assert_eq!(root.patch("/devices/a", &json!({part: null})).await.problem(422).1, pointer);
        let replaced = json!({"kind": "x", part: []});
        assert_eq!(root.put("/devices/a", &replaced).await.problem(422).1, pointer);
    }
    let new = json!({"kind": "x", "credential": {"kind": "password"}});
    assert_eq!(root.put("/devices/b", &new).await.problem(422).1, ["/credential/password"]);
    let names: Vec<String> = (0..300).map(|number| format!("+{number}")).collect();
    let question = json!({"capability": "c", "payload": 1, "devices": names});
    let (_, pointers) = root.post("/commands/check", &question).await.problem(422);
    assert_eq!((pointers.len(), &*pointers[99], &*pointers[100]), (101, "/devices/99", ""));

    // What is shown of a device without a client id of its own makes it none.
    let shown = root.get("/devices/a").await.json();
    let back = json!({"kind": "x", "client_id": shown["client_id"]});
    assert_eq!(root.put("/devices/a", &back).await.status, 200);
    assert_eq!(root.patch("/devices/a", &json!({"name": "c"})).await.json()["client_id"], "c");
}

/// An array has its elements for members, in an order that nobody knows.
#[tokio::test]
async fn a_document_is_an_object() {
    let (_app, root, fleet, _database) = start_api().await;
    fleet.device("a").await;
    for (path, body) in [
        ("/capabilities/dim", json!([])),
        ("/rules/r", json!(["dim"])),
        ("/devices/b", json!(["b", "kind", null, null, null, null, null, true, {}, [], [], null])),
        ("/devices/b", json!({"kind": "x", "bindings": [["main"]]})),
        ("/devices/b", json!({"kind": "x", "credential": ["secret"]})),
    ] {
        let answer = root.put(path, &body).await;
        assert!(answer.status == 422 && answer.body.contains("a JSON object"), "{}", answer.body);
    }
    for (path, body) in [
        ("/tokens", json!(["t", ["admin"], null, null])),
        ("/devices/a/grants", json!(["publish", "x"])),
    ] {
        assert_eq!(root.post(path, &body).await.status, 422, "{path}");
    }
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM capabilities").await, 0);
}
