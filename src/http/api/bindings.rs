//! The topics of devices.

use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, put};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Body, Checks, Patch, one};
use super::capabilities::without;
use super::devices::device_name;
use super::etag::Conditions;
use super::problem::Problems;
use super::{Api, Devices, InPart, Problem, Read};
use crate::domain::name::BindingName;
use crate::domain::topic::TopicName;
use crate::fleet::Added;
use crate::fleet::bindings::{self, BindingChange, BindingRow, NewBinding};
use crate::fleet::error::{FleetError, Thing};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service
        .service(list_bindings)
        .service(put_binding)
        .service(patch_binding)
        .service(delete_binding);
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

impl BindingDocument {
    fn check(self, name: BindingName) -> Result<NewBinding, Problem> {
        let mut checks = Checks::default();
        if self.conventional && (self.state_topic.is_some() || self.command_topic.is_some()) {
            checks.add("/conventional", "says which state and command topic; leave those out");
        }
        let binding = self.read(name, "", &mut checks);
        checks.end()?;
        Ok(binding)
    }

    fn read(self, name: BindingName, at: &str, checks: &mut Checks) -> NewBinding {
        let mut topic = |member: &str, text: Option<String>| {
            checks.optional::<TopicName>(&format!("{at}/{member}"), text.as_deref())
        };
        NewBinding {
            name,
            conventional: self.conventional,
            state_topic: topic("state_topic", self.state_topic),
            command_topic: topic("command_topic", self.command_topic),
            reply_topic: topic("reply_topic", self.reply_topic),
            merge: self.merge,
        }
    }
}

/// Makes a binding that is there the one that is wanted.
fn as_change(wanted: NewBinding) -> BindingChange {
    let NewBinding { conventional, state_topic, command_topic, reply_topic, merge, .. } = wanted;
    BindingChange {
        conventional,
        state_topic: (!conventional).then_some(state_topic),
        command_topic: (!conventional).then_some(command_topic),
        reply_topic: Some(reply_topic),
        merge: Some(merge),
    }
}

/// A binding of a device that is made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedBinding {
    /// A capability, which the device is given along with it, or `main`.
    name: String,
    /// Whether the topics that are not named here are those of the convention.
    #[serde(default)]
    conventional: bool,
    /// Where the device reports.
    state_topic: Option<String>,
    /// Where the device listens.
    command_topic: Option<String>,
    /// Where it answers commands.
    reply_topic: Option<String>,
    /// Whether its reports are merged (RFC 7396) into the last known value instead of replacing it.
    #[serde(default)]
    merge: bool,
}

impl NamedBinding {
    /// The binding that it tells of; what is wrong with it is noted.
    pub(super) fn check(self, at: &str, checks: &mut Checks) -> Option<NewBinding> {
        let name = checks.value(&format!("{at}/name"), &self.name)?;
        let Self { conventional, state_topic, command_topic, reply_topic, merge, .. } = self;
        let document =
            BindingDocument { conventional, state_topic, command_topic, reply_topic, merge };
        Some(document.read(name, at, checks))
    }
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
/// sessions. `If-None-Match: *` changes none: one that says the same is answered as it is, another is refused.
#[utoipa::path(
    tag = "bindings",
    request_body = BindingDocument,
    params(
        ("If-Match" = Option<String>, Header, description = "Only if the device is in this version."),
        ("If-None-Match" = Option<String>, Header, description = "`*`: change none that is there.")
    ),
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
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let (device, binding) = path.into_inner();
    let device = device_name(&device)?;
    let wanted = document.check(one("", &binding)?)?;
    let only_new = Conditions::of(&request).only_new();
    let conditions = Conditions::of_device(&request);
    let done = api.change_device(&caller, &device, &conditions, async |transaction, part| {
        let there = bindings::list(transaction, &device).await?;
        let name = wanted.name.clone();
        if !only_new && there.iter().any(|binding| binding.name == name.as_str()) {
            let change = as_change(wanted);
            let changed = bindings::set(transaction, &device, &name, &change).await?;
            part.hold_binding(transaction, &device, &changed).await?;
            return Ok((false, changed));
        }
        let added = bindings::add(transaction, &device, &wanted).await?;
        let is_new = matches!(added, Added::New(_));
        let added = added.into_inner();
        part.hold_binding(transaction, &device, &added).await?;
        Ok((is_new, added))
    });
    let (is_new, row) = done.await?;
    let mut answer = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(answer.json(row))
}

/// Change a binding
///
/// A JSON merge patch (RFC 7396) of what `PUT` takes. A topic that the device loses ends its sessions.
#[utoipa::path(
    tag = "bindings",
    request_body(description = "Members of what `PUT` takes.", content(
        (Object = "application/merge-patch+json", example = json!({"merge": true})),
        (Object = "application/json", example = json!({"reply_topic": null})))),
    params(("If-Match" = Option<String>, Header, description = "Only if the device is in this version.")),
    responses((status = 200, description = "It was changed.", body = BindingRow), Problems)
)]
#[patch("/devices/{device}/bindings/{binding}")]
async fn patch_binding(
    caller: Caller<InPart<Devices>>,
    path: Path<(String, String)>,
    patch: Patch,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<Json<BindingRow>, Problem> {
    let (device, name) = path.into_inner();
    let device = device_name(&device)?;
    let name: BindingName = name.parse().map_err(|_| Problem::not_found("binding"))?;
    let conditions = Conditions::of_device(&request);
    let changed = api.change_device(&caller, &device, &conditions, async |transaction, part| {
        let there = bindings::list(transaction, &device).await?;
        let present = there.into_iter().find(|binding| binding.name == name.as_str());
        let thing = Thing::Binding { device: device.clone(), name: name.clone() };
        let present = present.ok_or(FleetError::NotFound(thing))?;
        let present = serde_json::to_value(present).map_err(|_| Problem::failed())?;
        let wanted = patch.apply::<BindingDocument>(without(present, &["name"]))?;
        let change = as_change(wanted.check(name.clone())?);
        let changed = bindings::set(transaction, &device, &name, &change).await?;
        part.hold_binding(transaction, &device, &changed).await?;
        Ok(changed)
    });
    Ok(Json(changed.await?))
}

/// Remove a binding
///
/// With the device's capability that it carries. Its sessions end.
#[utoipa::path(
    tag = "bindings",
    params(("If-Match" = Option<String>, Header, description = "Only if the device is in this version.")),
    responses((status = 204, description = "It was removed."), Problems)
)]
#[delete("/devices/{device}/bindings/{binding}")]
async fn delete_binding(
    caller: Caller<InPart<Devices>>,
    path: Path<(String, String)>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let (device, binding) = path.into_inner();
    let device = device_name(&device)?;
    let name: BindingName = binding.parse().map_err(|_| Problem::not_found("binding"))?;
    let conditions = Conditions::of_device(&request);
    let removed = api.change_device(&caller, &device, &conditions, async |transaction, _| {
        Ok(bindings::remove(transaction, &device, &name).await?)
    });
    removed.await?;
    Ok(HttpResponse::NoContent().finish())
}
