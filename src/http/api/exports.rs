//! The registry as lines of JSON, as `fleetgate export` writes it.
//!
//! What it keeps:
//! * All lines are as of one moment, so a transaction is open meanwhile: for [`EXPORT_TIMEOUT`] at most, however slowly the
//!   client reads.
//! * In memory are two pages at a time.
//! * What breaks off is not taken for the whole: the last piece of the answer is sent only after the last line.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, get};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use utoipa::IntoParams;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::{Caller, require_still_valid};
use super::body::Parameters;
use super::problem::{Problems, Refusal};
use super::{Api, InPart, Problem, REQUEST_TIMEOUT, Read};
use crate::domain::api_token::Scope;
use crate::fleet::api_tokens::ApiToken;
use crate::fleet::exports::{self, Export};
use crate::fleet::wire::LEFT_OUT;
use crate::http::connections::ActiveRequest;
use crate::logging::log_throttled;

/// Longest time of an export. While its transaction is open PostgreSQL cannot clean up behind presence and reports.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(300);

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(export);
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExportQuery {
    /// Credentials too, with their hashes: whoever reads them may try passwords against those of chosen ones. Needs the scope
    /// `admin`. Without this, no device of the copy can log in.
    #[serde(default)]
    with_credentials: bool,
}

/// Export the registry as lines of JSON
///
/// One thing a line, as of one moment: capabilities, devices with what belongs to them, routing rules. `POST /api/v1/imports`
/// takes it back. An answer that breaks off (without the last chunk of HTTP) is not the whole. One export runs at a time (429), 5
/// minutes at most.
#[utoipa::path(
    tag = "bulk",
    params(ExportQuery),
    responses(
        (
            status = 200,
            description = "The registry.",
            content_type = "application/x-ndjson",
            body = String,
            headers(("fleetgate-credentials-left-out" = u64, description = "How many credentials are left out."))
        ),
        Problems
    )
)]
#[get("/exports")]
async fn export(
    caller: Caller<InPart<Read>>,
    Parameters(query): Parameters<ExportQuery>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    // Until its end a service that stops waits for it.
    let active = ActiveRequest::begin(&request);
    active.body_complete();
    let with_credentials = query.with_credentials;
    if with_credentials && !caller.token.scopes.allow(Scope::Admin) {
        return Err(Problem::scope(Scope::Admin.word()));
    }
    let Ok(turn) = api.exporting.clone().try_acquire_owned() else {
        return Err(Problem::busy("another export is under way; one runs at a time", "10"));
    };
    if with_credentials {
        tracing::info!(token = caller.token.name, "exporting the registry with its credentials");
    }
    let (begun, begins) = oneshot::channel();
    let (pages, rest) = mpsc::channel(1);
    actix_web::rt::spawn(run(api, turn, with_credentials, caller.token.clone(), begun, pages));
    let left_out = begins.await.unwrap_or_else(|_| Err(Problem::failed()))?;
    Ok(HttpResponse::Ok()
        .content_type("application/x-ndjson")
        .insert_header((LEFT_OUT, left_out.to_string()))
        .streaming(to_the_end(rest, active)))
}

/// Reads page after page as the client takes them; `None` is the end.
async fn run(
    api: Data<Api>,
    _turn: OwnedSemaphorePermit,
    with_credentials: bool,
    token: Rc<ApiToken>,
    begun: oneshot::Sender<Result<i64, Problem>>,
    pages: mpsc::Sender<Option<Bytes>>,
) {
    let mut begun = Some(begun);
    let exporting = api.within(EXPORT_TIMEOUT, async |client| {
        let snapshot = exports::snapshot(client).await?;
        let left_out =
            if with_credentials { 0 } else { exports::credentials(&snapshot, &token.part).await? };
        if let Some(begun) = begun.take() {
            let _gone = begun.send(Ok(left_out));
        }
        let mut under_way = Export::new(with_credentials, token.part.clone());
        while let Some(lines) = under_way.next_page(&snapshot).await? {
            // On another connection: the snapshot sees what was valid when it was taken.
            api.within(REQUEST_TIMEOUT, async |client| require_still_valid(&*client, &token).await)
                .await?;
            let page: String = lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect();
            if pages.send(Some(page.into())).await.is_err() {
                return Ok(false);
            }
        }
        Ok::<_, Refusal>(true)
    });
    match exporting.await {
        Ok(true) => drop(pages.send(None).await),
        Ok(false) => {}
        Err(problem) => {
            log_throttled!(warn, "an export of the API broke off", %problem);
            if let Some(begun) = begun {
                let _gone = begun.send(Err(problem));
            }
        }
    }
}

/// Pages up to the end. Without one the answer breaks off.
fn to_the_end(
    pages: mpsc::Receiver<Option<Bytes>>,
    active: ActiveRequest,
) -> impl Stream<Item = Result<Bytes, io::Error>> {
    stream::unfold((pages, active), |(mut pages, active)| async move {
        match pages.recv().await {
            Some(Some(page)) => Some((Ok(page), (pages, active))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the export broke off")), (pages, active))),
        }
    })
}
