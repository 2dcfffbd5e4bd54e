//! The private PostgreSQL: starts, keeps or leaves nothing, and never outlives its owner.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fleetgate::embedded::{EmbeddedError, Home, PrivatePostgres};
use rustix::process::{Pid, Signal, getpgid, kill_process};

use crate::support::postgres::{connect, fresh_database, new_database, new_server};

const CONNECTIONS: u16 = 20;

fn start_in(home: &Path) -> Result<PrivatePostgres, EmbeddedError> {
    PrivatePostgres::start(&Home::Kept(home.to_owned()), CONNECTIONS)
}

/// The server's process, as the cluster in `home` names it.
fn server_of(home: &Path) -> Pid {
    let file = fs::read_to_string(home.join("data/postmaster.pid")).unwrap();
    Pid::from_raw(file.lines().next().unwrap().parse().unwrap()).unwrap()
}

fn is_running(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// The shells that watch a server: they share its process group. So does, for an instant, a child
/// that the server has just forked; to kill that one would be a crash of the server.
fn watchers_of(server: Pid) -> Vec<Pid> {
    let group = format!("NSpgid:\t{}\n", getpgid(Some(server)).unwrap());
    let child = format!("PPid:\t{server}\n");
    let watches = |pid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        *pid != server && status.contains(&group) && !status.contains(&child)
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(watches).collect()
}

/// Waits for what the end of another process brings about; nothing tells of it.
fn wait_until(what: &str, happened: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn setting(url: &str, name: &str) -> String {
    let row = connect(url).await.query_one("SELECT current_setting($1)", &[&name]).await;
    row.unwrap().get(0)
}

#[tokio::test]
async fn keeps_its_data_below_a_directory_closed_to_others() {
    let closed = tempfile::tempdir().unwrap();
    fs::DirBuilder::new().mode(0o700).create(closed.path().join("checkout")).unwrap();
    let home = closed.path().join("checkout/.fleetgate/postgres");

    let server = start_in(&home).unwrap();
    let url = server.connection_string("postgres");
    let client = connect(&url).await;
    client.batch_execute("CREATE TABLE kept AS SELECT 42 AS answer").await.unwrap();
    assert_eq!(setting(&url, "fsync").await, "on");
    assert_eq!(setting(&url, "listen_addresses").await, "");
    assert_eq!(setting(&url, "server_encoding").await, "UTF8");
    assert_eq!(setting(&url, "lc_collate").await, "C");
    assert_eq!(setting(&url, "max_connections").await, CONNECTIONS.to_string());
    let socket_directory = server.socket_path().parent().unwrap().to_owned();
    assert_eq!(fs::metadata(&socket_directory).unwrap().mode() & 0o777, 0o700);
    let process = server_of(&home);
    assert_ne!(fs::metadata(format!("/proc/{process}")).unwrap().uid(), 0);
    server.stop().unwrap();
    assert!(!is_running(process) && !socket_directory.exists());

    let server = start_in(&home).unwrap();
    let client = connect(&server.connection_string("postgres")).await;
    let row = client.query_one("SELECT answer FROM kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
}

#[test]
fn is_out_of_reach_of_a_terminals_signals() {
    let home = tempfile::tempdir().unwrap();
    let _server = start_in(home.path()).unwrap();
    let group = getpgid(Some(server_of(home.path()))).unwrap();
    assert_ne!(group, getpgid(None).unwrap());
}

#[test]
fn one_home_has_one_owner() {
    let home = tempfile::tempdir().unwrap();
    let server = start_in(home.path()).unwrap();
    let process = server_of(home.path());
    assert!(matches!(start_in(home.path()), Err(EmbeddedError::InUse { .. })));
    assert!(is_running(process));
    drop(server);
    start_in(home.path()).unwrap();
}

#[test]
fn a_temporary_one_leaves_nothing() {
    let server = PrivatePostgres::start(&Home::Temporary, CONNECTIONS).unwrap();
    let home = server.log_path().parent().unwrap().to_owned();
    let (socket, process) = (server.socket_path(), server_of(&home));
    assert!(socket.exists());
    drop(server);
    assert!(!is_running(process), "{process:?} still runs");
    assert!(!home.exists(), "{home:?} is still there");
    assert!(!socket.exists(), "{socket:?} is still there");
}

#[tokio::test]
async fn recovers_after_a_kill() {
    let mut server = new_server().await;
    let url = new_database(&server).await.owner_url();
    let client = connect(&url).await;
    client.batch_execute("CREATE TABLE committed AS SELECT 1 AS one").await.unwrap();
    server.kill().unwrap();
    assert!(client.query("SELECT one FROM committed", &[]).await.is_err());
    assert!(tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err());
    server.restart().unwrap();
    connect(&url).await.query_one("SELECT one FROM committed", &[]).await.unwrap();
}

#[tokio::test]
async fn shuts_down_in_order_and_restarts_even_when_paused() {
    let mut server = new_server().await;
    let url = server.connection_string("postgres");
    let client = connect(&url).await;
    server.pause().unwrap();
    server.shut_down().unwrap();
    assert!(client.query("SELECT 1", &[]).await.is_err());
    let log = fs::read_to_string(server.log_path()).unwrap();
    assert!(log.contains("database system is shut down"), "{log}");
    server.restart().unwrap();
    connect(&url).await.query_one("SELECT 1", &[]).await.unwrap();
}

#[tokio::test]
async fn a_temporary_one_leaves_nothing_after_a_kill() {
    let mut server = new_server().await;
    let home = server.log_path().parent().unwrap().to_owned();
    server.kill().unwrap();
    assert!(home.exists());
    server.stop().unwrap();
    assert!(!home.exists());
}

#[tokio::test]
async fn a_paused_one_answers_when_resumed() {
    let mut server = new_server().await;
    let client = connect(&server.connection_string("postgres")).await;
    server.pause().unwrap();
    let mut answer = Box::pin(client.query_one("SELECT 1", &[]));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut answer).await.is_err());
    server.resume().unwrap();
    answer.await.unwrap();
}

#[tokio::test]
async fn a_paused_one_can_be_stopped() {
    let mut server = new_server().await;
    let _session = connect(&server.connection_string("postgres")).await;
    server.pause().unwrap();
    server.stop().unwrap();
}

#[test]
fn a_failed_start_tells_the_end_of_the_log() {
    let home = tempfile::tempdir().unwrap();
    start_in(home.path()).unwrap().stop().unwrap();
    fs::write(home.path().join("data/postgresql.conf"), "work_mem = plenty\n").unwrap();
    let error = start_in(home.path()).unwrap_err().to_string();
    assert!(error.contains("ended at once") && error.contains("work_mem"), "{error}");
}

#[test]
fn data_of_another_version_are_named() {
    let home = tempfile::tempdir().unwrap();
    start_in(home.path()).unwrap().stop().unwrap();
    fs::write(home.path().join("data/PG_VERSION"), "99\n").unwrap();
    let error = start_in(home.path()).unwrap_err().to_string();
    assert!(error.contains("postgresql-99"), "{error}");
}

#[test]
fn a_stranger_with_a_dead_servers_number_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    start_in(home.path()).unwrap().stop().unwrap();
    let mut stranger = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let claim = format!("{}\n/proc/self/fd/9\n1\n5432\n/tmp\n\n0 0\nready\n", stranger.id());
    fs::write(home.path().join("data/postmaster.pid"), claim).unwrap();
    start_in(home.path()).unwrap().stop().unwrap();
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// A process that owns a private PostgreSQL until it is killed.
struct Owner {
    process: Child,
    home: PathBuf,
    socket_directory: PathBuf,
    server: Pid,
}

impl Owner {
    /// Runs [`owner`] in a process of its own.
    fn start(home: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::owner", "--ignored", "--nocapture"])
            .env("FLEETGATE_TEST_OWNER_HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready =
            lines.find_map(|line| Some(line.unwrap().split_once("owner of ")?.1.to_owned()));
        let ready = ready.expect("the owner ended early");
        let (home, socket) = ready.split_once(" and ").unwrap();
        let (home, socket) = (PathBuf::from(home), PathBuf::from(socket));
        let server = server_of(&home);
        assert!(is_running(server));
        Self { process, socket_directory: socket.parent().unwrap().to_owned(), server, home }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
#[ignore = "run by other tests in a process of its own, which they kill"]
fn owner() {
    let home = std::env::var("FLEETGATE_TEST_OWNER_HOME").expect("other tests run this one");
    let home = if home.is_empty() { Home::Temporary } else { Home::Kept(home.into()) };
    let server = PrivatePostgres::start(&home, CONNECTIONS).unwrap();
    let home = server.log_path().parent().unwrap().to_owned();
    println!("owner of {} and {}", home.display(), server.socket_path().display());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

#[test]
fn a_temporary_one_leaves_nothing_when_its_owner_is_killed() {
    let mut owner = Owner::start("");
    owner.kill();
    wait_until("the clean-up", || !owner.home.exists() && !owner.socket_directory.exists());
    assert!(!is_running(owner.server));
}

#[test]
fn a_kept_one_shuts_down_when_its_owner_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let mut owner = Owner::start(home.path().to_str().unwrap());
    owner.kill();
    wait_until("the shutdown", || !owner.socket_directory.exists());
    assert!(!is_running(owner.server));
    let log = fs::read_to_string(home.path().join("postgres.log")).unwrap();
    assert!(log.contains("database system is shut down"), "{log}");
}

#[tokio::test]
async fn a_server_left_behind_is_stopped_by_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let mut owner = Owner::start(home.path().to_str().unwrap());
    let watchers = watchers_of(owner.server);
    assert_eq!(watchers.len(), 2, "the watching shell and the part of it that reads the pipe");
    watchers.into_iter().for_each(|pid| kill_process(pid, Signal::KILL).unwrap());
    owner.kill();
    assert!(is_running(owner.server));
    let server = start_in(home.path()).unwrap();
    assert!(!is_running(owner.server));
    connect(&server.connection_string("postgres")).await;
}

#[tokio::test]
async fn fresh_databases_are_apart() {
    let (one, other) = tokio::join!(fresh_database(), fresh_database());
    let (one, other) = (connect(&one.owner_url()).await, connect(&other.owner_url()).await);
    for client in [one, other] {
        client.batch_execute("CREATE TABLE of_one_test ()").await.unwrap();
    }
}
