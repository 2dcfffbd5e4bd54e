//! Commands to devices.

use std::collections::BTreeSet;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, LOCATION};
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Transaction;
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Body, Checks, Parameters, one, query_value};
use super::capabilities::Confirm;
use super::problem::Problems;
use super::rules::selector;
use super::{Api, Commands, InPart, Problem, ROOT, Read, page};
use crate::domain::command::CommandPayload;
use crate::domain::delivery::Confirmation;
use crate::domain::name::{CapabilityName, DeviceName, RuleName};
use crate::fleet::commands::{
    self, Asker, CommandDetails, CommandRow, IdempotencyKey, KeyUse, ListPlace, NewCommand, Pause,
    Resumed, Retried,
};
use crate::fleet::routing::{Choice, To};

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service
        .service(list_commands)
        .service(send_command)
        .service(check_command)
        .service(list_pauses)
        .service(pause_commands)
        .service(resume_commands)
        .service(show_command)
        .service(cancel_command)
        .service(retry_command);
}

/// A command to be sent.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CommandDocument {
    /// What to do: a capability of the devices.
    #[schema(example = "switch")]
    capability: String,
    /// How: any JSON.
    #[schema(example = "on")]
    payload: Value,
    /// These devices. Without them, `selector` and `rule`, the capability's routing rules choose.
    devices: Option<Vec<String>>,
    /// Every device that can get it and that this selector means, as JSON object or text.
    selector: Option<Value>,
    /// Whom this routing rule chooses.
    rule: Option<String>,
    /// Seconds until it expires, 1 to 30 days; left out: as the capability says.
    #[schema(minimum = 1, maximum = 2592000)]
    expires_in: Option<u32>,
    /// What makes it succeed; left out: as the capability says.
    confirm: Option<Confirm>,
}

impl CommandDocument {
    fn check<S>(&self, api: &Api, caller: &Caller<InPart<S>>) -> Result<NewCommand, Problem> {
        let mut checks = Checks::default();
        let capability: Option<CapabilityName> = checks.value("/capability", &self.capability);
        let payload: Option<CommandPayload> = checks.value("/payload", &self.payload.to_string());
        let named = [self.devices.is_some(), self.selector.is_some(), self.rule.is_some()];
        if named.into_iter().filter(|is_named| *is_named).count() > 1 {
            checks.add("", "names more than one of devices, selector and rule; name one");
        }
        let to = match (&self.devices, &self.selector, &self.rule) {
            (Some(names), ..) => Some(To::Devices(devices(names, &mut checks))),
            (_, Some(given), _) => selector(given, "/selector", &mut checks).map(To::Selector),
            (_, _, Some(rule)) => checks.value::<RuleName>("/rule", rule).map(To::Rule),
            (None, None, None) => Some(To::Rules),
        };
        checks.end()?;
        let (Some(capability), Some(payload), Some(to)) = (capability, payload, to) else {
            return Err(Problem::failed());
        };
        Ok(NewCommand {
            capability,
            payload,
            to,
            expires_in: self.expires_in.map(|seconds| Duration::from_secs(u64::from(seconds))),
            confirm: self.confirm.map(Confirmation::from),
            asked_by: asked_by(caller),
            requested: None,
            bounds: api.bounds,
            part: caller.part().clone(),
        })
    }
}

/// Each device once, in the order in which they are named.
fn devices(names: &[String], checks: &mut Checks) -> Vec<DeviceName> {
    let mut seen = BTreeSet::new();
    let names = names.iter().enumerate();
    names
        .filter_map(|(position, name)| checks.value(&format!("/devices/{position}"), name))
        .filter(|name: &DeviceName| seen.insert(name.clone()))
        .collect()
}

/// Who asks, as commands note it.
fn asked_by<S>(caller: &Caller<S>) -> Asker {
    Asker { name: format!("API token {}", caller.token.name), token: Some(caller.token.id) }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only those to this device.
    device: Option<String>,
    /// Most entries.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// Where the page begins: `next` of the page before.
    after: Option<String>,
}

/// A page of commands.
#[derive(Serialize, ToSchema)]
struct CommandPage {
    /// The commands.
    items: Vec<CommandRow>,
    /// `after` of the next page; `null`: this is the last one.
    next: Option<String>,
}

/// List commands
///
/// The newest first.
#[utoipa::path(
    tag = "commands",
    params(ListQuery),
    responses((status = 200, description = "A page of commands.", body = CommandPage), Problems)
)]
#[get("/commands")]
async fn list_commands(
    caller: Caller<InPart<Read>>,
    Parameters(query): Parameters<ListQuery>,
    api: Data<Api>,
) -> Result<Json<CommandPage>, Problem> {
    let limit = page::limit(query.limit)?;
    let after = page::after(query.after.as_deref())?.map(|after| ListPlace::read(&after));
    let after = after.map(|after| after.ok_or_else(page::not_next)).transpose()?;
    let device = query_value("device", query.device.as_deref())?;
    let found = api.see(&caller, async |fleet, part| {
        commands::list(fleet, part, device.as_ref(), after.as_ref(), limit).await
    });
    let items = found.await?;
    let next = page::next(&items, limit, CommandRow::place);
    Ok(Json(CommandPage { items, next }))
}

/// Send a command
///
/// When this is answered, the command is committed and ends one way or the other. It waits for devices that are offline until
/// it expires. With an `Idempotency-Key`, the same request again shows the same command and sends none, for as long as the
/// command is kept (`commands.keep`).
#[utoipa::path(
    tag = "commands",
    request_body = CommandDocument,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "A text of one's own, 1 to 255 bytes, for this request alone.")),
    responses(
        (status = 200, description = "It was asked for before with this key; this is what became of it.", body = CommandDetails),
        (status = 201, description = "It is on its way.", body = CommandDetails,
            headers(("Location" = String, description = "Its path."))),
        Problems
    )
)]
#[post("/commands")]
async fn send_command(
    caller: Caller<InPart<Commands>>,
    Body(document): Body<CommandDocument>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let new = document.check(&api, &caller)?;
    let text = serde_json::to_string(&document).map_err(|_| Problem::failed())?;
    let key = key(&request, &caller, &text)?;
    let sent = api.change_part(&caller, async |transaction, part| {
        let send =
            async |transaction: &mut Transaction<'_>| commands::send(transaction, &new).await;
        Ok(commands::once(transaction, part, key.as_ref(), send, |details| details).await?)
    });
    on_its_way(sent.await?, |details| details)
}

/// The key that a request has; with another `text` it is another request.
fn key<S>(
    request: &HttpRequest,
    caller: &Caller<S>,
    text: &str,
) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(given) = request.headers().get(&IDEMPOTENCY_KEY) else { return Ok(None) };
    let given = given.to_str().ok();
    let key = given.and_then(|key| IdempotencyKey::new(caller.token.id, key, text));
    key.map(Some).ok_or_else(|| {
        let detail = "Idempotency-Key must be 1 to 255 bytes of printable ASCII";
        Problem::new(StatusCode::BAD_REQUEST, "bad_key", detail)
    })
}

/// The answer to whoever asked for a command.
fn on_its_way<T: Serialize>(
    asked: KeyUse<T>,
    command: impl FnOnce(&T) -> &CommandDetails,
) -> Result<HttpResponse, Problem> {
    match asked {
        KeyUse::New(asked) => {
            let location = format!("{ROOT}/commands/{}", command(&asked).command.id);
            Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(asked))
        }
        KeyUse::Same(details) => Ok(HttpResponse::Ok().json(details)),
        KeyUse::Other => {
            let detail = "this Idempotency-Key stands for another request; choose another";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key_in_use", detail))
        }
    }
}

/// Try a command
///
/// Checks everything, tells who would get it, and sends nothing.
#[utoipa::path(
    tag = "commands",
    request_body = CommandDocument,
    responses((status = 200, description = "Who would get it.", body = Choice), Problems)
)]
#[post("/commands/check")]
async fn check_command(
    caller: Caller<InPart<Read>>,
    Body(document): Body<CommandDocument>,
    api: Data<Api>,
) -> Result<Json<Choice>, Problem> {
    let new = document.check(&api, &caller)?;
    Ok(Json(api.see(&caller, async |fleet, _| commands::check_only(fleet, &new).await).await?))
}

/// Show a command
///
/// With what became of it at each device.
#[utoipa::path(
    tag = "commands",
    responses((status = 200, description = "The command.", body = CommandDetails), Problems)
)]
#[get("/commands/{command}")]
async fn show_command(
    caller: Caller<InPart<Read>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<CommandDetails>, Problem> {
    Ok(Json(
        api.see(&caller, async |fleet, part| commands::show(fleet, part, &path.0).await).await?,
    ))
}

/// A command that was cancelled.
#[derive(Serialize, ToSchema)]
struct Cancelled {
    /// At how many devices; at the others it had ended.
    cancelled: u64,
}

/// Cancel a command
///
/// At the devices where it has not ended. What is on its way may still arrive.
#[utoipa::path(
    tag = "commands",
    responses((status = 200, description = "It is cancelled.", body = Cancelled), Problems)
)]
#[post("/commands/{command}/cancel")]
async fn cancel_command(
    caller: Caller<InPart<Commands>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<Cancelled>, Problem> {
    let by = asked_by(&caller);
    let cancelled = api.change_part(&caller, async |transaction, part| {
        Ok(commands::cancel(transaction, part, &path.0, &by.name).await?)
    });
    Ok(Json(Cancelled { cancelled: cancelled.await? }))
}

/// Send a command again
///
/// As a command of its own, to the devices where it expired, was not deliverable, failed or was not answered.
#[utoipa::path(
    tag = "commands",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "A text of one's own, 1 to 255 bytes, for this request alone.")),
    responses(
        (status = 200, description = "It was asked for again before with this key; this is what became of it.", body = CommandDetails),
        (status = 201, description = "The new command is on its way.", body = Retried,
            headers(("Location" = String, description = "Its path."))),
        Problems
    )
)]
#[post("/commands/{command}/retry")]
async fn retry_command(
    caller: Caller<InPart<Commands>>,
    path: Path<(String,)>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let (id, by, bounds) = (&path.0, asked_by(&caller), api.bounds);
    let key = key(&request, &caller, &format!("retry {id}"))?;
    let retried = api.change_part(&caller, async |transaction, part| {
        let retry = async |transaction: &mut Transaction<'_>| {
            commands::retry(transaction, part, id, by, bounds).await
        };
        Ok(commands::once(transaction, part, key.as_ref(), retry, |retried| &retried.details)
            .await?)
    });
    on_its_way(retried.await?, |retried| &retried.details)
}

/// Which commands.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PauseDocument {
    /// Only those of this capability; left out: all.
    capability: Option<String>,
}

impl PauseDocument {
    fn check(&self) -> Result<Option<CapabilityName>, Problem> {
        self.capability.as_deref().map(|name| one("/capability", name)).transpose()
    }
}

/// Send no commands for now
///
/// Until `resume`; they expire all the same, and what is on its way goes on.
#[utoipa::path(
    tag = "commands",
    request_body = PauseDocument,
    responses((status = 204, description = "They are paused."), Problems)
)]
#[post("/commands/pause")]
async fn pause_commands(
    caller: Caller<Commands>,
    Body(document): Body<PauseDocument>,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let (capability, by) = (document.check()?, asked_by(&caller));
    let paused = api.change(&caller, async |transaction| {
        Ok(commands::pause(transaction, capability.as_ref(), &by.name).await?)
    });
    paused.await?;
    Ok(HttpResponse::NoContent().finish())
}

/// List the pauses of commands
///
/// That of all commands first.
#[utoipa::path(
    tag = "commands",
    responses((status = 200, description = "What is paused.", body = Vec<Pause>), Problems)
)]
#[get("/commands/pauses")]
async fn list_pauses(caller: Caller<Read>, api: Data<Api>) -> Result<Json<Vec<Pause>>, Problem> {
    Ok(Json(api.read(&caller, async |client| Ok(commands::pauses(client).await?)).await?))
}

/// Send commands again
///
/// Ends the pause of the capability named, or else that of all commands. Where the other remains, it holds commands back.
#[utoipa::path(
    tag = "commands",
    request_body = PauseDocument,
    responses((status = 200, description = "This pause is over.", body = Resumed), Problems)
)]
#[post("/commands/resume")]
async fn resume_commands(
    caller: Caller<Commands>,
    Body(document): Body<PauseDocument>,
    api: Data<Api>,
) -> Result<Json<Resumed>, Problem> {
    let capability = document.check()?;
    let resumed = api.change(&caller, async |transaction| {
        Ok(commands::resume(transaction, capability.as_ref()).await?)
    });
    Ok(Json(resumed.await?))
}
