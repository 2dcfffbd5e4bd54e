//! The HTTP servers, EMQX's and the API's: actix's, with connections that [`crate::http::connections`] watches.

use std::io;
use std::net::TcpListener;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, map_config,
};
use actix_web::dev::AppConfig;
use actix_web::rt::net::TcpStream;
use actix_web::web::ServiceConfig;
use rustls::ServerConfig;

use super::connections::{Connections, GuardedConnection, Lease, Transport, WatchedSocket};

/// Connections that may wait to be accepted. The operating system takes less where it allows less.
const BACKLOG: i32 = 4096;

/// Connections beyond the limit that may be accepted before others were closed for them.
const MAX_PENDING: usize = 256;

/// Open files that are not connections of clients: the database's, EMQX's, the log, what a runtime needs.
const OTHER_FILES: usize = 64;

/// What each worker's runtime has open.
const FILES_PER_WORKER: usize = 4;

/// How long a request's body is read on after its answer.
const UNREAD_BODY: Duration = Duration::from_secs(1);

/// How many connections may be open and how many more may be on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections.
    pub connections: usize,
    pending: usize,
}

impl ConnectionLimits {
    /// So many, whatever the limit of open files; the caller has left room for them ([`Self::files`]).
    #[must_use]
    pub fn fixed(connections: usize) -> Self {
        Self { connections, pending: connections / 4 }
    }

    /// Open files that they need at most.
    #[must_use]
    pub fn files(self) -> usize {
        self.connections + self.pending
    }

    /// ConnectionLimits for `wanted` connections, as far as the limit of open files allows. `None` when it allows none.
    ///
    /// `workers`: threads of the server; `pool_size`: connections to PostgreSQL.
    #[must_use]
    pub fn within(
        open_files: usize,
        wanted: usize,
        workers: usize,
        pool_size: usize,
    ) -> Option<Self> {
        let other = OTHER_FILES + pool_size + workers * FILES_PER_WORKER;
        let files = open_files.saturating_sub(other);
        let pending = MAX_PENDING.min(files / 4);
        let connections = wanted.min(files - pending);
        (connections > 0).then_some(Self { connections, pending })
    }
}

/// A bound socket, and how it is served.
pub struct Listener {
    /// What its threads are called after.
    pub name: &'static str,
    /// The socket.
    pub socket: TcpListener,
    /// Threads.
    pub workers: NonZero<usize>,
    /// Connections that may be open.
    pub limits: ConnectionLimits,
    /// Those that are.
    pub connections: Arc<Connections>,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
}

/// Serves routes on a bound socket, with so many worker threads.
///
/// # Errors
/// When the operating system refuses the socket.
pub fn serve(
    listener: Listener,
    routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<Server> {
    let Listener { name, socket, workers, limits, connections, tls } = listener;
    rustix::net::listen(&socket, BACKLOG)?;
    let accepted = (limits.connections + limits.pending).div_ceil(workers.get());
    let server = Server::build()
        .workers(workers.get())
        .max_concurrent_connections(accepted)
        .disable_signals()
        .listen(name, socket, move || factory(routes.clone(), connections.clone(), tls.clone()))?;
    Ok(server.run())
}

fn factory(
    routes: impl Fn(&mut ServiceConfig) + 'static,
    connections: Arc<Connections>,
    tls: Option<Arc<ServerConfig>>,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()>
{
    let app = actix_web::App::new().configure(routes);
    let app = app.into_factory().map_err(|error: actix_web::Error| error.error_response());
    let http = HttpService::<Transport, _, _>::build()
        // All that the connections' guards do better.
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(UNREAD_BODY)
        // A client that closes its side has gone away: what it asked for is dropped, not hashed.
        .h1_allow_half_closed(false)
        .on_connect_ext(|transport: &Transport, data| {
            data.insert(transport.connection().clone());
        })
        .h1(map_config(app, |()| AppConfig::default()));
    apply_fn_factory(http, move |socket: TcpStream, http| {
        let serving = admit(socket, &connections).map(|(socket, lease)| {
            let (connection, peer) = (socket.connection().clone(), Some(socket.peer()));
            let transport = Transport::new(socket, tls.as_ref());
            GuardedConnection::new(http.call((transport, peer)), connection, lease)
        });
        async move {
            if let Some(serving) = serving {
                serving.await;
            }
            Ok(())
        }
    })
}

/// `None` where the client has gone already, or has to go.
fn admit(socket: TcpStream, connections: &Arc<Connections>) -> Option<(WatchedSocket, Lease)> {
    let peer = socket.peer_addr().ok()?;
    socket.set_nodelay(true).ok()?;
    let (connection, lease) = connections.admit(peer.ip())?;
    Some((WatchedSocket::new(socket, peer, connection), lease))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_other_files() {
        let connections = |files, wanted| {
            ConnectionLimits::within(files, wanted, 2, 8).map(|limits| limits.connections)
        };
        assert_eq!(connections(1_048_576, 4096), Some(4096));
        assert_eq!(
            connections(1024, 4096),
            Some(708),
            "less 64, 2 * 4 and 8, and a quarter on its way"
        );
        assert_eq!(connections(88, 4096), Some(6));
        assert_eq!(connections(80, 4096), None);
        assert_eq!(connections(0, 1), None);
    }
}
