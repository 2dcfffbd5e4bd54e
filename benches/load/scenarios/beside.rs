//! Logins and actions at a steady pace: alone; beside all that others ask of the HTTP API at once, which is an import, one
//! export after the other, and as many event streams as there may be while devices report; and beside threads that only
//! compute, one a processor, so that what the service does to them can be told from what the operating system does to whoever
//! shares its processors.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fleetgate::clock::Clock;
use fleetgate::domain::api_token::{Scope, Scopes};
use fleetgate::fleet::api_tokens::{self, NewApiToken};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::imports::exported;
use crate::plan::{Length, Traffic};
use crate::support::fleetgate::Fleetgate;
use crate::support::registry::connect;
use crate::table::{Bar, Row};
use crate::turns::{POOL, Run, TURN, TURNS, load, load_at_pace, median_by};

/// Devices that are there before the import.
pub(super) const DEVICES: u32 = 20_000;
/// Those that log in and act. Others report.
const ACTIVE: std::ops::Range<u32> = 0..1_000;
const REPORTING: std::ops::Range<u32> = 1_000..2_000;
/// After an answer a connection waits so long: over 32 connections that is about a quarter of what two processors give.
const PAUSE: Duration = Duration::from_millis(1);
/// Connections over which events come, each after such a pause.
const REPORTERS: usize = 4;
const PAUSE_OF_REPORTERS: Duration = Duration::from_millis(10);
/// Streams, as many as may be open, and of how many tokens.
const STREAMS: usize = 100;
const TOKENS: usize = 10;
/// How much longer than it is measured the rest runs.
const BEFORE: Duration = Duration::from_millis(500);
/// Until it is tried again what is refused, because that of the turn before is not over yet.
const AGAIN: Duration = Duration::from_millis(50);
/// The timestamps of each run of events begin this many ms after those of the run before.
const APART_MS: i64 = 60_000;
/// The highest that the p99 may be, compared with that alone, and with that beside threads that only compute.
const AT_MOST: f64 = 1.5;

pub(super) async fn busy_api(url: &str) -> Vec<Row> {
    let client = connect(url).await;
    let mut tokens = Vec::new();
    for number in 0..TOKENS {
        let new = NewApiToken {
            name: format!("bench-{number}").parse().expect("a name"),
            scopes: Scopes::new([Scope::Admin]),
            selector: None,
            expires_at: None,
        };
        let (token, _) = api_tokens::add(&client, &new).await.expect("a token");
        tokens.push(token.expose().to_owned());
    }
    let address = free_address();
    let listen = address.to_string();
    let service = Fleetgate::start(url, &[("FLEETGATE_API_LISTEN", &listen)]).await;
    let others = Arc::new(Others {
        address,
        tokens,
        next: AtomicU32::new(0),
        exported: AtomicU64::new(0),
        since: AtomicI64::new(Clock::System.now().as_millisecond() - 24 * 3_600_000),
    });
    let mut rows = Vec::new();
    for (name, traffic) in [
        ("authz beside an import, exports and 100 streams", Traffic::Actions(ACTIVE)),
        ("authn beside an import, exports and 100 streams", Traffic::Logins(ACTIVE)),
    ] {
        load(&service, POOL, &traffic, Length::Once).await;
        rows.extend(beside(name, &service, &traffic, &others).await);
    }
    let imported = "SELECT count(*) FROM devices WHERE name LIKE 'copy-%'";
    let imported: i64 = client.query_one(imported, &[]).await.expect("a count").get(0);
    let exported = others.exported.load(Ordering::Relaxed) / 1_000_000;
    let time = (TURN + 2 * BEFORE) * 2 * u32::try_from(TURNS).expect("a few");
    println!("beside: {imported} devices imported and {exported} MB exported within {time:?}");
    assert!(imported > 0 && exported > 0, "something was beside");
    rows
}

async fn beside(
    name: &'static str,
    service: &Fleetgate,
    traffic: &Traffic,
    others: &Arc<Others>,
) -> [Row; 2] {
    let paced = || load_at_pace(service, POOL, PAUSE, traffic, Length::Time(TURN));
    let (mut with_alone, mut with_computing) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let alone = paced().await;
        let computing = {
            let _computing = Computing::begin();
            paced().await
        };
        let mut tasks = others.begin();
        let reports = Traffic::Events {
            devices: REPORTING,
            since_ms: others.since.fetch_add(APART_MS, Ordering::Relaxed),
        };
        let time = Length::Time(TURN + 2 * BEFORE);
        let (beside, _) = tokio::join!(
            async {
                tokio::time::sleep(BEFORE).await;
                paced().await
            },
            load_at_pace(service, REPORTERS, PAUSE_OF_REPORTERS, &reports, time),
        );
        tasks.shutdown().await;
        with_alone.push((alone, beside.clone()));
        with_computing.push((computing, beside));
    }
    let row = |pairs: Vec<(Run, Run)>, with: &'static str, unit: &'static str| {
        let ratio = |(other, beside): &(Run, Run)| {
            beside.report.p99.as_secs_f64() / other.report.p99.as_secs_f64()
        };
        let pair = median_by(pairs, ratio);
        let figure = ratio(&pair);
        let (other, beside) = pair;
        println!("{name}: p99 {:?}, {with} {:?}", beside.report.p99, other.report.p99);
        Row::figure(name, figure, unit, Bar::AtMost(AT_MOST)).run(&beside).against(with, &other)
    };
    [
        row(with_alone, "alone", "× its p99 alone"),
        row(with_computing, "beside computing", "× its p99 beside threads that only compute"),
    ]
}

/// Threads that only compute, one a processor, until this goes.
struct Computing {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Computing {
    fn begin() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = (0..processors).map(|_| {
            let is_over = is_over.clone();
            thread::spawn(move || while !is_over.load(Ordering::Relaxed) {})
        });
        Self { threads: threads.collect(), is_over }
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("it only computes");
        }
    }
}

/// The API does not tell its port.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address")
}

/// What others ask of the API, and how far they have come.
struct Others {
    address: SocketAddr,
    tokens: Vec<String>,
    /// The number of the next device.
    next: AtomicU32,
    /// Bytes of exports.
    exported: AtomicU64,
    since: AtomicI64,
}

impl Others {
    /// Has all of it begin. It ends with the tasks.
    fn begin(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for stream in 0..STREAMS {
            let others = self.clone();
            tasks.spawn(async move { others.watch(stream % TOKENS).await });
        }
        let others = self.clone();
        tasks.spawn(async move { others.import().await });
        let others = self.clone();
        tasks.spawn(async move {
            loop {
                others.export().await;
            }
        });
        tasks
    }

    async fn ask(&self, token: usize, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("the API listens");
        let (host, token) = (self.address, &self.tokens[token]);
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let request = format!(
            "{line} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("the API reads");
        stream
    }

    /// Follows what changes.
    async fn watch(&self, token: usize) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let mut stream = self.ask(token, "GET /api/v1/events").await;
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                if is_busy(&String::from_utf8_lossy(&buffer[..read.min(64)])) {
                    break;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Imports devices that are not there yet, for ever.
    async fn import(&self) {
        loop {
            let head = "POST /api/v1/imports\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n";
            let mut stream = self.ask(0, head).await;
            let mut answer = [0; 1024];
            loop {
                // What a connection that ends does not take is passed over: no name comes twice.
                let first = self.next.fetch_add(500, Ordering::Relaxed);
                let lines: String =
                    (first..first + 500).map(|number| exported(number) + "\n").collect();
                let piece = format!("{:x}\r\n{lines}\r\n", lines.len());
                let written = stream.write_all(piece.as_bytes()).await;
                // It answers when it is refused, and otherwise at its end.
                let answered = stream.try_read(&mut answer).unwrap_or(0);
                let answer = String::from_utf8_lossy(&answer[..answered]);
                assert!(answer.is_empty() || is_busy(&answer), "{answer}");
                if written.is_err() || answered > 0 {
                    break;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Reads one whole export.
    async fn export(&self) {
        let head = "GET /api/v1/exports?with_credentials=true\nconnection: close\r\n";
        let mut stream = self.ask(0, head).await;
        let (mut buffer, mut first, mut end) = (vec![0; 64 * 1024], String::new(), Vec::new());
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            if first.is_empty() {
                first = String::from_utf8_lossy(&buffer[..read.min(64)]).into_owned();
            }
            self.exported.fetch_add(read as u64, Ordering::Relaxed);
            end.extend_from_slice(&buffer[read.saturating_sub(5)..read]);
            end.drain(..end.len().saturating_sub(5));
        }
        if is_busy(&first) {
            return tokio::time::sleep(AGAIN).await;
        }
        assert_eq!(end, b"0\r\n\r\n", "the export is whole");
    }
}

/// Whether what was asked in the turn before is not over yet.
fn is_busy(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 429")
}
