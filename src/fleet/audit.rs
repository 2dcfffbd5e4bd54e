//! The audit log: who changed what (`audit`). It is written by the triggers of `sql/V15`; here it is read.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::domain::name::DeviceName;
use crate::fleet::Part;
use crate::fleet::document::Document;
use crate::fleet::error::FleetError;
use crate::registry::error::RegistryError;
use crate::registry::selector;

/// Most entries that one page of the list holds.
pub const MAX_PAGE: u16 = 1000;
/// A notice on this channel says that there are new entries.
pub const CHANNEL: &str = "fleetgate_audit";

/// Which entries.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only of this device, and of what it has or had: whatever it was called, and also if it is gone. Of several that
    /// had the name, one after the other, those of all.
    pub device: Option<DeviceName>,
    /// Only by this actor, in whole or up to one of its colons (`token`, `token:7`), or by this role of PostgreSQL where no
    /// actor is known.
    pub actor: Option<String>,
    /// Only since then.
    pub since: Option<Timestamp>,
    /// Only of devices of this part of the fleet and of what they have or had; nothing outside is named.
    pub part: Part,
}

/// An entry of the log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditRow {
    /// Its number.
    pub id: i64,
    /// When, by PostgreSQL's clock.
    pub at: Timestamp,
    /// Who acted (`fleet/actor.rs`): `token:7:dashboard`, `command-line:alice`; `null`: nobody
    /// said, or nobody who is believed.
    pub actor: Option<String>,
    /// The role that logged in to PostgreSQL.
    pub role: String,
    /// What sort of thing it is about.
    pub subject: String,
    /// `added`, `changed`, `removed`, or `emptied`: the whole table.
    pub action: String,
    /// The device that the thing is or belongs to, by its name before the change.
    pub device: Option<String>,
    /// What names the thing, before the change.
    pub name: Option<String>,
    /// What it was; of a change the columns that changed.
    #[schema(value_type = Option<Value>)]
    pub before: Option<Document>,
    /// What it is; of a change the columns that changed.
    #[schema(value_type = Option<Value>)]
    pub after: Option<Document>,
}

/// Columns of an entry, and the conditions of an [`AuditFilter`] on them: $1 to $3.
const SELECT: &str = "
    SELECT id, at, actor, role, subject, action, device, name, before, after FROM audit
    WHERE ($1::text IS NULL OR device_id IN (
            SELECT id FROM devices WHERE name = $1
            UNION ALL SELECT device_id FROM audit WHERE subject = 'device' AND device = $1))
      AND ($2::text IS NULL OR actor = $2 OR starts_with(actor, $2 || ':') OR actor IS NULL AND role = $2)
      AND ($3::timestamptz IS NULL OR at >= $3)";

impl AuditFilter {
    async fn select(
        &self,
        client: &impl GenericClient,
        rest: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<AuditRow>, FleetError> {
        let device = self.device.as_ref().map(DeviceName::as_str);
        let own: [&(dyn ToSql + Sync); 3] = [&device, &self.actor, &self.since];
        // Which service acted is not told.
        let asks_for_service = self.actor.as_ref().is_some_and(|who| who.starts_with("service:"));
        if asks_for_service && !self.part.is_whole() {
            return Ok(Vec::new());
        }
        let part = self.part.condition_on("device_id", own.len() + values.len());
        let statement = format!("{SELECT} AND {} {rest}", part.sql());
        let values = selector::values(&[&own, values].concat(), [&part]);
        let rows = client.query(&statement, &values).await;
        let is_whole = self.part.is_whole();
        Ok(rows.map_err(on_log())?.iter().map(|row| audit_row(row, is_whole)).collect())
    }
}

fn on_log() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the audit log")
}

/// An entry. To those who see a part of the fleet it does not tell what may name a device outside: services that asked, and gateways.
fn audit_row(row: &Row, is_whole: bool) -> AuditRow {
    let document = |column: &str| {
        // Somebody in psql may write JSON that is nested too deep to be read. That must not hide the rest of the log.
        let deep = |_| Some(Value::from("nested too deep to be shown"));
        let mut value: Value = row.try_get(column).unwrap_or_else(deep)?;
        if let Some(members) = value.as_object_mut().filter(|_| !is_whole) {
            members.retain(|name, _| name != "gateway" && name != "asked_by");
        }
        Some(Document::from(&value))
    };
    let actor: Option<String> = row.get("actor");
    let actor = actor.map(|actor| match actor.split_once(':') {
        Some((service @ "service", _)) if !is_whole => service.to_owned(),
        _ => actor,
    });
    AuditRow {
        id: row.get("id"),
        at: row.get("at"),
        actor,
        role: row.get("role"),
        subject: row.get("subject"),
        action: row.get("action"),
        device: row.get("device"),
        name: row.get("name"),
        before: document("before"),
        after: document("after"),
    }
}

/// Lists entries, the newest first, those below `after` if it is given; at most `limit` and at most [`MAX_PAGE`].
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    filter: &AuditFilter,
    after: Option<i64>,
    limit: u16,
) -> Result<Vec<AuditRow>, FleetError> {
    let limit = i64::from(limit.min(MAX_PAGE));
    let rest = "AND ($4::bigint IS NULL OR id < $4) ORDER BY id DESC LIMIT $5";
    filter.select(client, rest, &[&after, &limit]).await
}

/// Follows the log: each entry once, in the order of their numbers as far as they have come.
///
/// Of two transactions at once, the one that is committed later may have the lower numbers. So numbers are done with only when
/// every transaction that may have one of them has ended; until then the entries that were told are remembered.
pub struct Follower {
    filter: AuditFilter,
    /// Everything up to this number was told, or is not wanted.
    done: i64,
    /// Told, or there before: beyond `done`.
    told: BTreeSet<i64>,
    /// Once all transactions before the first number (xid8) have ended, everything up to the second one is there.
    open: Option<(i64, i64)>,
}

/// Entries before the newest one that may still be on their way when following begins: those of a transaction that is that
/// far behind are not told.
const WINDOW: i64 = 100_000;

impl Follower {
    /// Follows from now on.
    ///
    /// # Errors
    /// A database that is away.
    pub async fn from_now(
        client: &impl GenericClient,
        filter: AuditFilter,
    ) -> Result<Self, FleetError> {
        let there = "SELECT id FROM audit WHERE id > (SELECT max(id) FROM audit) - $1";
        let rows = client.query(there, &[&WINDOW]).await.map_err(on_log())?;
        let told: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let done = told.last().map_or(0, |newest| newest - WINDOW);
        Ok(Self { filter, done, told, open: None })
    }

    /// What is new, at most [`MAX_PAGE`] entries: when there are so many, there may be more.
    ///
    /// # Errors
    /// A database that is away.
    pub async fn next(&mut self, client: &impl GenericClient) -> Result<Vec<AuditRow>, FleetError> {
        let newest = "SELECT coalesce(max(id), 0), pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM audit";
        let row = client.query_one(newest, &[]).await.map_err(on_log())?;
        let (newest, all_ended_before): (i64, i64) = (row.get(0), row.get(1));
        if self.open.is_none() && newest > self.done {
            // Whoever has a lower number had a transaction id before it: a later one than all of these.
            let row = client.query_one("SELECT pg_current_xact_id()::text::bigint", &[]).await;
            self.open = Some((row.map_err(on_log())?.get(0), newest));
        }
        let told: Vec<i64> = self.told.iter().copied().collect();
        let rest = "AND id > $4 AND NOT id = ANY ($5) ORDER BY id LIMIT $6";
        let limit = i64::from(MAX_PAGE);
        let entries = self.filter.select(client, rest, &[&self.done, &told, &limit]).await?;
        self.told.extend(entries.iter().map(|entry| entry.id));
        if let (Some((transaction, up_to)), true) =
            (self.open, entries.len() < usize::from(MAX_PAGE))
            && all_ended_before >= transaction
        {
            self.done = up_to;
            self.told = self.told.split_off(&(up_to + 1));
            self.open = None;
        }
        Ok(entries)
    }
}
