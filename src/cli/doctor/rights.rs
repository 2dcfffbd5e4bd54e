//! Checks of rights that were taken away: do their sessions end, and do the replicas hear of it?

use std::time::Duration;

use tokio_postgres::Client;

use super::finding::{Finding, counted};
use super::session::Session;
use crate::registry::error::RegistryError;
use crate::registry::kickouts::{self, Waiting};
use crate::registry::replicas;

const KICK_OUTS: &str = "kick-outs";
const REPLICAS: &str = "replicas";

/// The checks of this module, in order.
pub(super) const CHECKS: [&str; 2] = [KICK_OUTS, REPLICAS];

/// What has waited for less is under way.
const UNDER_WAY: Duration = Duration::from_secs(30);
/// Most client ids that a finding names.
const MOST_NAMES: i64 = 5;

pub(super) async fn examine(has_api: bool, session: &mut Session<'_>) {
    let client = session.client;
    session.check(KICK_OUTS, kick_outs(client, has_api)).await;
    session.check(REPLICAS, hearing(client)).await;
}

async fn kick_outs(client: &Client, has_api: bool) -> Result<Finding, RegistryError> {
    let (count, oldest) = kickouts::oldest(client, UNDER_WAY, MOST_NAMES).await?;
    Ok(finding_of(usize::try_from(count).unwrap_or(usize::MAX), &oldest, has_api))
}

fn finding_of(count: usize, oldest: &[Waiting], has_api: bool) -> Finding {
    if count == 0 {
        return Finding::ok(KICK_OUTS, "none waiting");
    }
    let named: Vec<String> = oldest.iter().map(described).collect();
    let more = if count > oldest.len() { "; …" } else { "" };
    let found = format!(
        "{} may still have rights that were taken away: {}{more}",
        counted(count, "client"),
        named.join("; ")
    );
    if has_api {
        let remedy = "a running `fleetgate serve` goes on trying; make EMQX's API answer (see the checks of \
                      EMQX), or disconnect them in EMQX's dashboard";
        Finding::failure(KICK_OUTS, found, remedy)
    } else {
        let remedy = "without emqx.api_url nothing ends their sessions: set it, or disconnect them in EMQX's \
                      dashboard; emqx.max_session bounds sessions to come";
        Finding::warning(KICK_OUTS, found, remedy)
    }
}

fn described(waiting: &Waiting) -> String {
    let Waiting { client_id, reason, changed_at, attempts, last_error } = waiting;
    let attempts = usize::try_from(*attempts).unwrap_or(0);
    let tried = last_error.as_ref();
    let tried = tried.map(|error| format!(", {}: {error}", counted(attempts, "attempt")));
    format!("{client_id:?} ({reason}, since {changed_at:.0}{})", tried.unwrap_or_default())
}

async fn hearing(client: &Client) -> Result<Finding, RegistryError> {
    let (count, deaf) = replicas::deaf(client).await?;
    if deaf.is_empty() {
        return Ok(Finding::ok(REPLICAS, format!("{count} known, all hear of changes")));
    }
    let named: Vec<String> =
        deaf.iter().map(|replica| format!("{} ({:.0} s)", replica.id, replica.seconds)).collect();
    let found =
        format!("{} of {count} not known to hear of changes: {}", deaf.len(), named.join(", "));
    let remedy = "its log and /readyz say why. One that was killed is forgotten after twice \
                  cache.max_staleness; until then kick-outs are repeated";
    Ok(Finding::warning(REPLICAS, found, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    fn waiting(client_id: &str, last_error: Option<&str>) -> Waiting {
        Waiting {
            client_id: client_id.to_owned(),
            reason: "device_disabled".to_owned(),
            changed_at: "2026-11-26T01:02:03.4Z".parse().unwrap(),
            attempts: 3,
            last_error: last_error.map(str::to_owned),
        }
    }

    #[test]
    fn what_waits_is_named_with_reason_age_and_last_error() {
        assert_eq!(finding_of(0, &[], true).status, Status::Ok);
        let oldest = [waiting("a\nb", Some("EMQX is away")), waiting("c", None)];
        let finding = finding_of(7, &oldest, true);
        assert_eq!(finding.status, Status::Failure);
        let said = "7 clients may still have rights that were taken away: \"a\\nb\" (device_disabled, \
                    since 2026-11-26T01:02:03Z, 3 attempts: EMQX is away); \"c\" (device_disabled, \
                    since 2026-11-26T01:02:03Z); …";
        assert_eq!(finding.found, said);
        let without = finding_of(1, &[waiting("c", None)], false);
        assert_eq!(without.status, Status::Warning);
        assert!(without.remedy.is_some_and(|remedy| remedy.contains("emqx.api_url")));
    }
}
