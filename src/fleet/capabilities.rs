//! Capabilities: what devices can do (`capabilities`, `device_capabilities`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::domain::delivery::Confirmation;
use crate::domain::device::DeviceId;
use crate::domain::name::CapabilityName;
use crate::domain::schema::UsableSchema;
use crate::fleet::document::document;
use crate::fleet::error::{FleetError, Rule, Thing};
use crate::fleet::one_thing::row_of;
use crate::registry::error::RegistryError;

/// How commands of a capability are sent, and what makes them succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandTerms {
    /// What makes one succeed.
    pub confirm: Confirmation,
    /// When one expires unless it says otherwise, in whole seconds: 1 s to 30 days.
    pub expiry: Duration,
    /// How long its receipt is waited for before it is sent again, in whole seconds: 5 s to 10 min.
    pub ack_timeout: Duration,
    /// How long an answer is waited for after it was received, where it is confirmed by one, in whole seconds: 1 s to 1 h.
    pub answer_in: Duration,
    /// Whether it goes down as `{"id", "value"}`.
    pub envelope: bool,
    /// Whether one replaces those of the same device that have not been sent yet, or have no receipt in time.
    pub only_latest: bool,
}

impl Default for CommandTerms {
    fn default() -> Self {
        Self {
            confirm: Confirmation::Delivered,
            expiry: Duration::from_secs(60),
            ack_timeout: Duration::from_secs(30),
            answer_in: Duration::from_secs(30),
            envelope: false,
            only_latest: false,
        }
    }
}

/// What of the terms of commands is to change; `None` leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct TermsChange {
    /// What makes one succeed.
    pub confirm: Option<Confirmation>,
    /// When one expires.
    pub expiry: Option<Duration>,
    /// How long its receipt is waited for.
    pub ack_timeout: Option<Duration>,
    /// How long its answer is waited for.
    pub answer_in: Option<Duration>,
    /// Whether it goes down in an envelope.
    pub envelope: Option<bool>,
    /// Whether one replaces those before it.
    pub only_latest: Option<bool>,
}

impl TermsChange {
    /// The terms of a new capability.
    #[must_use]
    pub fn terms(self) -> CommandTerms {
        let default = CommandTerms::default();
        CommandTerms {
            confirm: self.confirm.unwrap_or(default.confirm),
            expiry: self.expiry.unwrap_or(default.expiry),
            ack_timeout: self.ack_timeout.unwrap_or(default.ack_timeout),
            answer_in: self.answer_in.unwrap_or(default.answer_in),
            envelope: self.envelope.unwrap_or(default.envelope),
            only_latest: self.only_latest.unwrap_or(default.only_latest),
        }
    }
}

/// Whole seconds, as the table has them; what it cannot hold is out of its range as well.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// A capability to be made.
pub struct NewCapability {
    /// Its name.
    pub name: CapabilityName,
    /// What it is, for people.
    pub description: String,
    /// JSON Schema of its state payload.
    pub state_schema: Option<UsableSchema>,
    /// JSON Schema of its command payload.
    pub command_schema: Option<UsableSchema>,
    /// How its commands are sent.
    pub commands: CommandTerms,
}

impl NewCapability {
    /// A capability of which nothing but the name is known: its payloads may be anything.
    #[must_use]
    pub fn new(name: CapabilityName) -> Self {
        Self {
            name,
            description: String::new(),
            state_schema: None,
            command_schema: None,
            commands: CommandTerms::default(),
        }
    }
}

/// What of a capability is to change; `None` leaves it, `Some(None)` takes it away.
#[derive(Debug, Clone, Default)]
pub struct CapabilityChange {
    /// What it is, for people.
    pub description: Option<String>,
    /// JSON Schema of its state payload.
    pub state_schema: Option<Option<UsableSchema>>,
    /// JSON Schema of its command payload.
    pub command_schema: Option<Option<UsableSchema>>,
    /// How its commands are sent.
    pub commands: TermsChange,
}

/// A capability.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Capability {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// JSON Schema of its state payload.
    pub state_schema: Option<Value>,
    /// JSON Schema of its command payload.
    pub command_schema: Option<Value>,
    /// What makes its commands succeed: `sent`, `delivered`, `state` or `reply`.
    pub confirm: String,
    /// Seconds until one expires unless it says otherwise.
    pub command_expiry: i32,
    /// Seconds until one without receipt is sent again.
    pub ack_timeout: i32,
    /// Seconds after its receipt in which one has to be answered, where it is confirmed by that.
    pub answer_in: i32,
    /// Whether one goes down as `{"id", "value"}`.
    pub envelope: bool,
    /// Whether one replaces those that have not been sent yet.
    pub only_latest: bool,
}

/// A capability as lists show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CapabilityRow {
    /// The capability.
    #[serde(flatten)]
    pub capability: Capability,
    /// How many devices have it.
    pub devices: i64,
}

fn about(name: &CapabilityName) -> Thing {
    Thing::Capability(name.clone())
}

/// Adds a capability.
///
/// # Errors
/// The rules of `sql/`: a name that is taken or reserved, for one.
pub async fn add(
    client: &impl GenericClient,
    new: &NewCapability,
) -> Result<CapabilityRow, FleetError> {
    let statement = format!(
        "INSERT INTO capabilities (name, description, state_schema, command_schema,
             confirm, command_expiry, ack_timeout, answer_in, envelope, only_latest)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         RETURNING {COUNTED}"
    );
    let NewCapability { name, description, state_schema, command_schema, commands } = new;
    let added = client
        .query_one(
            &statement,
            &[
                &name.as_str(),
                description,
                &state_schema.as_ref().map(UsableSchema::as_value),
                &command_schema.as_ref().map(UsableSchema::as_value),
                &commands.confirm.word(),
                &seconds(commands.expiry),
                &seconds(commands.ack_timeout),
                &seconds(commands.answer_in),
                &commands.envelope,
                &commands.only_latest,
            ],
        )
        .await;
    capability_row(&added.map_err(FleetError::on(&about(name)))?)
}

macro_rules! columns {
    () => {
        "name, description, state_schema, command_schema, \
         confirm, command_expiry, ack_timeout, answer_in, envelope, only_latest"
    };
}

const COLUMNS: &str = columns!();

/// Counting takes the longer the more devices have it.
const COUNTED: &str = concat!(
    columns!(),
    ", (SELECT count(*) FROM device_capabilities WHERE capability = capabilities.name) AS devices"
);

/// Lists all capabilities by name.
///
/// # Errors
/// A database that is away.
pub async fn list(client: &impl GenericClient) -> Result<Vec<CapabilityRow>, FleetError> {
    let rows = client
        .query(&format!("SELECT {COUNTED} FROM capabilities ORDER BY name"), &[])
        .await
        .map_err(RegistryError::on("the list of capabilities"))?;
    rows.iter().map(capability_row).collect()
}

/// Shows a capability, and how many devices have it.
///
/// # Errors
/// There is no such capability.
pub async fn show(
    client: &impl GenericClient,
    name: &CapabilityName,
) -> Result<CapabilityRow, FleetError> {
    capability_row(&one(client, name, COUNTED).await?)
}

/// A capability, for what is done with it.
///
/// # Errors
/// There is no such capability.
pub async fn find(
    client: &impl GenericClient,
    name: &CapabilityName,
) -> Result<Capability, FleetError> {
    capability(&one(client, name, COLUMNS).await?)
}

async fn one(
    client: &impl GenericClient,
    name: &CapabilityName,
    columns: &str,
) -> Result<Row, FleetError> {
    let statement = format!("SELECT {columns} FROM capabilities WHERE name = $1");
    row_of(client, &about(name), &statement, &[&name.as_str()]).await
}

/// Shows a capability, which nobody else changes until the caller's transaction ends.
///
/// # Errors
/// There is no such capability.
pub async fn lock(
    client: &impl GenericClient,
    name: &CapabilityName,
) -> Result<Capability, FleetError> {
    let statement = "SELECT FROM capabilities WHERE name = $1 FOR NO KEY UPDATE";
    row_of(client, &about(name), statement, &[&name.as_str()]).await?;
    find(client, name).await
}

fn capability_row(row: &Row) -> Result<CapabilityRow, FleetError> {
    Ok(CapabilityRow { capability: capability(row)?, devices: row.get("devices") })
}

fn capability(row: &Row) -> Result<Capability, FleetError> {
    let name: String = row.get("name");
    let thing = format!("capability {name:?}");
    Ok(Capability {
        description: row.get("description"),
        state_schema: document(row, &thing, "state_schema")?,
        command_schema: document(row, &thing, "command_schema")?,
        confirm: row.get("confirm"),
        command_expiry: row.get("command_expiry"),
        ack_timeout: row.get("ack_timeout"),
        answer_in: row.get("answer_in"),
        envelope: row.get("envelope"),
        only_latest: row.get("only_latest"),
        name,
    })
}

/// Changes a capability, also one that devices have. What was stored stays; the next report is judged by the
/// new schema.
///
/// # Errors
/// There is no such capability.
pub async fn set(
    client: &impl GenericClient,
    name: &CapabilityName,
    change: &CapabilityChange,
) -> Result<CapabilityRow, FleetError> {
    let statement = format!(
        "UPDATE capabilities SET description = coalesce($2, description),
             state_schema = CASE WHEN $3 THEN $4 ELSE state_schema END,
             command_schema = CASE WHEN $5 THEN $6 ELSE command_schema END,
             confirm = coalesce($7, confirm), command_expiry = coalesce($8, command_expiry),
             ack_timeout = coalesce($9, ack_timeout), only_latest = coalesce($10, only_latest),
             answer_in = coalesce($11, answer_in), envelope = coalesce($12, envelope)
         WHERE name = $1 RETURNING {COUNTED}"
    );
    let (state_schema, command_schema) = (&change.state_schema, &change.command_schema);
    let values: [&(dyn ToSql + Sync); 12] = [
        &name.as_str(),
        &change.description,
        &state_schema.is_some(),
        &state_schema.as_ref().and_then(Option::as_ref).map(UsableSchema::as_value),
        &command_schema.is_some(),
        &command_schema.as_ref().and_then(Option::as_ref).map(UsableSchema::as_value),
        &change.commands.confirm.map(Confirmation::word),
        &change.commands.expiry.map(seconds),
        &change.commands.ack_timeout.map(seconds),
        &change.commands.only_latest,
        &change.commands.answer_in.map(seconds),
        &change.commands.envelope,
    ];
    capability_row(&row_of(client, &about(name), &statement, &values).await?)
}

/// Removes a capability.
///
/// # Errors
/// There is no such capability; devices have it, or routing rules name it.
pub async fn remove(client: &impl GenericClient, name: &CapabilityName) -> Result<(), FleetError> {
    // In one statement, and without its schemas: one that cannot be read can be removed.
    let statement = "WITH used AS (SELECT count(*) AS devices FROM device_capabilities WHERE capability = $1),
         removed AS (DELETE FROM capabilities USING used WHERE name = $1 AND used.devices = 0 RETURNING 1)
         SELECT devices, EXISTS (SELECT FROM removed) FROM used";
    let row = client.query_one(statement, &[&name.as_str()]).await;
    let row = row.map_err(FleetError::on(&about(name)))?;
    match (row.get(0), row.get(1)) {
        (_, true) => Ok(()),
        (0, false) => Err(FleetError::NotFound(about(name))),
        (devices, false) => {
            Err(FleetError::rule(&about(name), Rule::CapabilityInUse(Some(devices))))
        }
    }
}

/// Gives a device a capability; nothing happens when it has it already. The caller has a transaction open.
///
/// # Errors
/// There is no such capability.
pub(super) async fn give(
    client: &impl GenericClient,
    device: DeviceId,
    name: &CapabilityName,
) -> Result<(), FleetError> {
    // Locked, so that it is not removed meanwhile.
    let known = "SELECT FROM capabilities WHERE name = $1 FOR KEY SHARE";
    row_of(client, &about(name), known, &[&name.as_str()]).await?;
    let statement = "INSERT INTO device_capabilities (device_id, capability) VALUES ($1, $2)
         ON CONFLICT DO NOTHING";
    let given = client.execute(statement, &[&device.0, &name.as_str()]).await;
    given.map(drop).map_err(FleetError::on(&about(name)))
}
