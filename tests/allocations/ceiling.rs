//! What the HTTP layer needs by itself: a server that reads the same body and answers a constant.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::KeepAlive;
use actix_web::web::{self, Bytes, Payload};
use actix_web::{App, HttpResponse, HttpServer};
use futures_util::StreamExt;
use tokio::sync::oneshot;

/// A running server, until dropped.
pub(crate) struct Ceiling {
    pub(crate) address: SocketAddr,
    handle: ServerHandle,
}

impl Ceiling {
    /// Starts it with the settings of the real service.
    pub(crate) async fn start() -> Self {
        let (started, start) = oneshot::channel();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                let routes = || web::resource("/emqx/authz").route(web::post().to(answer));
                let server = HttpServer::new(move || App::new().service(routes()))
                    .workers(1)
                    .keep_alive(KeepAlive::Timeout(Duration::from_secs(75)))
                    .client_request_timeout(Duration::from_secs(75))
                    .tcp_nodelay(true)
                    .h1_allow_half_closed(false)
                    .disable_signals()
                    .bind("127.0.0.1:0")
                    .unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                started.send((address, server.handle())).ok().unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = start.await.unwrap();
        Self { address, handle }
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // Told is enough: its thread ends by itself.
        drop(self.handle.stop(false));
    }
}

/// Reads without a buffer of its own, which the extractor of `Bytes` would allocate: nothing can need
/// less.
async fn answer(mut payload: Payload) -> HttpResponse {
    while payload.next().await.transpose().unwrap().is_some() {}
    let body = Bytes::from_static(br#"{"result":"allow"}"#);
    HttpResponse::Ok().content_type("application/json").body(body)
}
