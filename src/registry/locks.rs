//! Locks after wrong passwords, and addresses that many devices share: the tables of `sql/V6`.
//!
//! Times travel as what is left of them, because the clocks of replicas and PostgreSQL differ.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_postgres::GenericClient;

use crate::domain::address::Address;
use crate::domain::name::DeviceName;
use crate::registry::error::RegistryError;

/// How long a row is kept after its lock has ended: so long wrong passwords are remembered.
const RETENTION: &str = "interval '15 minutes'";

/// Most rows that are loaded at once, those that last longest first.
const MAX_ROWS: i64 = 65_536;

/// Notices that may wait for the lock keeper. When there are more, all rows are read instead.
const QUEUE_CAPACITY: usize = 4_096;

/// What a lock is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LockKey {
    /// The name that was tried; `None`: all names, tried from this address.
    pub name: Option<DeviceName>,
    /// Where from.
    pub address: Address,
}

/// A lock, as other replicas and commands see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRow {
    /// What it is about.
    pub key: LockKey,
    /// Wrong passwords so far.
    pub failures: u32,
    /// Time until passwords are compared again; negative: since then.
    pub left: SignedDuration,
}

/// Which locks are meant; both `None`: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockScope {
    /// Those of this name.
    pub name: Option<DeviceName>,
    /// Those of addresses in this network.
    pub address: Option<IpNet>,
}

impl LockScope {
    /// Whether a lock is among them.
    #[must_use]
    pub fn contains(&self, key: &LockKey) -> bool {
        self.name.as_ref().is_none_or(|name| key.name.as_ref() == Some(name))
            && self.address.is_none_or(|network| key.address.is_in(&network))
    }
}

/// Locks, and shared addresses with the time that is left.
pub type Remembered = (Vec<LockRow>, Vec<(Address, SignedDuration)>);

/// A notice of PostgreSQL about locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockNotice {
    /// LISTEN works again: notices may have been missed.
    Listening,
    /// A lock began or grew.
    Lock(LockRow),
    /// A lock was ended.
    Ended(LockKey),
    /// Locks were cleared, rows or not.
    Cleared(LockScope),
}

#[derive(Deserialize)]
struct KeyText {
    name: String,
    address: IpNet,
}

#[derive(Deserialize)]
struct LockText {
    name: String,
    address: IpNet,
    failures: u32,
    left_micros: i64,
}

#[derive(Serialize, Deserialize)]
struct ScopeText {
    name: Option<String>,
    address: Option<IpNet>,
}

/// The notice's text. Written by triggers and by [`clear`]; but anybody who can connect may send one.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoticeText {
    Lock(LockText),
    Ended(KeyText),
    Cleared(ScopeText),
}

fn key(name: &str, address: IpNet) -> Option<LockKey> {
    let name = if name.is_empty() { None } else { Some(name.parse().ok()?) };
    Some(LockKey { name, address: Address::from(address) })
}

impl LockNotice {
    /// Reads a notice; `None` for what is not one.
    #[must_use]
    pub fn parse(payload: &str) -> Option<Self> {
        Some(match serde_json::from_str(payload).ok()? {
            NoticeText::Lock(LockText { name, address, failures, left_micros }) => {
                let left = SignedDuration::from_micros(left_micros);
                Self::Lock(LockRow { key: key(&name, address)?, failures, left })
            }
            NoticeText::Ended(KeyText { name, address }) => Self::Ended(key(&name, address)?),
            NoticeText::Cleared(ScopeText { name, address }) => {
                let name = name.map(|name| name.parse()).transpose().ok()?;
                Self::Cleared(LockScope { name, address })
            }
        })
    }
}

/// Hands notices on to the lock keeper.
#[derive(Clone)]
pub struct LockFeed {
    notices: mpsc::Sender<LockNotice>,
    missed: Arc<AtomicBool>,
}

/// The other end of a [`LockFeed`].
pub struct LockNotices {
    notices: mpsc::Receiver<LockNotice>,
    missed: Arc<AtomicBool>,
}

impl LockFeed {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, LockNotices) {
        let (sender, notices) = mpsc::channel(QUEUE_CAPACITY);
        let missed = Arc::new(AtomicBool::new(false));
        (Self { notices: sender, missed: missed.clone() }, LockNotices { notices, missed })
    }

    /// Hands a notice on. If too many wait, it is noted that some were missed.
    pub fn send(&self, notice: Option<LockNotice>) {
        if notice.is_some_and(|notice| self.notices.try_send(notice).is_err()) {
            self.missed.store(true, Ordering::SeqCst);
        }
    }
}

impl LockNotices {
    /// The next notice; `None` when the listener has ended.
    pub async fn next(&mut self) -> Option<LockNotice> {
        self.notices.recv().await
    }

    /// Whether notices were missed since the last look.
    pub fn were_missed(&self) -> bool {
        self.missed.swap(false, Ordering::SeqCst)
    }
}

fn on_locks() -> impl FnOnce(tokio_postgres::Error) -> RegistryError {
    RegistryError::on("the locks of logins")
}

fn name_text(key: &LockKey) -> &str {
    key.name.as_ref().map_or("", DeviceName::as_str)
}

/// Writes locks, each key once; the stricter of two of one key holds.
///
/// # Errors
/// A database that is away.
pub async fn write(client: &impl GenericClient, rows: &[LockRow]) -> Result<(), RegistryError> {
    let names: Vec<&str> = rows.iter().map(|row| name_text(&row.key)).collect();
    let addresses: Vec<String> = rows.iter().map(|row| network_text(&row.key.address)).collect();
    let failures: Vec<i32> =
        rows.iter().map(|row| i32::try_from(row.failures).unwrap_or(i32::MAX)).collect();
    let left: Vec<i64> = rows.iter().map(|row| micros(row.left)).collect();
    let statement = format!(
        "INSERT INTO login_locks AS lock (device_name, address, failures, locked_until)
         SELECT name, address::cidr, failures, clock_timestamp() + left_micros * interval '1 microsecond'
         FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[]) AS new (name, address, failures, left_micros)
         ORDER BY name COLLATE \"C\", address
         ON CONFLICT (device_name, address) DO UPDATE SET
             failures = CASE WHEN lock.locked_until < now() - {RETENTION} THEN EXCLUDED.failures
                        ELSE greatest(lock.failures, EXCLUDED.failures) END,
             locked_until = greatest(lock.locked_until, EXCLUDED.locked_until)"
    );
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&names, &addresses, &failures, &left];
    client.execute(&statement, &parameters).await.map(drop).map_err(on_locks())
}

/// As PostgreSQL takes it; the largest number of microseconds for what is longer.
fn micros(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn network_text(address: &Address) -> String {
    address.network().to_string()
}

/// Ends locks.
///
/// # Errors
/// A database that is away.
pub async fn end(client: &impl GenericClient, keys: &[LockKey]) -> Result<(), RegistryError> {
    let names: Vec<&str> = keys.iter().map(name_text).collect();
    let addresses: Vec<String> = keys.iter().map(|key| network_text(&key.address)).collect();
    let statement =
        "DELETE FROM login_locks USING unnest($1::text[], $2::text[]) AS gone (name, net)
         WHERE device_name = name AND address = net::cidr";
    client.execute(statement, &[&names, &addresses]).await.map(drop).map_err(on_locks())
}

/// Notes addresses that many devices share, and for how long that holds.
///
/// # Errors
/// A database that is away.
pub async fn share(
    client: &impl GenericClient,
    addresses: &[(Address, SignedDuration)],
) -> Result<(), RegistryError> {
    let (texts, left): (Vec<String>, Vec<i64>) =
        addresses.iter().map(|(address, left)| (network_text(address), micros(*left))).unzip();
    let statement = "INSERT INTO shared_addresses AS known (address, shared_until)
         SELECT address::cidr, clock_timestamp() + left_micros * interval '1 microsecond'
         FROM unnest($1::text[], $2::bigint[]) AS new (address, left_micros) ORDER BY address
         ON CONFLICT (address) DO UPDATE SET shared_until = greatest(known.shared_until, EXCLUDED.shared_until)";
    client.execute(statement, &[&texts, &left]).await.map(drop).map_err(on_locks())
}

/// All that is remembered: locks, and shared addresses with the time that is left.
///
/// # Errors
/// A database that is away.
pub async fn load(client: &impl GenericClient) -> Result<Remembered, RegistryError> {
    let locks = list(client, &LockScope::default(), MAX_ROWS).await?;
    let statement = "SELECT address::text, (extract(epoch FROM shared_until - clock_timestamp()) * 1000000)::bigint
         FROM shared_addresses WHERE shared_until > now() ORDER BY shared_until DESC LIMIT $1";
    let rows = client.query(statement, &[&MAX_ROWS]).await.map_err(on_locks())?;
    let shared = rows.iter().filter_map(|row| {
        let network: IpNet = row.get::<_, &str>(0).parse().ok()?;
        Some((Address::from(network), SignedDuration::from_micros(row.get(1))))
    });
    Ok((locks, shared.collect()))
}

/// The locks of a scope that are remembered, ended ones too, those that last longest first.
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    scope: &LockScope,
    most: i64,
) -> Result<Vec<LockRow>, RegistryError> {
    let (name, network) = scope_texts(scope);
    let statement = format!(
        "SELECT device_name, address::text, failures,
                (extract(epoch FROM locked_until - clock_timestamp()) * 1000000)::bigint
         FROM login_locks
         WHERE locked_until > now() - {RETENTION} AND coalesce(device_name = $1, true)
           AND coalesce(address <<= $2::text::cidr, true)
         ORDER BY locked_until DESC, device_name, address LIMIT $3"
    );
    let rows = client.query(&statement, &[&name, &network, &most]).await.map_err(on_locks())?;
    let lock = |row: &tokio_postgres::Row| {
        let key = key(row.get(0), row.get::<_, &str>(1).parse().ok()?)?;
        let failures = u32::try_from(row.get::<_, i32>(2)).unwrap_or(0);
        Some(LockRow { key, failures, left: SignedDuration::from_micros(row.get(3)) })
    };
    Ok(rows.iter().filter_map(lock).collect())
}

fn scope_texts(scope: &LockScope) -> (Option<&str>, Option<String>) {
    (scope.name.as_ref().map(DeviceName::as_str), scope.address.map(|network| network.to_string()))
}

/// Clears locks: deletes the rows, and notifies every replica, which may have some that are not written
/// yet. Returns how many rows there were.
///
/// # Errors
/// A database that is away.
pub async fn clear(client: &impl GenericClient, scope: &LockScope) -> Result<u64, RegistryError> {
    let (name, network) = scope_texts(scope);
    let notice = serde_json::json!({"cleared": {"name": name, "address": network}}).to_string();
    let statement = "WITH told AS MATERIALIZED (SELECT pg_notify('fleetgate_lock', $3)),
             gone AS (DELETE FROM login_locks
                 WHERE coalesce(device_name = $1, true) AND coalesce(address <<= $2::text::cidr, true)
                 RETURNING locked_until > now() AS held)
         SELECT (SELECT count(*) FROM gone WHERE held) FROM told";
    let row = client.query_one(statement, &[&name, &network, &notice]).await.map_err(on_locks())?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Deletes what is over.
///
/// # Errors
/// A database that is away.
pub async fn prune(client: &impl GenericClient) -> Result<(), RegistryError> {
    let locks = format!("DELETE FROM login_locks WHERE locked_until < now() - {RETENTION}");
    client.execute(&locks, &[]).await.map_err(on_locks())?;
    let shared = "DELETE FROM shared_addresses WHERE shared_until < now()";
    client.execute(shared, &[]).await.map(drop).map_err(on_locks())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_and_what_is_none_is_passed_over() {
        let address = Address::of_peer("192.0.2.7").unwrap();
        let key = |name: Option<&str>| LockKey { name: name.map(|n| n.parse().unwrap()), address };
        let lock =
            r#"{"lock":{"name":"d","address":"192.0.2.7/32","failures":3,"left_micros":-5}}"#;
        let row =
            LockRow { key: key(Some("d")), failures: 3, left: SignedDuration::from_micros(-5) };
        assert_eq!(LockNotice::parse(lock), Some(LockNotice::Lock(row)));
        let ended = r#"{"ended":{"name":"","address":"192.0.2.7/32"}}"#;
        assert_eq!(LockNotice::parse(ended), Some(LockNotice::Ended(key(None))));
        let all = LockNotice::Cleared(LockScope::default());
        assert_eq!(LockNotice::parse(r#"{"cleared":{}}"#), Some(all));
        for other in ["", "{}", "x", r#"{"lock":{}}"#, r#"{"cleared":{"name":"a/b"}}"#] {
            assert_eq!(LockNotice::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_scope_contains_what_it_says() {
        let address = Address::of_peer("192.0.2.7").unwrap();
        let pair = LockKey { name: "d".parse().ok(), address };
        let whole = LockKey { name: None, address };
        let scope = |name: Option<&str>, network: Option<&str>| LockScope {
            name: name.map(|name| name.parse().unwrap()),
            address: network.map(|network| network.parse().unwrap()),
        };
        let both = |scope: LockScope| (scope.contains(&pair), scope.contains(&whole));
        assert_eq!(both(LockScope::default()), (true, true));
        assert_eq!(both(scope(Some("d"), None)), (true, false));
        assert_eq!(both(scope(Some("e"), None)), (false, false));
        assert_eq!(both(scope(None, Some("192.0.2.0/24"))), (true, true));
        assert_eq!(both(scope(Some("d"), Some("10.0.0.0/8"))), (false, false));
    }
}
