//! Devices with what belongs to them, for the lines of a chunk together.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio_postgres::GenericClient;

use super::line::Device;
use super::rows::{DEVICES, Named, Rows, known_and_new, names_of, run, write_rows};
use super::{Counts, OnConflict, require_capabilities};
use crate::fleet::error::{FleetError, Thing};

/// Locks the devices that are there, as presence does: by id, and all that the transaction will write.
pub(super) async fn lock<'a>(
    client: &impl GenericClient,
    devices: impl Iterator<Item = &'a Device>,
) -> Result<(), FleetError> {
    let names: Vec<&str> = devices.map(|device| device.name()).collect();
    names_of(client, DEVICES.name, "ORDER BY id FOR NO KEY UPDATE", &names).await.map(drop)
}

pub(super) async fn write_devices(
    client: &impl GenericClient,
    all: Vec<&Device>,
    on_conflict: OnConflict,
) -> Result<Counts, FleetError> {
    let lines = known_and_new(client, &DEVICES, all, on_conflict).await?;
    let some: Vec<&Device> = lines.written().collect();
    let gateways: Vec<_> = some.iter().filter_map(|one| one.gateway.as_ref()).collect();
    let names: Vec<&str> = gateways.iter().map(|gateway| gateway.as_str()).collect();
    // They keep their names until the transaction ends: the rows of the children look for them.
    let known = names_of(client, DEVICES.name, "ORDER BY id FOR KEY SHARE", &names).await?;
    if let Some(gateway) = gateways.into_iter().find(|it| !known.contains(it.as_str())) {
        return Err(FleetError::NotFound(Thing::Device(gateway.clone())));
    }
    let mut counts = write_rows(client, &DEVICES, &lines, on_conflict).await?;
    let Some(thing) = some.first().map(|first| first.thing()) else { return Ok(counts) };
    let there: Vec<&str> = lines.present.iter().map(|one| one.name()).collect();
    let capabilities: Vec<_> = some.iter().flat_map(|one| capabilities_of(one)).collect();
    let names = capabilities.iter().map(|can| can.name.clone()).collect();
    require_capabilities(client, names).await?;
    let capabilities = Rows::new(&thing, &capabilities)?;
    let bindings = Rows::new(&thing, &parts(&some, |one| &one.bindings))?;
    let grants = Rows::new(&thing, &parts(&some, |one| &one.grants))?;
    let credentials = Rows::new(&thing, &parts(&some, |one| &one.credentials))?;
    if !there.is_empty() && !matches!(on_conflict, OnConflict::Complete(_)) {
        for (statement, kept) in
            [(ONLY_CAPABILITIES, &capabilities), (ONLY_BINDINGS, &bindings), (ONLY_GRANTS, &grants)]
        {
            run(client, &thing, statement, &[kept, &there]).await?;
        }
    }
    // What no line has costs no statement.
    let completes = matches!(on_conflict, OnConflict::Complete(_));
    if capabilities.count > 0 {
        run(client, &thing, ADD_CAPABILITIES, &[&capabilities]).await?;
    }
    if bindings.count > 0 {
        run(client, &thing, ADD_BINDINGS, &[&bindings, &completes]).await?;
    }
    if grants.count > 0 {
        run(client, &thing, ADD_GRANTS, &[&grants]).await?;
    }
    if credentials.count > 0 {
        if some.iter().any(|one| one.credentials.iter().any(|one| one.revoked_at.is_some())) {
            run(client, &thing, REVOKE_CREDENTIALS, &[&credentials]).await?;
        }
        let stored = client.query(ADD_CREDENTIALS, &[&credentials, &completes]).await;
        let stored = stored.map_err(FleetError::on(&thing))?;
        if completes {
            let given = some.iter().flat_map(|one| &one.credentials);
            let given = given.filter(|one| one.is_password()).count();
            let stored = stored.iter().filter(|row| row.get(0)).count();
            counts.kept_passwords = given.saturating_sub(stored);
        }
    }
    Ok(counts)
}

/// A part of a device, with the name of that.
#[derive(Serialize)]
struct Part<'a, T> {
    device: &'a str,
    #[serde(flatten)]
    part: &'a T,
}

fn parts<'a, T>(some: &[&'a Device], of: fn(&'a Device) -> &'a [T]) -> Vec<Part<'a, T>> {
    let of_one = |one: &&'a Device| {
        let device = one.name.as_str();
        of(one).iter().map(move |part| Part { device, part }).collect::<Vec<_>>()
    };
    some.iter().flat_map(of_one).collect()
}

/// A capability of a device.
#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Can<'a> {
    device: &'a str,
    name: String,
}

/// What a device can do: what is listed, and what its bindings carry.
fn capabilities_of(device: &Device) -> BTreeSet<Can<'_>> {
    let listed = device.capabilities.iter().map(|name| name.to_string());
    let bound = device.bindings.iter().filter_map(|binding| binding.name.capability());
    let names = listed.chain(bound.map(|name| name.to_string()));
    names.map(|name| Can { device: device.name.as_str(), name }).collect()
}

// What devices that were there have and their lines do not goes, but for credentials: with those they can log in still.

const ONLY_CAPABILITIES: &str = "
    DELETE FROM device_capabilities AS had USING devices AS device
    WHERE device.id = had.device_id AND device.name = ANY ($2) AND (device.name, had.capability) NOT IN (
        SELECT it.device, it.name FROM jsonb_to_recordset($1) AS it (device text, name text))";

const ONLY_BINDINGS: &str = "
    DELETE FROM topic_bindings AS had USING devices AS device
    WHERE device.id = had.device_id AND device.name = ANY ($2) AND (device.name, had.name) NOT IN (
        SELECT it.device, it.name FROM jsonb_to_recordset($1) AS it (device text, name text))";

const ONLY_GRANTS: &str = "
    DELETE FROM topic_grants AS had USING devices AS device
    WHERE device.id = had.device_id AND device.name = ANY ($2) AND (device.name, had.action, had.topic_filter) NOT IN (
        SELECT it.device, it.action, it.topic_filter
        FROM jsonb_to_recordset($1) AS it (device text, action text, topic_filter text))";

const ADD_CAPABILITIES: &str = "
    INSERT INTO device_capabilities (device_id, capability)
    SELECT device.id, it.name FROM jsonb_to_recordset($1) AS it (device text, name text)
    JOIN devices AS device ON device.name = it.device
    ON CONFLICT DO NOTHING";

/// What is added to a binding that is there ($2) takes no topic of it away.
const ADD_BINDINGS: &str = "
    INSERT INTO topic_bindings AS had (device_id, name, state_topic, command_topic, reply_topic, merge)
    SELECT device.id, it.name, it.state_topic, it.command_topic, it.reply_topic, it.merge
    FROM jsonb_to_recordset($1)
        AS it (device text, name text, state_topic text, command_topic text, reply_topic text, merge boolean)
    JOIN devices AS device ON device.name = it.device
    ON CONFLICT (device_id, name) DO UPDATE SET (state_topic, command_topic, reply_topic, merge) = (
        CASE WHEN $2::boolean THEN coalesce(EXCLUDED.state_topic, had.state_topic) ELSE EXCLUDED.state_topic END,
        CASE WHEN $2::boolean THEN coalesce(EXCLUDED.command_topic, had.command_topic) ELSE EXCLUDED.command_topic END,
        CASE WHEN $2::boolean THEN coalesce(EXCLUDED.reply_topic, had.reply_topic) ELSE EXCLUDED.reply_topic END,
        EXCLUDED.merge OR $2::boolean AND had.merge)";

const ADD_GRANTS: &str = "
    INSERT INTO topic_grants (device_id, action, topic_filter)
    SELECT device.id, it.action, it.topic_filter
    FROM jsonb_to_recordset($1) AS it (device text, action text, topic_filter text)
    JOIN devices AS device ON device.name = it.device
    ON CONFLICT DO NOTHING";

/// A secret that the file knows as revoked, and only so, is revoked. Of certificates several have the same name, one after the other.
const REVOKE_CREDENTIALS: &str = "
    UPDATE device_credentials AS had SET revoked_at = told.revoked_at
    FROM (SELECT device.id, it.kind, it.hash, max(it.revoked_at) AS revoked_at
          FROM jsonb_to_recordset($1) AS it (device text, kind text, hash text, revoked_at timestamptz)
          JOIN devices AS device ON device.name = it.device
          WHERE it.hash IS NOT NULL
          GROUP BY device.id, it.kind, it.hash HAVING bool_and(it.revoked_at IS NOT NULL)) AS told
    WHERE had.device_id = told.id AND had.kind = told.kind AND had.hash = told.hash AND had.revoked_at IS NULL";

// In their order, which is that of their numbers. What was revoked, replaced or given an end here must not come back with an old
// file: a secret, certificate or token that the device has or had is not added a second time, whatever else the file says of it,
// and a hash of another broker only to a device that never had a password. Where a file of another form is added to what is
// there ($2), that holds for every password.
const ADD_CREDENTIALS: &str = "
    INSERT INTO device_credentials (device_id, kind, hash, common_name, certificate_required, label, not_before, expires_at,
        revoked_at)
    SELECT device.id, it.kind, it.hash, it.common_name, it.certificate_required, it.label, it.not_before, it.expires_at,
           it.revoked_at
    FROM ROWS FROM (jsonb_to_recordset($1) AS (device text, kind text, hash text, common_name text,
            certificate_required boolean, label text, not_before timestamptz, expires_at timestamptz, revoked_at timestamptz))
        WITH ORDINALITY AS it (device, kind, hash, common_name, certificate_required, label, not_before, expires_at,
            revoked_at, place)
    JOIN devices AS device ON device.name = it.device
    WHERE NOT EXISTS (
        SELECT FROM device_credentials AS had WHERE had.device_id = device.id
          AND (had.kind, had.hash, had.common_name) IS NOT DISTINCT FROM (it.kind, it.hash, it.common_name)
          -- Nothing but these tells two of them apart.
          AND (it.kind <> 'token' OR (had.label, had.not_before) IS NOT DISTINCT FROM (it.label, it.not_before)))
      AND NOT (it.kind = ANY (CASE WHEN $2::boolean THEN ARRAY['imported', 'password'] ELSE ARRAY['imported'] END)
        AND EXISTS (SELECT FROM device_credentials AS had
                    WHERE had.device_id = device.id AND had.kind IN ('imported', 'password')))
    ORDER BY place
    RETURNING kind IN ('password', 'imported')";
