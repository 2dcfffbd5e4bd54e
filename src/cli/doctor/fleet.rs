//! Checks of what is in the registry.

use tokio_postgres::Client;

use super::finding::{Finding, counted};
use super::session::Session;
use crate::cli::output::timestamp;
use crate::config::Tokens;
use crate::fleet::checks::{
    self, ClocksAhead, EXPIRING_DAYS, Hashes, Imported, Named, UnusableSchema,
};
use crate::fleet::commands;
use crate::registry::error::RegistryError;

const HASHES: &str = "stored hashes";
const IMPORTED: &str = "imported credentials";
const EXPIRING: &str = "expiring credentials";
const WITHOUT_CREDENTIAL: &str = "devices without credential";
const TOKENS: &str = "token credentials";
const LOCKS: &str = "locks of logins";
const SHARED_ADDRESSES: &str = "shared addresses";
const BROKER_CLOCKS: &str = "broker clocks";
const SHARED_TOPICS: &str = "shared command topics";
const RESULTS: &str = "results of commands";
const PAUSES: &str = "paused commands";
const SCHEMAS: &str = "capability schemas";

/// Most capabilities that a finding names.
const MOST_NAMED: usize = 5;

/// From so many locks on somebody should look.
const MANY_LOCKS: usize = 50;

/// The checks of this module, in order.
pub(super) const CHECKS: [&str; 12] = [
    HASHES,
    IMPORTED,
    EXPIRING,
    WITHOUT_CREDENTIAL,
    TOKENS,
    LOCKS,
    SHARED_ADDRESSES,
    BROKER_CLOCKS,
    SHARED_TOPICS,
    RESULTS,
    PAUSES,
    SCHEMAS,
];

pub(super) async fn examine(tokens: &Tokens, has_api: bool, session: &mut Session<'_>) {
    let client = session.client;
    session.check(HASHES, hashes(client)).await;
    session.check(IMPORTED, imported(client)).await;
    session.check(EXPIRING, expiring(client)).await;
    session.check(WITHOUT_CREDENTIAL, without_credential(client)).await;
    session.check(TOKENS, token_credentials(client, tokens)).await;
    session.check(LOCKS, locks(client)).await;
    session.check(SHARED_ADDRESSES, shared_addresses(client)).await;
    session.check(BROKER_CLOCKS, broker_clocks(client, has_api)).await;
    session.check(SHARED_TOPICS, shared_topics(client)).await;
    session.check(RESULTS, results(client)).await;
    session.check(PAUSES, pauses(client)).await;
    session.check(SCHEMAS, schemas(client)).await;
}

async fn hashes(client: &Client) -> Result<Finding, RegistryError> {
    let Hashes { read, unusable } = checks::hashes(client).await?;
    if unusable.count == 0 {
        return Ok(Finding::ok(HASHES, format!("{read} read, all usable")));
    }
    Ok(Finding::failure(
        HASHES,
        format!("{} of {read} allow no login, of {}", unusable.count, names(&unusable)),
        "see `fleetgate credential list DEVICE`; revoke each and add another with `fleetgate \
         credential add`",
    ))
}

async fn imported(client: &Client) -> Result<Finding, RegistryError> {
    let Imported { all, weak } = checks::imported(client).await?;
    if all.count == 0 {
        return Ok(Finding::ok(IMPORTED, "none that still has another broker's hash"));
    }
    let found = format!(
        "{} with another broker's hash, not used since: {}",
        counted(all.count, "credential"),
        names(&all)
    );
    if weak == 0 {
        return Ok(Finding::ok(IMPORTED, found));
    }
    Ok(Finding::warning(
        IMPORTED,
        format!(
            "{found}; {weak} of a kind whose passwords are cheap to guess for whoever reads the table"
        ),
        "each gets a better hash with the first login; revoke those that nobody needs: `fleetgate credential list --foreign`",
    ))
}

async fn expiring(client: &Client) -> Result<Finding, RegistryError> {
    let soon = checks::expiring(client).await?;
    if soon.count == 0 {
        return Ok(Finding::ok(EXPIRING, format!("none within {EXPIRING_DAYS} days")));
    }
    Ok(Finding::warning(
        EXPIRING,
        format!("{} within {EXPIRING_DAYS} days, first of {}", soon.count, names(&soon)),
        "give the devices new ones in time with `fleetgate credential add`; old and new are valid side by \
         side",
    ))
}

async fn without_credential(client: &Client) -> Result<Finding, RegistryError> {
    let without = checks::without_credential(client).await?;
    if without.count == 0 {
        return Ok(Finding::ok(WITHOUT_CREDENTIAL, "every enabled device can log in"));
    }
    Ok(Finding::warning(
        WITHOUT_CREDENTIAL,
        format!("{} enabled but cannot log in: {}", without.count, names(&without)),
        "give each a credential with `fleetgate credential add`, or disable it with `fleetgate device \
         disable`",
    ))
}

async fn token_credentials(client: &Client, tokens: &Tokens) -> Result<Finding, RegistryError> {
    let accepting = checks::accepting_tokens(client).await?;
    let found = format!("{} accepting device tokens", counted(accepting.count, "device"));
    if accepting.count == 0 || !tokens.verification_keys.is_empty() {
        return Ok(Finding::ok(TOKENS, found));
    }
    Ok(Finding::warning(
        TOKENS,
        format!("{found}, but there is no key to check them with: {}", names(&accepting)),
        "set tokens.verification_keys to the public half of the signing key (`fleetgate token key show`)",
    ))
}

async fn locks(client: &Client) -> Result<Finding, RegistryError> {
    let held = checks::locks(client).await?;
    let found = match held.count {
        0 => return Ok(Finding::ok(LOCKS, "no locks")),
        1 => format!("1 lock after wrong passwords: {}", names(&held)),
        count => format!("{count} locks after wrong passwords: {}", names(&held)),
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
    let shared = checks::shared_addresses(client).await?;
    if shared.count == 0 {
        return Ok(Finding::ok(SHARED_ADDRESSES, "none with more than 20 devices within an hour"));
    }
    let found = format!(
        "more than 20 devices within an hour come from {}: guesses are not limited by address there. \
         That is right for NAT; behind a proxy, have EMQX's listener tell the clients' own \
         (proxy_protocol), or name it in logins.exempt_networks",
        names(&shared)
    );
    Ok(Finding::ok(SHARED_ADDRESSES, found))
}

async fn shared_topics(client: &Client) -> Result<Finding, RegistryError> {
    let shared = checks::shared_topics(client).await?;
    let found = match shared.count {
        0 => "none, each device has its own".to_owned(),
        count => format!(
            "{} with several devices, each of which gets what is sent to any of them: {}",
            counted(count, "topic"),
            names(&shared)
        ),
    };
    Ok(Finding::ok(SHARED_TOPICS, found))
}

async fn results(client: &Client) -> Result<Finding, RegistryError> {
    let hearing = checks::hearing_results(client).await?;
    let found = match hearing.count {
        0 => "only the service that asked hears them".to_owned(),
        count => format!(
            "{} may hear those of other services, because of a wider grant: {}",
            counted(count, "device"),
            names(&hearing)
        ),
    };
    Ok(Finding::ok(RESULTS, found))
}

async fn pauses(client: &Client) -> Result<Finding, RegistryError> {
    let pauses = commands::pauses(client).await?;
    if pauses.is_empty() {
        return Ok(Finding::ok(PAUSES, "none"));
    }
    let pauses = pauses.iter().map(|pause| {
        let whose =
            pause.capability.as_ref().map_or("all".to_owned(), |name| format!("of {name:?}"));
        format!("{whose} since {} by {}", timestamp(Some(pause.paused_at)), pause.paused_by)
    });
    Ok(Finding::warning(
        PAUSES,
        pauses.collect::<Vec<_>>().join(", "),
        "what waits expires meanwhile; end it with `fleetgate command resume`, with `--capability` where one is named",
    ))
}

async fn broker_clocks(client: &Client, has_api: bool) -> Result<Finding, RegistryError> {
    let ClocksAhead { devices, nodes } = checks::clocks_ahead(client).await?;
    if devices.count == 0 {
        return Ok(Finding::ok(BROKER_CLOCKS, "no device's events are stamped ahead of time"));
    }
    let nodes = nodes.iter().map(|(node, ahead)| {
        let node = node.as_deref().unwrap_or("unknown");
        format!("{node:?} by {} at most", about(ahead.as_secs_f64()))
    });
    let nodes = nodes.collect::<Vec<_>>().join(", ");
    Ok(Finding::warning(
        BROKER_CLOCKS,
        format!(
            "the last events of {} were stamped ahead of the database's clock: {}; told by the \
             broker node {nodes}",
            counted(devices.count, "device"),
            names(&devices),
        ),
        format!(
            "let NTP set the clocks of the broker nodes and of the database; what came meanwhile is put \
             right by each device's next event{}",
            if has_api { ", and by `fleetgate sweep`" } else { "" }
        ),
    ))
}

/// `capability add` and `set` refuse what does not compile; somebody in `psql` can write it.
async fn schemas(client: &Client) -> Result<Finding, RegistryError> {
    let found = checks::schemas(client).await?;
    if found.unusable.is_empty() {
        return Ok(Finding::ok(SCHEMAS, format!("{} compiled, all usable", found.read)));
    }
    let named = found.unusable.iter().take(MOST_NAMED).map(|unusable| {
        let UnusableSchema { capability, what, devices, error } = unusable;
        format!("the {what} schema of {capability:?} ({devices} devices): {error}")
    });
    let named = named.collect::<Vec<_>>().join("; ");
    let more = if found.unusable.len() > MOST_NAMED { "; …" } else { "" };
    Ok(Finding::failure(
        SCHEMAS,
        format!("{} cannot be used: {named}{more}", found.unusable.len()),
        "no report of such a state is stored until `fleetgate capability set NAME --state-schema FILE` \
         (or --no-state-schema) mends it",
    ))
}

/// A time in the unit that people would say it in.
fn about(seconds: f64) -> String {
    const UNITS: [(f64, &str); 2] = [(86_400.0, "days"), (3_600.0, "hours")];
    let unit = UNITS.into_iter().find(|(length, _)| seconds >= 2.0 * length);
    let (length, name) = unit.unwrap_or((60.0, "minutes"));
    format!("{:.0} {name}", seconds / length)
}

/// The first names as text, quoted: they may be made up.
fn names(named: &Named) -> String {
    let more = if named.count > named.first.len() { ", …" } else { "" };
    let quoted: Vec<String> = named.first.iter().map(|name| format!("{name:?}")).collect();
    format!("{}{more}", quoted.join(", "))
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
