//! The registry as lines of JSON over the HTTP API: exports, and imports of them.

use fleetgate::domain::api_token::Scope;
use serde_json::{Value, json};

use crate::support::api::{ApiClient, make_token, make_token_for, start_api};
use crate::support::app::{eventually, within};
use crate::support::fleet::Fleet;
use crate::support::wire::{Connection, Response};

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// A thing of each sort, in an order in which they can be imported.
fn everything() -> String {
    [
        json!({"capability": {"name": "light", "description": "ä", "command_schema": true}}),
        json!({"device": {
            "name": "bridge", "kind": "gateway", "area": "lab", "meta": {"n": 1.5},
            "credentials": [{"kind": "secret", "hash": HASH, "label": "ü", "expires_at": "2040-01-01T00:00:00.123456Z"}],
            "grants": [{"action": "publish", "topic_filter": "a/+/b"}],
        }}),
        json!({"device": {"name": "a lamp", "kind": "lamp", "gateway": "bridge", "enabled": false,
            "availability_topic": "lamp/there", "capabilities": ["light"],
            "bindings": [{"name": "light", "command_topic": "lamp/set", "reply_topic": "lamp/reply"}]}}),
        json!({"rule": {"name": "lamps", "capability": "light", "selector": {"area": ["lab"]}, "priority": -5}}),
    ]
    .map(|line| line.to_string() + "\n")
    .concat()
}

/// Devices of these numbers, one a line.
fn devices(numbers: std::ops::Range<u32>) -> String {
    let line = |number| json!({"device": {"name": format!("d{number}"), "kind": "sensor"}});
    numbers.map(|number| line(number).to_string() + "\n").collect()
}

impl ApiClient {
    async fn import(&self, query: &str, lines: &str) -> Response {
        self.send("POST", &format!("/imports{query}"), &[NDJSON], lines).await
    }
}

async fn count(fleet: &Fleet) -> i64 {
    fleet.value("SELECT count(*) FROM devices").await
}

/// The lines that a refused import names.
fn lines_of(refused: &Value) -> Vec<u64> {
    let errors = refused["errors"].as_array().unwrap().iter();
    errors.map(|error| error["line"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn what_is_exported_is_imported_to_the_same_rows() {
    let (_first, from, fleet, _database) = start_api().await;
    let made = from.import("", &everything()).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let result = json!({
        "dry_run": false, "added": 4, "updated": 0, "skipped": 0, "kept_passwords": 0, "last_line": 4, "wrong_lines": 0, "wrong": [],
    });
    assert_eq!(made.json(), result);
    let actor: String =
        fleet.value("SELECT DISTINCT actor FROM audit WHERE subject = 'device'").await;
    assert_eq!(actor, format!("token:{}:root", from.token.split('_').nth(1).unwrap()));
    let out = from.get("/exports?with_credentials=true").await;
    assert_eq!(out.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(out.header("fleetgate-credentials-left-out"), Some("0"));
    assert_eq!(out.body.lines().count(), 4);
    assert!(out.body.contains(HASH) && out.body.ends_with("}\n"));
    let (_second, to, _fleet, _other) = start_api().await;
    assert_eq!(to.import("", &out.body).await.status, 200);
    assert_eq!(to.get("/exports?with_credentials=true").await.body, out.body);
    // Once more, in each way, and nothing is different.
    let refused = to.import("?on_conflict=fail", &out.body).await;
    assert_eq!(refused.problem(422).0, "wrong_lines");
    assert_eq!(lines_of(&refused.json()), [1, 2, 3, 4]);
    for (on_conflict, member) in [("skip", "skipped"), ("update", "updated")] {
        let again = to.import(&format!("?on_conflict={on_conflict}"), &out.body).await;
        assert_eq!(again.json()[member], 4, "{}", again.body);
        assert_eq!(to.get("/exports?with_credentials=true").await.body, out.body);
    }
    // Without credentials, and that is told.
    let out = from.get("/exports").await;
    assert_eq!(out.header("fleetgate-credentials-left-out"), Some("1"));
    assert!(!out.body.contains("argon2id"));
    assert_eq!(out.body.lines().count(), 4);
}

#[tokio::test]
async fn a_token_with_a_selector_exports_its_devices_and_imports_nothing() {
    let (_app, root, fleet, database) = start_api().await;
    assert_eq!(root.import("", &everything()).await.status, 200);
    fleet.device("elsewhere").await.device_of_kind("dashboard", "service").await;
    fleet
        .batch(
            "UPDATE devices SET area = 'attic', availability_topic = coalesce(availability_topic, 'lamp/availability')
             WHERE name = 'a lamp'",
        )
        .await;
    let scopes = [Scope::Read, Scope::Credentials];
    for (area, name, gateway) in [("lab", "bridge", Value::Null), ("attic", "a lamp", Value::Null)]
    {
        let selector = format!("area={area}");
        let token = make_token_for(&database.url, area, &scopes, Some(&selector)).await;
        let token = root.with(&token);
        let out = token.get("/exports").await;
        let lines: Vec<Value> =
            out.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "its device and the capability: {}", out.body);
        assert_eq!(lines[1]["device"]["name"], name);
        assert_eq!(lines[1]["device"]["gateway"], gateway, "the gateway is outside");
        assert_eq!(lines[1]["device"]["availability_topic"], Value::Null, "it would be of no use");
        let back = root.import("?dry_run=true&on_conflict=update", &out.body).await;
        assert_eq!(back.json()["wrong_lines"], 0, "it can be imported: {}", back.body);
        let left_out = if area == "lab" { "1" } else { "0" };
        assert_eq!(out.header("fleetgate-credentials-left-out"), Some(left_out));
        let refused = token.get("/exports?with_credentials=true").await;
        assert_eq!(refused.problem(403).0, "scope_missing");
        assert_eq!(token.import("", &devices(0..1)).await.status, 403);
    }
}

#[tokio::test]
async fn an_export_has_every_page() {
    let (_app, root, fleet, _database) = start_api().await;
    let lines = devices(0..1001);
    assert_eq!(root.import("", &lines).await.status, 200);
    fleet.sql("UPDATE devices SET gateway = (SELECT id FROM devices WHERE name = 'd0') WHERE name LIKE 'd9__'", &[]).await;
    let out = root.get("/exports").await.body;
    let names: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (alone, children) = names.split_at(901);
    for part in [alone, children] {
        let names: Vec<&str> =
            part.iter().map(|line| line["device"]["name"].as_str().unwrap()).collect();
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
    }
    assert_eq!(children.len(), 100);
    assert!(children.iter().all(|line| line["device"]["gateway"] == "d0"));
}

#[tokio::test]
async fn wrong_lines_are_named_and_nothing_of_their_chunk_stays() {
    let (_app, root, fleet, _database) = start_api().await;
    let wrong = [
        r#"{"device":{"name":"a/b","kind":"x"}}"#,
        "",
        r#"{"device":{"name":"fine","kind":"x"}}"#,
        r#"{"device":{"name":"d7","kind":"x"}}"#,
        &format!(r#"{{"device":{{"name":"long","kind":"x","area":"{}"}}}}"#, "x".repeat(1 << 20)),
        "nonsense",
    ];
    let lines = format!("\u{feff}{}{}", devices(0..500), wrong.join("\r\n"));
    let refused = root.import("", &lines).await;
    assert_eq!(refused.problem(422).0, "wrong_lines");
    let told = refused.json();
    assert_eq!(lines_of(&told), [501, 504, 505, 506]);
    assert_eq!(told["last_line"], 500);
    assert_eq!(
        told["imported"],
        json!({"added": 500, "updated": 0, "skipped": 0, "kept_passwords": 0})
    );
    assert_eq!(told["errors"][0]["pointer"], "/device/name");
    assert!(told["errors"][1]["detail"].as_str().unwrap().contains("d7"), "{told}");
    assert!(told["detail"].as_str().unwrap().contains("from_line=501"), "{told}");
    assert_eq!(count(&fleet).await, 500);
    // A dry run names the same lines, and what the rest would be.
    let tried = root.import("?dry_run=true&on_conflict=skip&from_line=500", &lines).await.json();
    let named = tried["wrong"].as_array().unwrap().iter().map(|wrong| wrong["line"].clone());
    assert_eq!(named.collect::<Vec<_>>(), [501, 505, 506]);
    assert_eq!((&tried["wrong_lines"], &tried["added"]), (&json!(3), &json!(0)));
    let tried = root.import("?dry_run=true", &devices(500..1100)).await.json();
    assert_eq!((&tried["added"], &tried["last_line"]), (&json!(600), &json!(600)));
    assert_eq!(count(&fleet).await, 500, "a dry run changes nothing");
    // Corrected, it goes on.
    let corrected = lines.replace("a/b", "ab").replace("nonsense", "").replace("\"d7\"", "\"e7\"");
    let corrected = corrected.replace(&"x".repeat(1 << 20), "lab");
    let done = root.import("?from_line=501", &corrected).await;
    assert_eq!((done.status, &done.json()["added"]), (200, &json!(4)), "{}", done.body);
}

#[tokio::test]
async fn what_an_import_may_not_be_is_refused() {
    let (_app, root, fleet, database) = start_api().await;
    let json = root.send("POST", "/imports", &[], &devices(0..1)).await;
    assert_eq!(json.problem(415).0, "media_type");
    for query in ["?on_conflict=replace", "?from_line=0", "?dry_run=1", "?x=1"] {
        assert_eq!(root.import(query, &devices(0..1)).await.problem(400).0, "bad_query", "{query}");
    }
    for query in ["?from_line=3", "?from_line=3&dry_run=true"] {
        let refused = root.import(query, &devices(0..1)).await;
        assert_eq!(refused.status, 400);
        assert!(refused.body.contains("has 1 lines"), "{}", refused.body);
    }
    let nothing_left = root.import("?from_line=2", &devices(0..1)).await;
    assert_eq!((nothing_left.status, count(&fleet).await), (200, 0));
    let bytes = [b"{\"device\":{\"name\":\"", &[0xff; 3][..], b"\"}}"].concat();
    let length = bytes.len().to_string();
    let headers = [NDJSON, ("content-length", &length)];
    let request = [root.request("POST", "/imports", &headers, ""), bytes].concat();
    let refused = Connection::open(root.address).await.exchange(&request).await;
    assert!(refused.json()["errors"][0]["detail"].as_str().unwrap().contains("UTF-8"));
    let most = [Scope::Read, Scope::Devices, Scope::Credentials, Scope::Commands];
    let most = root.with(&make_token(&database.url, "most", &most).await);
    assert_eq!(most.import("", &devices(0..1)).await.problem(403).0, "scope_missing");
    assert_eq!(most.get("/exports?with_credentials=true").await.problem(403).0, "scope_missing");
    assert_eq!(most.get("/exports").await.status, 200);
    // A dry run is held in memory, so it is bounded; whatever is too large is refused before the rest has come.
    let head = root.request(
        "POST",
        "/imports?dry_run=true",
        &[NDJSON, ("content-length", "17000000")],
        "",
    );
    let body = (devices(0..1) + &"\n".repeat(16_999_999))[..17_000_000].to_owned();
    let too_large =
        Connection::open(root.address).await.exchange(&[head, body.into_bytes()].concat()).await;
    assert_eq!(too_large.problem(413).0, "too_large");
    assert_eq!(count(&fleet).await, 0);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_of_the_chunk() {
    let (_app, root, fleet, _database) = start_api().await;
    let lines = devices(0..700);
    // The last line is whole but for its end: a number that was cut off would be another one.
    let sent = lines.trim_end();
    let length = (lines.len() + 1000).to_string();
    let head = root.request("POST", "/imports", &[NDJSON, ("content-length", &length)], "");
    let mut connection = Connection::open(root.address).await;
    connection.send(&[&head, sent.as_bytes()].concat()).await;
    let fleet = &fleet;
    let first = || async move { count(fleet).await == 500 };
    eventually("the first chunk is there while the rest has not come", first).await;
    // One at a time, and whoever waits holds no connection to PostgreSQL.
    let busy = root.import("", &devices(2000..2001)).await;
    assert_eq!(busy.problem(429).0, "busy");
    assert_eq!(busy.header("retry-after"), Some("10"));
    let open: i64 = fleet
        .value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL
                AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'")
        .await;
    assert_eq!(open, 0);
    drop(connection);
    let root = &root;
    let free = || async move { root.import("", &devices(2000..2001)).await.status == 200 };
    eventually("another import runs", free).await;
    assert_eq!(count(fleet).await, 501);
}

#[tokio::test]
async fn an_export_that_nobody_reads_ends() {
    let (_app, root, fleet, _database) = start_api().await;
    // More than sockets and pages hold.
    fleet
        .batch(
            "INSERT INTO devices (name, kind, meta)
                SELECT 'd' || n, 'x', jsonb_build_object('text', repeat(md5(n::text), 100))
                FROM generate_series(1, 10000) AS n",
        )
        .await;
    let mut connection = Connection::open(root.address).await;
    connection.send(&root.request("GET", "/exports", &[], "")).await;
    assert_eq!(connection.head().await.unwrap().status, 200);
    let (root, fleet) = (&root, &fleet);
    assert_eq!(root.get("/exports").await.problem(429).0, "busy");
    assert_eq!(root.get("/devices?limit=1").await.status, 200, "others are served meanwhile");
    let snapshots = || async move {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND xact_start IS NOT NULL AND pid <> pg_backend_pid() AND query LIKE '%(''device'', json%'";
        fleet.value::<i64>(open).await
    };
    eventually("its transaction is in the devices", || async { snapshots().await == 1 }).await;
    let is_over = || async move { snapshots().await == 0 };
    within(std::time::Duration::from_secs(15), "its transaction ends", is_over).await;
    let mut read = 0;
    let broke_off = loop {
        match connection.piece().await {
            Some(Some(piece)) => read += piece.lines().count(),
            Some(None) => break false,
            None => break true,
        }
    };
    assert!(broke_off && read < 10_000, "{read}");
    assert_eq!(root.get("/exports").await.body.lines().count(), 10_000);
}

#[tokio::test]
async fn completing_changes_the_named_columns_of_devices_and_nothing_else() {
    let (_app, root, _fleet, _database) = start_api().await;
    assert_eq!(root.import("", &everything()).await.status, 200);
    let export = async || root.get("/exports?with_credentials=true").await.body;
    let before = export().await;
    let lines = [
        json!({"capability": {"name": "light"}}),
        json!({"device": {"name": "bridge", "kind": "other", "area": "attic", "meta": {"m": 2},
            "grants": [{"action": "subscribe", "topic_filter": "c"}]}}),
        json!({"rule": {"name": "lamps", "capability": "light"}}),
    ];
    let lines = lines.map(|line| line.to_string() + "\n").concat();
    for query in [
        "?columns=area",
        "?on_conflict=complete&columns=area,name",
        "?on_conflict=complete&columns=x",
    ] {
        assert_eq!(root.import(query, &lines).await.problem(400).0, "bad_query", "{query}");
    }
    let query = "?on_conflict=complete&columns=area,meta,area";
    let done = root.import(query, &lines).await.json();
    assert_eq!((&done["updated"], &done["skipped"]), (&json!(1), &json!(2)), "{done}");
    let after = export().await;
    for (was, is) in before.lines().zip(after.lines()) {
        if !was.contains("\"name\" : \"bridge\"") {
            assert_eq!(was, is);
            continue;
        }
        let [mut was, is] = [was, is].map(|line| serde_json::from_str::<Value>(line).unwrap());
        was["device"]["area"] = json!("attic");
        was["device"]["meta"]["m"] = json!(2);
        let grants = was["device"]["grants"].as_array_mut().unwrap();
        grants.push(json!({"action": "subscribe", "topic_filter": "c"}));
        assert_eq!(was, is);
    }
    // One that is disabled is not enabled by a file that knows nothing of it.
    for (columns, says, enabled) in [
        ("disabled", Some(true), false),
        ("enabled,client_id,area", None, false),
        ("enabled", Some(true), true),
    ] {
        let mut lamp = json!({"name": "a lamp", "kind": "lamp", "gateway": "bridge"});
        if let Some(says) = says {
            lamp["enabled"] = json!(says);
        }
        let before = root.get("/devices/a%20lamp").await.json();
        let query = format!("?on_conflict=complete&columns={columns}");
        let line = json!({"device": lamp}).to_string();
        assert_eq!(root.import(&query, &line).await.status, 200);
        let after = root.get("/devices/a%20lamp").await.json();
        assert_eq!(after["enabled"], enabled, "{columns}");
        assert_eq!(after["area"], before["area"], "what a line does not say stays");
    }
}
