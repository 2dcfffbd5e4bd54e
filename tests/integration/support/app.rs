//! The real service on a real port, over a database of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fleetgate::app::{App, AppError};
use fleetgate::clock::Clock;
use fleetgate::config::{
    Api, Audit, Cache, Commands, Config, Database, Emqx, Hashing, Http, Imports, Ingest, Log,
    LogFormat, Logins, Tokens,
};
use fleetgate::secret::Secret;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fleet::Fleet;
use super::postgres::{TestDatabase, fresh_database};
use super::wire::{Connection, Response, post};

/// The token of the recordings.
pub(crate) const TOKEN: &str = "recorded-webhook-token";

/// A running service. Dropping it stops it.
pub(crate) struct TestApp {
    pub(crate) address: SocketAddr,
    pub(crate) api_address: Option<SocketAddr>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<Result<(), AppError>>>,
}

/// Settings for a database; tests change what they are about.
pub(crate) fn config(database_url: &str) -> Config {
    Config {
        http: Http {
            listen: ([127, 0, 0, 1], 0).into(),
            workers: 2,
            keep_alive: Duration::from_secs(75),
            max_connections: 1024,
            shutdown_grace: Duration::from_secs(5),
        },
        api: Api {
            listen: None,
            tls_certificate: None,
            tls_key: None,
            public_url: None,
            first_token_file: None,
        },
        database: Database {
            url: Secret::new(database_url.to_owned()),
            password: None,
            ca_file: None,
            pool_size: 4,
            connect_timeout: Duration::from_secs(2),
            query_timeout: Duration::from_secs(2),
            directory: PathBuf::new(),
        },
        emqx: Emqx {
            webhook_token: Secret::new(TOKEN.to_owned()),
            previous_webhook_token: None,
            acl_in_login: false,
            api: None,
            sweep_interval: Duration::from_secs(3600),
            max_session: None,
        },
        cache: Cache {
            devices: 1000,
            unknown_names: 100,
            unknown_ttl: Duration::from_secs(5),
            max_staleness: Duration::from_secs(600),
        },
        hashing: Hashing { threads: 1, queue: 64 },
        imports: Imports { upgrade: true },
        logins: Logins { limits: true, exempt_networks: Vec::new() },
        commands: Commands {
            keep: Duration::from_secs(30 * 24 * 3600),
            max_payload: 65_536,
            max_devices: 10_000,
        },
        audit: Audit { keep: Duration::from_secs(365 * 86_400) },
        ingest: Ingest {
            queue: 10_000,
            batch: 512,
            linger: Duration::from_millis(1),
            writers: 2,
            max_payload: 64 * 1024,
            // Tests and recordings tell of days that are gone.
            keep_sessions: Duration::from_secs(100 * 365 * 86_400),
        },
        tokens: Tokens {
            audience: "fleetgate".to_owned(),
            verification_keys: Vec::new(),
            signing_key: None,
        },
        log: Log { format: LogFormat::Text, filter: "info".to_owned() },
    }
}

/// A service that is ready, over a database of its own with a fleet to fill.
pub(crate) async fn start() -> (TestApp, Fleet, TestDatabase) {
    start_with(|_| {}).await
}

/// The same with changed settings.
pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> (TestApp, Fleet, TestDatabase) {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    let mut config = config(&database.url);
    change(&mut config);
    let app = TestApp::start(config).await;
    app.ready().await;
    (app, fleet, database)
}

impl TestApp {
    /// Starts a service, ready or not.
    pub(crate) async fn start(config: Config) -> Self {
        let stop = CancellationToken::new();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let token = stop.clone();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let app = App::build(&config, Clock::System, token)?;
                sender.send((app.address(), app.api_address())).unwrap();
                app.run().await
            })
        });
        let (address, api_address) = receiver.await.expect("the service did not start");
        Self { address, api_address, stop, thread: Some(thread) }
    }

    /// Waits until `/readyz` says yes.
    pub(crate) async fn ready(&self) {
        let ready = || async { self.get("/readyz").await.status == 200 };
        eventually("the service is ready", ready).await;
    }

    /// Waits until it has heard of so many changes since it started: what it loads from then on is
    /// not disturbed by a notice that is still under way.
    pub(crate) async fn hears(&self, changes: f64) {
        let heard = || async { self.metric("fleetgate_listen_changes_total").await >= changes };
        eventually("the changes are heard of", heard).await;
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> Result<(), AppError> {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) -> Result<(), AppError> {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let request = format!("GET {path} HTTP/1.1\r\nhost: fleetgate\r\n\r\n");
        self.connect().await.exchange(request.as_bytes()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Response {
        self.connect().await.exchange(&post(path, TOKEN, body)).await
    }

    /// A login whose client id is the user name.
    pub(crate) async fn login(&self, name: &str, password: &str) -> Response {
        self.post("/emqx/authn", &login_body(name, name, password, "").to_string()).await
    }

    /// `allow` or `deny`.
    pub(crate) async fn logs_in(&self, name: &str, password: &str) -> String {
        self.login(name, password).await.result()
    }

    /// Whether the login is allowed; one that cannot be decided now is not.
    pub(crate) async fn lets_in(&self, name: &str, password: &str) -> bool {
        let answer = self.login(name, password).await;
        answer.status == 200 && answer.result() == "allow"
    }

    pub(crate) async fn action(&self, name: &str, action: &str, topic: &str) -> Response {
        self.post("/emqx/authz", &action_body(name, action, topic).to_string()).await
    }

    pub(crate) async fn publishes(&self, name: &str, topic: &str) -> String {
        self.action(name, "publish", topic).await.result()
    }

    /// What an event is answered with.
    pub(crate) async fn event(&self, event: &Value) -> Response {
        self.post("/emqx/events", &event.to_string()).await
    }

    /// The value of a counter whose line is not there before the first one is counted.
    pub(crate) async fn counted(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        if text.contains(name) { self.metric(name).await } else { 0.0 }
    }

    /// The value of one metric line, by its name with labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no metric {name}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the service panicked").expect("the service failed");
            }
        }
    }
}

pub(crate) fn login_body(client_id: &str, name: &str, password: &str, common_name: &str) -> Value {
    json!({
        "clientid": client_id, "username": name, "password": password, "peerhost": "127.0.0.1",
        "cert_common_name": common_name, "cert_subject": "",
    })
}

pub(crate) fn action_body(name: &str, action: &str, topic: &str) -> Value {
    json!({
        "clientid": name, "username": name, "peerhost": "127.0.0.1", "action": action,
        "topic": topic, "qos": "1", "retain": "false",
    })
}

/// Asks again and again until it holds; fails after half a minute, which is long on the slowest machine.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl FnMut() -> F) {
    within(Duration::from_secs(30), what, holds).await;
}

/// The same with a time of one's own.
pub(crate) async fn within<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> F,
) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < limit, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // why: there is nothing to await
    }
}
