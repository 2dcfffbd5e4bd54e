//! Reads the records that decisions need, with one query.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use crate::domain::credential::{
    CertificateUse, Credential, CredentialId, Proof, ValidUntil, Validity,
};
use crate::domain::device::{DeviceId, DeviceRecord};
use crate::domain::foreign_hash::ForeignHash;
use crate::domain::name::{DeviceKind, DeviceName, NameError};
use crate::domain::password_hash::PasswordHash;
use crate::domain::request::RESULTS;
use crate::domain::rights::{ChildTopics, ReportedBinding, Rights};
use crate::domain::topic::TopicFilter;
use crate::logging::log_throttled;
use crate::registry::error::RegistryError;

/// The query; `$1` are names. Times travel as microseconds since the Unix epoch. Revoked credentials
/// stay behind; expired ones come along, because an expired certificate that is required must still
/// refuse.
pub const LOOK_UP: &str = "
    SELECT d.name, d.id, d.client_id, d.kind, d.enabled,
      (SELECT json_agg(json_build_array(c.id, c.kind, c.hash, c.common_name, c.certificate_required,
              (extract(epoch FROM c.not_before) * 1000000)::bigint,
              (extract(epoch FROM c.expires_at) * 1000000)::bigint) ORDER BY c.id)
         FROM device_credentials c WHERE c.device_id = d.id AND c.revoked_at IS NULL) AS credentials,
      (SELECT json_agg(json_build_array(b.name, b.state_topic, b.command_topic, b.merge, b.reply_topic))
         FROM topic_bindings b WHERE b.device_id = d.id) AS bindings,
      (SELECT json_agg(json_build_array(k.id, k.availability_topic,
              (SELECT json_agg(json_build_array(b.name, b.state_topic, b.command_topic, b.merge, b.reply_topic))
                 FROM topic_bindings b WHERE b.device_id = k.id)))
         FROM devices k WHERE k.gateway = d.id AND k.enabled) AS children,
      (SELECT json_agg(json_build_array(g.action, g.topic_filter))
         FROM topic_grants g WHERE g.device_id = d.id) AS grants
    FROM devices d WHERE d.name = ANY ($1::text[])";

/// A device, or why its row cannot be read.
pub type Record = Result<Arc<DeviceRecord>, Arc<RegistryError>>;

/// Records by name.
pub type Records = HashMap<DeviceName, Record>;

/// Looks up the devices of these names, all in one snapshot. A name that no device has is not among
/// them.
///
/// A credential or right that Fleetgate cannot read (a hash of another algorithm, say) is left out
/// and logged: it then allows nothing, and the rest of the device keeps working.
///
/// # Errors
/// When the query fails.
pub async fn look_up(
    client: &deadpool_postgres::ClientWrapper,
    names: &[DeviceName],
) -> Result<Records, RegistryError> {
    let on_devices = || match names {
        [name] => RegistryError::on(format!("device {name:?}")),
        names => RegistryError::on(format!("{} devices", names.len())),
    };
    let statement = client.prepare_cached(LOOK_UP).await.map_err(on_devices())?;
    let texts: Vec<&str> = names.iter().map(DeviceName::as_str).collect();
    let rows = client.query(&statement, &[&texts]).await.map_err(on_devices())?;
    rows.iter().map(named).collect()
}

fn named(row: &Row) -> Result<(DeviceName, Record), RegistryError> {
    let name: &str = column(row, "name")?;
    let name: DeviceName = name.parse().map_err(unreadable(name, "name"))?;
    let record = record(&name, row).map(Arc::new).map_err(Arc::new);
    Ok((name, record))
}

fn unreadable(device: &str, column: &'static str) -> impl Fn(NameError) -> RegistryError {
    move |why| RegistryError::Database {
        thing: format!("device {device:?}"),
        message: format!("its {column} {why}"),
    }
}

fn record(name: &DeviceName, row: &Row) -> Result<DeviceRecord, RegistryError> {
    let unreadable = |column| unreadable(name.as_str(), column);
    let client_id: Option<&str> = column(row, "client_id")?;
    let kind: &str = column(row, "kind")?;
    let credentials: Option<Json<Vec<CredentialRow>>> = column(row, "credentials")?;
    let bindings: Option<Json<Vec<BindingRow>>> = column(row, "bindings")?;
    let children: Option<Json<Vec<ChildRow>>> = column(row, "children")?;
    let grants: Option<Json<Vec<GrantRow>>> = column(row, "grants")?;
    Ok(DeviceRecord {
        id: DeviceId(column(row, "id")?),
        name: name.clone(),
        client_id: client_id.map(str::parse).transpose().map_err(unreadable("client_id"))?,
        kind: kind.parse().map_err(unreadable("kind"))?,
        enabled: column(row, "enabled")?,
        credentials: credentials
            .map(|Json(rows)| rows.into_iter().filter_map(|row| credential(name, row)).collect())
            .unwrap_or_default(),
        rights: rights(
            name,
            kind == DeviceKind::SERVICE,
            bindings.map(|Json(rows)| rows).unwrap_or_default(),
            grants.map(|Json(rows)| rows).unwrap_or_default(),
        )
        .with_children(child_topics(name, children.map(|Json(rows)| rows).unwrap_or_default())),
    })
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    column: &'static str,
) -> Result<T, RegistryError> {
    row.try_get(column).map_err(RegistryError::on("a device's row"))
}

/// `[id, kind, hash, common_name, certificate_required, not_before, expires_at]`
#[derive(Deserialize)]
struct CredentialRow(
    i64,
    String,
    Option<String>,
    Option<String>,
    Option<bool>,
    Option<i64>,
    Option<i64>,
);

fn credential(device: &DeviceName, row: CredentialRow) -> Option<Credential> {
    let CredentialRow(id, kind, hash, common_name, required, not_before, expires_at) = row;
    let proof = match (kind.as_str(), hash, common_name) {
        ("secret", Some(hash), _) => stored_hash(device, id, &hash).map(Proof::Secret),
        ("password", Some(hash), _) => stored_hash(device, id, &hash).map(Proof::Password),
        ("imported", Some(hash), _) => imported_hash(device, id, &hash).map(Proof::Imported),
        ("token", ..) => Some(Proof::Token),
        ("certificate", _, Some(common_name)) => Some(Proof::Certificate {
            common_name: common_name.into(),
            required: match required {
                Some(false) => CertificateUse::Alone,
                Some(true) | None => CertificateUse::Required,
            },
        }),
        _ => {
            log_throttled!(warn, "a credential of this kind is unknown here and allows nothing", %device, credential = id, kind);
            None
        }
    }?;
    let validity = Validity {
        not_before: not_before.map(timestamp),
        until: expires_at.map_or(ValidUntil::Forever, |end| ValidUntil::Timestamp(timestamp(end))),
    };
    Some(Credential::new(CredentialId(id), validity, proof))
}

/// From microseconds since the Unix epoch. The database holds no timestamp after the year 9998.
fn timestamp(micros: i64) -> Timestamp {
    let end = if micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(micros).unwrap_or(end)
}

fn stored_hash(device: &DeviceName, id: i64, hash: &str) -> Option<PasswordHash> {
    PasswordHash::parse(hash).inspect_err(complain(device, id)).ok()
}

fn imported_hash(device: &DeviceName, id: i64, hash: &str) -> Option<PasswordHash> {
    let hash = ForeignHash::parse(hash).inspect_err(complain(device, id)).ok()?;
    Some(PasswordHash::Foreign(Box::new(hash)))
}

fn complain<E: Display>(device: &DeviceName, id: i64) -> impl FnOnce(&E) {
    move |error| {
        log_throttled!(warn, "the stored hash of a credential cannot be used; revoke it and add another", %device, credential = id, %error);
    }
}

/// `[name, state_topic, command_topic, merge, reply_topic]`
type BindingRow = (Box<str>, Option<String>, Option<String>, bool, Option<String>);
/// `[id, availability_topic, bindings]`
type ChildRow = (i64, Option<String>, Option<Vec<BindingRow>>);
/// `[action, topic_filter]`
type GrantRow = (String, String);

fn rights(
    device: &DeviceName,
    is_service: bool,
    bindings: Vec<BindingRow>,
    grants: Vec<GrantRow>,
) -> Rights {
    // A service hears what becomes of the commands that it asks for.
    let results = is_service.then(|| TopicFilter::below(&format!("{RESULTS}{device}")));
    let mut bound = ChildTopics::default();
    bindings.into_iter().for_each(|binding| add_binding(&mut bound, device, None, binding));
    let (publish, subscribe): (Vec<_>, Vec<_>) =
        grants.into_iter().partition(|(action, _)| action == "publish");
    Rights::new(
        bound.state,
        bound.command,
        readable(device, publish.into_iter().map(|(_, filter)| filter)),
        readable(
            device,
            subscribe
                .into_iter()
                .filter(|(action, _)| action == "subscribe")
                .map(|(_, filter)| filter),
        )
        .into_iter()
        .chain(results.and_then(Result::ok))
        .collect(),
    )
    .with_reply_topics(bound.reply)
}

/// The topics of a gateway's children.
fn child_topics(gateway: &DeviceName, rows: Vec<ChildRow>) -> ChildTopics {
    let mut topics = ChildTopics::default();
    for (id, availability_topic, bindings) in rows {
        let child = DeviceId(id);
        let availability = availability_topic.and_then(|topic| readable_one(gateway, &topic));
        topics.availability.extend(availability.map(|topic| (topic, child)));
        for binding in bindings.into_iter().flatten() {
            add_binding(&mut topics, gateway, Some(child), binding);
        }
    }
    topics
}

fn add_binding(
    topics: &mut ChildTopics,
    device: &DeviceName,
    child: Option<DeviceId>,
    row: BindingRow,
) {
    let (binding, state, command, merge, reply) = row;
    let readable = |topic: Option<String>| readable_one(device, &topic?);
    let reported = ReportedBinding { child, binding, merge };
    topics.state.extend(readable(state).map(|topic| (topic, reported)));
    topics.command.extend(readable(command));
    topics.reply.extend(readable(reply));
}

fn readable<T>(device: &DeviceName, topics: impl Iterator<Item = String>) -> Vec<T>
where
    T: std::str::FromStr<Err: Display>,
{
    topics.filter_map(|topic| readable_one(device, &topic)).collect()
}

fn readable_one<T>(device: &DeviceName, topic: &str) -> Option<T>
where
    T: std::str::FromStr<Err: Display>,
{
    topic
        .parse()
        .inspect_err(|error| {
            log_throttled!(warn, "a topic of this device allows nothing", %device, topic, %error);
        })
        .ok()
}
