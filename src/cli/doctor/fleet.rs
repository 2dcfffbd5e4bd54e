//! Checks of what is in the registry.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, Row};

use super::finding::{Finding, counted};
use super::session::Session;
use crate::config::Tokens;
use crate::domain::password_hash::PasswordHash;
use crate::registry::error::RegistryError;

const HASHES: &str = "stored hashes";
const EXPIRING: &str = "expiring credentials";
const WITHOUT_CREDENTIAL: &str = "devices without credential";
const TOKENS: &str = "token credentials";
const LOCKS: &str = "locks of logins";
const SHARED_ADDRESSES: &str = "shared addresses";
const BROKER_CLOCKS: &str = "broker clocks";

/// From so many locks on somebody should look.
const MANY_LOCKS: usize = 50;

/// The checks of this module, in order.
pub(super) const CHECKS: [&str; 7] =
    [HASHES, EXPIRING, WITHOUT_CREDENTIAL, TOKENS, LOCKS, SHARED_ADDRESSES, BROKER_CLOCKS];

/// Most hashes that are read, the newest first: about a second.
const MOST_HASHES: i64 = 100_000;
/// Most devices that a finding names.
const MOST_NAMES: usize = 5;

pub(super) async fn examine(tokens: &Tokens, has_api: bool, session: &mut Session<'_>) {
    let client = session.client;
    session.check(HASHES, hashes(client)).await;
    session.check(EXPIRING, expiring(client)).await;
    session.check(WITHOUT_CREDENTIAL, without_credential(client)).await;
    session.check(TOKENS, token_credentials(client, tokens)).await;
    session.check(LOCKS, locks(client)).await;
    session.check(SHARED_ADDRESSES, shared_addresses(client)).await;
    session.check(BROKER_CLOCKS, broker_clocks(client, has_api)).await;
}

/// The constraint in `sql/` looks at the form only: costs out of bounds, for one, pass it.
async fn hashes(client: &Client) -> Result<Finding, RegistryError> {
    let on_hashes = || RegistryError::on(HASHES);
    let newest = "SELECT devices.name, newest.hash FROM (
             SELECT id, device_id, hash FROM device_credentials
             WHERE hash IS NOT NULL AND revoked_at IS NULL ORDER BY id DESC LIMIT $1) AS newest
         JOIN devices ON devices.id = newest.device_id";
    let rows = client.query_raw(newest, [MOST_HASHES]).await.map_err(on_hashes())?;
    let mut rows = pin!(rows);
    let (mut read, mut unusable) = (0, Devices::default());
    while let Some(row) = rows.try_next().await.map_err(on_hashes())? {
        read += 1;
        if PasswordHash::parse(row.get(1)).is_err() {
            unusable.add(&row);
        }
    }
    if unusable.count == 0 {
        return Ok(Finding::ok(HASHES, format!("{read} read, all usable")));
    }
    Ok(Finding::failure(
        HASHES,
        format!("{} of {read} allow no login, of {}", unusable.count, unusable.named()),
        "see `fleetgate credential list DEVICE`; revoke each and add another with `fleetgate \
         credential add`",
    ))
}

async fn expiring(client: &Client) -> Result<Finding, RegistryError> {
    let soon = select(
        client,
        EXPIRING,
        "SELECT devices.name, count(*) OVER () FROM device_credentials
         JOIN devices ON devices.id = device_id AND enabled
         WHERE revoked_at IS NULL AND expires_at > now() AND expires_at <= now() + interval '14 days'
         ORDER BY expires_at LIMIT $1",
    )
    .await?;
    if soon.count == 0 {
        return Ok(Finding::ok(EXPIRING, "none within 14 days"));
    }
    Ok(Finding::warning(
        EXPIRING,
        format!("{} within 14 days, first of {}", soon.count, soon.named()),
        "give the devices new ones in time with `fleetgate credential add`; old and new count side by \
         side",
    ))
}

/// A certificate that is only needed beside another credential lets nobody in by itself.
async fn without_credential(client: &Client) -> Result<Finding, RegistryError> {
    let without = select(
        client,
        WITHOUT_CREDENTIAL,
        "SELECT name, count(*) OVER () FROM devices
         WHERE enabled AND NOT EXISTS (
             SELECT 1 FROM device_credentials
             WHERE device_id = devices.id AND revoked_at IS NULL
               AND coalesce(not_before <= now(), true) AND coalesce(expires_at > now(), true)
               AND certificate_required IS NOT TRUE)
         ORDER BY name LIMIT $1",
    )
    .await?;
    if without.count == 0 {
        return Ok(Finding::ok(WITHOUT_CREDENTIAL, "every enabled device can log in"));
    }
    Ok(Finding::warning(
        WITHOUT_CREDENTIAL,
        format!("{} enabled but cannot log in: {}", without.count, without.named()),
        "give each a credential with `fleetgate credential add`, or disable it with `fleetgate device \
         disable`",
    ))
}

async fn token_credentials(client: &Client, tokens: &Tokens) -> Result<Finding, RegistryError> {
    let accepting = select(
        client,
        TOKENS,
        "SELECT devices.name, count(*) OVER () FROM device_credentials
         JOIN devices ON devices.id = device_id AND enabled
         WHERE device_credentials.kind = 'token' AND revoked_at IS NULL
           AND coalesce(expires_at > now(), true)
         ORDER BY devices.name LIMIT $1",
    )
    .await?;
    let found = format!("{} accepting device tokens", counted(accepting.count, "device"));
    if accepting.count == 0 || !tokens.verification_keys.is_empty() {
        return Ok(Finding::ok(TOKENS, found));
    }
    Ok(Finding::warning(
        TOKENS,
        format!("{found}, but there is no key to check them with: {}", accepting.named()),
        "set tokens.verification_keys to the public half of the signing key (`fleetgate token key show`)",
    ))
}

/// Names that were tried may be made up: they are shown as text.
async fn locks(client: &Client) -> Result<Finding, RegistryError> {
    let held = select(
        client,
        LOCKS,
        "SELECT concat_ws(' from ', nullif(device_name, ''), host(address)), count(*) OVER ()
         FROM login_locks WHERE locked_until > now() ORDER BY locked_until DESC LIMIT $1",
    )
    .await?;
    let found = match held.count {
        0 => return Ok(Finding::ok(LOCKS, "no locks")),
        1 => format!("1 lock after wrong passwords: {}", held.named()),
        count => format!("{count} locks after wrong passwords: {}", held.named()),
    };
    if held.count < MANY_LOCKS {
        return Ok(Finding::ok(LOCKS, found));
    }
    Ok(Finding::warning(
        LOCKS,
        found,
        "somebody guesses passwords, see `fleetgate lock list`: block the addresses in front of EMQX, and \
         give devices generated secrets, which never wait; docs/LIMITS.md",
    ))
}

async fn shared_addresses(client: &Client) -> Result<Finding, RegistryError> {
    let shared = select(
        client,
        SHARED_ADDRESSES,
        "SELECT host(address), count(*) OVER () FROM shared_addresses
         WHERE shared_until > now() ORDER BY shared_until DESC LIMIT $1",
    )
    .await?;
    if shared.count == 0 {
        return Ok(Finding::ok(SHARED_ADDRESSES, "none with more than 20 devices within an hour"));
    }
    let found = format!(
        "more than 20 devices within an hour come from {}: guesses are not limited by address there. \
         That is right for NAT; behind a proxy, have EMQX's listener tell the clients' own \
         (proxy_protocol), or name it in logins.exempt_networks",
        shared.named()
    );
    Ok(Finding::ok(SHARED_ADDRESSES, found))
}

/// Events stamped further ahead than clocks may differ, of devices that have not sent others since.
async fn broker_clocks(client: &Client, has_api: bool) -> Result<Finding, RegistryError> {
    let ahead = select(
        client,
        BROKER_CLOCKS,
        "SELECT name, count(*) OVER () FROM untrusted_timestamps JOIN devices ON id = device_id
         ORDER BY noted_at DESC, name LIMIT $1",
    )
    .await?;
    if ahead.count == 0 {
        return Ok(Finding::ok(BROKER_CLOCKS, "no device's events are stamped ahead of time"));
    }
    let most = i64::try_from(MOST_NAMES).unwrap_or(i64::MAX);
    let nodes = client
        .query(
            "SELECT coalesce(node, 'unknown'), extract(epoch FROM max(ahead))::float8
             FROM untrusted_timestamps GROUP BY node ORDER BY max(noted_at) DESC LIMIT $1",
            &[&most],
        )
        .await
        .map_err(RegistryError::on(BROKER_CLOCKS))?;
    let nodes = nodes.iter().map(|row| {
        let (node, seconds): (String, f64) = (row.get(0), row.get(1));
        format!("{node:?} by {} at most", about(seconds))
    });
    let nodes = nodes.collect::<Vec<_>>().join(", ");
    Ok(Finding::warning(
        BROKER_CLOCKS,
        format!(
            "the last events of {} were stamped ahead of the database's clock: {}; told by the \
             broker node {nodes}",
            counted(ahead.count, "device"),
            ahead.named(),
        ),
        format!(
            "let NTP set the clocks of the broker nodes and of the database; what came meanwhile is put \
             right by each device's next event{}",
            if has_api { ", and by `fleetgate sweep`" } else { "" }
        ),
    ))
}

/// A time in the unit that people would say it in.
fn about(seconds: f64) -> String {
    const UNITS: [(f64, &str); 2] = [(86_400.0, "days"), (3_600.0, "hours")];
    let unit = UNITS.into_iter().find(|(length, _)| seconds >= 2.0 * length);
    let (length, name) = unit.unwrap_or((60.0, "minutes"));
    format!("{:.0} {name}", seconds / length)
}

/// How many devices there are, and the first of them.
#[derive(Default)]
struct Devices {
    count: usize,
    first: Vec<String>,
}

impl Devices {
    fn add(&mut self, row: &Row) {
        self.count += 1;
        if self.first.len() < MOST_NAMES {
            self.first.push(format!("{:?}", row.get::<_, &str>(0)));
        }
    }

    fn named(&self) -> String {
        let more = if self.count > self.first.len() { ", …" } else { "" };
        format!("{}{more}", self.first.join(", "))
    }
}

/// Asks for names, of which only the first come, and how many there are.
async fn select(
    client: &Client,
    check: &'static str,
    query: &str,
) -> Result<Devices, RegistryError> {
    let most = i64::try_from(MOST_NAMES).unwrap_or(i64::MAX);
    let rows = client.query(query, &[&most]).await.map_err(RegistryError::on(check))?;
    let count = rows.first().map_or(0, |row| row.get::<_, i64>(1));
    let mut devices = Devices::default();
    rows.iter().for_each(|row| devices.add(row));
    devices.count = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_unit_that_people_use() {
        assert_eq!(about(600.0), "10 minutes");
        assert_eq!(about(100_000.0), "28 hours");
        assert_eq!(about(864_000.0), "10 days");
    }
}
