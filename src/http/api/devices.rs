//! Devices and services.

use actix_web::http::header::{ETAG, LOCATION};
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, put};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::body::{Body, Checks, Parameters, Patch};
use super::etag::{Conditions, etag};
use super::page;
use super::problem::Problems;
use super::{Api, Devices, InPart, Problem, ROOT, Read};
use crate::domain::meta::Meta;
use crate::domain::name::{ClientId, DeviceKind, DeviceName, PlaceName};
use crate::domain::selector::Selector;
use crate::domain::topic::TopicName;
use crate::fleet::bindings::BindingRow;
use crate::fleet::credentials::CredentialRow;
use crate::fleet::devices::{
    self, DeviceChange, DeviceDetails, DeviceFilter, DeviceRow, NewDevice,
};
use crate::fleet::grants::GrantRow;

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service
        .service(list_devices)
        .service(show_device)
        .service(put_device)
        .service(patch_device)
        .service(delete_device);
}

/// What is said of a device when it is made or replaced.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeviceDocument {
    /// Its name and MQTT user name. In a `PUT` that of the path, or left out; in a `PATCH` another one renames the device,
    /// which logs in by it from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "thermo-1")]
    name: Option<String>,
    /// What it is. `service`: a program that uses the bus, may open several clients and lives by its grants.
    #[schema(example = "sensor")]
    kind: String,
    /// Its MQTT client id, where that is not its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// Where it is: first level of its conventional topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "lab")]
    area: Option<String>,
    /// Where it is: second level of its conventional topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "1")]
    floor: Option<String>,
    /// The device whose MQTT client speaks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    /// Where its gateway says whether it reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    availability_topic: Option<String>,
    /// Whether it may log in and use its rights.
    #[serde(default = "yes")]
    enabled: bool,
    /// What is noted about it: any JSON object.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"room": "101"}))]
    meta: Map<String, Value>,
}

fn yes() -> bool {
    true
}

impl DeviceDocument {
    fn of(device: DeviceRow) -> Self {
        let meta = match device.meta {
            Value::Object(meta) => meta,
            _ => Map::new(),
        };
        Self {
            name: Some(device.name),
            kind: device.kind,
            client_id: device.own_client_id,
            area: device.area,
            floor: device.floor,
            gateway: device.gateway,
            availability_topic: device.availability_topic,
            enabled: device.enabled,
            meta,
        }
    }

    /// The device that it tells of, if all of it is right.
    fn check(self, name: &DeviceName) -> Result<NewDevice, Problem> {
        let mut checks = Checks::default();
        let name = match &self.name {
            Some(text) => checks.value("/name", text),
            None => Some(name.clone()),
        };
        let kind: Option<DeviceKind> = checks.value("/kind", &self.kind);
        let client_id: Option<ClientId> = checks.optional("/client_id", self.client_id.as_deref());
        let area: Option<PlaceName> = checks.optional("/area", self.area.as_deref());
        let floor: Option<PlaceName> = checks.optional("/floor", self.floor.as_deref());
        let gateway: Option<DeviceName> = checks.optional("/gateway", self.gateway.as_deref());
        let availability_topic: Option<TopicName> =
            checks.optional("/availability_topic", self.availability_topic.as_deref());
        let meta: Option<Meta> = checks.value("/meta", &Value::Object(self.meta).to_string());
        checks.end()?;
        let (Some(name), Some(kind), Some(meta)) = (name, kind, meta) else {
            return Err(Problem::failed());
        };
        Ok(NewDevice {
            client_id,
            area,
            floor,
            gateway,
            availability_topic,
            enabled: self.enabled,
            meta,
            ..NewDevice::new(name, kind)
        })
    }
}

/// Makes a device that is there the one that is wanted; what belongs to it stays.
fn as_change(wanted: NewDevice) -> DeviceChange {
    DeviceChange {
        name: Some(wanted.name),
        client_id: Some(wanted.client_id),
        area: Some(wanted.area),
        floor: Some(wanted.floor),
        kind: Some(wanted.kind),
        gateway: Some(wanted.gateway),
        availability_topic: Some(wanted.availability_topic),
        enabled: Some(wanted.enabled),
        meta: Some(wanted.meta),
    }
}

/// A device with what belongs to it.
#[derive(Serialize, ToSchema)]
struct Device {
    /// Its name and MQTT user name.
    name: String,
    /// The client id that it connects with.
    client_id: String,
    /// What it is.
    kind: String,
    /// Where it is.
    area: Option<String>,
    /// Where it is.
    floor: Option<String>,
    /// The device whose MQTT client speaks for it.
    gateway: Option<String>,
    /// Where its gateway says whether it reaches it.
    availability_topic: Option<String>,
    /// Whether it may log in and use its rights.
    enabled: bool,
    /// What is noted about it.
    #[schema(value_type = Object)]
    meta: Value,
    /// What it can do.
    capabilities: Vec<String>,
    /// Its topics.
    bindings: Vec<BindingRow>,
    /// Its further rights.
    grants: Vec<GrantRow>,
    /// What it may log in with, revoked and expired ones included; secrets and hashes are shown nowhere.
    credentials: Vec<CredentialRow>,
    /// The devices behind it, by name.
    children: Vec<String>,
    /// Names of bindings whose topics followed the convention before this change and no longer do: a device that is moved
    /// or renamed keeps its topics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_behind: Vec<String>,
    /// When it was added.
    created_at: Timestamp,
    /// When an administrator last changed it.
    updated_at: Timestamp,
}

impl Device {
    fn of(details: DeviceDetails, left_behind: Vec<String>) -> Self {
        let device = details.device;
        Self {
            name: device.name,
            client_id: device.client_id,
            kind: device.kind,
            area: device.area,
            floor: device.floor,
            gateway: device.gateway,
            availability_topic: device.availability_topic,
            enabled: device.enabled,
            meta: device.meta,
            capabilities: details.capabilities,
            bindings: details.bindings,
            grants: details.grants,
            credentials: details.credentials,
            children: details.children,
            left_behind,
            created_at: device.created_at,
            updated_at: device.updated_at,
        }
    }
}

/// The device that a path names; what cannot be a name is no device's.
pub(super) fn device_name(text: &str) -> Result<DeviceName, Problem> {
    text.parse().map_err(|_| Problem::not_found("device"))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only devices for which this selector holds, as text (`area=lab,kind in (relay,plug),online`) or JSON (`{"area":"lab"}`).
    selector: Option<String>,
    /// Most entries of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u16>,
    /// Where the page begins: `next` of the page before.
    after: Option<String>,
}

/// A page of devices.
#[derive(Serialize, ToSchema)]
struct DevicePage {
    /// The devices.
    items: Vec<DeviceRow>,
    /// `after` of the next page; `null`: this is the last one.
    next: Option<String>,
}

/// List devices
///
/// In the order of their names. Presence is as of now.
#[utoipa::path(
    tag = "devices",
    params(ListQuery),
    responses((status = 200, description = "A page of devices.", body = DevicePage), Problems)
)]
#[get("/devices")]
async fn list_devices(
    caller: Caller<InPart<Read>>,
    Parameters(query): Parameters<ListQuery>,
    api: Data<Api>,
) -> Result<Json<DevicePage>, Problem> {
    let limit = page::limit(query.limit)?;
    let selector = query.selector.as_deref().unwrap_or_default().parse::<Selector>();
    let selector = selector
        .map_err(|error| Problem::query(format!("selector: {error}; see docs/SELECTORS.md")))?;
    let after = page::after(query.after.as_deref())?;
    let found = api.see(&caller, async |fleet, part| {
        let part = part.clone();
        let filter = DeviceFilter { selector, after, part, ..DeviceFilter::default() };
        devices::list(fleet, &filter, limit).await
    });
    let found = found.await?;
    let next = page::next(&found, limit, |device| device.name.clone());
    Ok(Json(DevicePage { items: found, next }))
}

/// Show a device
#[utoipa::path(
    tag = "devices",
    responses(
        (status = 200, description = "The device.", body = Device,
            headers(("ETag" = String, description = "Its version."))),
        Problems
    )
)]
#[get("/devices/{device}")]
async fn show_device(
    caller: Caller<InPart<Read>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name = device_name(&path.0)?;
    let found = api.see(&caller, async |fleet, part| part.show(fleet, &name).await).await?;
    Ok(answer(&mut HttpResponse::Ok(), found, Vec::new()))
}

fn answer(
    response: &mut actix_web::HttpResponseBuilder,
    details: DeviceDetails,
    left_behind: Vec<String>,
) -> HttpResponse {
    let version = details.device.version();
    response.insert_header((ETAG, etag(version))).json(Device::of(details, left_behind))
}

/// Make or replace a device
///
/// What belongs to it (credentials, capabilities, bindings, grants) stays. `If-Match` holds it to a version,
/// `If-None-Match: *` only makes a new one.
#[utoipa::path(
    tag = "devices",
    request_body = DeviceDocument,
    params(
        ("If-Match" = Option<String>, Header, description = "Only if the device is in this version."),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if there is no such device.")
    ),
    responses(
        (status = 200, description = "It was replaced.", body = Device,
            headers(("ETag" = String, description = "Its version."))),
        (status = 201, description = "It was made.", body = Device,
            headers(("ETag" = String, description = "Its version."), ("Location" = String, description = "Its path."))),
        Problems
    )
)]
#[put("/devices/{device}")]
async fn put_device(
    caller: Caller<InPart<Devices>>,
    path: Path<(String,)>,
    Body(document): Body<DeviceDocument>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let mut checks = Checks::default();
    let name: Option<DeviceName> = checks.value("", &path.0);
    if document.name.as_ref().is_some_and(|other| *other != path.0) {
        checks.add("/name", "is not the name of the path; rename a device with PATCH");
    }
    checks.end()?;
    let Some(name) = name else { return Err(Problem::failed()) };
    let wanted = document.check(&name)?;
    let conditions = Conditions::of(&request);
    let outcome = api.change_part(&caller, async |transaction, part| {
        // One outside is as one that is not there, until its name turns out to be taken.
        let present = part.lock(transaction, &name).await?;
        conditions.hold(present)?;
        if present.is_some() {
            let changed = part.set(transaction, &name, as_change(wanted)).await?;
            return Ok((false, changed.details, changed.left_behind));
        }
        Ok((true, part.add(transaction, &wanted).await?, Vec::new()))
    });
    let (is_new, details, left_behind) = outcome.await?;
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    if is_new {
        response.insert_header((LOCATION, location(&name)));
    }
    Ok(answer(&mut response, details, left_behind))
}

fn location(name: &DeviceName) -> String {
    format!("{ROOT}/devices/{}", utf8_percent_encode(name.as_str(), NON_ALPHANUMERIC))
}

/// Change a device
///
/// A JSON merge patch (RFC 7396) of what `PUT` takes: `null` takes a member away, what is left out stays.
#[utoipa::path(
    tag = "devices",
    request_body(content = Object, content_type = "application/merge-patch+json",
        description = "Members of what `PUT` takes.", example = json!({"area": "lab", "meta": {"room": null}})),
    params(("If-Match" = Option<String>, Header, description = "Only if the device is in this version.")),
    responses(
        (status = 200, description = "It was changed.", body = Device,
            headers(("ETag" = String, description = "Its version."))),
        Problems
    )
)]
#[patch("/devices/{device}")]
async fn patch_device(
    caller: Caller<InPart<Devices>>,
    path: Path<(String,)>,
    patch: Patch,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name = device_name(&path.0)?;
    let conditions = Conditions::of(&request);
    let outcome = api.change_device(&caller, &name, &conditions, async |transaction, part| {
        let present = part.show(transaction, &name).await?.device;
        let present = serde_json::to_value(DeviceDocument::of(present));
        let present = present.map_err(|_| Problem::failed())?;
        let wanted = patch.apply::<DeviceDocument>(present)?.check(&name)?;
        Ok(part.set(transaction, &name, as_change(wanted)).await?)
    });
    let changed = outcome.await?;
    Ok(answer(&mut HttpResponse::Ok(), changed.details, changed.left_behind))
}

/// Remove a device
///
/// With all that belongs to it. Its sessions end.
#[utoipa::path(
    tag = "devices",
    params(("If-Match" = Option<String>, Header, description = "Only if the device is in this version.")),
    responses((status = 204, description = "It was removed."), Problems)
)]
#[delete("/devices/{device}")]
async fn delete_device(
    caller: Caller<InPart<Devices>>,
    path: Path<(String,)>,
    request: HttpRequest,
    api: Data<Api>,
) -> Result<HttpResponse, Problem> {
    let name = device_name(&path.0)?;
    let conditions = Conditions::of(&request);
    let outcome = api.change_device(&caller, &name, &conditions, async |transaction, _| {
        Ok(devices::remove(transaction, &name).await?)
    });
    outcome.await?;
    Ok(HttpResponse::NoContent().finish())
}
