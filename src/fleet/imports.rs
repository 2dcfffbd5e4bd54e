//! Lines of JSON into the registry: capabilities, devices with what belongs to them, routing rules (`imports/line.rs` has
//! their form). What [`crate::fleet::exports`] writes is taken back to the same rows, but for ids and timestamps of the
//! database.
//!
//! A chunk of lines is written by a few statements for all of them. Where PostgreSQL refuses one, the lines are tried one
//! by one to find which are wrong, and nothing of the chunk stays. Where none is wrong alone (two are about the same thing),
//! all stay. Within a chunk capabilities come first, then devices without a gateway, then those behind one, then rules; what a
//! line names has to be there by then.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use crate::domain::name::{ClientId, DeviceName, PlaceName};
use crate::domain::topic::TopicName;
use crate::fleet::error::{ErrorKind, FleetError, Rule, Thing};
use crate::registry::error::RegistryError;

mod line;

use line::{Binding, Capability, Credential, Device, Grant};
pub use line::{Item, LineError, Parsed};

/// Longest line in bytes.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Most lines of a chunk.
pub const CHUNK_LINES: usize = 500;
/// Most bytes of a chunk's lines, after which it has no more.
pub const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// What to do where a name is taken already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// It is an error.
    Fail,
    /// What is there stays.
    Skip,
    /// What is there becomes what the line says. Credentials that the line does not have stay.
    Update,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// What was not there.
    pub added: usize,
    /// What was there, and is as the line says now.
    pub updated: usize,
    /// What was there, and stays.
    pub skipped: usize,
}

impl Counts {
    /// Adds those of another chunk.
    pub fn add(&mut self, other: Self) {
        self.added += other.added;
        self.updated += other.updated;
        self.skipped += other.skipped;
    }
}

/// What became of a chunk.
pub enum Chunk {
    /// All of it is done.
    Done(Counts),
    /// Nothing is: which of the items are wrong, by their position, and why.
    Refused(Vec<(usize, FleetError)>),
}

/// Writes a chunk, all or nothing. The caller has a transaction open.
///
/// # Errors
/// A database that is away, or that failed on what is no fault of a line.
pub async fn import(
    client: &mut impl GenericClient,
    items: &[&Item],
    on_conflict: OnConflict,
) -> Result<Chunk, FleetError> {
    if !has_repeats(items) {
        let begun = client.transaction().await.map_err(on_import())?;
        match write(&begun, items, on_conflict).await {
            Ok(counts) => {
                begun.commit().await.map_err(on_import())?;
                return Ok(Chunk::Done(counts));
            }
            Err(error) if is_about_a_line(&error) => drop(begun),
            Err(error) => return Err(error),
        }
    }
    let mut counts = Counts::default();
    let mut trial = client.transaction().await.map_err(on_import())?;
    let mut wrong = Vec::new();
    for stage in 0..STAGES {
        for (position, item) in items.iter().enumerate().filter(|(_, item)| stage_of(item) == stage)
        {
            let alone = trial.transaction().await.map_err(on_import())?;
            match write(&alone, &[item], on_conflict).await {
                Ok(more) => {
                    alone.commit().await.map_err(on_import())?;
                    counts.add(more);
                }
                Err(error) if is_about_a_line(&error) => wrong.push((position, error)),
                Err(error) => return Err(error),
            }
        }
    }
    if wrong.is_empty() {
        trial.commit().await.map_err(on_import())?;
        return Ok(Chunk::Done(counts));
    }
    drop(trial);
    wrong.sort_by_key(|(position, _)| *position);
    Ok(Chunk::Refused(wrong))
}

/// Whether lines are about the same thing. One statement for all would not do one after the other.
fn has_repeats(items: &[&Item]) -> bool {
    let mut names = BTreeSet::new();
    !items.iter().all(|item| {
        names.insert(match item {
            Item::Capability(capability) => ("capability", capability.name.0.as_str()),
            Item::Device(device) => ("device", device.name.0.as_str()),
            Item::Rule(rule) => ("rule", rule.name.0.as_str()),
        })
    })
}

fn on_import() -> impl FnOnce(tokio_postgres::Error) -> FleetError {
    |error| FleetError::Registry(RegistryError::on("the import")(error))
}

fn is_about_a_line(error: &FleetError) -> bool {
    !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Failed)
}

const STAGES: usize = 4;

fn stage_of(item: &Item) -> usize {
    match item {
        Item::Capability(_) => 0,
        Item::Device(device) if device.gateway.is_none() => 1,
        Item::Device(_) => 2,
        Item::Rule(_) => 3,
    }
}

async fn write(
    client: &impl GenericClient,
    items: &[&Item],
    on_conflict: OnConflict,
) -> Result<Counts, FleetError> {
    let mut counts = Counts::default();
    let (mut capabilities, mut devices, mut children, mut rules) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Capability(capability) => capabilities.push(capability),
            Item::Device(device) if device.gateway.is_none() => devices.push(&**device),
            Item::Device(device) => children.push(&**device),
            Item::Rule(rule) => rules.push(rule),
        }
    }
    counts.add(write_capabilities(client, capabilities, on_conflict).await?);
    counts.add(write_devices(client, devices, on_conflict).await?);
    counts.add(write_devices(client, children, on_conflict).await?);
    counts.add(write_rules(client, rules, on_conflict).await?);
    Ok(counts)
}

/// Sorts what is new from what is to be updated; what stays is in neither.
fn sorted<'a, T>(
    all: Vec<&'a T>,
    known: &BTreeSet<String>,
    on_conflict: OnConflict,
    name: impl Fn(&T) -> &str,
    taken: impl FnOnce(&T) -> FleetError,
) -> Result<(Vec<&'a T>, Vec<&'a T>, Counts), FleetError> {
    let (present, new): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|one| known.contains(name(one)));
    let mut counts = Counts { added: new.len(), ..Counts::default() };
    match (on_conflict, present.first()) {
        (OnConflict::Fail, Some(first)) => Err(taken(first)),
        (OnConflict::Skip, _) => {
            counts.skipped = present.len();
            Ok((new, Vec::new(), counts))
        }
        _ => {
            counts.updated = present.len();
            Ok((new, present, counts))
        }
    }
}

/// Which of these names the table has.
async fn known(
    client: &impl GenericClient,
    table: &str,
    names: &[&str],
) -> Result<BTreeSet<String>, FleetError> {
    let statement = format!("SELECT name FROM {table} WHERE name = ANY ($1)");
    let rows = client.query(&statement, &[&names]).await.map_err(on_import())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Runs a statement. Where it is refused, that is about the only thing of a chunk, or about one that is found by trying all.
async fn run(
    client: &impl GenericClient,
    thing: &Thing,
    statement: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<(), FleetError> {
    client.execute(statement, values).await.map(drop).map_err(FleetError::on(thing))
}

async fn write_capabilities(
    client: &impl GenericClient,
    all: Vec<&Capability>,
    on_conflict: OnConflict,
) -> Result<Counts, FleetError> {
    let Some(thing) = all.first().map(|first| Thing::Capability(first.name.0.clone())) else {
        return Ok(Counts::default());
    };
    let names: Vec<&str> = all.iter().map(|one| one.name.0.as_str()).collect();
    let known = known(client, "capabilities", &names).await?;
    let taken = |one: &Capability| {
        FleetError::rule(&Thing::Capability(one.name.0.clone()), Rule::CapabilityExists)
    };
    let (new, present, counts) =
        sorted(all, &known, on_conflict, |one| one.name.0.as_str(), taken)?;
    let insert = "INSERT INTO capabilities (name, description, state_schema, command_schema, confirm,
            command_expiry, ack_timeout, answer_in, envelope, only_latest)
        SELECT * FROM unnest($1::text[], $2::text[], $3::jsonb[], $4::jsonb[], $5::text[], $6::integer[], $7::integer[],
            $8::integer[], $9::boolean[], $10::boolean[])";
    let update = "UPDATE capabilities AS present SET (description, state_schema, command_schema, confirm, command_expiry,
            ack_timeout, answer_in, envelope, only_latest)
            = (it.description, it.state_schema, it.command_schema, it.confirm, it.command_expiry, it.ack_timeout,
               it.answer_in, it.envelope, it.only_latest)
        FROM unnest($1::text[], $2::text[], $3::jsonb[], $4::jsonb[], $5::text[], $6::integer[], $7::integer[],
            $8::integer[], $9::boolean[], $10::boolean[])
            AS it (name, description, state_schema, command_schema, confirm, command_expiry, ack_timeout, answer_in,
                   envelope, only_latest)
        WHERE present.name = it.name";
    for (statement, some) in [(insert, new), (update, present)] {
        if some.is_empty() {
            continue;
        }
        let texts =
            |get: fn(&Capability) -> &str| some.iter().map(|one| get(one)).collect::<Vec<_>>();
        let numbers =
            |get: fn(&Capability) -> i32| some.iter().map(|one| get(one)).collect::<Vec<_>>();
        let flags =
            |get: fn(&Capability) -> bool| some.iter().map(|one| get(one)).collect::<Vec<_>>();
        let state: Vec<Option<&Value>> = some.iter().map(|one| one.state_schema.as_ref()).collect();
        let command: Vec<Option<&Value>> =
            some.iter().map(|one| one.command_schema.as_ref()).collect();
        run(
            client,
            &thing,
            statement,
            &[
                &texts(|one| one.name.0.as_str()),
                &texts(|one| &one.description),
                &state,
                &command,
                &texts(|one| one.confirm.word()),
                &numbers(|one| one.command_expiry),
                &numbers(|one| one.ack_timeout),
                &numbers(|one| one.answer_in),
                &flags(|one| one.envelope),
                &flags(|one| one.only_latest),
            ],
        )
        .await?;
    }
    Ok(counts)
}

async fn write_rules(
    client: &impl GenericClient,
    all: Vec<&line::Rule>,
    on_conflict: OnConflict,
) -> Result<Counts, FleetError> {
    let Some(thing) = all.first().map(|first| Thing::Rule(first.name.0.to_string())) else {
        return Ok(Counts::default());
    };
    let capabilities: BTreeSet<_> = all.iter().map(|one| &one.capability.0).collect();
    for name in capabilities {
        require(client, "capabilities", name.as_str(), || Thing::Capability(name.clone())).await?;
    }
    let names: Vec<&str> = all.iter().map(|one| one.name.0.as_str()).collect();
    let known = known(client, "routing_rules", &names).await?;
    let taken =
        |one: &line::Rule| FleetError::rule(&Thing::Rule(one.name.0.to_string()), Rule::RuleExists);
    let (new, present, counts) =
        sorted(all, &known, on_conflict, |one| one.name.0.as_str(), taken)?;
    let insert = "INSERT INTO routing_rules (name, capability, selector, strategy, priority, enabled)
        SELECT * FROM unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::integer[], $6::boolean[])";
    let update =
        "UPDATE routing_rules AS present SET (capability, selector, strategy, priority, enabled)
            = (it.capability, it.selector, it.strategy, it.priority, it.enabled)
        FROM unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::integer[], $6::boolean[])
            AS it (name, capability, selector, strategy, priority, enabled)
        WHERE present.name = it.name";
    for (statement, some) in [(insert, new), (update, present)] {
        if some.is_empty() {
            continue;
        }
        let texts =
            |get: fn(&line::Rule) -> &str| some.iter().map(|one| get(one)).collect::<Vec<_>>();
        let selectors: Vec<&Value> = some.iter().map(|one| &one.selector).collect();
        let priorities: Vec<i32> = some.iter().map(|one| one.priority).collect();
        let enabled: Vec<bool> = some.iter().map(|one| one.enabled).collect();
        run(
            client,
            &thing,
            statement,
            &[
                &texts(|one| one.name.0.as_str()),
                &texts(|one| one.capability.0.as_str()),
                &selectors,
                &texts(|one| one.strategy.word()),
                &priorities,
                &enabled,
            ],
        )
        .await?;
    }
    Ok(counts)
}

/// What a line names must be there.
async fn require(
    client: &impl GenericClient,
    table: &str,
    name: &str,
    thing: impl FnOnce() -> Thing,
) -> Result<(), FleetError> {
    match known(client, table, &[name]).await?.is_empty() {
        true => Err(FleetError::NotFound(thing())),
        false => Ok(()),
    }
}

async fn write_devices(
    client: &impl GenericClient,
    all: Vec<&Device>,
    on_conflict: OnConflict,
) -> Result<Counts, FleetError> {
    let Some(thing) = all.first().map(|first| Thing::Device(first.name.0.clone())) else {
        return Ok(Counts::default());
    };
    let names: Vec<&str> = all.iter().map(|one| one.name.0.as_str()).collect();
    let known = known(client, "devices", &names).await?;
    let taken =
        |one: &Device| FleetError::rule(&Thing::Device(one.name.0.clone()), Rule::NameTaken);
    let (new, present, counts) =
        sorted(all, &known, on_conflict, |one| one.name.0.as_str(), taken)?;
    let gateways: BTreeSet<&DeviceName> =
        new.iter().chain(&present).filter_map(|one| Some(&one.gateway.as_ref()?.0)).collect();
    for name in gateways {
        require(client, "devices", name.as_str(), || Thing::Device(name.clone())).await?;
    }
    let insert = "INSERT INTO devices (name, client_id, area, floor, kind, gateway, availability_topic, enabled, meta)
        SELECT name, client_id, area, floor, kind, (SELECT id FROM devices AS found WHERE found.name = it.gateway),
               availability_topic, enabled, meta
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::jsonb[])
            AS it (name, client_id, area, floor, kind, gateway, availability_topic, enabled, meta)";
    let update = "UPDATE devices AS present SET (client_id, area, floor, kind, gateway, availability_topic, enabled, meta)
            = (it.client_id, it.area, it.floor, it.kind, (SELECT id FROM devices AS found WHERE found.name = it.gateway),
               it.availability_topic, it.enabled, it.meta)
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::jsonb[])
            AS it (name, client_id, area, floor, kind, gateway, availability_topic, enabled, meta)
        WHERE present.name = it.name";
    for (statement, some) in [(insert, &new), (update, &present)] {
        if some.is_empty() {
            continue;
        }
        let names: Vec<&str> = some.iter().map(|one| one.name.0.as_str()).collect();
        let client_ids: Vec<Option<&str>> = some
            .iter()
            .map(|one| one.client_id.as_ref().map(|id| ClientId::as_str(&id.0)))
            .collect();
        let place = |place: &Option<Parsed<PlaceName>>| place.as_ref().map(|it| it.0.to_string());
        let areas: Vec<Option<String>> = some.iter().map(|one| place(&one.area)).collect();
        let floors: Vec<Option<String>> = some.iter().map(|one| place(&one.floor)).collect();
        let kinds: Vec<&str> = some.iter().map(|one| one.kind.0.as_str()).collect();
        let gateways: Vec<Option<&str>> =
            some.iter().map(|one| one.gateway.as_ref().map(|it| it.0.as_str())).collect();
        let topics: Vec<Option<&str>> =
            some.iter().map(|one| topic(&one.availability_topic)).collect();
        let enabled: Vec<bool> = some.iter().map(|one| one.enabled).collect();
        let metas: Vec<&Value> = some.iter().map(|one| one.meta.as_value()).collect();
        run(
            client,
            &thing,
            statement,
            &[&names, &client_ids, &areas, &floors, &kinds, &gateways, &topics, &enabled, &metas],
        )
        .await?;
    }
    if !present.is_empty() {
        take_away(client, &thing, &present).await?;
    }
    let some: Vec<&Device> = new.into_iter().chain(present).collect();
    write_capabilities_of(client, &thing, &some).await?;
    write_bindings(client, &thing, &some).await?;
    write_grants(client, &thing, &some).await?;
    write_credentials(client, &thing, &some).await?;
    Ok(counts)
}

fn topic(topic: &Option<Parsed<TopicName>>) -> Option<&str> {
    topic.as_ref().map(|topic| topic.0.as_str())
}

/// Each part of devices with the name of its device.
fn parts<'a, T>(some: &[&'a Device], of: fn(&'a Device) -> &'a [T]) -> (Vec<&'a str>, Vec<&'a T>) {
    some.iter().flat_map(|one| of(one).iter().map(|part| (one.name.0.as_str(), part))).unzip()
}

/// What devices can do: what is listed, and what their bindings carry.
fn capabilities_of(device: &Device) -> BTreeSet<String> {
    let listed = device.capabilities.iter().map(|name| name.0.to_string());
    let bound = device.bindings.iter().filter_map(|binding| binding.name.0.capability());
    listed.chain(bound.map(|name| name.to_string())).collect()
}

/// Takes from devices that were there what their lines do not have, but for credentials.
async fn take_away(
    client: &impl GenericClient,
    thing: &Thing,
    present: &[&Device],
) -> Result<(), FleetError> {
    let names: Vec<&str> = present.iter().map(|one| one.name.0.as_str()).collect();
    let (owners, kept): (Vec<&str>, Vec<String>) = present
        .iter()
        .flat_map(|one| capabilities_of(one).into_iter().map(|name| (one.name.0.as_str(), name)))
        .unzip();
    let statement = "DELETE FROM device_capabilities AS had USING devices AS device
        WHERE device.id = had.device_id AND device.name = ANY ($1)
          AND (device.name, had.capability) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))";
    run(client, thing, statement, &[&names, &owners, &kept]).await?;
    let (owners, bindings) = parts(present, |one| &one.bindings);
    let kept: Vec<&str> = bindings.iter().map(|binding| binding.name.0.as_str()).collect();
    let statement = "DELETE FROM topic_bindings AS had USING devices AS device
        WHERE device.id = had.device_id AND device.name = ANY ($1)
          AND (device.name, had.name) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))";
    run(client, thing, statement, &[&names, &owners, &kept]).await?;
    let (owners, grants) = parts(present, |one| &one.grants);
    let actions: Vec<&str> = grants.iter().map(|grant| grant.action.word()).collect();
    let filters: Vec<&str> = grants.iter().map(|grant| grant.topic_filter.0.as_str()).collect();
    let statement = "DELETE FROM topic_grants AS had USING devices AS device
        WHERE device.id = had.device_id AND device.name = ANY ($1)
          AND (device.name, had.action, had.topic_filter) NOT IN (SELECT * FROM unnest($2::text[], $3::text[], $4::text[]))";
    run(client, thing, statement, &[&names, &owners, &actions, &filters]).await
}

async fn write_capabilities_of(
    client: &impl GenericClient,
    thing: &Thing,
    some: &[&Device],
) -> Result<(), FleetError> {
    let (owners, capabilities): (Vec<&str>, Vec<String>) = some
        .iter()
        .flat_map(|one| capabilities_of(one).into_iter().map(|name| (one.name.0.as_str(), name)))
        .unzip();
    if owners.is_empty() {
        return Ok(());
    }
    let unknown = "SELECT name FROM unnest($1::text[]) AS it (name)
        WHERE NOT EXISTS (SELECT FROM capabilities WHERE capabilities.name = it.name) LIMIT 1";
    let unknown = client.query_opt(unknown, &[&capabilities]).await.map_err(on_import())?;
    if let Some(Ok(name)) = unknown.map(|row| row.get::<_, &str>(0).parse()) {
        return Err(FleetError::NotFound(Thing::Capability(name)));
    }
    let statement = "INSERT INTO device_capabilities (device_id, capability)
        SELECT device.id, it.capability FROM unnest($1::text[], $2::text[]) AS it (device, capability)
        JOIN devices AS device ON device.name = it.device
        ON CONFLICT DO NOTHING";
    run(client, thing, statement, &[&owners, &capabilities]).await
}

async fn write_bindings(
    client: &impl GenericClient,
    thing: &Thing,
    some: &[&Device],
) -> Result<(), FleetError> {
    let (owners, bindings): (_, Vec<&Binding>) = parts(some, |one| &one.bindings);
    if owners.is_empty() {
        return Ok(());
    }
    let topics = |get: fn(&Binding) -> &Option<Parsed<TopicName>>| {
        bindings.iter().map(|one| topic(get(one))).collect::<Vec<_>>()
    };
    let names: Vec<&str> = bindings.iter().map(|one| one.name.0.as_str()).collect();
    let merge: Vec<bool> = bindings.iter().map(|one| one.merge).collect();
    let statement = "INSERT INTO topic_bindings AS had (device_id, name, state_topic, command_topic, reply_topic, merge)
        SELECT device.id, it.name, it.state_topic, it.command_topic, it.reply_topic, it.merge
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[])
            AS it (device, name, state_topic, command_topic, reply_topic, merge)
        JOIN devices AS device ON device.name = it.device
        ON CONFLICT (device_id, name) DO UPDATE SET (state_topic, command_topic, reply_topic, merge)
            = (EXCLUDED.state_topic, EXCLUDED.command_topic, EXCLUDED.reply_topic, EXCLUDED.merge)";
    let (state, command, reply) = (
        topics(|one| &one.state_topic),
        topics(|one| &one.command_topic),
        topics(|one| &one.reply_topic),
    );
    run(client, thing, statement, &[&owners, &names, &state, &command, &reply, &merge]).await
}

async fn write_grants(
    client: &impl GenericClient,
    thing: &Thing,
    some: &[&Device],
) -> Result<(), FleetError> {
    let (owners, grants): (_, Vec<&Grant>) = parts(some, |one| &one.grants);
    if owners.is_empty() {
        return Ok(());
    }
    let actions: Vec<&str> = grants.iter().map(|one| one.action.word()).collect();
    let filters: Vec<&str> = grants.iter().map(|one| one.topic_filter.0.as_str()).collect();
    let statement = "INSERT INTO topic_grants (device_id, action, topic_filter)
        SELECT device.id, it.action, it.topic_filter
        FROM unnest($1::text[], $2::text[], $3::text[]) AS it (device, action, topic_filter)
        JOIN devices AS device ON device.name = it.device
        ON CONFLICT DO NOTHING";
    run(client, thing, statement, &[&owners, &actions, &filters]).await
}

/// Those that a device has already, the same in all, are not added a second time.
async fn write_credentials(
    client: &impl GenericClient,
    thing: &Thing,
    some: &[&Device],
) -> Result<(), FleetError> {
    let (owners, credentials): (_, Vec<&Credential>) = parts(some, |one| &one.credentials);
    if owners.is_empty() {
        return Ok(());
    }
    let texts = |get: fn(&Credential) -> &Option<String>| {
        credentials.iter().map(|one| get(one).as_deref()).collect::<Vec<_>>()
    };
    let times = |get: fn(&Credential) -> Option<Timestamp>| {
        credentials.iter().map(|one| get(one)).collect::<Vec<_>>()
    };
    let kinds: Vec<&str> = credentials.iter().map(|one| one.kind.as_str()).collect();
    let required: Vec<Option<bool>> =
        credentials.iter().map(|one| one.certificate_required).collect();
    let statement = "INSERT INTO device_credentials (device_id, kind, hash, common_name, certificate_required, label,
            not_before, expires_at, revoked_at)
        SELECT device.id, it.kind, it.hash, it.common_name, it.certificate_required, it.label, it.not_before, it.expires_at,
               it.revoked_at
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::timestamptz[],
                $8::timestamptz[], $9::timestamptz[]) WITH ORDINALITY
            AS it (device, kind, hash, common_name, certificate_required, label, not_before, expires_at, revoked_at, place)
        JOIN devices AS device ON device.name = it.device
        WHERE NOT EXISTS (
            SELECT FROM device_credentials AS had WHERE had.device_id = device.id
              AND (had.kind, had.hash, had.common_name, had.certificate_required, had.label, had.not_before, had.expires_at, had.revoked_at)
                  IS NOT DISTINCT FROM
                  (it.kind, it.hash, it.common_name, it.certificate_required, it.label, it.not_before, it.expires_at, it.revoked_at))
        ORDER BY place";
    run(
        client,
        thing,
        statement,
        &[
            &owners,
            &kinds,
            &texts(|one| &one.hash),
            &texts(|one| &one.common_name),
            &required,
            &texts(|one| &one.label),
            &times(|one| one.not_before),
            &times(|one| one.expires_at),
            &times(|one| one.revoked_at),
        ],
    )
    .await
}
