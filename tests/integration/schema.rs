//! The schema holds what it promises, whoever writes the rows.

use std::time::Duration;

use crate::support::database::Database;
use fleetgate::domain::device::owns_client_id;
use fleetgate::domain::name::check_name;
use fleetgate::domain::topic::{TopicFilter, TopicName, check_topic_filter, check_topic_name};
use fleetgate::registry::error::RegistryError;
use fleetgate::registry::migrate::{migrate, schema_version};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio_postgres::{Client, GenericClient};

const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_migrate_together_all_come_up() {
    let database = Database::empty().await;
    let replicas = (0..8).map(|_| async {
        let mut client = database.connect().await;
        migrate(&mut client).await.unwrap()
    });
    let migrated = futures_util::future::join_all(replicas).await;
    let workers = migrated.iter().filter(|done| !done.applied.is_empty()).count();
    assert_eq!(workers, 1, "{migrated:?}");
    let version = schema_version(&database.connect().await).await.unwrap();
    assert_eq!(version.applied, version.known);
    version.require_current().unwrap();
}

#[tokio::test]
async fn a_schema_from_the_future_or_none_is_refused() {
    let database = Database::empty().await;
    let mut client = database.connect().await;
    let version = schema_version(&client).await.unwrap();
    assert_eq!(version.applied, 0);
    assert!(matches!(version.require_current(), Err(RegistryError::SchemaMissing)));

    migrate(&mut client).await.unwrap();
    client
        .batch_execute("INSERT INTO fleetgate_schema_history VALUES (9999, 'later', '', '')")
        .await
        .unwrap();
    let refused = migrate(&mut client).await.unwrap_err();
    assert!(matches!(refused, RegistryError::SchemaNewer { applied: 9999, .. }), "{refused}");
    assert_eq!(advisory_locks(&client, true).await, 0, "the migration lock is still held");
}

/// How many advisory locks are held, or waited for, in this database.
async fn advisory_locks(client: &Client, granted: bool) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
               WHERE datname = current_database() AND locktype = 'advisory' AND granted = $1";
    client.query_one(sql, &[&granted]).await.unwrap().get(0)
}

/// A rule as SQL function and as Rust.
type Rule = (&'static str, fn(&str) -> bool);

const RULES: [Rule; 5] = [
    ("fleetgate_is_name", |text| check_name(text).is_ok()),
    ("fleetgate_is_topic_name", |text| check_topic_name(text).is_ok()),
    ("fleetgate_is_topic_filter", |text| check_topic_filter(text).is_ok()),
    ("fleetgate_is_binding_topic", |text| text.parse::<TopicName>().is_ok()),
    ("fleetgate_is_grant_filter", |text| text.parse::<TopicFilter>().is_ok()),
];

async fn assert_same_verdicts(client: &Client, texts: &[String]) {
    for (function, rule) in RULES {
        let sql = format!(
            "SELECT array_agg({function}(t) ORDER BY n) FROM unnest($1::text[]) WITH ORDINALITY AS u(t, n)"
        );
        let verdicts: Vec<bool> = client.query_one(&sql, &[&texts]).await.unwrap().get(0);
        for (text, verdict) in texts.iter().zip(verdicts) {
            assert_eq!(verdict, rule(text), "{function}({text:?})");
        }
    }
}

#[tokio::test]
async fn sql_and_rust_agree_on_chosen_texts() {
    let (_database, client) = Database::migrated().await;
    let mut texts: Vec<String> = [
        "",
        "a",
        "a/b",
        "/",
        "//",
        "+",
        "#",
        "+/+",
        "a/#",
        "#/a",
        "a+",
        "+a",
        "a#",
        "a/#/b",
        "a/+/b",
        "$SYS/#",
        "$share/g/t",
        "$queue/t",
        "$stream/t",
        "$exclusive/t",
        "$share",
        "a/${x}",
        "${x}",
        "$",
        "a$b",
        " a",
        "a ",
        "\u{a0}a",
        "a\u{3000}",
        "a\u{200b}",
        "\u{feff}a",
        "\u{180e}a",
        "gerät-ß",
        "two words",
        "aa:bb:cc",
        "main",
        "\u{7f}",
        "\u{85}",
        "\u{9f}",
        "\u{ad}",
        "a\nb",
        "a\tb",
        "\u{1}",
        "\u{10ffff}",
        "\\",
        "'",
        "%",
        "_",
        "a\\u0041",
        "eq a",
        "eq ",
        "eq",
        "EQ a",
        "a/eq b",
        "%u",
        "%c",
        "a/%u/b",
        "a%c-b",
        "%cß",
        "100%",
        "100%cpu",
        "%c3",
        "$delayed/5/a",
        "$delayed",
    ]
    .map(str::to_owned)
    .to_vec();
    for length in [127, 128, 129, 1023, 1024, 1025] {
        texts.push("x".repeat(length));
        texts.push("ß".repeat(length / 2));
    }
    texts.extend((1..=0x2100).filter_map(char::from_u32).map(|c| format!("{c}a")));
    texts.extend((1..=0x2100).filter_map(char::from_u32).map(|c| format!("a{c}")));
    texts.extend((0x2ff0..0x3010).filter_map(char::from_u32).map(|c| format!("a{c}")));
    assert_same_verdicts(&client, &texts).await;
}

#[test]
fn sql_and_rust_agree_on_random_texts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_database, client) = runtime.block_on(Database::migrated());
    let telling = prop::collection::vec(
        prop::sample::select(vec![
            "a",
            "b",
            "/",
            "/",
            "+",
            "#",
            "$",
            "{",
            "}",
            " ",
            "\t",
            "\u{a0}",
            "\u{2003}",
            "ß",
            "share",
            "queue",
            "stream",
            "exclusive",
            "delayed",
            "eq ",
            "%",
            "u",
            "c",
            "\u{9f}",
            ":",
        ]),
        0..9,
    )
    .prop_map(|parts| parts.concat());
    let any = "[^\u{0}]{0,140}";
    let texts = prop::collection::vec(prop_oneof![telling, any], 200);
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&texts, |texts| {
            runtime.block_on(assert_same_verdicts(&client, &texts));
            Ok(())
        })
        .unwrap();
}

/// The rule that logins, events and sweeps go by.
#[tokio::test]
async fn sql_and_rust_agree_on_whose_a_client_id_is() {
    let (_database, client) = Database::migrated().await;
    let long = "x".repeat(120);
    let names = ["svc", "gerät-ß", "a:b", long.as_str()];
    let mut cases = Vec::new();
    for name in names {
        for own in [name, "other"] {
            let mut instances: Vec<String> =
                ["", "1", "1:2", " x", "x ", "+", "a/b", "$", "\u{1}", "ß", "\u{2003}x"]
                    .map(str::to_owned)
                    .to_vec();
            let room = 127 - name.len();
            let around = room.saturating_sub(2)..=room + 2;
            instances.extend(around.map(|bytes| "y".repeat(bytes)));
            instances.extend([128, 129].map(|bytes| "z".repeat(bytes)));
            let mut ids: Vec<String> =
                instances.iter().map(|instance| format!("{name}:{instance}")).collect();
            ids.extend(["", name, "other", "svc:1", "SVC", "svc1"].map(str::to_owned));
            ids.extend([format!("{name} "), format!("{name}x:1"), format!("{own}:1")]);
            cases.extend(ids.into_iter().map(|id| (name, own, id)));
        }
    }
    let mut owned = 0;
    for kind in ["service", "sensor"] {
        for (name, own, id) in &cases {
            let sql = "SELECT fleetgate_owns_client_id($1, $2, $3, $4)";
            let verdict: bool =
                client.query_one(sql, &[name, own, &kind, id]).await.unwrap().get(0);
            let rust = owns_client_id(name, own, kind == "service", id);
            assert_eq!(verdict, rust, "{name:?} {own:?} {kind} {id:?}");
            owned += usize::from(rust);
        }
    }
    assert!(owned > 20, "{owned}");
}

/// Tries a statement and tells the constraint that refuses it.
async fn refused_by(client: &Client, sql: &str) -> Option<String> {
    let error = client.batch_execute(sql).await.err()?;
    let answer = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
    Some(answer.constraint().unwrap_or_else(|| panic!("{sql}: {answer:?}")).to_owned())
}

#[tokio::test]
async fn bad_rows_are_refused_by_the_constraint_that_says_why() {
    let (_database, client) = Database::migrated().await;
    client
        .batch_execute(
            "INSERT INTO devices (name, kind) VALUES ('a', 'sensor');
             INSERT INTO capabilities (name) VALUES ('temp');
             INSERT INTO device_capabilities VALUES (1, 'temp')",
        )
        .await
        .unwrap();
    let credential = |columns: &str, values: &str| {
        format!("INSERT INTO device_credentials (device_id, {columns}) VALUES (1, {values})")
            .replace("HASH", HASH)
    };
    let cases = [
        ("INSERT INTO devices (name, kind) VALUES ('x/y', 'k')".to_owned(), "devices_name_form"),
        ("INSERT INTO devices (name, kind, client_id) VALUES ('x', 'k', '')".to_owned(), "devices_client_id_form"),
        ("INSERT INTO devices (name, kind, client_id) VALUES ('x', 'k', 'a')".to_owned(), "devices_client_id_unique"),
        ("INSERT INTO devices (name, kind) VALUES ('a', 'k')".to_owned(), "devices_name_unique"),
        ("INSERT INTO devices (name, kind, meta) VALUES ('x', 'k', '[]')".to_owned(), "devices_meta_form"),
        ("INSERT INTO devices (name, kind, area) VALUES ('x', 'k', '#')".to_owned(), "devices_area_form"),
        (credential("kind, hash", "'key', 'HASH'"), "device_credentials_hash_presence"),
        (credential("kind", "'key'"), "device_credentials_kind_known"),
        (credential("kind", "'secret'"), "device_credentials_hash_presence"),
        (credential("kind, hash", "'secret', 'plain'"), "device_credentials_hash_form"),
        (credential("kind, hash", "'password', '$argon2i$v=19$m=8,t=1,p=1$AA$AA'"), "device_credentials_hash_form"),
        (credential("kind, hash, common_name", "'secret', 'HASH', 'x'"), "device_credentials_common_name_presence"),
        (credential("kind, hash, certificate_required", "'secret', 'HASH', true"), "device_credentials_required_presence"),
        (credential("kind", "'token'"), "device_credentials_token_start"),
        (credential("kind, not_before, hash", "'token', now(), 'HASH'"), "device_credentials_hash_presence"),
        (credential("kind, common_name", "'certificate', 'x'"), "device_credentials_required_presence"),
        (credential("kind, certificate_required", "'certificate', true"), "device_credentials_common_name_presence"),
        (credential("kind, common_name, certificate_required", "'certificate', 'undefined', true"), "device_credentials_common_name_form"),
        (credential("kind, common_name, certificate_required", "'certificate', '', true"), "device_credentials_common_name_form"),
        (credential("kind, hash, expires_at", "'secret', 'HASH', 'infinity'"), "device_credentials_timestamps"),
        (credential("kind, hash, not_before", "'secret', 'HASH', '-infinity'"), "device_credentials_timestamps"),
        (credential("kind, hash, not_before, expires_at", "'secret', 'HASH', '2030-01-02', '2030-01-01'"), "device_credentials_period"),
        ("INSERT INTO capabilities (name) VALUES ('main')".to_owned(), "capabilities_name_reserved"),
        ("INSERT INTO capabilities (name, state_schema) VALUES ('x', '3')".to_owned(), "capabilities_state_schema_form"),
        ("INSERT INTO capabilities (name, command_schema) VALUES ('x', 'null')".to_owned(), "capabilities_command_schema_form"),
        ("INSERT INTO topic_bindings (device_id, name) VALUES (1, 'main')".to_owned(), "topic_bindings_some_topic"),
        ("INSERT INTO topic_bindings (device_id, name, state_topic) VALUES (1, 'main', 'a/+')".to_owned(), "topic_bindings_state_topic_form"),
        ("INSERT INTO topic_bindings (device_id, name, command_topic) VALUES (1, 'main', '$SYS/x')".to_owned(), "topic_bindings_command_topic_form"),
        ("INSERT INTO topic_bindings (device_id, name, state_topic) VALUES (1, 'relay', 'a')".to_owned(), "topic_bindings_capability"),
        ("INSERT INTO topic_grants (device_id, action, topic_filter) VALUES (1, 'read', 'a')".to_owned(), "topic_grants_action_known"),
        ("INSERT INTO topic_grants (device_id, action, topic_filter) VALUES (1, 'publish', 'a+')".to_owned(), "topic_grants_topic_filter_form"),
        ("DELETE FROM capabilities WHERE name = 'temp'".to_owned(), "device_capabilities_capability"),
        ("INSERT INTO routing_rules (name, capability, strategy) VALUES ('r', 'temp', 'some')".to_owned(), "routing_rules_strategy_known"),
        ("INSERT INTO client_sessions VALUES ('a', 1, now(), true, now())".to_owned(), "client_sessions_end"),
        ("INSERT INTO device_state VALUES (1, now(), '[]')".to_owned(), "device_state_state_form"),
    ];
    for (sql, constraint) in cases {
        let by = refused_by(&client, &sql).await;
        assert_eq!(by.as_deref(), Some(constraint), "{sql}");
    }
    for values in ["'secret', 'HASH', NULL, NULL", "'certificate', NULL, 'device-1', false"] {
        let good = credential("kind, hash, common_name, certificate_required", values);
        assert_eq!(refused_by(&client, &good).await, None, "{good}");
    }
}

#[tokio::test]
async fn what_a_decision_depends_on_is_announced_and_nothing_else() {
    let (database, client) = Database::migrated().await;
    let mut listener = database.listen().await;
    let credential = format!(
        "INSERT INTO device_credentials (device_id, kind, hash) VALUES (1, 'secret', '{HASH}')"
    );
    let steps: &[(&str, &[&str])] = &[
        ("INSERT INTO devices (name, kind) VALUES ('a', 'sensor'), ('b', 'sensor')", &["a", "b"]),
        ("INSERT INTO capabilities (name) VALUES ('temp')", &[]),
        ("INSERT INTO device_capabilities VALUES (1, 'temp')", &[]),
        ("UPDATE devices SET online = true, area = 'lab', floor = '2', meta = '{\"x\": 1}'", &[]),
        ("UPDATE devices SET enabled = enabled, kind = kind WHERE name = 'a'", &[]),
        ("UPDATE devices SET enabled = false WHERE name = 'a'", &["a"]),
        ("UPDATE devices SET kind = 'relay' WHERE name = 'a'", &["a"]),
        ("UPDATE devices SET client_id = 'a-client' WHERE name = 'a'", &["a"]),
        ("UPDATE devices SET name = 'c' WHERE name = 'a'", &["a", "c"]),
        (&credential, &["c"]),
        ("UPDATE device_credentials SET revoked_at = NULL", &[]),
        ("UPDATE device_credentials SET revoked_at = now()", &["c"]),
        ("UPDATE device_credentials SET device_id = 2", &["c", "b"]),
        ("DELETE FROM device_credentials", &["b"]),
        (
            "INSERT INTO topic_bindings (device_id, name, state_topic) VALUES (1, 'temp', 't')",
            &["c"],
        ),
        ("UPDATE topic_bindings SET state_topic = 't'", &[]),
        ("UPDATE topic_bindings SET state_topic = 'u'", &["c"]),
        ("DELETE FROM device_capabilities", &["c"]),
        (
            "INSERT INTO topic_grants (device_id, action, topic_filter) VALUES (1, 'publish', '#')",
            &["c"],
        ),
        ("UPDATE topic_grants SET device_id = 2", &["c", "b"]),
        ("INSERT INTO device_state (device_id, last_seen) VALUES (1, now())", &[]),
        ("UPDATE device_state SET state = '{\"t\": 1}'", &[]),
        ("INSERT INTO client_sessions VALUES ('c', 1, now(), true)", &[]),
        ("UPDATE client_sessions SET open = false, ended_at = now()", &[]),
        ("DELETE FROM topic_grants", &["b"]),
        ("DELETE FROM devices WHERE name = 'c'", &["c"]),
        ("TRUNCATE topic_grants", &[""]),
        ("TRUNCATE device_credentials", &[""]),
        ("TRUNCATE topic_bindings", &[""]),
        ("TRUNCATE devices CASCADE", &[""]),
    ];
    for (sql, announced) in steps {
        client.batch_execute(sql).await.unwrap();
        assert_eq!(listener.heard().await, *announced, "{sql}");
    }
}

#[tokio::test]
async fn deleting_a_device_takes_everything_of_it_along() {
    let (database, client) = Database::migrated().await;
    client
        .batch_execute(&format!(
            "INSERT INTO devices (name, kind) VALUES ('a', 'sensor'), ('b', 'sensor');
             INSERT INTO capabilities (name) VALUES ('temp');
             INSERT INTO device_capabilities VALUES (1, 'temp');
             INSERT INTO topic_bindings (device_id, name, state_topic) VALUES (1, 'temp', 't'), (1, 'main', 'm');
             INSERT INTO topic_grants (device_id, action, topic_filter) VALUES (1, 'publish', '#');
             INSERT INTO device_credentials (device_id, kind, hash) VALUES (1, 'secret', '{HASH}');
             INSERT INTO device_state (device_id) VALUES (1);
             INSERT INTO client_sessions VALUES ('a', 1, now(), true)"
        ))
        .await
        .unwrap();
    let mut listener = database.listen().await;
    client.batch_execute("DELETE FROM devices WHERE name = 'a'").await.unwrap();
    assert_eq!(listener.heard().await, ["a"]);
    for table in [
        "device_capabilities",
        "topic_bindings",
        "topic_grants",
        "device_credentials",
        "device_state",
        "client_sessions",
    ] {
        let left: i64 =
            client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0);
        assert_eq!(left, 0, "{table}");
    }
}

/// Updates and HOT updates of the tables that presence writes, by this connection.
async fn update_counts(client: &impl GenericClient) -> Vec<(String, i64, i64)> {
    let rows = client
        .query(
            "SELECT relname::text, n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables
             WHERE relname IN ('devices', 'device_state', 'client_sessions') ORDER BY relname",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 3);
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn presence_touches_no_index_and_no_updated_at() {
    let (_database, mut client) = Database::migrated().await;
    client
        .batch_execute(
            "INSERT INTO devices (name, kind, area, floor, meta)
             SELECT 'sensor-' || n, 'sensor', 'lab', '2', '{\"room\": \"101\"}' FROM generate_series(1, 1000) AS n;
             INSERT INTO device_state SELECT id, now(), '{\"temperature\": {\"value\": 21.5}}' FROM devices;
             INSERT INTO client_sessions SELECT name, id, now(), true FROM devices;
             UPDATE devices SET updated_at = '2020-01-01'",
        )
        .await
        .unwrap();
    client.batch_execute("VACUUM FULL devices").await.unwrap();
    // So few that they fit into the room that fillfactor leaves: what makes more room later (pruning)
    // waits for open transactions in any database of the server, other tests' included.
    for round in 0..3 {
        let transaction = client.transaction().await.unwrap();
        let before = update_counts(&transaction).await;
        transaction
            .batch_execute(&format!(
                "UPDATE device_state SET last_seen = now(), state = '{{\"temperature\": {{\"value\": 22.5}}}}'
                 WHERE device_id % 20 = {round};
                 UPDATE client_sessions SET connected_at = now(), open = false, ended_at = now()
                 WHERE device_id % 20 = {round} -- and its trigger those of devices"
            ))
            .await
            .unwrap();
        let after = update_counts(&transaction).await;
        for ((table, updates, hot), (_, updates_before, hot_before)) in after.iter().zip(before) {
            assert_eq!(
                (updates - updates_before, hot - hot_before),
                (50, 50),
                "{table}, round {round}"
            );
        }
        transaction.commit().await.unwrap();
    }
    let touched: i64 = client
        .query_one("SELECT count(*) FROM devices WHERE updated_at <> '2020-01-01'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(touched, 0);
    client.batch_execute("UPDATE devices SET area = 'roof' WHERE id = 1").await.unwrap();
    let touched: i64 = client
        .query_one("SELECT count(*) FROM devices WHERE updated_at <> '2020-01-01'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(touched, 1);
}

#[tokio::test]
async fn no_device_can_own_a_client_id_that_a_service_may_open() {
    let (_database, client) = Database::migrated().await;
    let add = |name: &str, client_id: &str, kind: &str| {
        format!(
            "INSERT INTO devices (name, client_id, kind) VALUES ('{name}', nullif('{client_id}', ''), '{kind}')"
        )
    };
    let allowed = [
        add("dash", "", "service"),
        add("hub", "hub:1", "service"),
        add("dashboard:1", "", "sensor"),
        add("dash2", "x:dash:1", "sensor"),
        add("aa:bb:cc", "", "sensor"),
        add("bb:cc", "", "service"),
        add("wall:sub", "apart", "service"),
        add("dash:named", "elsewhere", "sensor"),
        "UPDATE devices SET name = 'panel' WHERE name = 'dash2'".to_owned(),
    ];
    for sql in &allowed {
        assert_eq!(refused_by(&client, sql).await, None, "{sql}");
    }
    let refused = [
        add("dash:1", "", "sensor"),
        add("thermo", "dash:1", "sensor"),
        add("thermo", "dash:", "sensor"),
        add("dash:sub", "", "service"),
        add("dash:sub", "free", "service"),
        add("aa", "", "service"),
        add("aa:bb", "", "service"),
        add("wall", "", "service"),
        "UPDATE devices SET name = 'hub:x', client_id = NULL WHERE name = 'panel'".to_owned(),
        "UPDATE devices SET name = 'aa' WHERE name = 'dash'".to_owned(),
        "UPDATE devices SET kind = 'service' WHERE name = 'dash:named'".to_owned(),
    ];
    for sql in &refused {
        assert_eq!(refused_by(&client, sql).await.as_deref(), Some("devices_identity"), "{sql}");
    }
    let error = client.batch_execute(&add("thermo", "dash:1", "sensor")).await.unwrap_err();
    let text = RegistryError::on("device \"thermo\"")(error).to_string();
    for part in ["\"thermo\"", "\"dash:1\"", "service \"dash\"", "rename the service"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(text.matches("device \"thermo\"").count(), 1, "{text}");
}

#[tokio::test]
async fn a_service_and_its_would_be_client_id_cannot_slip_past_each_other() {
    let (database, mut service) = Database::migrated().await;
    let device = database.connect().await;
    let open = service.transaction().await.unwrap();
    open.batch_execute("INSERT INTO devices (name, kind) VALUES ('dash', 'service')")
        .await
        .unwrap();
    let late = tokio::spawn(async move {
        device.batch_execute("INSERT INTO devices (name, kind) VALUES ('dash:1', 'sensor')").await
    });
    // The device waits for the service's transaction: its lock is asked for and not granted.
    let watcher = database.connect().await;
    let waiting = async { while advisory_locks(&watcher, false).await == 0 {} };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("nobody waits for the lock");
    open.commit().await.unwrap();
    let refused = late.await.unwrap().unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().constraint(), Some("devices_identity"));

    let frozen =
        service.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let frozen = frozen.start().await.unwrap();
    let refused =
        frozen.batch_execute("INSERT INTO devices (name, kind) VALUES ('s', 'service')").await;
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "0A000");
}

#[tokio::test]
async fn a_change_and_a_rename_wait_for_each_other() {
    let (database, mut changer) = Database::migrated().await;
    changer
        .batch_execute("INSERT INTO devices (name, kind) VALUES ('a', 'sensor'); INSERT INTO topic_grants (device_id, action, topic_filter) VALUES (1, 'publish', 'x')")
        .await
        .unwrap();
    let renamer = database.connect().await;
    let change = changer.transaction().await.unwrap();
    change.batch_execute("DELETE FROM topic_grants").await.unwrap();
    renamer
        .batch_execute("SET lock_timeout = '50ms'; UPDATE devices SET online = true")
        .await
        .unwrap();
    let renamed = renamer.batch_execute("UPDATE devices SET name = 'b'").await;
    assert_eq!(renamed.unwrap_err().code().unwrap().code(), "55P03", "the rename must wait");
    change.commit().await.unwrap();
    renamer.batch_execute("UPDATE devices SET name = 'b'").await.unwrap();
}
