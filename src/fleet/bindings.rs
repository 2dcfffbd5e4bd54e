//! Bindings: the exact topics of a device (`topic_bindings`, `device_capabilities`), and the convention that
//! they follow where nothing else is said: `<area>/<floor>/<device>/<binding>/state` and `…/set`.

use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::domain::device::DeviceId;
use crate::domain::name::{BindingName, DeviceName};
use crate::domain::topic::TopicName;
use crate::fleet::Added;
use crate::fleet::capabilities::{self, Capability};
use crate::fleet::devices;
use crate::fleet::error::{FleetError, Rule, Thing};
use crate::fleet::one_thing::row_of;
use crate::registry::error::RegistryError;

/// A binding to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBinding {
    /// A capability, which the device is given along with the binding, or `main`.
    pub name: BindingName,
    /// Whether the topics that are not given here are those of the convention.
    pub conventional: bool,
    /// Where the device reports.
    pub state_topic: Option<TopicName>,
    /// Where the device listens.
    pub command_topic: Option<TopicName>,
    /// Where it answers commands.
    pub reply_topic: Option<TopicName>,
    /// Whether its reports are merged (RFC 7396) into the last known value instead of replacing it.
    pub merge: bool,
}

impl NewBinding {
    /// A binding with the topics of the convention.
    #[must_use]
    pub fn conventional(name: BindingName) -> Self {
        Self { conventional: true, ..Self::exact(name, None, None) }
    }

    /// A binding with exactly these topics.
    #[must_use]
    pub fn exact(
        name: BindingName,
        state_topic: Option<TopicName>,
        command_topic: Option<TopicName>,
    ) -> Self {
        let reply_topic = None;
        Self { name, conventional: false, state_topic, command_topic, reply_topic, merge: false }
    }
}

/// What of a binding is to change; `None` leaves it, `Some(None)` takes it away.
#[derive(Debug, Clone, Default)]
pub struct BindingChange {
    /// Whether both topics become those of the convention, as the device is and is called now.
    pub conventional: bool,
    /// Where the device reports.
    pub state_topic: Option<Option<TopicName>>,
    /// Where the device listens.
    pub command_topic: Option<Option<TopicName>>,
    /// Where it answers commands.
    pub reply_topic: Option<Option<TopicName>>,
    /// Whether its reports are merged. The value that is known stays: what is merged next is merged into it.
    pub merge: Option<bool>,
}

/// A binding as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BindingRow {
    /// A capability, or `main`.
    pub name: String,
    /// Where the device reports.
    pub state_topic: Option<String>,
    /// Where the device listens.
    pub command_topic: Option<String>,
    /// Where it answers commands.
    pub reply_topic: Option<String>,
    /// Whether its reports are merged (RFC 7396) into the last known value instead of replacing it.
    pub merge: bool,
}

/// What the conventional topics of a device are made of.
#[derive(Clone, Copy)]
pub struct Home<'a> {
    /// Its name.
    pub device: &'a DeviceName,
    /// First level.
    pub area: Option<&'a str>,
    /// Second level.
    pub floor: Option<&'a str>,
}

impl Home<'_> {
    /// What the topics of a binding begin with, where the device has an area and a floor.
    #[must_use]
    pub fn stem(self, binding: &str) -> Option<String> {
        let (area, floor) = (self.area?, self.floor?);
        Some(format!("{area}/{floor}/{}/{binding}", self.device))
    }

    /// Whether a binding has a topic, and all that it has follow the convention.
    pub(super) fn is_convention_of(self, binding: &BindingRow) -> bool {
        let Some(stem) = self.stem(&binding.name) else { return false };
        let follows = |topic: &Option<String>, end: &str| {
            topic.as_ref().is_none_or(|topic| *topic == format!("{stem}/{end}"))
        };
        follows(&binding.state_topic, "state")
            && follows(&binding.command_topic, "set")
            && follows(&binding.reply_topic, "reply")
    }

    /// The topics that a binding has by the convention.
    ///
    /// # Errors
    /// Why it has none.
    pub(super) fn topics(
        self,
        binding: &BindingName,
        directions: Directions,
    ) -> Result<(Option<TopicName>, Option<TopicName>), String> {
        let stem = self.stem(binding.as_str());
        let stem = stem.ok_or("needs area and floor, or topics of its own")?;
        let topic = |end: &str| {
            format!("{stem}/{end}")
                .parse::<TopicName>()
                .map_err(|error| format!("the topic {error}"))
        };
        Ok((
            directions.state.then(|| topic("state")).transpose()?,
            directions.command.then(|| topic("set")).transpose()?,
        ))
    }

    fn topic(self, binding: &BindingName, end: &str) -> Result<TopicName, FleetError> {
        let thing = || Thing::Binding { device: self.device.clone(), name: binding.clone() };
        let stem = self.stem(binding.as_str());
        let stem = stem.ok_or_else(|| FleetError::rule(&thing(), Rule::NoConventionalTopics))?;
        let topic = format!("{stem}/{end}");
        topic
            .parse()
            .map_err(|why| FleetError::rule(&thing(), Rule::ConventionalTopic { topic, why }))
    }
}

/// Which topics a binding has by the convention: a state topic where the capability says what its state is, a
/// command topic where it says what its commands are, both where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directions {
    state: bool,
    command: bool,
}

impl Directions {
    /// Where it says nothing.
    pub const BOTH: Self = Self { state: true, command: true };

    /// Asks for the capability that a binding carries.
    ///
    /// # Errors
    /// There is no such capability.
    pub async fn of(client: &impl GenericClient, name: &BindingName) -> Result<Self, FleetError> {
        let Some(capability) = name.capability() else { return Ok(Self::BOTH) };
        Ok(Self::of_capability(&capabilities::find(client, &capability).await?))
    }

    /// As a capability says.
    #[must_use]
    pub fn of_capability(capability: &Capability) -> Self {
        match (capability.state_schema.is_some(), capability.command_schema.is_some()) {
            (false, false) => Self::BOTH,
            (state, command) => Self { state, command },
        }
    }
}

/// The two topics of a binding.
type Topics = (Option<TopicName>, Option<TopicName>);

async fn conventional_topics(
    client: &impl GenericClient,
    home: Home<'_>,
    name: &BindingName,
) -> Result<Topics, FleetError> {
    let directions = Directions::of(client, name).await?;
    let state = directions.state.then(|| home.topic(name, "state")).transpose()?;
    let command = directions.command.then(|| home.topic(name, "set")).transpose()?;
    Ok((state, command))
}

/// Adds a binding, and its capability to the device. Adding the same again changes nothing.
///
/// # Errors
/// There is no such device or capability; the device has a binding of this name that says something else;
/// there is no topic.
pub async fn add(
    client: &mut impl GenericClient,
    device: &DeviceName,
    new: &NewBinding,
) -> Result<Added<BindingRow>, FleetError> {
    let thing = Thing::Binding { device: device.clone(), name: new.name.clone() };
    let transaction = client.transaction().await.map_err(FleetError::on(&thing))?;
    let found = devices::lock(&transaction, device).await?;
    let added = insert(&transaction, found.id, found.home(), new).await?;
    transaction.commit().await.map_err(FleetError::on(&thing))?;
    Ok(added)
}

/// Inserts a binding with its capability; the caller has a transaction open.
pub(super) async fn insert(
    client: &impl GenericClient,
    device: DeviceId,
    home: Home<'_>,
    new: &NewBinding,
) -> Result<Added<BindingRow>, FleetError> {
    let thing = Thing::Binding { device: home.device.clone(), name: new.name.clone() };
    if let Some(capability) = new.name.capability() {
        capabilities::give(client, device, &capability).await?;
    }
    let (mut state_topic, mut command_topic) = (new.state_topic.clone(), new.command_topic.clone());
    if new.conventional {
        let (state, command) = conventional_topics(client, home, &new.name).await?;
        state_topic = state_topic.or(state);
        command_topic = command_topic.or(command);
    }
    if new.merge && state_topic.is_none() {
        return Err(FleetError::rule(&thing, Rule::NothingToMerge));
    }
    if new.reply_topic.is_some() && command_topic.is_none() {
        return Err(FleetError::rule(&thing, Rule::NothingToReplyTo));
    }
    let wanted = BindingRow {
        name: new.name.to_string(),
        state_topic: state_topic.map(|topic| topic.to_string()),
        command_topic: command_topic.map(|topic| topic.to_string()),
        reply_topic: new.reply_topic.as_ref().map(ToString::to_string),
        merge: new.merge,
    };
    let statement =
        "INSERT INTO topic_bindings (device_id, name, state_topic, command_topic, reply_topic, merge)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (device_id, name) DO NOTHING";
    let BindingRow { name, state_topic, command_topic, reply_topic, merge } = &wanted;
    let inserted = client
        .execute(statement, &[&device.0, name, state_topic, command_topic, reply_topic, merge])
        .await
        .map_err(FleetError::on(&thing))?;
    if inserted == 1 {
        return Ok(Added::New(wanted));
    }
    let there = list_of(client, device).await?;
    match there.into_iter().find(|binding| binding.name == wanted.name) {
        Some(same) if same == wanted => Ok(Added::Same(same)),
        _ => Err(FleetError::rule(&thing, Rule::BindingDiffers)),
    }
}

/// Lists a device's bindings by name.
///
/// # Errors
/// There is no such device.
pub async fn list(
    client: &impl GenericClient,
    device: &DeviceName,
) -> Result<Vec<BindingRow>, FleetError> {
    list_of(client, devices::find(client, device).await?).await
}

pub(super) async fn list_of(
    client: &impl GenericClient,
    device: DeviceId,
) -> Result<Vec<BindingRow>, FleetError> {
    let rows = client
        .query(
            "SELECT name, state_topic, command_topic, reply_topic, merge FROM topic_bindings
             WHERE device_id = $1 ORDER BY name",
            &[&device.0],
        )
        .await
        .map_err(RegistryError::on("the list of bindings"))?;
    Ok(rows.iter().map(binding_row).collect())
}

fn binding_row(row: &Row) -> BindingRow {
    BindingRow {
        name: row.get("name"),
        state_topic: row.get("state_topic"),
        command_topic: row.get("command_topic"),
        reply_topic: row.get("reply_topic"),
        merge: row.get("merge"),
    }
}

/// Changes a binding. A topic that the device loses ends its sessions, by trigger.
///
/// # Errors
/// There is no such device or binding; it would have no topic, or nothing to merge.
pub async fn set(
    client: &mut impl GenericClient,
    device: &DeviceName,
    name: &BindingName,
    change: &BindingChange,
) -> Result<BindingRow, FleetError> {
    let thing = Thing::Binding { device: device.clone(), name: name.clone() };
    let transaction = client.transaction().await.map_err(FleetError::on(&thing))?;
    let found = devices::lock(&transaction, device).await?;
    let (mut state, mut command) = (change.state_topic.clone(), change.command_topic.clone());
    let is_there = "SELECT FROM topic_bindings WHERE device_id = $1 AND name = $2";
    row_of(&transaction, &thing, is_there, &[&found.id.0, &name.as_str()]).await?;
    if change.conventional {
        let topics = conventional_topics(&transaction, found.home(), name).await?;
        (state, command) = (Some(topics.0), Some(topics.1));
    }
    let text = |topic: &Option<Option<TopicName>>| {
        topic.as_ref().and_then(Option::as_ref).map(ToString::to_string)
    };
    let statement = "UPDATE topic_bindings SET
             state_topic = CASE WHEN $3 THEN $4 ELSE state_topic END,
             command_topic = CASE WHEN $5 THEN $6 ELSE command_topic END,
             reply_topic = CASE WHEN $7 THEN $8 ELSE reply_topic END,
             merge = coalesce($9, merge)
         WHERE device_id = $1 AND name = $2
         RETURNING name, state_topic, command_topic, reply_topic, merge";
    let values: [&(dyn ToSql + Sync); 9] = [
        &found.id.0,
        &name.as_str(),
        &state.is_some(),
        &text(&state),
        &command.is_some(),
        &text(&command),
        &change.reply_topic.is_some(),
        &text(&change.reply_topic),
        &change.merge,
    ];
    let changed = binding_row(&row_of(&transaction, &thing, statement, &values).await?);
    if changed.merge && changed.state_topic.is_none() {
        return Err(FleetError::rule(&thing, Rule::NothingToMerge));
    }
    transaction.commit().await.map_err(FleetError::on(&thing))?;
    Ok(changed)
}

/// Removes a binding together with the device's capability that it carries. Its sessions end, by trigger.
///
/// # Errors
/// There is no such device, or it has neither.
pub async fn remove(
    client: &impl GenericClient,
    device: &DeviceName,
    name: &BindingName,
) -> Result<(), FleetError> {
    let thing = Thing::Binding { device: device.clone(), name: name.clone() };
    // The binding of a capability goes with it (ON DELETE CASCADE).
    let statement = match name.capability() {
        None => {
            "DELETE FROM topic_bindings AS bound USING devices
             WHERE devices.id = device_id AND devices.name = $1 AND bound.name = $2"
        }
        Some(_) => {
            "DELETE FROM device_capabilities USING devices
             WHERE devices.id = device_id AND name = $1 AND capability = $2"
        }
    };
    let removed = client.execute(statement, &[&device.as_str(), &name.as_str()]).await;
    match removed.map_err(FleetError::on(&thing))? {
        0 => Err(devices::find(client, device).await.err().unwrap_or(FleetError::NotFound(thing))),
        _ => Ok(()),
    }
}
