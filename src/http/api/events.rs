//! What changes in the fleet, told as it happens (server-sent events).

use std::io;

use actix_web::web::{Bytes, Data};
use actix_web::{HttpResponse, get};
use futures_util::stream;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::problem::Problems;
use super::{Api, InPart, Problem, Read};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(watch);
}

/// Follow what changes
///
/// A stream of server-sent events, which say what to look at again: `device` (`{"device", "exists"}`: it came, went or was changed),
/// `presence` (`{"device", "online"}`), `state` (`{"device"}`: it reported) and `reload` (`{}`: everything; a stream begins with
/// it, and has it where it fell behind). Nothing has to be caught up with: whoever looks after `reload` and after each event has
/// seen every change. A comment comes after 15 s of silence. A stream ends when its token does. Of a token with a selector it
/// tells of devices inside alone; those that are gone or have left are not told. A token may have 10 streams, all together 100
/// (429).
#[utoipa::path(
    tag = "events",
    responses(
        (status = 200, description = "The events, until the client closes.", content_type = "text/event-stream", body = String),
        Problems
    )
)]
#[get("/events")]
async fn watch(caller: Caller<InPart<Read>>, api: Data<Api>) -> Result<HttpResponse, Problem> {
    let events = stream::unfold(api.streams.open(&caller.token)?, |mut events| async move {
        let piece = events.next().await?;
        Some((Ok::<Bytes, io::Error>(piece), events))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("x-accel-buffering", "no"))
        .streaming(events))
}
