//! Checks of EMQX's configuration, against the same target as `fleetgate emqx apply`.

use serde_json::Value;

use super::super::LIMIT;
use super::super::finding::{Finding, Report};
use super::evidence;
use crate::emqx::EmqxApi;
use crate::emqx::setup::{
    Change, Difference, Kind, Setup, SetupError, Step, Target, USUAL_URL, fleetgate_url, shown,
    without_secrets,
};
use crate::secret::Secret;

const AUTHENTICATOR: &str = "EMQX authenticator";
const SETTINGS: &str = "EMQX authorization";
const SOURCES: &str = "EMQX sources";
const CONNECTOR: &str = "EMQX connector";
const ACTION: &str = "EMQX action";
const RULES: &str = "EMQX rules";
const TOKEN: &str = "EMQX's token";
const LIMITS: &str = "EMQX's limits";

/// The checks of this module, in order.
pub(super) const CHECKS: [&str; 8] =
    [AUTHENTICATOR, SETTINGS, SOURCES, CONNECTOR, ACTION, RULES, TOKEN, LIMITS];

/// What differs by taste or at a cost; everything else that differs is broken.
const TUNING: [&str; 9] = [
    "pool_size",
    "pool_type",
    "enable_pipelining",
    "request_timeout",
    "request_ttl",
    "health_check_interval",
    "inflight_window",
    "max_buffer_bytes",
    "deny_action",
];

const OLD_RIGHTS: &str = "EMQX goes on with rights that were taken away until it forgets them";

/// Runs all checks. The token is only needed where EMQX does not hide its own.
pub(super) async fn examine(api: &EmqxApi, token: Secret, report: &mut Report) {
    // All parts must agree with where EMQX takes Fleetgate to be.
    let fleetgate = match fleetgate_url(api).await {
        Ok(url) => url.unwrap_or_else(|| USUAL_URL.to_owned()),
        Err(error) => {
            report.add(Finding::error(AUTHENTICATOR, error));
            return report.skip(CHECKS.get(1..).unwrap_or_default(), "see above");
        }
    };
    let target = Target::new(&fleetgate, token);
    let (setup, fleetgate) = (Setup::new(api, &target, false), without_secrets(&fleetgate));
    let broker = Broker { api, setup, target: &target, fleetgate };
    for (position, check) in CHECKS.into_iter().enumerate() {
        let finding = match tokio::time::timeout(LIMIT, broker.findings(check)).await {
            Ok(Ok(findings)) => {
                findings.into_iter().for_each(|finding| report.add(finding));
                continue;
            }
            Ok(Err(error)) => Finding::error(check, error),
            Err(_) => Finding::failure(
                check,
                format!("no answer within {LIMIT:?}"),
                "look at EMQX's load, and at the network",
            ),
        };
        report.add(finding);
        let rest = CHECKS.get(position + 1..).unwrap_or_default();
        return report.skip(rest, "EMQX stopped answering, see above");
    }
}

struct Broker<'a> {
    api: &'a EmqxApi,
    setup: Setup<'a>,
    target: &'a Target,
    fleetgate: String,
}

impl Broker<'_> {
    async fn findings(&self, check: &'static str) -> Result<Vec<Finding>, SetupError> {
        match check {
            AUTHENTICATOR => self.authenticator().await,
            SETTINGS => {
                let steps = [Step::Settings, Step::ActionCache];
                let found = "no_match is deny, no cache";
                Ok(or_ok(check, found, self.finding_of(check, &steps).await?))
            }
            SOURCES => self.sources().await,
            CONNECTOR => {
                let is = self.setup.current(&self.target.connector()).await?;
                self.reporting(check, Step::Connector, is).await
            }
            ACTION => {
                let is = self.setup.current(&self.target.action()).await?;
                self.reporting(check, Step::Action, is).await
            }
            RULES => {
                let steps = [Step::PresenceRule, Step::MessageRule, Step::CommandRule];
                let found =
                    "connects, disconnects, messages and what becomes of commands are reported";
                Ok(or_ok(check, found, self.finding_of(check, &steps).await?))
            }
            TOKEN => evidence::token(check, self.api).await.map(|finding| vec![finding]),
            _ => self.limits(check).await,
        }
    }

    async fn limits(&self, check: &'static str) -> Result<Vec<Finding>, SetupError> {
        let hazards = self.setup.hazards().await?.into_iter();
        let findings = hazards.map(|hazard| Finding::warning(check, hazard.found, hazard.remedy));
        Ok(or_ok(check, "none by which a stranger keeps devices out", findings.collect()))
    }

    async fn authenticator(&self) -> Result<Vec<Finding>, SetupError> {
        let steps = [Step::LoginCache, Step::Authenticator, Step::AuthenticatorFirst];
        let mut findings = self.finding_of(AUTHENTICATOR, &steps).await?;
        let path = "authentication/password_based:http/status";
        findings.extend(self.connected(AUTHENTICATOR, evidence::read(self.api, path).await?));
        findings.extend(self.set_up_by_others(AUTHENTICATOR, "authenticator").await?);
        let found = format!("enabled, first, and connected to {}", self.fleetgate);
        Ok(or_ok(AUTHENTICATOR, &found, findings))
    }

    async fn sources(&self) -> Result<Vec<Finding>, SetupError> {
        let steps = [Step::Source, Step::SourceFirst, Step::NoFile];
        let mut findings = self.finding_of(SOURCES, &steps).await?;
        let path = "authorization/sources/http/status";
        findings.extend(self.connected(SOURCES, evidence::read(self.api, path).await?));
        findings.extend(self.set_up_by_others(SOURCES, "authorization source").await?);
        Ok(or_ok(SOURCES, "http is enabled, alone, and connected", findings))
    }

    /// A part that reports events tells its own status.
    async fn reporting(
        &self,
        check: &'static str,
        step: Step,
        is: Option<Value>,
    ) -> Result<Vec<Finding>, SetupError> {
        let mut findings = self.finding_of(check, &[step]).await?;
        findings.extend(self.connected(check, is));
        Ok(or_ok(check, "enabled and connected", findings))
    }

    /// What `emqx apply` would do about these steps, as findings.
    async fn finding_of(
        &self,
        check: &'static str,
        steps: &[Step],
    ) -> Result<Vec<Finding>, SetupError> {
        let mut findings = Vec::new();
        for step in steps {
            let change = self.setup.plan(*step).await?;
            findings.extend(change.map(|change| self.finding(check, *step, &change)));
        }
        Ok(findings)
    }

    fn finding(&self, check: &'static str, step: Step, change: &Change) -> Finding {
        let name = change.name;
        let found = match change.kind {
            Kind::Create => format!("EMQX has no {name}"),
            Kind::Move => format!("{name} is not the first: another one decides before it"),
            Kind::Delete => format!("{name} decides whatever Fleetgate does not"),
            Kind::Replace => {
                let fields: Vec<_> =
                    change.fields.iter().map(|field| in_words(step, field)).collect();
                format!("{name}: {}", fields.join("; "))
            }
        };
        let harmless = match change.kind {
            Kind::Replace => step == Step::ActionCache || change.fields.iter().all(is_tuning),
            Kind::Delete => !change.fields.iter().any(allows_all),
            Kind::Create | Kind::Move => false,
        };
        let (apply, url) = ("run `fleetgate emqx apply", &self.fleetgate);
        let remedy = match &change.others {
            None => format!("{apply} --fleetgate-url {url}` (first with --dry-run)"),
            Some(_) => format!(
                "it asks another service: if nobody needs that, {apply} --fleetgate-url {url} \
                 --replace-others` (first with --dry-run)"
            ),
        };
        match harmless {
            true => Finding::warning(check, found, remedy),
            false => Finding::failure(check, found, remedy),
        }
    }

    /// What EMQX says of its connections; nothing where there is nothing to connect.
    fn connected(&self, check: &'static str, status: Option<Value>) -> Option<Finding> {
        let status = status?;
        let word = status.get("status").and_then(Value::as_str).unwrap_or("unknown");
        let errors = status.get("node_error").and_then(Value::as_array);
        let reason = status.get("status_reason").and_then(Value::as_str).unwrap_or_default();
        if word == "connected" && errors.is_none_or(Vec::is_empty) {
            return None;
        }
        let errors = errors.filter(|errors| !errors.is_empty());
        let errors =
            errors.map(|errors| Value::Array(errors.clone()).to_string()).unwrap_or_default();
        let found = format!("status {word} {reason}{errors}");
        let remedy = format!(
            "check that Fleetgate runs and that EMQX reaches {}; until then {}",
            self.fleetgate,
            if check == SOURCES || check == AUTHENTICATOR {
                "every client is refused"
            } else {
                "events wait in EMQX's memory"
            },
        );
        Some(Finding::failure(check, found.trim(), remedy))
    }

    async fn set_up_by_others(
        &self,
        check: &'static str,
        kind: &str,
    ) -> Result<Vec<Finding>, SetupError> {
        let strangers = self.setup.set_up_by_others().await?.into_iter();
        let ours = strangers.filter(|stranger| stranger.starts_with(kind));
        Ok(ours
            .map(|stranger| {
                let found = format!("{stranger} decides whenever Fleetgate does not");
                Finding::warning(check, found, "take it out in EMQX's dashboard if nobody needs it")
            })
            .collect())
    }
}

fn or_ok(check: &'static str, found: &str, findings: Vec<Finding>) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::ok(check, found)] } else { findings }
}

fn last_part(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

fn is_tuning(difference: &Difference) -> bool {
    TUNING.contains(&last_part(&difference.field)) || difference.field.starts_with("cache.")
}

/// As a fresh EMQX's file ends.
fn allows_all(difference: &Difference) -> bool {
    let rules = difference.is.as_ref().and_then(Value::as_str).unwrap_or_default();
    let rules: String = rules.chars().filter(|c| !c.is_whitespace()).collect();
    rules.contains("{allow,all}.")
}

fn in_words(step: Step, difference: &Difference) -> String {
    let told = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), shown);
    let (is, becomes) = (told(&difference.is), told(&difference.becomes));
    let words = format!("{} is {is}, should be {becomes}", difference.field);
    match cost(step, &difference.field) {
        Some(cost) => format!("{words} ({cost})"),
        None => words,
    }
}

/// What a difference leads to, where that is not plain.
fn cost(step: Step, field: &str) -> Option<&'static str> {
    Some(match field {
        "node_cache.enable" => "a device whose secret was revoked gets in again and stays",
        "enable" if step == Step::ActionCache => OLD_RIGHTS,
        "no_match" => "what no source decides is allowed",
        "cache.enable" => OLD_RIGHTS,
        "deny_action" => "a client that tries what it may not is disconnected",
        "enable_pipelining" => "wrong for a service that answers one request at a time",
        "resource_opts.request_ttl" => "events that wait longer are lost",
        "pool_type" => "a client's events overtake each other",
        _ => return None,
    })
}
