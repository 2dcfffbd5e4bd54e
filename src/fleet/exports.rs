//! The registry as lines of JSON, one thing a line, which [`crate::fleet::imports`] takes back: capabilities, devices that
//! others may be behind, devices behind a gateway, routing rules.

use std::time::Duration;

use tokio_postgres::{Client, GenericClient, IsolationLevel, Transaction};

use crate::fleet::{FleetError, Part};
use crate::registry::error::RegistryError;
use crate::registry::selector::values;
use crate::registry::session::statements_may_take;

/// Most lines of a page: few enough that a page of large devices is no burden in memory.
pub const PAGE_LINES: i64 = 250;

/// Longest time of a statement: a page takes milliseconds, so this is for a server that is busy with something else.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// What was exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Lines.
    pub lines: u64,
    /// Credentials that were left out.
    pub credentials_left_out: u64,
}

const CAPABILITIES: &str = "
    SELECT json_build_object('capability', json_build_object(
        'name', name, 'description', description, 'state_schema', state_schema, 'command_schema', command_schema,
        'confirm', confirm, 'command_expiry', command_expiry, 'ack_timeout', ack_timeout, 'answer_in', answer_in,
        'envelope', envelope, 'only_latest', only_latest))::text, 0::bigint, name
    FROM capabilities";

const DEVICES: &str = "
    SELECT json_build_object('device', json_build_object(
        'name', name, 'client_id', client_id, 'area', area, 'floor', floor, 'kind', kind,
        'gateway', (SELECT name FROM devices AS gateway WHERE gateway.id = device.gateway
            AND EXISTS (SELECT FROM devices AS device WHERE device.id = gateway.id AND {inside})),
        'availability_topic', (SELECT device.availability_topic FROM devices AS gateway WHERE gateway.id = device.gateway
            AND EXISTS (SELECT FROM devices AS device WHERE device.id = gateway.id AND {inside})),
        'enabled', enabled, 'meta', meta,
        'capabilities', ARRAY(SELECT capability FROM device_capabilities WHERE device_id = device.id ORDER BY capability),
        'bindings', coalesce((
            SELECT json_agg(json_build_object('name', name, 'state_topic', state_topic, 'command_topic', command_topic,
                'reply_topic', reply_topic, 'merge', merge) ORDER BY name)
            FROM topic_bindings WHERE device_id = device.id), '[]'),
        'grants', coalesce((
            SELECT json_agg(json_build_object('action', action, 'topic_filter', topic_filter) ORDER BY action, topic_filter)
            FROM topic_grants WHERE device_id = device.id), '[]'),
        'credentials', CASE WHEN $1::boolean THEN coalesce((
            SELECT json_agg(json_build_object('kind', kind, 'hash', hash, 'common_name', common_name,
                'certificate_required', certificate_required, 'label', label, 'not_before', not_before,
                'expires_at', expires_at, 'revoked_at', revoked_at) ORDER BY id)
            FROM device_credentials WHERE device_id = device.id), '[]') ELSE '[]' END))::text,
        CASE WHEN $1::boolean THEN 0 ELSE (SELECT count(*) FROM device_credentials WHERE device_id = device.id) END, name
    FROM devices AS device";

const RULES: &str = "
    SELECT json_build_object('rule', json_build_object('name', name, 'capability', capability, 'selector', selector,
        'strategy', strategy, 'priority', priority, 'enabled', enabled))::text, 0::bigint, name
    FROM routing_rules";

/// What is exported, in this order, by statement and which of its rows. Devices that others may be behind come first: an import
/// needs them.
const SECTIONS: [(&str, &str); 4] = [
    (CAPABILITIES, "true"),
    (DEVICES, "gateway IS NULL AND {inside}"),
    (DEVICES, "gateway IS NOT NULL AND {inside}"),
    (RULES, "true"),
];

/// How many of [`SECTIONS`] there are for a part of the fleet: no rules, which mean all of it.
const SECTIONS_OF_A_PART: usize = 3;

/// An export that is under way: page after page, within one transaction of [`snapshot`].
pub struct Export {
    with_credentials: bool,
    part: Part,
    sections: std::iter::Take<std::slice::Iter<'static, (&'static str, &'static str)>>,
    section: Option<&'static (&'static str, &'static str)>,
    /// The last name of the page before.
    after: String,
    exported: Exported,
}

impl Export {
    /// Nothing is exported yet. Credentials, hashes included, only if `with_credentials`; they are counted otherwise. Of a
    /// part of the fleet its devices, without gateways outside and the availability topics that are heard from those, and all
    /// capabilities.
    #[must_use]
    pub fn new(with_credentials: bool, part: Part) -> Self {
        let count = if part.is_whole() { SECTIONS.len() } else { SECTIONS_OF_A_PART };
        let mut sections = SECTIONS.iter().take(count);
        let section = sections.next();
        let (after, exported) = (String::new(), Exported::default());
        Self { with_credentials, part, sections, section, after, exported }
    }

    /// The next lines, at most [`PAGE_LINES`]; `None`: that was all.
    ///
    /// # Errors
    /// A database that is away.
    pub async fn next_page(
        &mut self,
        client: &impl GenericClient,
    ) -> Result<Option<Vec<String>>, FleetError> {
        let inside = self.part.condition(3);
        while let Some((rows, which)) = self.section {
            let mut statement = format!(
                "{rows} WHERE $1::boolean IS NOT NULL AND name > $2 AND {which} ORDER BY name LIMIT $3"
            );
            let in_part = statement.contains("{inside}").then_some(&inside);
            if in_part.is_some() {
                statement = statement.replace("{inside}", inside.sql());
            }
            let values = values(&[&self.with_credentials, &self.after, &PAGE_LINES], in_part);
            let rows = client.query(&statement, &values).await.map_err(on_export())?;
            let Some(last) = rows.last() else {
                self.section = self.sections.next();
                self.after.clear();
                continue;
            };
            self.after = last.get(2);
            for row in &rows {
                self.exported.lines += 1;
                self.exported.credentials_left_out += row.get::<_, i64>(1).unsigned_abs();
            }
            return Ok(Some(rows.iter().map(|row| row.get(0)).collect()));
        }
        Ok(None)
    }

    /// What was exported so far.
    #[must_use]
    pub fn exported(&self) -> Exported {
        self.exported
    }
}

fn on_export() -> impl FnOnce(tokio_postgres::Error) -> FleetError {
    |error| FleetError::Registry(RegistryError::on("the export")(error))
}

/// Begins a transaction that sees the registry as of one moment. While it is open PostgreSQL cannot clean up what changes, so
/// the caller bounds its time.
///
/// # Errors
/// A database that is away.
pub async fn snapshot(client: &mut Client) -> Result<Transaction<'_>, FleetError> {
    let begin = client.build_transaction().read_only(true);
    let begin = begin.isolation_level(IsolationLevel::RepeatableRead);
    let transaction = begin.start().await.map_err(on_export())?;
    statements_may_take(&transaction, STATEMENT_TIMEOUT).await?;
    Ok(transaction)
}

/// How many credentials a part of the fleet has.
///
/// # Errors
/// A database that is away.
pub async fn credentials(client: &impl GenericClient, part: &Part) -> Result<i64, FleetError> {
    let inside = part.condition_on("device_id", 0);
    let statement = format!("SELECT count(*) FROM device_credentials WHERE {}", inside.sql());
    let count = client.query_one(&statement, &values(&[], [&inside])).await;
    Ok(count.map_err(on_export())?.get(0))
}

/// Gives each line to `write`, all as of one moment. Credentials, hashes included, only if `with_credentials`; they are
/// counted otherwise.
///
/// # Errors
/// A database that is away; what `write` says.
pub async fn export<E: From<FleetError>>(
    client: &mut Client,
    with_credentials: bool,
    mut write: impl FnMut(&str) -> Result<(), E>,
) -> Result<Exported, E> {
    let snapshot = snapshot(client).await?;
    let mut export = Export::new(with_credentials, Part::whole());
    while let Some(lines) = export.next_page(&snapshot).await? {
        lines.iter().try_for_each(|line| write(line))?;
    }
    Ok(export.exported())
}
