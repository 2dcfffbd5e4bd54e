//! PostgreSQL stopped, restarted, slow, silent; the LISTEN connection killed.

use std::time::{Duration, Instant};

use crate::support::app::{TestApp, config, eventually, start, start_with};
use crate::support::fleet::Fleet;
use crate::support::postgres::{fresh_database, new_database, new_server, socket_path};
use crate::support::proxy::{Proxy, Weather};

/// A device `t` with a secret that may publish to `a`, in the service's memory once every notice of
/// its making has been heard.
async fn known_device(app: &TestApp, fleet: &Fleet) -> String {
    fleet.device("t").await.bind("t", "main", Some("a"), None).await;
    let secret = fleet.secret("t").await;
    app.hears(3.0).await;
    assert_eq!(app.logs_in("t", &secret).await, "allow");
    secret
}

#[tokio::test]
async fn while_postgres_is_stopped_known_devices_keep_working() {
    let mut postgres = new_server().await;
    let database = new_database(&postgres).await;
    let app = TestApp::start(config(&database.url)).await;
    app.ready().await;
    let secret = known_device(&app, &Fleet::connect(&database.url).await).await;
    postgres.kill().unwrap();
    eventually("the loss is noticed", || async { app.metric("fleetgate_listen_up").await == 0.0 })
        .await;
    assert_eq!(app.logs_in("t", &secret).await, "allow");
    assert_eq!(app.logs_in("t", "wrong").await, "deny");
    assert_eq!(app.publishes("t", "a").await, "allow");
    assert_eq!(app.login("stranger", "x").await.status, 503);
    assert_eq!(app.action("stranger", "publish", "a").await.status, 503);
    let ready = app.get("/readyz").await;
    assert_eq!((ready.status, ready.body.contains("\"serving_stale\":true")), (200, true));
    postgres.restart().unwrap();
    eventually("it listens again", || async { app.metric("fleetgate_listen_up").await == 1.0 })
        .await;
    assert_eq!(app.logs_in("stranger", "x").await, "deny");
    Fleet::connect(&database.url).await.enabled("t", false).await;
    eventually("changes are heard again", || async { app.logs_in("t", &secret).await == "deny" })
        .await;
}

#[tokio::test]
async fn a_change_missed_while_deaf_is_seen_after_recovery() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let app = TestApp::start(config(&proxy.url(&database.url))).await;
    app.ready().await;
    let fleet = Fleet::connect(&database.url).await;
    known_device(&app, &fleet).await;
    proxy.set(Weather::Refusing);
    proxy.cut();
    eventually("away", || async { app.metric("fleetgate_listen_up").await == 0.0 }).await;
    fleet.enabled("t", false).await;
    assert_eq!(app.publishes("t", "a").await, "allow", "nobody could know");
    proxy.set(Weather::Delay(Duration::ZERO));
    eventually("back", || async { app.metric("fleetgate_listen_up").await == 1.0 }).await;
    assert_eq!(
        app.publishes("t", "a").await,
        "deny",
        "records that are no longer trusted are asked for again"
    );
}

#[tokio::test]
async fn records_stand_in_for_a_bounded_time_only() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let mut settings = config(&proxy.url(&database.url));
    settings.cache.max_staleness = Duration::from_secs(2);
    let app = TestApp::start(settings).await;
    app.ready().await;
    known_device(&app, &Fleet::connect(&database.url).await).await;
    proxy.set(Weather::Refusing);
    proxy.cut();
    eventually("the bound is over", || async {
        app.action("t", "publish", "a").await.status == 503
    })
    .await;
    assert_eq!(app.get("/readyz").await.status, 503);
}

#[tokio::test]
async fn a_killed_listen_connection_comes_back_by_itself() {
    let (app, fleet, _database) = start().await;
    known_device(&app, &fleet).await;
    let killed: i64 = fleet
        .value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    assert!(killed >= 1);
    fleet.enabled("t", false).await;
    eventually("the change is seen", || async { app.publishes("t", "a").await == "deny" }).await;
    eventually("the loss is counted", || async {
        app.metric("fleetgate_listen_losses_total").await >= 1.0
            && app.metric("fleetgate_listen_up").await == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_silent_network_is_noticed_and_answered_in_time() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let app = TestApp::start(config(&proxy.url(&database.url))).await;
    app.ready().await;
    known_device(&app, &Fleet::connect(&database.url).await).await;
    proxy.set(Weather::Frozen);
    eventually("the silence is noticed", || async {
        app.metric("fleetgate_listen_up").await == 0.0
    })
    .await;
    let began = Instant::now();
    assert_eq!(app.publishes("t", "a").await, "allow");
    assert_eq!(app.action("stranger", "publish", "a").await.status, 503);
    assert!(began.elapsed() < Duration::from_secs(5), "EMQX gives up after 5 s");
    proxy.set(Weather::Delay(Duration::ZERO));
    eventually("it listens again", || async { app.metric("fleetgate_listen_up").await == 1.0 })
        .await;
    assert_eq!(app.publishes("stranger", "a").await, "deny");
}

#[tokio::test]
async fn a_slow_database_slows_only_what_is_not_known() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let app = TestApp::start(config(&proxy.url(&database.url))).await;
    app.ready().await;
    let fleet = Fleet::connect(&database.url).await;
    known_device(&app, &fleet).await;
    proxy.set(Weather::Delay(Duration::from_millis(150)));
    let loads = || async { app.metric("fleetgate_cache_load_duration_seconds_count").await };
    let loaded = loads().await;
    assert_eq!(app.publishes("t", "a").await, "allow");
    assert_eq!(loads().await, loaded, "answered from memory");
    fleet.device("new").await.bind("new", "main", Some("n"), None).await;
    assert_eq!(app.publishes("new", "n").await, "allow");
    fleet.enabled("t", false).await;
    eventually("a change comes through", || async { app.publishes("t", "a").await == "deny" })
        .await;
}

#[tokio::test]
async fn the_service_starts_before_its_database() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    proxy.set(Weather::Refusing);
    let app = TestApp::start(config(&proxy.url(&database.url))).await;
    assert_eq!(app.get("/healthz").await.status, 200);
    assert_eq!(app.get("/readyz").await.status, 503);
    assert_eq!(app.login("t", "x").await.status, 503);
    proxy.set(Weather::Delay(Duration::ZERO));
    app.ready().await;
    assert_eq!(app.logs_in("t", "x").await, "deny");
}

#[tokio::test]
async fn a_device_that_only_exists_in_memory_is_not_revived_by_an_outage() {
    let (app, fleet, _database) = start_with(|config| config.cache.devices = 10).await;
    known_device(&app, &fleet).await;
    fleet.sql("DELETE FROM devices", &[]).await;
    eventually("gone", || async { app.publishes("t", "a").await == "deny" }).await;
    fleet
        .value::<i64>(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    // It is refused, or cannot be decided while connections are made anew.
    let answer = app.action("t", "publish", "a").await;
    assert!(answer.status == 503 || answer.result() == "deny", "{}", answer.body);
    eventually("it is refused", || async {
        let answer = app.action("t", "publish", "a").await;
        assert!(answer.status == 503 || answer.result() == "deny", "{}", answer.body);
        answer.status == 200
    })
    .await;
}
