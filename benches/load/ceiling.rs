//! What the machine gives at most: an actix-web server with Fleetgate's settings that reads the same
//! body and answers a constant.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use actix_web::http::KeepAlive;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer};

use crate::{Role, own_process};

/// Standard input is the constant; an empty one is answered as 204.
pub(crate) fn run() {
    let mut constant = Vec::new();
    std::io::stdin().read_to_end(&mut constant).expect("the constant");
    let constant = Data::new(Bytes::from(constant));
    let socket = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    println!("{}", socket.local_addr().expect("an address"));
    let server = HttpServer::new(move || {
        App::new().app_data(constant.clone()).default_service(web::post().to(answer))
    });
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let server = server
        .workers(workers)
        .keep_alive(KeepAlive::Timeout(Duration::from_secs(120)))
        .tcp_nodelay(true)
        .h1_allow_half_closed(false)
        .listen(socket)
        .expect("a socket that listens")
        .run();
    actix_web::rt::System::new().block_on(server).expect("it serves until it is killed");
}

async fn answer(constant: Data<Bytes>, _body: Bytes) -> HttpResponse {
    if constant.is_empty() {
        return HttpResponse::NoContent().finish();
    }
    HttpResponse::Ok().content_type("application/json").body(Bytes::clone(&constant))
}

/// The process. Dropping it kills it.
pub(crate) struct Ceiling {
    child: Child,
    address: SocketAddr,
}

impl Ceiling {
    pub(crate) fn start(constant: &[u8]) -> Self {
        let mut command: Command = own_process(Role::Ceiling);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut input, constant).expect("the ceiling reads");
        drop(input);
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("the ceiling tells its address");
        Self { child, address: line.trim().parse().expect("an address") }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
