//! The HTTP API's own socket, threads and connections to PostgreSQL.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::web::Data;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, timeout_at};

use super::{AppError, resources, set_up};
use crate::config::Config;
use crate::http::api::{self, Api, Parts};
use crate::http::connections::Connections;
use crate::http::server::{self, ConnectionLimits, Listener};
use crate::lifecycle;
use crate::logging::log_throttled;
use crate::metrics::ApiMetrics;
use crate::registry::connection::Target;
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::pool::Postgres;
use crate::tls::{self, Identity, News, Presented};

const SETTING: &str = "api.listen";

/// How often it is looked whether the certificate's files were replaced, though nobody connects: what is told of it should be
/// what the next client is shown.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Its connections: where few files may be open, most are EMQX's.
fn limits() -> ConnectionLimits {
    ConnectionLimits::fixed(api::MAX_CONNECTIONS.min(lifecycle::open_files() / 8).max(1))
}

/// Open files that the API may need.
pub(super) fn open_files(config: &Config) -> usize {
    config.api.listen.map_or(0, |_| limits().files() + api::POOL_SIZE)
}

/// Threads that it needs.
pub(super) fn threads(config: &Config) -> usize {
    config.api.listen.map_or(0, |_| api::WORKERS + 1)
}

/// Binds its port, if there is to be an API. One that is taken, as by another replica on the machine, is told in the log and
/// keeps no device out.
pub(super) fn bind(config: &Config) -> Result<Option<TcpListener>, AppError> {
    let Some(address) = config.api.listen else { return Ok(None) };
    match resources::bind(address, SETTING) {
        Err(error) if is_taken(&error) => {
            tracing::error!(%error, "serving without the HTTP API");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

fn is_taken(error: &AppError) -> bool {
    matches!(error, AppError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
}

/// Connections to PostgreSQL that are nobody else's.
pub(super) fn pool(
    target: &Target,
    freshness: &Arc<Freshness>,
    runtime: Handle,
) -> Result<Postgres, RegistryError> {
    let (statement, request) = (api::STATEMENT_TIMEOUT, api::REQUEST_TIMEOUT);
    let pool = Postgres::for_api(target, api::POOL_SIZE, statement, request, runtime)?;
    Ok(pool.unless_away(freshness.clone()))
}

fn tell(metrics: &ApiMetrics, news: News<'_>) {
    match news {
        News::Presents(end) => metrics.certificate_ends(end),
        News::Keeps(why) => log_throttled!(
            warn,
            "the API goes on with its certificate of before: the new one cannot be used",
            why
        ),
    }
}

/// For ever.
async fn keep_looking(certificate: Option<Arc<Presented>>) {
    let Some(certificate) = certificate else { return };
    loop {
        sleep(LOOK_EVERY).await;
        certificate.look();
    }
}

/// An API that has bound its port.
pub(super) struct ApiServer {
    address: SocketAddr,
    server: Server,
    connections: Arc<Connections>,
    /// `None`: plain HTTP.
    certificate: Option<Arc<Presented>>,
}

/// One that serves.
pub(super) struct Running {
    handle: ServerHandle,
    task: JoinHandle<io::Result<()>>,
    looking: JoinHandle<()>,
    connections: Arc<Connections>,
}

impl ApiServer {
    pub(super) fn start(
        config: &Config,
        socket: TcpListener,
        parts: Parts,
    ) -> Result<Self, AppError> {
        let listen = |source| {
            let address = config.api.listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
            AppError::Listen { address, setting: SETTING, source }
        };
        let address = socket.local_addr().map_err(listen)?;
        let identity = config.api.tls_certificate.clone().zip(config.api.tls_key.clone());
        let identity = identity.map(|(certificate, key)| Identity { certificate, key });
        let certificate = identity.map(|identity| {
            let metrics = parts.metrics.clone();
            Presented::open(&identity, move |news| tell(&metrics, news))
        });
        let certificate = certificate.transpose().map_err(set_up("TLS of the API"))?;
        let tls = certificate.clone().map(tls::server).transpose();
        let tls = tls.map_err(set_up("TLS of the API"))?;
        let limits = limits();
        let connections = Arc::new(Connections::new(
            limits.connections,
            api::KEEP_ALIVE,
            parts.metrics.connections.clone(),
        ));
        let listener = Listener {
            name: "api",
            socket,
            workers: NonZero::new(api::WORKERS).unwrap_or(NonZero::<usize>::MIN),
            limits,
            connections: connections.clone(),
            tls: tls.map(Arc::new),
        };
        let api = Api::new(parts, address, config.api.public_url.as_deref());
        let server = server::serve(listener, api::routes(Data::new(api))).map_err(listen)?;
        Ok(Self { address, server, connections, certificate })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn run(self) -> Running {
        let handle = self.server.handle();
        let task = actix_web::rt::spawn(self.server);
        let looking = actix_web::rt::spawn(keep_looking(self.certificate));
        Running { handle, task, looking, connections: self.connections }
    }
}

/// Waits until it ends by itself; without an API, for ever.
pub(super) async fn ended(api: &mut Option<Running>) -> Result<io::Result<()>, JoinError> {
    match api {
        Some(running) => (&mut running.task).await,
        None => std::future::pending().await,
    }
}

/// Accepts no more, closes each connection once it is silent and answered, all of them at the deadline.
pub(super) async fn stop(api: Option<Running>, deadline: Instant) {
    let Some(Running { handle, connections, looking, .. }) = api else { return };
    looking.abort();
    handle.pause().await;
    connections.stop();
    let _over = timeout_at(deadline, connections.closed()).await;
    handle.stop(false).await;
}
