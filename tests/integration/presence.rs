//! Sessions: whatever comes, however often, in whatever order, through whichever replica.

use serde_json::{Value, json};

use crate::support::app::{TestApp, config, eventually, start};
use crate::support::bus::{connected, disconnected, is_online, message, rows};
use crate::support::fleet::Fleet;
use crate::support::postgres::{connect, fresh_database};
use crate::support::wire::{Connection, post};

/// Numbers that are the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap();
            items.swap(last, other);
        }
    }
}

const CLIENTS: [(&str, &str); 5] = [("a", "a"), ("b", "b"), ("s", "s"), ("s:1", "s"), ("s:2", "s")];
const EPOCH: i64 = 1_795_356_000_000;
/// How far ahead a clock may be, in ms.
const YEARS: i64 = 100 * 365 * 86_400_000;

/// What a broker tells of a few clients, in the order in which it happened.
fn history(dice: &mut Dice) -> Vec<Value> {
    let mut events = Vec::new();
    for (client, name) in CLIENTS {
        let mut now = EPOCH;
        for _ in 0..dice.below(6) {
            let began = now + 1 + i64::try_from(dice.below(50)).unwrap();
            // Which the broker may have told by a clock that was years ahead.
            let wrong =
                if dice.below(4) == 0 { YEARS + i64::try_from(dice.below(3)).unwrap() } else { 0 };
            events.push((began, connected(client, name, began + wrong)));
            now = began;
            for _ in 0..dice.below(4) {
                now += i64::try_from(dice.below(3)).unwrap();
                let id = format!("{now:016X}{:016X}", dice.below(1 << 40));
                let payload =
                    ["1", "\"x\"", "", "{\"c\":2}"][usize::try_from(dice.below(4)).unwrap()];
                let topic =
                    ["t/main", "t/temp", "elsewhere"][usize::try_from(dice.below(3)).unwrap()];
                events.push((now, message(name, topic, now + wrong, &id, payload)));
            }
            now += 1 + i64::try_from(dice.below(20)).unwrap();
            let reason = ["normal", "keepalive_timeout", "takenover", "discarded", ""]
                [usize::try_from(dice.below(5)).unwrap()];
            if !reason.is_empty() {
                let ended = now + if dice.below(4) == 0 { 0 } else { wrong };
                events.push((now, disconnected(client, name, began + wrong, ended, reason)));
            }
        }
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(_, event)| event).collect()
}

/// Rows without times that are cut to when they were noted, which differs; `stamp` says what was told.
fn without_noted(mut rows: Value) -> Value {
    for state in rows["state"].as_object_mut().unwrap().values_mut() {
        let entries = state["state"].as_object_mut().unwrap().values_mut();
        for entry in entries.filter(|entry| entry.get("stamp").is_some()) {
            entry["at"] = Value::Null;
        }
        if state["last_violation"].get("stamp").is_some() {
            state["last_violation"]["at"] = Value::Null;
        }
        if state["last_seen"].as_str().is_some_and(|seen| !seen.starts_with("2026-11-22")) {
            state["last_seen"] = Value::Null;
        }
    }
    rows
}

async fn provision(fleet: &Fleet) {
    for name in ["a", "b"] {
        fleet.device(name).await;
        fleet.bind(name, "main", Some("t/main"), None).await;
        fleet.bind(name, "temp", Some("t/temp"), None).await;
    }
    fleet
        .sql("UPDATE capabilities SET state_schema = '{\"type\": [\"number\", \"object\"]}'", &[])
        .await;
    fleet.device_of_kind("s", "service").await;
}

async fn forget(fleet: &Fleet) {
    for statement in [
        "DELETE FROM client_sessions",
        "DELETE FROM device_state",
        "DELETE FROM untrusted_timestamps",
        "UPDATE devices SET online = false WHERE online",
    ] {
        fleet.sql(statement, &[]).await;
    }
}

async fn send_all(app: &TestApp, events: &[Value], connections: usize) {
    let tasks = (0..connections).map(|connection| {
        let share: Vec<Value> =
            events.iter().skip(connection).step_by(connections).cloned().collect();
        let address = app.address;
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            for event in share {
                let token = crate::support::app::TOKEN;
                let request = post("/emqx/events", token, &event.to_string());
                assert_eq!(connection.exchange(&request).await.status, 204, "{event}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn any_order_number_and_split_of_a_history_ends_in_the_same_rows() {
    let (ordered, ordered_fleet, _database) = start().await;
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    provision(&ordered_fleet).await;
    provision(&fleet).await;
    let replicas = [config(&database.url), config(&database.url)].map(TestApp::start);
    let [first, second] = replicas;
    let (first, second) = (first.await, second.await);
    first.ready().await;
    second.ready().await;
    for seed in 0..25 {
        let mut dice = Dice(seed);
        let events = history(&mut dice);
        send_all(&ordered, &events, 1).await;
        let mut shares = [events.clone(), Vec::new()];
        for event in &events {
            for _ in 0..dice.below(3) {
                shares[usize::try_from(dice.below(2)).unwrap()].push(event.clone());
            }
        }
        shares.iter_mut().for_each(|share| dice.shuffle(share));
        tokio::join!(send_all(&first, &shares[0], 4), send_all(&second, &shares[1], 4));
        let (shuffled, ordered) = (rows(&fleet).await, rows(&ordered_fleet).await);
        assert_eq!(without_noted(shuffled), without_noted(ordered), "seed {seed}");
        forget(&ordered_fleet).await;
        forget(&fleet).await;
    }
}

#[tokio::test]
async fn two_replicas_that_close_a_services_two_sessions_at_once_take_it_offline() {
    let (first, fleet, database) = start().await;
    let second = TestApp::start(config(&database.url)).await;
    second.ready().await;
    fleet.device_of_kind("s", "service").await;
    for round in 0..20 {
        let began = EPOCH + round * 100;
        for client in ["s:1", "s:2"] {
            assert_eq!(first.event(&connected(client, "s", began)).await.status, 204);
        }
        assert!(is_online(&fleet, "s").await);
        let ends =
            ["s:1", "s:2"].map(|client| disconnected(client, "s", began, began + 50, "normal"));
        let (one, other) = tokio::join!(first.event(&ends[0]), second.event(&ends[1]));
        assert_eq!((one.status, other.status), (204, 204));
        assert!(!is_online(&fleet, "s").await, "round {round}");
    }
}

#[tokio::test]
async fn one_open_session_keeps_a_service_online() {
    let (app, fleet, _database) = start().await;
    fleet.device_of_kind("s", "service").await;
    for client in ["s:1", "s:2"] {
        app.event(&connected(client, "s", EPOCH)).await;
    }
    app.event(&disconnected("s:1", "s", EPOCH, EPOCH + 1, "normal")).await;
    assert!(is_online(&fleet, "s").await);
    app.event(&disconnected("s:2", "s", EPOCH, EPOCH + 1, "takenover")).await;
    assert!(is_online(&fleet, "s").await, "its client goes on elsewhere");
    app.event(&disconnected("s:2", "s", EPOCH, EPOCH + 1, "normal")).await;
    assert!(!is_online(&fleet, "s").await);
}

#[tokio::test]
async fn only_an_inferred_end_is_taken_back() {
    let (app, fleet, _database) = start().await;
    fleet.device("a").await;
    app.event(&connected("a", "a", EPOCH)).await;
    let infer = "UPDATE client_sessions SET open = false, ended_at = now(), inferred = true";
    fleet.sql(infer, &[]).await;
    fleet.sql("UPDATE devices SET online = false", &[]).await;
    app.event(&connected("a", "a", EPOCH)).await;
    assert!(is_online(&fleet, "a").await, "the sweep was wrong");
    fleet.sql(infer, &[]).await;
    app.event(&disconnected("a", "a", EPOCH, EPOCH + 9, "normal")).await;
    app.event(&connected("a", "a", EPOCH)).await;
    assert!(!is_online(&fleet, "a").await, "what was told stands");
    assert!(!fleet.value::<bool>("SELECT inferred FROM client_sessions").await);
}

#[tokio::test]
async fn a_client_id_that_passes_to_another_device_takes_its_session_along() {
    let (app, fleet, _database) = start().await;
    fleet.device("old").await.device("new").await.client_id("old", "shared").await;
    app.event(&connected("shared", "old", EPOCH)).await;
    assert!(is_online(&fleet, "old").await);
    fleet.client_id("old", "old").await.client_id("new", "shared").await;
    app.event(&connected("shared", "new", EPOCH + 5)).await;
    assert!(is_online(&fleet, "new").await && !is_online(&fleet, "old").await);
    app.event(&disconnected("shared", "old", EPOCH, EPOCH + 5, "normal")).await;
    assert!(is_online(&fleet, "new").await, "the older session's end is late");
}

#[tokio::test]
async fn a_session_under_a_client_id_that_was_taken_away_ends() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.client_id("t", "before").await;
    app.event(&connected("before", "t", EPOCH)).await;
    fleet.client_id("t", "after").await;
    eventually("the change is heard", || async {
        app.event(&connected("before", "t", EPOCH)).await;
        app.counted(r#"fleetgate_events_total{kind="connected",outcome="foreign_client_id"}"#).await
            > 0.0
    })
    .await;
    app.event(&connected("after", "t", EPOCH + 5)).await;
    app.event(&disconnected("before", "t", EPOCH, EPOCH + 6, "kicked")).await;
    assert!(is_online(&fleet, "t").await);
    app.event(&disconnected("after", "t", EPOCH + 5, EPOCH + 9, "normal")).await;
    assert!(!is_online(&fleet, "t").await, "both sessions have ended");
}

#[tokio::test]
async fn presence_updates_touch_no_index_and_announce_nothing() {
    let (app, fleet, _database) = start().await;
    fleet.device("a").await;
    fleet.bind("a", "main", Some("t"), None).await;
    app.event(&connected("a", "a", EPOCH)).await;
    let heard = app.metric("fleetgate_listen_changes_total").await;
    for round in 1..=50 {
        let began = EPOCH + round * 10;
        app.event(&connected("a", "a", began)).await;
        app.event(&message("a", "t", began + 1, "00", &round.to_string())).await;
        app.event(&disconnected("a", "a", began, began + 2, "normal")).await;
    }
    fleet.value::<String>("SELECT pg_stat_force_next_flush()::text").await;
    {
        // An update that changes an indexed column is never one of them; others may not be while somebody's snapshot keeps old rows in
        // a full page.
        let query = "SELECT jsonb_object_agg(relname, jsonb_build_array(n_tup_upd >= 50, n_tup_hot_upd * 10 >= n_tup_upd * 9))
                     FROM pg_stat_user_tables WHERE relname IN ('devices', 'client_sessions', 'device_state')";
        let full = json!({
            "devices": [true, true], "client_sessions": [true, true], "device_state": [true, true]});
        eventually("the statistics say so", || async { fleet.value::<Value>(query).await == full })
            .await;
    }
    assert_eq!(app.metric("fleetgate_listen_changes_total").await, heard);
}

/// The plans are made while the tables are empty and last; they must still be right when a new fleet
/// has come online and no statistics say so.
#[tokio::test]
async fn a_batch_looks_its_rows_up_however_many_others_there_are() {
    let database = fresh_database().await;
    let client = connect(&database.url).await;
    let fleet = "INSERT INTO devices (name, kind) SELECT 'd' || n, 'sensor' FROM generate_series(1, 3000) AS n";
    client.batch_execute(fleet).await.unwrap();
    let batch = "SELECT fleetgate_write_sessions(array_agg(name), array_agg(id), array_agg(now()),
                     array_agg(NULL::timestamptz), array_agg(false), array_agg(true), NULL, NULL),
                 fleetgate_write_reports(array_agg(id), array_agg(now()), array_agg(now()), array_agg(NULL::text),
                     array_agg('main'::text), array_agg(jsonb '{\"at\": 1, \"id\": \"00\"}'),
                     array_agg(NULL::jsonb))
                 FROM (SELECT id, name FROM devices WHERE name IN ('d7', 'd8', 'd9')) AS device";
    client.batch_execute("ANALYZE").await.unwrap();
    client.batch_execute(batch).await.unwrap();
    client
        .batch_execute(
            "INSERT INTO device_state (device_id) SELECT id FROM devices ON CONFLICT DO NOTHING;
             INSERT INTO client_sessions SELECT name, id, now(), true FROM devices ON CONFLICT DO NOTHING",
        )
        .await
        .unwrap();
    // Within a transaction these counts only grow.
    let read = async || -> i64 {
        let read = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables
                    WHERE relname IN ('devices', 'device_state', 'client_sessions')";
        client.query_one(read, &[]).await.unwrap().get(0)
    };
    client.batch_execute("BEGIN").await.unwrap();
    let before = read().await;
    client.batch_execute(batch).await.unwrap();
    let rows = read().await - before;
    assert!((1..100).contains(&rows), "three devices cost {rows} rows");
}
