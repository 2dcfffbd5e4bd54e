//! Devices behind a gateway: one MQTT client that speaks for many things.

use std::collections::BTreeMap;
use std::time::Duration;

use fleetgate::commands::IN_FLIGHT;
use fleetgate::domain::delivery::Confirmation;
use fleetgate::fleet::FleetError;
use fleetgate::fleet::commands::{self, NewCommand};
use fleetgate::fleet::credentials::{self, NewCredential, Terms};
use fleetgate::fleet::devices::{self, DeviceChange, DeviceFilter, NewDevice};
use fleetgate::fleet::error::{ErrorKind, Field, Rule};
use fleetgate::fleet::routing::To;
use fleetgate::registry::commands::in_flight;
use fleetgate::registry::connection::LOOK_UP_PLANS;
use fleetgate::registry::lookup::LOOK_UP;
use fleetgate::registry::sweep::{DeviceCounts, count_devices};
use serde_json::{Value, json};
use tokio_postgres::{Client, IsolationLevel};

use crate::commands::{Bench, name, new};
use crate::support::app::{TestApp, eventually, start, start_with};
use crate::support::bus::{command, connected, disconnected, last_seen, message, now, state};
use crate::support::commands::{fleetgate, run};
use crate::support::database::Database;
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, as_owner, connect};

/// A gateway `bridge` with the children `lamp` and `plug`; a device `other` and a service `dash`.
const FLEET: &str = "
    INSERT INTO devices (name, kind) VALUES ('bridge', 'bridge'), ('other', 'bridge'), ('dash', 'service');
    INSERT INTO devices (name, kind, gateway)
    SELECT name, 'light', (SELECT id FROM devices WHERE name = 'bridge') FROM unnest('{lamp,plug}'::text[]) AS name;";

const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

async fn with_fleet() -> (Database, Client) {
    let (database, client) = Database::migrated().await;
    client.batch_execute(FLEET).await.unwrap();
    (database, client)
}

/// A statement that sets the gateway of one device to another.
fn behind(child: &str, gateway: &str) -> String {
    format!(
        "UPDATE devices SET gateway = (SELECT id FROM devices WHERE name = '{gateway}') WHERE name = '{child}'"
    )
}

/// A statement that gives a device a credential; `columns` say more of it.
fn secret(device: &str, columns: &str, values: &str) -> String {
    format!(
        "INSERT INTO device_credentials (device_id, kind, hash{columns})
         SELECT id, 'secret', '{HASH}'{values} FROM devices WHERE name = '{device}'"
    )
}

fn refused_by(outcome: Result<(), tokio_postgres::Error>) -> Option<String> {
    let error = outcome.err()?;
    let answer = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    Some(answer.constraint().unwrap_or_else(|| panic!("{answer:?}")).to_owned())
}

#[tokio::test]
async fn the_database_holds_what_a_gateway_and_a_child_may_be() {
    let (_database, client) = with_fleet().await;
    let kind = |device: &str, kind: &str| {
        format!("UPDATE devices SET kind = '{kind}' WHERE name = '{device}'")
    };
    let refused = [
        (behind("other", "dash"), "devices_gateway_service"),
        (behind("other", "lamp"), "devices_gateway_of_child"),
        (behind("bridge", "other"), "devices_gateway_children"),
        (behind("other", "other"), "devices_gateway_itself"),
        (behind("bridge", "lamp"), "devices_gateway_of_child"),
        (behind("dash", "bridge"), "devices_child_service"),
        (kind("lamp", "service"), "devices_child_service"),
        (kind("bridge", "service"), "devices_gateway_children"),
        ("DELETE FROM devices WHERE name = 'bridge'".to_owned(), "devices_gateway"),
        (secret("lamp", "", ""), "device_credentials_of_child"),
        (
            secret("lamp", ", not_before", ", now() + interval '1 day'"),
            "device_credentials_of_child",
        ),
        (
            "UPDATE devices SET availability_topic = 'a/+' WHERE name = 'lamp'".to_owned(),
            "devices_availability_topic_form",
        ),
        (
            "UPDATE devices SET availability_topic = 'fleetgate/x' WHERE name = 'lamp'".to_owned(),
            "devices_availability_topic_form",
        ),
        (
            "UPDATE devices SET availability_topic = 'a' WHERE name = 'other'".to_owned(),
            "devices_availability_of_child",
        ),
    ];
    for (sql, constraint) in &refused {
        let by = refused_by(client.batch_execute(sql).await);
        assert_eq!(by.as_deref(), Some(*constraint), "{sql}");
    }
    // What is not valid any more is no credential, and none that was revoked comes back.
    let several = secret("other", "", "").replace("= 'other'", "IN ('dash', 'lamp', 'other')");
    let by = refused_by(client.batch_execute(&several).await);
    assert_eq!(by.as_deref(), Some("device_credentials_of_child"), "one of several is a child");
    client.batch_execute(&secret("other", "", "")).await.unwrap();
    let by = refused_by(client.batch_execute(&behind("other", "bridge")).await);
    assert_eq!(by.as_deref(), Some("devices_child_credential"));
    client.batch_execute("UPDATE device_credentials SET revoked_at = now()").await.unwrap();
    let expired = secret("other", ", expires_at", ", now() - interval '1 day'");
    client.batch_execute(&expired).await.unwrap();
    client.batch_execute(&behind("other", "bridge")).await.unwrap();
    for again in ["expires_at = NULL", "revoked_at = NULL"] {
        let sql = format!("UPDATE device_credentials SET {again}");
        let by = refused_by(client.batch_execute(&sql).await);
        assert_eq!(by.as_deref(), Some("device_credentials_of_child"), "{sql}");
    }
    // A gateway may go together with its children, and a child may leave.
    client.batch_execute("UPDATE devices SET gateway = NULL WHERE name = 'other'").await.unwrap();
    client.batch_execute(&secret("other", "", "")).await.unwrap();
    client
        .batch_execute("DELETE FROM devices WHERE name IN ('bridge', 'lamp', 'plug')")
        .await
        .unwrap();
}

async fn somebody_waits(watcher: &Client) {
    let blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0)";
    let waiting =
        async { while !watcher.query_one(blocked, &[]).await.unwrap().get::<_, bool>(0) {} };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("nobody waits");
}

/// Each of two statements is allowed alone. In two transactions at once the second waits for the first, and is then refused.
#[tokio::test]
async fn two_transactions_cannot_break_it_together() {
    let pairs = [
        (behind("other", "third"), behind("third", "fourth")),
        (behind("other", "third"), "UPDATE devices SET kind = 'service' WHERE name = 'third'".to_owned()),
        (behind("other", "third"), secret("other", "", "")),
        (behind("other", "third"), secret("other", "", "").replace("name = 'other'", "name IN ('fourth', 'other', 'third')")),
        (behind("other", "third"), "UPDATE device_credentials SET expires_at = NULL WHERE expires_at = '2020-01-01'".to_owned()),
        (behind("other", "third"), behind("third", "other")),
        (behind("other", "third"), "DELETE FROM devices WHERE name = 'third'".to_owned()),
        (behind("other", "third"), "UPDATE devices SET kind = 'service' WHERE name = 'other'".to_owned()),
        (
            "INSERT INTO devices (name, kind, gateway) SELECT 'new', 'light', id FROM devices WHERE name = 'third'".to_owned(),
            behind("third", "fourth"),
        ),
    ];
    for (first, second) in pairs.iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
        let (database, mut client) = with_fleet().await;
        client
            .batch_execute(
                "INSERT INTO devices (name, kind) VALUES ('third', 'bridge'), ('fourth', 'bridge')",
            )
            .await
            .unwrap();
        client.batch_execute(&secret("other", ", expires_at", ", '2020-01-01'")).await.unwrap();
        let (late, watcher) = (database.connect().await, database.connect().await);
        let open = client.transaction().await.unwrap();
        open.batch_execute(first).await.unwrap();
        let statement = second.clone();
        let late = tokio::spawn(async move { late.batch_execute(&statement).await });
        somebody_waits(&watcher).await;
        open.commit().await.unwrap();
        let outcome = late.await.unwrap();
        // What names a gateway that is gone by then finds no such row to name, or breaks the foreign key.
        let broken = "SELECT count(*) FROM devices AS child JOIN devices AS gateway ON gateway.id = child.gateway
            WHERE gateway.gateway IS NOT NULL OR 'service' IN (gateway.kind, child.kind)
               OR EXISTS (SELECT FROM device_credentials WHERE device_id = child.id AND expires_at IS NULL)";
        let broken: i64 = watcher.query_one(broken, &[]).await.unwrap().get(0);
        assert_eq!(broken, 0, "{first}; {second}");
        assert!(outcome.is_err(), "{first}; {second}");
    }
}

#[tokio::test]
async fn a_transaction_that_sees_only_the_past_is_refused() {
    let (_database, mut client) = with_fleet().await;
    for statement in [behind("other", "bridge"), secret("other", "", "")] {
        let frozen = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
        let frozen = frozen.start().await.unwrap();
        let refused = frozen.batch_execute(&statement).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "0A000", "{statement}");
    }
}

fn rule_of<T>(outcome: Result<T, FleetError>) -> (Rule, ErrorKind, Option<Field>) {
    match outcome {
        Err(FleetError::Rule { rule, thing }) => {
            let error = FleetError::Rule { rule: rule.clone(), thing };
            (rule, error.kind(), error.field())
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was done"),
    }
}

#[tokio::test]
async fn a_child_is_added_moved_and_shown() {
    let (_database, mut client) = with_fleet().await;
    let mut sensor = NewDevice::new(name("sensor"), "sensor".parse().unwrap());
    sensor.gateway = Some(name("bridge"));
    sensor.availability_topic = Some("zigbee/sensor/availability".parse().unwrap());
    let added = devices::add(&mut client, &sensor).await.unwrap();
    assert_eq!(added.device.gateway.as_deref(), Some("bridge"));
    let topic = added.device.availability_topic.as_deref();
    assert_eq!(topic, Some("zigbee/sensor/availability"));
    let bridge = devices::show(&client, &name("bridge")).await.unwrap();
    assert_eq!(bridge.children, ["lamp", "plug", "sensor"]);

    let gateway =
        |to: Option<&str>| DeviceChange { gateway: Some(to.map(name)), ..DeviceChange::default() };
    let moved = devices::set(&mut client, &name("sensor"), &gateway(Some("other"))).await.unwrap();
    assert_eq!(moved.details.device.gateway.as_deref(), Some("other"));
    assert!(moved.details.device.availability_topic.is_some());
    let refused = rule_of(devices::remove(&client, &name("other")).await);
    assert_eq!(refused, (Rule::HasChildren, ErrorKind::Refused, None));
    let refused = rule_of(devices::set(&mut client, &name("lamp"), &gateway(Some("dash"))).await);
    assert_eq!(refused, (Rule::GatewayIsService, ErrorKind::Invalid, Some(Field::Gateway)));
    let refused = devices::set(&mut client, &name("lamp"), &gateway(Some("nobody"))).await;
    assert!(matches!(refused, Err(FleetError::NotFound(_))));
    let (_, credential) = NewCredential::generate();
    let refused = credentials::add(&client, &name("sensor"), &credential, &Terms::default()).await;
    assert_eq!(rule_of(refused).0, Rule::CredentialBehindGateway);

    let freed = devices::set(&mut client, &name("sensor"), &gateway(None)).await.unwrap();
    let device = freed.details.device;
    assert_eq!((device.gateway, device.availability_topic), (None, None));
    credentials::add(&client, &name("sensor"), &credential, &Terms::default()).await.unwrap();
}

#[tokio::test]
async fn the_command_line_sets_and_shows_gateways() {
    let (database, _client) = with_fleet().await;
    let ask = |arguments: &[&str]| {
        let mut command = fleetgate(arguments);
        command.env("FLEETGATE_DATABASE_URL", as_owner(&database.url()));
        run(command)
    };
    let add = [
        "device",
        "add",
        "leak",
        "--kind",
        "sensor",
        "--gateway",
        "bridge",
        "--availability-topic",
        "z/leak/availability",
    ];
    let (code, text, errors) = ask(&add);
    assert_eq!(code, 0, "{errors}");
    assert!(text.contains("Gateway       bridge\n"), "{text}");
    assert!(text.contains("Availability  z/leak/availability: nothing said\n"), "{text}");
    let (_, text, _) = ask(&["device", "show", "bridge"]);
    assert!(text.contains("Devices behind it:\nlamp\nleak\nplug\n"), "{text}");
    let (code, text, errors) = ask(&["--json", "device", "set", "leak", "--no-gateway"]);
    assert_eq!(code, 0, "{errors}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&shown["gateway"], &shown["availability_topic"]), (&json!(null), &json!(null)));
    for (arguments, says) in [
        (["device", "set", "leak", "--gateway", "leak"].as_slice(), "its own gateway"),
        (&["device", "set", "leak", "--gateway", "lamp"], "behind a gateway itself"),
        (&["device", "set", "leak", "--availability-topic", "z/leak"], "--gateway"),
        (&["device", "remove", "bridge", "--yes"], "other devices are behind it"),
        (&["credential", "add", "lamp", "--generate"], "logs in through it"),
    ] {
        let (code, _, errors) = ask(arguments);
        assert_ne!(code, 0, "{arguments:?}");
        assert!(errors.contains(says), "{arguments:?}: {errors}");
    }
}

async fn make_child(fleet: &Fleet, child: &str) {
    fleet.sql(&behind(child, "bridge"), &[]).await;
}

#[tokio::test]
async fn nobody_logs_in_as_a_child() {
    let (app, fleet, database) = start().await;
    fleet.device("bridge").await.device("lamp").await;
    let secret = fleet.secret("lamp").await;
    fleet.certificate("lamp", "lamp", false).await;
    assert!(app.lets_in("lamp", &secret).await);
    fleet.revoke("lamp").await;
    make_child(&fleet, "lamp").await;
    assert!(!app.lets_in("lamp", &secret).await);
    let insert =
        "INSERT INTO device_credentials (device_id, kind, common_name, certificate_required)
        SELECT id, 'certificate', 'x', false FROM devices WHERE name = 'lamp'";
    let owner = connect(&as_owner(&database.url)).await;
    let refused = refused_by(owner.batch_execute(insert).await);
    assert_eq!(refused.as_deref(), Some("device_credentials_of_child"));
}

/// Empties the queue and tells which client ids were to be kicked out, each with the device that its payload names.
async fn kick_outs(client: &Client) -> Vec<String> {
    let query = "WITH gone AS (DELETE FROM work_queue WHERE kind = 'kick_out' RETURNING key, payload)
        SELECT key || ' of ' || (payload ->> 'device') || ': ' || (payload ->> 'reason') FROM gone ORDER BY 1";
    client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Gives `lamp` all kinds of topics, `bridge` a client id of its own, and forgets what that kicked out.
async fn with_topics() -> (Database, Client) {
    let (database, client) = with_fleet().await;
    client
        .batch_execute(
            "UPDATE devices SET client_id = 'z2m' WHERE name = 'bridge';
             UPDATE devices SET availability_topic = 'z/lamp/availability' WHERE name = 'lamp';
             INSERT INTO topic_bindings (device_id, name, state_topic, command_topic, reply_topic)
             SELECT id, 'main', 'z/lamp', 'z/lamp/set', 'z/lamp/reply' FROM devices WHERE name = 'lamp';
             INSERT INTO topic_grants (device_id, action, topic_filter)
             SELECT id, 'publish', 'x/#' FROM devices WHERE name = 'lamp'",
        )
        .await
        .unwrap();
    kick_outs(&client).await;
    (database, client)
}

#[tokio::test]
async fn what_a_child_loses_kicks_out_its_gateway() {
    let (_database, client) = with_topics().await;
    for (statement, reason) in [
        ("DELETE FROM topic_bindings", "binding_removed"),
        ("UPDATE topic_bindings SET state_topic = 'z/other'", "binding_removed"),
        ("UPDATE topic_bindings SET command_topic = 'z/other'", "binding_removed"),
        ("UPDATE topic_bindings SET reply_topic = NULL", "binding_removed"),
        ("DELETE FROM topic_grants", "grant_removed"),
        ("UPDATE devices SET enabled = false WHERE name = 'lamp'", "device_disabled"),
        ("UPDATE devices SET name = 'light' WHERE name = 'lamp'", "device_renamed"),
        ("UPDATE devices SET client_id = 'l' WHERE name = 'lamp'", "client_id_changed"),
        ("UPDATE devices SET kind = 'plug' WHERE name = 'lamp'", "kind_changed"),
        (
            "UPDATE devices SET availability_topic = NULL WHERE name = 'lamp'",
            "availability_topic_changed",
        ),
        (
            "UPDATE devices SET availability_topic = 'z/a' WHERE name = 'lamp'",
            "availability_topic_changed",
        ),
        (&behind("lamp", "other"), "gateway_changed"),
        ("DELETE FROM devices WHERE name = 'lamp'", "device_removed"),
    ] {
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(statement).await.unwrap();
        client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await.unwrap();
        let expected = [format!("lamp of lamp: {reason}"), format!("z2m of bridge: {reason}")];
        assert_eq!(kick_outs(&client).await, expected, "{statement}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn what_a_child_gains_kicks_out_nobody() {
    let (_database, client) = with_topics().await;
    client
        .batch_execute(
            "INSERT INTO devices (name, kind, gateway) SELECT 'new', 'light', id FROM devices WHERE name = 'bridge';
             INSERT INTO topic_bindings (device_id, name, state_topic) SELECT id, 'main', 'z/new' FROM devices WHERE name = 'new';
             UPDATE devices SET availability_topic = 'z/new/availability' WHERE name = 'new';
             UPDATE topic_bindings SET command_topic = 'z/new/set' WHERE state_topic = 'z/new'",
        )
        .await
        .unwrap();
    assert_eq!(kick_outs(&client).await, <[&str; 0]>::default());
    client.batch_execute(&behind("other", "bridge")).await.unwrap();
    assert_eq!(kick_outs(&client).await, ["other of other: gateway_changed"]);
}

#[tokio::test]
async fn removing_many_children_kicks_out_the_gateway_once() {
    let (database, client) = with_topics().await;
    client
        .batch_execute(
            "INSERT INTO devices (name, kind, gateway)
             SELECT 'c' || n, 'light', id FROM devices, generate_series(1, 500) AS n WHERE name = 'bridge';
             CREATE TABLE queued (key text);
             CREATE FUNCTION note_queued() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO queued VALUES (NEW.key); RETURN NULL; END';
             CREATE TRIGGER note_queued AFTER INSERT OR UPDATE ON work_queue FOR EACH ROW EXECUTE FUNCTION note_queued();
             DELETE FROM devices WHERE gateway IS NOT NULL",
        )
        .await
        .unwrap();
    let queued = client.query_one("SELECT count(*) FROM queued WHERE key = 'z2m'", &[]).await;
    assert_eq!(queued.unwrap().get::<_, i64>(0), 1);
    let all = kick_outs(&client).await;
    assert_eq!(all.iter().filter(|one| *one == "z2m of bridge: device_removed").count(), 1);
    assert_eq!(all.len(), 503);
    drop(database);
}

#[tokio::test]
async fn every_change_of_a_child_is_announced_under_its_gateways_too() {
    let (database, client) = with_topics().await;
    let mut listener = database.listen().await;
    let change = |set: &str| format!("UPDATE devices SET {set} WHERE name = 'lamp'");
    let (lamp_and_bridge, with_other) =
        (["bridge", "lamp"].as_slice(), ["bridge", "lamp", "other"]);
    for (statement, names) in [
        ("UPDATE topic_bindings SET merge = true".to_owned(), lamp_and_bridge),
        ("DELETE FROM topic_bindings".to_owned(), lamp_and_bridge),
        ("DELETE FROM topic_grants".to_owned(), lamp_and_bridge),
        (change("enabled = false"), lamp_and_bridge),
        (change("enabled = true"), lamp_and_bridge),
        (change("availability_topic = NULL"), lamp_and_bridge),
        (behind("lamp", "other"), &with_other),
        (behind("lamp", "bridge"), &with_other),
        (change("name = 'light'"), &["bridge", "lamp", "light"]),
        ("DELETE FROM devices WHERE name = 'light'".to_owned(), &["bridge", "light"]),
        (
            "INSERT INTO devices (name, kind, gateway) SELECT 'new', 'light', id FROM devices WHERE name = 'bridge'".to_owned(),
            &["bridge", "new"],
        ),
        // Several rows of a statement, of several devices.
        (
            "INSERT INTO devices (name, kind, gateway)
             SELECT 'of-' || name, 'light', id FROM devices WHERE name IN ('bridge', 'other')
             UNION ALL SELECT 'alone', 'light', NULL".to_owned(),
            &["alone", "bridge", "of-bridge", "of-other", "other"],
        ),
        (
            "INSERT INTO topic_bindings (device_id, name, state_topic)
             SELECT id, 'main', name || '/state' FROM devices WHERE name IN ('plug', 'alone', 'of-other')".to_owned(),
            &["alone", "bridge", "of-other", "other", "plug"],
        ),
        (
            "INSERT INTO topic_grants (device_id, action, topic_filter)
             SELECT id, action, 'y/#' FROM devices, unnest('{publish,subscribe}'::text[]) AS action
             WHERE name IN ('alone', 'plug')".to_owned(),
            &["alone", "bridge", "plug"],
        ),
        (secret("dash", "", "").replace("name = 'dash'", "name IN ('alone', 'dash')"), &["alone", "dash"]),
        // Children may have some that are not valid any more.
        (
            secret("plug", ", expires_at", ", '2020-01-01'").replace("name = 'plug'", "name IN ('alone', 'plug')"),
            &["alone", "bridge", "plug"],
        ),
        (secret("nobody", "", ""), &[]),
        ("UPDATE devices SET meta = '{\"a\": 1}', area = 'lab'".to_owned(), &[]),
    ] {
        client.batch_execute(&statement).await.unwrap();
        let mut heard = listener.heard().await;
        heard.sort();
        assert_eq!(heard, names, "{statement}");
    }
}

/// The notice names the gateway that the device has when its transaction ends, by the name that it has then.
#[tokio::test]
async fn a_change_of_a_child_waits_for_a_change_of_its_gateway() {
    let binding = "UPDATE topic_bindings SET merge = true".to_owned();
    let rename = "UPDATE devices SET name = 'hub' WHERE name = 'bridge'".to_owned();
    let rename_of_child = "UPDATE devices SET name = 'light' WHERE name = 'lamp'".to_owned();
    let granted = "INSERT INTO topic_grants (device_id, action, topic_filter)
        SELECT id, 'publish', 'y/#' FROM devices WHERE name IN ('dash', 'lamp', 'other')"
        .to_owned();
    let added = "INSERT INTO devices (name, kind, gateway)
        SELECT 'new-' || n, 'light', id FROM devices, generate_series(1, 3) AS n WHERE name IN ('bridge', 'hub')"
        .to_owned();
    for (first, second) in [
        (behind("lamp", "other"), binding.clone()),
        (binding.clone(), behind("lamp", "other")),
        (
            "UPDATE devices SET gateway = NULL, availability_topic = NULL WHERE name = 'lamp'"
                .to_owned(),
            binding.clone(),
        ),
        (rename.clone(), binding.clone()),
        (binding.clone(), rename.clone()),
        (behind("lamp", "other"), granted.clone()),
        (granted.clone(), behind("lamp", "other")),
        (rename.clone(), granted.clone()),
        (granted.clone(), rename.clone()),
        (rename_of_child.clone(), granted.clone()),
        (granted.clone(), rename_of_child.clone()),
        (rename.clone(), added.clone()),
        (added.clone(), rename.clone()),
    ] {
        let (database, mut client) = with_topics().await;
        let (late, watcher) = (database.connect().await, database.connect().await);
        let open = client.transaction().await.unwrap();
        open.batch_execute(&first).await.unwrap();
        let late = tokio::spawn(async move { late.batch_execute(&second).await });
        somebody_waits(&watcher).await;
        open.commit().await.unwrap();
        late.await.unwrap().unwrap();
    }
}

/// What waited for another transaction announces what that left: the gateway of then, by the names of then.
#[tokio::test]
async fn rows_that_waited_are_announced_as_their_devices_are_by_then() {
    let granted = "INSERT INTO topic_grants (device_id, action, topic_filter)
        SELECT id, 'publish', 'y/#' FROM devices WHERE kind = 'light'";
    let firsts = [
        (behind("lamp", "other"), "other"),
        ("UPDATE devices SET name = 'hub' WHERE name = 'bridge'".to_owned(), "hub"),
        ("UPDATE devices SET name = 'light' WHERE name = 'lamp'".to_owned(), "light"),
    ];
    let seconds = [granted, "UPDATE topic_bindings SET merge = true", "DELETE FROM topic_grants"];
    for ((first, name), second) in
        firsts.iter().flat_map(|first| seconds.iter().map(move |second| (first, *second)))
    {
        let (database, mut client) = with_topics().await;
        let (late, watcher) = (database.connect().await, database.connect().await);
        let mut listener = database.listen().await;
        let open = client.transaction().await.unwrap();
        open.batch_execute(first).await.unwrap();
        let late = tokio::spawn(async move { late.batch_execute(second).await });
        somebody_waits(&watcher).await;
        open.commit().await.unwrap();
        late.await.unwrap().unwrap();
        let heard = listener.heard().await;
        let by_both = heard.iter().filter(|heard| heard == name).count();
        assert_eq!(by_both, 2, "{first}; {second}: {heard:?}");
    }
}

/// A service over a gateway `bridge`, with its own topic `bridge/state`, and its child `lamp`.
async fn start_with_topics() -> (TestApp, Fleet, TestDatabase) {
    let (app, fleet, database) = start_with(|config| config.emqx.acl_in_login = true).await;
    fleet.batch(FLEET).await;
    fleet.bind("bridge", "main", Some("bridge/state"), None).await;
    fleet.bind("lamp", "light", Some("z/lamp"), Some("z/lamp/set")).await;
    fleet
        .batch(
            "UPDATE topic_bindings SET reply_topic = 'z/lamp/reply' WHERE name = 'light';
             UPDATE devices SET availability_topic = 'z/lamp/availability' WHERE name = 'lamp'",
        )
        .await;
    eventually("the child is heard of", || async {
        may(&app, "bridge", "z/lamp/availability").await && may(&app, "bridge", "z/lamp").await
    })
    .await;
    (app, fleet, database)
}

async fn may(app: &TestApp, device: &str, topic: &str) -> bool {
    app.publishes(device, topic).await == "allow"
}

async fn may_hear(app: &TestApp, device: &str, topic: &str) -> bool {
    app.action(device, "subscribe", topic).await.result() == "allow"
}

#[tokio::test]
async fn a_gateway_may_what_its_enabled_children_are_bound_to() {
    let (app, fleet, _database) = start_with_topics().await;
    for topic in ["bridge/state", "z/lamp", "z/lamp/reply", "z/lamp/availability"] {
        assert!(may(&app, "bridge", topic).await, "{topic}");
    }
    assert!(may_hear(&app, "bridge", "z/lamp/set").await);
    for topic in ["z/lamp/set", "z/plug", "z/lamp/x"] {
        assert!(!may(&app, "bridge", topic).await, "{topic}");
    }
    assert!(!may_hear(&app, "bridge", "z/lamp").await && !may_hear(&app, "bridge", "z/#").await);
    assert!(!may(&app, "other", "z/lamp").await);
    // What a child may besides is not its gateway's.
    fleet.grant("lamp", "publish", "x/#").await;
    fleet.enabled("lamp", false).await;
    for topic in ["z/lamp", "z/lamp/reply", "z/lamp/availability"] {
        let lost = || async { !may(&app, "bridge", topic).await };
        eventually("a disabled child gives no rights", lost).await;
    }
    assert!(!may_hear(&app, "bridge", "z/lamp/set").await && !may(&app, "bridge", "x/1").await);
    assert!(may(&app, "bridge", "bridge/state").await);
    fleet.enabled("lamp", true).await;
    eventually("it is back", || async { may(&app, "bridge", "z/lamp").await }).await;
    fleet.sql(&behind("lamp", "other"), &[]).await;
    eventually("the new gateway may", || async { may(&app, "other", "z/lamp").await }).await;
    eventually("the old one may not", || async { !may(&app, "bridge", "z/lamp").await }).await;
    fleet.sql("DELETE FROM devices WHERE name = 'lamp'", &[]).await;
    eventually("nobody may", || async { !may(&app, "other", "z/lamp").await }).await;
}

#[tokio::test]
async fn rules_of_two_hundred_topics_of_children_go_with_a_login_and_the_rest_is_decided() {
    let (app, fleet, _database) = start_with_topics().await;
    let secret = fleet.secret("bridge").await;
    eventually("it may log in", || async { app.lets_in("bridge", &secret).await }).await;
    let rules = async || {
        let answer: Value = serde_json::from_str(&app.login("bridge", &secret).await.body).unwrap();
        let topics = answer["acl"].as_array().unwrap().iter();
        topics.map(|rule| rule["topic"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        rules().await,
        [
            "eq bridge/state",
            "eq z/lamp",
            "eq z/lamp/reply",
            "eq z/lamp/availability",
            "eq z/lamp/set"
        ]
    );
    fleet
        .batch(
            "INSERT INTO devices (name, kind, gateway)
             SELECT 'c' || n, 'light', id FROM devices, generate_series(1, 300) AS n WHERE name = 'bridge';
             INSERT INTO topic_bindings (device_id, name, state_topic)
             SELECT id, 'main', 'z/' || name FROM devices WHERE name ~ '^c[0-9]'",
        )
        .await;
    eventually("the children are heard of", || async { may(&app, "bridge", "z/c300").await }).await;
    let sent = rules().await;
    let is_sent = |number: &i32| sent.contains(&format!("eq z/c{number}"));
    let (sent_few, left): (Vec<i32>, Vec<i32>) = (1..=300).partition(is_sent);
    assert_eq!((sent_few.len(), left.len()), (200, 100));
    for number in left {
        assert!(may(&app, "bridge", &format!("z/c{number}")).await, "{number}");
    }
    assert_eq!(sent.len(), 201, "one of its own, and two hundred");
}

#[tokio::test]
async fn a_gateway_speaks_for_its_children() {
    let (app, fleet, _database) = start_with_topics().await;
    let at = now() - 1000;
    let tell = async |event: Value| assert_eq!(app.event(&event).await.status, 204, "{event}");
    tell(message("bridge", "z/lamp", at, "0A", r#"{"on": true}"#)).await;
    assert_eq!(state(&fleet, "lamp").await["light"]["value"], json!({"on": true}));
    assert_eq!((last_seen(&fleet, "lamp").await, last_seen(&fleet, "bridge").await), (at, at));
    assert_eq!(state(&fleet, "bridge").await, json!({}));
    tell(message("bridge", "bridge/state", at + 1, "0B", "7")).await;
    assert_eq!(state(&fleet, "bridge").await["main"]["value"], json!(7));
    assert_eq!(last_seen(&fleet, "lamp").await, at, "its gateway spoke for itself");
    assert_eq!(state(&fleet, "lamp").await["light"]["value"], json!({"on": true}));
    // Not the gateway's own client id, and another device's.
    let mut foreign = message("bridge", "z/lamp", at + 2, "0C", "1");
    foreign["clientid"] = json!("bridge-2");
    tell(foreign).await;
    tell(message("other", "z/lamp", at + 3, "0D", "2")).await;
    tell(message("bridge", "z/plug", at + 4, "0E", "3")).await;
    assert_eq!(state(&fleet, "lamp").await["light"]["id"], "0A");
    assert_eq!(state(&fleet, "plug").await, json!({}));
}

#[tokio::test]
async fn a_topic_may_carry_states_of_several_devices() {
    let (app, fleet, _database) = start_with_topics().await;
    fleet
        .batch(
            "INSERT INTO topic_bindings (device_id, name, state_topic)
             SELECT id, 'main', 'z/all' FROM devices WHERE name IN ('lamp', 'plug');
             UPDATE topic_bindings SET state_topic = 'z/all'
             WHERE device_id = (SELECT id FROM devices WHERE name = 'bridge');
             UPDATE capabilities SET state_schema = '{\"type\": \"object\"}' WHERE name = 'light';
             UPDATE topic_bindings SET state_topic = 'z/all' WHERE name = 'light'",
        )
        .await;
    eventually("the changes are heard of", || async {
        let told = message("bridge", "z/all", now(), "0A", "5");
        assert_eq!(app.event(&told).await.status, 204);
        let mut all = Vec::new();
        for device in ["bridge", "lamp", "plug"] {
            all.push(state(&fleet, device).await["main"]["value"] == json!(5));
        }
        all == [true; 3] && violation(&fleet, "lamp").await["binding"] == "light"
    })
    .await;
    assert_eq!(state(&fleet, "lamp").await.get("light"), None, "it broke the schema");
    for device in ["bridge", "plug"] {
        assert_eq!(violation(&fleet, device).await, json!(null), "{device}");
    }
}

async fn violation(fleet: &Fleet, device: &str) -> Value {
    let query =
        "SELECT coalesce((SELECT last_violation FROM device_state JOIN devices ON id = device_id
        WHERE name = 'DEVICE'), 'null')";
    fleet.value(&query.replace("DEVICE", device)).await
}

async fn is_online(fleet: &Fleet, device: &str) -> bool {
    let query = "SELECT presence.online FROM device_presence AS presence
        JOIN devices ON id = device_id WHERE name = 'DEVICE'";
    fleet.value(&query.replace("DEVICE", device)).await
}

/// Rows of `lamp`, with what PostgreSQL notes of who wrote them last.
async fn versions(fleet: &Fleet) -> Value {
    let query = "SELECT jsonb_build_array(
        (SELECT jsonb_agg(xmin::text) FROM devices WHERE name = 'lamp'),
        (SELECT jsonb_agg(state.xmin::text) FROM device_state AS state JOIN devices ON id = device_id WHERE name = 'lamp'),
        (SELECT count(*) FROM client_sessions), (SELECT count(*) FROM work_queue))";
    fleet.value(query).await
}

#[tokio::test]
async fn a_child_is_online_while_its_gateway_is_and_nothing_of_it_is_written() {
    let (app, fleet, _database) = start_with_topics().await;
    let tell = async |event: Value| assert_eq!(app.event(&event).await.status, 204, "{event}");
    fleet.sql("DELETE FROM work_queue", &[]).await;
    assert!(!is_online(&fleet, "lamp").await);
    let at = now() - 10_000;
    tell(connected("bridge", "bridge", at)).await;
    let before = versions(&fleet).await;
    assert!(is_online(&fleet, "lamp").await && is_online(&fleet, "bridge").await);
    assert!(is_online(&fleet, "plug").await && !is_online(&fleet, "other").await);
    tell(disconnected("bridge", "bridge", at, at + 1, "keepalive_timeout")).await;
    assert!(!is_online(&fleet, "lamp").await && !is_online(&fleet, "plug").await);
    tell(connected("bridge", "bridge", at + 2)).await;
    assert!(is_online(&fleet, "lamp").await);
    assert_eq!(versions(&fleet).await, before, "one row a gateway, whatever it has of children");
    fleet.sql(&behind("lamp", "other"), &[]).await;
    assert!(!is_online(&fleet, "lamp").await);
}

#[tokio::test]
async fn lists_and_selectors_see_which_children_are_online() {
    let (app, _fleet, database) = start_with_topics().await;
    let client = connect(&as_owner(&database.url)).await;
    let list = async |filter: DeviceFilter| {
        let found = devices::list(&client, &filter, 100).await.unwrap();
        found.into_iter().map(|device| device.name).collect::<Vec<_>>()
    };
    let online = |online| DeviceFilter { online: Some(online), ..DeviceFilter::default() };
    let select =
        |text: &str| DeviceFilter { selector: text.parse().unwrap(), ..DeviceFilter::default() };
    assert_eq!(list(select("online")).await, <[&str; 0]>::default());
    let event = connected("bridge", "bridge", now());
    assert_eq!(app.event(&event).await.status, 204);
    for filter in [online(true), select("online")] {
        assert_eq!(list(filter).await, ["bridge", "lamp", "plug"]);
    }
    for filter in [online(false), select("!online")] {
        assert_eq!(list(filter).await, ["dash", "other"]);
    }
    assert_eq!(count_devices(&client).await.unwrap(), DeviceCounts { online: 3, offline: 2 });
    let shown = devices::list(&client, &DeviceFilter::default(), 100).await.unwrap();
    assert_eq!(shown.iter().filter(|device| device.online).count(), 3);
    assert!(devices::show(&client, &name("lamp")).await.unwrap().device.online);
}

/// Whatever the order and number in which its messages arrive, the newest counts.
#[tokio::test]
async fn a_child_that_its_gateway_does_not_reach_is_offline() {
    let (app, fleet, database) = start_with_topics().await;
    let at = now() - 10_000;
    assert_eq!(app.event(&connected("bridge", "bridge", at)).await.status, 204);
    let say = async |after: i64, payload: &str| {
        let (at, id) = (at + after, format!("{after:08X}"));
        let event = message("bridge", "z/lamp/availability", at, &id, payload);
        assert_eq!(app.event(&event).await.status, 204);
        is_online(&fleet, "lamp").await
    };
    assert!(!say(10, "offline").await);
    assert!(say(20, "online").await);
    assert!(say(15, "offline").await, "an older one that comes late");
    assert!(say(10, "offline").await, "again");
    assert!(!say(30, r#"{"state": "offline"}"#).await);
    assert!(!say(40, "what").await, "that says nothing");
    assert!(say(50, r#"{"state": "online"}"#).await);
    assert!(!say(60, "offline").await);
    assert!(say(70, "").await, "it is taken back");
    assert!(!say(80, "offline").await);
    assert_eq!(last_seen(&fleet, "lamp").await, -1, "nobody heard the child");
    assert!(is_online(&fleet, "plug").await && is_online(&fleet, "bridge").await);
    let client = connect(&as_owner(&database.url)).await;
    let shown = devices::show(&client, &name("lamp")).await.unwrap();
    assert_eq!(shown.state, json!({}), "it is no binding");
    let said = json!({"topic": "z/lamp/availability", "state": "offline"});
    assert_eq!(shown.availability.unwrap()["value"], said);
    // On another topic nothing was said so far.
    fleet.sql("UPDATE devices SET availability_topic = 'z/2' WHERE name = 'lamp'", &[]).await;
    assert!(is_online(&fleet, "lamp").await);
}

/// A capability `switch` of the child `relay`, whose gateway is `bridge`.
async fn bench() -> Bench {
    let bench = Bench::start().await;
    bench.fleet.device("bridge").await.device("listener").await;
    bench.fleet.grant("listener", "subscribe", "#").await;
    bench.fleet.sql(&behind("relay", "bridge"), &[]).await;
    bench
        .sql(
            "UPDATE topic_bindings SET reply_topic = 'relay/reply';
             UPDATE devices SET availability_topic = 'relay/availability' WHERE name = 'relay'",
        )
        .await;
    eventually("the child is heard of", || async {
        may(&bench.app, "bridge", "relay/reply").await
            && may(&bench.app, "bridge", "relay/availability").await
    })
    .await;
    bench
}

async fn bridge_connects(bench: &Bench) {
    let at = now();
    bench.emqx.connect("bridge", "bridge", at);
    bench.emqx.subscribe("bridge", "relay/set", 1);
    assert_eq!(bench.app.event(&connected("bridge", "bridge", at)).await.status, 204);
}

#[tokio::test]
async fn a_command_to_a_child_goes_to_its_gateway_once_that_connects() {
    let mut bench = bench().await;
    let id = bench.send("\"on\"").await;
    let waits = bench.delivery(&id).await;
    assert_eq!((waits.state.as_str(), waits.ended), ("queued", false));
    bridge_connects(&bench).await;
    let message = bench.emqx.published(1).await;
    assert_eq!(message.topic, "relay/set");
    let delivery = message.correlation;
    bench.tells("message.acked", "listener", "listener", &delivery, 1).await;
    bench.tells("message.acked", "bridge-2", "bridge", &delivery, 1).await;
    assert!(!bench.delivery(&id).await.ended, "a listener's receipt");
    bench.tells("message.delivered", "bridge", "bridge", &delivery, 1).await;
    bench.tells("message.acked", "bridge", "bridge", &delivery, 1).await;
    let ended = bench.ended(&id).await;
    assert_eq!((ended.state.as_str(), ended.succeeded), ("delivered", true));
    assert_eq!(bench.emqx.all_published().len(), 1);
}

#[tokio::test]
async fn a_gateway_answers_for_its_child() {
    let mut bench = bench().await;
    bridge_connects(&bench).await;
    let by = |confirm| NewCommand { confirm: Some(confirm), ..new("{\"on\": true}") };
    let id = bench.send_new(by(Confirmation::Reply)).await;
    let delivery = bench.emqx.published(1).await.correlation;
    bench.tells("message.acked", "bridge", "bridge", &delivery, 1).await;
    let mut reply = message("bridge", "relay/reply", now(), "0A", r#"{"status": "ok"}"#);
    reply["correlation"] = json!(delivery);
    assert_eq!(bench.app.event(&reply).await.status, 204);
    assert_eq!(bench.ended(&id).await.state, "succeeded");

    let id = bench.send_new(by(Confirmation::State)).await;
    let delivery = bench.emqx.published(2).await.correlation;
    let at = now();
    let mut written = command("message.delivered", "bridge", "bridge", &delivery, 1);
    written["timestamp"] = json!(at);
    assert_eq!(bench.app.event(&written).await.status, 204);
    bench.tells("message.acked", "bridge", "bridge", &delivery, 1).await;
    let report = message("bridge", "relay/state", at + 1, "0B", r#"{"on": true}"#);
    assert_eq!(bench.app.event(&report).await.status, 204);
    assert_eq!(bench.ended(&id).await.state, "succeeded");
}

/// Long before the worker would look again by itself.
#[tokio::test]
async fn what_waits_for_a_child_goes_down_when_its_gateway_reaches_it() {
    let mut bench = bench().await;
    bridge_connects(&bench).await;
    let says = async |bench: &Bench, id: &str, payload: &str| {
        let event = message("bridge", "relay/availability", now(), id, payload);
        assert_eq!(bench.app.event(&event).await.status, 204);
    };
    says(&bench, "0A", "offline").await;
    let id = bench.send("1").await;
    eventually("the worker has looked and waits", || async {
        let waits =
            "SELECT due_at > now() + interval '10 seconds' FROM work_queue WHERE kind = 'command'";
        bench.client.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
    assert!(bench.emqx.all_published().is_empty());
    says(&bench, "0B", "online").await;
    let delivery = bench.emqx.published(1).await.correlation;
    bench.tells("message.acked", "bridge", "bridge", &delivery, 1).await;
    assert_eq!(bench.ended(&id).await.state, "delivered");
}

#[tokio::test]
async fn nothing_goes_through_a_gateway_that_is_disabled() {
    let mut bench = bench().await;
    let id = bench.send("1").await;
    bench.fleet.enabled("bridge", false).await;
    let ended = bench.ended(&id).await;
    assert_eq!(ended.state, "cancelled");
    let why = "SELECT cancelled_why FROM command_deliveries";
    let why: String = bench.client.query_one(why, &[]).await.unwrap().get(0);
    assert_eq!(why, "the device's gateway is disabled");
}

#[tokio::test]
async fn a_gateways_session_ends_when_a_child_is_taken_away() {
    let bench = bench().await;
    bridge_connects(&bench).await;
    bench.emqx.forget_deletes();
    bench.sql("DELETE FROM devices WHERE name = 'relay'").await;
    bench.emqx.deleted("bridge").await;
    let loses = || async { !may(&bench.app, "bridge", "relay/state").await };
    eventually("its record is forgotten", loses).await;
}

/// Statistics then say that any device has very many children; most have none.
#[tokio::test]
async fn a_gateway_of_half_the_fleet_has_nobody_read_all_devices() {
    let (_database, mut client) = with_fleet().await;
    client
        .batch_execute(
            "INSERT INTO devices (name, kind) SELECT 'd' || n, 'light' FROM generate_series(1, 2000) AS n;
             INSERT INTO devices (name, kind, gateway)
             SELECT 'c' || n, 'light', id FROM devices, generate_series(1, 2000) AS n WHERE name = 'bridge';
             ANALYZE devices",
        )
        .await
        .unwrap();
    let transaction = client.transaction().await.unwrap();
    for number in 0..10 {
        let topics = format!(
            "INSERT INTO topic_grants (device_id, action, topic_filter)
             SELECT id, 'publish', 'x/{number}' FROM devices WHERE name IN ('c1', 'd1');
             INSERT INTO device_credentials (device_id, kind, hash)
             SELECT id, 'secret', '{HASH}' FROM devices WHERE name IN ('d1', 'd2')"
        );
        transaction.batch_execute(&topics).await.unwrap();
        let child = format!(
            "SELECT fleetgate_wake_commands_of_device(id) FROM devices WHERE name = 'd1';
             INSERT INTO devices (name, kind, gateway) SELECT 'new-{number}', 'light', id FROM devices WHERE name = 'bridge'"
        );
        transaction.batch_execute(&child).await.unwrap();
    }
    // Connections that look devices up have these.
    for (setting, value) in LOOK_UP_PLANS {
        transaction.batch_execute(&format!("SET LOCAL {setting} = {value}")).await.unwrap();
    }
    let look_up = transaction.prepare(LOOK_UP).await.unwrap();
    transaction.query(&look_up, &[&["d1", "bridge"].as_slice()]).await.unwrap();
    let scans =
        "SELECT coalesce(seq_scan, 0) FROM pg_stat_xact_user_tables WHERE relname = 'devices'";
    let scans: i64 = transaction.query_one(scans, &[]).await.unwrap().get(0);
    assert_eq!(scans, 0);
}

/// A gateway's queue in EMQX is bounded and drops the oldest: so is what is on its way to it.
#[tokio::test]
async fn no_more_than_a_few_commands_are_on_their_way_to_a_gateway() {
    let bench = bench().await;
    let mut client = connect(&as_owner(&bench.database.url)).await;
    for number in 0..IN_FLIGHT + 8 {
        let child = format!("lamp{number}");
        bench.fleet.device(&child).await;
        bench.fleet.bind(&child, "switch", None, Some(&format!("{child}/set"))).await;
        make_child(&bench.fleet, &child).await;
    }
    bench.emqx.subscribe("bridge", "#", 1);
    bridge_connects(&bench).await;
    let to = To::Selector(r#"{"name": {"prefix": "lamp"}}"#.parse().unwrap());
    commands::send(&mut client, &NewCommand { to, ..new("1") }).await.unwrap();
    bench.emqx.published(IN_FLIGHT).await;
    eventually("the rest waits for room", || async {
        let waiting = "SELECT count(*) FROM work_queue WHERE last_error = 'enough is on its way to its client'";
        bench.fleet.value::<i64>(waiting).await == 8
    })
    .await;
    assert_eq!(bench.emqx.all_published().len(), IN_FLIGHT);
    let on_their_way = in_flight(&client, &["bridge", "nobody"]).await.unwrap();
    assert_eq!(on_their_way, BTreeMap::from([("bridge".to_owned(), IN_FLIGHT)]));
    // What was written with QoS 0 has left EMQX.
    let written = "UPDATE command_deliveries SET written_qos = 0 WHERE attempts > 0";
    client.batch_execute(written).await.unwrap();
    assert_eq!(in_flight(&client, &["bridge"]).await.unwrap(), BTreeMap::new());
    client.batch_execute("UPDATE command_deliveries SET written_qos = NULL").await.unwrap();
    // Those whose receipt is overdue are on their way no more, and hold up nobody.
    let overdue = "UPDATE command_deliveries SET attempted_at = attempted_at - interval '1 minute'";
    client.batch_execute(overdue).await.unwrap();
    for number in 0..IN_FLIGHT + 8 {
        let message = bench.emqx.published(number + 1).await;
        let ack = command("message.acked", "bridge", "bridge", &message.correlation, 1);
        assert_eq!(bench.app.event(&ack).await.status, 204);
    }
    let open =
        "SELECT count(*) FROM command_deliveries WHERE ended_as IS DISTINCT FROM 'delivered'";
    eventually("all is delivered", || async { bench.fleet.value::<i64>(open).await == 0 }).await;
    assert_eq!(bench.emqx.all_published().len(), IN_FLIGHT + 8);
}
