//! A broker's clock that is wrong: it may not freeze anything, and what is shown is never in the future.

use fleetgate::cli::doctor::{Status, examine};
use fleetgate::clock::Clock;
use fleetgate::config::Sources;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::app::{TestApp, eventually, start};
use crate::support::bus::{connected, disconnected, is_online, last_seen, message, now, state};
use crate::support::database::Database;
use crate::support::fleet::Fleet;
use crate::support::postgres::TestDatabase;

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;
/// The end of the year 9998, the latest that is taken at all.
const LATEST: i64 = 253_370_764_799_999;

async fn with_device() -> (TestApp, Fleet, TestDatabase) {
    let (app, fleet, database) = start().await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    (app, fleet, database)
}

impl TestApp {
    async fn tells(&self, events: &[Value]) {
        for event in events {
            assert_eq!(self.event(event).await.status, 204, "{event}");
        }
    }
}

fn report(at: i64, id: &str, payload: &str) -> Value {
    message("t", "t/main", at, id, payload)
}

async fn value(fleet: &Fleet) -> Value {
    state(fleet, "t").await["main"]["value"].clone()
}

/// An hour, two millennia and what is latest of all: the same for each.
#[tokio::test]
async fn a_clock_that_was_ahead_freezes_nothing_once_it_is_right() {
    let (app, fleet, _database) = with_device().await;
    for ahead in [HOUR, 365 * 24 * HOUR, LATEST - now() - HOUR] {
        let wrong = now() + ahead;
        app.tells(&[
            connected("t", "t", wrong),
            report(wrong + 1, "0F", "1"),
            disconnected("t", "t", wrong, wrong + 2, "normal"),
        ])
        .await;
        assert!(!is_online(&fleet, "t").await, "it went");
        // Older than what was told meanwhile, and yet it counts.
        let right = now() - 60 * SECOND;
        let text = right.to_string();
        app.tells(&[connected("t", "t", right), report(right + 1, "00", &text)]).await;
        assert!(is_online(&fleet, "t").await, "{ahead}");
        assert_eq!(value(&fleet).await, json!(right));
        app.tells(&[disconnected("t", "t", right, right + 2, "normal")]).await;
        assert!(!is_online(&fleet, "t").await, "{ahead}");
        fleet.sql("DELETE FROM client_sessions", &[]).await;
        fleet.sql("DELETE FROM device_state", &[]).await;
    }
}

#[tokio::test]
async fn a_session_that_began_under_the_wrong_clock_ends_under_the_right_one() {
    let (app, fleet, _database) = with_device().await;
    let wrong = now() + HOUR;
    app.tells(&[connected("t", "t", wrong)]).await;
    assert!(is_online(&fleet, "t").await);
    app.tells(&[disconnected("t", "t", wrong, now(), "tcp_closed")]).await;
    assert!(!is_online(&fleet, "t").await, "connected_at names the session, right or wrong");
    app.tells(&[connected("t", "t", wrong)]).await;
    assert!(!is_online(&fleet, "t").await, "told again");
}

#[tokio::test]
async fn nothing_shown_lies_in_the_future() {
    let (app, fleet, database) = with_device().await;
    fleet.bind("t", "temp", Some("t/temp"), None).await;
    fleet.sql("UPDATE capabilities SET state_schema = '{\"type\": \"string\"}'", &[]).await;
    let wrong = now() + 1000 * HOUR;
    app.tells(&[
        connected("t", "t", wrong),
        report(wrong + 1, "0F", "1"),
        message("t", "t/temp", wrong + 2, "0F", "1"),
        disconnected("t", "t", wrong, wrong + 3, "normal"),
    ])
    .await;
    let shown = tokio::process::Command::new(env!("CARGO_BIN_EXE_fleetgate"))
        .args(["device", "show", "t", "--json"])
        .env("FLEETGATE_DATABASE_URL", &database.url)
        .output()
        .await
        .unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let latest = now();
    let time = |text: &Value| -> i64 {
        text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
    };
    assert!(time(&shown["last_seen"]) <= latest, "{shown}");
    assert!(time(&shown["sessions"][0]["connected_at"]) <= latest, "{shown}");
    assert!(time(&shown["sessions"][0]["ended_at"]) <= latest, "{shown}");
    let at = |entry: &Value| entry["at"].as_i64().unwrap();
    assert!(at(&shown["state"]["main"]) <= latest, "{shown}");
    assert!(at(&shown["last_violation"]) <= latest, "{shown}");
    assert_eq!(shown["state"]["main"]["untrusted"], true);
    assert_eq!(shown["state"]["main"]["stamp"], wrong + 1, "what the broker said is kept");
    let right = now() - 5 * SECOND;
    app.tells(&[report(right, "00", "2"), message("t", "t/temp", right, "00", "3")]).await;
    assert_eq!(state(&fleet, "t").await["main"], json!({"value": 2, "at": right, "id": "00"}));
    let violated: i64 =
        fleet.value("SELECT (last_violation -> 'at')::bigint FROM device_state").await;
    assert_eq!(violated, right);
}

/// Clocks are never quite the same.
#[tokio::test]
async fn seconds_ahead_are_trusted_and_keep_their_order() {
    let (app, fleet, _database) = with_device().await;
    let ahead = now() + 10 * SECOND;
    app.tells(&[report(ahead + 2, "00", "2"), report(ahead + 1, "0F", "1")]).await;
    assert_eq!(value(&fleet).await, 2, "in the broker's order, though both are noted earlier");
    assert!(state(&fleet, "t").await["main"].get("untrusted").is_none());
    app.tells(&[report(ahead - 60 * SECOND, "0F", "3")]).await;
    assert_eq!(value(&fleet).await, 2, "older");
    assert!(last_seen(&fleet, "t").await <= now());
    app.tells(&[connected("t", "t", ahead), connected("t", "t", ahead - 60 * SECOND)]).await;
    app.tells(&[disconnected("t", "t", ahead - 60 * SECOND, now(), "normal")]).await;
    assert!(is_online(&fleet, "t").await, "the older session's end");
    assert_eq!(app.metric("fleetgate_events_untrusted_total").await, 0.0);
}

/// While the clock stays wrong, values go on: first what is trusted stands, then what comes.
#[tokio::test]
async fn a_clock_that_stays_wrong_does_not_stop_values_and_presence_for_long() {
    let (app, fleet, _database) = with_device().await;
    let right = now() - 60 * SECOND;
    let wrong = now() + HOUR;
    app.tells(&[report(right, "00", "1"), connected("t", "t", right)]).await;
    app.tells(&[disconnected("t", "t", right, right + 1, "normal")]).await;
    app.tells(&[report(wrong, "00", "2"), connected("t", "t", wrong)]).await;
    assert_eq!(value(&fleet).await, 1);
    assert!(!is_online(&fleet, "t").await);
    for statement in [
        "UPDATE untrusted_timestamps SET since = since - interval '6 minutes'",
        "UPDATE client_sessions SET noted_at = noted_at - interval '6 minutes'",
    ] {
        fleet.sql(statement, &[]).await;
    }
    app.tells(&[report(wrong + 1, "00", "3"), connected("t", "t", wrong + 1)]).await;
    assert_eq!(value(&fleet).await, 3, "nothing trusted for longer than clocks may differ");
    assert!(is_online(&fleet, "t").await);
    app.tells(&[report(wrong, "0F", "4")]).await;
    assert_eq!(value(&fleet).await, 3, "in order among themselves");
    app.tells(&[report(right + 1, "00", "5")]).await;
    assert_eq!(value(&fleet).await, 5);
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM untrusted_timestamps").await, 0);
}

/// What the database's own wrong clock noted, or somebody wrote by hand.
#[tokio::test]
async fn rows_that_lie_ahead_without_having_been_noted_so_freeze_nothing() {
    let (app, fleet, _database) = with_device().await;
    let right = now() - SECOND;
    app.tells(&[connected("t", "t", right - 9), report(right - 9, "00", "1")]).await;
    for statement in [
        "UPDATE client_sessions SET connected_at = now() + interval '1 hour', noted_at = now() + interval '1 hour',
             open = false, ended_at = now() + interval '1 hour'",
        "UPDATE device_state SET last_seen = now() + interval '1 hour',
             state = jsonb_set(state, '{main,at}', to_jsonb((extract(epoch FROM now() + interval '1 hour') * 1000)::bigint))",
    ] {
        fleet.sql(statement, &[]).await;
    }
    app.tells(&[connected("t", "t", right), report(right, "00", "2")]).await;
    assert!(is_online(&fleet, "t").await);
    assert_eq!(value(&fleet).await, 2);
    assert!(last_seen(&fleet, "t").await <= now());
}

#[tokio::test]
async fn what_is_untrusted_is_counted_and_doctor_names_device_and_node() {
    let (app, fleet, database) = with_device().await;
    let environment = [
        ("FLEETGATE_DATABASE_URL", database.url.as_str()),
        ("FLEETGATE_EMQX_WEBHOOK_TOKEN", "0123456789abcdef"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sources = Sources {
        file: None,
        environment: environment.into_iter().collect(),
        ..Sources::default()
    };
    let finding = async || {
        let report = examine(&sources, &Clock::System).await;
        let finding = report.findings.into_iter().find(|finding| finding.check == "broker clocks");
        let finding = finding.unwrap();
        (finding.status, finding.found + finding.remedy.as_deref().unwrap_or_default())
    };
    assert_eq!(finding().await.0, Status::Ok);
    let wrong = now() + HOUR;
    app.tells(&[
        connected("t", "t", wrong),
        report(wrong, "00", "1"),
        disconnected("t", "t", wrong, wrong, "normal"),
    ])
    .await;
    assert_eq!(app.metric("fleetgate_events_untrusted_total").await, 3.0);
    let (status, words) = finding().await;
    assert_eq!(status, Status::Warning);
    for word in ["\"t\"", "emqx@127.0.0.1", "60 minutes", "NTP"] {
        assert!(words.contains(word), "{word}: {words}");
    }
    // The database's clock is this machine's.
    eventually("it is over", || async {
        app.tells(&[report(now(), "00", "2")]).await;
        finding().await.0 == Status::Ok
    })
    .await;
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM untrusted_timestamps").await, 0);
}

/// Neither 1970 nor what is no time at all.
#[tokio::test]
async fn timestamps_of_the_far_past_and_beyond_all_time_freeze_nothing() {
    let (app, fleet, _database) = with_device().await;
    for at in [json!(-1), json!(i64::MIN), json!(i64::MAX), json!(LATEST + 1), json!(u64::MAX)] {
        let mut event = connected("t", "t", 0);
        event["connected_at"] = at;
        assert_eq!(app.event(&event).await.status, 400, "{event}");
    }
    for at in [json!("1795356000000"), json!("undefined"), json!(1.5), Value::Null, json!({})] {
        let mut event = report(0, "00", "1");
        event["publish_received_at"] = at;
        assert_eq!(app.event(&event).await.status, 400, "{event}");
    }
    app.tells(&[connected("t", "t", 0), report(0, "00", "1")]).await;
    app.tells(&[disconnected("t", "t", 0, 1, "normal")]).await;
    let right = now();
    app.tells(&[connected("t", "t", right), report(right, "00", "2")]).await;
    assert!(is_online(&fleet, "t").await);
    assert_eq!(value(&fleet).await, 2);
}

/// One thing told, as the functions of `sql/` take it: its timestamps (s
/// after it is noted), its message id. All is noted at one time: a repetition hours later may be trusted.
#[derive(Debug, Clone, Copy)]
struct Told {
    began: i32,
    ended: Option<i32>,
    inferred: bool,
    id: i32,
}

/// Around the tolerance (300 s) more than anywhere else.
fn told() -> impl Strategy<Value = Told> {
    let offset =
        || prop_oneof![-9..9_i32, 295..305_i32, Just(3600), Just(-3600), Just(900_000_000)];
    let ended = prop::option::of(offset());
    (offset(), ended, any::<bool>(), 0..3_i32).prop_map(|(began, ended, inferred, id)| Told {
        began,
        ended,
        inferred,
        id,
    })
}

/// Writes batches and returns the rows they end in.
async fn written(client: &tokio_postgres::Client, batches: &[Vec<Told>]) -> Value {
    client
        .batch_execute(
            "DELETE FROM client_sessions; DELETE FROM device_state; DELETE FROM untrusted_timestamps",
        )
        .await
        .unwrap();
    for batch in batches.iter().filter(|batch| !batch.is_empty()) {
        let told = serde_json::to_value(
            batch.iter().map(|t| (t.began, t.ended, t.inferred, t.id)).collect::<Vec<_>>(),
        )
        .unwrap();
        let write = "WITH told AS (
                 SELECT timestamptz '2026-11-26' + (t ->> 0)::int * interval '1 second' AS began,
                        timestamptz '2026-11-26' + (t ->> 1)::int * interval '1 second' AS ended,
                        (t ->> 2)::boolean AS inferred, t ->> 3 AS id, devices.id AS device
                 FROM jsonb_array_elements($1::text::jsonb) AS t, devices WHERE name = 't'),
             reports AS (
                 SELECT *, jsonb_build_object('at', (extract(epoch FROM began) * 1000)::bigint, 'id', id, 'value', id) AS report,
                        jsonb_build_object('at', (extract(epoch FROM began) * 1000)::bigint, 'binding', id) AS violation
                 FROM told)
             SELECT fleetgate_write_sessions(array_agg('t'::text), array_agg(device), array_agg(began), array_agg(ended),
                        array_agg(inferred), array_agg(true), NULL, NULL, '2026-11-26'),
                    fleetgate_write_reports(array_agg(device), array_agg(began), array_agg(began), array_agg(NULL::text),
                        array_agg('main'::text), array_agg(report), array_agg(violation), '2026-11-26')
             FROM reports";
        client.query_one(write, &[&told.to_string()]).await.unwrap();
    }
    let rows = "SELECT jsonb_build_object(
                    'sessions', (SELECT jsonb_agg(to_jsonb(s)) FROM client_sessions s),
                    'online', (SELECT jsonb_agg(jsonb_build_array(online, open_sessions)) FROM devices),
                    'state', (SELECT jsonb_agg(to_jsonb(s)) FROM device_state s))";
    client.query_one(rows, &[]).await.unwrap().get(0)
}

/// Everything to the row: cut times too, because all is noted at one time.
#[test]
fn any_order_repetition_and_split_of_wrong_timestamps_ends_in_the_same_rows() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_database, client) = runtime.block_on(async {
        let (database, client) = Database::migrated().await;
        let device = "INSERT INTO devices (name, kind) VALUES ('t', 'sensor')";
        client.batch_execute(device).await.unwrap();
        (database, client)
    });
    let histories = prop::collection::vec(told(), 1..8).prop_flat_map(|history| {
        let twice = history.iter().chain(&history).copied().collect::<Vec<_>>();
        let cuts = prop::collection::vec(0..=twice.len(), 3);
        (Just(history), Just(twice).prop_shuffle(), cuts)
    });
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&histories, |(history, shuffled, mut cuts)| {
            cuts.sort_unstable();
            let mut rest = shuffled.as_slice();
            let mut batches = Vec::new();
            for cut in cuts.into_iter().rev() {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                batches.push(tail.to_vec());
                rest = head;
            }
            batches.push(rest.to_vec());
            let one_by_one: Vec<_> = history.iter().map(|told| vec![*told]).collect();
            let expected = runtime.block_on(written(&client, &one_by_one));
            prop_assert_eq!(runtime.block_on(written(&client, &batches)), expected);
            Ok(())
        })
        .unwrap();
}
