//! Devices behind a gateway: one MQTT client that speaks for many things.

use std::time::Duration;

use fleetgate::fleet::FleetError;
use fleetgate::fleet::credentials::{self, NewCredential, Terms};
use fleetgate::fleet::devices::{self, DeviceChange, NewDevice};
use fleetgate::fleet::error::{ErrorKind, Field, Rule};
use serde_json::json;
use tokio_postgres::{Client, IsolationLevel};

use crate::commands::name;
use crate::support::app::start;
use crate::support::commands::{fleetgate, run};
use crate::support::database::Database;
use crate::support::fleet::Fleet;
use crate::support::postgres::{as_owner, connect};

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
               OR EXISTS (SELECT FROM device_credentials WHERE device_id = child.id AND revoked_at IS NULL)";
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
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
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
