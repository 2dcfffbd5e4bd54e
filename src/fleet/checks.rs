//! What deserves a look in the fleet: expiring credentials, devices that cannot log in, locks, clocks.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::TryStreamExt;
use jiff::SignedDuration;
use tokio_postgres::{Client, Row};

use crate::domain::foreign_hash::{FEW_ROUNDS, ForeignHash};
use crate::domain::password_hash::PasswordHash;
use crate::domain::request::hears_results_of_others;
use crate::domain::schema::StateSchema;
use crate::registry::error::RegistryError;

/// How long ahead a credential's end is told of, in days.
pub const EXPIRING_DAYS: i32 = 14;

/// Most hashes that are read, the newest first: about a second.
const MOST_HASHES: i64 = 100_000;
/// Most names that are told.
const MOST_NAMES: usize = 5;

/// How many there are, and the names of the first of them.
#[derive(Debug, Default)]
pub struct Named {
    /// How many.
    pub count: usize,
    /// Names of the first. Those that were tried by strangers may be made up.
    pub first: Vec<String>,
}

impl Named {
    fn add(&mut self, name: &str) {
        self.count += 1;
        if self.first.len() < MOST_NAMES {
            self.first.push(name.to_owned());
        }
    }
}

/// What reading the stored hashes found.
pub struct Hashes {
    /// How many were read.
    pub read: usize,
    /// Devices with a hash that allows no login.
    pub unusable: Named,
}

/// Reads stored hashes. The constraint in `sql/` looks at the form only: costs out of bounds, for one, pass it.
///
/// # Errors
/// A database that is away.
pub async fn hashes(client: &Client) -> Result<Hashes, RegistryError> {
    let on_hashes = || RegistryError::on("stored hashes");
    let newest = "SELECT devices.name, newest.hash, newest.kind FROM (
             SELECT id, device_id, hash, kind FROM device_credentials
             WHERE hash IS NOT NULL AND revoked_at IS NULL ORDER BY id DESC LIMIT $1) AS newest
         JOIN devices ON devices.id = newest.device_id";
    let rows = client.query_raw(newest, [MOST_HASHES]).await.map_err(on_hashes())?;
    let mut rows = pin!(rows);
    let mut hashes = Hashes { read: 0, unusable: Named::default() };
    while let Some(row) = rows.try_next().await.map_err(on_hashes())? {
        hashes.read += 1;
        let is_usable = match row.get(2) {
            "imported" => ForeignHash::parse(row.get(1)).is_ok(),
            _ => PasswordHash::parse(row.get(1)).is_ok(),
        };
        if !is_usable {
            hashes.unusable.add(row.get(0));
        }
    }
    Ok(hashes)
}

/// Credentials with hashes that other brokers made.
#[derive(Debug)]
pub struct Imported {
    /// Those that nobody has logged in with since.
    pub all: Named,
    /// How many of these have a hash whose password is cheap to guess.
    pub weak: u64,
}

/// Looks for imported credentials.
///
/// # Errors
/// A database that is away.
pub async fn imported(client: &Client) -> Result<Imported, RegistryError> {
    let statement = "SELECT devices.name, count(*) OVER () FROM device_credentials
         JOIN devices ON devices.id = device_id
         WHERE device_credentials.kind = 'imported' AND revoked_at IS NULL
         ORDER BY device_credentials.id LIMIT $1";
    let all = named(client, "imported credentials", statement).await?;
    // As `ForeignHash::is_weak` says.
    let statement = "SELECT count(*) FROM device_credentials
         WHERE kind = 'imported' AND revoked_at IS NULL AND (hash LIKE '$sha%'
             OR (hash LIKE '$pbkdf2%' AND substring(hash FROM '[$]i=([0-9]+)')::integer < $1))";
    let few = i32::try_from(FEW_ROUNDS).unwrap_or(i32::MAX);
    let row = client.query_one(statement, &[&few]).await;
    let weak = row.map_err(RegistryError::on("imported credentials"))?.get::<_, i64>(0);
    Ok(Imported { all, weak: weak.unsigned_abs() })
}

/// Credentials that expire within [`EXPIRING_DAYS`], by device, the first to expire first.
///
/// # Errors
/// A database that is away.
pub async fn expiring(client: &Client) -> Result<Named, RegistryError> {
    let statement = format!(
        "SELECT devices.name, count(*) OVER () FROM device_credentials
         JOIN devices ON devices.id = device_id AND enabled
         WHERE revoked_at IS NULL AND expires_at > now()
           AND expires_at <= now() + interval '{EXPIRING_DAYS} days'
         ORDER BY expires_at LIMIT $1"
    );
    named(client, "expiring credentials", &statement).await
}

/// Enabled devices that cannot log in. A certificate that is only needed beside another credential lets nobody
/// in by itself.
///
/// # Errors
/// A database that is away.
pub async fn without_credential(client: &Client) -> Result<Named, RegistryError> {
    let statement = "SELECT name, count(*) OVER () FROM devices
         WHERE enabled AND NOT EXISTS (
             SELECT 1 FROM device_credentials
             WHERE device_id = devices.id AND revoked_at IS NULL
               AND coalesce(not_before <= now(), true) AND coalesce(expires_at > now(), true)
               AND certificate_required IS NOT TRUE)
         ORDER BY name LIMIT $1";
    named(client, "devices without credential", statement).await
}

/// Enabled devices that accept device tokens.
///
/// # Errors
/// A database that is away.
pub async fn accepting_tokens(client: &Client) -> Result<Named, RegistryError> {
    let statement = "SELECT devices.name, count(*) OVER () FROM device_credentials
         JOIN devices ON devices.id = device_id AND enabled
         WHERE device_credentials.kind = 'token' AND revoked_at IS NULL
           AND coalesce(expires_at > now(), true)
         ORDER BY devices.name LIMIT $1";
    named(client, "token credentials", statement).await
}

/// Locks after wrong passwords that hold now: `NAME from ADDRESS`, or the address alone.
///
/// # Errors
/// A database that is away.
pub async fn locks(client: &Client) -> Result<Named, RegistryError> {
    let statement =
        "SELECT concat_ws(' from ', nullif(device_name, ''), host(address)), count(*) OVER ()
         FROM login_locks WHERE locked_until > now() ORDER BY locked_until DESC LIMIT $1";
    named(client, "locks of logins", statement).await
}

/// Command topics that several enabled devices are on.
///
/// # Errors
/// A database that is away.
pub async fn shared_topics(client: &Client) -> Result<Named, RegistryError> {
    let statement = "SELECT command_topic, count(*) OVER () FROM topic_bindings
         JOIN devices AS device ON device.id = device_id AND device.enabled
         WHERE command_topic IS NOT NULL GROUP BY command_topic HAVING count(DISTINCT device_id) > 1
         ORDER BY count(DISTINCT device_id) DESC, command_topic LIMIT $1";
    named(client, "the command topics", statement).await
}

/// Enabled devices that hear what becomes of commands that other services ask for.
///
/// # Errors
/// A database that is away.
pub async fn hearing_results(client: &Client) -> Result<Named, RegistryError> {
    let statement = "SELECT device.name, topic_filter FROM topic_grants
         JOIN devices AS device ON device.id = device_id AND device.enabled
         WHERE action = 'subscribe' AND topic_filter ~ '^([#+]|fleetgate/)' ORDER BY device.name";
    let rows = client.query(statement, &[]).await.map_err(RegistryError::on("the grants"))?;
    let hears = |row: &&Row| hears_results_of_others(row.get(0), row.get(1));
    let names: BTreeSet<&str> = rows.iter().filter(hears).map(|row| row.get(0)).collect();
    let mut hearing = Named::default();
    names.into_iter().for_each(|name| hearing.add(name));
    Ok(hearing)
}

/// Addresses that many devices share.
///
/// # Errors
/// A database that is away.
pub async fn shared_addresses(client: &Client) -> Result<Named, RegistryError> {
    let statement = "SELECT host(address), count(*) OVER () FROM shared_addresses
         WHERE shared_until > now() ORDER BY shared_until DESC LIMIT $1";
    named(client, "shared addresses", statement).await
}

/// Events with timestamps further ahead than clocks may differ, of devices that have not sent others since.
#[derive(Default)]
pub struct ClocksAhead {
    /// The devices.
    pub devices: Named,
    /// The broker nodes that told of them, where that is known, and how far ahead they were at most.
    pub nodes: Vec<(Option<String>, SignedDuration)>,
}

/// Finds broker nodes whose clocks are ahead.
///
/// # Errors
/// A database that is away.
pub async fn clocks_ahead(client: &Client) -> Result<ClocksAhead, RegistryError> {
    const BROKER_CLOCKS: &str = "broker clocks";
    let statement =
        "SELECT name, count(*) OVER () FROM untrusted_timestamps JOIN devices ON id = device_id
         ORDER BY noted_at DESC, name LIMIT $1";
    let devices = named(client, BROKER_CLOCKS, statement).await?;
    if devices.count == 0 {
        return Ok(ClocksAhead::default());
    }
    let nodes = "SELECT node, extract(epoch FROM max(ahead))::float8
         FROM untrusted_timestamps GROUP BY node ORDER BY max(noted_at) DESC LIMIT $1";
    let rows = client.query(nodes, &[&most_names()]).await;
    let rows = rows.map_err(RegistryError::on(BROKER_CLOCKS))?;
    let ahead = |seconds| SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::MAX);
    let nodes = rows.iter().map(|row| (row.get(0), ahead(row.get(1)))).collect();
    Ok(ClocksAhead { devices, nodes })
}

/// What compiling the schemas of all capabilities found.
pub struct Schemas {
    /// How many there are.
    pub read: usize,
    /// Those that cannot be used.
    pub unusable: Vec<UnusableSchema>,
}

/// A schema by which no payload can be judged.
pub struct UnusableSchema {
    /// The capability.
    pub capability: String,
    /// `state` or `command`.
    pub what: String,
    /// How many devices have the capability.
    pub devices: i64,
    /// The JSON Schema library's words.
    pub error: String,
}

/// Compiles the schemas of all capabilities: somebody in `psql` can write what does not compile.
///
/// # Errors
/// A database that is away.
pub async fn schemas(client: &Client) -> Result<Schemas, RegistryError> {
    let statement = "SELECT name, what, schema, devices FROM capabilities
        CROSS JOIN LATERAL (VALUES ('state', state_schema::text), ('command', command_schema::text)) AS each (what, schema)
        CROSS JOIN LATERAL (SELECT count(*) AS devices FROM device_capabilities WHERE capability = name) AS counted
        WHERE schema IS NOT NULL ORDER BY name, what DESC";
    let rows = client.query(statement, &[]).await;
    let rows = rows.map_err(RegistryError::on("capability schemas"))?;
    let unusable = rows.iter().filter_map(|row| {
        let error = StateSchema::read(row.get(2)).err()?.to_string();
        let (capability, what, devices) = (row.get(0), row.get(1), row.get(3));
        Some(UnusableSchema { capability, what, devices, error })
    });
    Ok(Schemas { read: rows.len(), unusable: unusable.collect() })
}

fn most_names() -> i64 {
    i64::try_from(MOST_NAMES).unwrap_or(i64::MAX)
}

/// Asks for names, of which only the first come, and how many there are.
async fn named(
    client: &Client,
    what: &'static str,
    statement: &str,
) -> Result<Named, RegistryError> {
    let rows = client.query(statement, &[&most_names()]).await;
    let rows = rows.map_err(RegistryError::on(what))?;
    let count = rows.first().map_or(0, |row| row.get::<_, i64>(1));
    Ok(Named {
        count: usize::try_from(count).unwrap_or(usize::MAX),
        first: rows.iter().map(|row| row.get(0)).collect(),
    })
}
