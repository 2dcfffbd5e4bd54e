//! Whoever takes a right away, by whatever means: the session that had it ends, once.

use std::time::{Duration, Instant};

use fleetgate::config::Config;
use fleetgate::work::POLL;

use crate::support::app::{TestApp, config, eventually, login_body, start_with};
use crate::support::fake_emqx::{FakeEmqx, Mood};
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, connect, fresh_database};

async fn start() -> (FakeEmqx, TestApp, Fleet, TestDatabase) {
    let emqx = FakeEmqx::start().await;
    let api = emqx.settings();
    let (app, fleet, database) = start_with(|config| config.emqx.api = Some(api)).await;
    // Later clients are then kicked out for what a test does, not by the sweep at the start.
    eventually("the first sweep is over", || async {
        app.metric("fleetgate_sweep_duration_seconds_count").await == 1.0
    })
    .await;
    (emqx, app, fleet, database)
}

async fn nothing_waits(fleet: &Fleet) {
    eventually("nothing waits to be ended", || async {
        fleet.value::<i64>("SELECT count(*) FROM work_queue").await == 0
    })
    .await;
}

/// A change that ends the session of a marker device has gone through: all before it has, too.
async fn all_changes_are_through(emqx: &FakeEmqx, fleet: &Fleet) {
    fleet.device("marker").await.enabled("marker", false).await;
    emqx.deleted("marker").await;
    nothing_waits(fleet).await;
    fleet.sql("DELETE FROM devices WHERE name = 'marker'", &[]).await;
    nothing_waits(fleet).await;
}

const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Each takes something away from the device `t`.
const TAKES_AWAY: &[&str] = &[
    "UPDATE devices SET enabled = false WHERE name = 't'",
    "DELETE FROM devices WHERE name = 't'",
    "UPDATE devices SET name = 'u' WHERE name = 't'",
    "UPDATE devices SET client_id = 'v' WHERE name = 't'",
    "UPDATE devices SET kind = 'relay' WHERE name = 't'",
    "UPDATE device_credentials SET revoked_at = now() WHERE kind = 'secret'",
    "DELETE FROM device_credentials WHERE kind = 'secret'",
    "UPDATE device_credentials SET hash = $HASH WHERE kind = 'secret'",
    "UPDATE device_credentials SET expires_at = now() + interval '1 hour'",
    "UPDATE device_credentials SET not_before = now()",
    "INSERT INTO device_credentials (device_id, kind, common_name, certificate_required)
     SELECT id, 'certificate', 'cn', true FROM devices",
    "DELETE FROM topic_bindings",
    "UPDATE topic_bindings SET state_topic = 'other'",
    "UPDATE topic_bindings SET command_topic = NULL",
    "DELETE FROM device_capabilities",
    "DELETE FROM topic_grants",
    "UPDATE topic_grants SET topic_filter = 'y/#'",
    "TRUNCATE topic_grants",
    "TRUNCATE devices CASCADE",
];

/// None of these does.
const TAKES_NOTHING_AWAY: &[&str] = &[
    "UPDATE devices SET meta = '{\"a\": 1}', area = 'lab', online = true",
    "UPDATE devices SET enabled = enabled, name = name",
    "UPDATE device_credentials SET label = 'left'",
    "UPDATE device_credentials SET expires_at = NULL",
    "UPDATE device_credentials SET not_before = NULL",
    "INSERT INTO device_credentials (device_id, kind, hash) SELECT id, 'secret', $HASH FROM devices",
    "INSERT INTO device_credentials (device_id, kind, common_name, certificate_required)
     SELECT id, 'certificate', 'cn', false FROM devices",
    "INSERT INTO topic_grants (device_id, action, topic_filter)
     SELECT id, 'publish', 'new' FROM devices",
    "INSERT INTO topic_bindings (device_id, name, state_topic) SELECT id, 'main', 'm' FROM devices",
    "UPDATE topic_bindings SET state_topic = state_topic",
];

async fn device_with_everything(fleet: &Fleet) {
    fleet.device("t").await.secret("t").await;
    fleet
        .bind("t", "temperature", Some("s"), Some("c"))
        .await
        .grant("t", "subscribe", "x/#")
        .await
        .sql(
            "UPDATE device_credentials SET expires_at = now() + interval '1 day',
                    not_before = now() - interval '1 day'",
            &[],
        )
        .await;
}

async fn change(fleet: &Fleet, statement: &str) -> Instant {
    fleet.sql(&statement.replace("$HASH", &format!("'{HASH}'")), &[]).await;
    Instant::now()
}

#[tokio::test]
async fn every_right_taken_away_ends_the_session_once_and_at_once() {
    let (emqx, app, fleet, _database) = start().await;
    let mut delays = Vec::new();
    for (n, statement) in TAKES_AWAY.iter().cycle().take(TAKES_AWAY.len() * 6).enumerate() {
        fleet.sql("TRUNCATE devices CASCADE", &[]).await;
        nothing_waits(&fleet).await;
        device_with_everything(&fleet).await;
        nothing_waits(&fleet).await;
        emqx.connect("t", "t", 1_000 + i64::try_from(n).unwrap());
        emqx.forget_deletes();
        let committed = change(&fleet, statement).await;
        let kicked_out = emqx.deleted("t").await;
        delays.push(kicked_out.saturating_duration_since(committed));
        nothing_waits(&fleet).await;
        assert_eq!(emqx.deletes(), ["t"], "{statement}");
    }
    delays.sort();
    let (median, p99) = (delays[delays.len() / 2], delays[delays.len() * 99 / 100]);
    println!("from commit to DELETE: median {median:?}, p99 {p99:?}");
    // Without notices, the poll would find half of them later than this.
    assert!(median < POLL / 2, "{delays:?}");
    // Counted after the row is deleted.
    eventually("each is counted", || async {
        app.metric("fleetgate_kick_outs_total{outcome=\"disconnected\"}").await
            >= delays.len() as f64
            && app.metric("fleetgate_kick_out_delay_seconds_count").await >= delays.len() as f64
    })
    .await;
}

#[tokio::test]
async fn what_takes_nothing_away_ends_nothing() {
    let (emqx, _app, fleet, _database) = start().await;
    device_with_everything(&fleet).await;
    nothing_waits(&fleet).await;
    emqx.forget_deletes();
    for statement in TAKES_NOTHING_AWAY {
        change(&fleet, statement).await;
        let noted: i64 = fleet.value("SELECT count(*) FROM work_queue").await;
        assert_eq!(noted, 0, "{statement}");
    }
    all_changes_are_through(&emqx, &fleet).await;
    assert!(emqx.deletes().iter().all(|client_id| client_id == "marker"), "{:?}", emqx.deletes());
}

#[tokio::test]
async fn a_right_that_is_replaced_by_the_same_one_ends_nothing() {
    let (emqx, _app, fleet, _database) = start().await;
    device_with_everything(&fleet).await;
    nothing_waits(&fleet).await;
    emqx.forget_deletes();
    for statement in [
        "BEGIN",
        "DELETE FROM topic_grants",
        "INSERT INTO topic_grants (device_id, action, topic_filter)
         SELECT id, 'subscribe', 'x/#' FROM devices",
        "DELETE FROM topic_bindings",
        "INSERT INTO topic_bindings (device_id, name, state_topic, command_topic)
         SELECT id, 'main', 's', 'c' FROM devices",
        "COMMIT",
    ] {
        fleet.sql(statement, &[]).await;
    }
    all_changes_are_through(&emqx, &fleet).await;
    assert!(emqx.deletes().iter().all(|client_id| client_id == "marker"), "{:?}", emqx.deletes());
}

#[tokio::test]
async fn every_client_of_a_service_is_kicked_out() {
    let (emqx, _app, fleet, _database) = start().await;
    fleet.device_of_kind("board", "service").await;
    fleet
        .sql(
            "INSERT INTO client_sessions (client_id, device_id, connected_at, open)
             SELECT 'board:' || n, id, now(), true FROM devices, generate_series(1, 3) AS n",
            &[],
        )
        .await;
    fleet.sql("DELETE FROM devices", &[]).await;
    nothing_waits(&fleet).await;
    let mut deletes = emqx.deletes();
    deletes.sort();
    assert_eq!(deletes, ["board", "board%3A1", "board%3A2", "board%3A3"]);
}

#[tokio::test]
async fn a_hostile_client_id_reaches_only_its_own_session() {
    let (emqx, _app, fleet, _database) = start().await;
    let hostile = ["a b?c%2F\\\"", "gerät-\u{1f600}", "..", ".", "x&y=z;", "%2e%2e"];
    for client_id in hostile {
        emqx.connect(client_id, "t", 1);
        fleet
            .sql(
                "INSERT INTO work_queue (kind, key, payload) VALUES ('kick_out', $1, '{\"reason\": \"test\"}')",
                &[&client_id],
            )
            .await;
    }
    // The sweep finds client ids that are no names: EMQX takes any.
    emqx.connect("a/../../b+#", "t", 1);
    fleet
        .sql(
            "INSERT INTO work_queue (kind, key, payload) VALUES ('kick_out', 'a/../../b+#', '{\"reason\": \"test\"}')",
            &[],
        )
        .await;
    nothing_waits(&fleet).await;
    let mut deletes = emqx.deletes();
    deletes.sort();
    assert_eq!(
        deletes,
        [
            "%252e%252e",
            "a%20b%3Fc%252F%5C%22",
            "a%2F..%2F..%2Fb%2B%23",
            "ger%C3%A4t-%F0%9F%98%80",
            "x%26y%3Dz%3B",
        ]
    );
    let mut bulks = emqx.bulks().concat();
    bulks.sort();
    assert_eq!(bulks, [".", ".."], "in a path these would mean directories");
}

#[tokio::test]
async fn many_go_in_bulk() {
    let (emqx, app, fleet, _database) = start().await;
    fleet
        .sql(
            "INSERT INTO devices (name, kind) SELECT 'd' || n, 'sensor' FROM generate_series(1, 1200) n",
            &[],
        )
        .await;
    fleet.sql("UPDATE devices SET enabled = false", &[]).await;
    nothing_waits(&fleet).await;
    let kicked = emqx.bulks().concat();
    assert_eq!(kicked.len() + emqx.deletes().len(), 1200);
    assert!(emqx.bulks().len() < 30, "{}", emqx.bulks().len());
    // Counted after the rows are deleted.
    eventually("each is counted", || async {
        app.metric("fleetgate_kick_outs_total{outcome=\"in_bulk\"}").await == kicked.len() as f64
    })
    .await;
}

#[tokio::test]
async fn while_emqx_is_away_changes_wait_and_logins_do_not() {
    let (emqx, app, fleet, _database) = start().await;
    device_with_everything(&fleet).await;
    let secret = fleet.secret("t").await;
    emqx.go_away();
    fleet.sql("DELETE FROM topic_grants", &[]).await;
    for n in 0..20 {
        fleet.device(&format!("d{n}")).await.enabled(&format!("d{n}"), false).await;
    }
    eventually("EMQX is found away", || async {
        app.metric("fleetgate_emqx_api_failing").await == 1.0
    })
    .await;
    // EMQX comes back only below.
    assert_eq!(app.logs_in("t", &secret).await, "allow");
    let waiting = || fleet.value::<i64>("SELECT count(*) FROM work_queue");
    assert_eq!(waiting().await, 21);
    emqx.come_back().await;
    emqx.deleted("t").await;
    nothing_waits(&fleet).await;
    // Once, or once more where this replica was slow to hear of the change (docs/GUARANTEES.md).
    let mut deletes = emqx.deletes();
    assert!((21..=42).contains(&deletes.len()), "{deletes:?}");
    deletes.sort();
    deletes.dedup();
    assert_eq!(deletes.len(), 21);
    assert_eq!(app.metric("fleetgate_emqx_api_failing").await, 0.0);
}

#[tokio::test]
async fn whatever_ails_emqx_the_session_ends_in_the_end() {
    let (emqx, app, fleet, _database) = start().await;
    for (n, mood) in [Mood::ServerError, Mood::Closing, Mood::Silent].into_iter().enumerate() {
        emqx.set(mood);
        let name = format!("t{n}");
        fleet.device(&name).await.enabled(&name, false).await;
        eventually("EMQX is found away", || async {
            app.metric("fleetgate_emqx_api_failing").await == 1.0
        })
        .await;
        assert!(emqx.deletes().is_empty(), "{mood:?}");
        emqx.set(Mood::Well);
        emqx.deleted(&name).await;
        nothing_waits(&fleet).await;
        assert_eq!(emqx.deletes(), [name], "{mood:?}");
        emqx.forget_deletes();
    }
}

#[tokio::test]
async fn a_wrong_key_names_the_setting_and_loses_nothing() {
    let emqx = FakeEmqx::start().await;
    let mut api = emqx.settings();
    api.key = "somebody".to_owned();
    let (_app, fleet, _database) = start_with(|config| config.emqx.api = Some(api)).await;
    fleet.device("t").await.enabled("t", false).await;
    eventually("the failure is noted", || async {
        let why: Option<String> = fleet.value("SELECT max(last_error) FROM work_queue").await;
        why.is_some_and(|why| why.contains("emqx.api_key") && !why.contains("0123456789abcdef"))
    })
    .await;
    assert!(emqx.deletes().is_empty());
}

#[tokio::test]
async fn two_replicas_end_a_session_once() {
    let emqx = FakeEmqx::start().await;
    let database = fresh_database().await;
    let mut settings = config(&database.url);
    settings.emqx.api = Some(emqx.settings());
    let (a, b) = tokio::join!(TestApp::start(settings.clone()), TestApp::start(settings));
    tokio::join!(a.ready(), b.ready());
    let fleet = Fleet::connect(&database.url).await;
    for n in 0..100 {
        let name = format!("t{n}");
        fleet.device(&name).await.enabled(&name, false).await;
    }
    emqx.deleted("t99").await;
    nothing_waits(&fleet).await;
    let deletes = emqx.deletes();
    let mut distinct = deletes.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((deletes.len(), distinct.len()), (100, 100), "{deletes:?}");
}

#[tokio::test]
async fn a_change_while_emqx_is_called_ends_the_session_again() {
    let (emqx, _app, fleet, _database) = start().await;
    device_with_everything(&fleet).await;
    nothing_waits(&fleet).await;
    emqx.forget_deletes();
    let hold = emqx.hold_delete();
    fleet.sql("DELETE FROM topic_grants", &[]).await;
    hold.reached().await;
    fleet.sql("DELETE FROM topic_bindings", &[]).await;
    hold.release();
    nothing_waits(&fleet).await;
    assert_eq!(emqx.deletes(), ["t", "t"], "the first may have come before the second change");
}

#[tokio::test]
async fn a_client_id_that_emqx_refuses_waits_longer_and_longer_and_holds_up_nobody() {
    let (emqx, _app, fleet, _database) = start().await;
    emqx.refuse(Some("t"));
    fleet.device("t").await.enabled("t", false).await;
    let tried = async |often: i32| {
        eventually("it is tried again", || async {
            let attempts: Option<i32> = fleet
                .value("SELECT max(attempts) FROM work_queue WHERE last_error IS NOT NULL")
                .await;
            attempts.is_some_and(|attempts| attempts >= often)
        })
        .await;
        fleet
            .value::<f64>(
                "SELECT extract(epoch FROM due_at - clock_timestamp())::float8
                 FROM work_queue",
            )
            .await
    };
    tried(1).await;
    let why: String = fleet.value("SELECT last_error FROM work_queue").await;
    assert!(why.contains("injected"), "{why}");
    let later = tried(4).await;
    assert!(later > 1.0, "after four attempts it waits longer than after one: {later}");
    fleet.device("u").await.enabled("u", false).await;
    emqx.deleted("u").await;
    emqx.refuse(None);
    nothing_waits(&fleet).await;
}

#[tokio::test]
async fn what_waited_for_days_is_still_done() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    fleet
        .sql(
            "INSERT INTO work_queue (kind, key, payload, changed_at)
             SELECT 'kick_out', key, '{\"reason\": \"test\"}', changed_at
             FROM (VALUES ('last week', now() - interval '7 days'), ('today', now())) AS work (key, changed_at)",
            &[],
        )
        .await;
    let emqx = FakeEmqx::start().await;
    let mut settings = config(&database.url);
    settings.emqx.api = Some(emqx.settings());
    let _app = TestApp::start(settings).await;
    nothing_waits(&fleet).await;
    let mut deletes = emqx.deletes();
    deletes.sort();
    assert_eq!(deletes, ["last%20week", "today"]);
}

/// A client whose device lost a right an hour ago.
struct Lost {
    client_id: &'static str,
    /// When its session began and ended, in minutes from now.
    session: Option<(i32, Option<i32>)>,
    /// How many minutes ago the change was seen committed.
    seen: Option<i32>,
    /// Whether it was connected then, as far as known.
    was_open: Option<bool>,
    /// Whether the kick-out is no longer needed, even where EMQX is asked.
    over: bool,
    /// … where EMQX is not asked.
    over_by_events: bool,
    /// … and sessions last for ten minutes at most.
    over_by_age: bool,
}

/// With a bound of ten minutes.
fn losses() -> Vec<Lost> {
    let seen = Some(60);
    let lost = |client_id,
                session,
                seen,
                was_open,
                [over, over_by_events, over_by_age]: [bool; 3]| {
        Lost { client_id, session, seen, was_open, over, over_by_events, over_by_age }
    };
    let (never, always) = ([false; 3], [true; 3]);
    let (by_events, by_age) = ([false, true, true], [false, false, true]);
    vec![
        lost("open since before", Some((-120, None)), seen, Some(true), never),
        lost("ended before", Some((-120, Some(-90))), seen, Some(false), by_events),
        // Whoever came within the bound may have had the old right.
        lost("ended within the bound", Some((-120, Some(-55))), seen, Some(true), by_events),
        lost("ended", Some((-120, Some(-20))), seen, Some(true), always),
        lost("began after", Some((-20, None)), seen, Some(true), always),
        lost("began tomorrow by a wrong clock", Some((24 * 60, None)), seen, Some(true), never),
        // Its transaction ended just now, and what came before had the old right.
        lost("began before the commit", Some((-20, None)), None, Some(true), never),
        lost("ended before the commit", Some((-120, Some(-20))), Some(5), Some(true), never),
        lost("never seen", None, seen, None, by_events),
        lost("removed while connected", None, seen, Some(true), by_age),
        lost("removed just now", None, Some(5), Some(false), never),
    ]
}

async fn write_losses(fleet: &Fleet) {
    fleet.device("t").await;
    for lost in losses() {
        if let Some((began, ended)) = lost.session {
            fleet
                .sql(
                    "INSERT INTO client_sessions (client_id, device_id, connected_at, open, ended_at)
                     SELECT $1, id, now() + $2 * interval '1 minute', $3::float8 IS NULL,
                            now() + $3::float8 * interval '1 minute' FROM devices",
                    &[&lost.client_id, &f64::from(began), &ended.map(f64::from)],
                )
                .await;
        }
        fleet
            .sql(
                "INSERT INTO work_queue (kind, key, changed_at, seen_at, payload)
                 VALUES ('kick_out', $1, now() - interval '1 hour', now() - $2::float8 * interval '1 minute',
                         jsonb_strip_nulls(jsonb_build_object('reason', 'test', 'was_open', $3::boolean)))",
                &[&lost.client_id, &lost.seen.map(f64::from), &lost.was_open],
            )
            .await;
    }
}

/// Those that wait, once Fleetgate with these settings has dropped what is not needed, are all but `over`.
async fn only_these_are_over(change: impl FnOnce(&mut Config), over: impl Fn(&Lost) -> bool) {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    write_losses(&fleet).await;
    let mut settings = config(&database.url);
    change(&mut settings);
    let app = TestApp::start(settings).await;
    let (gone, waiting): (Vec<Lost>, Vec<Lost>) = losses().into_iter().partition(over);
    let count = |lost: &[Lost]| lost.len() as f64;
    // That is counted after what was dropped.
    eventually("those that wait are counted", || async {
        app.metric("fleetgate_work_waiting{kind=\"kick_out\"}").await == count(&waiting)
    })
    .await;
    let dropped = app.metric("fleetgate_kick_outs_total{outcome=\"ended_by_itself\"}").await;
    assert_eq!(dropped, count(&gone));
    let left = "SELECT array_agg(key ORDER BY key) FROM work_queue";
    let left: Vec<String> = fleet.value(left).await;
    let mut expected: Vec<&str> = waiting.iter().map(|lost| lost.client_id).collect();
    expected.sort_unstable();
    assert_eq!(left, expected);
    let unseen: i64 = fleet.value("SELECT count(*) FROM work_queue WHERE seen_at IS NULL").await;
    assert_eq!(unseen, 0, "each was seen");
}

#[tokio::test]
async fn without_emqx_a_kick_out_waits_until_its_session_has_ended_by_itself() {
    only_these_are_over(|_| {}, |lost| lost.over_by_events).await;
}

#[tokio::test]
async fn without_emqx_a_kick_out_waits_no_longer_than_a_session_lasts() {
    let ten_minutes = Some(Duration::from_secs(600));
    only_these_are_over(|config| config.emqx.max_session = ten_minutes, |lost| lost.over_by_age)
        .await;
}

#[tokio::test]
async fn while_emqx_does_not_answer_only_a_later_session_makes_a_kick_out_unneeded() {
    let emqx = FakeEmqx::start().await;
    emqx.set(Mood::Closing);
    let api = emqx.settings();
    only_these_are_over(|config| config.emqx.api = Some(api), |lost| lost.over).await;
}

#[tokio::test]
async fn a_change_is_seen_once_its_transaction_has_ended() {
    let (emqx, _app, fleet, database) = start().await;
    device_with_everything(&fleet).await;
    nothing_waits(&fleet).await;
    emqx.set(Mood::Closing);
    let other = connect(&database.url).await;
    let change = "UPDATE devices SET enabled = NOT enabled WHERE name = 't'";
    for _ in 0..2 {
        // The second time there is a row already, which was seen.
        other.batch_execute(&format!("BEGIN; {change}")).await.unwrap();
        let during: f64 = fleet.value("SELECT extract(epoch FROM clock_timestamp())::float8").await;
        other.batch_execute("COMMIT").await.unwrap();
        eventually("it is seen", || async {
            let seen = "SELECT max(extract(epoch FROM seen_at))::float8 FROM work_queue";
            fleet.value::<Option<f64>>(seen).await.is_some_and(|seen| seen > during)
        })
        .await;
        fleet.sql(&format!("{change} AND NOT enabled"), &[]).await;
    }
}

#[tokio::test]
async fn whoever_is_removed_while_connected_is_remembered_as_such() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("connected").await.device("ended").await.device("never seen").await;
    fleet
        .sql(
            "INSERT INTO client_sessions (client_id, device_id, connected_at, open, ended_at)
             SELECT name, id, now(), name = 'connected', CASE WHEN name = 'ended' THEN now() END
             FROM devices WHERE name <> 'never seen'",
            &[],
        )
        .await;
    fleet.sql("DELETE FROM devices", &[]).await;
    for (client_id, was_open) in
        [("connected", Some(true)), ("ended", Some(false)), ("never seen", None)]
    {
        let known = format!(
            "SELECT (payload ->> 'was_open')::boolean FROM work_queue WHERE key = '{client_id}'"
        );
        assert_eq!(fleet.value::<Option<bool>>(&known).await, was_open, "{client_id}");
    }
}

#[tokio::test]
async fn a_client_that_comes_back_at_once_meets_the_new_rights() {
    let (emqx, app, fleet, _database) = start().await;
    for round in 0..30 {
        let name = format!("t{round}");
        fleet.device(&name).await;
        let secret = fleet.secret(&name).await;
        eventually("it logs in", || async { app.logs_in(&name, &secret).await == "allow" }).await;
        fleet.revoke(&name).await;
        emqx.deleted(&name).await;
        assert!(!app.lets_in(&name, &secret).await, "round {round}");
    }
}

/// Until EMQX has opened the session of an answer, there is nothing that it could end.
#[tokio::test]
async fn an_answer_that_was_on_its_way_ends_too() {
    let (emqx, app, fleet, _database) = start().await;
    fleet.device_of_kind("service", "service").await;
    let service = fleet.secret("service").await;
    let mut secrets = Vec::new();
    for name in ["gone", "back"] {
        fleet.device(name).await.grant(name, "publish", "x").await;
        secrets.push(fleet.secret(name).await);
        eventually("it logs in", || app.lets_in(name, secrets.last().unwrap())).await;
    }
    let login = login_body("service:1", "service", &service, "").to_string();
    let let_in = || async { app.post("/emqx/authn", &login).await.result() == "allow" };
    eventually("the service logs in", let_in).await;
    fleet
        .batch(
            "UPDATE device_credentials SET revoked_at = now()
             WHERE device_id = (SELECT id FROM devices WHERE name = 'service');
             DELETE FROM topic_grants",
        )
        .await;
    for name in ["gone", "back", "service"] {
        emqx.deleted(name).await;
    }
    assert!(app.lets_in("back", &secrets[1]).await, "with the new rights");
    let deletes = || {
        let mut deletes = emqx.deletes();
        deletes.sort();
        deletes
    };
    let expected = ["back", "gone", "gone", "service", "service%3A1"];
    eventually("both are kicked out again", || async { deletes() == expected }).await;
    let kept = "SELECT count(*) FROM kick_outs_to_confirm";
    eventually("all is over", || async { fleet.value::<i64>(kept).await == 0 }).await;
    nothing_waits(&fleet).await;
    assert_eq!(deletes(), expected);
}

/// Whose row says for an hour that it may have let the client in.
#[tokio::test]
async fn an_answer_that_was_on_its_way_ends_also_while_a_replica_is_dead() {
    let (emqx, app, fleet, _database) = start().await;
    fleet
        .sql(
            "INSERT INTO replicas (id, started_at, noted_at, listening, heard_until, bound)
             VALUES ('died', now() - interval '1 day', now(), true, now(), '1 hour')",
            &[],
        )
        .await;
    fleet.device("t").await;
    let secret = fleet.secret("t").await;
    eventually("it logs in", || app.lets_in("t", &secret)).await;
    fleet.revoke("t").await;
    eventually("it is kicked out again", || async { emqx.deletes() == ["t", "t"] }).await;
}
