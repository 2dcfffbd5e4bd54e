//! The audit log: who changed what, whoever it was and however it was done.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};

use fleetgate::fleet::audit::{self, AuditFilter, AuditRow, Follower};
use fleetgate::fleet::bindings::NewBinding;
use fleetgate::fleet::commands::{self, NewCommand};
use fleetgate::fleet::credentials::{NewCredential, Terms};
use fleetgate::fleet::devices::{self, NewDevice};
use fleetgate::fleet::document::Document;
use fleetgate::fleet::routing::To;
use fleetgate::fleet::{Actor, FleetError, Part, act};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::commands::new;
use crate::support::api::start_api;
use crate::support::app::{TestApp, config, eventually};
use crate::support::bus::{connected, disconnected, message, now};
use crate::support::commands::{fleetgate, run};
use crate::support::database::Database;
use crate::support::postgres::{SERVING_ROLE, TestDatabase, as_owner, connect, fresh_database};

const EVERYTHING: AuditFilter =
    AuditFilter { device: None, actor: None, since: None, part: Part::whole() };

/// The whole log, the oldest entry first.
async fn log(client: &Client) -> Vec<AuditRow> {
    let mut entries = Vec::new();
    loop {
        let after = entries.last().map(|entry: &AuditRow| entry.id);
        let page = audit::list(client, &EVERYTHING, after, audit::MAX_PAGE).await.unwrap();
        if page.is_empty() {
            entries.reverse();
            return entries;
        }
        entries.extend(page);
    }
}

/// The newest entries that a filter lets through, as `who: what thing`.
async fn told(client: &Client, filter: &AuditFilter) -> Vec<String> {
    let entries = audit::list(client, filter, None, 100).await.unwrap();
    let text = |entry: AuditRow| {
        let who = entry.actor.unwrap_or_else(|| format!("role {}", entry.role));
        format!("{who}: {} {}", entry.action, entry.subject)
    };
    entries.into_iter().map(text).collect()
}

fn device(name: &str) -> NewDevice {
    NewDevice::new(name.parse().unwrap(), "sensor".parse().unwrap())
}

fn command(database: &TestDatabase, arguments: &[&str]) -> String {
    let mut command = fleetgate(arguments);
    command.env("FLEETGATE_DATABASE_URL", &database.url);
    let (code, stdout, stderr) = run(command);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    stdout
}

#[tokio::test]
async fn the_log_tells_who() {
    let database = fresh_database().await;
    let owner = connect(&as_owner(&database.url)).await;
    command(&database, &["device", "add", "lamp", "--kind", "light"]);
    let entries = log(&owner).await;
    assert_eq!(entries.len(), 1);
    let actor = entries[0].actor.clone().unwrap();
    assert!(actor.starts_with("command-line:") && actor.len() > "command-line:".len(), "{actor}");
    assert_eq!(entries[0].role, SERVING_ROLE);
    assert_eq!(entries[0].after.as_ref().unwrap().value()["kind"], "light");

    // The service's role says who acts, for one transaction.
    let mut serving = connect(&database.url).await;
    let token = Actor::Token { id: 7, name: "grafana".to_owned() };
    act(&mut serving, &token, async |fleet| {
        devices::set_enabled(fleet, &"lamp".parse().unwrap(), false).await
    })
    .await
    .unwrap();
    serving.batch_execute("UPDATE devices SET floor = '1'").await.unwrap();

    // Somebody in psql may say what they like.
    let role = database.url.rsplit("dbname=").next().unwrap().replace('\'', "") + "_alice";
    let grants = format!(
        "CREATE ROLE {role} LOGIN IN ROLE {SERVING_ROLE}; GRANT SELECT, UPDATE ON devices TO {role}"
    );
    owner.batch_execute(&grants).await.unwrap();
    let user = |role: &str| format!("user={role} ");
    let alice = connect(&database.url.replace(&user(SERVING_ROLE), &user(&role))).await;
    let forged = "SET fleetgate.actor = 'system'; UPDATE devices SET area = 'a'";
    alice.batch_execute(forged).await.unwrap();
    let as_another = format!("SET ROLE {SERVING_ROLE}; UPDATE devices SET area = 'b'");
    alice.batch_execute(&as_another).await.unwrap();

    let by_alice = format!("role {role}: changed device");
    assert_eq!(
        told(&owner, &EVERYTHING).await,
        [
            &by_alice,
            &by_alice,
            &format!("role {SERVING_ROLE}: changed device"),
            "token:7:grafana: changed device",
            &format!("{actor}: added device"),
        ]
    );
    let by = async |actor: &str| {
        let filter = AuditFilter { actor: Some(actor.to_owned()), ..EVERYTHING };
        told(&owner, &filter).await.len()
    };
    let counts =
        (by("token").await, by("token:7").await, by("tok").await, by("command-line").await);
    assert_eq!(counts, (1, 1, 0, 1));
    assert_eq!((by(&role).await, by("system").await), (2, 0));
    owner.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn what_is_done_over_http_is_told_by_its_token() {
    let (_app, root, _fleet, database) = start_api().await;
    assert_eq!(root.put("/devices/lamp", &json!({"kind": "light"})).await.status, 201);
    let made = root.post("/tokens", &json!({"name": "other", "scopes": ["read"]})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let owner = connect(&as_owner(&database.url)).await;
    let entries = log(&owner).await;
    let of = |subject: &str| entries.iter().rfind(|entry| entry.subject == subject).unwrap();
    for subject in ["device", "token"] {
        let actor = of(subject).actor.as_deref();
        assert!(
            actor.is_some_and(|actor| actor.starts_with("token:") && actor.ends_with(":root")),
            "{actor:?}"
        );
    }
    assert_eq!(of("token").after.as_ref().unwrap().value()["scopes"], json!(["read"]));
    assert!(!json!(entries).to_string().contains(made.json()["token"].as_str().unwrap()));
}

/// A role's temporary tables come first where nobody says otherwise: none may pass for the log.
#[tokio::test]
async fn a_serving_role_cannot_lead_its_changes_past_the_log() {
    let database = fresh_database().await;
    let serving = connect(&database.url).await;
    let decoys = "CREATE TEMP TABLE audit (LIKE public.audit INCLUDING ALL);
        CREATE TEMP TABLE serving_roles (name text); CREATE TEMP TABLE devices (LIKE public.devices);
        INSERT INTO public.devices (name, kind) VALUES ('lamp', 'light');
        UPDATE public.devices SET name = 'desk'; DELETE FROM public.devices";
    serving.batch_execute(decoys).await.unwrap();
    let owner = connect(&as_owner(&database.url)).await;
    assert_eq!(log(&owner).await.len(), 3);
}

#[tokio::test]
async fn no_secret_and_no_hash_is_in_the_log() {
    let database = fresh_database().await;
    let owner = connect(&as_owner(&database.url)).await;
    let arguments = ["device", "add", "lamp", "--kind", "light", "--generate", "--json"];
    let added: Value = serde_json::from_str(&command(&database, &arguments)).unwrap();
    let secret = added["secret"].as_str().unwrap().to_owned();
    owner
        .batch_execute(
            "UPDATE device_credentials SET hash = replace(hash, 'm=', 'm=1');
             UPDATE device_credentials SET label = 'new', hash = replace(hash, 'm=', 'm=1')",
        )
        .await
        .unwrap();
    owner.batch_execute("DELETE FROM devices").await.unwrap();
    let entries = log(&owner).await;
    let text = json!(entries).to_string();
    assert!(!text.contains(&secret) && !text.contains("$argon2"), "{text}");
    let of_credentials = entries.iter().filter(|entry| entry.subject == "credential");
    let of_credentials: Vec<_> = of_credentials
        .map(|entry| (&*entry.action, entry.after.as_ref().map(Document::value)))
        .collect();
    assert_eq!(
        of_credentials[1..],
        [
            ("changed", Some(json!({"hash": "replaced"}))),
            ("changed", Some(json!({"hash": "replaced", "label": "new"}))),
            ("removed", None),
        ]
    );
    // What goes with its device is told under its name.
    assert!(entries.iter().all(|entry| entry.device.as_deref() == Some("lamp")), "{text}");
}

#[tokio::test]
async fn presence_and_reports_call_no_trigger_of_the_log() {
    let database = fresh_database().await;
    let owner = connect(&as_owner(&database.url)).await;
    command(&database, &["device", "add", "lamp", "--kind", "light", "--state-topic", "main=t"]);
    let broken = "DROP TRIGGER command_deliveries_audit_added ON command_deliveries;
        CREATE OR REPLACE FUNCTION fleetgate_audit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the log was called'; END $$";
    owner.batch_execute(broken).await.unwrap();
    let app = TestApp::start(config(&database.url)).await;
    app.ready().await;
    let at = now();
    for event in [
        connected("lamp", "lamp", at),
        message("lamp", "t", at, "0A", "1"),
        disconnected("lamp", "lamp", at, at + 1, "normal"),
    ] {
        assert_eq!(app.event(&event).await.status, 204);
    }
    let seen = "SELECT EXISTS (SELECT FROM device_state WHERE state -> 'main' ->> 'value' = '1')
        AND EXISTS (SELECT FROM client_sessions WHERE NOT open)";
    assert!(owner.query_one(seen, &[]).await.unwrap().get::<_, bool>(0));
    let changed = owner.batch_execute("UPDATE devices SET area = 'x'").await;
    assert!(changed.is_err(), "the test proves nothing");
}

#[tokio::test]
async fn a_command_is_told_by_its_hash() {
    let (_database, mut client) = Database::migrated().await;
    let setup = "INSERT INTO capabilities (name) VALUES ('switch');
        INSERT INTO devices (name, kind) VALUES ('a', 'x'), ('b', 'x');
        INSERT INTO device_capabilities SELECT id, 'switch' FROM devices;
        INSERT INTO topic_bindings (device_id, name, command_topic) SELECT id, 'switch', name || '/set' FROM devices";
    client.batch_execute(setup).await.unwrap();
    let to = |names: &[&str]| NewCommand {
        to: To::Devices(names.iter().map(|name| name.parse().unwrap()).collect()),
        ..new("\"open sesame\"")
    };
    let service = Actor::Service("panel".to_owned());
    act(&mut client, &service, async |fleet| {
        commands::send(fleet, &to(&["a", "b"])).await?;
        commands::send(fleet, &to(&["b"])).await
    })
    .await
    .unwrap();
    let entries = audit::list(&client, &EVERYTHING, None, 2).await.unwrap();
    let after =
        |entry: usize, member: &str| entries[entry].after.as_ref().unwrap().value()[member].clone();
    assert_eq!((after(1, "devices"), after(0, "devices")), (json!(2), json!(1)));
    assert_eq!((entries[1].device.as_deref(), entries[0].device.as_deref()), (None, Some("b")));
    assert_eq!(entries[0].actor.as_deref(), Some("service:panel"));
    let hash: String = client
        .query_one("SELECT encode(sha256('\"open sesame\"'), 'hex')", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(after(0, "payload_sha256"), json!(hash));
    assert!(!json!(entries).to_string().contains("sesame"));
}

#[tokio::test]
async fn a_device_is_found_by_every_name_that_it_had() {
    let (_database, client) = Database::migrated().await;
    let statements = "INSERT INTO devices (name, kind) VALUES ('lamp', 'x'), ('other', 'x');
        INSERT INTO topic_bindings (device_id, name, state_topic) SELECT id, 'main', name FROM devices;
        UPDATE devices SET name = 'desk' WHERE name = 'lamp';
        UPDATE devices SET name = 'shelf' WHERE name = 'desk'";
    client.batch_execute(statements).await.unwrap();
    let of = async |name: &str| {
        let filter = AuditFilter { device: Some(name.parse().unwrap()), ..EVERYTHING };
        told(&client, &filter).await.len()
    };
    for name in ["lamp", "desk", "shelf"] {
        assert_eq!(of(name).await, 4, "{name}");
    }
    client.batch_execute("DELETE FROM devices WHERE name = 'shelf'").await.unwrap();
    for name in ["lamp", "desk", "shelf"] {
        assert_eq!(of(name).await, 6, "{name}");
    }
    assert_eq!((of("other").await, of("nobody").await), (2, 0));
}

#[tokio::test]
async fn what_is_large_is_told_by_size_and_hash() {
    let (_database, client) = Database::migrated().await;
    let statement = "INSERT INTO devices (name, kind, meta)
        VALUES ('a', 'x', jsonb_build_object('x', repeat('secret', 20000)))";
    client.batch_execute(statement).await.unwrap();
    let meta = log(&client).await[0].after.as_ref().unwrap().value()["meta"].clone();
    assert_eq!(meta["bytes"], 120_009);
    assert_eq!(meta["sha256"].as_str().map(str::len), Some(64));
}

/// Of every column the log tells, but for those of which it says that it does not.
#[tokio::test]
async fn no_column_is_forgotten() {
    let (_database, client) = Database::migrated().await;
    let untold = "SELECT table_name || '.' || column_name FROM information_schema.columns
        JOIN pg_trigger ON tgrelid = to_regclass(table_name) AND tgname = table_name || '_audit_changed'
        JOIN LATERAL (SELECT pg_get_triggerdef(pg_trigger.oid)) AS trigger (text) ON true
        WHERE table_schema = 'public' AND strpos(text, 'new.' || column_name) = 0
        ORDER BY 1";
    let untold = client.query(untold, &[]).await.unwrap();
    let untold: BTreeSet<String> = untold.iter().map(|row| row.get(0)).collect();
    let forgotten = untold.iter().filter(|column| {
        let name = column.split('.').nth(1).unwrap();
        ![&UNTOLD[..], &OF_PRESENCE].concat().iter().any(|one| *one == name || one == column)
    });
    assert_eq!(forgotten.collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(untold.contains("devices.online"));
}

#[tokio::test]
async fn only_what_is_old_is_pruned_whatever_is_asked_for() {
    let database = fresh_database().await;
    let owner = connect(&as_owner(&database.url)).await;
    let aged = "INSERT INTO devices (name, kind) SELECT 'd' || i, 'x' FROM generate_series(1, 20) AS i;
        UPDATE audit SET at = at - CASE WHEN id % 2 = 0 THEN interval '366 days' ELSE interval '8 days' END";
    owner.batch_execute(aged).await.unwrap();
    owner.batch_execute("DELETE FROM devices WHERE name = 'd1'").await.unwrap();
    let app = TestApp::start(config(&database.url)).await;
    app.ready().await;
    let count = async || log(&owner).await.len();
    eventually("old entries are removed", || async { count().await == 11 }).await;
    // By the serving role, which may ask for anything.
    let serving = connect(&database.url).await;
    for (keep, most, left) in [("'-1 year'", 3, 8), ("'0'", 100, 1), ("NULL", 100, 1)] {
        let prune = format!("SELECT fleetgate_prune_audit({keep}, {most})");
        serving.batch_execute(&prune).await.unwrap();
        assert_eq!(count().await, left, "{keep}");
    }
    let anybody = database.url.rsplit("dbname=").next().unwrap().replace('\'', "") + "_anybody";
    owner.batch_execute(&format!("CREATE ROLE {anybody}; SET ROLE {anybody}")).await.unwrap();
    let error = owner.batch_execute("SELECT fleetgate_prune_audit('1 year', 1)").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    owner.batch_execute(&format!("RESET ROLE; DROP ROLE {anybody}")).await.unwrap();
    for forbidden in ["DELETE FROM audit", "UPDATE audit SET at = '-infinity'", "TRUNCATE audit"] {
        let error = serving.batch_execute(forbidden).await.expect_err(forbidden);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{forbidden}");
    }
}

/// Of two transactions at once, the one that is committed later has the lower numbers.
#[tokio::test]
async fn who_follows_hears_everything_once() {
    let (database, client) = Database::migrated().await;
    let add = |name: &str| format!("INSERT INTO devices (name, kind) VALUES ('{name}', 'x')");
    let (mut early, mut late) = (database.connect().await, database.connect().await);
    client.batch_execute(&add("before")).await.unwrap();
    let early = early.transaction().await.unwrap();
    early.batch_execute(&add("early")).await.unwrap();
    let mut follower = Follower::from_now(&client, EVERYTHING).await.unwrap();
    let late = late.transaction().await.unwrap();
    late.batch_execute(&add("late")).await.unwrap();
    let mut heard = Vec::new();
    let mut hear = async |times: usize| {
        for _ in 0..times {
            let entries = follower.next(&client).await.unwrap();
            heard.extend(entries.into_iter().map(|entry| entry.device.unwrap()));
        }
        std::mem::take(&mut heard)
    };
    client.batch_execute(&add("between")).await.unwrap();
    assert_eq!(hear(3).await, ["between"]);
    late.commit().await.unwrap();
    assert_eq!(hear(3).await, ["late"]);
    client.batch_execute(&add("after")).await.unwrap();
    assert_eq!(hear(1).await, ["after"]);
    early.commit().await.unwrap();
    assert_eq!(hear(3).await, ["early"]);
    client.batch_execute("INSERT INTO devices (name, kind) SELECT 'd' || i, 'x' FROM generate_series(1, 2500) AS i")
        .await
        .unwrap();
    assert_eq!(hear(3).await.len(), 2500);
    assert_eq!(hear(3).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_command_line_lists_and_follows() {
    let database = fresh_database().await;
    let mut following = fleetgate(&["audit", "follow", "--device", "lamp"]);
    following.env("FLEETGATE_DATABASE_URL", &database.url);
    let mut following = following.spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut remarks = BufReader::new(following.stderr.take().unwrap()).lines();
    assert_eq!(remarks.next().unwrap().unwrap(), "Following the audit log.");
    command(&database, &["device", "add", "other", "--kind", "light"]);
    command(&database, &["device", "add", "lamp", "--kind", "light"]);
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("device lamp added") && line.contains("command-line:"), "{line}");
    // Its reader has seen enough, as `head`.
    drop(lines);
    command(&database, &["device", "set", "lamp", "--area", "lab"]);
    assert!(following.wait().unwrap().success());
    let listed = command(&database, &["audit", "list", "--device", "lamp", "--since", "1h"]);
    assert!(
        listed.contains("device lamp changed") && listed.contains("area: null → \"lab\""),
        "{listed}"
    );
    let page = command(&database, &["audit", "list", "--limit", "1", "--json"]);
    let page: Value = serde_json::from_str(&page).unwrap();
    let next = page["next"].to_string();
    let page = command(&database, &["audit", "list", "--json", "--after", &next]);
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["entries"].as_array().unwrap().len(), 2);
    assert_eq!(page["next"], Value::Null);
}

/// Columns that are not told, of whatever table: ids, versions, timestamps of rows, what follows from others.
const UNTOLD: [&str; 8] = [
    "id",
    "created_at",
    "updated_at",
    "paused_at",
    "version",
    "version_transaction",
    "effective_client_id",
    "topic_bindings.capability",
];
const OF_PRESENCE: [&str; 2] = ["devices.online", "devices.open_sessions"];

// Replaying ------------------------------------------------------------------------------------

/// What names a row: its subject, the row of its device, and its name where it has one.
type Key = (String, Option<i64>, String);

/// The tables as the log tells them.
#[derive(Default)]
struct Replayed(BTreeMap<Key, Map<String, Value>>);

impl Replayed {
    fn device(&self, name: &Value) -> Value {
        let found =
            self.0.iter().find(|((subject, ..), row)| subject == "device" && row["name"] == *name);
        found.map_or(Value::Null, |((_, id, _), _)| json!(id))
    }

    fn take(&mut self, entry: &AuditRow, device_id: Option<i64>) {
        let members = |document: &Option<Document>| {
            document.as_ref().map(|document| match document.value() {
                Value::Object(members) => members,
                other => panic!("{other}"),
            })
        };
        let name = if entry.subject == "device" {
            String::new()
        } else {
            entry.name.clone().unwrap_or_default()
        };
        let key = (entry.subject.clone(), device_id, name);
        let mut after = members(&entry.after);
        // A gateway is told by its name of then.
        if let Some(gateway) = after.as_mut().and_then(|after| after.get_mut("gateway")) {
            *gateway = self.device(gateway);
        }
        match entry.action.as_str() {
            "added" => assert!(self.0.insert(key, after.unwrap()).is_none(), "{entry:?}"),
            "removed" => assert!(self.0.remove(&key).is_some(), "{entry:?}"),
            "changed" => {
                let mut row = self.0.remove(&key).unwrap_or_else(|| panic!("{entry:?}"));
                let mut after = after.unwrap();
                after.remove("hash");
                let renamed = after.get("name").and_then(Value::as_str).map(str::to_owned);
                let name = renamed.filter(|_| entry.subject != "device").unwrap_or(key.2);
                row.extend(after);
                self.0.insert((key.0, key.1, name), row);
            }
            "emptied" => {
                let before = self.0.len();
                self.0.retain(|(subject, ..), _| *subject != entry.subject);
                assert_eq!(
                    json!({"rows": before - self.0.len()}),
                    entry.before.as_ref().unwrap().value()
                );
            }
            other => panic!("{other}"),
        }
    }

    /// The rows, in no order, with names in place of ids.
    fn rows(&self) -> Vec<String> {
        let name = |id: &Option<i64>| {
            let row = id.and_then(|_| self.0.get(&("device".to_owned(), *id, String::new())));
            row.map_or(Value::Null, |row| row["name"].clone())
        };
        let mut rows: Vec<String> = self
            .0
            .iter()
            .map(|((subject, device, _), row)| {
                let mut row = row.clone();
                if let Some(gateway) = row.get_mut("gateway") {
                    *gateway = name(&gateway.as_i64());
                }
                json!([subject, name(device), row]).to_string()
            })
            .collect();
        rows.sort();
        rows
    }
}

const OWNER: &str = "(SELECT name FROM devices WHERE id = logged.device_id)";

/// The tables as they are.
async fn rows(client: &Client) -> Vec<String> {
    let gateway =
        "jsonb_build_object('gateway', (SELECT name FROM devices WHERE id = logged.gateway))";
    let tables = [
        ("devices", "device", "logged.name", gateway),
        ("device_credentials", "credential", OWNER, "'{}'"),
        ("capabilities", "capability", "NULL", "'{}'"),
        ("device_capabilities", "device_capability", OWNER, "'{}'"),
        ("topic_bindings", "binding", OWNER, "'{}'"),
        ("topic_grants", "grant", OWNER, "'{}'"),
        ("routing_rules", "rule", "NULL", "'{}'"),
        ("command_pauses", "pause", "NULL", "'{}'"),
        ("api_tokens", "token", "NULL", "'{}'"),
    ];
    let selects = tables.map(|(table, subject, name, besides)| {
        let untold = [&UNTOLD[..], &OF_PRESENCE].concat();
        let untold = untold.iter().filter_map(|column| match column.split_once('.') {
            Some((of, column)) => (of == table).then_some(column),
            None => Some(*column),
        });
        let untold = untold.collect::<Vec<_>>().join(",");
        format!(
            "SELECT '{subject}', {name}, to_jsonb(logged) - '{{hash,device_id,{untold}}}'::text[] || {besides} FROM {table} AS logged"
        )
    });
    client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let found = client.query(&selects.join(" UNION ALL "), &[]).await.unwrap();
    let row = |row: &tokio_postgres::Row| {
        let (subject, name, content): (&str, Option<&str>, Value) =
            (row.get(0), row.get(1), row.get(2));
        json!([subject, name, content]).to_string()
    };
    let mut rows: Vec<String> = found.iter().map(row).collect();
    rows.sort();
    rows
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "it''s"];
const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$YWJjZGVmZ2hpamtsbW5vcA$YWJjZGVmZ2hpamtsbW5vcGFiY2RlZmdo";

/// One change by somebody in `psql`, by numbers that were drawn. Many of them break a rule, and change nothing.
fn statement(way: u8, first: u8, second: u8) -> String {
    let name = |number: u8| NAMES[usize::from(number) % NAMES.len()];
    let (a, b) = (name(first), name(second));
    let id = |name: &str| format!("(SELECT id FROM devices WHERE name = '{name}')");
    let odd = second % 2 == 1;
    match way {
        0 => format!("INSERT INTO devices (name, kind, area) VALUES ('{a}', 'x', '{b}'), ('{b}', 'y', NULL) ON CONFLICT DO NOTHING"),
        1 => format!("COPY devices (name, kind, meta) FROM PROGRAM 'printf \"{}\\tx\\t{{}}\\n{}2\\ty\\t{{}}\\n\"'", a.replace('\'', ""), first),
        2 => format!("UPDATE devices SET area = '{b}', enabled = NOT enabled WHERE name <= '{a}'"),
        3 => format!("UPDATE devices SET name = '{b}', meta = '{{\"n\": [{second}, null]}}' WHERE name = '{a}'"),
        4 => format!("UPDATE devices SET gateway = {} WHERE name = '{a}'", if odd { id(b) } else { "NULL".to_owned() }),
        5 => format!("DELETE FROM devices WHERE name = '{a}' OR name LIKE '{b}2'"),
        6 => format!("INSERT INTO capabilities (name) VALUES ('{a}'), ('{b}x') ON CONFLICT DO NOTHING"),
        7 => format!("UPDATE capabilities SET description = '{b}', state_schema = '{odd}', name = name || '{}' WHERE name = '{a}'", if odd { "x" } else { "" }),
        8 => format!("DELETE FROM capabilities WHERE name = '{a}' OR name = '{b}x'"),
        9 => format!("INSERT INTO device_capabilities SELECT id, '{a}' FROM devices ON CONFLICT DO NOTHING"),
        10 => format!("DELETE FROM device_capabilities WHERE device_id = {} OR capability = '{b}'", id(a)),
        11 => format!("INSERT INTO topic_bindings (device_id, name, state_topic) SELECT device_id, capability, '{a}' FROM device_capabilities
                       UNION ALL SELECT id, 'main', '{b}' FROM devices ON CONFLICT DO NOTHING"),
        12 => format!("UPDATE topic_bindings SET device_id = {}, merge = {odd} WHERE name = 'main' AND device_id = {}", id(b), id(a)),
        13 => format!("UPDATE topic_bindings SET command_topic = '{b}', name = CASE WHEN {odd} THEN 'main' ELSE name END WHERE device_id = {}", id(a)),
        14 => format!("DELETE FROM topic_bindings WHERE state_topic = '{a}'"),
        15 => format!("INSERT INTO topic_grants (device_id, action, topic_filter) SELECT id, 'publish', '{a}' FROM devices ON CONFLICT DO NOTHING"),
        16 => format!("UPDATE topic_grants SET topic_filter = '{b}' WHERE topic_filter = '{a}'"),
        17 => format!("UPDATE topic_grants SET device_id = {} WHERE device_id = {}", id(b), id(a)),
        18 => format!("DELETE FROM topic_grants WHERE device_id = {}", id(a)),
        19 => format!("INSERT INTO device_credentials (device_id, kind, hash, label) VALUES ({}, 'secret', '{HASH}', '{b}')", id(a)),
        20 => format!("UPDATE device_credentials SET hash = hash || 'A', label = CASE WHEN {odd} THEN '{b}' ELSE label END WHERE device_id = {}", id(a)),
        21 => format!("UPDATE device_credentials SET revoked_at = now(), expires_at = '2030-01-01' WHERE device_id = {}", id(a)),
        22 => format!("DELETE FROM device_credentials WHERE device_id = {}", id(a)),
        23 => format!("INSERT INTO routing_rules (name, capability, selector) VALUES ('{a}', '{b}', '{{\"area\": \"{first}\"}}')"),
        24 => format!("UPDATE routing_rules SET name = '{b}', priority = {second}, enabled = {odd} WHERE name = '{a}'"),
        25 => format!("DELETE FROM routing_rules WHERE name = '{a}' OR capability = '{b}'"),
        26 => format!("INSERT INTO command_pauses (capability, paused_by) VALUES ('{a}', '{b}') ON CONFLICT DO NOTHING"),
        27 => format!("DELETE FROM command_pauses WHERE capability = '{a}'"),
        28 => format!("BEGIN; UPDATE devices SET floor = '{a}'; DELETE FROM topic_grants; ROLLBACK"),
        29 => "UPDATE devices SET online = NOT online".to_owned(),
        30 => format!(
            "INSERT INTO api_tokens (name, hash, scopes) VALUES ('{a}', sha256('{b}'), '{{read}}') ON CONFLICT DO NOTHING"
        ),
        31 => format!(
            "UPDATE api_tokens SET name = '{b}', hash = sha256('{second}'), scopes = scopes || '{{devices}}' WHERE name = '{a}'"
        ),
        32 => format!("DELETE FROM api_tokens WHERE name = '{a}'"),
        // Rarely, or nothing is ever there.
        _ => match (second % 8, first % 5) {
            (0, 0) => "TRUNCATE devices CASCADE".to_owned(),
            (0, 1) => "TRUNCATE capabilities CASCADE".to_owned(),
            (0, 2) => "TRUNCATE topic_grants, routing_rules".to_owned(),
            (0, 3) => "TRUNCATE device_credentials".to_owned(),
            (0, _) => "TRUNCATE topic_bindings, command_pauses".to_owned(),
            _ => format!("WITH gone AS (DELETE FROM topic_grants RETURNING device_id)
                INSERT INTO topic_grants (device_id, action, topic_filter) SELECT DISTINCT device_id, 'subscribe', '{a}' FROM gone"),
        },
    }
}

/// One change by the operations of `fleet`.
async fn operate(client: &mut Client, first: u8) -> Result<(), FleetError> {
    let name = NAMES[usize::from(first) % NAMES.len()].replace('\'', "");
    act(client, &Actor::System, async |fleet| {
        let credential = Some((NewCredential::generate().1, Terms::default()));
        let bindings =
            vec![NewBinding::exact("main".parse().unwrap(), Some("t".parse().unwrap()), None)];
        devices::add(fleet, &NewDevice { credential, bindings, ..device(&name) }).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn the_tables_can_be_made_again_from_the_log() {
    let mut runner = TestRunner::default();
    for _ in 0..4 {
        let (_database, mut client) = Database::migrated().await;
        let drawn = prop::collection::vec((0..35_u8, any::<u8>(), any::<u8>()), 250);
        let drawn = drawn.new_tree(&mut runner).unwrap().current();
        let (mut done, mut most) = (Vec::new(), 0);
        for (way, first, second) in drawn {
            let (statement, outcome) = match way {
                34 => (
                    "an operation".to_owned(),
                    operate(&mut client, first).await.map_err(|error| error.to_string()),
                ),
                way => {
                    let statement = statement(way, first, second);
                    let outcome = client.batch_execute(&statement).await;
                    (statement, outcome.map_err(|error| error.to_string()))
                }
            };
            if outcome.is_ok() {
                done.push(statement);
            }
            most = most.max(rows(&client).await.len());
        }
        assert!(done.len() > 100 && most > 10, "too little happens: {done:#?}");
        let ids = client.query("SELECT id, device_id FROM audit", &[]).await.unwrap();
        let ids: BTreeMap<i64, Option<i64>> =
            ids.iter().map(|row| (row.get(0), row.get(1))).collect();
        let mut replayed = Replayed::default();
        for entry in log(&client).await {
            replayed.take(&entry, ids[&entry.id]);
        }
        assert_eq!(replayed.rows(), rows(&client).await, "{done:#?}");
    }
}
