//! Strangers that hold connections, and how connections end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::app::{TOKEN, TestApp, action_body, eventually, start, start_with};
use crate::support::serve::Serve;
use crate::support::wire::{Connection, post};

const HALF_A_HEAD: &[u8] = b"POST /emqx/authn HTTP/1.1\r\nhost: x\r\nauthori";

/// A connection from an address of its own: 127.0.0.1 to .255 are all this machine's.
async fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, last], 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Sends something on so many connections from one address and keeps them.
async fn crowd(address: SocketAddr, last: u8, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect_from(last, address).await;
        // Its connection may be closed at once.
        let _closed = stream.write_all(bytes).await;
        crowd.push(stream);
    }
    crowd
}

/// Reads until the server ends the connection; how long that took.
async fn ended(mut stream: TcpStream) -> Duration {
    let began = Instant::now();
    let mut sink = vec![0; 4096];
    let end = async { while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(Duration::from_secs(30), end).await.expect("it stays open");
    began.elapsed()
}

async fn operators_and_devices_are_served(app: &TestApp, secret: &str) {
    assert_eq!(app.get("/healthz").await.status, 200);
    assert_eq!(app.get("/readyz").await.status, 200);
    assert_eq!(app.get("/metrics").await.status, 200);
    assert_eq!(app.logs_in("t", secret).await, "allow");
}

#[tokio::test]
async fn strangers_cannot_keep_others_out() {
    let (app, fleet, _database) = start_with(|config| config.http.max_connections = 64).await;
    fleet.device("t").await;
    let secret = fleet.secret("t").await;
    // As EMQX does: opened at the start, nothing said; one has been used.
    let mut silent = Connection::from(connect_from(2, app.address).await);
    let mut used = Connection::from(connect_from(3, app.address).await);
    let question = post("/emqx/authz", TOKEN, &action_body("t", "publish", "a").to_string());
    assert_eq!(used.exchange(&question).await.result(), "deny");
    let unread = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let half_a_body = b"POST /emqx/authn HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n{";
    let endless =
        b"GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    let ways: [&[u8]; 5] = [HALF_A_HEAD, b"", &unread, half_a_body, endless];
    let mut strangers = Vec::new();
    for (last, bytes) in (10..).zip(ways) {
        strangers.push(crowd(app.address, last, 80, bytes).await);
        operators_and_devices_are_served(&app, &secret).await;
    }
    assert_eq!(silent.exchange(&question).await.result(), "deny");
    assert_eq!(used.exchange(&question).await.result(), "deny");
    let closed = app.metric("fleetgate_http_connections_closed_total{reason=\"too_many\"}").await;
    assert!(closed >= 100.0, "{closed}; on a slow machine the limits of time end the others");
    assert!(app.metric("fleetgate_http_connections").await <= 64.0);
}

#[tokio::test]
async fn half_a_request_has_seconds_and_silence_has_longer() {
    let (app, fleet, _database) = start().await;
    fleet.device("t").await;
    let mut silent = app.connect().await;
    let half = |bytes: &'static [u8]| async move {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    };
    let first = half(HALF_A_HEAD).await;
    // The second request of a connection, byte by byte, and a body that nobody reads.
    let mut dripping = half(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut endless =
        half(b"GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let dripped = async {
        let began = Instant::now();
        while dripping.write_all(b"P").await.is_ok()
            && endless.write_all(b"1\r\nx\r\n").await.is_ok()
        {
            assert!(began.elapsed() < Duration::from_secs(30), "they stay open");
            tokio::time::sleep(Duration::from_millis(200)).await; // why: a slow client
        }
    };
    let unread = async {
        let mut stream = half(b"").await;
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
        let began = Instant::now();
        while stream.write_all(&request).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(30), "it stays open");
        }
    };
    let (took, (), ()) = tokio::join!(ended(first), dripped, unread);
    assert!(took > Duration::from_secs(3), "{took:?}");
    let closed =
        |reason: &str| format!("fleetgate_http_connections_closed_total{{reason={reason:?}}}");
    assert!(app.metric(&closed("late_request")).await >= 2.0);
    assert_eq!(app.metric(&closed("unread_answer")).await, 1.0);
    let question = post("/emqx/authz", TOKEN, &action_body("t", "publish", "a").to_string());
    assert_eq!(silent.exchange(&question).await.result(), "deny");
}

#[tokio::test]
async fn silence_ends_without_a_word() {
    let (app, _fleet, _database) =
        start_with(|config| config.http.keep_alive = Duration::from_secs(1)).await;
    let mut silent = TcpStream::connect(app.address).await.unwrap();
    let mut used = TcpStream::connect(app.address).await.unwrap();
    used.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let (mut nothing, mut answer) = (Vec::new(), Vec::new());
    let (first, second) =
        tokio::join!(silent.read_to_end(&mut nothing), used.read_to_end(&mut answer));
    assert_eq!(first.unwrap(), 0, "EMQX would take a 408 for the answer to its next request");
    second.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn half_a_request_behind_a_whole_one_has_seconds() {
    let (app, fleet, _database) =
        start_with(|config| config.http.keep_alive = Duration::from_secs(3600)).await;
    fleet.device("t").await;
    let question = post("/emqx/authz", TOKEN, &action_body("t", "publish", "a").to_string());
    let mut proven = app.connect().await;
    assert_eq!(proven.exchange(&question).await.result(), "deny");
    let mut both = TcpStream::connect(app.address).await.unwrap();
    both.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /he").await.unwrap();
    // As Prometheus does: the next request comes later on the same connection.
    let mut kept = app.connect().await;
    let scrape = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    assert_eq!(kept.exchange(scrape).await.status, 200);
    let again = async {
        tokio::time::sleep(Duration::from_secs(2)).await; // why: a client that is silent meanwhile
        kept.exchange(scrape).await.status
    };
    let (took, status) = tokio::join!(ended(both), again);
    assert!(took > Duration::from_secs(3), "{took:?}");
    assert_eq!(status, 200);
    assert_eq!(proven.exchange(&question).await.result(), "deny", "EMQX's stay open");
}

/// What was seen in November 2026, with the limits that a process starts with.
#[tokio::test]
async fn thousands_of_half_heads_leave_the_service_reachable() {
    const STRANGERS: usize = 4_300;
    let limit = fleetgate::lifecycle::raise_open_files();
    assert!(limit > STRANGERS + 500, "the test needs more open files than {limit}");
    let serve = Serve::start(&[(
        "FLEETGATE_DATABASE_URL",
        "postgresql://nobody@127.0.0.1:1/none".to_owned(),
    )]);
    let _strangers = crowd(serve.address, 9, STRANGERS, HALF_A_HEAD).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut connection = Connection::open(serve.address).await;
        let exchange = connection.exchange(request.as_bytes());
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await.expect(path);
        assert!([200, 503].contains(&answer.status), "{path} {}", answer.status);
    }
    serve.stop();
}

#[tokio::test]
async fn few_open_files_are_enough_and_told() {
    let serve = Serve::start_by(
        "ulimit -n 200; exec \"$0\" \"$@\"",
        &[("FLEETGATE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none".to_owned())],
    );
    let _strangers = crowd(serve.address, 9, 300, HALF_A_HEAD).await;
    let mut connection = Connection::open(serve.address).await;
    let answer = connection.exchange(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    let log = serve.stop();
    assert!(log.contains("open_files=200") && log.contains("LimitNOFILE"), "{log}");
}

/// Sends an event again as soon as its 503 comes, as EMQX does; a hundred are on their way all the time.
/// Returns how many were acknowledged, and how many answers had come in when the connection ended.
async fn never_silent(address: SocketAddr) -> (u64, u64) {
    let event = r#"{"event":"client.connected","clientid":"t","username":"t","connected_at":1795356000000}"#;
    let request = post("/emqx/events", TOKEN, event);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&request.repeat(100)).await.unwrap();
    let (mut committed, mut answered) = (0, 0);
    let mut text = Vec::new();
    while stream.read_buf(&mut text).await.is_ok_and(|read| read > 0) {
        let heads = |status: &[u8]| text.windows(12).filter(|part| *part == status).count();
        let (good, put_off) = (heads(b"HTTP/1.1 204"), heads(b"HTTP/1.1 503"));
        committed += good as u64;
        answered += (good + put_off) as u64;
        // A head that is cut off is counted when the rest of it is there.
        text.drain(..text.len().saturating_sub(11));
        if stream.write_all(&request.repeat(good + put_off)).await.is_err() {
            break;
        }
    }
    (committed, answered)
}

#[tokio::test]
async fn stopping_under_load_takes_no_longer_than_the_answers() {
    let (app, fleet, _database) = start_with(|config| {
        config.http.workers = 2;
        config.http.shutdown_grace = Duration::from_secs(60);
    })
    .await;
    fleet.device("t").await;
    let senders: Vec<_> = (0..8).map(|_| tokio::spawn(never_silent(app.address))).collect();
    let mut half = app.connect().await;
    half.send(HALF_A_HEAD).await;
    eventually("events are committed", || async {
        app.metric("fleetgate_ingest_commit_duration_seconds_count").await > 20.0
    })
    .await;
    let began = Instant::now();
    tokio::task::spawn_blocking(move || app.stop()).await.unwrap().unwrap();
    let took = began.elapsed();
    for sender in senders {
        let (committed, answered) = sender.await.unwrap();
        assert!(committed > 0 && answered >= committed);
    }
    assert!(took < Duration::from_secs(10), "{took:?}; the grace period is no part of it");
    println!("stopped within {took:?}");
}

#[tokio::test]
async fn what_is_read_on_a_connection_is_answered_before_it_ends() {
    const REQUESTS: usize = 500;
    let (app, fleet, _database) = start_with(|config| config.http.workers = 1).await;
    fleet.device("t").await;
    let mut connection = app.connect().await;
    let events = (0..REQUESTS).map(|n| {
        let event = format!(
            r#"{{"event":"client.connected","clientid":"t","username":"t","connected_at":{}}}"#,
            1_795_356_000_000_u64 + n as u64
        );
        post("/emqx/events", TOKEN, &event)
    });
    connection.send(&events.collect::<Vec<_>>().concat()).await;
    assert_eq!(connection.receive().await.unwrap().status, 204);
    let stopping = tokio::task::spawn_blocking(move || app.stop());
    for n in 1..REQUESTS {
        let answer = connection.receive().await.unwrap_or_else(|| panic!("no answer to {n}"));
        assert!([204, 503].contains(&answer.status));
    }
    assert!(connection.receive().await.is_none(), "then it ends");
    stopping.await.unwrap().unwrap();
}
