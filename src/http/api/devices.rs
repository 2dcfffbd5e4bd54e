//! Devices and services.

use actix_web::http::header::{ETAG, LOCATION};
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, put};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::bindings::NamedBinding;
use super::body::{Body, Checks, Parameters, Patch};
use super::capabilities::without;
use super::credentials::{self, CredentialDocument};
use super::etag::{Conditions, etag};
use super::page;
use super::problem::Problems;
use super::{Api, Devices, InPart, Problem, ROOT, Read};
use crate::domain::api_token::Scope;
use crate::domain::json_object::Object;
use crate::domain::meta::Meta;
use crate::domain::name::{ClientId, DeviceKind, DeviceName, PlaceName};
use crate::domain::selector::Selector;
use crate::domain::topic::TopicName;
use crate::fleet::devices::{
    self, Changed, DeviceChange, DeviceDetails, DeviceFilter, DeviceRow, NewDevice,
};

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service
        .service(list_devices)
        .service(show_device)
        .service(put_device)
        .service(patch_device)
        .service(delete_device);
}

/// What is said of a device when it is made or replaced.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeviceDocument {
    /// Its name and MQTT user name. In a `PUT` that of the path, or left out; in a `PATCH` another one renames the device,
    /// which logs in by it from then on.
    #[serde(default)]
    #[schema(example = "thermo-1")]
    name: Option<String>,
    /// What it is. `service`: a program that uses the bus, may open several clients and lives by its grants.
    #[schema(example = "sensor")]
    kind: String,
    /// Its MQTT client id, where that is not its name.
    #[serde(default)]
    client_id: Option<String>,
    /// Where it is: first level of its conventional topics.
    #[serde(default)]
    #[schema(example = "lab")]
    area: Option<String>,
    /// Where it is: second level of its conventional topics.
    #[serde(default)]
    #[schema(example = "1")]
    floor: Option<String>,
    /// The device whose MQTT client speaks for it.
    #[serde(default)]
    gateway: Option<String>,
    /// Where its gateway says whether it reaches it.
    #[serde(default)]
    availability_topic: Option<String>,
    /// Whether it may log in and use its rights.
    #[serde(default = "yes")]
    enabled: bool,
    /// What is noted about it: any JSON object.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"room": "101"}))]
    meta: Map<String, Value>,
    /// What it can do without a topic. This, `bindings` and `credential` are taken where the device is made; later they are
    /// changed at paths of their own.
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    /// Its topics. Those that a conventional binding does not name are those of the convention.
    #[serde(default, deserialize_with = "objects")]
    bindings: Option<Vec<NamedBinding>>,
    /// What it may log in with; needs the scope `credentials` too.
    #[serde(default, deserialize_with = "object")]
    credential: Option<CredentialDocument>,
}

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(one)| one))
}

fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let objects = Option::<Vec<Object<T>>>::deserialize(deserializer)?;
    Ok(objects.map(|objects| objects.into_iter().map(|Object(one)| one).collect()))
}

fn yes() -> bool {
    true
}

impl DeviceDocument {
    /// What is taken of a device only while it is made.
    ///
    /// # Errors
    /// Something of that is here.
    fn without_parts(&self) -> Result<(), Problem> {
        let parts = [
            ("capabilities", self.capabilities.is_some()),
            ("bindings", self.bindings.is_some()),
            ("credential", self.credential.is_some()),
        ];
        refuse_parts(parts.into_iter().filter(|(_, is_there)| *is_there).map(|(part, _)| part))
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
        let capabilities = self.capabilities.iter().flatten().enumerate();
        let capabilities = capabilities
            .filter_map(|(place, name)| checks.value(&format!("/capabilities/{place}"), name))
            .collect();
        let bindings = self.bindings.into_iter().flatten().enumerate();
        let bindings = bindings
            .filter_map(|(place, binding)| {
                binding.check(&format!("/bindings/{place}"), &mut checks)
            })
            .collect();
        checks.end()?;
        let (Some(name), Some(kind), Some(meta)) = (name, kind, meta) else {
            return Err(Problem::failed());
        };
        // As a device is shown that has none of its own.
        let client_id = client_id.filter(|client_id| client_id.as_str() != name.as_str());
        Ok(NewDevice {
            client_id,
            area,
            floor,
            gateway,
            availability_topic,
            enabled: self.enabled,
            meta,
            capabilities,
            bindings,
            ..NewDevice::new(name, kind)
        })
    }
}

/// A device as `PUT` takes it.
fn as_document(device: &DeviceRow, meta: &Value) -> Value {
    let document = json!({
        "name": device.name, "kind": device.kind, "client_id": device.own_client_id, "area": device.area,
        "floor": device.floor, "gateway": device.gateway, "availability_topic": device.availability_topic,
        "enabled": device.enabled, "meta": meta,
    });
    without(document, &[])
}

/// What of a device is taken only while it is made.
const PARTS: [&str; 3] = ["capabilities", "bindings", "credential"];

fn refuse_parts<'a>(parts: impl Iterator<Item = &'a str>) -> Result<(), Problem> {
    let mut checks = Checks::default();
    for part in parts {
        let why = "is taken only where the device is made; change it at its own path";
        checks.add(&format!("/{part}"), why);
    }
    checks.end()
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

/// A device with what belongs to it, and what is known of it.
#[derive(Serialize, ToSchema)]
struct Device {
    #[serde(flatten)]
    details: DeviceDetails,
    /// Names of bindings whose topics followed the convention before this change and no longer do: a device that is moved
    /// or renamed keeps its topics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_behind: Vec<String>,
    /// The secret that was generated for it, which is shown this once and stored nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// The device that a path names; what cannot be a name is no device's.
pub(super) fn device_name(text: &str) -> Result<DeviceName, Problem> {
    text.parse().map_err(|_| Problem::not_found("device"))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this area.
    area: Option<String>,
    /// Only of this floor.
    floor: Option<String>,
    /// Only of this kind.
    kind: Option<String>,
    /// Only those online, or only those not.
    online: Option<bool>,
    /// Only those enabled, or only those not.
    enabled: Option<bool>,
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
    let ListQuery { area, floor, kind, online, enabled, .. } = query;
    let found = api.see(&caller, async |fleet, part| {
        let part = part.clone();
        let filter = DeviceFilter { area, floor, kind, online, enabled, selector, after, part };
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
    Ok(answer(&mut HttpResponse::Ok(), found.into()))
}

impl From<DeviceDetails> for Device {
    fn from(details: DeviceDetails) -> Self {
        Self { details, left_behind: Vec::new(), secret: None }
    }
}

impl From<Changed> for Device {
    fn from(Changed { details, left_behind }: Changed) -> Self {
        Self { details, left_behind, secret: None }
    }
}

fn answer(response: &mut actix_web::HttpResponseBuilder, device: Device) -> HttpResponse {
    let version = device.details.device.version();
    response.insert_header((ETAG, etag(version))).json(device)
}

/// Make or replace a device
///
/// What belongs to it (credentials, capabilities, bindings, grants) stays. `If-Match` holds it to a version,
/// `If-None-Match: *` only makes a new one. A new one may come with capabilities, bindings and a credential: all of it is
/// made, or nothing.
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
    Body(mut document): Body<DeviceDocument>,
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
    let parts = document.without_parts();
    let credential = document.credential.take();
    if credential.is_some() && !caller.token.scopes.allow(Scope::Credentials) {
        return Err(Problem::scope(Scope::Credentials.word()));
    }
    let mut wanted = document.check(&name)?;
    let mut secret = None;
    if let Some(document) = credential {
        let terms = document.terms();
        let made = credentials::make(document, "/credential", &api).await?;
        secret = made.0;
        wanted.credential = Some((made.1, terms));
    }
    let conditions = Conditions::of(&request);
    let outcome = api.change_part(&caller, async |transaction, part| {
        // One outside is as one that is not there, until its name turns out to be taken.
        let present = part.lock(transaction, &name).await?;
        conditions.hold(present, &name)?;
        if present.is_some() {
            parts?;
            let changed = part.set(transaction, &name, as_change(wanted)).await?;
            return Ok((false, changed.into()));
        }
        let added = part.add(transaction, &wanted).await?;
        for binding in &added.bindings {
            part.hold_binding(transaction, &name, binding).await?;
        }
        Ok((true, added.into()))
    });
    let (is_new, mut device): (bool, Device) = outcome.await?;
    if !is_new {
        return Ok(answer(&mut HttpResponse::Ok(), device));
    }
    device.secret = secret.map(|secret| secret.expose().to_owned());
    Ok(answer(HttpResponse::Created().insert_header((LOCATION, location(&name))), device))
}

fn location(name: &DeviceName) -> String {
    format!("{ROOT}/devices/{}", utf8_percent_encode(name.as_str(), NON_ALPHANUMERIC))
}

/// Change a device
///
/// A JSON merge patch (RFC 7396) of what `PUT` takes: `null` takes a member away, what is left out stays. As
/// `application/json` each member takes the place of what is there as a whole.
#[utoipa::path(
    tag = "devices",
    request_body(description = "Members of what `PUT` takes.", content(
        (Object = "application/merge-patch+json", example = json!({"area": "lab", "meta": {"room": null}})),
        (Object = "application/json", example = json!({"meta": {"room": "102"}})))),
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
        refuse_parts(PARTS.into_iter().filter(|part| patch.names(part)))?;
        let present = part.show(transaction, &name).await?.device;
        // What somebody wrote in `psql` may be more than is taken here.
        let keeps_meta = !patch.names("meta");
        let meta = if keeps_meta { json!({}) } else { present.meta.value() };
        let present = as_document(&present, &meta);
        let wanted = patch.apply::<DeviceDocument>(present)?.check(&name)?;
        let mut change = as_change(wanted);
        change.meta = change.meta.filter(|_| !keeps_meta);
        Ok(part.set(transaction, &name, change).await?)
    });
    Ok(answer(&mut HttpResponse::Ok(), outcome.await?.into()))
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
