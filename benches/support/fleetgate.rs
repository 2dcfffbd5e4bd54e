//! Fleetgate as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::requests::TOKEN;

/// How long it may take to get ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Names another build to measure than the one beside this benchmark.
const OTHER_BUILD: &str = "BENCH_FLEETGATE";

/// The release build over a database, without anything else in its environment.
pub(crate) fn command(database_url: &str) -> Command {
    let own_build = || env!("CARGO_BIN_EXE_fleetgate").into();
    let mut command = Command::new(std::env::var_os(OTHER_BUILD).unwrap_or_else(own_build));
    command.env_clear().env("FLEETGATE_DATABASE_URL", database_url);
    command
}

/// In a line of the log that is about what is as it should be.
const INFO: &str = r#""level":"INFO""#;

/// A running service. Dropping it kills it.
pub(crate) struct Fleetgate {
    child: Child,
    address: SocketAddr,
    /// From the start of the process until `/readyz` said 200.
    pub(crate) ready_after: Duration,
}

impl Fleetgate {
    /// Starts the release build over a database and waits until it is ready. Settings are those of
    /// the stack in `docker/compose.yaml`, apart from `more`.
    pub(crate) async fn start(database_url: &str, more: &[(&str, &str)]) -> Self {
        let began = Instant::now();
        let mut command = command(database_url);
        command.arg("serve").stderr(Stdio::piped());
        command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN);
        command.env("FLEETGATE_EMQX_ACL_IN_LOGIN", "true");
        command.env("FLEETGATE_HTTP_LISTEN", "127.0.0.1:0").env("FLEETGATE_API_LISTEN", "off");
        command.env("FLEETGATE_LOG_FORMAT", "json");
        command.envs(more.iter().copied());
        let mut child = command.spawn().expect("fleetgate starts");
        let address = address(&mut child);
        let mut service = Self { child, address, ready_after: Duration::ZERO };
        service.wait_until_ready(began + PATIENCE).await;
        service.ready_after = began.elapsed();
        service
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks again and again, because readiness is told to whoever asks and to nobody else.
    async fn wait_until_ready(&self, deadline: Instant) {
        let mut connection = Connection::open(self.address).await.expect("fleetgate listens");
        let request = b"GET /readyz HTTP/1.1\r\nhost: fleetgate\r\n\r\n";
        while connection.exchange(request).await.expect("an answer").status != 200 {
            assert!(Instant::now() < deadline, "fleetgate did not get ready within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Fleetgate {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The address that its log tells; what it warns of later goes on to our standard error.
fn address(child: &mut Child) -> SocketAddr {
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let address = loop {
        let line = lines.next().expect("fleetgate serves").expect("a line of its log");
        let entry: serde_json::Value = serde_json::from_str(&line).expect("a log line in JSON");
        match entry["address"].as_str() {
            Some(address) if entry["message"] == "serving" => break address.parse(),
            _ if entry["level"] == "INFO" => {}
            _ => eprintln!("{line}"),
        }
    };
    std::thread::spawn(move || {
        let warnings = lines.map_while(Result::ok).filter(|line| !line.contains(INFO));
        warnings.for_each(|line| eprintln!("{line}"));
    });
    address.expect("an address")
}
