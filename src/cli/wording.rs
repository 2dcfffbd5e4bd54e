//! Errors of the fleet for people at a terminal: the words that the API has too, and the command or option that helps.

use crate::fleet::FleetError;
use crate::fleet::error::{PasswordRule, Rule, Thing};
use crate::remote::RemoteError;
use crate::wording;

/// What failed, on which thing, and what to do.
pub(super) fn in_words(error: &FleetError) -> String {
    let words = wording::in_words(error);
    match error {
        FleetError::NotFound(thing) => format!("{words}; see {}", where_they_are_listed(thing)),
        // Here options are what helps.
        FleetError::Rule { thing, rule: Rule::NoRules } => format!(
            "{thing}: no enabled routing rule says who gets its commands; give --device, --selector, or a rule with `fleetgate rule add`"
        ),
        FleetError::Rule { thing, rule: Rule::NoConventionalTopics } => {
            format!("{thing}: {}", no_conventional_topics(thing))
        }
        FleetError::Rule { rule, .. } => match remedy(rule) {
            Some(remedy) => format!("{words}; {remedy}"),
            None => words,
        },
        FleetError::Registry(_) => words,
    }
}

/// Why a line of an import is refused, and what to do.
pub(super) fn of_line(error: &FleetError) -> String {
    match error {
        FleetError::Rule {
            rule: Rule::NameTaken | Rule::CapabilityExists | Rule::RuleExists,
            ..
        } => format!("{}, or import with --on-conflict skip or update", wording::in_words(error)),
        error => in_words(error),
    }
}

/// What failed over the API, and what to do here.
pub(super) fn of_remote(error: &RemoteError) -> String {
    match error {
        RemoteError::Refused { status: 401, .. } => {
            "the API does not take the token: it is wrong, expired or revoked; see --api-token-file, and \
             `fleetgate api-token add`"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// The kind as `--json` tells it.
pub(super) fn kind(error: &FleetError) -> &'static str {
    error.kind().word()
}

fn where_they_are_listed(thing: &Thing) -> &'static str {
    match thing {
        Thing::Device(_) | Thing::NewCredential(_) => "`fleetgate device list`",
        Thing::Capability(_) => {
            "`fleetgate capability list`, or add it with `fleetgate capability add`"
        }
        Thing::Binding { .. } => "`fleetgate binding list DEVICE`",
        Thing::Grant { .. } | Thing::GrantId(_) => "`fleetgate grant list DEVICE`",
        Thing::Credential(_) => "`fleetgate credential list DEVICE`",
        Thing::Command(_) => "`fleetgate command list`",
        Thing::ApiToken(_) => "`fleetgate api-token list`",
        Thing::Rule(_) => "`fleetgate rule list`",
    }
}

/// The command or option that helps, where one does.
fn remedy(rule: &Rule) -> Option<&'static str> {
    Some(match rule {
        Rule::RuleExists => "or change it with `fleetgate rule set`",
        Rule::RuleDisabled => "see `fleetgate rule enable`",
        Rule::NoMatch => {
            "try the selector with `fleetgate device list --selector`, a rule with `fleetgate rule test`"
        }
        Rule::HasChildren => {
            "`fleetgate device set NAME --no-gateway`, or --gateway with another one"
        }
        Rule::CredentialBehindGateway => {
            "`fleetgate credential revoke`, or `fleetgate device set NAME --no-gateway`"
        }
        Rule::AvailabilityWithoutGateway => "--gateway",
        Rule::BindingDiffers => "see `fleetgate binding set`",
        Rule::NothingToMerge => "--state-topic, or no --merge (a binding that merges: --replace)",
        Rule::NothingToReplyTo => "--command-topic",
        Rule::CapabilityInUse(_) => "see `fleetgate device list`",
        Rule::NoBroker => "without --api the command line needs them too",
        Rule::NoDevices => "give --device NAME",
        Rule::ExpiryOutOfRange => "choose another --expires",
        Rule::CommandExpiryOutOfRange => "choose another --command-expiry",
        Rule::AckTimeoutOutOfRange => "choose another --ack-timeout",
        Rule::AnswerInOutOfRange => "choose another --answer-in",
        Rule::UnusableSchema(_) => "mend it with `fleetgate capability set`",
        Rule::NothingToRetry => "see `fleetgate command show`",
        Rule::DeviceDisabled | Rule::GatewayDisabled => "see `fleetgate device enable`",
        Rule::TooManyOpen(_) => "`fleetgate command list --device` lists them",
        Rule::NoCommandTopic(_) => "give it one with `fleetgate binding add` or `binding set`",
        Rule::NoStateTopic(_) | Rule::NoReplyTopic(_) => {
            "give it one with `fleetgate binding set`, or send with --confirm delivered"
        }
        Rule::RuleOfAnotherCapability(_) => "see `fleetgate rule list`",
        Rule::UnusableSelector(_) => "mend it with `fleetgate rule set --selector`",
        Rule::Password(PasswordRule::Empty) => "write it to standard input",
        Rule::Password(PasswordRule::Weak(_)) => "--generate makes one, --allow-weak insists",
        _ => return None,
    })
}

fn no_conventional_topics(thing: &Thing) -> String {
    let (device, binding) = match thing {
        Thing::Binding { device, name } => (device.as_str(), name.as_str()),
        _ => ("<device>", "<binding>"),
    };
    format!(
        "its conventional topics are <area>/<floor>/{device}/{binding}/state and …/set, but device {device:?} has no area or no floor; give it both (`fleetgate device set {device} --area AREA --floor FLOOR`; --area and --floor where it is added), or the topics themselves (--state-topic, --command-topic)"
    )
}
