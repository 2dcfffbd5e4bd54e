//! The HTTP API for people and programs, below `/api/v1`: what the command line can do to the fleet.
//!
//! It has a socket, threads, connections to PostgreSQL and limits of its own, so that nothing that is done here makes a
//! login wait. A request's way: [`guard`] (host, token, request id, log) → a resource's file → [`crate::fleet`], which the
//! command line and imports use as well. One file a resource; what is registered there is also what
//! `openapi.json` tells ([`openapi`]), and a scope stands in each handler's signature ([`access::Caller`]).
//!
//! What it keeps:
//! * No request is served for a host that is not this service's own: pages of other sites cannot reach it by a name of
//!   theirs (DNS rebinding), and it answers no question about other origins (CORS).
//! * A byte of a body is read only after the token was found valid.
//! * A token with a selector sees and changes its part of the fleet alone ([`Part`]): a handler either refuses it, which is so
//!   unless it says otherwise ([`InPart`]), or is given the part along with the registry.
//! * Every error is `application/problem+json`, and none tells whether a token is unknown, wrong, expired or revoked.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use percent_encoding::percent_decode_str;
use tokio::sync::Semaphore;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::authz::Authorizer;
use crate::domain::api_token::Scope;
use crate::domain::name::DeviceName;
use crate::fleet::api_tokens::ApiToken;
use crate::fleet::devices::DeviceVersion;
use crate::fleet::error::Thing;
use crate::fleet::routing::Bounds;
use crate::fleet::wire::ROOT;
use crate::fleet::{Actor, FleetError, Part, act};
use crate::http::connections::ActiveRequest;
use crate::logging::log_throttled;
use crate::metrics::ApiMetrics;
use crate::registry::error::RegistryError;
use crate::registry::pool::Postgres;
use crate::secret::random_hex;

pub mod access;
#[allow(unused_qualifications, reason = "in what utoipa makes of queries")]
mod audit;
mod authorize;
mod bindings;
mod body;
mod capabilities;
#[allow(unused_qualifications, reason = "in what utoipa makes of queries")]
mod commands;
mod credentials;
#[allow(unused_qualifications, reason = "in what utoipa makes of queries")]
mod devices;
mod etag;
mod events;
#[allow(unused_qualifications, reason = "in what utoipa makes of queries")]
mod exports;
mod grants;
mod hashing;
#[allow(unused_qualifications, reason = "in what utoipa makes of queries")]
mod imports;
#[allow(unused_qualifications, reason = "in what utoipa makes of queries")]
mod locks;
pub mod openapi;
mod page;
mod presence;
mod problem;
#[allow(unused_qualifications, reason = "in what utoipa makes of queries")]
mod rules;
pub mod streams;
mod tokens;
mod whoami;

use access::{Caller, Tokens};
use etag::Conditions;
use hashing::Hashing;
pub use problem::Problem;
use problem::Refusal;
use streams::Streams;

/// Connections to PostgreSQL.
pub const POOL_SIZE: usize = 4;
/// Threads that answer.
pub const WORKERS: usize = 2;
/// Most open connections.
pub const MAX_CONNECTIONS: usize = 256;
/// Longest silence on a connection.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Longest time of a statement.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for all that a request does in PostgreSQL, waiting for a connection included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest path in a line of the log, in bytes.
const MAX_LOGGED_PATH: usize = 256;
/// Longest id of a request that its client chose, in bytes.
const MAX_REQUEST_ID: usize = 64;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What its handlers work with; one for the process.
pub struct Api {
    postgres: Postgres,
    authorizer: Authorizer,
    hashing: Hashing,
    bounds: Bounds,
    tokens: Tokens,
    /// One import and one export at a time: of the connections to PostgreSQL they never take more than three, because an export
    /// looks at its token on another one than its own.
    importing: Semaphore,
    exporting: Arc<Semaphore>,
    streams: Arc<Streams>,
    hosts: Vec<String>,
    metrics: ApiMetrics,
    document: web::Bytes,
    routes: openapi::Routes,
}

/// What an API is made of.
pub struct Parts {
    /// Connections to PostgreSQL that are nobody else's.
    pub postgres: Postgres,
    /// Decides actions, as for EMQX.
    pub authorizer: Authorizer,
    /// What bounds commands.
    pub bounds: Bounds,
    /// Those who are told what changes.
    pub streams: Arc<Streams>,
    /// Counts.
    pub metrics: ApiMetrics,
}

impl Api {
    /// An API on this address.
    #[must_use]
    pub fn new(parts: Parts, address: SocketAddr, public_url: Option<&str>) -> Self {
        let Parts { postgres, authorizer, bounds, streams, metrics } = parts;
        let document = openapi::document();
        Self {
            postgres,
            authorizer,
            hashing: Hashing::default(),
            bounds,
            tokens: Tokens::default(),
            importing: Semaphore::new(1),
            exporting: Arc::new(Semaphore::new(1)),
            streams,
            hosts: hosts(address, public_url),
            metrics,
            routes: openapi::Routes::of(&document),
            document: openapi::text(&document).into(),
        }
    }

    /// Looks at the fleet, as somebody who may see all of it.
    async fn read<S: Whole, T>(
        &self,
        _caller: &Caller<S>,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, FleetError>,
    ) -> Result<T, Problem> {
        self.within(REQUEST_TIMEOUT, async |client| Ok(work(client).await?)).await
    }

    /// Looks at the caller's part of the fleet, as of one moment.
    async fn see<S: Whole, T>(
        &self,
        caller: &Caller<InPart<S>>,
        work: impl AsyncFnOnce(&mut Transaction<'_>, &Part) -> Result<T, FleetError>,
    ) -> Result<T, Problem> {
        let failed = |error| FleetError::Registry(RegistryError::on("the registry")(error));
        let look = async |client: &mut Client| {
            let begin = client.build_transaction().read_only(true);
            let begun = begin.isolation_level(IsolationLevel::RepeatableRead).start().await;
            let mut transaction = begun.map_err(failed)?;
            let seen = work(&mut transaction, caller.part()).await?;
            transaction.commit().await.map_err(failed)?;
            Ok(seen)
        };
        self.within(REQUEST_TIMEOUT, look).await
    }

    /// Looks at a device, which must be inside the caller's part of the fleet.
    async fn see_device<S: Whole, T>(
        &self,
        caller: &Caller<InPart<S>>,
        device: &DeviceName,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, FleetError>,
    ) -> Result<T, Problem> {
        let look = async |transaction: &mut Transaction<'_>, part: &Part| {
            part.find(transaction, device).await?;
            work(transaction).await
        };
        self.see(caller, look).await
    }

    /// Changes the fleet, all or nothing, as somebody who may change all of it.
    async fn change<S: Whole, T>(
        &self,
        caller: &Caller<S>,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Problem> {
        self.do_as(&caller.token, REQUEST_TIMEOUT, work).await
    }

    /// The same for work in bulk.
    async fn change_within<S: Whole, T>(
        &self,
        limit: Duration,
        caller: &Caller<S>,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Problem> {
        self.do_as(&caller.token, limit, work).await
    }

    /// Changes the caller's part of the fleet, all or nothing.
    async fn change_part<S: Whole, T>(
        &self,
        caller: &Caller<InPart<S>>,
        work: impl AsyncFnOnce(&mut Transaction<'_>, &Part) -> Result<T, Refusal>,
    ) -> Result<T, Problem> {
        let change =
            async |transaction: &mut Transaction<'_>| work(transaction, caller.part()).await;
        self.do_as(&caller.token, REQUEST_TIMEOUT, change).await
    }

    /// Changes a device or what belongs to it, all or nothing: one that is inside the caller's part of the fleet, before and
    /// after, and in the version that the conditions name. Nobody else changes it meanwhile.
    async fn change_device<S: Whole, T>(
        &self,
        caller: &Caller<InPart<S>>,
        device: &DeviceName,
        conditions: &Conditions,
        work: impl AsyncFnOnce(&mut Transaction<'_>, &Part) -> Result<T, Refusal>,
    ) -> Result<T, Problem> {
        let change = async |transaction: &mut Transaction<'_>, part: &Part| {
            let version = lock_device(transaction, part, device, conditions).await?;
            let done = work(transaction, part).await?;
            part.hold(transaction, device, version.id).await?;
            Ok(done)
        };
        self.change_part(caller, change).await
    }

    async fn do_as<T>(
        &self,
        token: &ApiToken,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Problem> {
        let (id, name) = (token.id, token.name.clone());
        let actor = Actor::Token { id, name };
        self.within(limit, async |client| act(client, &actor, work).await).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, Refusal>,
    ) -> Result<T, Problem> {
        let outcome = self.postgres.once_within(limit, async |client| match work(client).await {
            Err(Refusal::Fleet(FleetError::Registry(error))) => Err(error),
            outcome => Ok(outcome),
        });
        match outcome.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Refusal::Problem(problem))) => Err(problem),
            Ok(Err(Refusal::Fleet(error))) => Err(error.into()),
            Err(error) => Err(FleetError::Registry(error).into()),
        }
    }
}

/// Locks a device of a part of the fleet until the transaction ends, in the version that the conditions name.
async fn lock_device(
    transaction: &Transaction<'_>,
    part: &Part,
    device: &DeviceName,
    conditions: &Conditions,
) -> Result<DeviceVersion, Refusal> {
    let found = part.lock(transaction, device).await?;
    let version = found.ok_or_else(|| FleetError::NotFound(Thing::Device(device.clone())))?;
    conditions.hold(Some(version), device)?;
    Ok(version)
}

/// Every route of the API.
pub fn routes(api: Data<Api>) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    move |service| {
        let scope = utoipa_actix_web::scope(ROOT).configure(resources);
        service
            .app_data(api.clone())
            .service(scope.default_service(web::to(no_such_route)).wrap(from_fn(guard)))
            .default_service(web::to(async || Problem::no_route().answer("")));
    }
}

fn resources(service: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    service.service(openapi::show_description).service(whoami::whoami);
    devices::register(service);
    credentials::register(service);
    bindings::register(service);
    grants::register(service);
    presence::register(service);
    capabilities::register(service);
    rules::register(service);
    commands::register(service);
    locks::register(service);
    tokens::register(service);
    authorize::register(service);
    audit::register(service);
    imports::register(service);
    exports::register(service);
    events::register(service);
}

/// Nothing is there, or not with this method.
async fn no_such_route(request: HttpRequest, api: Data<Api>) -> Result<HttpResponse, Problem> {
    match api.routes.methods(request.path()) {
        [] => Err(Problem::no_route()),
        methods => Err(Problem::method(methods)),
    }
}

/// What stands around every request.
async fn guard(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let began = Instant::now();
    let active = ActiveRequest::begin(request.request());
    if !has_body(request.headers()) {
        active.body_complete();
    }
    let id = request_id(request.headers());
    let Some(api) = request.app_data::<Data<Api>>().cloned() else {
        return Err(Problem::failed().into());
    };
    // Nobody may hold the request while it is routed, or actix cannot note what its path names.
    let mut answered = match admit(&api, &request, &active).await {
        Ok(()) => next.call(request).await?,
        Err(problem) => request.into_response(problem.answer(&id)),
    };
    if let Some(error) = answered.response().error() {
        let status = answered.response().status();
        let problem = error.as_error::<Problem>().map(|problem| problem.answer(&id));
        let problem = problem.unwrap_or_else(|| Problem::of_status(status).answer(&id));
        answered = answered.into_response(problem);
    }
    let status = answered.status().as_u16();
    let headers = answered.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID.clone(), id);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    api.metrics.answered(status);
    log(answered.request(), &id, status, began);
    Ok(answered)
}

/// Whether the request is for this service, by somebody who may ask at all.
async fn admit(api: &Api, request: &ServiceRequest, active: &ActiveRequest) -> Result<(), Problem> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.map(str::to_ascii_lowercase);
    if host.is_none_or(|host| !api.hosts.contains(&host)) {
        return Err(Problem::wrong_host());
    }
    if percent_decode_str(request.path()).decode_utf8().is_err() {
        return Err(Problem::no_route());
    }
    if request.path() == openapi::PATH {
        return Ok(());
    }
    let peer = request.peer_addr().map(|peer| peer.ip());
    let token = api.tokens.check(&api.postgres, request.headers(), peer).await?;
    active.authenticated();
    request.extensions_mut().insert(token);
    let of_device = request.path().strip_prefix(ROOT).is_some_and(|at| at.starts_with("/devices/"));
    if !request.method().is_safe() && !of_device && request.headers().contains_key(IF_MATCH) {
        let why = "only a device and what is below its path have versions, so If-Match cannot hold; leave it out";
        return Err(Problem::precondition(why));
    }
    Ok(())
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    length.is_some_and(|length| length != b"0") || headers.contains_key(TRANSFER_ENCODING)
}

/// The client's own, if it is harmless, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let is_harmless = |id: &&str| {
        (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    match given.filter(is_harmless) {
        Some(id) => id.to_owned(),
        None => random_hex::<8>(),
    }
}

/// Changes are told, looks are not; what strangers cause, or PostgreSQL that fails, once a minute.
fn log(request: &HttpRequest, id: &str, status: u16, began: Instant) {
    let path: String = request.path().chars().take(MAX_LOGGED_PATH).collect();
    let method = request.method().as_str();
    let token = request.extensions().get::<access::Known>().map(|known| known.name().to_owned());
    let ms = began.elapsed().as_millis();
    match (&token, status) {
        (None, 400..) => {
            let peer = request.peer_addr().map(|peer| tracing::field::display(peer.ip()));
            log_throttled!(warn, "refused a request to the API", status, peer, ?path);
        }
        (Some(token), 500..) => {
            log_throttled!(
                warn,
                "an API request failed",
                request = id,
                token,
                method,
                ?path,
                status,
                ms
            );
        }
        (Some(token), _) if method != "GET" => {
            tracing::info!(request = id, token, method, ?path, status, ms, "API request");
        }
        _ => tracing::debug!(request = id, token, method, ?path, status, ms, "API request"),
    }
}

/// What a request may say that it is for, in lower case.
fn hosts(address: SocketAddr, public_url: Option<&str>) -> Vec<String> {
    let port = address.port();
    let mut hosts: Vec<String> =
        ["127.0.0.1", "[::1]", "localhost"].iter().map(|host| format!("{host}:{port}")).collect();
    hosts.push(address.to_string());
    if let Some((scheme, rest)) = public_url.and_then(|url| url.split_once("://")) {
        let host = rest.trim_end_matches('/').to_ascii_lowercase();
        let usual = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        match host.strip_suffix(usual) {
            Some(bare) => hosts.push(bare.to_owned()),
            None if !has_port => hosts.push(format!("{host}{usual}")),
            None => {}
        }
        hosts.push(host);
    }
    hosts
}

/// For answers that tell which methods there are.
fn allow(methods: &[String]) -> (HeaderName, String) {
    (ALLOW, methods.join(", "))
}

/// A scope, as the signature of a handler names it.
pub(crate) trait Needs {
    /// What the caller's token must allow; `None`: any token does.
    const SCOPE: Option<Scope>;
    /// Whether a token with a selector will do. The handler keeps what it does to the part of the fleet that the token means.
    const TAKES_PARTS: bool;
}

/// What a token with a selector may not do, whatever its scopes: so it is with each scope by itself.
pub(crate) trait Whole: Needs {}

/// The same scope of a handler that takes tokens with a selector as well. It reaches the fleet by [`Api::see`] and the like
/// alone, which name the part of it that the token means.
pub(crate) struct InPart<S>(PhantomData<S>);

impl<S: Whole> Needs for InPart<S> {
    const SCOPE: Option<Scope> = S::SCOPE;
    const TAKES_PARTS: bool = true;
}

/// Declares a type a scope.
macro_rules! scopes {
    ($($name:ident = $scope:expr;)+) => {$(
        /// See [`Scope`].
        pub(crate) struct $name;
        impl Needs for $name {
            const SCOPE: Option<Scope> = $scope;
            const TAKES_PARTS: bool = false;
        }
        impl Whole for $name {}
    )+};
}

scopes! {
    AnyToken = None;
    Read = Some(Scope::Read);
    Devices = Some(Scope::Devices);
    Credentials = Some(Scope::Credentials);
    Commands = Some(Scope::Commands);
    Admin = Some(Scope::Admin);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_hosts_are_served() {
        let address = "10.0.0.7:8090".parse().unwrap();
        let all = hosts(address, Some("https://Fleet.example.net/"));
        for host in
            ["localhost:8090", "10.0.0.7:8090", "fleet.example.net", "fleet.example.net:443"]
        {
            assert!(all.contains(&host.to_owned()), "{host}");
        }
        assert!(!all.contains(&"fleet.example.net:8090".to_owned()));
        assert!(hosts(address, Some("https://a:8443")).contains(&"a:8443".to_owned()));
        assert!(!hosts(address, Some("https://a:8443")).contains(&"a:8443:443".to_owned()));
        assert!(hosts(address, Some("http://[::2]")).contains(&"[::2]:80".to_owned()));
        assert!(hosts(address, Some("https://a:443")).contains(&"a".to_owned()));
    }
}
