//! A right that is gone is gone everywhere within the bound, whatever fails.

use std::time::{Duration, Instant};

use fleetgate::cli::doctor::{Status, examine};
use fleetgate::clock::Clock;
use fleetgate::config::{Config, Sources};

use crate::support::app::{TestApp, config, eventually};
use crate::support::fleet::Fleet;
use crate::support::pgbouncer::Pgbouncer;
use crate::support::postgres::{fresh_database, socket_path};
use crate::support::proxy::{Proxy, Weather};

/// Longest time for which a record stands in.
const MAX_STALENESS: Duration = Duration::from_secs(1);
/// The bound of ARCHITECTURE, for these settings: that of a LISTEN that is silently dead.
const BOUND: Duration = Duration::from_secs(5);

fn settings(url: &str) -> Config {
    let mut settings = config(url);
    settings.cache.max_staleness = MAX_STALENESS;
    settings
}

/// A device `t` that may publish to `a`; returns its secret.
async fn device(fleet: &Fleet) -> String {
    fleet.device("t").await.bind("t", "main", Some("a"), None).await;
    fleet.secret("t").await
}

async fn listens(app: &TestApp, listens: bool) {
    let wanted = f64::from(u8::from(listens));
    let is_as_wanted = || async { app.metric("fleetgate_listen_up").await == wanted };
    eventually("LISTEN is as wanted", is_as_wanted).await;
}

/// From the bound after a change on, the device is never let in again, for a while of `watching`.
async fn is_refused_after_the_bound(
    app: &TestApp,
    secret: &str,
    changed: Instant,
    watching: Duration,
) {
    let mut asked_after = 0;
    while changed.elapsed() < BOUND + watching || asked_after == 0 {
        let asked = changed.elapsed();
        let login = app.login("t", secret).await;
        let action = app.action("t", "publish", "a").await;
        if asked > BOUND {
            asked_after += 1;
            for answer in [login, action] {
                assert!(!answer.body.contains("allow"), "after {asked:?}: {}", answer.body);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // why: requests of a device, not a busy loop
    }
}

/// Loads hang from now on, and end at their time-out, until the returned session is dropped.
async fn block_loads(url: &str) -> Fleet {
    let blocker = Fleet::connect(url).await;
    blocker.sql("BEGIN", &[]).await;
    blocker.sql("LOCK TABLE device_credentials IN ACCESS EXCLUSIVE MODE", &[]).await;
    blocker
}

#[tokio::test]
async fn a_missed_change_is_known_within_the_bound_although_loads_fail_when_listen_is_back() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let app = TestApp::start(settings(&proxy.url(&database.url))).await;
    app.ready().await;
    let fleet = Fleet::connect(&database.url).await;
    let secret = device(&fleet).await;
    eventually("it is let in", || async { app.logs_in("t", &secret).await == "allow" }).await;
    proxy.set(Weather::Refusing);
    proxy.cut();
    listens(&app, false).await;
    fleet.enabled("t", false).await;
    let changed = Instant::now();
    let blocker = block_loads(&database.url).await;
    proxy.set(Weather::Delay(Duration::ZERO));
    listens(&app, true).await;
    is_refused_after_the_bound(&app, &secret, changed, Duration::from_secs(3)).await;
    let ready = app.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.body);
    for said in ["\"listening\":true", "\"loading\":false", "\"standing_in\":false", "loaded"] {
        assert!(ready.body.contains(said), "{}", ready.body);
    }
    drop(blocker);
    app.ready().await;
    assert_eq!(app.logs_in("t", &secret).await, "deny");
}

#[tokio::test]
async fn a_listen_that_comes_and_goes_vouches_for_nothing_loaded_before() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let app = TestApp::start(settings(&proxy.url(&database.url))).await;
    app.ready().await;
    let fleet = Fleet::connect(&database.url).await;
    let secret = device(&fleet).await;
    eventually("it is let in", || async { app.logs_in("t", &secret).await == "allow" }).await;
    proxy.set(Weather::Refusing);
    proxy.cut();
    listens(&app, false).await;
    fleet.enabled("t", false).await;
    let changed = Instant::now();
    let _blocker = block_loads(&database.url).await;
    let flapping = async {
        while changed.elapsed() < BOUND + Duration::from_secs(2) {
            proxy.set(Weather::Delay(Duration::ZERO));
            tokio::time::sleep(Duration::from_millis(400)).await; // why: LISTEN comes back meanwhile
            proxy.set(Weather::Refusing);
            proxy.cut();
        }
    };
    let watching = is_refused_after_the_bound(&app, &secret, changed, Duration::from_secs(2));
    tokio::join!(flapping, watching);
}

#[tokio::test]
async fn a_role_without_connections_left_lets_nobody_in_whose_right_is_gone() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    let role: String = fleet.value("SELECT current_database() || '_limited'").await;
    fleet.sql(&format!("CREATE ROLE {role} LOGIN"), &[]).await;
    fleet.sql(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"), &[]).await;
    let url = database.url.replace("user=fleetgate", &format!("user={role}"));
    let app = TestApp::start(settings(&url)).await;
    app.ready().await;
    let secret = device(&fleet).await;
    eventually("it is let in", || async { app.logs_in("t", &secret).await == "allow" }).await;
    let limit = async |connections: u32| {
        fleet.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT {connections}"), &[]).await;
    };
    limit(0).await;
    fleet
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", &[&role])
        .await;
    listens(&app, false).await;
    fleet.enabled("t", false).await;
    let changed = Instant::now();
    // Enough to listen again at one time or another, too few for loads as well.
    limit(2).await;
    is_refused_after_the_bound(&app, &secret, changed, Duration::from_secs(3)).await;
    limit(100).await;
    app.ready().await;
    assert_eq!(app.logs_in("t", &secret).await, "deny");
}

#[tokio::test]
async fn a_pooler_that_loses_notices_is_no_way_to_listen() {
    let database = fresh_database().await;
    let pooler = pgbouncer("transaction").await;
    let app = TestApp::start(config(&pooler.url(&database.url))).await;
    let fleet = Fleet::connect(&database.url).await;
    let secret = device(&fleet).await;
    let says = || async {
        let ready = app.get("/readyz").await;
        ready.body.contains("\"listening\":false")
            && ready.body.contains("pooler in transaction mode")
    };
    eventually("it says what is wrong", says).await;
    // In this mode a prepared statement may meet a server that does not know it: a 503 now and then.
    let let_in = || async { app.login("t", &secret).await.body.contains("allow") };
    eventually("it is let in", let_in).await;
    fleet.enabled("t", false).await;
    for _ in 0..50 {
        assert!(!app.login("t", &secret).await.body.contains("allow"));
    }
    assert_eq!(app.metric("fleetgate_listen_up").await, 0.0);
}

#[tokio::test]
async fn behind_a_pooler_in_session_mode_changes_are_heard() {
    let database = fresh_database().await;
    let pooler = pgbouncer("session").await;
    let app = TestApp::start(settings(&pooler.url(&database.url))).await;
    app.ready().await;
    let fleet = Fleet::connect(&database.url).await;
    let secret = device(&fleet).await;
    eventually("it is let in", || async { app.logs_in("t", &secret).await == "allow" }).await;
    let heard = app.metric("fleetgate_listen_changes_total").await;
    fleet.enabled("t", false).await;
    app.hears(heard + 1.0).await;
    assert_eq!(app.logs_in("t", &secret).await, "deny");
}

/// PgBouncer in a pool mode, told to pass over the start-up parameters that Fleetgate sends.
async fn pgbouncer(pool_mode: &str) -> Pgbouncer {
    let settings = [("pool_mode", pool_mode), ("ignore_startup_parameters", "options")];
    Pgbouncer::start(&socket_path().await, &["fleetgate"], &settings).await
}

#[tokio::test]
async fn doctor_finds_a_pooler_that_loses_notices() {
    let database = fresh_database().await;
    for (pool_mode, expected) in [("session", Status::Ok), ("transaction", Status::Failure)] {
        let pooler = pgbouncer(pool_mode).await;
        let environment = [
            ("FLEETGATE_DATABASE_URL", pooler.url(&database.url)),
            ("FLEETGATE_EMQX_WEBHOOK_TOKEN", "0123456789abcdef".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        let sources = Sources { file: None, environment: environment.into() };
        let report = examine(&sources, &Clock::System).await;
        let finding = report.findings.iter().find(|found| found.check == "listen and notify");
        assert_eq!(finding.map(|finding| finding.status), Some(expected), "{pool_mode}: {report}");
    }
}
