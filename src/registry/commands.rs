//! Deliveries of commands, as the worker that sends them sees them (`sql/V8`).
//!
//! Whatever changes several deliveries locks them in the order of their ids first: the worker, reports, receipts and whoever cancels
//! would wait for each other in a circle otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::{GenericClient, Row};

use crate::domain::delivery::{Answer, Confirmation, End, Facts, Limits, is_id};
use crate::domain::device::DeviceId;
use crate::registry::error::RegistryError;

/// The kind of work.
pub const KIND: &str = "command";

/// Channel on which the end of a command's delivery is announced; the payload is the command's id.
pub const ENDED_CHANNEL: &str = "fleetgate_command";

/// The first delivery of a line that has not ended, and what sending it depends on, as all of it is now.
pub struct Head {
    /// The line, as the work queue names it.
    pub line: String,
    /// The delivery.
    pub delivery: String,
    /// The id that goes with the message: the delivery's, or one that several on the same topic share.
    pub message: String,
    /// Whether it was shared when the command was asked for.
    pub shares_message: bool,
    /// What is known of it.
    pub facts: Facts,
    /// What bounds it.
    pub limits: Limits,
    /// JSON for the device.
    pub payload: String,
    /// Whether it goes down as `{"id", "value"}`.
    pub envelope: bool,
    /// Where to send it; or why it can be sent no more.
    pub recipient: Result<Recipient, CannotSend>,
    /// Whether commands of its capability are paused.
    pub paused: bool,
    /// Whether it was sent before, and one that takes its place was asked for since.
    pub is_outdated: bool,
    /// The time, by PostgreSQL's clock.
    pub now: Timestamp,
}

/// Who is to get it.
pub struct Recipient {
    /// The device's own client id, or its gateway's.
    pub client_id: String,
    /// The binding's command topic.
    pub topic: String,
    /// Whether the device is online, as far as is known.
    pub online: bool,
}

/// Why a delivery can be sent no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotSend {
    /// The device was removed.
    NoDevice,
    /// The device is disabled.
    Disabled,
    /// The device's gateway is disabled.
    GatewayDisabled,
    /// The device has the capability, or its command topic, no longer.
    NoTopic,
    /// The service that asked for it may not ask for it any more.
    NotAllowed,
    /// The API token that asked for it was revoked.
    Revoked,
}

impl CannotSend {
    /// As the delivery notes it.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::NoDevice => "the device was removed",
            Self::Disabled => "the device is disabled",
            Self::GatewayDisabled => "the device's gateway is disabled",
            Self::NoTopic => "the device has no command topic for it any more",
            Self::NotAllowed => "the service that asked for it may not ask for it any more",
            Self::Revoked => "the API token that asked for it was revoked",
        }
    }
}

fn on_commands() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the commands")
}

/// Reads the heads of lines; a line without one is left out. One that this release cannot read (a newer one has written
/// it, or somebody in `psql`) is its line and why, so that it holds up no other.
///
/// # Errors
/// A database that is away.
pub async fn heads(
    client: &impl GenericClient,
    lines: &[&str],
) -> Result<(Vec<Head>, Vec<(String, RegistryError)>), RegistryError> {
    let rows = client.query(HEADS, &[&lines]).await.map_err(on_commands())?;
    let (mut heads, mut unreadable) = (Vec::new(), Vec::new());
    for row in &rows {
        match head(row) {
            Ok(head) => heads.push(head),
            Err(error) => unreadable.push((row.get("key"), error)),
        }
    }
    Ok((heads, unreadable))
}

const HEADS: &str = "
    SELECT line.key, head.id::text AS delivery, coalesce(head.message, head.id)::text AS message_id,
           head.message IS NOT NULL AS shares_message, head.*, command.expires_at, command.ack_timeout,
           command.answer_in, command.confirm, command.envelope, command.payload, device.id IS NOT NULL AS device_is_there,
           command.service_id IS NULL OR fleetgate_may_command(command.service_id, command.capability) AS asker_may,
           EXISTS (SELECT FROM api_tokens AS token WHERE token.id = command.token_id AND token.revoked_at IS NOT NULL) AS asker_is_revoked,
           head.attempts > 0 AND EXISTS (
               SELECT FROM command_deliveries AS newer JOIN capabilities AS its ON its.name = command.capability AND its.only_latest
               WHERE newer.device_id = head.device_id AND newer.binding = head.binding AND newer.ended_at IS NULL
                 AND newer.cancelled_at IS NULL AND newer.superseded_at IS NULL
                 AND (newer.asked_at, newer.position) > (head.asked_at, head.position)) AS is_outdated,
           coalesce(gateway.effective_client_id, device.effective_client_id) AS client_id, device.enabled,
           coalesce(gateway.enabled, true) AS gateway_enabled, presence.online, binding.command_topic,
           EXISTS (SELECT FROM command_pauses AS pause
                   WHERE pause.capability IN ('', command.capability)) AS paused,
           clock_timestamp() AS now
    FROM unnest($1::text[]) AS line (key)
    CROSS JOIN LATERAL (
        SELECT * FROM command_deliveries
        WHERE device_id = split_part(key, '/', 1)::bigint AND ended_at IS NULL
          AND binding = substr(key, strpos(key, '/') + 1)
        -- What is under way comes first: one that was asked for earlier may have arrived later.
        ORDER BY attempts > 0 DESC, asked_at, position LIMIT 1) AS head
    JOIN commands AS command ON command.id = head.command_id
    LEFT JOIN devices AS device ON device.id = head.device_id
    LEFT JOIN devices AS gateway ON gateway.id = device.gateway
    LEFT JOIN device_presence AS presence ON presence.device_id = device.id
    LEFT JOIN topic_bindings AS binding
        ON binding.device_id = head.device_id AND binding.name = head.binding";

fn head(row: &Row) -> Result<Head, RegistryError> {
    let recipient = match (row.get("device_is_there"), row.get("command_topic")) {
        (false, _) => Err(CannotSend::NoDevice),
        _ if !row.get::<_, bool>("asker_may") => Err(CannotSend::NotAllowed),
        _ if row.get("asker_is_revoked") => Err(CannotSend::Revoked),
        (true, _) if row.get::<_, Option<bool>>("enabled") != Some(true) => {
            Err(CannotSend::Disabled)
        }
        (true, _) if !row.get::<_, bool>("gateway_enabled") => Err(CannotSend::GatewayDisabled),
        (true, None) => Err(CannotSend::NoTopic),
        (true, Some(topic)) => {
            Ok(Recipient { client_id: row.get("client_id"), topic, online: row.get("online") })
        }
    };
    Ok(Head {
        line: row.get("key"),
        delivery: row.get("delivery"),
        message: row.get("message_id"),
        shares_message: row.get("shares_message"),
        facts: facts(row),
        limits: limits(row)?,
        payload: row.get("payload"),
        envelope: row.get("envelope"),
        recipient,
        paused: row.get("paused"),
        is_outdated: row.get("is_outdated"),
        now: row.get("now"),
    })
}

/// How many deliveries are on their way to each of these clients, of its own devices and, of a gateway, its children: sent,
/// neither acknowledged nor ended, and the receipt not overdue. A client that none is on its way to is left out.
///
/// # Errors
/// A database that is away.
pub async fn in_flight(
    client: &impl GenericClient,
    client_ids: &[&str],
) -> Result<BTreeMap<String, usize>, RegistryError> {
    let statement = "
        SELECT client_id, count(*) FROM (
            SELECT effective_client_id AS client_id, id AS device_id FROM devices WHERE effective_client_id = ANY ($1)
            UNION ALL
            SELECT gateway.effective_client_id, child.id FROM devices AS gateway
            JOIN devices AS child ON child.gateway = gateway.id WHERE gateway.effective_client_id = ANY ($1)) AS owned
        JOIN command_deliveries AS delivery USING (device_id)
        JOIN commands AS command ON command.id = delivery.command_id
        WHERE ended_at IS NULL AND acked_at IS NULL AND written_qos IS DISTINCT FROM 0
          AND attempted_at > clock_timestamp() - command.ack_timeout * interval '1 second'
        GROUP BY client_id";
    let rows = client.query(statement, &[&client_ids]).await.map_err(on_commands())?;
    let count =
        |row: &Row| (row.get(0), usize::try_from(row.get::<_, i64>(1)).unwrap_or(usize::MAX));
    Ok(rows.iter().map(count).collect())
}

/// Which of these messages, each for several devices on a topic, would reach one that is online while an earlier command of it
/// is on its way: sent, and its receipt not overdue.
///
/// # Errors
/// A database that is away.
pub async fn out_of_turn(
    client: &impl GenericClient,
    messages: &[&str],
) -> Result<BTreeSet<String>, RegistryError> {
    let statement = "
        SELECT DISTINCT other.message::text
        FROM command_deliveries AS other
        JOIN command_deliveries AS earlier ON earlier.device_id = other.device_id AND earlier.binding = other.binding
            AND earlier.ended_at IS NULL AND earlier.message IS DISTINCT FROM other.message
        JOIN commands AS command ON command.id = earlier.command_id
            AND earlier.attempted_at > clock_timestamp() - command.ack_timeout * interval '1 second'
        JOIN device_presence AS presence ON presence.device_id = other.device_id AND presence.online
        WHERE other.message = ANY ($1::text[]::uuid[]) AND other.ended_at IS NULL AND other.attempts = 0";
    let rows = client.query(statement, &[&messages]).await.map_err(on_commands())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The facts of a row of `command_deliveries`.
pub(crate) fn facts(row: &Row) -> Facts {
    Facts {
        attempts: row.get::<_, i32>("attempts").unsigned_abs(),
        attempted_at: row.get("attempted_at"),
        published_at: row.get("published_at"),
        written_at: row.get("written_at"),
        written_qos: row
            .get::<_, Option<i16>>("written_qos")
            .and_then(|qos| u8::try_from(qos).ok()),
        acked_at: row.get("acked_at"),
        answer: answer(row),
        superseded_at: row.get("superseded_at"),
        cancelled_at: row.get("cancelled_at"),
    }
}

fn answer(row: &Row) -> Option<Answer> {
    let (at, ok): (Option<Timestamp>, Option<bool>) =
        (row.get("answered_at"), row.get("answered_ok"));
    Some(Answer { at: at?, ok: ok? })
}

/// The limits of a row of `commands`.
pub(crate) fn limits(row: &Row) -> Result<Limits, RegistryError> {
    let confirm: &str = row.get("confirm");
    let confirm = Confirmation::of_word(confirm).ok_or_else(|| RegistryError::Database {
        thing: "a command".to_owned(),
        message: format!("its confirm {confirm:?} is unknown to this release"),
    })?;
    let seconds = |column| Duration::from_secs(u64::from(row.get::<_, i32>(column).unsigned_abs()));
    Ok(Limits {
        expires_at: row.get("expires_at"),
        ack_timeout: seconds("ack_timeout"),
        answer_in: seconds("answer_in"),
        confirm,
    })
}

/// Deliveries whose time to expire is over and that have not ended, wherever they stand in their lines; with what is known of
/// each, and the time by PostgreSQL's clock. At most `most`.
///
/// # Errors
/// A database that is away.
pub async fn overdue(
    client: &impl GenericClient,
    most: i64,
) -> Result<Vec<(String, Facts, Limits, Timestamp)>, RegistryError> {
    let statement = "
        SELECT delivery.id::text AS delivery, delivery.*, command.expires_at, command.ack_timeout, command.answer_in, command.confirm,
               clock_timestamp() AS now
        FROM command_deliveries AS delivery JOIN commands AS command ON command.id = delivery.command_id
        WHERE ended_at IS NULL AND command_expires_at <= now() ORDER BY command_expires_at LIMIT $1";
    let rows = client.query(statement, &[&most]).await.map_err(on_commands())?;
    // One that cannot be read is told of by whoever sends.
    let read =
        |row: &Row| Some((row.get("delivery"), facts(row), limits(row).ok()?, row.get("now")));
    Ok(rows.iter().filter_map(read).collect())
}

/// Notes ends, and announces them. Returns the word of each that was not noted before, and how long one that the device
/// received took since it was asked for, in seconds.
///
/// # Errors
/// A database that is away.
pub async fn end(
    client: &impl GenericClient,
    ended: &[(&str, End, Timestamp)],
) -> Result<Vec<(String, Option<f64>)>, RegistryError> {
    let deliveries: Vec<&str> = ended.iter().map(|(delivery, ..)| *delivery).collect();
    let ends: Vec<&str> = ended.iter().map(|(_, end, _)| end.word()).collect();
    let times: Vec<Timestamp> = ended.iter().map(|(.., at)| *at).collect();
    let rows = client.query(END, &[&deliveries, &ends, &times]).await.map_err(on_commands())?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

const END: &str = "
    WITH it AS (
        SELECT delivery.id, it.state, it.at FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS it (id, state, at)
        JOIN command_deliveries AS delivery ON delivery.id = it.id::uuid ORDER BY delivery.id FOR UPDATE OF delivery),
    ended AS (
        UPDATE command_deliveries AS delivery SET ended_at = it.at, ended_as = it.state
        FROM it WHERE delivery.id = it.id AND ended_at IS NULL
          -- An answer that was noted since is worth more.
          AND (it.state <> 'timed_out' OR answered_at IS NULL)
        RETURNING command_id, ended_at, ended_as),
    told AS MATERIALIZED (
        SELECT command_id, pg_notify('fleetgate_command', command_id::text) FROM ended GROUP BY command_id),
    -- Whoever deals with requests looks whether all have ended.
    asked AS (
        SELECT fleetgate_queue_work('command_request', array_agg(key), array_agg('{}'::jsonb))
        FROM (SELECT DISTINCT lpad(service_id::text, 19, '0') AS key
              FROM ended JOIN command_requests USING (command_id)) AS service HAVING count(*) > 0)
    SELECT ended_as, CASE WHEN ended_as IN ('delivered', 'succeeded', 'failed')
               THEN extract(epoch FROM ended_at - asked_at)::float8 END
    FROM ended JOIN told USING (command_id) JOIN commands AS command ON command.id = command_id
    WHERE (SELECT count(*) FROM asked) >= 0";

/// Cancels deliveries, each with the reason.
///
/// # Errors
/// A database that is away.
pub async fn cancel(
    client: &impl GenericClient,
    cancelled: &[(&str, CannotSend)],
) -> Result<(), RegistryError> {
    let deliveries: Vec<&str> = cancelled.iter().map(|(delivery, _)| *delivery).collect();
    let reasons: Vec<&str> = cancelled.iter().map(|(_, why)| why.why()).collect();
    let cancel = "
        WITH it AS (
            SELECT delivery.id, it.why FROM unnest($1::text[], $2::text[]) AS it (id, why)
            JOIN command_deliveries AS delivery ON delivery.id = it.id::uuid ORDER BY delivery.id FOR UPDATE OF delivery)
        UPDATE command_deliveries AS delivery
        SET cancelled_at = clock_timestamp(), cancelled_why = it.why
        FROM it WHERE delivery.id = it.id AND ended_at IS NULL AND cancelled_at IS NULL";
    client.execute(cancel, &[&deliveries, &reasons]).await.map(drop).map_err(on_commands())
}

/// An attempt that is about to be made.
pub struct Attempt<'a> {
    /// The delivery.
    pub delivery: &'a str,
    /// Where it goes.
    pub topic: &'a str,
    /// How often it was sent before.
    pub before: u32,
}

/// An attempt that is noted and may be made.
pub struct Begun {
    /// The delivery.
    pub delivery: String,
    /// The id that goes with the message.
    pub message: String,
    /// Where it goes.
    pub topic: String,
}

/// Notes attempts before they are made, so that none is forgotten. Returns which may be made: not what was
/// cancelled, acknowledged or attempted by somebody else meanwhile, and not where commands were paused, the device disabled, its
/// topic changed or the asker's right taken since it was read. Where a message is for several devices on a topic, an
/// attempt for one is an attempt for all that can hear it: not attempted so far, next in their lines, online, and not known
/// to have not subscribed (`deaf`).
///
/// # Errors
/// A database that is away.
pub async fn begin(
    client: &impl GenericClient,
    attempts: &[Attempt<'_>],
    deaf: &[&str],
) -> Result<Vec<Begun>, RegistryError> {
    let deliveries: Vec<&str> = attempts.iter().map(|attempt| attempt.delivery).collect();
    let topics: Vec<&str> = attempts.iter().map(|attempt| attempt.topic).collect();
    let before = |attempt: &Attempt<'_>| i32::try_from(attempt.before).unwrap_or(i32::MAX);
    let before: Vec<i32> = attempts.iter().map(before).collect();
    let rows =
        client.query(BEGIN, &[&deliveries, &topics, &before, &deaf]).await.map_err(on_commands())?;
    let begun = |row: &Row| Begun { delivery: row.get(0), message: row.get(1), topic: row.get(2) };
    Ok(rows.iter().map(begun).collect())
}

// Locked in one order, so that two replicas that begin for each other's devices don't wait for each other in a circle; the
// second then finds them attempted.
const BEGIN: &str = "
    WITH asked AS (
        SELECT it.id::uuid AS id, it.topic, it.before
        FROM unnest($1::text[], $2::text[], $3::integer[]) AS it (id, topic, before)),
    allowed AS (
        SELECT asked.id, asked.topic, asked.before, own.message
        FROM asked
        JOIN command_deliveries AS own ON own.id = asked.id
        JOIN commands AS command ON command.id = own.command_id
        WHERE (command.service_id IS NULL OR fleetgate_may_command(command.service_id, command.capability))
          AND NOT EXISTS (SELECT FROM api_tokens AS token WHERE token.id = command.token_id AND token.revoked_at IS NOT NULL)
          AND NOT EXISTS (SELECT FROM command_pauses AS pause WHERE pause.capability IN ('', command.capability))),
    hearing AS (
        SELECT id, topic, before FROM allowed
        UNION
        SELECT other.id, allowed.topic, 0
        FROM allowed JOIN command_deliveries AS other ON other.message = allowed.message
        JOIN device_presence AS presence ON presence.device_id = other.device_id AND presence.online
        WHERE other.attempts = 0 AND other.ended_at IS NULL AND other.id <> ALL ($4::text[]::uuid[])
          AND NOT EXISTS (
            SELECT FROM command_deliveries AS earlier
            WHERE earlier.device_id = other.device_id AND earlier.binding = other.binding AND earlier.ended_at IS NULL
              AND (earlier.attempts > 0 OR (earlier.asked_at, earlier.position) < (other.asked_at, other.position)))),
    wanted AS (
        SELECT hearing.id, hearing.topic, hearing.before
        FROM hearing JOIN command_deliveries AS delivery ON delivery.id = hearing.id
        JOIN devices AS device ON device.id = delivery.device_id AND device.enabled
        LEFT JOIN devices AS gateway ON gateway.id = device.gateway
        JOIN topic_bindings AS binding ON binding.device_id = delivery.device_id AND binding.name = delivery.binding
            AND binding.command_topic = hearing.topic
        WHERE coalesce(gateway.enabled, true)),
    locked AS MATERIALIZED (
        SELECT delivery.id FROM command_deliveries AS delivery JOIN wanted USING (id) ORDER BY delivery.id FOR UPDATE OF delivery)
    UPDATE command_deliveries AS delivery
    SET attempts = attempts + 1, attempted_at = clock_timestamp(), topic = wanted.topic
    FROM wanted JOIN locked USING (id)
    WHERE delivery.id = wanted.id AND attempts = wanted.before AND ended_at IS NULL
      AND cancelled_at IS NULL AND superseded_at IS NULL AND acked_at IS NULL
    RETURNING delivery.id::text, coalesce(message, delivery.id)::text, delivery.topic";

/// Notes that EMQX had a subscriber for these.
///
/// # Errors
/// A database that is away.
pub async fn published(
    client: &impl GenericClient,
    deliveries: &[&str],
) -> Result<(), RegistryError> {
    let published = "
        WITH it AS (
            SELECT id FROM command_deliveries WHERE id = ANY ($1::text[]::uuid[]) ORDER BY id FOR UPDATE)
        UPDATE command_deliveries AS delivery
        SET published_at = coalesce(published_at, clock_timestamp()), last_error = NULL
        FROM it WHERE delivery.id = it.id";
    client.execute(published, &[&deliveries]).await.map(drop).map_err(on_commands())
}

/// Notes that these reached nobody, and why: that is no attempt.
///
/// # Errors
/// A database that is away.
pub async fn unheard(
    client: &impl GenericClient,
    deliveries: &[(&str, String)],
) -> Result<(), RegistryError> {
    let (ids, reasons): (Vec<&str>, Vec<&str>) =
        deliveries.iter().map(|(id, why)| (*id, why.as_str())).unzip();
    let unheard = "
        WITH it AS (
            SELECT delivery.id, it.why FROM unnest($1::text[], $2::text[]) AS it (id, why)
            JOIN command_deliveries AS delivery ON delivery.id = it.id::uuid ORDER BY delivery.id FOR UPDATE OF delivery)
        UPDATE command_deliveries AS delivery
        SET attempts = greatest(attempts - 1, 0), attempted_at = NULL, last_error = it.why
        FROM it WHERE delivery.id = it.id";
    client.execute(unheard, &[&ids, &reasons]).await.map(drop).map_err(on_commands())
}

/// What is heard of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It was written to the device's connection.
    Written {
        /// With this QoS.
        qos: u8,
        /// When, by the broker's clock.
        stamp: Timestamp,
    },
    /// The device acknowledged it.
    Acknowledged {
        /// When, by the broker's clock.
        stamp: Timestamp,
    },
    /// The device replied.
    Answered {
        /// Whether it is done.
        ok: bool,
        /// What it said, at most [`crate::domain::reply::MAX_REPLY_BYTES`].
        answer: String,
        /// Its reply topic.
        topic: String,
    },
}

/// Notes a fact about a message for a device or for children of it; `false` when none of them has such a delivery. The id comes
/// from the bus, and may be any text.
///
/// # Errors
/// A database that is away.
pub async fn note(
    client: &impl GenericClient,
    message: &str,
    device: DeviceId,
    fact: &Fact,
) -> Result<bool, RegistryError> {
    if !is_id(message) {
        return Ok(false);
    }
    let (word, qos, stamp, reply) = match fact {
        Fact::Written { qos, stamp } => ("written", Some(i16::from(*qos)), Some(*stamp), None),
        Fact::Acknowledged { stamp } => ("acked", None, Some(*stamp), None),
        Fact::Answered { ok, answer, topic } => {
            ("answered", None, None, Some((*ok, answer.as_str(), topic.as_str())))
        }
    };
    let ok = reply.map(|(ok, ..)| ok);
    let (answer, topic) = reply.map(|(_, answer, topic)| (answer, topic)).unzip();
    let statement =
        "SELECT fleetgate_note_command_fact($1::text::uuid, $2, $3, $4, $5, $6, $7, $8)";
    let row = client
        .query_one(statement, &[&message, &device.0, &word, &qos, &stamp, &ok, &answer, &topic])
        .await;
    Ok(row.map_err(on_commands())?.get(0))
}

/// Tries what waits for these devices.
///
/// # Errors
/// A database that is away.
pub async fn wake(client: &impl GenericClient, device_ids: &[i64]) -> Result<(), RegistryError> {
    let wake = "SELECT fleetgate_wake_commands_of_devices($1)";
    client.execute(wake, &[&device_ids]).await.map(drop).map_err(on_commands())
}

/// Notes reports of what commands told their devices to be. The reports are written by now.
///
/// # Errors
/// A database that is away.
pub async fn note_reports(
    client: &impl GenericClient,
    device_ids: &[i64],
    bindings: &[&str],
    reports: &[&str],
    stamps: &[Timestamp],
) -> Result<(), RegistryError> {
    let statement = "SELECT fleetgate_note_command_reports($1, $2, $3::text[]::jsonb[], $4)";
    let noted = client.execute(statement, &[&device_ids, &bindings, &reports, &stamps]).await;
    noted.map(drop).map_err(on_commands())
}

/// Lets no report confirm commands any more that ended more than an hour ago: every batch of events looks for such.
///
/// # Errors
/// A database that is away.
pub async fn await_no_more(client: &impl GenericClient) -> Result<(), RegistryError> {
    let statement = "UPDATE command_deliveries SET awaits_report = false
         WHERE awaits_report AND ended_at < now() - interval '1 hour'";
    client.execute(statement, &[]).await.map(drop).map_err(on_commands())
}

/// Deletes commands that were asked for and ended longer than `keep` ago: at most `most` of them with at most `most_deliveries`
/// deliveries, those first. Returns whether there may be more.
///
/// # Errors
/// A database that is away.
pub async fn prune(
    client: &impl GenericClient,
    keep: Duration,
    most: i64,
    most_deliveries: i64,
) -> Result<bool, RegistryError> {
    let old = "
        SELECT id FROM commands AS command
        WHERE asked_at < now() - $1 * interval '1 second' AND NOT EXISTS (
            SELECT FROM command_deliveries WHERE command_id = command.id
              AND (ended_at IS NULL OR ended_at > now() - $1 * interval '1 second'))
        ORDER BY asked_at LIMIT $2";
    let deliveries = format!(
        "DELETE FROM command_deliveries WHERE id IN (
             SELECT delivery.id FROM command_deliveries AS delivery JOIN ({old}) AS old ON old.id = command_id LIMIT $3)"
    );
    let commands = format!(
        "DELETE FROM commands WHERE id IN ({old})
         AND NOT EXISTS (SELECT FROM command_deliveries WHERE command_id = commands.id)"
    );
    let keep = keep.as_secs_f64();
    let parts = client.execute(&deliveries, &[&keep, &most, &most_deliveries]).await;
    let parts = parts.map_err(on_commands())?;
    let whole = client.execute(&commands, &[&keep, &most]).await.map_err(on_commands())?;
    Ok(parts >= most_deliveries.unsigned_abs() || whole >= most.unsigned_abs())
}
