//! The topics of devices.

use actix_web::web::{Data, Json, Path};
use actix_web::{HttpResponse, delete, get, put};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Body, Checks};
use super::devices::device_name;
use super::etag::Conditions;
use super::problem::Problems;
use super::{Api, Devices, InPart, Problem, Read};
use crate::domain::name::BindingName;
use crate::domain::topic::TopicName;
use crate::fleet::bindings::{self, BindingChange, BindingRow, NewBinding};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(list_bindings).service(put_binding).service(delete_binding);
}

/// A binding.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BindingDocument {
    /// Take state and command topic by convention: `<area>/<floor>/<device>/<binding>/state` and `…/set`, as far as the
    /// capability has a schema for them.
    #[serde(default)]
    conventional: bool,
    /// Where the device reports.
    #[schema(example = "lab/1/thermo-1/temperature/state")]
    state_topic: Option<String>,
    /// Where the device listens.
    command_topic: Option<String>,
    /// Where it answers commands.
    reply_topic: Option<String>,
    /// Whether its reports are merged (RFC 7396) into the last known value instead of replacing it.
    #[serde(default)]
    merge: bool,
}

/// List a device's bindings
///
/// By name.
#[utoipa::path(
    tag = "bindings",
    responses((status = 200, description = "Its bindings.", body = Vec<BindingRow>), Problems)
)]
#[get("/devices/{device}/bindings")]
async fn list_bindings(
    caller: Caller<InPart<Read>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<Vec<BindingRow>>, Problem> {
    let name = device_name(&path.0)?;
    Ok(Json(
        api.see_device(&caller, &name, async |fleet| bindings::list(fleet, &name).await).await?,
    ))
}

/// Make or replace a binding
///
/// Its name is a capability, which the device is given along with it, or `main`. A topic that the device loses ends its
/// sessions.
#[utoipa::path(
    tag = "bindings",
    request_body = BindingDocument,
    responses(
        (status = 200, description = "It was replaced.", body = BindingRow),
        (status = 201, description = "It was made.", body = BindingRow),
        Problems
    )
)]
#[put("/devices/{device}/bindings/{binding}")]
async fn put_binding(
    caller: Caller<InPart<Devices>>,
    path: Path<(String, String)>,
    Body(document): Body<BindingDocument>,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let (device, binding) = path.into_inner();
    let device = device_name(&device)?;
    let mut checks = Checks::default();
    let name: Option<BindingName> = checks.value("", &binding);
    let state: Option<TopicName> = checks.optional("/state_topic", document.state_topic.as_deref());
    let command: Option<TopicName> =
        checks.optional("/command_topic", document.command_topic.as_deref());
    let reply: Option<TopicName> = checks.optional("/reply_topic", document.reply_topic.as_deref());
    if document.conventional && (state.is_some() || command.is_some()) {
        checks.add("/conventional", "says which state and command topic; leave those out");
    }
    checks.end()?;
    let Some(name) = name else { return Err(Problem::failed()) };
    let BindingDocument { conventional, merge, .. } = document;
    let always = Conditions::default();
    let done = api.change_device(&caller, &device, &always, async |transaction, part| {
        let there = bindings::list(transaction, &device).await?;
        if there.iter().any(|binding| binding.name == name.as_str()) {
            let change = BindingChange {
                conventional,
                state_topic: (!conventional).then_some(state),
                command_topic: (!conventional).then_some(command),
                reply_topic: Some(reply),
                merge: Some(merge),
            };
            let changed = bindings::set(transaction, &device, &name, &change).await?;
            part.hold_binding(transaction, &device, &changed).await?;
            return Ok((false, changed));
        }
        let new = NewBinding {
            name,
            conventional,
            state_topic: state,
            command_topic: command,
            reply_topic: reply,
            merge,
        };
        let added = bindings::add(transaction, &device, &new).await?.into_inner();
        part.hold_binding(transaction, &device, &added).await?;
        Ok((true, added))
    });
    let (is_new, row) = done.await?;
    let mut answer = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(answer.json(row))
}

/// Remove a binding
///
/// With the device's capability that it carries. Its sessions end.
#[utoipa::path(
    tag = "bindings",
    responses((status = 204, description = "It was removed."), Problems)
)]
#[delete("/devices/{device}/bindings/{binding}")]
async fn delete_binding(
    caller: Caller<InPart<Devices>>,
    path: Path<(String, String)>,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let (device, binding) = path.into_inner();
    let device = device_name(&device)?;
    let name: BindingName = binding.parse().map_err(|_| Problem::not_found("binding"))?;
    let always = Conditions::default();
    let removed = api.change_device(&caller, &device, &always, async |transaction, _| {
        Ok(bindings::remove(transaction, &device, &name).await?)
    });
    removed.await?;
    Ok(HttpResponse::NoContent().finish())
}
