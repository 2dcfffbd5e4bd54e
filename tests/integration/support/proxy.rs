//! A TCP proxy in front of PostgreSQL's unix socket that can delay, freeze, refuse, cut and strand.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the network does at present.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Weather {
    /// Every chunk is held back this long, in each direction.
    Delay(Duration),
    /// Nothing passes; connections stay open.
    Frozen,
    /// Connections are closed as soon as they are made.
    Refusing,
}

pub(crate) struct Proxy {
    port: u16,
    weather: Arc<Mutex<watch::Sender<Weather>>>,
    stranded: Mutex<Vec<watch::Sender<Weather>>>,
    upstream: Arc<Mutex<PathBuf>>,
    connections: Arc<Mutex<CancellationToken>>,
    opened: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start(upstream: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let weather = Arc::new(Mutex::new(fair()));
        let connections = Arc::new(Mutex::new(CancellationToken::new()));
        let opened = Arc::new(AtomicUsize::new(0));
        let (current, count, forecast) = (connections.clone(), opened.clone(), weather.clone());
        let upstream = Arc::new(Mutex::new(upstream));
        let leads_to = upstream.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let forecast = forecast.lock().unwrap().subscribe();
                if *forecast.borrow() == Weather::Refusing {
                    continue;
                }
                let cut = current.lock().unwrap().clone();
                let upstream = leads_to.lock().unwrap().clone();
                tokio::spawn(forward(client, upstream, forecast, cut));
            }
        });
        Self { port, weather, stranded: Mutex::default(), upstream, connections, opened }
    }

    /// How many connections were made to it.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// Where it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The database URL through the proxy, from one that goes directly.
    pub(crate) fn url(&self, direct: &str) -> String {
        let kept = direct.split_whitespace().filter(|word| !word.starts_with("host="));
        let kept: Vec<&str> = kept.filter(|word| !word.starts_with("port=")).collect();
        format!("host=127.0.0.1 port={} {}", self.port, kept.join(" "))
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.lock().unwrap().send_replace(weather);
    }

    /// Freezes every connection there is for ever; those that are made from now on lead elsewhere.
    pub(crate) fn lead_to(&self, upstream: PathBuf) {
        *self.upstream.lock().unwrap() = upstream;
        let old = std::mem::replace(&mut *self.weather.lock().unwrap(), fair());
        old.send_replace(Weather::Frozen);
        self.stranded.lock().unwrap().push(old);
    }

    /// Ends every connection there is.
    pub(crate) fn cut(&self) {
        let old = std::mem::take(&mut *self.connections.lock().unwrap());
        old.cancel();
    }
}

fn fair() -> watch::Sender<Weather> {
    watch::Sender::new(Weather::Delay(Duration::ZERO))
}

async fn forward(
    client: TcpStream,
    upstream: PathBuf,
    weather: watch::Receiver<Weather>,
    cut: CancellationToken,
) {
    let Ok(server) = UnixStream::connect(upstream).await else { return };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = pump(client_read, server_write, weather.clone()) => {}
        () = pump(server_read, client_write, weather) => {}
        () = cut.cancelled() => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let Ok(now) = weather.wait_for(|weather| *weather != Weather::Frozen).await.map(|now| *now)
        else {
            return;
        };
        if let Weather::Delay(delay) = now {
            tokio::time::sleep(delay).await; // why: the delay is the fault being injected
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}
