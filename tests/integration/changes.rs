//! A change in PostgreSQL is in force on every replica at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::app::{TestApp, config, eventually, start, start_with};
use crate::support::fleet::Fleet;
use crate::support::postgres::empty_database;

#[tokio::test]
async fn every_kind_of_change_is_seen() {
    let (app, fleet, _database) = start().await;
    let sees =
        |what: &'static str, expected: &'static str, action: &'static str, topic: &'static str| {
            let app = &app;
            async move {
                eventually(what, || async {
                    app.action("t", action, topic).await.result() == expected
                })
                .await;
            }
        };
    assert_eq!(app.publishes("t", "a").await, "deny", "the name is known to be unknown");
    fleet.device("t").await.bind("t", "main", Some("a"), Some("b")).await;
    sees("a new device", "allow", "publish", "a").await;
    fleet.sql("UPDATE topic_bindings SET state_topic = 'c'", &[]).await;
    sees("a changed binding", "deny", "publish", "a").await;
    fleet.grant("t", "subscribe", "x/#").await;
    sees("a grant", "allow", "subscribe", "x/y").await;
    fleet.sql("DELETE FROM topic_grants", &[]).await;
    sees("a grant taken away", "deny", "subscribe", "x/y").await;
    fleet.enabled("t", false).await;
    sees("a disabled device", "deny", "publish", "c").await;
    fleet.enabled("t", true).await;
    sees("an enabled device", "allow", "publish", "c").await;
    fleet.sql("UPDATE devices SET name = 'u'", &[]).await;
    sees("a renamed device", "deny", "publish", "c").await;
    assert_eq!(app.publishes("u", "c").await, "allow");
    fleet.sql("UPDATE devices SET name = 't'", &[]).await;
    sees("the name back", "allow", "publish", "c").await;
    fleet.sql("TRUNCATE devices CASCADE", &[]).await;
    sees("an emptied registry", "deny", "publish", "c").await;
}

#[tokio::test]
async fn presence_does_not_disturb_the_cache() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "main", Some("a"), None).await;
    app.hears(2.0).await;
    let changes = app.metric("fleetgate_listen_changes_total").await;
    fleet.sql("UPDATE devices SET online = true, meta = '{\"a\":1}'", &[]).await;
    fleet
        .sql("INSERT INTO device_state (device_id, last_seen) SELECT id, now() FROM devices", &[])
        .await;
    fleet.device("later").await;
    eventually("a later change is heard", || async {
        app.metric("fleetgate_listen_changes_total").await > changes
    })
    .await;
    assert_eq!(app.metric("fleetgate_listen_changes_total").await, changes + 1.0);
}

#[tokio::test]
async fn two_replicas_start_on_an_empty_database_and_see_each_change() {
    let database = empty_database().await;
    let settings = config(&database.url);
    let (a, b) = tokio::join!(TestApp::start(settings.clone()), TestApp::start(settings));
    tokio::join!(a.ready(), b.ready());
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("t").await.bind("t", "main", Some("a"), None).await;
    for round in 0..200 {
        let enabled = round % 2 == 1;
        let expected = if enabled { "allow" } else { "deny" };
        fleet.enabled("t", enabled).await;
        for replica in [&a, &b] {
            eventually("each replica sees the change", || async {
                replica.publishes("t", "a").await == expected
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_revoked_credential_never_logs_in_again() {
    // As many places as there are logins at a time: each is to be decided.
    let (app, fleet, _database) = start_with(|config| config.hashing.queue = 64).await;
    let app = Arc::new(app);
    for kind in ["secret", "password"] {
        fleet.device(kind).await;
        let word = match kind {
            "secret" => fleet.secret(kind).await,
            _ => {
                fleet.password(kind, "correct horse").await;
                "correct horse".to_owned()
            }
        };
        eventually("it logs in", || async { app.logs_in(kind, &word).await == "allow" }).await;
        let revoked = Arc::new(AtomicBool::new(false));
        let logins: Vec<_> = (0..8)
            .map(|_| {
                let (app, word, revoked) = (app.clone(), word.clone(), revoked.clone());
                tokio::spawn(async move {
                    let mut late = 0;
                    while late < 20 {
                        let known_revoked = revoked.load(Ordering::SeqCst);
                        let allowed = app.lets_in(kind, &word).await;
                        assert!(!known_revoked || !allowed, "{kind}: a revoked login");
                        late += usize::from(known_revoked);
                    }
                })
            })
            .collect();
        fleet.revoke(kind).await;
        eventually("the revocation is heard", || async {
            let answer = app.login(kind, &word).await;
            answer.status == 200 && answer.result() == "deny"
        })
        .await;
        revoked.store(true, Ordering::SeqCst);
        for login in logins {
            login.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_crowd_asking_for_one_device_costs_one_query() {
    let (app, fleet, _database) = start().await;
    let app = Arc::new(app);
    fleet.device("t").await.bind("t", "main", Some("a"), None).await;
    app.hears(2.0).await;
    let loads = "fleetgate_cache_load_duration_seconds_count";
    let before = app.metric(loads).await;
    let lock = fleet.sql("BEGIN", &[]).await;
    assert_eq!(lock, 0);
    fleet.sql("LOCK TABLE devices IN ACCESS EXCLUSIVE MODE", &[]).await;
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { app.publishes("t", "a").await })
        })
        .collect();
    eventually("everybody waits", || async {
        app.metric("fleetgate_cache_misses_total").await >= 50.0
    })
    .await;
    fleet.sql("COMMIT", &[]).await;
    for asker in crowd {
        assert_eq!(asker.await.unwrap(), "allow");
    }
    assert_eq!(app.metric(loads).await - before, 1.0);
}

#[tokio::test]
async fn made_up_names_are_bounded_and_push_nobody_out() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await.bind("t", "main", Some("a"), None).await;
    app.hears(2.0).await;
    assert_eq!(app.publishes("t", "a").await, "allow");
    let mut connection = app.connect().await;
    for n in 0..500 {
        let body = crate::support::app::action_body(&format!("ghost-{n}"), "publish", "a");
        let request = crate::support::wire::post(
            "/emqx/authz",
            crate::support::app::TOKEN,
            &body.to_string(),
        );
        assert_eq!(connection.exchange(&request).await.result(), "deny");
    }
    assert!(app.metric("fleetgate_cache_entries{kind=\"unknown\"}").await <= 100.0);
    assert_eq!(app.metric("fleetgate_cache_entries{kind=\"known\"}").await, 1.0);
    let hits = app.metric("fleetgate_cache_hits_total").await;
    assert_eq!(app.publishes("t", "a").await, "allow");
    assert_eq!(app.metric("fleetgate_cache_hits_total").await, hits + 1.0);
}
