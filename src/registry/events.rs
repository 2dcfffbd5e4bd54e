//! What a batch of events writes, in one statement (`sql/V4__presence.sql`).

use std::time::Duration;

use deadpool_postgres::ClientWrapper;

use crate::domain::device::DeviceId;
use crate::registry::commands::{note_reports, wake};
use crate::registry::error::RegistryError;
use crate::registry::presence::{SessionChange, SessionColumns};
use crate::registry::reports::{DeviceUpdate, MergeColumns, Partial, UpdateColumns};

/// What a committed batch had in it that changed nothing, or that cannot be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outdated {
    /// Client ids whose changes were not new.
    pub sessions: u64,
    /// Changes that are older than sessions are kept.
    pub too_old: u64,
    /// Reports that were not newer than what was known.
    pub reports: u64,
    /// Events with a timestamp that lies ahead by more than clocks may differ.
    pub untrusted: u64,
}

/// Sessions first: that is the order of locks.
const WRITE: &str = "
    SELECT moved, EXISTS (SELECT FROM command_deliveries WHERE awaits_report) AS awaited,
        fleetgate_merge_reports($15, $16, $17, $18::text[]::jsonb[], $19, $20, $21) AS merged,
        fleetgate_write_reports($8, $9, $10, $11, $12, $13::text[]::jsonb[], $14::text[]::jsonb[]) AS counts
    FROM fleetgate_write_sessions($1, $2, $3, $4, $5, $6, $7 * interval '1 second', NULL) AS moved";

/// Writes session changes, updates and partial reports, in any order. `keep`: changes older than this open
/// no session. When this returns, they are committed: the statement is a transaction of its own, and its answer ends with
/// PostgreSQL being ready again, which comes after the commit. What reports confirm of commands is a transaction after
/// that, because it locks commands; a report comes again until both are committed.
///
/// # Errors
/// A client id that is not a valid name, a value that jsonb cannot hold, a database that is away. Nothing
/// was written then, unless the connection broke: then it is unknown.
pub async fn write(
    client: &ClientWrapper,
    changes: &[&SessionChange],
    updates: &[&DeviceUpdate],
    partials: &[(DeviceId, &Partial)],
    keep: Duration,
) -> Result<Outdated, RegistryError> {
    let on_events = || RegistryError::on("a batch of events");
    let (sessions, reported) = (SessionColumns::new(changes), updates);
    let updates = UpdateColumns::new(updates);
    let merges = MergeColumns::new(partials, &updates.device_ids);
    let statement = client.prepare_cached(WRITE).await.map_err(on_events())?;
    let row = client
        .query_one(
            &statement,
            &[
                &sessions.client_ids,
                &sessions.device_ids,
                &sessions.began,
                &sessions.ended,
                &sessions.inferences,
                &sessions.owned,
                &keep.as_secs_f64(),
                &updates.device_ids,
                &updates.stamps,
                &updates.seen,
                &updates.nodes,
                &updates.bindings,
                &updates.reports,
                &updates.violations,
                &merges.locked,
                &merges.device_ids,
                &merges.bindings,
                &merges.patches,
                &merges.stamps,
                &merges.ids,
                &merges.most_bytes,
            ],
        )
        .await
        .map_err(on_events())?;
    if row.get("awaited") {
        note_what_was_told(client, reported, partials).await?;
    }
    let available = reported.iter().filter(|update| update.is_available);
    let available: Vec<i64> = available.map(|update| update.device_id.0).collect();
    if !available.is_empty() {
        let client: &tokio_postgres::Client = client;
        wake(client, &available).await?;
    }
    let applied = sessions.applied(row.get("moved"));
    let (merged, counts): (i64, Vec<i64>) = (row.get("merged"), row.get("counts"));
    let mut counts = counts.into_iter().map(|count| u64::try_from(count).unwrap_or(0));
    Ok(Outdated {
        sessions: applied.ignored,
        too_old: applied.too_old,
        reports: counts.next().unwrap_or(0) + u64::try_from(merged).unwrap_or(0),
        untrusted: counts.next().unwrap_or(0),
    })
}

/// Tells commands what their devices reported.
async fn note_what_was_told(
    client: &ClientWrapper,
    updates: &[&DeviceUpdate],
    partials: &[(DeviceId, &Partial)],
) -> Result<(), RegistryError> {
    let whole = updates.iter().flat_map(|update| {
        let reports = update.reports.iter();
        reports.map(|(binding, report)| (update.device_id, binding, report.at, &report.value))
    });
    let parts = partials.iter().map(|(device, one)| (*device, &one.binding, one.at, &one.patch));
    let (mut devices, mut bindings, mut values, mut stamps) =
        <(Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    for (device, binding, at, value) in whole.chain(parts) {
        // A value that was cleared confirms nothing.
        let Some(value) = value else { continue };
        devices.push(device.0);
        bindings.push(&**binding);
        values.push(&**value);
        stamps.push(at);
    }
    if devices.is_empty() {
        return Ok(());
    }
    let client: &tokio_postgres::Client = client;
    note_reports(client, &devices, &bindings, &values, &stamps).await
}
