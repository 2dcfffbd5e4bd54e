//! Commands that services asked for over MQTT (`command_requests`, `sql/V11`).

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::{GenericClient, Row};

use crate::domain::device::DeviceId;
use crate::registry::error::RegistryError;

/// The kind of work.
pub const KIND: &str = "command_request";
/// Most requests of one service that wait for their first answer; further ones are refused.
pub const MOST_WAITING: i64 = 1_000;
/// Most requests of one service that have not been told all; further ones are dropped.
pub const MOST_OPEN: i64 = 10_000;

fn on_requests() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the requests of services")
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// The service's row.
    pub service: DeviceId,
    /// Its name.
    pub service_name: String,
    /// The request's own id, or that of the message.
    pub request: String,
    /// The capability, as the topic says it; any text.
    pub capability: String,
    /// What was published; `None`: no text, or too much of it.
    pub body: Option<String>,
    /// When EMQX received it.
    pub received_at: Timestamp,
    /// EMQX's id of the message.
    pub message_id: String,
}

/// What became of a request that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is committed.
    New,
    /// It was known.
    Repeated,
    /// Too many of the service wait: it is refused, or dropped where even that is too much.
    TooMany,
}

/// Stores a request, once, and wakes whoever deals with it.
///
/// # Errors
/// A database that is away.
pub async fn store(client: &impl GenericClient, new: &NewRequest) -> Result<Stored, RegistryError> {
    let statement = "
        WITH bound AS (
            SELECT (SELECT count(*) FROM command_requests WHERE service_id = $1 AND answer IS NULL) < $8 AS may_wait,
                   (SELECT count(*) FROM (SELECT FROM command_requests WHERE service_id = $1 AND done_at IS NULL LIMIT $9) AS open)
                       < $9 AS may_come),
        stored AS (
            INSERT INTO command_requests (service_id, service_name, request, capability, body, received_at, message_id, answer)
            SELECT $1, $2, $3, $4, CASE WHEN may_wait THEN $5 END, $6, $7,
                   CASE WHEN NOT may_wait THEN jsonb_build_object('state', 'refused', 'error',
                       jsonb_build_object('kind', 'refused', 'pointer', '', 'message', $10::text)) END
            FROM bound WHERE may_come
            ON CONFLICT DO NOTHING RETURNING service_id, answer IS NULL AS waits),
        woken AS (SELECT fleetgate_queue_work('command_request', ARRAY[lpad(service_id::text, 19, '0')], ARRAY['{}'::jsonb]) FROM stored)
        SELECT EXISTS (SELECT FROM stored WHERE waits), (SELECT count(*) FROM woken),
               EXISTS (SELECT FROM command_requests WHERE service_id = $1 AND request = $3)";
    let too_many = format!("{MOST_WAITING} requests of the service wait already");
    let NewRequest { service, service_name, request, capability, body, received_at, message_id } =
        new;
    let row = client
        .query_one(
            statement,
            &[
                &service.0,
                service_name,
                request,
                capability,
                body,
                received_at,
                message_id,
                &MOST_WAITING,
                &MOST_OPEN,
                &too_many,
            ],
        )
        .await
        .map_err(on_requests())?;
    Ok(match (row.get(0), row.get(2)) {
        (true, _) => Stored::New,
        (false, true) => Stored::Repeated,
        (false, false) => Stored::TooMany,
    })
}

/// A request that waits for its answer.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its row.
    pub id: i64,
    /// The service's row.
    pub service: i64,
    /// Its name of then.
    pub service_name: String,
    /// The capability, any text.
    pub capability: String,
    /// What was published.
    pub body: Option<String>,
    /// When EMQX received it, but never later than it was noted: clocks may differ.
    pub received_at: Timestamp,
    /// Whether the service may ask for commands of the capability.
    pub is_allowed: bool,
}

/// The next request of a service that waits for its answer, in the order in which EMQX received them, locked until the end of
/// the transaction.
///
/// # Errors
/// A database that is away.
pub async fn next(
    client: &impl GenericClient,
    service: &str,
) -> Result<Option<Request>, RegistryError> {
    let statement = "
        SELECT id, service_id, service_name, capability, body, least(received_at, noted_at) AS received_at,
               fleetgate_may_command(service_id, capability) AS is_allowed
        FROM command_requests
        WHERE service_id = $1::text::bigint AND done_at IS NULL AND answer IS NULL
        ORDER BY received_at, message_id LIMIT 1 FOR UPDATE";
    let row = client.query_opt(statement, &[&service]).await.map_err(on_requests())?;
    Ok(row.map(|row| Request {
        id: row.get("id"),
        service: row.get("service_id"),
        service_name: row.get("service_name"),
        capability: row.get("capability"),
        body: row.get("body"),
        received_at: row.get("received_at"),
        is_allowed: row.get("is_allowed"),
    }))
}

/// Notes what the service is told at first, and the command that came of the request. Its body is needed no more.
///
/// # Errors
/// A database that is away.
pub async fn answer(
    client: &impl GenericClient,
    request: i64,
    command: Option<&str>,
    answer: &Value,
) -> Result<(), RegistryError> {
    let statement = "UPDATE command_requests SET command_id = $2::text::uuid, answer = $3, body = NULL WHERE id = $1";
    let answered = client.execute(statement, &[&request, &command, answer]).await;
    answered.map(drop).map_err(on_requests())
}

/// A result that a service has not been told yet.
#[derive(Debug, Clone)]
pub struct PendingResult {
    /// The request's row.
    pub id: i64,
    /// The service's name; `None`: it is gone, and nobody is told.
    pub service_name: Option<String>,
    /// The request's own id, or that of the message.
    pub request: String,
    /// What it is told.
    pub result: Value,
    /// Whether that is all.
    pub is_last: bool,
}

/// Most devices that a result names.
const NAMED: i64 = 100;

/// Results of a service's requests that it has not been told yet, at most `limit`: first answers, and how commands ended.
///
/// # Errors
/// A database that is away.
pub async fn untold(
    client: &impl GenericClient,
    service: &str,
    limit: i64,
) -> Result<Vec<PendingResult>, RegistryError> {
    let rows = client.query(UNTOLD, &[&service, &limit, &NAMED]).await.map_err(on_requests())?;
    let untold = |row: &Row| PendingResult {
        id: row.get("id"),
        service_name: row.get("service_name"),
        request: row.get("request"),
        result: row.get("result"),
        is_last: row.get("is_last"),
    };
    Ok(rows.iter().map(untold).collect())
}

const UNTOLD: &str = "
    SELECT id, (SELECT name FROM devices WHERE devices.id = service_id) AS service_name, request, is_last,
           CASE WHEN told_at IS NULL THEN answer ELSE (
               SELECT jsonb_build_object('state', 'ended', 'command', command_id, 'devices', count(*),
                   'succeeded', count(*) FILTER (WHERE is_success),
                   'failed', coalesce(jsonb_object_agg(device_name, ended_as) FILTER (WHERE NOT is_success AND place <= $3), '{}'))
               FROM (SELECT device_name, ended_as, is_success,
                            row_number() OVER (PARTITION BY is_success ORDER BY position) AS place
                     FROM (SELECT *, ended_as IN ('delivered', 'sent', 'succeeded') AS is_success FROM command_deliveries
                           WHERE command_id = untold.command_id) AS delivery) AS delivery)
           END || jsonb_build_object('id', request) AS result
    FROM (
        SELECT *, command_id IS NULL OR told_at IS NOT NULL AS is_last FROM command_requests
        WHERE service_id = $1::text::bigint AND done_at IS NULL AND answer IS NOT NULL
          AND (told_at IS NULL OR NOT EXISTS (
              SELECT FROM command_deliveries WHERE command_id = command_requests.command_id AND ended_at IS NULL))
        ORDER BY received_at, message_id LIMIT $2) AS untold";

/// Notes that a service was told these.
///
/// # Errors
/// A database that is away.
pub async fn told(
    client: &impl GenericClient,
    told: &[&PendingResult],
) -> Result<(), RegistryError> {
    let ids: Vec<i64> = told.iter().map(|one| one.id).collect();
    let last: Vec<bool> = told.iter().map(|one| one.is_last).collect();
    let statement = "UPDATE command_requests AS request
         SET told_at = coalesce(told_at, clock_timestamp()), done_at = CASE WHEN is_last THEN clock_timestamp() END
         FROM unnest($1::bigint[], $2::boolean[]) AS told (id, is_last) WHERE request.id = told.id";
    client.execute(statement, &[&ids, &last]).await.map(drop).map_err(on_requests())
}

/// Deletes at most `most` requests that were done longer than `keep` ago; returns how many. One that comes again after
/// that is a new one, and expired.
///
/// # Errors
/// A database that is away.
pub async fn prune(
    client: &impl GenericClient,
    keep: std::time::Duration,
    most: i64,
) -> Result<u64, RegistryError> {
    let statement = "DELETE FROM command_requests WHERE id IN (
             SELECT id FROM command_requests WHERE done_at < now() - $1 * interval '1 second' ORDER BY done_at LIMIT $2)";
    client.execute(statement, &[&keep.as_secs_f64(), &most]).await.map_err(on_requests())
}
