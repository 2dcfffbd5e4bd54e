//! The sweep repairs presence from EMQX's list of clients, and undoes nothing newer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetgate::clock::Clock;
use fleetgate::emqx::EmqxApi;
use fleetgate::metrics::Metrics;
use fleetgate::registry::connection::Target;
use fleetgate::registry::presence::{SessionChange, apply_sessions};
use fleetgate::sweep::{Keep, Report, SweepError, Sweeper};
use tokio_util::sync::CancellationToken;

use crate::support::app::{TestApp, config, eventually};
use crate::support::fake_emqx::{FakeEmqx, Mood};
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, connect, fresh_database};
use crate::support::serve::Serve;
use crate::support::wire::Connection;

/// A sweeper without service around it, a registry and a broker.
struct Bench {
    emqx: FakeEmqx,
    fleet: Fleet,
    sweeper: Sweeper,
    database: TestDatabase,
}

async fn bench() -> Bench {
    let (emqx, database) = (FakeEmqx::start().await, fresh_database().await);
    let fleet = Fleet::connect(&database.url).await;
    let sweeper = sweeper(&emqx, &database);
    Bench { emqx, fleet, sweeper, database }
}

fn sweeper(emqx: &FakeEmqx, database: &TestDatabase) -> Sweeper {
    sweeper_every(Duration::from_secs(60), emqx, database, Metrics::new().unwrap())
}

fn sweeper_every(
    interval: Duration,
    emqx: &FakeEmqx,
    database: &TestDatabase,
    metrics: Metrics,
) -> Sweeper {
    let api = Arc::new(EmqxApi::new(&emqx.settings(), metrics.emqx).unwrap());
    let target = Target::new(&config(&database.url).database).unwrap();
    let keep = Duration::from_secs(7 * 86_400);
    let keep = Keep { sessions: keep, audit: keep };
    Sweeper::new(target, Some(api), interval, keep, Clock::System, metrics.sweep)
}

impl Bench {
    async fn sweep(&self) -> Report {
        self.sweeper.sweep().await.unwrap()
    }

    async fn devices(&self, names: &[&str]) {
        for name in names {
            self.fleet.device(name).await;
        }
    }

    /// What an event tells.
    async fn hears(&self, name: &str, connected_at_ms: i64, ended_at_ms: Option<i64>) {
        let mut client = connect(&self.database.url).await;
        let id: i64 =
            self.fleet.value(&format!("SELECT id FROM devices WHERE name = '{name}'")).await;
        let at = |ms| jiff::Timestamp::from_millisecond(ms).unwrap();
        let session = SessionChange {
            client_id: name.to_owned(),
            device_id: fleetgate::domain::device::DeviceId(id),
            connected_at: at(connected_at_ms),
            ended_at: ended_at_ms.map(at),
            inferred: false,
            owned: true,
        };
        let transaction = client.transaction().await.unwrap();
        apply_sessions(&transaction, &[session], None).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn online(&self, name: &str) -> bool {
        self.fleet.value(&format!("SELECT online FROM devices WHERE name = '{name}'")).await
    }

    /// `connected_at` in ms, open, inferred.
    async fn session(&self, client_id: &str) -> (i64, bool, bool) {
        let column = |what: &str| {
            format!("SELECT {what} FROM client_sessions WHERE client_id = '{client_id}'")
        };
        let connected_at = column("(extract(epoch FROM connected_at) * 1000)::bigint");
        (
            self.fleet.value(&connected_at).await,
            self.fleet.value(&column("open")).await,
            self.fleet.value(&column("inferred")).await,
        )
    }
}

fn repaired(clients: usize, repaired_online: u64, repaired_offline: u64) -> Report {
    Report { clients, repaired_online, repaired_offline, kicked_out: 0 }
}

#[tokio::test]
async fn a_missed_connect_and_a_missed_disconnect_are_repaired() {
    let bench = bench().await;
    bench.devices(&["came", "went", "stayed", "detached"]).await;
    bench.emqx.connect("came", "came", 1_000);
    bench.hears("went", 1_000, None).await;
    bench.hears("stayed", 1_000, None).await;
    bench.emqx.connect("stayed", "stayed", 1_000);
    bench.hears("detached", 1_000, None).await;
    bench.emqx.connect("detached", "detached", 1_000);
    bench.emqx.detach("detached");
    assert_eq!(bench.sweep().await, repaired(2, 1, 2));
    assert!(bench.online("came").await && bench.online("stayed").await);
    assert!(!bench.online("went").await && !bench.online("detached").await);
    assert_eq!(bench.session("went").await, (1_000, false, true));
    assert_eq!(bench.session("came").await, (1_000, true, false));
    assert_eq!(bench.sweep().await, repaired(2, 0, 0), "nothing is left to repair");
}

#[tokio::test]
async fn an_inferred_end_is_taken_back_when_the_client_is_listed_again() {
    let bench = bench().await;
    bench.devices(&["t"]).await;
    bench.hears("t", 1_000, None).await;
    assert_eq!(bench.sweep().await, repaired(0, 0, 1));
    bench.emqx.connect("t", "t", 1_000);
    assert_eq!(bench.sweep().await, repaired(1, 1, 0));
    assert!(bench.online("t").await);
    assert_eq!(bench.session("t").await, (1_000, true, false));
    bench.hears("t", 1_000, Some(2_000)).await;
    assert_eq!(bench.sweep().await, repaired(1, 0, 0), "an end that was told stands");
    assert!(!bench.online("t").await);
}

#[tokio::test]
async fn nothing_heard_while_pages_are_read_is_undone() {
    let bench = bench().await;
    bench.devices(&["a", "b", "c", "d", "z"]).await;
    bench.emqx.page_size(2);
    for listed in ["a", "b", "z"] {
        bench.emqx.connect(listed, listed, 1_000);
    }
    bench.hears("d", 1_000, None).await;
    let hold = bench.emqx.hold_page(2);
    let sweep = async { bench.sweep().await };
    let events = async {
        hold.reached().await;
        // Listed as open on the page that was read, and gone since.
        bench.hears("a", 1_000, Some(2_000)).await;
        // Not on a page that was read, and here since.
        bench.hears("c", 3_000, None).await;
        // Listed with an old session, has a newer one since.
        bench.hears("b", 4_000, None).await;
        // Not listed, but reconnected since.
        bench.hears("d", 5_000, None).await;
        hold.release();
    };
    let (report, ()) = tokio::join!(sweep, events);
    assert_eq!((report.repaired_online, report.repaired_offline), (1, 0), "only z");
    assert_eq!(bench.session("a").await, (1_000, false, false));
    assert_eq!(bench.session("b").await, (4_000, true, false));
    assert_eq!(bench.session("c").await, (3_000, true, false));
    assert_eq!(bench.session("d").await, (5_000, true, false));
    assert!(!bench.online("a").await && bench.online("d").await && bench.online("z").await);
}

#[tokio::test]
async fn a_list_that_breaks_off_repairs_nothing() {
    let bench = bench().await;
    bench.devices(&["a", "b", "c", "gone"]).await;
    bench.emqx.page_size(2);
    for listed in ["a", "b", "c", "stranger"] {
        bench.emqx.connect(listed, listed, 1_000);
    }
    bench.hears("gone", 1_000, None).await;
    for mood in [Mood::FailingPages, Mood::BrokenPages, Mood::ServerError] {
        bench.emqx.set(mood);
        let outcome = bench.sweeper.sweep().await;
        assert!(matches!(outcome, Err(SweepError::Emqx(_))), "{mood:?}: {outcome:?}");
        let open = "SELECT count(*) FROM client_sessions WHERE open AND client_id = 'gone'";
        assert_eq!(bench.fleet.value::<i64>(open).await, 1, "{mood:?}");
        let sessions: i64 = bench.fleet.value("SELECT count(*) FROM client_sessions").await;
        let kick_outs: i64 = bench.fleet.value("SELECT count(*) FROM work_queue").await;
        assert_eq!((sessions, kick_outs), (1, 0), "{mood:?}");
    }
    bench.emqx.set(Mood::Well);
    eventually("EMQX is asked again", || async { bench.sweeper.sweep().await.is_ok() }).await;
    assert!(bench.online("c").await && !bench.online("gone").await);
}

#[tokio::test]
async fn clients_without_right_to_be_connected_are_kicked_out() {
    let bench = bench().await;
    bench.devices(&["good", "disabled", "other"]).await;
    bench.fleet.device_of_kind("board", "service").await;
    bench.fleet.client_id("other", "other-2").await.enabled("disabled", false).await;
    bench.fleet.sql("DELETE FROM work_queue", &[]).await;
    for (client_id, name) in [
        ("good", "good"),
        ("board", "board"),
        ("board:1", "board"),
        ("board:+", "board"),
        ("disabled", "disabled"),
        ("other", "other"),
        ("a/b", "good"),
        ("stranger", "stranger"),
        ("nameless", ""),
    ] {
        bench.emqx.connect(client_id, name, 1_000);
    }
    let report = bench.sweep().await;
    assert_eq!(
        report,
        Report { clients: 9, repaired_online: 3, repaired_offline: 0, kicked_out: 4 }
    );
    let kicked_out: Vec<String> =
        bench.fleet.value("SELECT array_agg(key ORDER BY key) FROM work_queue").await;
    // Those of no device may be another authenticator's.
    assert_eq!(kicked_out, ["a/b", "board:+", "disabled", "other"]);
    assert!(bench.online("good").await && bench.online("board").await);
    assert!(!bench.online("disabled").await, "it has no right to be");
}

/// Whatever its clock says or said: an hour ahead, beyond the end of time, an hour behind, 1970.
#[tokio::test]
async fn a_client_that_is_listed_is_online_whatever_timestamps_say() {
    let bench = bench().await;
    let now = crate::support::bus::now();
    let (hour, latest) = (3_600_000, 253_370_764_799_000);
    let cases = [
        ("sane-after-future", now + hour, now - 1000),
        ("sane-after-the-end", latest, now - 1000),
        ("future-after-sane", now - 1000, now + hour),
        ("future-after-future", now + hour, now + hour),
        ("earlier-after-sane", now - 1000, now - hour),
        ("1970-after-sane", now - 1000, 1),
        ("1970-after-future", now + hour, 0),
    ];
    for (name, told, listed) in cases {
        bench.devices(&[name]).await;
        bench.hears(name, told, None).await;
        bench.hears(name, told, Some(told + 1)).await;
        bench.emqx.connect(name, name, listed);
    }
    // What cannot be stored is skipped, not the end of the sweep.
    bench.devices(&["beyond"]).await;
    bench.emqx.connect("beyond", "beyond", latest + 1000);
    let many = cases.len() as u64;
    assert_eq!(bench.sweep().await, repaired(cases.len() + 1, many, 0));
    for (name, _, listed) in cases {
        assert!(bench.online(name).await, "{name}");
        assert_eq!(bench.session(name).await, (listed, true, false), "{name}");
    }
    assert_eq!(bench.sweep().await, repaired(cases.len() + 1, 0, 0), "once");
    for (name, _, listed) in cases {
        bench.hears(name, listed, Some(listed + 5)).await;
        assert!(!bench.online(name).await, "{name}: its own end");
        bench.emqx.disconnect(name);
    }
    assert_eq!(bench.sweep().await.repaired_offline, 0);
}

#[tokio::test]
async fn a_session_noted_by_a_clock_that_was_ahead_ends_when_it_is_not_listed() {
    let bench = bench().await;
    bench.devices(&["t"]).await;
    bench.hears("t", 1_000, None).await;
    bench.fleet.sql("UPDATE client_sessions SET noted_at = now() + interval '1 hour'", &[]).await;
    assert_eq!(bench.sweep().await, repaired(0, 0, 1));
    assert!(!bench.online("t").await);
}

#[tokio::test]
async fn a_sweep_that_is_not_due_says_so_and_leaves_no_lock_behind() {
    let bench = bench().await;
    bench.sweep().await;
    let locks = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
                 WHERE datname = current_database() AND locktype = 'advisory'";
    for _ in 0..3 {
        let refused = bench.sweeper.sweep_unless_within(Duration::from_secs(60)).await;
        assert_eq!(bench.fleet.value::<i64>(locks).await, 0);
        assert!(matches!(refused, Err(SweepError::RecentlyDone)), "{refused:?}");
    }
    // Noted by a clock that was ahead: that must not keep anybody from sweeping.
    let ahead = "UPDATE presence_sweeps SET finished_at = now() + interval '1 hour'";
    bench.fleet.sql(ahead, &[]).await;
    bench.sweeper.sweep_unless_within(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_broker_without_clients_v2_is_read_by_page_number() {
    let bench = bench().await;
    bench.emqx.without_clients_v2();
    bench.emqx.page_size(2);
    bench.devices(&["a", "b", "c", "d", "e", "gone"]).await;
    for listed in ["a", "b", "c", "d", "e"] {
        bench.emqx.connect(listed, listed, 1_000);
        bench.hears(listed, 1_000, None).await;
    }
    bench.hears("gone", 1_000, None).await;
    // The first page shrinks once it is read, so that "c" moves onto it and is read by nobody.
    let hold = bench.emqx.hold_page(3);
    let shift = async {
        hold.reached().await;
        bench.emqx.disconnect("a");
        hold.release();
    };
    let (report, ()) = tokio::join!(bench.sweep(), shift);
    assert_eq!(report.repaired_offline, 1, "only the one that is really gone");
    assert!(bench.online("c").await && !bench.online("gone").await);
}

#[tokio::test]
async fn one_process_sweeps_at_a_time() {
    let bench = bench().await;
    bench.devices(&["a"]).await;
    bench.emqx.connect("a", "a", 1_000);
    let other = sweeper(&bench.emqx, &bench.database);
    let hold = bench.emqx.hold_page(1);
    let meanwhile = async {
        hold.reached().await;
        let refused = other.sweep().await;
        hold.release();
        refused
    };
    let (report, refused) = tokio::join!(bench.sweep(), meanwhile);
    assert_eq!(report, repaired(1, 1, 0));
    assert!(matches!(refused, Err(SweepError::Busy)), "{refused:?}");
    eventually("the lock is free", || async { other.sweep().await.is_ok() }).await;
    assert_eq!(bench.emqx.most_lists_at_once(), 1);
}

#[tokio::test]
async fn replicas_share_the_sweeping() {
    let emqx = FakeEmqx::start().await;
    let database = fresh_database().await;
    let mut settings = config(&database.url);
    settings.emqx.api = Some(emqx.settings());
    settings.emqx.sweep_interval = Duration::from_secs(1);
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("t").await;
    let (a, b) = tokio::join!(TestApp::start(settings.clone()), TestApp::start(settings));
    tokio::join!(a.ready(), b.ready());
    let online = || fleet.value::<bool>("SELECT online FROM devices");
    emqx.connect("t", "t", 1_000);
    eventually("it is seen online", || async { online().await }).await;
    eventually("both count it", || async {
        a.metric("fleetgate_devices_online").await == 1.0
            && b.metric("fleetgate_devices_online").await == 1.0
    })
    .await;
    emqx.disconnect("t");
    eventually("it is seen offline", || async { !online().await }).await;
    eventually("it is counted", || async {
        a.metric("fleetgate_devices_offline").await == 1.0
            && a.metric("fleetgate_devices_online").await == 0.0
    })
    .await;
    let before = emqx.pages();
    let began = Instant::now();
    eventually("sweeps go on", || async { emqx.pages() >= before + 5 }).await;
    assert!(began.elapsed() > Duration::from_millis(1500), "together once an interval or so");
    assert_eq!(emqx.most_lists_at_once(), 1);
    let done = "fleetgate_sweeps_total{outcome=\"done\"}";
    let offline = "fleetgate_sweep_repaired_offline_total";
    assert!(a.metric(offline).await + b.metric(offline).await == 1.0);
    let success = "fleetgate_sweep_last_success_timestamp_seconds";
    let latest = f64::max(a.metric(success).await, b.metric(success).await);
    assert!(latest > 1_600_000_000.0, "{latest}");
    let text = a.get("/metrics").await.body + &b.get("/metrics").await.body;
    assert!(text.contains(done), "{text}");
}

#[tokio::test]
async fn devices_are_counted_and_old_sessions_removed_however_long_emqx_is_away() {
    let bench = bench().await;
    bench.emqx.set(Mood::ServerError);
    bench.devices(&["a"]).await;
    let metrics = Metrics::new().unwrap();
    let counted = metrics.sweep.offline_devices.clone();
    let interval = Duration::from_millis(50);
    let sweeper = sweeper_every(interval, &bench.emqx, &bench.database, metrics);
    let stop = CancellationToken::new();
    let running = tokio::spawn(sweeper.run(stop.clone()));
    eventually("devices are counted at first", || async { counted.get() == 1 }).await;
    bench.devices(&["b"]).await;
    bench.hears("a", 1_000, Some(2_000)).await;
    let long_ago = "UPDATE client_sessions SET noted_at = '2020-01-01'";
    bench.fleet.sql(long_ago, &[]).await;
    // As an hour later.
    bench.fleet.sql("UPDATE session_pruning SET began_at = '-infinity', reached = ''", &[]).await;
    let sessions = || bench.fleet.value::<i64>("SELECT count(*) FROM client_sessions");
    eventually("they are counted anew, and what is old goes", || async {
        counted.get() == 2 && sessions().await == 0
    })
    .await;
    stop.cancel();
    running.await.unwrap();
}

/// Fleetgate starts before EMQX in the stack: that is nothing to complain about, and presence is compared
/// as soon as EMQX answers, not an interval later.
#[tokio::test]
async fn an_emqx_that_starts_later_is_awaited_quietly_and_asked_at_once() {
    let emqx = FakeEmqx::start().await;
    emqx.connect("t", "t", 1_000);
    emqx.connect("gone", "gone", 1_000);
    emqx.go_away();
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    fleet.device("t").await;
    fleet.device("gone").await;
    let api = emqx.settings();
    let serve = Serve::start(&[
        ("FLEETGATE_DATABASE_URL", database.url.clone()),
        ("FLEETGATE_EMQX_API_URL", api.url),
        ("FLEETGATE_EMQX_API_KEY", api.key),
        ("FLEETGATE_EMQX_API_SECRET", api.secret.expose().to_owned()),
        ("FLEETGATE_EMQX_SWEEP_INTERVAL", "1h".to_owned()),
    ]);
    // Its sessions have to end too.
    let disable = "UPDATE devices SET enabled = false WHERE name = 'gone'";
    eventually("it has tried to end a session", || async {
        fleet.sql(disable, &[]).await;
        fleet
            .value::<i64>(
                "SELECT count(*) FROM work_queue WHERE attempts > 0 OR last_error IS NOT NULL",
            )
            .await
            > 0
    })
    .await;
    eventually("EMQX is found away", || async {
        let mut connection = Connection::open(serve.address).await;
        let request = b"GET /metrics HTTP/1.1\r\nhost: fleetgate\r\n\r\n";
        connection.exchange(request).await.body.contains("\nfleetgate_emqx_api_failing 1")
    })
    .await;
    emqx.come_back().await;
    eventually("presence is compared", || async {
        fleet.value::<bool>("SELECT online FROM devices WHERE name = 't'").await
    })
    .await;
    eventually("the session is ended", || async {
        fleet.value::<i64>("SELECT count(*) FROM work_queue").await == 0
    })
    .await;
    let log = serve.stop();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    assert!(log.contains("waiting for EMQX's REST API"), "{log}");
}

/// Runs `fleetgate sweep --json` with these settings beside the database's.
async fn command(database: &TestDatabase, settings: &[(&str, &str)]) -> std::process::Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_fleetgate"))
        .args(["sweep", "--json"])
        .env("FLEETGATE_DATABASE_URL", &database.url)
        .envs(settings.iter().copied())
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn the_command_sweeps_and_says_what_is_wrong() {
    let bench = bench().await;
    bench.devices(&["t"]).await;
    bench.emqx.connect("t", "t", 1_000);
    let url = bench.emqx.settings().url;
    let good = [
        ("FLEETGATE_EMQX_API_URL", url.as_str()),
        ("FLEETGATE_EMQX_API_KEY", "fleetgate"),
        ("FLEETGATE_EMQX_API_SECRET", "0123456789abcdef"),
    ];
    let done = command(&bench.database, &good).await;
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        report,
        serde_json::json!({"clients": 1, "repaired_online": 1, "repaired_offline": 0, "kicked_out": 0})
    );
    assert!(done.status.success() && bench.online("t").await);
    let wrong = [good[0], good[1], ("FLEETGATE_EMQX_API_SECRET", "not-the-secret")];
    let refused = command(&bench.database, &wrong).await;
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(told.contains("emqx.api_secret") && told.contains("BAD_API_KEY_OR_SECRET"), "{told}");
    assert!(!told.contains("not-the-secret"), "{told}");
    let unset = command(&bench.database, &[]).await;
    assert_eq!(unset.status.code(), Some(2));
    assert!(String::from_utf8(unset.stderr).unwrap().contains("emqx.api_url"));
}

#[tokio::test]
async fn many_clients_take_bounded_time() {
    let count = std::env::var("FLEETGATE_TEST_CLIENTS").map_or(20_000, |n| n.parse().unwrap());
    let bench = bench().await;
    let count_text: i32 = count;
    bench
        .fleet
        .sql(
            "INSERT INTO devices (name, kind) SELECT 'device-' || n, 'sensor' FROM generate_series(1, $1) n",
            &[&count_text],
        )
        .await;
    for n in 1..=count {
        let name = format!("device-{n}");
        bench.emqx.connect(&name, &name, 1_000);
    }
    let before = peak_memory_kb();
    let total = u64::try_from(count).unwrap();
    let clients = usize::try_from(count).unwrap();
    let began = Instant::now();
    assert_eq!(bench.sweep().await, repaired(clients, total, 0));
    let all = began.elapsed();
    let began = Instant::now();
    assert_eq!(bench.sweep().await, repaired(clients, 0, 0));
    let none = began.elapsed();
    for n in 1..=count {
        bench.emqx.disconnect(&format!("device-{n}"));
    }
    let began = Instant::now();
    assert_eq!(bench.sweep().await, repaired(0, 0, total));
    println!(
        "{count} clients: all came online {all:?}, nothing changed {none:?}, all gone {:?}; peak \
         memory of the test program, fake EMQX included, {} KiB more",
        began.elapsed(),
        peak_memory_kb() - before
    );
    assert_eq!(bench.fleet.value::<i64>("SELECT count(*) FROM devices WHERE online").await, 0);
}

fn peak_memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
