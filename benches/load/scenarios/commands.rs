//! How long it takes until a command to 1,000 online devices has left, against an EMQX that answers at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use fleetgate::fleet::Part;
use fleetgate::fleet::commands::{self, NewCommand};
use fleetgate::fleet::routing::{Bounds, To};
use tokio::sync::Semaphore;

use crate::support::fleetgate::Fleetgate;
use crate::support::registry::connect;
use crate::table::{Bar, Row};

pub(super) const DEVICES: u32 = 1_000;
const TURNS: usize = 5;

/// Every device is online, and is commanded on the topic that the small registry gives it.
const FILL: &str = "
    INSERT INTO capabilities (name, confirm) VALUES ('switch', 'sent');
    SET session_replication_role = replica;
    INSERT INTO device_capabilities SELECT id, 'switch' FROM devices;
    INSERT INTO topic_bindings (device_id, name, command_topic) SELECT id, 'switch', 'lab/' || name || '/switch/set' FROM devices;
    SET session_replication_role = origin;
    INSERT INTO client_sessions (client_id, device_id, connected_at, open)
    SELECT effective_client_id, id, now(), true FROM devices ORDER BY effective_client_id";

pub(super) async fn sent(url: &str) -> Row {
    let mut client = connect(url).await;
    client.batch_execute(FILL).await.expect("a fleet");
    client.batch_execute("VACUUM ANALYZE").await.expect("statistics");
    let published = Arc::new(Semaphore::new(0));
    let emqx = emqx(published.clone());
    let settings = [
        ("FLEETGATE_EMQX_API_URL", format!("http://{emqx}")),
        ("FLEETGATE_EMQX_API_KEY", "bench".to_owned()),
        ("FLEETGATE_EMQX_API_SECRET", "bench".to_owned()),
    ];
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let _service = Fleetgate::start(url, &settings).await;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..TURNS {
        let began = Instant::now();
        commands::send(&mut client, &to_all()).await.expect("a command");
        published.acquire_many(DEVICES).await.expect("an open semaphore").forget();
        times.push(began.elapsed());
        // What it left to do, which is nothing that anybody waits for.
        let open = "SELECT count(*) FROM command_deliveries WHERE ended_at IS NULL";
        while client.query_one(open, &[]).await.expect("a count").get::<_, i64>(0) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    times.sort();
    let median = times[times.len() / 2].as_secs_f64();
    let scenario = "a command to 1,000 online devices: asked → the last has left";
    Row::figure(scenario, median, "s, median", Bar::AtMost(2.0)).quantiles(&times)
}

fn to_all() -> NewCommand {
    NewCommand {
        capability: "switch".parse().expect("a name"),
        payload: "\"on\"".parse().expect("JSON"),
        to: To::Selector("".parse().expect("a selector")),
        expires_in: Some(Duration::from_secs(600)),
        confirm: None,
        asked_by: "a benchmark".into(),
        requested: None,
        bounds: Bounds { max_payload: 65_536, max_devices: 10_000, has_broker: true },
        part: Part::whole(),
    }
}

/// Serves those calls of EMQX's REST API that a command needs; every device has subscribed to all of its topics.
fn emqx(published: Arc<Semaphore>) -> SocketAddr {
    let published = web::Data::new(published);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(published.clone())
            .route("/api/v5/publish", web::post().to(publish))
            .route("/api/v5/clients/{id}/subscriptions", web::get().to(subscriptions))
            .default_service(web::to(async || HttpResponse::ServiceUnavailable().finish()))
    });
    let server = server.workers(1).bind(("127.0.0.1", 0)).expect("a port");
    let address = server.addrs()[0];
    tokio::spawn(server.run());
    address
}

async fn publish(published: web::Data<Arc<Semaphore>>) -> HttpResponse {
    published.add_permits(1);
    HttpResponse::Ok().content_type("application/json").body(r#"{"id":"0006612200"}"#)
}

async fn subscriptions(request: HttpRequest) -> HttpResponse {
    let id = request.match_info().get("id").unwrap_or_default();
    let list = format!(r#"[{{"clientid":"{id}","topic":"lab/{id}/#","qos":1}}]"#);
    HttpResponse::Ok().content_type("application/json").body(list)
}
