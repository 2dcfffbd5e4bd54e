//! Which rows give a device a right.

use serde::Serialize;
use tokio_postgres::GenericClient;
use utoipa::ToSchema;

use crate::domain::acl::Action;
use crate::domain::name::DeviceName;
use crate::domain::rights::Right;
use crate::fleet::error::{FleetError, Thing};

/// A row that gives a right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DecidingRow {
    /// Whose it is: the device itself, or one behind it.
    pub device: String,
    /// The binding, where it is one of its topics.
    pub binding: Option<String>,
    /// The grant's number, where it is a grant.
    pub grant: Option<i64>,
}

/// The rows that give a device this right on a topic, as they are now.
///
/// # Errors
/// A database that is away.
pub async fn rows(
    client: &impl GenericClient,
    device: &DeviceName,
    action: Action,
    right: Right<'_>,
    topic: &str,
) -> Result<Vec<DecidingRow>, FleetError> {
    let thing = Thing::Device(device.clone());
    let bound = |column: &str| {
        format!(
            "SELECT owner.name, binding.name, NULL::bigint
             FROM devices AS device JOIN devices AS owner ON owner.id = device.id OR owner.gateway = device.id
             JOIN topic_bindings AS binding ON binding.device_id = owner.id
             WHERE device.name = $1 AND owner.enabled AND binding.{column} = $2 AND $3::text IS NOT NULL
             ORDER BY owner.name, binding.name"
        )
    };
    let (statement, topic) = match right {
        Right::StateTopic => (bound("state_topic"), topic),
        Right::CommandTopic => (bound("command_topic"), topic),
        Right::ReplyTopic => (bound("reply_topic"), topic),
        Right::AvailabilityTopic => {
            let statement = "SELECT child.name, NULL::text, NULL::bigint
                FROM devices AS device JOIN devices AS child ON child.gateway = device.id
                WHERE device.name = $1 AND child.enabled AND child.availability_topic = $2 AND $3::text IS NOT NULL
                ORDER BY child.name";
            (statement.to_owned(), topic)
        }
        Right::Grant(filter) => {
            let statement = "SELECT device.name, NULL::text, topic_grants.id
                FROM devices AS device JOIN topic_grants ON device_id = device.id
                WHERE device.name = $1 AND topic_filter = $2 AND action = $3";
            (statement.to_owned(), filter)
        }
    };
    let rows = client.query(&statement, &[&device.as_str(), &topic, &action.word()]).await;
    let rows = rows.map_err(FleetError::on(&thing))?;
    Ok(rows
        .iter()
        .map(|row| DecidingRow { device: row.get(0), binding: row.get(1), grant: row.get(2) })
        .collect())
}
