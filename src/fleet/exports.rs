//! The registry as lines of JSON, one thing a line, which [`crate::fleet::imports`] takes back: capabilities, devices that
//! others may be behind, devices behind a gateway, routing rules.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, IsolationLevel};

use crate::fleet::FleetError;
use crate::registry::error::RegistryError;

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
        'envelope', envelope, 'only_latest', only_latest))::text, 0::bigint
    FROM capabilities WHERE $1::boolean IS NOT NULL ORDER BY name";

const DEVICES: &str = "
    SELECT json_build_object('device', json_build_object(
        'name', name, 'client_id', client_id, 'area', area, 'floor', floor, 'kind', kind,
        'gateway', (SELECT name FROM devices AS gateway WHERE gateway.id = device.gateway),
        'availability_topic', availability_topic, 'enabled', enabled, 'meta', meta,
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
        CASE WHEN $1::boolean THEN 0 ELSE (SELECT count(*) FROM device_credentials WHERE device_id = device.id) END
    FROM devices AS device ORDER BY gateway IS NOT NULL, name";

const RULES: &str = "
    SELECT json_build_object('rule', json_build_object('name', name, 'capability', capability, 'selector', selector,
        'strategy', strategy, 'priority', priority, 'enabled', enabled))::text, 0::bigint
    FROM routing_rules WHERE $1::boolean IS NOT NULL ORDER BY name";

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
    let failed = |error| E::from(FleetError::Registry(RegistryError::on("the export")(error)));
    let begin = client.build_transaction().read_only(true);
    let begin = begin.isolation_level(IsolationLevel::RepeatableRead);
    let transaction = begin.start().await.map_err(failed)?;
    let mut exported = Exported::default();
    for statement in [CAPABILITIES, DEVICES, RULES] {
        let rows = transaction.query_raw(statement, [with_credentials]).await.map_err(failed)?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            write(row.get(0))?;
            exported.lines += 1;
            exported.credentials_left_out += row.get::<_, i64>(1).unsigned_abs();
        }
    }
    Ok(exported)
}
