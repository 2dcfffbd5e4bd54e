//! Puts the parts together: `serve`, `dev` and the tests all run the same [`App`].
//!
//! Two kinds of threads: actix workers, each a single-threaded runtime that decides requests, and
//! one small multi-threaded runtime for everything that talks to PostgreSQL, so that a connection
//! outlives the worker that first needed it. Hash threads belong to [`crate::authn`].

mod api;
mod background;
pub(crate) mod first_token;
mod resources;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::rt::{System, SystemRunner};
use actix_web::web::{Data, ServiceConfig};
use thiserror::Error;
use tokio::runtime::{Handle, Runtime};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use api::ApiServer;
use background::{Wake, bounds, broker, keep_registry, locks};
use resources::{bind, require_threads, room};
pub use resources::{further_connections, listen_remedy};

use crate::authn::hash_threads::HashLanes;
use crate::authn::limits::Limits;
use crate::authn::recent_successes::RecentSuccesses;
use crate::authn::token::TokenKeys;
use crate::authn::{self, Authenticator};
use crate::authz::{self, Authorizer};
use crate::clock::Clock;
use crate::config::{Config, Emqx, Hashing};
use crate::http::api::Parts;
use crate::http::api::streams::Streams;
use crate::http::connections::Connections;
use crate::http::server::{self, ConnectionLimits, Listener};
use crate::http::{AppState, routes};
use crate::ingest::Ingest;
use crate::logging::{keep_logging_suppressed, log_suppressed};
use crate::metrics::{HashMetrics, Metrics};
use crate::registry::cache::DeviceCache;
use crate::registry::changes::ChangeListener;
use crate::registry::connection::Target;
use crate::registry::error::RegistryError;
use crate::registry::freshness::Freshness;
use crate::registry::live::LiveChanges;
use crate::registry::pool::Postgres;
use crate::registry::schemas::SchemaCache;
use crate::registry::work::WorkNotices;
use crate::registry::{commands, kickouts, requests};
use crate::secret::Secret;

/// Most threads that move PostgreSQL connections along; they hardly ever compute.
const REGISTRY_THREADS: usize = 2;

/// How long the writer may take for what is queued after the HTTP side has ended.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// How long the registry's task may take at least to end its work, however long the rest took.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why the service could not start, or ended before it was told to.
#[derive(Debug, Error)]
pub enum AppError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; {}", listen_remedy(source, setting))]
    Listen {
        /// The address of the configuration.
        address: SocketAddr,
        /// Where that stands.
        setting: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Something of the registry that no waiting repairs.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A key, a thread or a metric could not be set up.
    #[error("cannot set up {what}: {why}")]
    SetUp {
        /// The part.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Server(#[source] io::Error),
    /// The registry's task ended by itself.
    #[error("the task that listens to PostgreSQL ended; this is a bug")]
    ListenerEnded,
    /// The writer of events ended by itself.
    #[error("the task that writes events ended; this is a bug")]
    WriterEnded,
}

/// A service that has bound its port and begun to reach for PostgreSQL.
pub struct App {
    address: SocketAddr,
    server: Server,
    api: Option<ApiServer>,
    grace: Duration,
    gate: Data<AppState>,
    stop: CancellationToken,
    registry: RegistryTask,
}

/// A runtime beside the one that holds it. Dropping a [`Runtime`] waits for its threads, which tokio
/// answers with a panic inside another runtime; this one is told to end and not waited for.
struct Background {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What keeps the registry in step, and how to end it.
struct RegistryTask {
    runtime: Background,
    task: JoinHandle<Result<(), RegistryError>>,
    writer: JoinHandle<()>,
    /// Ends both tasks: changes are heard and events written until the last request is answered.
    end: CancellationToken,
}

impl App {
    /// Builds everything and binds the port. PostgreSQL need not be there yet: until it is,
    /// `/readyz` says so and every login is answered 503.
    ///
    /// Must be called on an actix system; `stop` ends the service gracefully.
    ///
    /// # Errors
    /// When the port, the database URL or a key file is unusable.
    pub fn build(config: &Config, clock: Clock, stop: CancellationToken) -> Result<Self, AppError> {
        // First, because it fails most often, and nothing has to be undone then.
        let socket = bind(config.http.listen, "http.listen")?;
        let api_socket = api::bind(config)?;
        let room = room(config)?;
        require_threads(config)?;
        let runtime = registry_runtime(config.http.workers)?;
        let target = Target::new(&config.database)?;
        let metrics = metrics(config, api_socket.is_some())?;
        let freshness = Arc::new(Freshness::new(config.cache.max_staleness));
        let postgres = Postgres::of(&target, &config.database, runtime.handle.clone())?
            .unless_away(freshness.clone());
        let devices = Arc::new(DeviceCache::new(
            &config.cache,
            &postgres,
            freshness.clone(),
            metrics.cache.clone(),
        ));
        let schemas = Arc::new(SchemaCache::new(postgres.clone(), freshness.clone()));
        let mut work = WorkNotices::default();
        let wake = Wake {
            kick_outs: work.of(kickouts::KIND),
            commands: work.of(commands::KIND),
            requests: work.of(requests::KIND),
        };
        let (limits, lock_feed, lock_keeper) =
            locks(config, &postgres, &freshness, &metrics, &clock);
        let listener = ChangeListener::new(
            target.clone(),
            devices.clone(),
            schemas.clone(),
            freshness.clone(),
            metrics.listen.clone(),
            work,
            lock_feed,
        );
        let live = LiveChanges::default();
        let listener = listener.telling(live.clone());
        let (ingest, writer) = Ingest::new(
            &config.ingest,
            devices.clone(),
            schemas,
            postgres.clone(),
            metrics.events.clone(),
        );
        let heard = (listener.hearing(), freshness.bound());
        let quiet = target.clone().unless_away(freshness.clone());
        let broker = broker(config, &quiet, &devices, heard, wake, &metrics, &clock)?;
        let mut authenticator = authenticator(config, &metrics.hash, limits, clock)?;
        let imported_keeper = authenticator.imported_keeper(
            postgres.clone(),
            freshness.clone(),
            config.imports.upgrade,
        );
        let end = CancellationToken::new();
        let api = api_socket
            .map(|socket| {
                let postgres = api::pool(&target, &freshness, runtime.handle.clone())?;
                let streams = Arc::new(Streams::default());
                let telling = streams.clone().run(postgres.clone(), live, end.clone());
                runtime.handle.spawn(telling);
                let parts = Parts {
                    postgres,
                    streams,
                    authorizer: Authorizer::new(devices.clone()),
                    bounds: bounds(config),
                    metrics: metrics.api.clone(),
                };
                ApiServer::start(config, socket, parts)
            })
            .transpose()?;
        let connections = Arc::new(Connections::new(
            room.connections,
            config.http.keep_alive,
            metrics.connections.clone(),
        ));
        let gate = Data::new(AppState {
            webhook_tokens: webhook_tokens(&config.emqx),
            acl_in_login: config.emqx.acl_in_login,
            authenticator,
            authorizer: Authorizer::new(devices.clone()),
            ingest,
            max_payload: config.ingest.max_payload,
            metrics: Arc::new(metrics),
            devices,
            freshness: freshness.clone(),
            postgres: postgres.clone(),
            connections,
        });
        let (address, server) = serve(config, socket, room, gate.clone())?;
        let first_token = config.api.listen.and(config.api.first_token_file.clone());
        let task = runtime.handle.spawn(keep_registry(
            (address, target, first_token),
            postgres,
            freshness,
            (listener, writer.live()),
            broker,
            (lock_keeper, imported_keeper),
            end.clone(),
        ));
        let writer = runtime.handle.spawn(writer.run(end.clone()));
        let registry = RegistryTask { runtime, task, writer, end };
        let grace = config.http.shutdown_grace;
        Ok(Self { address, server, api, grace, gate, stop, registry })
    }

    /// The address it listens on, with the real port where the configuration said 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the HTTP API, if there is one.
    #[must_use]
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(ApiServer::address)
    }

    /// Serves until the stop token given to [`App::build`] is cancelled; then accepts no more
    /// connections and closes each open one as soon as it is silent and all that was read from it is
    /// answered, within two seconds if that comes, at the end of the grace period at the latest. New events are
    /// answered 503 meanwhile: EMQX then keeps them and sends them again later, while it gives some of
    /// those up that wait on a connection which is closed (docs/EMQX.md).
    ///
    /// actix's own graceful stop drops requests that wait behind another one on their connection.
    ///
    /// # Errors
    /// When the server or the registry's task fails.
    pub async fn run(self) -> Result<(), AppError> {
        let RegistryTask { runtime, mut task, mut writer, end } = self.registry;
        let handle = self.server.handle();
        let mut server = actix_web::rt::spawn(self.server);
        let mut api = self.api.map(ApiServer::run);
        let telling = actix_web::rt::spawn(keep_logging_suppressed());
        let outcome = tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(()),
            served = &mut server => why_server_ended(served),
            served = api::ended(&mut api) => why_server_ended(served),
            ended = &mut task => why_registry_ended(ended),
            _ = &mut writer => Err(AppError::WriterEnded),
        };
        handle.pause().await;
        let deadline = tokio::time::Instant::now() + self.grace;
        self.gate.connections.stop();
        tokio::join!(
            async {
                let closed = self.gate.connections.closed();
                let _over = tokio::time::timeout_at(deadline, closed).await;
                handle.stop(false).await;
            },
            api::stop(api, deadline)
        );
        end.cancel();
        if !writer.is_finished() && tokio::time::timeout(LAST_WRITES, writer).await.is_err() {
            tracing::error!(
                "events were still being written after {LAST_WRITES:?}; EMQX got no answer for them and will send them again"
            );
        }
        self.gate.authenticator.stop();
        if outcome.is_ok() {
            // What is being asked of EMQX is noted as done, so that no other replica asks it again, and
            // this one is no longer counted among the replicas.
            let last = deadline.max(tokio::time::Instant::now() + LAST_WORDS);
            let _over = tokio::time::timeout_at(last, task).await;
        }
        drop(runtime);
        telling.abort();
        log_suppressed(true);
        outcome
    }
}

fn why_server_ended(ended: Result<io::Result<()>, JoinError>) -> Result<(), AppError> {
    match ended {
        Ok(served) => served.map_err(AppError::Server),
        Err(panic) => Err(AppError::Server(io::Error::other(panic))),
    }
}

fn why_registry_ended(ended: Result<Result<(), RegistryError>, JoinError>) -> Result<(), AppError> {
    match ended {
        Ok(Err(error)) => Err(AppError::Registry(error)),
        Ok(Ok(())) | Err(_) => Err(AppError::ListenerEnded),
    }
}

fn set_up<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> AppError {
    move |error| AppError::SetUp { what, why: error.to_string() }
}

/// Metrics that tell from the start what there may be to tell.
fn metrics(config: &Config, has_api: bool) -> Result<Metrics, AppError> {
    let metrics = Metrics::new().map_err(set_up("metrics"))?;
    metrics.authn.refuses_for(&authn::Refusal::labels());
    metrics.authz.refuses_for(&authz::Refusal::labels());
    if config.api.listen.is_some() {
        metrics.api.serves(has_api);
    }
    Ok(metrics)
}

/// Those that EMQX may present.
fn webhook_tokens(emqx: &Emqx) -> Vec<Secret> {
    let tokens = [Some(&emqx.webhook_token), emqx.previous_webhook_token.as_ref()];
    tokens.into_iter().flatten().cloned().collect()
}

fn authenticator(
    config: &Config,
    metrics: &HashMetrics,
    limits: Arc<Limits>,
    clock: Clock,
) -> Result<Authenticator, AppError> {
    let tokens = TokenKeys::load(&config.tokens.audience, &config.tokens.verification_keys)
        .map_err(set_up("device tokens"))?;
    let Hashing { threads, queue } = config.hashing;
    let hash_threads =
        HashLanes::start(threads, queue, metrics).map_err(set_up("the hash threads"))?;
    let verified = RecentSuccesses::new(config.cache.devices);
    let secret = &config.emqx.webhook_token;
    let authenticator = Authenticator::new(clock, tokens, hash_threads, verified, limits, secret);
    Ok(authenticator.with_max_session(config.emqx.max_session))
}

/// An actix system, which a service runs on. actix's own way to make one panics where the operating system
/// refuses (no more open files).
///
/// # Errors
/// The operating system's reason.
pub fn system() -> io::Result<SystemRunner> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(System::with_tokio_rt(move || runtime))
}

/// How many threads the registry's runtime has: half as many as workers. A second thread on two cores makes batches of events slower: waking
/// it costs more than it takes over (docs/PERFORMANCE.md).
fn registry_threads(workers: usize) -> usize {
    (workers / 2).clamp(1, REGISTRY_THREADS)
}

fn registry_runtime(workers: usize) -> Result<Background, AppError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(registry_threads(workers))
        .thread_name("registry")
        .enable_all()
        .build()
        .map(|runtime| Background { handle: runtime.handle().clone(), runtime: Some(runtime) })
        .map_err(set_up("the registry's threads"))
}

fn serve(
    config: &Config,
    listener: TcpListener,
    room: ConnectionLimits,
    gate: Data<AppState>,
) -> Result<(SocketAddr, Server), AppError> {
    let listen =
        |source| AppError::Listen { address: config.http.listen, setting: "http.listen", source };
    let address = listener.local_addr().map_err(listen)?;
    let workers = NonZero::new(config.http.workers).unwrap_or(NonZero::<usize>::MIN);
    let listener = Listener {
        name: "fleetgate",
        socket: listener,
        workers,
        limits: room,
        connections: gate.connections.clone(),
        tls: None,
    };
    let with_state = move |service: &mut ServiceConfig| {
        service.app_data(gate.clone());
        routes(service);
    };
    let server = server::serve(listener, with_state).map_err(listen)?;
    Ok((address, server))
}
