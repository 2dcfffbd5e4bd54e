//! A right that is gone is gone everywhere within the bound, whatever fails.

use std::time::{Duration, Instant};

use fleetgate::cli::doctor::{Status, examine};
use fleetgate::clock::Clock;
use fleetgate::config::{Config, Sources};

use crate::support::app::{TestApp, config, eventually};
use crate::support::fake_emqx::FakeEmqx;
use crate::support::fleet::Fleet;
use crate::support::pgbouncer::Pgbouncer;
use crate::support::postgres::{OWNER, SERVING_ROLE, fresh_database, socket_path};
use crate::support::proxy::{Proxy, Weather};

/// Longest time for which a record stands in.
const MAX_STALENESS: Duration = Duration::from_secs(1);
/// The bound of docs/GUARANTEES.md, for these settings: that of a LISTEN that is silently dead.
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
    for said in ["\"listening\":true", "\"loading\":false", "\"serving_stale\":false", "loaded"] {
        assert!(ready.body.contains(said), "{}", ready.body);
    }
    drop(blocker);
    app.ready().await;
    assert_eq!(app.logs_in("t", &secret).await, "deny");
}

/// The same over two replicas, which both lose LISTEN and loads; then LISTEN comes back and loads still fail.
#[tokio::test]
async fn two_replicas_without_listen_and_loads_let_nobody_in_after_the_bound() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let url = proxy.url(&database.url);
    let (one, other) = tokio::join!(TestApp::start(settings(&url)), TestApp::start(settings(&url)));
    tokio::join!(one.ready(), other.ready());
    let fleet = Fleet::connect(&database.url).await;
    let secret = device(&fleet).await;
    for app in [&one, &other] {
        eventually("it is let in", || async { app.logs_in("t", &secret).await == "allow" }).await;
    }
    proxy.set(Weather::Refusing);
    proxy.cut();
    tokio::join!(listens(&one, false), listens(&other, false));
    fleet.enabled("t", false).await;
    let changed = Instant::now();
    let refused = |app| is_refused_after_the_bound(app, &secret, changed, Duration::from_secs(1));
    tokio::join!(refused(&one), refused(&other));
    // LISTEN is back, and loads fail.
    let blocker = block_loads(&database.url).await;
    proxy.set(Weather::Delay(Duration::ZERO));
    tokio::join!(listens(&one, true), listens(&other, true));
    tokio::join!(refused(&one), refused(&other));
    drop(blocker);
    tokio::join!(one.ready(), other.ready());
    for app in [&one, &other] {
        assert_eq!(app.logs_in("t", &secret).await, "deny");
    }
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
    fleet.sql(&format!("GRANT {SERVING_ROLE} TO {role}"), &[]).await;
    let url = database.url.replace(&format!("user={SERVING_ROLE} "), &format!("user={role} "));
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
    Pgbouncer::start(&socket_path().await, &[OWNER, SERVING_ROLE], &settings).await
}

/// Two replicas with an EMQX, the second one behind a proxy.
async fn two_replicas(proxy: &Proxy, url: &str) -> (FakeEmqx, TestApp, TestApp) {
    let emqx = FakeEmqx::start().await;
    let (mut near, mut far) = (settings(url), settings(&proxy.url(url)));
    for replica in [&mut near, &mut far] {
        replica.emqx.api = Some(emqx.settings());
    }
    let (near, far) = tokio::join!(TestApp::start(near), TestApp::start(far));
    tokio::join!(near.ready(), far.ready());
    (emqx, near, far)
}

/// Both replicas have told by now that they listen, and nothing they may have missed is of interest.
async fn replicas_have_told(fleet: &Fleet) {
    let told = || async {
        fleet
            .value::<i64>(
                "SELECT count(*) FROM replicas WHERE listening AND heard_until > gap_until",
            )
            .await
            == 2
    };
    eventually("both replicas have told what they heard", told).await;
}

async fn nothing_is_unconfirmed(fleet: &Fleet) {
    let none = || async {
        let open = "SELECT (SELECT count(*) FROM kick_outs_to_confirm) + (SELECT count(*) FROM work_queue)";
        fleet.value::<i64>(open).await == 0
    };
    eventually("every kick-out is confirmed", none).await;
}

#[tokio::test]
async fn replicas_in_good_order_end_a_session_once() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let (emqx, near, far) = two_replicas(&proxy, &database.url).await;
    let fleet = Fleet::connect(&database.url).await;
    replicas_have_told(&fleet).await;
    for name in ["t", "u", "v"] {
        fleet.device(name).await.enabled(name, false).await;
        emqx.deleted(name).await;
    }
    nothing_is_unconfirmed(&fleet).await;
    assert_eq!(emqx.deletes(), ["t", "u", "v"]);
    near.stop().unwrap();
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM replicas").await, 1);
    drop(far);
}

#[tokio::test]
async fn a_device_that_came_back_through_a_replica_that_lagged_is_kicked_out_again() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let (emqx, near, far) = two_replicas(&proxy, &database.url).await;
    let fleet = Fleet::connect(&database.url).await;
    let secret = device(&fleet).await;
    // The near one would kick it out again because of its own answer.
    eventually("it is let in", || async { far.logs_in("t", &secret).await == "allow" }).await;
    replicas_have_told(&fleet).await;
    // Silently: the far replica takes itself for one that listens.
    proxy.set(Weather::Frozen);
    emqx.connect("t", "t", 1_000);
    fleet.enabled("t", false).await;
    let changed = Instant::now();
    emqx.deleted("t").await;
    assert_eq!(far.logs_in("t", &secret).await, "allow", "nobody could know");
    emqx.connect("t", "t", 2_000);
    eventually("it is kicked out again", || async { emqx.deletes() == ["t", "t"] }).await;
    assert!(
        changed.elapsed() >= BOUND,
        "not before the far replica knows: {:?}",
        changed.elapsed()
    );
    is_refused_after_the_bound(&far, &secret, changed, Duration::ZERO).await;
    proxy.set(Weather::Delay(Duration::ZERO));
    far.ready().await;
    nothing_is_unconfirmed(&fleet).await;
    assert_eq!(emqx.deletes(), ["t", "t"], "twice and no more");
    assert_eq!(far.logs_in("t", &secret).await, "deny");
    let repeated = "fleetgate_kick_outs_total{outcome=\"repeated\"}";
    assert_eq!(near.metric(repeated).await, 1.0);
}

#[tokio::test]
async fn a_replica_that_died_counts_as_one_that_hears_nothing() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    fleet
        .sql(
            "INSERT INTO replicas (id, started_at, noted_at, listening, heard_until, bound) VALUES
                 ('died just now', now() - interval '1 day', now(), true, now(), '1 s'),
                 ('died long ago', now() - interval '1 day', now() - interval '30 s', true,
                  now() - interval '30 s', '1 s'),
                 ('is forgotten', now() - interval '1 day', now() - interval '63 s', false, NULL, '1 s')",
            &[],
        )
        .await;
    let emqx = FakeEmqx::start().await;
    let mut settings = settings(&database.url);
    settings.emqx.api = Some(emqx.settings());
    let app = TestApp::start(settings).await;
    app.ready().await;
    fleet.device("t").await.enabled("t", false).await;
    eventually("it is kicked out twice", || async { emqx.deletes() == ["t", "t"] }).await;
    nothing_is_unconfirmed(&fleet).await;
    let known: i64 =
        fleet.value("SELECT count(*) FROM replicas WHERE id LIKE '%d%'AND id LIKE '% %'").await;
    assert_eq!(known, 2);
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
        let sources = Sources { file: None, environment: environment.into(), ..Sources::default() };
        let report = examine(&sources, &Clock::System).await;
        let finding = report.findings.iter().find(|found| found.check == "listen and notify");
        assert_eq!(finding.map(|finding| finding.status), Some(expected), "{pool_mode}: {report}");
    }
}
