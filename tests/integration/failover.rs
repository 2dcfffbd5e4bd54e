//! Several hosts in `database.url`: silent, refusing, frozen, demoted; and what becomes of acknowledged events.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use fleetgate::registry::connection::Target;
use fleetgate::registry::migrate::migrate;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::{TestApp, config, eventually, within};
use crate::support::bus::{message, state};
use crate::support::cluster::{Cluster, SUPERUSER};
use crate::support::fleet::Fleet;
use crate::support::postgres::{connect, fresh_database, socket_path};
use crate::support::proxy::{Proxy, Weather};

/// One host's time in these tests.
const LIMIT: Duration = Duration::from_secs(1);
/// What a busy machine may add to a time that is asserted.
const BUSY: Duration = Duration::from_secs(4);

/// A socket that the kernel accepts connections for, and nobody answers them.
fn silent() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// A port that nobody listens on.
fn refusing() -> u16 {
    port_of(&silent())
}

/// The keywords of a URL but where the server is, behind two hosts.
fn behind(first_port: u16, second_port: u16, rest: &str) -> String {
    let kept =
        rest.split_whitespace().filter(|w| !w.starts_with("host=") && !w.starts_with("port="));
    let kept = kept.collect::<Vec<_>>().join(" ");
    format!("host=127.0.0.1,127.0.0.1 port={first_port},{second_port} {kept}")
}

/// Opens a connection, and another one that does not ask a silent server once more.
async fn opens_within_its_time(url: &str, silent: Option<&Proxy>) {
    let mut settings = config(url).database;
    settings.connect_timeout = LIMIT;
    let target = Target::new(&settings).unwrap();
    let began = Instant::now();
    let (client, _) = target.open(None).await.unwrap();
    client.query_one("SELECT 1", &[]).await.unwrap();
    assert!(began.elapsed() < LIMIT * 2 + Duration::from_secs(1) + BUSY, "{:?}", began.elapsed());
    // All that use the target begin with the server that answered.
    let asked = silent.map(Proxy::opened);
    target.clone().for_background().open_guarded().await.unwrap();
    assert_eq!(silent.map(Proxy::opened), asked, "the silent server is not asked once more");
}

#[tokio::test]
async fn a_host_that_refuses_or_is_silent_leads_to_the_next() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let good = proxy.port();
    let silent = Proxy::start(socket_path().await).await;
    silent.set(Weather::Frozen);
    opens_within_its_time(&behind(refusing(), good, &database.url), None).await;
    let read_write = format!("{} target_session_attrs=read-write", database.url);
    for rest in [&database.url, &read_write] {
        opens_within_its_time(&behind(silent.port(), good, rest), Some(&silent)).await;
    }
    assert_eq!(silent.opened(), 2);
}

#[tokio::test]
async fn a_service_with_a_silent_first_host_gets_ready_and_answers() {
    let database = fresh_database().await;
    let proxy = Proxy::start(socket_path().await).await;
    let silent = silent();
    let mut settings = config(&behind(port_of(&silent), proxy.port(), &database.url));
    settings.database.connect_timeout = LIMIT;
    // Shorter than the first host's time: a pool that waited for that host would never answer.
    settings.database.query_timeout = LIMIT / 2;
    let app = TestApp::start(settings).await;
    app.ready().await;
    let fleet = Fleet::connect(&database.url).await;
    let secret = fleet.device("t").await.secret("t").await;
    eventually("it logs in", || async { app.login("t", &secret).await.status == 200 }).await;
}

/// A primary of before that wakes up while somebody still waits for it: the promoted one stays in use.
#[tokio::test]
async fn whoever_waited_for_a_server_that_others_left_follows_them() {
    let database = fresh_database().await;
    let (old, new) =
        (Proxy::start(socket_path().await).await, Proxy::start(socket_path().await).await);
    let mut settings = config(&behind(old.port(), new.port(), &database.url)).database;
    settings.connect_timeout = Duration::from_secs(30);
    let target = Target::new(&settings).unwrap();
    old.set(Weather::Frozen);
    let waits = target.clone();
    let waits = tokio::spawn(async move { waits.open(None).await.unwrap() });
    eventually("one waits for the old server", || async { old.opened() == 1 }).await;
    target.leave();
    let _moved = target.open(None).await.unwrap();
    assert_eq!(new.opened(), 1);
    old.set(Weather::Delay(Duration::ZERO));
    let (client, _) = waits.await.unwrap();
    client.query_one("SELECT 1", &[]).await.unwrap();
    assert_eq!((old.opened(), new.opened()), (1, 2), "it has followed");
    let _next = target.open(None).await.unwrap();
    assert_eq!((old.opened(), new.opened()), (1, 3), "and nobody goes back");
}

#[tokio::test]
async fn where_no_host_can_be_used_each_is_named() {
    let silent = silent();
    let (first, second) = (refusing(), port_of(&silent));
    let mut settings = config(&behind(first, second, "user=x dbname=y")).database;
    settings.connect_timeout = Duration::from_millis(200);
    let error = Target::new(&settings).unwrap().open(None).await.err().unwrap();
    assert!(error.is_unreachable());
    let text = error.to_string();
    assert!(text.contains(&format!("nothing listens at 127.0.0.1:{first}")), "{text}");
    assert!(text.contains(&format!("no answer from 127.0.0.1:{second} within 200ms")), "{text}");
}

/// What EMQX tells of a message that says `n`, one millisecond after the one before.
fn published(n: i64) -> Value {
    message("t", "state/t", 1_795_356_000_000 + n, "0A", &n.to_string())
}

#[tokio::test]
async fn a_frozen_primary_is_left_for_its_promoted_standby_and_no_acknowledged_event_is_lost() {
    let primary = Cluster::start("wal_level = replica").await;
    let mut client = primary.create("fleet").await;
    migrate(&mut client).await.unwrap();
    let standby = primary.standby("second").await;
    primary.configure("synchronous_standby_names = 'second'");
    primary.reload().await;

    let url = behind(primary.port, standby.port, &format!("user={SUPERUSER} dbname=fleet"));
    let mut settings = config(&format!("{url} target_session_attrs=read-write"));
    settings.database.connect_timeout = LIMIT;
    settings.database.query_timeout = LIMIT;
    let app = TestApp::start(settings).await;
    app.ready().await;
    let fleet = Fleet::connect(&primary.url("fleet")).await;
    fleet.device("t").await.bind("t", "main", Some("state/t"), None).await;
    let secret = fleet.secret("t").await;
    eventually("it logs in", || async { app.logs_in("t", &secret).await == "allow" }).await;
    for n in 1..=50 {
        assert_eq!(app.event(&published(n)).await.status, 204);
    }
    // Each was acknowledged, so the standby has the last.
    primary.freeze();
    standby.promote().await;
    let promoted = Fleet::connect(&standby.url("fleet")).await;
    assert_eq!(state(&promoted, "t").await["main"]["value"], json!(50));
    let frozen = Instant::now();
    eventually("events go on", || async { app.event(&published(51)).await.status == 204 }).await;
    eventually("it listens", || async { app.metric("fleetgate_listen_up").await == 1.0 }).await;
    println!("writes and listens again {:?} after the promotion", frozen.elapsed());
    assert_eq!(state(&promoted, "t").await["main"]["value"], json!(51));
    assert_eq!(app.logs_in("stranger", "x").await, "deny");
    assert_eq!(app.logs_in("t", &secret).await, "allow");
    promoted.enabled("t", false).await;
    eventually("a change made there is heard", || async {
        app.logs_in("t", &secret).await == "deny"
    })
    .await;
    // The old primary takes writes again when it wakes up; whoever has left it stays away.
    primary.thaw();
    let old = connect(&primary.socket_url("fleet")).await;
    let old_enabled = || async {
        old.query_one("SELECT enabled FROM devices WHERE name = 't'", &[]).await.unwrap().get(0)
    };
    assert!(old_enabled().await);
    for _ in 0..20 {
        assert_eq!(app.logs_in("t", &secret).await, "deny");
    }
    // What waits for the standby there waits for ever.
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE application_name = 'fleetgate' AND wait_event IS DISTINCT FROM 'SyncRep'";
    let left = || async { old.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0) };
    // What was under way there ends by the server's own time-outs, one after the other.
    within(Duration::from_secs(60), "nobody uses the old primary", || async {
        // What is asked has the pool look where it is.
        app.login("stranger", "x").await;
        left().await == 0
    })
    .await;
}

/// A name of one host that leads to the promoted standby after the primary died without a word.
#[tokio::test]
async fn behind_one_name_the_sessions_of_a_dead_server_are_left() {
    let primary = Cluster::start("wal_level = replica").await;
    let mut client = primary.create("fleet").await;
    migrate(&mut client).await.unwrap();
    let standby = primary.standby("second").await;
    let proxy = Proxy::start(primary.socket()).await;
    let mut settings = config(&proxy.url(&format!("user={SUPERUSER} dbname=fleet")));
    settings.database.connect_timeout = LIMIT;
    settings.database.query_timeout = LIMIT;
    let app = TestApp::start(settings).await;
    app.ready().await;
    let names: Vec<String> = (0..60).map(|n| format!("stranger-{n}")).collect();
    let ask =
        |from: usize| join_all(names.iter().skip(from).take(20).map(|name| app.login(name, "x")));
    assert!(ask(0).await.iter().all(|answer| answer.status == 200));
    standby.promote().await;
    proxy.lead_to(standby.socket());
    // Those who ask at that moment wait for the dead, and hold what they wait on.
    let stranded = ask(20).await;
    assert!(stranded.iter().any(|answer| answer.status == 503));
    let listens = || async { app.metric("fleetgate_listen_up").await };
    eventually("it notices", || async { listens().await == 0.0 }).await;
    eventually("it listens anew", || async { listens().await == 1.0 }).await;
    // Long before TCP gives up what waits for the dead.
    within(Duration::from_secs(8), "nobody waits for the dead", || async {
        ask(40).await.iter().all(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn a_standby_is_not_used_where_a_primary_is() {
    let primary = Cluster::start("wal_level = replica").await;
    primary.create("fleet").await;
    let standby = primary.standby("second").await;
    let rest = format!("user={SUPERUSER} dbname=fleet");
    for attributes in ["", " target_session_attrs=any", " target_session_attrs=primary"] {
        let url = behind(standby.port, primary.port, &format!("{rest}{attributes}"));
        opens_within_its_time(&url, None).await;
        let target = Target::new(&config(&url).database).unwrap();
        let (client, _) = target.open(None).await.unwrap();
        let standby: bool =
            client.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get(0);
        assert!(!standby, "{url}");
    }
    let alone = format!("{} target_session_attrs=read-write", standby.url("fleet"));
    let error = Target::new(&config(&alone).database).unwrap().open(None).await.err().unwrap();
    assert!(error.is_unreachable() && error.to_string().contains("standby"), "{error}");
}
