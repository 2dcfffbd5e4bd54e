//! Checks of the server and the way to it.

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio_postgres::Client;

use super::finding::{Finding, Report};
use super::session::Session;
use super::{Clock, LIMIT};
use crate::config::Database;
use crate::registry::connection::{Target, within};
use crate::registry::error::RegistryError;
use crate::registry::inspection::{self, OLDEST_SERVER};
use crate::secret::random_bytes;

const DATABASE: &str = "database";
const SERVER_VERSION: &str = "server version";
const CLOCK: &str = "clock";
const CONNECTIONS: &str = "connections";
const LISTEN: &str = "listen and notify";

/// The checks of this module, in order.
pub(super) const CHECKS: [&str; 5] = [DATABASE, SERVER_VERSION, CLOCK, CONNECTIONS, LISTEN];

/// A login that is not in memory waits for one query; more than this is felt when a fleet reconnects.
const SLOW_QUERY: Duration = Duration::from_millis(50);
/// Tokens and expiries are judged by the clock of this machine.
const SKEW_TO_MENTION: Duration = Duration::from_secs(1);
const SKEW_TO_REFUSE: Duration = Duration::from_secs(30);
/// A connection, and how to open another.
pub(super) struct Connected {
    pub(super) client: Client,
    target: Target,
}

/// Connects, and reports how that went.
pub(super) async fn open(settings: &Database, report: &mut Report) -> Option<Connected> {
    match connect(settings).await {
        Ok((connected, finding)) => {
            report.add(finding);
            Some(connected)
        }
        Err(error) => {
            report.add(Finding::error(DATABASE, error));
            None
        }
    }
}

async fn connect(settings: &Database) -> Result<(Connected, Finding), RegistryError> {
    // As requests do; and what is given up here does not go on for long on the server.
    let target = Target::new(settings)?.for_look_ups(LIMIT);
    let began = Instant::now();
    let (client, _) = target.open(None).await?;
    let connecting = began.elapsed();
    let began = Instant::now();
    within(LIMIT, inspection::ping(&client)).await?;
    let finding = latency(connecting, began.elapsed());
    Ok((Connected { client, target }, finding))
}

fn latency(connecting: Duration, query: Duration) -> Finding {
    let found = format!("connected in {connecting:.1?}, a query takes {query:.1?}");
    if query <= SLOW_QUERY {
        return Finding::ok(DATABASE, found);
    }
    let remedy = "every login of a device that is not in memory waits this long: bring fleetgate and \
                  PostgreSQL closer together";
    Finding::warning(DATABASE, found, remedy)
}

pub(super) async fn examine(
    connected: &Connected,
    (pool_size, further): (usize, usize),
    clock: &Clock,
    session: &mut Session<'_>,
) {
    let client = &connected.client;
    session.check(SERVER_VERSION, server_version(client)).await;
    session.check(CLOCK, clock_skew(client, clock)).await;
    session.check(CONNECTIONS, connections(client, pool_size, further)).await;
    session.check(LISTEN, listen(connected)).await;
}

async fn server_version(client: &Client) -> Result<Finding, RegistryError> {
    let (number, version) = inspection::server_version(client).await?;
    if number >= OLDEST_SERVER {
        return Ok(Finding::ok(SERVER_VERSION, format!("PostgreSQL {version}")));
    }
    let found = format!("PostgreSQL {version} is older than {OLDEST_SERVER}");
    Ok(Finding::failure(SERVER_VERSION, found, "upgrade PostgreSQL, or use another server"))
}

/// The database's answer lies somewhere between question and answer: half of that is uncertain.
async fn clock_skew(client: &Client, clock: &Clock) -> Result<Finding, RegistryError> {
    let asked = clock.now();
    let database = inspection::clock(client).await?;
    let round_trip = clock.now().duration_since(asked);
    Ok(skew(asked.duration_since(database) + round_trip / 2, round_trip))
}

fn skew(ahead: SignedDuration, round_trip: SignedDuration) -> Finding {
    let size = ahead.unsigned_abs();
    let certain = size.saturating_sub(round_trip.unsigned_abs() / 2);
    let direction = if ahead.is_negative() { "behind" } else { "ahead of" };
    let found = format!("this machine is {size:.1?} {direction} the database");
    let remedy = "tokens and expiries are judged by this machine's clock: let both machines keep time \
                  by NTP (timedatectl set-ntp true)";
    if certain > SKEW_TO_REFUSE {
        Finding::failure(CLOCK, found, remedy)
    } else if certain > SKEW_TO_MENTION {
        Finding::warning(CLOCK, found, remedy)
    } else {
        Finding::ok(CLOCK, found)
    }
}

async fn connections(
    client: &Client,
    pool_size: usize,
    further: usize,
) -> Result<Finding, RegistryError> {
    Ok(room(pool_size, further, inspection::connection_limit(client).await?))
}

fn room(pool_size: usize, further: usize, available: usize) -> Finding {
    let needed = pool_size + further;
    let found =
        format!("a replica uses up to {needed} (database.pool_size + {further}) of {available}");
    let remedy = "raise max_connections in PostgreSQL (or the limit of the role or database), or lower \
                  database.pool_size";
    if needed > available {
        Finding::failure(CONNECTIONS, found, remedy)
    } else if needed * 2 > available {
        Finding::warning(CONNECTIONS, format!("{found}; a second replica has no room"), remedy)
    } else {
        Finding::ok(CONNECTIONS, found)
    }
}

/// Listens on one connection and notifies on another, as a change by another process does. The
/// channel is one that no replica listens to.
async fn listen(connected: &Connected) -> Result<Finding, RegistryError> {
    let channel = format!("fleetgate_doctor_{:016x}", u64::from_ne_bytes(random_bytes()));
    let (listener, mut notifications) = connected.target.open_listener().await?;
    inspection::listen(&listener, &channel).await?;
    let began = Instant::now();
    inspection::notify(&connected.client, &channel).await?;
    let heard = tokio::time::timeout(LIMIT / 2, notifications.recv()).await;
    Ok(match heard {
        Ok(Some(_)) => {
            Finding::ok(LISTEN, format!("a notification arrives after {:.1?}", began.elapsed()))
        }
        _ => Finding::failure(
            LISTEN,
            "a notification of our own did not arrive: changes would not be noticed",
            "connect straight to PostgreSQL, or through a pooler in session mode (PgBouncer's \
             transaction mode loses LISTEN)",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn clocks_apart() {
        let ms = SignedDuration::from_millis;
        assert_eq!(skew(ms(900), ms(0)).status, Status::Ok);
        assert_eq!(skew(ms(-1500), ms(0)).status, Status::Warning);
        assert!(skew(ms(-1500), ms(0)).found.contains("1.5s behind"));
        assert_eq!(skew(ms(31_000), ms(0)).status, Status::Failure);
        // Half of a slow answer may explain it.
        assert_eq!(skew(ms(1500), ms(2000)).status, Status::Ok);
    }

    #[test]
    fn room_for_replicas() {
        assert_eq!(room(1, 8, 97).status, Status::Ok);
        assert_eq!(room(1, 8, 17).status, Status::Warning);
        assert_eq!(room(1, 8, 8).status, Status::Failure);
    }

    #[test]
    fn a_far_database_is_worth_a_word() {
        let (near, far) = (Duration::from_millis(1), Duration::from_millis(80));
        assert_eq!(latency(near, near).status, Status::Ok);
        assert_eq!(latency(near, far).status, Status::Warning);
    }
}
