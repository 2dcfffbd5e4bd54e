//! Devices: the table `devices`, and what is shown of one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::domain::device::DeviceId;
use crate::domain::meta::Meta;
use crate::domain::name::{CapabilityName, ClientId, DeviceKind, DeviceName, PlaceName};
use crate::domain::rights::AVAILABILITY;
use crate::domain::selector::Selector;
use crate::domain::topic::TopicName;
use crate::fleet::Part;
use crate::fleet::bindings::{self, BindingRow, Home, NewBinding};
use crate::fleet::capabilities;
use crate::fleet::credentials::{self, CredentialRow, NewCredential, Terms};
use crate::fleet::document::{Document, document};
use crate::fleet::error::{FleetError, Thing};
use crate::fleet::grants::{self, GrantRow};
use crate::fleet::one_thing::{self, row_of};
use crate::fleet::sessions::{self, SessionRow};
use crate::registry::error::RegistryError;
use crate::registry::selector::{Condition, ONLINE, values};

/// Most devices that one page of a list holds.
pub const MAX_PAGE: u16 = 1000;

/// A device to be made.
pub struct NewDevice {
    /// Its name and MQTT user name.
    pub name: DeviceName,
    /// Its client id, where that is not its name.
    pub client_id: Option<ClientId>,
    /// Where it is; first level of its conventional topics.
    pub area: Option<PlaceName>,
    /// Where it is; second level of its conventional topics.
    pub floor: Option<PlaceName>,
    /// What it is.
    pub kind: DeviceKind,
    /// The device whose MQTT client speaks for it.
    pub gateway: Option<DeviceName>,
    /// Where its gateway says whether it reaches it.
    pub availability_topic: Option<TopicName>,
    /// Whether it may use the bus.
    pub enabled: bool,
    /// What is noted about it.
    pub meta: Meta,
    /// What it can do without a topic; what its bindings carry is added to it.
    pub capabilities: Vec<CapabilityName>,
    /// Its topics.
    pub bindings: Vec<NewBinding>,
    /// What it may log in with.
    pub credential: Option<(NewCredential, Terms)>,
}

impl NewDevice {
    /// A device that is enabled and has nothing but name and kind.
    #[must_use]
    pub fn new(name: DeviceName, kind: DeviceKind) -> Self {
        Self {
            name,
            kind,
            client_id: None,
            area: None,
            floor: None,
            gateway: None,
            availability_topic: None,
            enabled: true,
            meta: Meta::default(),
            capabilities: Vec::new(),
            bindings: Vec::new(),
            credential: None,
        }
    }
}

/// What of a device is to change; `None` leaves it, `Some(None)` takes it away.
#[derive(Default)]
pub struct DeviceChange {
    /// Its name and MQTT user name: the device logs in by the new one from then on.
    pub name: Option<DeviceName>,
    /// Its client id, where that is not its name.
    pub client_id: Option<Option<ClientId>>,
    /// Where it is.
    pub area: Option<Option<PlaceName>>,
    /// Where it is.
    pub floor: Option<Option<PlaceName>>,
    /// What it is.
    pub kind: Option<DeviceKind>,
    /// The device whose MQTT client speaks for it. Without one it has no availability topic either.
    pub gateway: Option<Option<DeviceName>>,
    /// Where its gateway says whether it reaches it.
    pub availability_topic: Option<Option<TopicName>>,
    /// Whether it may use the bus.
    pub enabled: Option<bool>,
    /// What is noted about it, as a whole.
    pub meta: Option<Meta>,
}

/// A device as lists show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceRow {
    /// Its row.
    #[serde(skip)]
    pub id: DeviceId,
    /// Its version: raised by each change of it and what belongs to it, presence and reports excepted.
    #[serde(skip)]
    pub version: i64,
    /// The client id that it was given, where that is not its name.
    #[serde(skip)]
    pub own_client_id: Option<String>,
    /// Its name and MQTT user name.
    pub name: String,
    /// The client id that it connects with.
    pub client_id: String,
    /// Where it is.
    pub area: Option<String>,
    /// Where it is.
    pub floor: Option<String>,
    /// What it is.
    pub kind: String,
    /// The device whose MQTT client speaks for it.
    pub gateway: Option<String>,
    /// Where its gateway says whether it reaches it.
    pub availability_topic: Option<String>,
    /// Whether one of its sessions is open; of a device behind a gateway, whether the gateway is online and did not
    /// last say that it is offline.
    pub online: bool,
    /// Whether it may use the bus.
    pub enabled: bool,
    /// A free-form JSON object.
    #[schema(value_type = Object)]
    pub meta: Document,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When an administrator last changed it.
    pub updated_at: Timestamp,
}

/// A device with everything that the registry knows of it. Hashes stay in the database.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeviceDetails {
    /// Its row.
    #[serde(flatten)]
    pub device: DeviceRow,
    /// Last known values by binding name, each with `at` (ms since 1970), the message's `id` and,
    /// unless it was cleared, its `value`.
    #[schema(value_type = Object)]
    pub state: Value,
    /// What its gateway last said of its availability: `at`, the message's `id` and, unless it was cleared, a `value`
    /// with the `topic` and the `state`, `online` or `offline`.
    #[schema(value_type = Option<Object>)]
    pub availability: Option<Value>,
    /// The devices behind it, by name.
    pub children: Vec<String>,
    /// The newest report that broke its capability's schema: `at`, `binding`, `pointer`, `message`.
    #[schema(value_type = Option<Object>)]
    pub last_violation: Option<Value>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Its topics.
    pub bindings: Vec<BindingRow>,
    /// Its further rights.
    pub grants: Vec<GrantRow>,
    /// What it may log in with, revoked and expired ones included.
    pub credentials: Vec<CredentialRow>,
    /// The newest session of each of its client ids.
    pub sessions: Vec<SessionRow>,
}

/// A device that was changed.
#[derive(Debug, Clone, Serialize)]
pub struct Changed {
    /// As it is now.
    #[serde(flatten)]
    pub details: DeviceDetails,
    /// Bindings whose topics followed the convention before and no longer do: a device that is moved or
    /// renamed keeps its topics until somebody moves them
    /// ([`bindings::set`] with [`bindings::BindingChange::conventional`]), because the device itself has to follow.
    pub left_behind: Vec<String>,
}

/// Which devices to list, and which page of them.
#[derive(Debug, Clone, Default)]
pub struct DeviceFilter {
    /// Only of this area.
    pub area: Option<String>,
    /// Only of this floor.
    pub floor: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only those online, or only those not.
    pub online: Option<bool>,
    /// Only those enabled, or only those not.
    pub enabled: Option<bool>,
    /// Only those for which it holds.
    pub selector: Selector,
    /// Only those whose name comes after this one in the order of bytes.
    pub after: Option<String>,
    /// Only those of this part of the fleet; gateways outside are not named.
    pub part: Part,
}

fn about(name: &DeviceName) -> Thing {
    Thing::Device(name.clone())
}

/// Adds a device with its capabilities, bindings and credential, all or nothing.
///
/// # Errors
/// The rules of `sql/`: a name or client id that is taken, for one. A capability that does not exist; a
/// binding without topics.
pub async fn add(
    client: &mut impl GenericClient,
    new: &NewDevice,
) -> Result<DeviceDetails, FleetError> {
    let thing = about(&new.name);
    let transaction = client.transaction().await.map_err(FleetError::on(&thing))?;
    let gateway = find_gateway(&transaction, new.gateway.as_ref()).await?;
    let id = insert(&transaction, new, gateway, &thing).await?;
    for capability in &new.capabilities {
        capabilities::give(&transaction, id, capability).await?;
    }
    let home = Home {
        device: &new.name,
        area: new.area.as_ref().map(PlaceName::as_str),
        floor: new.floor.as_ref().map(PlaceName::as_str),
    };
    for binding in &new.bindings {
        bindings::insert(&transaction, id, home, binding).await?;
    }
    if let Some((credential, terms)) = &new.credential {
        credentials::insert(&transaction, (id, &new.name), credential, terms).await?;
    }
    let details = show(&transaction, &new.name).await?;
    transaction.commit().await.map_err(FleetError::on(&thing))?;
    Ok(details)
}

async fn insert(
    client: &impl GenericClient,
    new: &NewDevice,
    gateway: Option<DeviceId>,
    thing: &Thing,
) -> Result<DeviceId, FleetError> {
    let statement = "INSERT INTO devices (name, client_id, area, floor, kind, enabled, meta, gateway, availability_topic)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         RETURNING id";
    let row = client
        .query_one(
            statement,
            &[
                &new.name.as_str(),
                &new.client_id.as_ref().map(ClientId::as_str),
                &new.area.as_ref().map(PlaceName::as_str),
                &new.floor.as_ref().map(PlaceName::as_str),
                &new.kind.as_str(),
                &new.enabled,
                &new.meta.as_value(),
                &gateway.map(|gateway| gateway.0),
                &new.availability_topic.as_ref().map(TopicName::as_str),
            ],
        )
        .await
        .map_err(FleetError::on(thing))?;
    Ok(DeviceId(row.get(0)))
}

/// Finds a gateway, and holds it until the transaction ends.
async fn find_gateway(
    client: &impl GenericClient,
    gateway: Option<&DeviceName>,
) -> Result<Option<DeviceId>, FleetError> {
    let Some(name) = gateway else { return Ok(None) };
    let statement = "SELECT id FROM devices WHERE name = $1 FOR KEY SHARE";
    let row = row_of(client, &about(name), statement, &[&name.as_str()]).await?;
    Ok(Some(DeviceId(row.get(0))))
}

/// Lists devices by name, at most `limit` and at most [`MAX_PAGE`] of them. The next page begins
/// after the last name of this one.
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    filter: &DeviceFilter,
    limit: u16,
) -> Result<Vec<DeviceRow>, FleetError> {
    let part = filter.part.condition(7);
    let condition = Condition::of(&filter.selector, part.end());
    let statement = format!(
        "SELECT {ROW}, last_seen
         FROM devices AS device LEFT JOIN device_state AS heard ON heard.device_id = device.id
         WHERE ($1::text IS NULL OR device.area = $1)
           AND ($2::text IS NULL OR device.floor = $2)
           AND ($3::text IS NULL OR device.kind = $3)
           AND ($4::boolean IS NULL OR $4 = {ONLINE})
           AND ($5::boolean IS NULL OR device.enabled = $5)
           AND ($6::text IS NULL OR device.name > $6)
           AND {} AND {}
         ORDER BY device.name
         LIMIT $7",
        part.sql(),
        condition.sql()
    );
    let limit = i64::from(limit.min(MAX_PAGE));
    let own: [&(dyn ToSql + Sync); 7] = [
        &filter.area,
        &filter.floor,
        &filter.kind,
        &filter.online,
        &filter.enabled,
        &filter.after,
        &limit,
    ];
    let rows = client
        .query(&statement, &values(&own, [&part, &condition]))
        .await
        .map_err(RegistryError::on("the list of devices"))?;
    let mut found = rows.iter().map(device_row).collect::<Result<Vec<_>, _>>()?;
    filter.part.hide(client, &mut found).await?;
    Ok(found)
}

/// The columns of a [`DeviceRow`] but `last_seen`, of a row `device` of `devices`.
const ROW: &str =
    "device.id, device.name, device.client_id, device.effective_client_id, device.area, device.floor, device.kind,
    device.enabled, device.meta, device.created_at, device.updated_at, device.availability_topic,
    coalesce((SELECT number FROM device_versions WHERE device_id = device.id), 0) AS version,
    (SELECT name FROM devices AS gateway WHERE gateway.id = device.gateway) AS gateway,
    (SELECT online FROM device_presence WHERE device_id = device.id) AS online";

fn device_row(row: &Row) -> Result<DeviceRow, FleetError> {
    let name: String = row.get("name");
    Ok(DeviceRow {
        id: DeviceId(row.get("id")),
        version: row.get("version"),
        own_client_id: row.get("client_id"),
        meta: Document::from(
            &document(row, &format!("device {name:?}"), "meta")?.unwrap_or_default(),
        ),
        name,
        client_id: row.get("effective_client_id"),
        area: row.get("area"),
        floor: row.get("floor"),
        kind: row.get("kind"),
        gateway: row.get("gateway"),
        availability_topic: row.get("availability_topic"),
        online: row.get("online"),
        enabled: row.get("enabled"),
        last_seen: row.get("last_seen"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    })
}

/// Shows a device with everything around it.
///
/// # Errors
/// There is no such device.
pub async fn show(
    client: &impl GenericClient,
    name: &DeviceName,
) -> Result<DeviceDetails, FleetError> {
    let thing = about(name);
    let statement = format!(
        "SELECT {ROW}, last_seen, coalesce(state, '{{}}') - '{AVAILABILITY}' AS state,
                state -> '{AVAILABILITY}' AS availability, last_violation,
                ARRAY(SELECT capability FROM device_capabilities
                      WHERE device_id = device.id ORDER BY capability) AS capabilities,
                ARRAY(SELECT name FROM devices AS child
                      WHERE child.gateway = device.id ORDER BY name) AS children
         FROM devices AS device LEFT JOIN device_state AS heard ON heard.device_id = device.id
         WHERE device.name = $1"
    );
    let row = row_of(client, &thing, &statement, &[&name.as_str()]).await?;
    let device = device_row(&row)?;
    let id = device.id;
    Ok(DeviceDetails {
        device,
        state: document(&row, &thing.to_string(), "state")?.unwrap_or_default(),
        availability: document(&row, &thing.to_string(), "availability")?,
        children: row.get("children"),
        last_violation: document(&row, &thing.to_string(), "last_violation")?,
        capabilities: row.get("capabilities"),
        bindings: bindings::list_of(client, id).await?,
        grants: grants::list_of(client, id).await?,
        credentials: credentials::list_of(client, id).await?,
        sessions: sessions::list_of(client, id).await?,
    })
}

/// Finds a device's row.
///
/// # Errors
/// There is no such device.
pub(super) async fn find(
    client: &impl GenericClient,
    name: &DeviceName,
) -> Result<DeviceId, FleetError> {
    let statement = "SELECT id FROM devices WHERE name = $1";
    let row = row_of(client, &about(name), statement, &[&name.as_str()]).await?;
    Ok(DeviceId(row.get(0)))
}

/// A device's row, locked: it is changed by nobody else until the transaction ends.
pub(super) struct Locked<'a> {
    pub(super) id: DeviceId,
    name: &'a DeviceName,
    area: Option<String>,
    floor: Option<String>,
}

impl Locked<'_> {
    /// What its conventional topics are made of.
    pub(super) fn home(&self) -> Home<'_> {
        Home { device: self.name, area: self.area.as_deref(), floor: self.floor.as_deref() }
    }
}

/// Locks a device's row; the caller has a transaction open.
///
/// # Errors
/// There is no such device.
pub(super) async fn lock<'a>(
    client: &impl GenericClient,
    name: &'a DeviceName,
) -> Result<Locked<'a>, FleetError> {
    let statement = "SELECT id, area, floor FROM devices WHERE name = $1 FOR NO KEY UPDATE";
    let row = row_of(client, &about(name), statement, &[&name.as_str()]).await?;
    let id = DeviceId(row.get("id"));
    Ok(Locked { id, name, area: row.get("area"), floor: row.get("floor") })
}

/// Which version of a device there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceVersion {
    /// Its row: another device of the same name has another one.
    pub id: DeviceId,
    /// Raised by each change.
    pub number: i64,
}

impl DeviceRow {
    /// Which version this is.
    #[must_use]
    pub fn version(&self) -> DeviceVersion {
        DeviceVersion { id: self.id, number: self.version }
    }
}

/// Tells a device's version and locks it, so that nobody else changes the device or what belongs to it until the caller's
/// transaction ends; `None`: there is no such device.
///
/// # Errors
/// A database that is away.
pub async fn lock_version(
    client: &impl GenericClient,
    name: &DeviceName,
) -> Result<Option<DeviceVersion>, FleetError> {
    let thing = about(name);
    let on_device = || FleetError::on(&thing);
    // First, as every other change of a device does.
    let statement = "SELECT id FROM devices WHERE name = $1 FOR NO KEY UPDATE";
    let row = client.query_opt(statement, &[&name.as_str()]).await.map_err(on_device())?;
    let Some(row) = row else { return Ok(None) };
    let id: i64 = row.get(0);
    // Whoever changes what belongs to the device holds its row here: this waits for the end of that, and then sees it.
    let statement = "INSERT INTO device_versions (device_id) VALUES ($1) ON CONFLICT DO NOTHING";
    client.execute(statement, &[&id]).await.map_err(on_device())?;
    let statement = "SELECT number FROM device_versions WHERE device_id = $1 FOR UPDATE";
    let row = client.query_opt(statement, &[&id]).await.map_err(on_device())?;
    Ok(row.map(|row| DeviceVersion { id: DeviceId(id), number: row.get(0) }))
}

/// Changes a device.
///
/// Its topics stay: see [`Changed::left_behind`]. What takes a right away (another name, client id or kind;
/// disabling) ends its sessions, by trigger.
///
/// # Errors
/// There is no such device; the rules of `sql/`.
pub async fn set(
    client: &mut impl GenericClient,
    name: &DeviceName,
    change: &DeviceChange,
) -> Result<Changed, FleetError> {
    let thing = about(name);
    let transaction = client.transaction().await.map_err(FleetError::on(&thing))?;
    let found = lock(&transaction, name).await?;
    let (id, before) = (found.id, found.home());
    let bound = bindings::list_of(&transaction, id).await?;
    let was_conventional = bound.iter().filter(|binding| before.is_convention_of(binding));

    let new_name = change.name.as_ref().unwrap_or(name);
    let gateway =
        find_gateway(&transaction, change.gateway.as_ref().and_then(Option::as_ref)).await?;
    update(&transaction, id, change, gateway, &thing).await?;
    let details = show(&transaction, new_name).await?;
    let after = Home {
        device: new_name,
        area: details.device.area.as_deref(),
        floor: details.device.floor.as_deref(),
    };
    let left_behind = was_conventional
        .filter(|binding| !after.is_convention_of(binding))
        .map(|binding| binding.name.clone())
        .collect();
    transaction.commit().await.map_err(FleetError::on(&thing))?;
    Ok(Changed { details, left_behind })
}

/// Lets a device use the bus, or refuses its logins and all of its rights; its sessions end then, by trigger. This reads
/// nothing else of the device, so that one whose row cannot be read can be disabled.
///
/// # Errors
/// There is no such device.
pub async fn set_enabled(
    client: &impl GenericClient,
    name: &DeviceName,
    enabled: bool,
) -> Result<(), FleetError> {
    let statement = "UPDATE devices SET enabled = $2 WHERE name = $1";
    one_thing::change(client, &about(name), statement, &[&name.as_str(), &enabled]).await
}

async fn update(
    client: &impl GenericClient,
    id: DeviceId,
    change: &DeviceChange,
    gateway: Option<DeviceId>,
    thing: &Thing,
) -> Result<(), FleetError> {
    let statement = "UPDATE devices SET
            name = coalesce($2, name),
            client_id = CASE WHEN $3 THEN $4 ELSE client_id END,
            area = CASE WHEN $5 THEN $6 ELSE area END,
            floor = CASE WHEN $7 THEN $8 ELSE floor END,
            kind = coalesce($9, kind),
            enabled = coalesce($10, enabled),
            meta = coalesce($11, meta),
            gateway = CASE WHEN $12 THEN $13 ELSE gateway END,
            availability_topic = CASE WHEN $14 THEN $15 WHEN $12 AND $13::bigint IS NULL THEN NULL ELSE availability_topic END
         WHERE id = $1";
    client
        .execute(
            statement,
            &[
                &id.0,
                &change.name.as_ref().map(DeviceName::as_str),
                &change.client_id.is_some(),
                &change.client_id.as_ref().and_then(Option::as_ref).map(ClientId::as_str),
                &change.area.is_some(),
                &change.area.as_ref().and_then(Option::as_ref).map(PlaceName::as_str),
                &change.floor.is_some(),
                &change.floor.as_ref().and_then(Option::as_ref).map(PlaceName::as_str),
                &change.kind.as_ref().map(DeviceKind::as_str),
                &change.enabled,
                &change.meta.as_ref().map(Meta::as_value),
                &change.gateway.is_some(),
                &gateway.map(|gateway| gateway.0),
                &change.availability_topic.is_some(),
                &change.availability_topic.as_ref().and_then(Option::as_ref).map(TopicName::as_str),
            ],
        )
        .await
        .map_err(FleetError::on(thing))?;
    Ok(())
}

/// Removes a device with all that belongs to it. Its sessions end, by trigger.
///
/// # Errors
/// There is no such device, or others are behind it.
pub async fn remove(client: &impl GenericClient, name: &DeviceName) -> Result<(), FleetError> {
    let statement = "DELETE FROM devices WHERE name = $1";
    one_thing::change(client, &about(name), statement, &[&name.as_str()]).await
}
