//! Commands as they are shown: lists of them, and what became of one at each device.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::domain::delivery::{End, State, is_id};
use crate::domain::name::DeviceName;
use crate::fleet::Part;
use crate::fleet::error::{FleetError, Thing};
use crate::fleet::one_thing::row_of;
use crate::registry::commands::{facts, limits};
use crate::registry::error::RegistryError;
use crate::registry::selector::{Condition, values};

/// Most commands that one page of a list holds.
pub const MAX_PAGE: u16 = 1000;

/// A command as lists show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommandRow {
    /// Its id.
    pub id: String,
    /// What to do.
    pub capability: String,
    /// How: the JSON that goes to the device.
    pub payload: String,
    /// Who asked.
    pub asked_by: String,
    /// When.
    pub asked_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// What makes it succeed: `sent`, `delivered`, `state` or `reply`.
    pub confirm: String,
    /// The routing rule that chose the devices, by its name of then.
    pub rule: Option<String>,
    /// The selector that chose them, as JSON.
    pub selector: Option<String>,
    /// How many devices it goes to.
    pub devices: i64,
    /// How many of these have not ended, and were neither cancelled nor superseded.
    pub open: i64,
    /// How many ended as they should.
    pub succeeded: i64,
}

/// What became of a command at one device.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveryRow {
    /// Its id.
    pub id: String,
    /// The id that goes with the message: its own, or one that it shares with others on the same topic.
    pub message: String,
    /// The device, by the name of then.
    pub device: String,
    /// The binding.
    pub binding: String,
    /// `queued`, `sent`, or how it ended.
    pub state: String,
    /// Whether it has ended.
    pub ended: bool,
    /// Whether it ended as it should.
    pub succeeded: bool,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How often it was sent.
    pub attempts: u32,
    /// Where the newest attempt went.
    pub topic: Option<String>,
    /// When EMQX first had a subscriber for it.
    pub published_at: Option<Timestamp>,
    /// When it was first written to the device's connection.
    pub written_at: Option<Timestamp>,
    /// When the device acknowledged it; this may be after the end.
    pub acked_at: Option<Timestamp>,
    /// When the device's answer was noted: a report that confirms it, or a reply.
    pub answered_at: Option<Timestamp>,
    /// Whether the answer came after the time that it had.
    pub late: bool,
    /// What the device replied.
    pub answer: Option<String>,
    /// Why it was cancelled, or why it has not been sent yet.
    pub reason: Option<String>,
    /// How it ended.
    #[serde(skip)]
    pub end: Option<End>,
    /// The device's row, if it is there still.
    #[serde(skip)]
    pub device_id: i64,
}

/// A command with what became of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommandDetails {
    /// The command.
    #[serde(flatten)]
    pub command: CommandRow,
    /// Its deliveries, in the order in which the devices were named.
    pub deliveries: Vec<DeliveryRow>,
}

/// The commands to a part of the fleet, in the columns of a [`CommandRow`]; `inside` is the condition on their deliveries.
fn select_commands(part: &Part, inside: &Condition) -> String {
    let inside = inside.sql();
    // An index finds the commands to a few devices, however many there are to others.
    let to_these = match part.is_whole() {
        true => "true".to_owned(),
        false => {
            format!("command.id IN (SELECT command_id FROM command_deliveries WHERE {inside})")
        }
    };
    format!("
    SELECT command.id::text AS id, capability, payload, asked_by, asked_at, expires_at, confirm, ack_timeout,
           rule, selector::text AS selector, counts.devices, counts.open, counts.succeeded
    FROM commands AS command
    CROSS JOIN LATERAL (
        SELECT count(*) AS devices, count(*) FILTER (WHERE ended_at IS NULL AND cancelled_at IS NULL AND superseded_at IS NULL) AS open,
               count(*) FILTER (WHERE ended_as IN ('delivered', 'sent', 'succeeded')) AS succeeded
        FROM command_deliveries WHERE command_id = command.id AND {inside}) AS counts
    WHERE {to_these}")
}

fn command_row(row: &Row, part: &Part) -> CommandRow {
    let asked_by: String = row.get("asked_by");
    let selector: Option<String> = row.get("selector");
    // What would name devices outside.
    let (asked_by, selector) = match asked_by.split_once(' ') {
        _ if part.is_whole() => (asked_by, selector),
        Some(("service", _)) => ("service".to_owned(), None),
        _ => (asked_by, None),
    };
    CommandRow {
        id: row.get("id"),
        capability: row.get("capability"),
        payload: row.get("payload"),
        asked_by,
        asked_at: row.get("asked_at"),
        expires_at: row.get("expires_at"),
        confirm: row.get("confirm"),
        rule: row.get("rule"),
        selector,
        devices: row.get("devices"),
        open: row.get("open"),
        succeeded: row.get("succeeded"),
    }
}

/// Where a command stands in the list: when it was asked for, and its id.
pub struct ListPlace {
    asked_at: Timestamp,
    id: String,
}

impl ListPlace {
    /// As [`CommandRow::place`] writes it; `None`: it did not.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (asked_at, id) = text.split_once(' ')?;
        let asked_at = asked_at.parse().ok()?;
        is_id(id).then(|| Self { asked_at, id: id.to_owned() })
    }
}

impl CommandRow {
    /// Its place in the list, as text.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{} {}", self.asked_at, self.id)
    }
}

/// Where a command stands in the list.
///
/// # Errors
/// There is no such command.
pub async fn place(client: &impl GenericClient, id: &str) -> Result<ListPlace, FleetError> {
    let CommandRow { asked_at, id, .. } = show(client, &Part::whole(), id).await?.command;
    Ok(ListPlace { asked_at, id })
}

/// Lists commands to a part of the fleet, the newest first, those behind `after` if it is given; at most `limit` and at most [`MAX_PAGE`]; of one
/// device, if it is named: of one that is gone, by the name that it had.
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    part: &Part,
    device: Option<&DeviceName>,
    after: Option<&ListPlace>,
    limit: u16,
) -> Result<Vec<CommandRow>, FleetError> {
    let on_list = || RegistryError::on("the list of commands");
    let name = device.map(DeviceName::as_str);
    let row = client.query_opt("SELECT id FROM devices WHERE name = $1", &[&name]).await;
    let id: Option<i64> = row.map_err(on_list())?.map(|row| row.get(0));
    let inside = part.condition_on("device_id", 5);
    // Inside as well: whether one outside got a command that went to others too is not told.
    let of_device = match (device, id) {
        (None, _) => "$1::text IS NULL AND $2::bigint IS NULL".to_owned(),
        (Some(_), Some(_)) => format!(
            "$1::text IS NOT NULL AND command.id IN (
                 SELECT command_id FROM command_deliveries WHERE device_id = $2 AND {})",
            inside.sql()
        ),
        (Some(_), None) => format!(
            "$2::bigint IS NULL AND EXISTS (
                 SELECT FROM command_deliveries WHERE command_id = command.id AND device_name = $1 AND {})",
            inside.sql()
        ),
    };
    let commands = select_commands(part, &inside);
    let statement = format!(
        "{commands} AND {of_device}
           AND ($4::timestamptz IS NULL OR (asked_at, command.id) < ($4, $5::text::uuid))
         ORDER BY asked_at DESC, command.id DESC LIMIT $3"
    );
    let limit = i64::from(limit.min(MAX_PAGE));
    let (asked_at, after) = after.map(|after| (after.asked_at, &after.id)).unzip();
    let values = values(&[&name, &id, &limit, &asked_at, &after], [&inside]);
    let rows = client.query(&statement, &values).await.map_err(on_list())?;
    Ok(rows.iter().map(|row| command_row(row, part)).collect())
}

/// Shows a command with what became of it at the devices of a part of the fleet.
///
/// # Errors
/// There is no such command, or it goes to none of these.
pub async fn show(
    client: &impl GenericClient,
    part: &Part,
    id: &str,
) -> Result<CommandDetails, FleetError> {
    let thing = Thing::Command(id.to_owned());
    if !is_id(id) {
        return Err(FleetError::NotFound(thing));
    }
    let inside = part.condition_on("device_id", 1);
    let statement = format!("{} AND command.id = $1::text::uuid", select_commands(part, &inside));
    let values = values(&[&id], [&inside]);
    let row = row_of(client, &thing, &statement, &values).await?;
    let statement = format!(
        "SELECT delivery.id::text AS id, device_id, coalesce(message, delivery.id)::text AS message, device_name, binding, topic, attempts, attempted_at,
             published_at, written_at, written_qos, acked_at, superseded_at, cancelled_at, cancelled_why,
             answered_at, answered_ok, answer, ended_at, ended_as, last_error, expires_at, confirm, ack_timeout,
             answer_in, clock_timestamp() AS now
         FROM command_deliveries AS delivery JOIN commands AS command ON command.id = command_id
         WHERE command_id = $1::text::uuid AND {} ORDER BY position",
        inside.sql()
    );
    let rows = client.query(&statement, &values).await.map_err(FleetError::on(&thing))?;
    let deliveries = rows.iter().map(delivery_row).collect::<Result<_, _>>()?;
    Ok(CommandDetails { command: command_row(&row, part), deliveries })
}

fn delivery_row(row: &Row) -> Result<DeliveryRow, FleetError> {
    let (facts, limits) = (facts(row), limits(row)?);
    let noted: Option<&str> = row.get("ended_as");
    let noted = noted.and_then(End::of_word);
    // What is noted as the end stays; before that the state is read off the facts.
    let (state, end) = match noted.map_or_else(
        || facts.state(&limits, row.get("now")),
        |end| State::Ended { end, at: row.get("ended_at") },
    ) {
        State::Queued => ("queued", None),
        State::Sent { .. } => ("sent", None),
        State::Delivered { .. } => ("delivered", None),
        State::Ended { end, at } => (end.word(), Some((end, at))),
    };
    let cancelled: Option<String> = row.get("cancelled_why");
    Ok(DeliveryRow {
        id: row.get("id"),
        message: row.get("message"),
        device: row.get("device_name"),
        binding: row.get("binding"),
        state: state.to_owned(),
        ended: end.is_some(),
        succeeded: end.is_some_and(|(end, _)| end.is_success()),
        ended_at: end.map(|(_, at)| at),
        attempts: facts.attempts,
        topic: row.get("topic"),
        published_at: facts.published_at,
        written_at: facts.written_at,
        acked_at: facts.acked_at,
        answered_at: facts.answer.map(|answer| answer.at),
        late: facts.is_answer_late(&limits),
        answer: row.get("answer"),
        end: end.map(|(end, _)| end),
        device_id: row.get("device_id"),
        reason: cancelled.or_else(|| row.get("last_error")),
    })
}
