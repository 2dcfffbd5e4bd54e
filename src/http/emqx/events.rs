//! `POST /emqx/events`: EMQX's rule-engine action.
//!
//! EMQX sends an event again after 503 and gives it up for good after any other status but 2xx
//! (docs/EMQX.md), so 503 is for what may pass and 400 and 413 are for what never will. One request
//! that is late holds up those behind it on its connection, never those of other connections.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::domain::event::{Event, EventKind};
use crate::http::AppState;
use crate::http::connections::ActiveRequest;
use crate::http::emqx::{Answer, LargeBodies, Limit, receive};
use crate::ingest::{IngestError, IngestOutcome};
use crate::logging::{LogThrottle, log_throttled, throttle};
use crate::metrics::Outcome;

pub mod wire;

pub use wire::{Malformed, ParsedEvent, parse};

/// What an event's body has besides its payload: topic, client, properties.
const ENVELOPE_BYTES: usize = 16 * 1024;
/// Largest body that is read at all, unless what is kept of one is larger. EMQX's own limit of a packet is 1 MiB unless somebody raised it
/// (`mqtt.max_packet_size`); a rule that selects its payload twice makes 7.4 MiB of that.
const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// Largest body in bytes for a payload limit. A rule may select the payload twice, as in the
/// recordings: as base64, four bytes of three, and as text, where JSON may write six bytes for one.
#[must_use]
pub fn max_body(max_payload: usize) -> usize {
    max_payload.div_ceil(3) * 4 + max_payload * 6 + ENVELOPE_BYTES
}

/// A larger body is shortened: what stays of it is whose event it was, and that its payload was too
/// large, because a string of more bytes than this is a payload over the limit whichever way it is
/// written.
fn limit(max_payload: usize) -> Limit {
    let string = max_payload * 6 + ENVELOPE_BYTES / 2;
    // Two strings just short enough to stay, and the rest.
    let kept = string * 2 + ENVELOPE_BYTES;
    Limit {
        bytes: max_body(max_payload),
        larger: Some(LargeBodies { string, kept, bytes: LARGEST_BODY.max(kept) }),
    }
}

/// Why a body is malformed, as metrics name it, and how often that is logged.
fn reason(malformed: &Malformed) -> (&'static str, &'static LogThrottle) {
    match malformed {
        Malformed::Json(_) => ("json", throttle!("malformed events (json)")),
        Malformed::Missing(_) => ("missing_field", throttle!("malformed events (missing_field)")),
        Malformed::Base64 => ("base64", throttle!("malformed events (base64)")),
        Malformed::Time(_) => ("time", throttle!("malformed events (time)")),
        Malformed::Id => ("id", throttle!("malformed events (id)")),
    }
}

/// Answers one event.
pub async fn handle(state: Data<AppState>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let began = Instant::now();
    let active = ActiveRequest::begin(&request);
    let limit = limit(state.max_payload);
    let answer = match receive(&request, &active, payload, &state.webhook_tokens, limit).await {
        Ok(_) if active.is_stopping() => {
            active.until_silent().await;
            Answer::unavailable(Outcome::Unavailable, "the service is stopping")
        }
        Ok(body) => answer(&state, &body).await,
        // The rest of it may come when it is sent again.
        Err(answer) if answer.outcome == Outcome::Timeout => {
            Answer::unavailable(Outcome::Timeout, "the body did not arrive within 5 s")
        }
        Err(answer) => answer,
    };
    if answer.outcome == Outcome::TooLarge {
        state.metrics.events.count("unreadable", "too_large");
        log_throttled!(
            warn,
            "an event was too large to be read and is dropped; lower mqtt.max_packet_size in EMQX, or let the rule select less",
            limit = limit.larger.map(|larger| larger.bytes)
        );
    }
    answer.count(&request, &state.metrics.events_endpoint, began.elapsed().as_secs_f64())
}

async fn answer(state: &AppState, body: &[u8]) -> Answer {
    match parse(body) {
        Ok(ParsedEvent::Event(event)) => take(state, event).await,
        Ok(ParsedEvent::Other) => {
            state.metrics.events.count("other", "unknown_event");
            Answer::accepted()
        }
        Err(malformed) => refuse(state, &malformed, body),
    }
}

async fn take(state: &AppState, event: Event<'_>) -> Answer {
    let kind = kind(&event);
    let device = event.user_name.as_deref().map(str::to_owned);
    let taken = state.ingest.take(event).await;
    if matches!(taken, Ok(IngestOutcome::TooLarge)) {
        log_throttled!(
            warn,
            "a payload is larger than ingest.max_payload and is not stored; the device was heard",
            device,
            limit = state.max_payload
        );
    }
    let label = taken.as_ref().map_or_else(IngestError::label, |outcome| outcome.label());
    state.metrics.events.count(kind, label);
    match taken {
        Ok(_) => Answer::accepted(),
        Err(error @ IngestError::Refused(_)) => {
            Answer::error(StatusCode::BAD_REQUEST, Outcome::BadRequest, &error.to_string())
        }
        Err(error @ IngestError::QueueFull) => {
            Answer::unavailable(Outcome::Overloaded, &error.to_string())
        }
        Err(error) => Answer::unavailable(Outcome::Unavailable, &error.to_string()),
    }
}

fn kind(event: &Event<'_>) -> &'static str {
    match event.kind {
        EventKind::Connected { .. } => "connected",
        EventKind::Disconnected { .. } => "disconnected",
        EventKind::Published(_) => "message",
        EventKind::Command(_) => "command",
    }
}

/// A body that is not an event.
fn refuse(state: &AppState, malformed: &Malformed, body: &[u8]) -> Answer {
    let (reason, throttle) = reason(malformed);
    state.metrics.events.malformed(reason);
    state.metrics.events.count("unreadable", "malformed");
    if let Some(suppressed) = throttle.now() {
        let why = match malformed {
            Malformed::Json(error) => super::describe(error),
            other => other.to_string(),
        };
        tracing::warn!(
            reason,
            why,
            bytes = body.len(),
            sample = wire::sample(body),
            suppressed,
            "an event was malformed and is dropped"
        );
    }
    match malformed {
        Malformed::Json(error) => Answer::malformed("EMQX's rule action", error),
        other => Answer::error(StatusCode::BAD_REQUEST, Outcome::BadRequest, &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ingest.max_payload` says the same.
    #[test]
    fn bodies_are_read_up_to_64_mib_or_twelve_times_the_largest_payload() {
        let largest = |max_payload| limit(max_payload).larger.map(|larger| larger.bytes);
        assert_eq!(largest(65_536), Some(64 << 20));
        assert_eq!(largest(16_777_216), Some(12 * 16_777_216 + 32 * 1024));
    }
}
