//! What operators and their tools ask: alive, ready, how much.

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use actix_web::web::Data;
use serde::Serialize;

use crate::http::AppState;
use crate::logging::log_throttled;
use crate::metrics::Snapshot;
use crate::registry::freshness::Freshness;

/// `GET /healthz`: the process answers.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("ok\n")
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Changes in PostgreSQL are heard, as a notice from another session proves every second.
    listening: bool,
    /// Records can be loaded: the last load or probe worked.
    loading: bool,
    /// Some decisions rest on records in memory that cannot be confirmed at present.
    serving_stale: bool,
    /// What is wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
}

/// `GET /readyz`: 200 while changes are heard and decisions can be made, or records may be served stale, else
/// 503; the body says what is missing.
pub async fn readyz(state: Data<AppState>) -> HttpResponse {
    let freshness = &state.freshness;
    let listening = freshness.is_listening();
    let loading = !freshness.is_away() && !freshness.loads_fail();
    let well = listening && loading;
    let serving_stale = !well && state.devices.sizes().0 > 0 && freshness.within_bound();
    let ready = well || serving_stale || freshness.has_trusted_records();
    let body = Readiness { ready, listening, loading, serving_stale, problem: problem(freshness) };
    if ready {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

fn problem(freshness: &Freshness) -> Option<&'static str> {
    if freshness.is_away() {
        Some("PostgreSQL cannot be reached")
    } else if freshness.is_deaf() {
        Some(
            "notices from other sessions do not arrive: is a pooler in transaction mode in front of PostgreSQL, \
             or does a commit wait for a synchronous standby that is gone? See the log",
        )
    } else if freshness.loads_fail() {
        Some("PostgreSQL does not answer when records are loaded")
    } else if !freshness.is_listening() {
        Some("changes are not heard; connecting again")
    } else {
        None
    }
}

/// `GET /metrics`: Prometheus' text format.
pub async fn metrics(state: Data<AppState>) -> HttpResponse {
    let (known_devices, unknown_names) = state.devices.sizes();
    let pool = state.postgres.usage();
    let snapshot = Snapshot {
        known_devices,
        unknown_names,
        pool_open: pool.open,
        pool_idle: pool.idle,
        pool_waiting: pool.waiting,
        events_queued: state.ingest.queued(),
        oldest_event_seconds: state.ingest.oldest_seconds(),
    };
    match state.metrics.render(snapshot) {
        Ok(text) => {
            HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
        }
        Err(error) => {
            log_throttled!(error, "metrics cannot be written", %error);
            HttpResponse::InternalServerError().body("metrics cannot be written; see the log\n")
        }
    }
}
