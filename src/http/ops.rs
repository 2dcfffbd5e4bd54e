//! What operators and their tools ask: alive, ready, how much.

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use actix_web::web::Data;
use serde::Serialize;

use crate::http::Gate;
use crate::lifecycle::LogThrottle;
use crate::metrics::Snapshot;

/// `GET /healthz`: the process answers.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("ok\n")
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Changes in PostgreSQL are listened to.
    listening: bool,
    /// PostgreSQL is away, but records in memory may still stand in.
    standing_in: bool,
}

/// `GET /readyz`: 200 while decisions can be made, else 503; the body says what is missing.
pub async fn readyz(gate: Data<Gate>) -> HttpResponse {
    let listening = gate.freshness.is_listening();
    let standing_in = !listening && gate.devices.sizes().0 > 0 && gate.freshness.within_bound();
    let body = Readiness { ready: listening || standing_in, listening, standing_in };
    if body.ready {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

/// `GET /metrics`: Prometheus' text format.
pub async fn metrics(gate: Data<Gate>) -> HttpResponse {
    let (known_devices, unknown_names) = gate.devices.sizes();
    let pool = gate.postgres.usage();
    let snapshot = Snapshot {
        known_devices,
        unknown_names,
        pool_open: pool.open,
        pool_idle: pool.idle,
        pool_waiting: pool.waiting,
        events_queued: gate.ingest.queued(),
        oldest_event_seconds: gate.ingest.oldest_seconds(),
    };
    match gate.metrics.render(snapshot) {
        Ok(text) => {
            HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
        }
        Err(error) => {
            static THROTTLE: LogThrottle = LogThrottle::new("metrics cannot be written");
            if let Some(unsaid) = THROTTLE.now() {
                tracing::error!(%error, unsaid, "metrics cannot be written");
            }
            HttpResponse::InternalServerError().body("metrics cannot be written; see the log\n")
        }
    }
}
