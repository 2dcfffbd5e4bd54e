//! The HTTP API with a token whose selector means the area lab: outside of it there is nothing.

use std::collections::BTreeSet;

use fleetgate::domain::api_token::Scope;
use serde_json::{Value, json};

use crate::support::api::{ApiClient, make_token, make_token_for, start_api};
use crate::support::app::{TestApp, eventually, start_with};
use crate::support::fake_emqx::FakeEmqx;
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, as_owner, connect};

const SCOPES: [Scope; 4] = [Scope::Read, Scope::Devices, Scope::Credentials, Scope::Commands];

/// Devices outside have "hidden" in their names.
struct World {
    _app: TestApp,
    _emqx: FakeEmqx,
    fleet: Fleet,
    database: TestDatabase,
    root: ApiClient,
    lab: ApiClient,
    /// A command to a device inside and one outside.
    shared: String,
    /// A command to one outside alone.
    hidden: String,
}

impl World {
    async fn start() -> Self {
        let emqx = FakeEmqx::start().await;
        let settings = emqx.settings();
        let (app, fleet, database) = start_with(|config| {
            config.api.listen = Some(([127, 0, 0, 1], 0).into());
            config.emqx.api = Some(settings);
        })
        .await;
        let token = make_token(&database.url, "root", &[Scope::Admin]).await;
        let root = ApiClient { address: app.api_address.unwrap(), token };
        let lab = make_token_for(&database.url, "lab", &SCOPES, Some("area=lab")).await;
        let lab = root.with(&lab);
        made(&root, "/capabilities/relay", json!({})).await;
        for (name, kind, area, gateway) in [
            ("lamp", "light", "lab", None),
            ("fan", "fan", "lab", None),
            ("bridge", "gateway", "lab", None),
            ("hidden-gateway", "gateway", "hall", None),
            ("hidden-plug", "plug", "hall", None),
            ("hidden-service", "service", "lab", None),
            ("hub", "gateway", "lab", None),
            ("inner", "sensor", "lab", Some("bridge")),
            ("stray", "sensor", "lab", Some("hidden-gateway")),
            ("hidden-child", "sensor", "hall", Some("hub")),
        ] {
            let device = json!({"kind": kind, "area": area, "floor": "1", "gateway": gateway});
            made(&root, &format!("/devices/{name}"), device).await;
        }
        let conventional = json!({"conventional": true});
        for name in ["lamp", "fan", "hidden-plug"] {
            made(&root, &format!("/devices/{name}/bindings/relay"), conventional.clone()).await;
            let (of, grant) =
                (format!("/devices/{name}"), json!({"action": "publish", "topic_filter": "x"}));
            assert_eq!(root.post(&format!("{of}/grants"), &grant).await.status, 201);
            let secret = json!({"kind": "secret"});
            assert_eq!(root.post(&format!("{of}/credentials"), &secret).await.status, 201);
        }
        made(&root, "/rules/r", json!({"capability": "relay", "selector": "name=hidden-plug"}))
            .await;
        let send = async |to: Value| {
            let mut command = json!({"capability": "relay", "payload": "on", "expires_in": 3600});
            command.as_object_mut().unwrap().extend(to.as_object().unwrap().clone());
            let sent = root.post("/commands", &command).await;
            assert_eq!(sent.status, 201, "{}", sent.body);
            sent.json()["id"].as_str().unwrap().to_owned()
        };
        let shared = send(json!({"selector": {"name": ["lamp", "hidden-plug"]}})).await;
        let hidden = send(json!({"devices": ["hidden-plug"]})).await;
        // A service outside has asked for one to a device inside.
        let asked = "BEGIN;
            SELECT set_config('fleetgate.actor', 'service:hidden-service', true);
            INSERT INTO commands (id, capability, payload, asked_by, expires_at, confirm, ack_timeout)
            VALUES (gen_random_uuid(), 'relay', '1', 'service hidden-service', now() + interval '1 hour', 'delivered', 30);
            INSERT INTO command_deliveries (command_id, device_id, device_name, binding, command_expires_at)
            SELECT commands.id, devices.id, devices.name, 'relay', expires_at FROM commands, devices
            WHERE asked_by = 'service hidden-service' AND devices.name = 'lamp';
            COMMIT";
        fleet.batch(asked).await;
        let imported = "INSERT INTO device_credentials (device_id, kind, hash)
            SELECT id, 'imported', '$sha256-salted$pos=prefix$YWJj$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8'
            FROM devices WHERE name IN ('lamp', 'fan', 'hidden-plug')";
        fleet.batch(imported).await;
        let (_app, _emqx) = (app, emqx);
        Self { _app, _emqx, fleet, database, root, lab, shared, hidden }
    }

    /// Everything that a request may change.
    async fn registry(&self) -> Value {
        let tables = [
            "(SELECT id, name, client_id, area, floor, kind, gateway, availability_topic, enabled, meta, updated_at FROM devices)",
            "device_credentials",
            "device_capabilities",
            "topic_bindings",
            "topic_grants",
            "capabilities",
            "routing_rules",
            "api_tokens",
            "command_pauses",
            "(SELECT id FROM commands)",
            "(SELECT id, cancelled_at FROM command_deliveries)",
            "(SELECT id FROM audit)",
        ];
        let mut rows = Vec::new();
        for table in tables {
            let rows_of = format!(
                "SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY to_jsonb(t)), '[]') FROM {table} AS t"
            );
            rows.push(self.fleet.value::<Value>(&rows_of).await);
        }
        Value::Array(rows)
    }
}

async fn made(root: &ApiClient, path: &str, body: Value) {
    let answer = root.put(path, &body).await;
    assert_eq!(answer.status, 201, "{path}: {}", answer.body);
}

/// What a route answers where a device outside is named, or a command to it alone.
enum Answer {
    /// The same as where nothing has the name, with this status.
    AsAbsent(u16),
    /// The whole resource is closed.
    Closed,
    /// The scope is one that no token with a selector has.
    NoScope,
    /// There is something, and nothing hidden in it.
    Seen,
    /// An answer without end; `api_events.rs` tries it.
    Endless,
}

use Answer::{AsAbsent, Closed, Endless, NoScope, Seen};

/// A request for each route at least: method, route, path, body, and what comes. `@` is a device outside, `#` a command to
/// it, `0` the number of what belongs to it.
const ROUTES: &[(&str, &str, &str, &str, Answer)] = &[
    ("get", "/openapi.json", "/openapi.json", "", Seen),
    ("get", "/whoami", "/whoami", "", Seen),
    ("get", "/devices", "/devices", "", Seen),
    ("get", "/devices", "/devices?limit=1", "", Seen),
    ("get", "/devices", "/devices?selector=name%3D@", "", Seen),
    ("get", "/devices", "/devices?selector=area%3Dhall", "", Seen),
    ("get", "/devices", "/devices?selector=kind%3Dservice", "", Seen),
    ("get", "/devices/{device}", "/devices/@", "", AsAbsent(404)),
    ("get", "/devices/{device}", "/devices/stray", "", Seen),
    ("get", "/devices/{device}", "/devices/hub", "", Seen),
    ("put", "/devices/{device}", "/devices/@", r#"{"kind": "plug", "area": "hall"}"#, Seen),
    ("patch", "/devices/{device}", "/devices/@", r#"{"area": "lab"}"#, AsAbsent(404)),
    ("patch", "/devices/{device}", "/devices/lamp", r#"{"gateway": "@"}"#, AsAbsent(404)),
    ("patch", "/devices/{device}", "/devices/@", r#"{"meta": {"a": 1}}"#, AsAbsent(404)),
    ("delete", "/devices/{device}", "/devices/@", "", AsAbsent(404)),
    ("get", "/devices/{device}/bindings", "/devices/@/bindings", "", AsAbsent(404)),
    (
        "put",
        "/devices/{device}/bindings/{binding}",
        "/devices/@/bindings/main",
        r#"{"conventional": true}"#,
        AsAbsent(404),
    ),
    (
        "patch",
        "/devices/{device}/bindings/{binding}",
        "/devices/@/bindings/relay",
        r#"{"merge": true}"#,
        AsAbsent(404),
    ),
    (
        "delete",
        "/devices/{device}/bindings/{binding}",
        "/devices/@/bindings/relay",
        "",
        AsAbsent(404),
    ),
    ("get", "/devices/{device}/credentials", "/devices/@/credentials", "", AsAbsent(404)),
    (
        "post",
        "/devices/{device}/credentials",
        "/devices/@/credentials",
        r#"{"kind": "secret"}"#,
        AsAbsent(404),
    ),
    ("delete", "/devices/{device}/credentials/{id}", "/devices/@/credentials/0", "", AsAbsent(404)),
    (
        "delete",
        "/devices/{device}/credentials/{id}",
        "/devices/lamp/credentials/0",
        "",
        AsAbsent(404),
    ),
    ("get", "/credentials/foreign", "/credentials/foreign", "", Seen),
    ("delete", "/credentials/{id}", "/credentials/0", "", AsAbsent(404)),
    ("delete", "/grants/{id}", "/grants/0", "", Closed),
    ("get", "/devices/{device}/grants", "/devices/@/grants", "", AsAbsent(404)),
    (
        "post",
        "/devices/{device}/grants",
        "/devices/lamp/grants",
        r##"{"action": "subscribe", "topic_filter": "#"}"##,
        Closed,
    ),
    ("delete", "/devices/{device}/grants/{id}", "/devices/@/grants/0", "", Closed),
    ("get", "/devices/{device}/state", "/devices/@/state", "", AsAbsent(404)),
    ("get", "/devices/{device}/sessions", "/devices/@/sessions", "", AsAbsent(404)),
    ("get", "/capabilities", "/capabilities", "", Seen),
    ("get", "/capabilities/{capability}", "/capabilities/relay", "", Seen),
    ("put", "/capabilities/{capability}", "/capabilities/new", "{}", Closed),
    ("patch", "/capabilities/{capability}", "/capabilities/relay", "{}", Closed),
    ("delete", "/capabilities/{capability}", "/capabilities/relay", "", Closed),
    ("get", "/rules", "/rules", "", Closed),
    ("get", "/rules/{rule}", "/rules/r", "", Closed),
    ("get", "/rules/{rule}/test", "/rules/r/test", "", Closed),
    ("put", "/rules/{rule}", "/rules/new", r#"{"capability": "relay"}"#, Closed),
    ("patch", "/rules/{rule}", "/rules/r", r#"{"enabled": false}"#, Closed),
    ("delete", "/rules/{rule}", "/rules/r", "", Closed),
    ("get", "/commands", "/commands", "", Seen),
    ("get", "/commands", "/commands?device=@", "", Seen),
    (
        "post",
        "/commands",
        "/commands",
        r#"{"capability": "relay", "payload": "on", "devices": ["lamp", "@"]}"#,
        AsAbsent(404),
    ),
    (
        "post",
        "/commands",
        "/commands",
        r#"{"capability": "relay", "payload": "on", "selector": {"name": "@"}}"#,
        AsAbsent(409),
    ),
    (
        "post",
        "/commands",
        "/commands",
        r#"{"capability": "relay", "payload": "on", "rule": "r"}"#,
        AsAbsent(409),
    ),
    (
        "post",
        "/commands",
        "/commands",
        r#"{"capability": "relay", "payload": "on"}"#,
        AsAbsent(409),
    ),
    (
        "post",
        "/commands/check",
        "/commands/check",
        r#"{"capability": "relay", "payload": "on", "devices": ["@"]}"#,
        AsAbsent(404),
    ),
    (
        "post",
        "/commands/check",
        "/commands/check",
        r#"{"capability": "relay", "payload": "on", "selector": {}}"#,
        Seen,
    ),
    ("get", "/commands/pauses", "/commands/pauses", "", Closed),
    ("post", "/commands/pause", "/commands/pause", "{}", Closed),
    ("post", "/commands/resume", "/commands/resume", "{}", Closed),
    ("get", "/commands/{command}", "/commands/#", "", AsAbsent(404)),
    ("post", "/commands/{command}/cancel", "/commands/#/cancel", "", AsAbsent(404)),
    ("post", "/commands/{command}/retry", "/commands/#/retry", "", AsAbsent(404)),
    ("get", "/locks", "/locks", "", Closed),
    ("delete", "/locks", "/locks?name=@", "", Closed),
    ("get", "/tokens", "/tokens", "", NoScope),
    ("post", "/tokens", "/tokens", r#"{"name": "x", "scopes": ["read"]}"#, NoScope),
    ("delete", "/tokens/{token}", "/tokens/root", "", NoScope),
    (
        "post",
        "/authorize",
        "/authorize",
        r#"{"device": "@", "action": "publish", "topic": "hall/1/@/relay/state"}"#,
        AsAbsent(404),
    ),
    ("get", "/audit", "/audit", "", Seen),
    ("get", "/audit", "/audit?device=@", "", Seen),
    ("get", "/audit", "/audit?actor=service", "", Seen),
    ("get", "/exports", "/exports", "", Seen),
    ("get", "/events", "/events", "", Endless),
    ("post", "/imports", "/imports", "", NoScope),
];

#[tokio::test]
async fn no_route_shows_or_changes_what_is_outside() {
    let world = World::start().await;
    let description = world.root.get("/openapi.json").await.json();
    let routes = description["paths"].as_object().unwrap().iter();
    let described: BTreeSet<(&str, &str)> = routes
        .flat_map(|(path, methods)| {
            let path = path.strip_prefix("/api/v1").unwrap();
            methods.as_object().unwrap().keys().map(move |method| (method.as_str(), path))
        })
        .collect();
    let tried: BTreeSet<(&str, &str)> = ROUTES.iter().map(|row| (row.0, row.1)).collect();
    assert_eq!(described, tried, "each route has a row in ROUTES");

    let credential: i64 = world
        .fleet
        .value("SELECT c.id FROM device_credentials c JOIN devices d ON d.id = device_id WHERE name = 'hidden-plug' AND c.kind = 'secret'")
        .await;
    let before = world.registry().await;
    for outside in ["hidden-plug", "hidden-service", "hidden-child"] {
        for (method, _, path, body, expected) in ROUTES {
            if matches!(expected, Endless) {
                continue;
            }
            let ask = async |name: &str, command: &str, number: &str| {
                let fill = |text: &str| {
                    let text = text.replace('@', name).replace("/#", &format!("/{command}"));
                    text.strip_suffix("/0")
                        .map_or_else(|| text.clone(), |text| format!("{text}/{number}"))
                };
                let (path, body) = (fill(path), fill(body));
                let answer = world.lab.send(&method.to_uppercase(), &path, &[], &body).await;
                (answer, format!("{method} {path} {body}"))
            };
            let (answer, what) = ask(outside, &world.hidden, &credential.to_string()).await;
            match expected {
                AsAbsent(status) => {
                    assert_eq!(answer.status, *status, "{what}: {}", answer.body);
                    let (absent, _) =
                        ask("nobody", "00000000-0000-4000-8000-000000000000", "999999").await;
                    assert_eq!(absent.status, *status, "{what}: {}", absent.body);
                    let text = |body: Value| {
                        let mut body = body;
                        body["instance"] = Value::Null;
                        body.to_string()
                            .replace(outside, "nobody")
                            .replace(&world.hidden, "00000000-0000-4000-8000-000000000000")
                            .replace(&credential.to_string(), "999999")
                    };
                    assert_eq!(text(answer.json()), text(absent.json()), "{what}");
                }
                Closed => assert_eq!(answer.problem(403).0, "outside", "{what}"),
                NoScope => assert_eq!(answer.problem(403).0, "scope_missing", "{what}"),
                Endless => {}
                Seen if *method == "put" => {
                    assert_eq!(answer.problem(409).0, "name_taken", "{what}");
                }
                Seen => {
                    assert_eq!(answer.status, 200, "{what}: {}", answer.body);
                    assert!(!answer.body.contains("hidden"), "{what}: {}", answer.body);
                }
            }
        }
    }
    assert_eq!(world.registry().await, before, "nothing was changed");
}

#[tokio::test]
async fn a_change_finds_its_device_inside_and_leaves_it_there() {
    let world = World::start().await;
    let (root, lab) = (&world.root, &world.lab);
    let lamp = json!({"kind": "light", "area": "lab", "floor": "1"});
    made(lab, "/devices/new", lamp.clone()).await;
    assert_eq!(lab.put("/devices/new", &lamp).await.status, 200);
    let patched = lab.patch("/devices/new", &json!({"meta": {"a": 1}, "enabled": false})).await;
    assert_eq!((patched.status, &patched.json()["meta"]), (200, &json!({"a": 1})));
    assert_eq!(lab.patch("/devices/new", &json!({"name": "newer"})).await.status, 200);
    assert_eq!(lab.patch("/devices/newer", &json!({"gateway": "bridge"})).await.status, 200);

    let before = world.registry().await;
    for (method, path, body) in [
        ("PUT", "/devices/other", json!({"kind": "light", "area": "hall"})),
        ("PUT", "/devices/other", json!({"kind": "light"})),
        ("PUT", "/devices/other", json!({"kind": "service", "area": "lab"})),
        ("PUT", "/devices/lamp", json!({"kind": "light", "area": "hall", "floor": "1"})),
        ("PATCH", "/devices/lamp", json!({"area": null})),
        ("PATCH", "/devices/lamp", json!({"kind": "service"})),
        // A topic of one's own choice would be the gateway's right.
        (
            "PATCH",
            "/devices/newer",
            json!({"availability_topic": "hall/1/hidden-plug/relay/state"}),
        ),
        // The one that it has is outside.
        ("PATCH", "/devices/stray", json!({"gateway": "bridge"})),
        // The one that it has, which is hidden, is refused like any other.
        ("PATCH", "/devices/stray", json!({"gateway": "hidden-gateway"})),
        ("PATCH", "/devices/stray", json!({"gateway": "nobody"})),
        // A device outside is behind it.
        ("PATCH", "/devices/hub", json!({"enabled": false})),
        ("PUT", "/devices/hub", json!({"kind": "gateway", "area": "lab"})),
        ("DELETE", "/devices/hub", Value::Null),
        ("POST", "/devices/hub/credentials", json!({"kind": "secret"})),
        ("PATCH", "/devices/newer", json!({"gateway": "hub"})),
        (
            "PUT",
            "/devices/newer/bindings/main",
            json!({"state_topic": "hall/1/hidden-plug/relay/state"}),
        ),
        ("PUT", "/devices/newer/bindings/main", json!({"conventional": true, "reply_topic": "x"})),
        ("PUT", "/devices/lamp/bindings/relay", json!({"command_topic": "lab/1/fan/relay/set"})),
        ("PATCH", "/devices/lamp/bindings/relay", json!({"command_topic": "lab/1/fan/relay/set"})),
        (
            "PUT",
            "/devices/other",
            json!({"kind": "light", "area": "lab", "floor": "1", "credential": {"kind": "secret"},
                "bindings": [{"name": "main", "state_topic": "hall/1/hidden-plug/relay/state"}]}),
        ),
    ] {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = lab.send(method, path, &[], &body).await;
        assert_eq!(answer.problem(403).0, "outside", "{method} {path} {body}");
        assert!(!answer.json()["detail"].as_str().unwrap().contains("hidden"), "{}", answer.body);
    }
    // Who has it is not told.
    let taken = lab.patch("/devices/lamp", &json!({"client_id": "hidden-service:1"})).await;
    assert_eq!(taken.problem(409), ("client_id_taken".to_owned(), vec!["/client_id".to_owned()]));
    assert!(!taken.body.contains("hidden"), "{}", taken.body);
    let taken = lab.patch("/devices/lamp", &json!({"name": "hidden-plug"})).await;
    assert_eq!(taken.problem(409).0, "name_taken");
    assert_eq!(world.registry().await, before, "nothing was changed");

    // What is not shown stays.
    let topic = json!({"availability_topic": "hall/stray"});
    assert_eq!(root.patch("/devices/stray", &topic).await.status, 200);
    let stray = lab.get("/devices/stray").await;
    assert_eq!(stray.json()["gateway"], Value::Null);
    let kept = json!({"kind": "sensor", "area": "lab", "floor": "2"});
    assert_eq!(lab.put("/devices/stray", &kept).await.status, 200);
    assert_eq!(lab.patch("/devices/stray", &json!({"floor": "1"})).await.status, 200);
    let stray = root.get("/devices/stray").await.json();
    assert_eq!(stray["gateway"], "hidden-gateway");
    assert_eq!(stray["availability_topic"], "hall/stray");
    assert_eq!(lab.get("/devices/bridge").await.json()["children"], json!(["inner", "newer"]));

    made(lab, "/devices/newer/bindings/relay", json!({"conventional": true})).await;
    let explicit = json!({"state_topic": "lab/1/newer/relay/state"});
    assert_eq!(lab.put("/devices/newer/bindings/relay", &explicit).await.status, 200);
    // A device outside has it already.
    let squat = json!({"state_topic": "lab/1/newer/main/state"});
    made(root, "/devices/hidden-plug/bindings/main", squat).await;
    let conventional = json!({"conventional": true});
    let shared = lab.put("/devices/newer/bindings/main", &conventional).await;
    assert_eq!(shared.problem(403).0, "outside");
    assert_eq!(lab.delete("/devices/newer/bindings/relay").await.status, 204);
    assert_eq!(lab.post("/devices/fan/credentials", &json!({"kind": "secret"})).await.status, 201);
    assert_eq!(lab.delete("/devices/newer").await.status, 204);
    assert_eq!(lab.get("/devices/newer").await.status, 404);

    // What belongs to a device may be what puts it inside.
    let token =
        make_token_for(&world.database.url, "relays", &SCOPES, Some("capability=relay")).await;
    let relays = root.with(&token);
    let gone = relays.delete("/devices/lamp/bindings/relay").await;
    assert_eq!(gone.problem(403).0, "outside");
    assert_eq!(lab.delete("/devices/lamp/bindings/relay").await.status, 204);
    assert_eq!(relays.get("/devices/lamp").await.status, 404);
}

#[tokio::test]
async fn pages_hold_what_is_inside_and_nothing_is_left_out() {
    let world = World::start().await;
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.lab.get(&format!("/devices?limit=2{after}")).await.json();
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["bridge", "fan", "hub", "inner", "lamp", "stray"]);
    let (mut imported, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.lab.get(&format!("/credentials/foreign?limit=1{after}")).await.json();
        let items = page["items"].as_array().unwrap();
        imported.extend(items.iter().map(|item| (item["device"].clone(), item["hash"].clone())));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    imported.sort_by_key(|(device, _)| device.to_string());
    let hash = json!("sha256, one round");
    assert_eq!(imported, [(json!("fan"), hash.clone()), (json!("lamp"), hash)]);
    let chosen = world.lab.get("/devices?selector=kind%20in%20(fan,plug,service)").await.json();
    assert_eq!(chosen["items"].as_array().unwrap().len(), 1, "both selectors hold: {chosen}");

    let (mut entries, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.lab.get(&format!("/audit?limit=3{after}")).await.json();
        let items = page["items"].as_array().unwrap();
        entries.extend(items.iter().map(|item| item["id"].as_i64().unwrap()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let all = world.root.get("/audit?limit=1000").await.json();
    let inside = all["items"].as_array().unwrap().iter().filter(|entry| {
        entry["device"].as_str().is_some_and(|device| names.iter().any(|name| name == device))
    });
    let inside: Vec<i64> = inside.map(|entry| entry["id"].as_i64().unwrap()).collect();
    assert!(inside.len() > 6);
    assert_eq!(entries, inside, "the history of each device inside, whatever it was called");

    assert_eq!(world.root.patch("/devices/lamp", &json!({"area": "hall"})).await.status, 200);
    let page = world.lab.get("/audit?device=lamp").await.json();
    assert_eq!(page, json!({"items": [], "next": null}), "it has left");
    let by = async |actor: &str| {
        let page = world.lab.get(&format!("/audit?actor={actor}")).await.json();
        page["items"].as_array().unwrap().len()
    };
    world.root.patch("/devices/lamp", &json!({"area": "lab"})).await;
    assert_eq!((by("service").await, by("service:hidden-service").await), (1, 0));
}

#[tokio::test]
async fn commands_reach_the_devices_inside_alone() {
    let world = World::start().await;
    let (root, lab) = (&world.root, &world.lab);
    let devices = |command: &Value| -> Vec<String> {
        let deliveries = command["deliveries"].as_array().unwrap().iter();
        deliveries.map(|one| one["device"].as_str().unwrap().to_owned()).collect()
    };
    let of_both = format!("/commands/{}", world.shared);
    let seen = lab.get(&of_both).await.json();
    assert_eq!(devices(&seen), ["lamp"]);
    assert_eq!((&seen["devices"], &seen["selector"]), (&json!(1), &Value::Null));
    assert_eq!(root.get(&of_both).await.json()["devices"], 2);
    let listed = lab.get("/commands").await.json()["items"].clone();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["asked_by"]), (2, &json!("service")));
    assert_eq!(lab.get("/commands?device=lamp").await.json()["items"], listed);
    assert_eq!(lab.get("/commands?device=hidden-plug").await.json()["items"], json!([]));

    let everyone = json!({"capability": "relay", "payload": "on", "selector": {}});
    let text = everyone.to_string();
    let sent = lab.send("POST", "/commands", &[("idempotency-key", "k")], &text).await;
    assert_eq!(
        (sent.status, devices(&sent.json())),
        (201, vec!["fan".to_owned(), "lamp".to_owned()])
    );
    let again = lab.send("POST", "/commands", &[("idempotency-key", "k")], &text).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &sent.json()["id"]));
    made(root, "/rules/all", json!({"capability": "relay", "strategy": "all"})).await;
    let by_rule = json!({"capability": "relay", "payload": "on", "rule": "all"});
    assert_eq!(devices(&lab.post("/commands", &by_rule).await.json()), ["fan", "lamp"]);

    let cancelled = lab.post(&format!("{of_both}/cancel"), &json!(null)).await;
    assert_eq!(cancelled.json(), json!({"cancelled": 1}));
    let kept = format!(
        "SELECT count(*) FROM command_deliveries WHERE command_id = '{}' AND cancelled_at IS NULL AND device_name = 'hidden-plug'",
        world.shared
    );
    assert_eq!(world.fleet.value::<i64>(&kept).await, 1);
    assert_eq!(
        root.post(&format!("{of_both}/cancel"), &json!(null)).await.json(),
        json!({"cancelled": 1})
    );

    let expired = sent.json()["id"].as_str().unwrap().to_owned();
    let half = json!({"capability": "relay", "payload": "on", "devices": ["fan", "hidden-plug"]});
    let half = root.post("/commands", &half).await.json()["id"].as_str().unwrap().to_owned();
    world.fleet.sql(
        "UPDATE command_deliveries SET ended_at = clock_timestamp(), ended_as = 'expired' WHERE command_id::text = ANY ($1)",
        &[&vec![&expired, &half]],
    ).await;
    let (retry, key) = (format!("/commands/{half}/retry"), [("idempotency-key", "again")]);
    let retried = lab.send("POST", &retry, &key, "").await;
    assert_eq!(retried.status, 201, "{}", retried.body);
    assert_eq!(devices(&retried.json()), ["fan"]);
    let again = lab.send("POST", &retry, &key, "").await;
    assert_eq!((again.status, &again.json()["id"]), (200, &retried.json()["id"]));
    let other = format!("/commands/{expired}/retry");
    assert_eq!(lab.send("POST", &other, &key, "").await.problem(422).0, "key_in_use");

    // What is sent on a topic reaches every device on it.
    let on_topic = json!({"command_topic": "lab/1/lamp/relay/set"});
    assert_eq!(root.put("/devices/hidden-plug/bindings/relay", &on_topic).await.status, 200);
    let one = json!({"capability": "relay", "payload": "on", "devices": ["lamp"]});
    assert_eq!(lab.post("/commands", &one).await.problem(403).0, "outside");
    assert_eq!(lab.post("/commands/check", &one).await.problem(403).0, "outside");
    assert_eq!(devices(&lab.post("/commands", &everyone).await.json()), ["fan"]);
    assert_eq!(root.post("/commands", &one).await.status, 201);
}

#[tokio::test]
async fn a_right_that_a_gateway_has_for_a_child_outside_is_not_told() {
    let world = World::start().await;
    let bound = json!({"command_topic": "hall/1/fan/set"});
    let bound = world.root.put("/devices/hidden-child/bindings/relay", &bound).await;
    assert_eq!(bound.status, 201, "{}", bound.body);
    let question = json!({"device": "hub", "action": "subscribe", "topic": "hall/1/fan/set"});
    let told = world.root.post("/authorize", &question).await.json();
    assert_eq!((&told["allowed"], &told["right"]), (&json!(true), &json!("command_topic")));
    let mut other = question.clone();
    other["topic"] = json!("hall/1/nothing/set");
    let hidden = world.lab.post("/authorize", &question).await;
    assert_eq!(hidden.body, world.lab.post("/authorize", &other).await.body);
    assert_eq!(hidden.json()["refused"], "not_granted");
    // A grant of its own allows it as well.
    world.fleet.grant("hub", "subscribe", "hall/1/#").await;
    eventually("it may by its grant", || async {
        let told = world.lab.post("/authorize", &question).await.json();
        (&told["right"], &told["topic"]) == (&json!("grant"), &json!("hall/1/#"))
    })
    .await;
    let told = world.root.post("/authorize", &question).await.json();
    assert_eq!(told["right"], "command_topic");
}

async fn a_change_waits(fleet: &Fleet) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a change waits", || async { fleet.value::<i64>(waiting).await > 0 }).await;
}

#[tokio::test]
async fn a_device_that_leaves_while_a_change_is_on_its_way_is_not_changed() {
    let world = World::start().await;
    let token =
        make_token_for(&world.database.url, "relays", &SCOPES, Some("capability=relay")).await;
    let relays = world.root.with(&token);
    let leaves = "UPDATE devices SET area = 'hall' WHERE name = 'lamp'";
    let loses = "DELETE FROM device_capabilities WHERE device_id = (SELECT id FROM devices WHERE name = 'lamp')";
    let gains = "UPDATE devices SET area = 'lab' WHERE name = 'hidden-plug'";
    let patch = json!({"meta": {"changed": true}});
    let (lab, secret) = (&world.lab, json!({"kind": "secret"}));
    for (meanwhile, caller, method, path, body, status) in [
        (leaves, lab, "PATCH", "/devices/lamp", &patch, 404),
        (leaves, lab, "POST", "/devices/lamp/credentials", &secret, 404),
        (leaves, lab, "PUT", "/devices/lamp/bindings/main", &json!({"conventional": true}), 404),
        (leaves, lab, "DELETE", "/devices/lamp", &Value::Null, 404),
        (loses, &relays, "PATCH", "/devices/lamp", &patch, 404),
        (gains, lab, "PATCH", "/devices/hidden-plug", &patch, 200),
    ] {
        let mut other = connect(&as_owner(&world.database.url)).await;
        let transaction = other.transaction().await.unwrap();
        assert!(transaction.execute(meanwhile, &[]).await.unwrap() > 0);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let change = caller.send(method, path, &[], &body);
        let moved = async {
            a_change_waits(&world.fleet).await;
            transaction.commit().await.unwrap();
        };
        let (answer, ()) = futures_util::join!(change, moved);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        // As it was, for the next.
        world.fleet.batch("UPDATE devices SET area = CASE name WHEN 'lamp' THEN 'lab' ELSE 'hall' END WHERE name IN ('lamp', 'hidden-plug');
            INSERT INTO device_capabilities SELECT id, 'relay' FROM devices WHERE name = 'lamp' ON CONFLICT DO NOTHING").await;
    }
    let lamp = world.root.get("/devices/lamp").await.json();
    assert_eq!((&lamp["meta"], lamp["credentials"].as_array().unwrap().len()), (&json!({}), 2));

    // Nor does a gateway leave that a device is just put behind.
    let mut other = connect(&as_owner(&world.database.url)).await;
    let transaction = other.transaction().await.unwrap();
    transaction
        .execute("UPDATE devices SET area = 'hall' WHERE name = 'bridge'", &[])
        .await
        .unwrap();
    made(lab, "/devices/new", json!({"kind": "sensor", "area": "lab"})).await;
    let behind = json!({"gateway": "bridge"});
    let change = lab.patch("/devices/new", &behind);
    let moved = async {
        a_change_waits(&world.fleet).await;
        transaction.commit().await.unwrap();
    };
    let (answer, ()) = futures_util::join!(change, moved);
    assert_eq!(answer.problem(404).0, "not_found");
}

#[tokio::test]
async fn a_token_with_a_selector_makes_no_tokens_and_its_selector_is_of_the_registry_alone() {
    let (_app, root, fleet, database) = start_api().await;
    for selector in [
        json!("online"),
        json!("enabled"),
        json!("seen<5m"),
        json!("state/t=1"),
        json!({"any": [{"area": "lab"}, {"not": {"state": {"t": 1}}}]}),
        json!({"not": {"any": [{"online": true}]}}),
        json!("colour=red"),
    ] {
        let body = json!({"name": "x", "scopes": ["read"], "selector": selector});
        let refused = root.post("/tokens", &body).await;
        let (word, pointers) = refused.problem(422);
        let is_invalid = word == "not_a_selector" || word == "invalid";
        assert!(is_invalid && pointers[0].starts_with("/selector"), "{selector}: {}", refused.body);
    }
    let both = json!({"name": "x", "scopes": ["read", "admin"], "selector": {"area": "lab"}});
    let refused = root.post("/tokens", &both).await.problem(422);
    assert_eq!(refused, ("admin_with_selector".to_owned(), vec!["/selector".to_owned()]));

    let means = json!({"any": [{"area": "lab"}, {"not": {"meta": {"/online": true, "/state": 1}}}], "kind": {"not": "state"}});
    let body = json!({"name": "lab", "scopes": ["read", "devices"], "selector": means});
    let made = root.post("/tokens", &body).await;
    assert_eq!((made.status, &made.json()["selector"]), (201, &means), "{}", made.body);
    let lab = root.with(made.json()["token"].as_str().unwrap());
    assert_eq!(lab.get("/whoami").await.json()["selector"], means);
    let listed = root.get("/tokens").await.json();
    let shown: Vec<&Value> =
        listed.as_array().unwrap().iter().map(|token| &token["selector"]).collect();
    assert_eq!(shown, [&means, &Value::Null]);
    assert_eq!(lab.post("/tokens", &body).await.problem(403).0, "scope_missing");

    // Nor by hand.
    let client = connect(&as_owner(&database.url)).await;
    for statement in [
        "UPDATE api_tokens SET scopes = '{read,admin}' WHERE name = 'lab'",
        "UPDATE api_tokens SET selector = '{\"area\": \"lab\"}' WHERE name = 'root'",
        "UPDATE api_tokens SET selector = '{\"not\": {\"enabled\": true}}' WHERE name = 'lab'",
        "UPDATE api_tokens SET selector = 'null' WHERE name = 'lab'",
    ] {
        let error = client.execute(statement, &[]).await.unwrap_err();
        let constraint = error.as_db_error().unwrap().constraint().unwrap().to_owned();
        assert!(["api_tokens_selector_not_admin", "selector"].contains(&constraint.as_str()));
    }
    let logged: Value =
        fleet.value("SELECT after FROM audit WHERE subject = 'token' AND name = 'lab'").await;
    assert_eq!(logged["selector"], means);

    // What it means from now on holds at once.
    fleet
        .sql("UPDATE api_tokens SET selector = '{\"area\": \"hall\"}' WHERE name = 'lab'", &[])
        .await;
    assert_eq!(lab.get("/whoami").await.json()["selector"], json!({"area": "hall"}));
}
