//! Killed in the middle of a load: what was acknowledged is in the database.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::app::{TOKEN, TestApp, config, eventually};
use crate::support::bus::message;
use crate::support::fleet::Fleet;
use crate::support::postgres::{connect, fresh_database, new_database, new_server};
use crate::support::wire::post;

const CONNECTIONS: usize = 8;
const AT: i64 = 1_795_356_000_000;
/// Each event of a connection goes to a binding of its own, so that each is seen in the end.
const BINDINGS: usize = 400;

struct Load {
    address: SocketAddr,
    acknowledged: AtomicUsize,
    over: AtomicBool,
}

async fn provision(url: &str) -> Fleet {
    let client = connect(url).await;
    let statements = format!(
        "INSERT INTO devices (name, kind) SELECT 'd' || n, 'sensor' FROM generate_series(0, {CONNECTIONS} - 1) n;
         INSERT INTO capabilities (name) SELECT 'c' || n FROM generate_series(0, {BINDINGS} - 1) n;
         INSERT INTO device_capabilities SELECT id, c.name FROM devices, capabilities c;
         INSERT INTO topic_bindings (device_id, name, state_topic) SELECT id, c.name, 't/' || c.name FROM devices, capabilities c;"
    );
    client.batch_execute(&statements).await.unwrap();
    Fleet::connect(url).await
}

/// Sends one event; `None` when the service went away over it.
async fn send(stream: &mut Option<TcpStream>, address: SocketAddr, event: &str) -> Option<u16> {
    if stream.is_none() {
        *stream = TcpStream::connect(address).await.ok();
    }
    let open = stream.as_mut()?;
    let mut answer = vec![0; 1024];
    let exchange = async {
        open.write_all(&post("/emqx/events", TOKEN, event)).await.ok()?;
        let read = open.read(&mut answer).await.ok().filter(|read| *read > 0)?;
        let head = std::str::from_utf8(answer.get(..read)?).ok()?;
        head.split(' ').nth(1)?.parse().ok()
    };
    let status = exchange.await;
    if status != Some(204) {
        *stream = None; // a 503 has a body, which may come later
    }
    status
}

/// Sends a device's events in order, each until it is acknowledged; gives how many were.
async fn keep_sending(load: Arc<Load>, device: usize) -> usize {
    let mut stream = None;
    for n in 0..BINDINGS {
        let at = AT + i64::try_from(n).unwrap();
        let event = message(&format!("d{device}"), &format!("t/c{n}"), at, "00", &n.to_string());
        let event = event.to_string();
        while send(&mut stream, load.address, &event).await != Some(204) {
            if load.over.load(Ordering::Relaxed) {
                return n;
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // why: as EMQX does before a retry
        }
        load.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    BINDINGS
}

type Senders = Vec<tokio::task::JoinHandle<usize>>;

fn start_load(address: SocketAddr) -> (Arc<Load>, Senders) {
    let load = Load { address, acknowledged: AtomicUsize::new(0), over: AtomicBool::new(false) };
    let load = Arc::new(load);
    let senders = (0..CONNECTIONS).map(|device| tokio::spawn(keep_sending(load.clone(), device)));
    let senders = senders.collect();
    (load, senders)
}

async fn acknowledged(load: &Load, events: usize) {
    eventually("enough is acknowledged", || async {
        load.acknowledged.load(Ordering::Relaxed) >= events
    })
    .await;
}

async fn assert_kept(fleet: &Fleet, senders: Senders) -> usize {
    let mut total = 0;
    for (device, sender) in senders.into_iter().enumerate() {
        let sent = sender.await.unwrap();
        total += sent;
        let query = format!(
            "SELECT count(*) FROM generate_series(0, {sent} - 1) n
             WHERE (SELECT state -> ('c' || n) -> 'value' FROM device_state JOIN devices ON id = device_id
                    WHERE name = 'd{device}') IS DISTINCT FROM to_jsonb(n)"
        );
        assert_eq!(fleet.value::<i64>(&query).await, 0, "d{device} lost acknowledged events");
    }
    total
}

struct Service(Child);

impl Service {
    fn start(address: SocketAddr, database_url: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_fleetgate"))
            .arg("serve")
            .env("FLEETGATE_HTTP_LISTEN", address.to_string())
            .env("FLEETGATE_DATABASE_URL", database_url)
            .env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN)
            .env("FLEETGATE_LOG_FILTER", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Service {
    /// SIGKILL.
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_killed_service_has_committed_what_it_acknowledged() {
    let database = fresh_database().await;
    let fleet = provision(&database.url).await;
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let service = Service::start(address, &database.url);
    let (load, senders) = start_load(address);
    acknowledged(&load, 400).await;
    drop(service);
    let before = load.acknowledged.load(Ordering::Relaxed);
    let service = Service::start(address, &database.url);
    acknowledged(&load, before + 400).await;
    drop(service);
    load.over.store(true, Ordering::Relaxed);
    assert!(assert_kept(&fleet, senders).await >= before + 400);
}

#[tokio::test]
async fn a_killed_postgres_keeps_what_was_acknowledged_and_the_service_comes_back() {
    let mut postgres = new_server().await;
    let database = new_database(&postgres).await;
    provision(&database.url).await;
    let app = TestApp::start(config(&database.url)).await;
    app.ready().await;
    let (load, senders) = start_load(app.address);
    acknowledged(&load, 400).await;
    postgres.kill().unwrap();
    let event = message("d0", "t/c0", AT, "00", "0");
    eventually("events are put off", || async { app.event(&event).await.status == 503 }).await;
    postgres.restart().unwrap();
    let fleet = Fleet::connect(&database.url).await;
    assert_eq!(assert_kept(&fleet, senders).await, CONNECTIONS * BINDINGS);
}
