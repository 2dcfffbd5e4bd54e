//! What a server that hangs or changes costs: statements given up, sessions that are of no more use.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use fleetgate::registry::connection::Target;
use fleetgate::registry::error::RegistryError;
use fleetgate::registry::pool::Postgres;
use futures_util::future::{FutureExt, join_all};
use tokio::runtime::Handle;
use tokio_postgres::Client;

use crate::support::app::{TestApp, config, eventually, start};
use crate::support::bus::message;
use crate::support::cluster::Cluster;
use crate::support::fleet::Fleet;
use crate::support::postgres::{connect, fresh_database, new_database, new_server};
use crate::support::proxy::Proxy;

const AT: i64 = 1_795_356_000_000;

#[tokio::test]
async fn while_the_database_is_frozen_strangers_are_refused_at_once_and_devices_let_in() {
    let mut postgres = new_server().await;
    let database = new_database(&postgres).await;
    let proxy = Proxy::start(postgres.socket_path()).await;
    let app = TestApp::start(config(&proxy.url(&database.url))).await;
    app.ready().await;
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    let secret = fleet.secret("t").await;
    app.hears(3.0).await;
    assert_eq!(app.logs_in("t", &secret).await, "allow");
    postgres.pause().unwrap();
    let frozen = Instant::now();
    eventually("it is known to be away", || async {
        let asked = Instant::now();
        // A device keeps being let in while this is being found out.
        let (stranger, device) = tokio::join!(app.login("stranger", "x"), app.login("t", &secret));
        assert_eq!((stranger.status, device.result()), (503, "allow".to_owned()));
        asked.elapsed() < Duration::from_millis(500)
    })
    .await;
    println!("known to be away after {:?}", frozen.elapsed());
    let (began, opened) = (Instant::now(), proxy.opened());
    for n in 0..60 {
        assert_eq!(app.login(&format!("stranger-{n}"), "x").await.status, 503);
        let event = message("t", "t/main", AT + n, "0A", "1");
        assert_eq!(app.event(&event).await.status, 503);
        assert_eq!(app.logs_in("t", &secret).await, "allow");
    }
    // Each would take two seconds to find out for itself.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let attempts = proxy.opened() - opened;
    let listener = 2 + began.elapsed().as_secs();
    assert!(attempts <= usize::try_from(listener).unwrap(), "only the listener tries: {attempts}");
    postgres.resume().unwrap();
    eventually("strangers are told again", || async {
        app.login("stranger", "x").await.status == 200
    })
    .await;
    let event = message("t", "t/main", AT + 100, "0A", "1");
    eventually("events go on", || async { app.event(&event).await.status == 204 }).await;
}

/// How many sessions Fleetgate has on the server.
async fn sessions(admin: &Client) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'fleetgate' AND backend_type = 'client backend'";
    admin.query_one(count, &[]).await.unwrap().get(0)
}

/// A server whose commits wait for a synchronous standby that is not there, after `before` was run.
async fn without_its_standby(before: &str) -> (Cluster, Client) {
    let cluster = Cluster::start("").await;
    let admin = cluster.create("fleet").await;
    admin.batch_execute(before).await.unwrap();
    cluster.configure("synchronous_standby_names = 'nobody'");
    cluster.reload().await;
    (cluster, admin)
}

#[tokio::test]
async fn statements_that_are_given_up_keep_their_place_until_they_have_ended() {
    let (cluster, admin) = without_its_standby("CREATE TABLE t (n int)").await;
    let mut settings = config(&cluster.url("fleet")).database;
    settings.pool_size = 3;
    settings.query_timeout = Duration::from_millis(200);
    let pool = Postgres::new(&settings, Handle::current()).unwrap();
    for _ in 0..5 {
        let changes = (0..6).map(|_| insert(&pool));
        for outcome in join_all(changes).await {
            assert!(outcome.is_err_and(|error| error.is_unreachable()));
        }
        assert!(sessions(&admin).await <= 3, "{}", sessions(&admin).await);
    }
    // A lock is waited for no longer, either.
    cluster.configure("synchronous_standby_names = ''");
    cluster.reload().await;
    let locker = connect(&cluster.url("fleet")).await;
    locker.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    for _ in 0..5 {
        assert!(join_all((0..6).map(|_| insert(&pool))).await.iter().all(Result::is_err));
        assert!(sessions(&admin).await <= 3);
    }
    locker.batch_execute("ROLLBACK").await.unwrap();
    eventually("the pool is of use again", || async { insert(&pool).await.is_ok() }).await;
}

async fn insert(pool: &Postgres) -> Result<u64, RegistryError> {
    pool.change(&(), |(), client| {
        async move {
            client.execute("INSERT INTO t VALUES (1)", &[]).await.map_err(RegistryError::on("t"))
        }
        .boxed()
    })
    .await
}

#[tokio::test]
async fn what_the_background_gives_up_is_ended_before_it_takes_more() {
    let (cluster, admin) = without_its_standby("CREATE TABLE t (n int)").await;
    let target = Target::new(&config(&cluster.url("fleet")).database).unwrap().for_background();
    for _ in 0..6 {
        let Ok(client) = target.open_guarded().await else { continue };
        let write = client.batch_execute("INSERT INTO t VALUES (1)");
        assert!(tokio::time::timeout(Duration::from_millis(50), write).await.is_err());
        drop(client);
        assert!(sessions(&admin).await <= 2);
    }
    eventually("all have ended", || async { sessions(&admin).await == 0 }).await;
}

/// Waits until commits wait: PostgreSQL's checkpointer reads the setting when it gets to it.
async fn until_commits_wait(cluster: &Cluster, admin: &Client) {
    let other = connect(&cluster.url("fleet")).await;
    let commits = async {
        loop {
            other.batch_execute("CREATE TEMP TABLE n (); DROP TABLE n").await.unwrap();
        }
    };
    let waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let one_waits =
        eventually("commits wait", || async { !admin.query(waits, &[]).await.unwrap().is_empty() });
    tokio::select! {
        () = commits => {}
        () = one_waits => {}
    }
}

/// Sessions that want to notify and wait for one whose commit waits.
async fn held_up(admin: &Client) -> i64 {
    let held = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'object'";
    admin.query_one(held, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_notice_that_nobody_waits_for_ends_by_itself() {
    let (cluster, admin) = without_its_standby("").await;
    until_commits_wait(&cluster, &admin).await;
    let holder = connect(&cluster.url("fleet")).await;
    let target = Target::new(&config(&cluster.url("fleet")).database).unwrap();
    let target = target.for_look_ups(Duration::from_millis(200));
    let (client, task) = target.open(None).await.unwrap();
    let given_up = async {
        eventually("a commit holds the lock", || async {
            let holds = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%NOTIFY%'";
            !admin.query(holds, &[]).await.unwrap().is_empty()
        })
        .await;
        tokio::select! {
            ended = client.batch_execute("NOTIFY x") => panic!("{ended:?}"),
            () = eventually("it waits", || async { held_up(&admin).await == 1 }) => {}
        }
        // As a process that ends, without asking for anything.
        task.abort();
        eventually("it has ended", || async { held_up(&admin).await == 0 }).await;
    };
    tokio::select! {
        held = holder.batch_execute("CREATE TABLE n (); NOTIFY x") => panic!("{held:?}"),
        () = given_up => {}
    }
}

#[tokio::test]
async fn while_no_notice_goes_through_sessions_stay_few_and_strangers_are_told() {
    let cluster = Cluster::start("").await;
    let admin = cluster.create("fleet").await;
    let app = TestApp::start(config(&cluster.url("fleet"))).await;
    app.ready().await;
    let fleet = Fleet::connect(&cluster.url("fleet")).await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    cluster.configure("synchronous_standby_names = 'nobody'");
    cluster.reload().await;
    until_commits_wait(&cluster, &admin).await;
    // Its commit holds the lock of NOTIFY until there is a standby.
    let change = fleet.enabled("t", false);
    let watched = async {
        eventually("nothing is heard", || async { app.metric("fleetgate_listen_up").await == 0.0 })
            .await;
        let mut attempts = HashSet::new();
        while attempts.len() < 5 {
            let spoken = "SELECT count(*) FROM pg_stat_activity
                          WHERE wait_event_type = 'Lock' AND query LIKE '%pg_notify%heartbeat%'";
            let stuck: i64 = admin.query_one(spoken, &[]).await.unwrap().get(0);
            assert!(stuck <= 2, "{stuck} heartbeats wait on the server");
            assert_eq!(app.login("stranger", "x").await.status, 200, "reads work");
            let listening = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %'";
            let listening = admin.query(listening, &[]).await.unwrap();
            attempts.extend(listening.iter().map(|row| row.get::<_, i32>(0)));
        }
        let problem = app.get("/readyz").await;
        assert!(problem.body.contains("standby"), "{}", problem.body);
        cluster.configure("synchronous_standby_names = ''");
        cluster.reload().await;
    };
    let (_, ()) = tokio::join!(change, watched);
    eventually("changes are heard again", || async {
        app.metric("fleetgate_listen_up").await == 1.0
            && app.publishes("t", "t/main").await == "deny"
    })
    .await;
    eventually("few sessions are left", || async { sessions(&admin).await <= 12 }).await;
}

#[tokio::test]
async fn a_server_that_does_not_tell_its_schema_is_asked_again() {
    let database = fresh_database().await;
    let locker = connect(&database.owner_url()).await;
    let lock = "BEGIN; LOCK TABLE fleetgate_schema_history IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).await.unwrap();
    let app = TestApp::start(config(&database.url)).await;
    eventually("the first attempt is given up", || async {
        app.get("/readyz").await.body.contains("PostgreSQL cannot be reached")
    })
    .await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    app.ready().await;
    eventually("others know of it", || async {
        let replicas = "SELECT FROM replicas WHERE listening";
        locker.query(replicas, &[]).await.unwrap().len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_no_standby_has_is_no_success() {
    let (cluster, admin) = without_its_standby("CREATE TABLE t (n int)").await;
    let mut settings = config(&cluster.url("fleet")).database;
    settings.query_timeout = Duration::from_secs(30);
    let pool = Postgres::new(&settings, Handle::current()).unwrap();
    let cancel = async {
        let waiting =
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("the commit waits", || async {
            !admin.query(waiting, &[]).await.unwrap().is_empty()
        })
        .await;
    };
    // PostgreSQL answers it as done, with a warning.
    let (outcome, ()) = tokio::join!(insert(&pool), cancel);
    let error = outcome.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("synchronous standby"), "{error}");
}

#[tokio::test]
async fn sessions_that_may_not_write_are_not_kept() {
    let (app, fleet, database) = start().await;
    fleet.device("t").await.bind("t", "main", Some("t/main"), None).await;
    let event = message("t", "t/main", AT, "0A", "1");
    assert_eq!(app.event(&event).await.status, 204);
    let admin = connect(&database.owner_url()).await;
    let name: String = fleet.value("SELECT current_database()::text").await;
    let settings = ["default_transaction_read_only = on", "search_path = nowhere"];
    for setting in settings {
        admin.batch_execute(&format!("ALTER DATABASE {name} SET {setting}")).await.unwrap();
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = $1 AND application_name = 'fleetgate'";
        admin.query(kill, &[&name]).await.unwrap();
        eventually("new sessions have the setting", || async {
            app.event(&event).await.status == 503
        })
        .await;
        let name_of = setting.split(' ').next().unwrap();
        admin.batch_execute(&format!("ALTER DATABASE {name} RESET {name_of}")).await.unwrap();
        eventually("they are replaced", || async { app.event(&event).await.status == 204 }).await;
        app.ready().await;
    }
}

#[tokio::test]
async fn sessions_that_lost_what_was_prepared_cost_nobody_an_answer() {
    let database = fresh_database().await;
    let mut settings = config(&database.url).database;
    settings.pool_size = 1;
    let pool = Postgres::new(&settings, Handle::current()).unwrap();
    let asked = || {
        pool.run(|client| {
            async move {
                let on = || RegistryError::on("one");
                let statement = client.prepare_cached("SELECT 1").await.map_err(on())?;
                let one: i32 = client.query_one(&statement, &[]).await.map_err(on())?.get(0);
                Ok(one)
            }
            .boxed()
        })
    };
    assert_eq!(asked().await.unwrap(), 1);
    let discarded = pool.run(|client| {
        async move { client.batch_execute("DISCARD ALL").await.map_err(RegistryError::on("x")) }
            .boxed()
    });
    discarded.await.unwrap();
    assert_eq!(asked().await.unwrap(), 1);
}
