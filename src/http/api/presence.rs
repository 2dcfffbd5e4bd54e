//! What is known of devices: presence, last values, sessions.

use actix_web::get;
use actix_web::web::{Data, Json, Path};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Caller;
use super::devices::device_name;
use super::problem::Problems;
use super::{Api, InPart, Problem, Read};

use crate::fleet::sessions::SessionRow;

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(show_state).service(list_sessions);
}

/// What is known of a device.
#[derive(Serialize, ToSchema)]
struct DeviceState {
    /// Whether one of its sessions is open; of a device behind a gateway, whether the gateway is online and did not last say
    /// that it is offline.
    online: bool,
    /// When it was last heard.
    last_seen: Option<Timestamp>,
    /// Last known values by binding, each with `at` (ms since 1970), the message's `id` and, unless it was cleared, its
    /// `value`.
    #[schema(value_type = Object)]
    state: Value,
    /// What its gateway last said of its availability.
    #[schema(value_type = Option<Object>)]
    availability: Option<Value>,
    /// The newest report that broke its capability's schema: `at`, `binding`, `pointer`, `message`.
    #[schema(value_type = Option<Object>)]
    last_violation: Option<Value>,
}

/// Show what is known of a device
///
/// Presence and last values, as of now.
#[utoipa::path(
    tag = "state",
    responses((status = 200, description = "What is known.", body = DeviceState), Problems)
)]
#[get("/devices/{device}/state")]
async fn show_state(
    caller: Caller<InPart<Read>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<DeviceState>, Problem> {
    let name = device_name(&path.0)?;
    let found = api.see(&caller, async |fleet, part| part.show(fleet, &name).await).await?;
    Ok(Json(DeviceState {
        online: found.device.online,
        last_seen: found.device.last_seen,
        state: found.state,
        availability: found.availability,
        last_violation: found.last_violation,
    }))
}

/// List a device's sessions
///
/// The newest one of each client id: open ones and those noted last, 1000 at most.
#[utoipa::path(
    tag = "sessions",
    responses((status = 200, description = "Its sessions.", body = Vec<SessionRow>), Problems)
)]
#[get("/devices/{device}/sessions")]
async fn list_sessions(
    caller: Caller<InPart<Read>>,
    path: Path<(String,)>,
    api: Data<Api>,
) -> Result<Json<Vec<SessionRow>>, Problem> {
    let name = device_name(&path.0)?;
    let found = api.see(&caller, async |fleet, part| part.show(fleet, &name).await).await?;
    Ok(Json(found.sessions))
}
