//! Sessions that have ended: they go, they don't come back, and they cost nothing.

use std::time::Duration;

use serde_json::Value;

use crate::support::app::{TestApp, eventually, start, start_with};
use crate::support::bus::{connected, disconnected, is_online, now};
use crate::support::fleet::Fleet;
use crate::support::postgres::{connect, fresh_database};

const DAY: i64 = 86_400_000;

/// A service that keeps ended sessions for a week.
async fn started() -> (TestApp, Fleet, crate::support::postgres::TestDatabase) {
    start_with(|config| {
        config.ingest.keep_sessions = Duration::from_secs(7 * 86_400);
        config.emqx.sweep_interval = Duration::from_millis(50);
    })
    .await
}

async fn tell(app: &TestApp, event: &Value) {
    assert_eq!(app.event(event).await.status, 204, "{event}");
}

#[tokio::test]
async fn ended_sessions_go_after_a_week_and_late_events_do_not_bring_them_back() {
    let (app, fleet, _database) = started().await;
    fleet.device_of_kind("s", "service").await;
    fleet
        .sql(
            "INSERT INTO client_sessions (client_id, device_id, connected_at, open, ended_at, noted_at)
             SELECT 's:' || state || n, id, now() - days * interval '1 day', open,
                    CASE WHEN NOT open THEN now() - days * interval '1 day' END, now() - noted * interval '1 day'
             FROM devices, generate_series(1, 6000) AS n,
                  (VALUES ('old', 8, 8, false), ('told-late', 8, 0, false), ('young', 6, 6, false), ('open', 90, 90, true),
                          ('ahead', -9999, 8, false)) AS kind (state, days, noted, open)",
            &[],
        )
        .await;
    fleet.sql("UPDATE session_pruning SET began_at = '-infinity', reached = ''", &[]).await;
    let left = "SELECT count(*) FROM client_sessions";
    eventually("the old ones are gone", || async { fleet.value::<i64>(left).await == 12_000 })
        .await;
    let kinds =
        "SELECT string_agg(DISTINCT rtrim(client_id, '0123456789'), ' ') FROM client_sessions";
    assert_eq!(fleet.value::<String>(kinds).await, "s:open s:young");
    assert_eq!(fleet.value::<i64>("SELECT open_sessions FROM devices").await, 6000);
    fleet.sql("DELETE FROM client_sessions", &[]).await;

    let old = now() - 8 * DAY;
    tell(&app, &disconnected("s:1", "s", old, old + 5, "normal")).await;
    tell(&app, &connected("s:1", "s", old)).await;
    assert_eq!(fleet.value::<i64>(left).await, 0);
    assert_eq!(app.metric(r#"fleetgate_events_stale_total{reason="session_age"}"#).await, 2.0);
    // A session may be as old as it likes; its end is news.
    tell(&app, &disconnected("s:1", "s", old, now(), "normal")).await;
    assert_eq!(fleet.value::<i64>(left).await, 1);
}

#[tokio::test]
async fn an_end_that_is_told_after_a_week_still_closes_its_session() {
    let (app, fleet, _database) = started().await;
    fleet.device("t").await;
    let old = now() - 8 * DAY;
    fleet
        .sql(
            "INSERT INTO client_sessions (client_id, device_id, connected_at, open)
             SELECT 't', id, to_timestamp($1::float8 / 1000), true FROM devices",
            &[&(old as f64)],
        )
        .await;
    assert!(is_online(&fleet, "t").await);
    tell(&app, &disconnected("t", "t", old + 1, old + 3, "normal")).await;
    assert!(is_online(&fleet, "t").await, "another session's");
    tell(&app, &disconnected("t", "t", old, old + 3, "normal")).await;
    assert!(!is_online(&fleet, "t").await);
}

/// Rows that PostgreSQL reads, not time: a service with a long history and one without cost the same.
#[tokio::test]
async fn an_event_costs_no_more_after_two_hundred_thousand_sessions() {
    let database = fresh_database().await;
    let client = connect(&database.url).await;
    client
        .batch_execute(
            "INSERT INTO devices (name, kind) VALUES ('old', 'service'), ('new', 'service');
             INSERT INTO client_sessions (client_id, device_id, connected_at, open, ended_at)
             SELECT 'old:' || n, id, now() - interval '1 day', false, now() - interval '1 day'
             FROM devices, generate_series(1, 206000) AS n WHERE name = 'old';
             ANALYZE",
        )
        .await
        .unwrap();
    let batch = |name: &str, began: i32, ended: &str| {
        format!(
            "SELECT fleetgate_write_sessions(ARRAY['{name}:x'], ARRAY[id], ARRAY[now() + {began} * interval '1 second'],
                 ARRAY[{ended}]::timestamptz[], ARRAY[false], ARRAY[true], interval '7 days', NULL)
             FROM devices WHERE name = '{name}'"
        )
    };
    // Within a transaction these counts only grow.
    let read = async || -> i64 {
        let read = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables
                    WHERE relname IN ('devices', 'client_sessions')";
        client.query_one(read, &[]).await.unwrap().get(0)
    };
    let online = async |name: &str| -> bool {
        let online = format!("SELECT online FROM devices WHERE name = '{name}'");
        client.query_one(&online, &[]).await.unwrap().get(0)
    };
    client.batch_execute("BEGIN").await.unwrap();
    for name in ["new", "old"] {
        for round in 0..3 {
            let before = read().await;
            client.batch_execute(&batch(name, round, "NULL")).await.unwrap();
            let opened = read().await;
            client.batch_execute(&batch(name, round, "now() + interval '1 minute'")).await.unwrap();
            let closed = read().await;
            assert!(
                opened - before < 20 && closed - opened < 20,
                "{name}: {before} {opened} {closed}"
            );
        }
        assert!(!online(name).await, "all have ended");
    }
}

#[tokio::test]
async fn disabling_a_service_ends_the_sessions_it_may_have_and_no_others() {
    let database = fresh_database().await;
    let client = connect(&database.url).await;
    client
        .batch_execute(
            "INSERT INTO devices (name, kind) VALUES ('s', 'service');
             INSERT INTO client_sessions (client_id, device_id, connected_at, open, ended_at, inferred)
             SELECT 's:' || state || n, id, now() - interval '1 day', open,
                    CASE WHEN NOT open THEN now() - interval '1 hour' END, inferred
             FROM devices, (VALUES ('ended', 206000, false, false), ('open', 3, true, false), ('inferred', 2, false, true))
                  AS kind (state, many, open, inferred), generate_series(1, many) AS n;
             UPDATE devices SET enabled = false",
        )
        .await
        .unwrap();
    let kicked_out = "SELECT array_agg(key ORDER BY key) FROM work_queue";
    let kicked_out: Vec<String> = client.query_one(kicked_out, &[]).await.unwrap().get(0);
    assert_eq!(kicked_out, ["s", "s:inferred1", "s:inferred2", "s:open1", "s:open2", "s:open3"]);
}

#[tokio::test]
async fn the_count_of_open_sessions_follows_whoever_writes_them() {
    let (app, fleet, _database) = start().await;
    fleet.device_of_kind("s", "service").await.device("t").await;
    let counted = async || -> (i64, bool) {
        let count = fleet.value("SELECT open_sessions FROM devices WHERE name = 's'").await;
        (count, is_online(&fleet, "s").await)
    };
    let open = "INSERT INTO client_sessions (client_id, device_id, connected_at, open)
                SELECT 's:' || n, id, now(), true FROM devices, generate_series(1, 3) AS n WHERE name = 's'";
    fleet.sql(open, &[]).await;
    assert_eq!(counted().await, (3, true));
    tell(&app, &connected("s", "s", now())).await;
    assert_eq!(counted().await, (4, true));
    fleet
        .sql(
            "UPDATE client_sessions SET open = false, ended_at = now() WHERE client_id = 's:1'",
            &[],
        )
        .await;
    fleet.sql("DELETE FROM client_sessions WHERE client_id = 's:2'", &[]).await;
    assert_eq!(counted().await, (2, true));
    let moved = "UPDATE client_sessions SET device_id = (SELECT id FROM devices WHERE name = 't') WHERE client_id = 's:3'";
    fleet.sql(moved, &[]).await;
    assert_eq!(counted().await, (1, true));
    assert!(is_online(&fleet, "t").await);
    fleet.sql("TRUNCATE client_sessions", &[]).await;
    assert_eq!(counted().await, (0, false));
    assert!(!is_online(&fleet, "t").await);
    // As after a restore of data alone.
    fleet.sql(open, &[]).await;
    fleet.sql("UPDATE devices SET open_sessions = 7, online = true", &[]).await;
    assert_eq!(fleet.value::<i64>("SELECT fleetgate_recount_open_sessions()").await, 2);
    assert_eq!(counted().await, (3, true));
    assert!(!is_online(&fleet, "t").await);
}
