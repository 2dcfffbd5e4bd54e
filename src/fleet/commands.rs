//! Commands: what devices are asked to do, and what became of it (`commands`, `command_deliveries`).
//!
//! Asking commits a row a device; [`crate::commands`] sends it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::domain::api_token::digest;
use crate::domain::command::CommandPayload;
use crate::domain::delivery::{Confirmation, End, is_id};
use crate::domain::name::{CapabilityName, DeviceName};
use crate::domain::schema::StateSchema;
use crate::fleet::Part;
use crate::fleet::capabilities::{self, Capability};
use crate::fleet::error::{FleetError, Outside, Rule, Thing};
use crate::fleet::routing::{self, Among, Bounds, Choice, Chosen, Needs, Route, To};
use crate::registry::error::RegistryError;
use crate::registry::selector::values;

mod pauses;
mod shown;

pub use pauses::{Pause, Resumed, pause, pauses, resume};
pub use shown::{CommandDetails, CommandRow, DeliveryRow, ListPlace, MAX_PAGE, list, place, show};

/// Shortest and longest time until a command expires.
pub const EXPIRY: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(30 * 24 * 60 * 60));
/// How often it is tried to store or cancel a command where another change gets in the way.
const MOST_TRIES: u32 = 3;
/// Most commands of one device and capability that have not ended.
pub const MOST_OPEN: i64 = 1000;

/// A command to be sent.
pub struct NewCommand {
    /// What to do.
    pub capability: CapabilityName,
    /// How.
    pub payload: CommandPayload,
    /// Whom it is for.
    pub to: To,
    /// How long it may take; `None`: as the capability says.
    pub expires_in: Option<Duration>,
    /// What makes it succeed; `None`: as the capability says.
    pub confirm: Option<Confirmation>,
    /// Who asks.
    pub asked_by: Asker,
    /// A service's request, which may have been made earlier.
    pub requested: Option<Requested>,
    /// What bounds it.
    pub bounds: Bounds,
    /// The part of the fleet that it may reach.
    pub part: Part,
}

/// Who asks for a command.
#[derive(Debug, Clone)]
pub struct Asker {
    /// As commands note it, for people.
    pub name: String,
    /// The API token's row, where it is one: once it is revoked, nothing is sent any more.
    pub token: Option<i64>,
}

impl From<&str> for Asker {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), token: None }
    }
}

/// A service's request.
#[derive(Debug, Clone, Copy)]
pub struct Requested {
    /// The service's row.
    pub service: i64,
    /// When EMQX received it: its time to expire counts from then, and its order is by it.
    pub at: Timestamp,
}

fn about(capability: &CapabilityName) -> Thing {
    Thing::Capability(capability.clone())
}

/// Asks for a command: when this returns, it is committed, and ends one way or the other.
///
/// # Errors
/// There is no such capability or device; the payload breaks the command schema; a device is disabled or has
/// no command topic for the capability; too many devices, or none; an expiry out of [`EXPIRY`]. Nothing is stored then.
pub async fn send(
    client: &mut impl GenericClient,
    new: &NewCommand,
) -> Result<CommandDetails, FleetError> {
    new.bounds.require_broker(&about(&new.capability))?;
    let mut tries = 1;
    loop {
        let outcome = send_once(client, new).await;
        if !may_be_tried_again(&outcome, &mut tries) {
            return outcome;
        }
    }
}

/// Whether PostgreSQL ended it because it and another transaction waited for each other, as whoever changes many lines may.
fn may_be_tried_again<T>(outcome: &Result<T, FleetError>, tries: &mut u32) -> bool {
    let interrupted = matches!(outcome, Err(FleetError::Registry(RegistryError::Interrupted(_))));
    *tries += 1;
    interrupted && *tries <= MOST_TRIES
}

async fn send_once(
    client: &mut impl GenericClient,
    new: &NewCommand,
) -> Result<CommandDetails, FleetError> {
    let thing = about(&new.capability);
    let transaction = client.transaction().await.map_err(FleetError::on(&thing))?;
    let capability = check(&transaction, new).await?;
    let choice = choose(&transaction, new, &capability).await?;
    let id = insert(&transaction, new, &capability, &choice).await?;
    let details = show(&transaction, &new.part, &id).await?;
    transaction.commit().await.map_err(FleetError::on(&thing))?;
    Ok(details)
}

/// Stores a command and its deliveries, which wakes whoever sends them; returns its id. The caller has a transaction open.
async fn insert(
    client: &impl GenericClient,
    new: &NewCommand,
    capability: &Capability,
    choice: &Choice,
) -> Result<String, FleetError> {
    let thing = about(&new.capability);
    let ids: Vec<i64> = choice.devices.iter().map(|device| device.id).collect();
    let names: Vec<&str> = choice.devices.iter().map(|device| device.name.as_str()).collect();
    let selector = choice.selector.as_ref().map(|selector| selector.to_json().to_string());
    let expires_in = expires_in(new, capability);
    let (service, at) = new.requested.map(|requested| (requested.service, requested.at)).unzip();
    let statement = "INSERT INTO commands (id, capability, payload, asked_by, asked_at, expires_at, confirm, ack_timeout, answer_in, envelope, rule, selector, service_id, token_id)
         SELECT gen_random_uuid(), $1, $2, $3, at, at + $4 * interval '1 second', $5, $6, $7, $8, $9, $10::text::jsonb, $11, $13
         FROM (SELECT coalesce($12, clock_timestamp()) AS at) AS asked
         WHERE at + $4 * interval '1 second' > clock_timestamp()
         RETURNING id::text";
    let confirm = confirm(new, capability);
    let (name, payload) = (new.capability.as_str(), new.payload.as_str());
    let row = client
        .query_opt(
            statement,
            &[
                &name,
                &payload,
                &new.asked_by.name,
                &expires_in.as_secs_f64(),
                &confirm,
                &capability.ack_timeout,
                &capability.answer_in,
                &capability.envelope,
                &choice.rule,
                &selector,
                &service,
                &at,
                &new.asked_by.token,
            ],
        )
        .await
        .map_err(FleetError::on(&thing))?;
    let row = row.ok_or_else(|| FleetError::rule(&thing, Rule::AlreadyExpired))?;
    let id: String = row.get(0);
    // Those on one topic get one message: that of the first.
    let statement = "WITH it AS MATERIALIZED (
             SELECT gen_random_uuid() AS id, it.device, it.name, place, command_topic AS topic
             FROM unnest($3::bigint[], $4::text[]) WITH ORDINALITY AS it (device, name, place)
             LEFT JOIN topic_bindings AS binding ON binding.device_id = it.device AND binding.name = $2)
         INSERT INTO command_deliveries (id, message, command_id, device_id, device_name, binding, awaits_report, asked_at, command_expires_at)
         SELECT it.id, CASE WHEN topic IS NOT NULL AND count(*) OVER on_topic > 1
                    THEN first_value(it.id) OVER (on_topic ORDER BY place) END,
                command.id, device, name, $2, $5, command.asked_at, command.expires_at
         FROM it JOIN commands AS command ON command.id = $1::text::uuid
         WINDOW on_topic AS (PARTITION BY topic) ORDER BY place";
    let awaits_report = confirm == Confirmation::State.word();
    client
        .execute(statement, &[&id, &name, &ids, &names, &awaits_report])
        .await
        .map_err(FleetError::on(&thing))?;
    if capability.only_latest {
        supersede(client, &thing, &id).await?;
    }
    let full = "SELECT device.name FROM command_deliveries AS own
         JOIN command_deliveries AS open ON open.device_id = own.device_id AND open.binding = own.binding
             AND open.ended_at IS NULL AND open.cancelled_at IS NULL AND open.superseded_at IS NULL
         JOIN devices AS device ON device.id = own.device_id
         WHERE own.command_id = $1::text::uuid
         GROUP BY device.name HAVING count(*) > $2 ORDER BY device.name LIMIT 1";
    let full = client.query_opt(full, &[&id, &MOST_OPEN]).await.map_err(FleetError::on(&thing))?;
    let Some(row) = full else { return Ok(id) };
    // A name that somebody in `psql` has written may be none.
    let device = row.get::<_, &str>(0).parse().map_or(thing, Thing::Device);
    Err(FleetError::rule(&device, Rule::TooManyOpen(MOST_OPEN)))
}

fn expires_in(new: &NewCommand, capability: &Capability) -> Duration {
    let usual = Duration::from_secs(u64::from(capability.command_expiry.unsigned_abs()));
    new.expires_in.unwrap_or(usual)
}

/// What makes the command succeed, in its word.
fn confirm<'a>(new: &NewCommand, capability: &'a Capability) -> &'a str {
    match new.confirm {
        Some(confirm) => confirm.word(),
        None => &capability.confirm,
    }
}

/// What somebody calls a request, so that it can be asked again without a second command.
pub struct IdempotencyKey {
    token: i64,
    key: String,
    digest: [u8; 32],
}

impl IdempotencyKey {
    /// The key of an API token for a request that says this; `None`: it is no text of 1 to 255 bytes of printable ASCII.
    #[must_use]
    pub fn new(token: i64, key: &str, request: &str) -> Option<Self> {
        let fits =
            (1..=255).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        fits.then(|| Self { token, key: key.to_owned(), digest: digest(request) })
    }
}

/// What came of a request with a key.
pub enum KeyUse<T> {
    /// It was done just now.
    New(T),
    /// It was done before, and this is the command that it made.
    Same(Box<CommandDetails>),
    /// The key stands for another request.
    Other,
}

/// Has something ask for a command, unless the key stands for one already. Whoever uses the same key at the same time waits
/// until the caller's transaction ends. `command` tells which one was made.
///
/// # Errors
/// Those of `ask`; the key stands for nothing then.
pub async fn once<C: GenericClient, T>(
    client: &mut C,
    part: &Part,
    key: Option<&IdempotencyKey>,
    ask: impl AsyncFnOnce(&mut C) -> Result<T, FleetError>,
    command: impl FnOnce(&T) -> &CommandDetails,
) -> Result<KeyUse<T>, FleetError> {
    let Some(IdempotencyKey { token, key, digest }) = key else {
        return ask(client).await.map(KeyUse::New);
    };
    let on_key = || RegistryError::on("an idempotency key");
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('fleetgate key ' || $1::bigint || ' ' || $2, 0))";
    client.execute(lock, &[token, key]).await.map_err(on_key())?;
    let known =
        "SELECT digest, command_id::text FROM api_requests WHERE token_id = $1 AND key = $2";
    if let Some(row) = client.query_opt(known, &[token, key]).await.map_err(on_key())? {
        if row.get::<_, &[u8]>(0) != digest {
            return Ok(KeyUse::Other);
        }
        return Ok(KeyUse::Same(Box::new(show(client, part, row.get(1)).await?)));
    }
    let asked = ask(client).await?;
    let id = &command(&asked).command.id;
    let note = "INSERT INTO api_requests (token_id, key, digest, command_id) VALUES ($1, $2, $3, $4::text::uuid)";
    let values: [&(dyn ToSql + Sync); 4] = [token, key, &digest.as_slice(), id];
    client.execute(note, &values).await.map_err(on_key())?;
    Ok(KeyUse::New(asked))
}

/// A command that was asked for again.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Retried {
    /// The new command.
    #[serde(flatten)]
    pub details: CommandDetails,
    /// Devices where the old one failed that can be sent nothing now: gone, disabled, or without the topics for it.
    pub passed_over: Vec<String>,
}

/// Asks for a command again, with the same payload and the same time to expire, at the devices of a part of the fleet where it expired, was
/// not deliverable, failed or was not answered; not where somebody cancelled it, or a newer one took its place.
///
/// # Errors
/// There is no such command; there is no device where it may be sent again; as [`send`].
pub async fn retry(
    client: &mut impl GenericClient,
    part: &Part,
    id: &str,
    asked_by: Asker,
    bounds: Bounds,
) -> Result<Retried, FleetError> {
    let thing = Thing::Command(id.to_owned());
    bounds.require_broker(&thing)?;
    let transaction = client.transaction().await.map_err(FleetError::on(&thing))?;
    let CommandDetails { command, deliveries } = show(&transaction, part, id).await?;
    let failed = deliveries.iter().filter(|delivery| delivery.end.is_some_and(End::may_be_retried));
    let failed: Vec<_> = failed.collect();
    let ids: Vec<i64> = failed.iter().map(|delivery| delivery.device_id).collect();
    let named = "SELECT id, name FROM devices WHERE id = ANY ($1)";
    let named = transaction.query(named, &[&ids]).await.map_err(FleetError::on(&thing))?;
    let named: BTreeMap<i64, String> = named.iter().map(|row| (row.get(0), row.get(1))).collect();
    // By the name of today. Where the device is gone, whatever has its name has taken its place.
    let name = |delivery: &&DeliveryRow| {
        named.get(&delivery.device_id).unwrap_or(&delivery.device).parse()
    };
    let devices: Result<Vec<DeviceName>, _> = failed.iter().map(name).collect();
    // One that was renamed may have the name of another one that is gone.
    let mut seen = BTreeSet::new();
    let each_once = |devices: Vec<DeviceName>| {
        devices.into_iter().filter(|name| seen.insert(name.clone())).collect::<Vec<_>>()
    };
    let devices = devices.map(each_once);
    let parsed = (command.capability.parse(), command.payload.parse(), devices);
    let (Ok(capability), Ok(payload), Ok(devices)) = parsed else {
        // Somebody in `psql` has written it.
        return Err(FleetError::rule(&thing, Rule::Other("it cannot be sent as it is".to_owned())));
    };
    if devices.is_empty() {
        return Err(FleetError::rule(&thing, Rule::NothingToRetry));
    }
    let expires_in = Duration::try_from(command.expires_at.duration_since(command.asked_at)).ok();
    let confirm = Confirmation::of_word(&command.confirm);
    let to = To::Devices(devices.clone());
    let requested = None;
    let part = part.clone();
    let new = NewCommand {
        capability,
        payload,
        to,
        expires_in,
        confirm,
        asked_by,
        requested,
        bounds,
        part,
    };
    let capability = check(&transaction, &new).await?;
    let (mut choice, mut passed_over) = (Choice::default(), Vec::new());
    let found = recipients(&transaction, &new, &devices, &capability).await?;
    for (name, device) in devices.iter().zip(found) {
        match device {
            Ok(device) => choice.devices.push(device),
            Err(_) => passed_over.push(name.to_string()),
        }
    }
    if choice.devices.is_empty() {
        return Err(FleetError::rule(&thing, Rule::NoDeviceToRetry(passed_over)));
    }
    let id = insert(&transaction, &new, &capability, &choice).await?;
    let details = show(&transaction, &new.part, &id).await?;
    transaction.commit().await.map_err(FleetError::on(&thing))?;
    Ok(Retried { details, passed_over })
}

/// Checks a command without sending it, and tells who would get it.
///
/// # Errors
/// As [`send`].
pub async fn check_only(
    client: &impl GenericClient,
    new: &NewCommand,
) -> Result<Choice, FleetError> {
    let capability = check(client, new).await?;
    let choice = choose(client, new, &capability).await?;
    let shared_topics = routing::shared_topics(client, &new.part, &new.capability, &choice).await?;
    Ok(Choice { shared_topics, ..choice })
}

/// The capability, if the command may be asked for.
async fn check(client: &impl GenericClient, new: &NewCommand) -> Result<Capability, FleetError> {
    let thing = about(&new.capability);
    if let To::Devices(devices) = &new.to {
        if devices.is_empty() {
            return Err(FleetError::rule(&thing, Rule::NoDevices));
        }
        if devices.len() > new.bounds.max_devices {
            return Err(FleetError::rule(&thing, Rule::TooManyDevices(new.bounds.max_devices)));
        }
    }
    if new.payload.as_str().len() > new.bounds.max_payload {
        return Err(FleetError::rule(&thing, Rule::PayloadTooLarge(new.bounds.max_payload)));
    }
    if new.expires_in.is_some_and(|expiry| expiry < EXPIRY.0 || expiry > EXPIRY.1) {
        return Err(FleetError::rule(&thing, Rule::ExpiryOutOfRange));
    }
    let capability = capabilities::find(client, &new.capability).await?;
    if let Some(Requested { at, .. }) = new.requested {
        // Before anything that may take its time.
        let over = "SELECT $1::timestamptz + $2 * interval '1 second' <= clock_timestamp()";
        let expires_in = expires_in(new, &capability).as_secs_f64();
        let over = client.query_one(over, &[&at, &expires_in]).await;
        if over.map_err(FleetError::on(&thing))?.get(0) {
            return Err(FleetError::rule(&thing, Rule::AlreadyExpired));
        }
    }
    if let Some(schema) = &capability.command_schema {
        let unusable = |why: String| FleetError::rule(&thing, Rule::UnusableSchema(why));
        let schema = StateSchema::compile(schema).map_err(|error| unusable(error.to_string()))?;
        let violation = Arc::new(schema).find_violation(new.payload.schema_input()).await;
        if let Some(violation) = violation.map_err(|error| unusable(error.to_string()))? {
            return Err(FleetError::rule(&thing, Rule::Payload(violation)));
        }
    }
    Ok(capability)
}

/// The devices, in their order; of each that cannot get the command the reason.
async fn recipients(
    client: &impl GenericClient,
    new: &NewCommand,
    devices: &[DeviceName],
    capability: &Capability,
) -> Result<Vec<Result<Chosen, FleetError>>, FleetError> {
    let thing = about(&new.capability);
    let names: Vec<&str> = devices.iter().map(DeviceName::as_str).collect();
    let inside = new.part.condition(2);
    let shares_topic = new.part.shares_topic(inside.end());
    let statement = format!(
        "SELECT device.id, device.enabled, binding.command_topic IS NOT NULL,
             binding.state_topic IS NOT NULL, binding.reply_topic IS NOT NULL, presence.online,
             coalesce(gateway.enabled, true), {}
         FROM unnest($1::text[]) WITH ORDINALITY AS it (name, place)
         LEFT JOIN devices AS device ON device.name = it.name AND {}
         LEFT JOIN devices AS gateway ON gateway.id = device.gateway
         LEFT JOIN device_presence AS presence ON presence.device_id = device.id
         LEFT JOIN topic_bindings AS binding ON binding.device_id = device.id AND binding.capability = $2
         ORDER BY place",
        shares_topic.sql(),
        inside.sql()
    );
    let capability_name = new.capability.as_str();
    let values = values(&[&names, &capability_name], [&inside, &shares_topic]);
    let rows = client.query(&statement, &values).await;
    let rows = rows.map_err(FleetError::on(&thing))?;
    let needs = needs(new, capability);
    let to = |name: &DeviceName, row: &Row| {
        let device = Thing::Device(name.clone());
        let Some(id) = row.get(0) else { return Err(FleetError::NotFound(device)) };
        let is = |column: usize| row.get::<_, Option<bool>>(column) == Some(true);
        let rule = match () {
            () if !is(1) => Rule::DeviceDisabled,
            () if !is(6) => Rule::GatewayDisabled,
            () if !is(2) => Rule::NoCommandTopic(new.capability.clone()),
            () if needs.state_topic && !is(3) => Rule::NoStateTopic(new.capability.clone()),
            () if needs.reply_topic && !is(4) => Rule::NoReplyTopic(new.capability.clone()),
            () if is(7) => Rule::Outside(Outside::SharedTopic),
            () => return Ok(Chosen { id, name: name.to_string(), online: is(5) }),
        };
        Err(FleetError::rule(&device, rule))
    };
    Ok(devices.iter().zip(&rows).map(|(name, row)| to(name, row)).collect())
}

fn needs(new: &NewCommand, capability: &Capability) -> Needs {
    Needs::for_confirmation(Confirmation::of_word(confirm(new, capability)))
}

/// Who gets a command.
async fn choose(
    client: &impl GenericClient,
    new: &NewCommand,
    capability: &Capability,
) -> Result<Choice, FleetError> {
    let route = match &new.to {
        To::Devices(devices) => {
            // One that is named twice gets it once.
            let mut named = BTreeSet::new();
            let mut devices = devices.clone();
            devices.retain(|device| named.insert(device.clone()));
            let found = recipients(client, new, &devices, capability).await?;
            let devices = found.into_iter().collect::<Result<_, _>>()?;
            return Ok(Choice { devices, ..Choice::default() });
        }
        To::Selector(selector) => Route::Selector(selector),
        To::Rule(rule) => Route::Rule(rule),
        To::Rules => Route::Rules,
    };
    let among = Among {
        capability: &new.capability,
        needs: needs(new, capability),
        most: new.bounds.max_devices,
        part: &new.part,
    };
    routing::route(client, among, route).await
}

/// Lets a command take the place of those in its lines that were asked for earlier and that nobody has tried to send yet;
/// and gives it up where one that was asked for later is there already.
async fn supersede(client: &impl GenericClient, thing: &Thing, id: &str) -> Result<(), FleetError> {
    let statement = "WITH it AS (
             SELECT id FROM command_deliveries AS older
             WHERE (device_id, binding) IN (SELECT device_id, binding FROM command_deliveries WHERE command_id = $1::text::uuid)
               AND ended_at IS NULL AND attempts = 0 AND superseded_at IS NULL AND cancelled_at IS NULL
               AND EXISTS (SELECT FROM command_deliveries AS newer
                   WHERE newer.device_id = older.device_id AND newer.binding = older.binding AND newer.cancelled_at IS NULL
                     AND (newer.asked_at, newer.position) > (older.asked_at, older.position))
             ORDER BY id FOR UPDATE)
         UPDATE command_deliveries AS older SET superseded_at = clock_timestamp()
         FROM it WHERE older.id = it.id AND attempts = 0 AND ended_at IS NULL AND cancelled_at IS NULL";
    let superseded = client.execute(statement, &[&id]).await;
    superseded.map(drop).map_err(FleetError::on(thing))
}

/// Cancels what of a command has not ended at the devices of a part of the fleet; tells of how many. What is on its way may still arrive.
///
/// # Errors
/// There is no such command, or it goes to none of these.
pub async fn cancel(
    client: &mut impl GenericClient,
    part: &Part,
    id: &str,
    by: &str,
) -> Result<u64, FleetError> {
    if !is_id(id) {
        return Err(FleetError::NotFound(Thing::Command(id.to_owned())));
    }
    let mut tries = 1;
    loop {
        let outcome = cancel_once(client, part, id, by).await;
        if !may_be_tried_again(&outcome, &mut tries) {
            return outcome;
        }
    }
}

async fn cancel_once(
    client: &mut impl GenericClient,
    part: &Part,
    id: &str,
    by: &str,
) -> Result<u64, FleetError> {
    let thing = Thing::Command(id.to_owned());
    let transaction = client.transaction().await.map_err(FleetError::on(&thing))?;
    // Lines first, and deliveries then, as whoever sends a command locks them. Receipts lock them the other way round.
    let inside = part.condition_on("device_id", 2);
    let statement = format!(
        "WITH its AS MATERIALIZED (
             SELECT * FROM command_deliveries WHERE command_id = $1::text::uuid AND {}),
         woken AS MATERIALIZED (
             SELECT fleetgate_queue_work('command',
                 array_agg(DISTINCT fleetgate_command_line(device_id, binding)),
                 array_fill('{{}}'::jsonb, ARRAY[count(DISTINCT (device_id, binding))::integer]))
             FROM its WHERE ended_at IS NULL AND cancelled_at IS NULL
             HAVING count(*) > 0),
         it AS (
             SELECT id FROM command_deliveries WHERE id IN (SELECT id FROM its) AND ended_at IS NULL
               AND (SELECT count(*) FROM woken) >= 0
             ORDER BY id FOR UPDATE),
         cancelled AS (
             UPDATE command_deliveries AS delivery SET cancelled_at = clock_timestamp(), cancelled_why = 'by ' || $2
             FROM it WHERE delivery.id = it.id AND ended_at IS NULL AND cancelled_at IS NULL
             RETURNING 1)
         SELECT (SELECT count(*) FROM cancelled), EXISTS (SELECT FROM its)",
        inside.sql()
    );
    let values = values(&[&id, &by], [&inside]);
    let row = transaction.query_one(&statement, &values).await.map_err(FleetError::on(&thing))?;
    transaction.commit().await.map_err(FleetError::on(&thing))?;
    match row.get(1) {
        true => Ok(row.get::<_, i64>(0).unsigned_abs()),
        false => Err(FleetError::NotFound(thing)),
    }
}
