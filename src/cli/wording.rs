//! Errors of the fleet, in words that say what to do.

use crate::fleet::FleetError;
use crate::fleet::credentials::{MAX_PASSWORD_BYTES, MIN_PASSWORD_CHARACTERS};
use crate::fleet::error::{Field, PasswordRule, Rule, Thing};

/// What failed, on which thing, and what to do.
pub(super) fn in_words(error: &FleetError) -> String {
    match error {
        FleetError::NotFound(thing) => not_found(thing),
        FleetError::Rule { thing, rule } => format!("{thing}: {}", sentence(thing, rule)),
        FleetError::Registry(error) => error.to_string(),
    }
}

/// The kind as `--json` tells it.
pub(super) fn kind(error: &FleetError) -> &'static str {
    error.kind().word()
}

fn not_found(thing: &Thing) -> String {
    let (what, remedy) = match thing {
        Thing::Device(_) => (thing.to_string(), "fleetgate device list`"),
        Thing::Capability(_) => (
            thing.to_string(),
            "fleetgate capability list`, or add it with `fleetgate capability add`",
        ),
        Thing::Binding { device, name } => {
            return format!(
                "device {:?} has no binding {:?}; see `fleetgate binding list`",
                device.as_str(),
                name.as_str()
            );
        }
        Thing::Grant { device, action, filter } => (
            format!("grant of device {:?} to {} {filter}", device.as_str(), action.word()),
            "fleetgate grant list DEVICE`",
        ),
        Thing::GrantId(_) => (thing.to_string(), "fleetgate grant list DEVICE`"),
        Thing::Credential(_) => (thing.to_string(), "fleetgate credential list DEVICE`"),
        Thing::Command(_) => (thing.to_string(), "fleetgate command list`"),
        Thing::ApiToken(_) => (thing.to_string(), "fleetgate api-token list`"),
        Thing::Rule(_) => (thing.to_string(), "fleetgate rule list`"),
        Thing::NewCredential(_) => (thing.to_string(), "fleetgate device list`"),
    };
    format!("there is no {what}; see `{remedy}")
}

fn sentence(thing: &Thing, rule: &Rule) -> String {
    let fixed = match rule {
        Rule::NameTaken => "a device of this name exists already; choose another name",
        Rule::ClientIdTaken => {
            "another device connects with this client id; give one of the two another client id"
        }
        Rule::RuleExists => {
            "a routing rule of this name exists already; choose another name, or change it with `fleetgate rule set`"
        }
        Rule::ApiTokenExists => {
            "an API token of this name exists already, or did; choose another name"
        }
        Rule::RuleDisabled => {
            "it is disabled; enable it with `fleetgate rule enable`, or choose others"
        }
        Rule::NoMatch => {
            "no device can get it: none that is meant is enabled and has the command topic that it needs; try the selector with `fleetgate device list --selector`, a rule with `fleetgate rule test`"
        }
        Rule::NoRules => {
            "no enabled routing rule says who gets its commands; give --device, --selector, or a rule with `fleetgate rule add`"
        }
        Rule::PriorityOutOfRange => "a priority is a number from -1000000 to 1000000",
        Rule::CapabilityExists => "a capability of this name exists already; choose another name",
        Rule::GatewayIsItself => "a device cannot be its own gateway; choose another device",
        Rule::GatewayIsService => "a service cannot be a gateway; choose another device",
        Rule::GatewayIsChild => {
            "the gateway is behind a gateway itself; choose the device that connects to the broker"
        }
        Rule::HasChildren => {
            "other devices are behind it; take it from them first with `fleetgate device set NAME --no-gateway`, or give them another --gateway"
        }
        Rule::ServiceBehindGateway => {
            "a service connects by itself and cannot be behind a gateway; choose another kind, or no gateway"
        }
        Rule::CredentialBehindGateway => {
            "a device behind a gateway logs in through it and has no valid credential of its own; revoke it with `fleetgate credential revoke`, or take the gateway away with `fleetgate device set NAME --no-gateway`"
        }
        Rule::AvailabilityWithoutGateway => {
            "only a device behind a gateway has an availability topic; give it one (--gateway), or no availability topic"
        }
        Rule::BindingDiffers => {
            "the device has a binding of this name already, which says something else; change it with `fleetgate binding set`, or remove it first"
        }
        Rule::ReservedName(_) => {
            "\"undefined\" and \"http_api\" are words that EMQX writes itself where a name belongs; choose another name"
        }
        Rule::ReservedCapability => {
            "\"main\" is the binding without a capability; choose another name"
        }
        Rule::NotAnObject => "its meta must be a JSON object, such as {\"room\": \"101\"}",
        Rule::NotAHash => "the hash is not a valid argon2id PHC string ($argon2id$v=19$…)",
        Rule::NotACommonName => {
            "the common name must have 1 to 256 bytes, no control characters, and not be \"undefined\" (what EMQX sends where there is no certificate)"
        }
        Rule::NotALabel => "the label must have 1 to 256 bytes and no control characters",
        Rule::TimestampOutOfRange => {
            "its timestamps must be in the years 1 to 9998; leave one out for \"always\" or \"never\""
        }
        Rule::EndsBeforeItBegins => "it would end before it begins; choose a later end",
        Rule::NotATopic(_) => {
            "is not a valid topic for a binding: 1 to 1024 bytes, no + or #, no control characters, not beginning with $ or \"eq \", no ${, no %u or %c without a letter or digit behind it (write the device's own name)"
        }
        Rule::NotAFilter => {
            "is not a valid topic filter for a grant: + and # stand alone in their level, # only at the end; no $share/, $delayed/ or other prefix that says how; not beginning with \"eq \"; no ${, no %u or %c without a letter or digit behind it (write the device's own name)"
        }
        Rule::ReservedTopic => {
            "topics below fleetgate/ are where services ask for commands and hear results; choose another topic"
        }
        Rule::AlreadyExpired => "it has expired by now",
        Rule::NoTopic => {
            "a binding needs a state topic, a command topic or both; give at least one"
        }
        Rule::NothingToMerge => {
            "it has no state topic, so there are no reports to merge; give it one (--state-topic), or leave out --merge (a binding that merges: --replace)"
        }
        Rule::NothingToReplyTo => {
            "it has no command topic, so there are no commands to reply to; give it one (--command-topic), or no reply topic"
        }
        Rule::NulCharacter => "contains U+0000, which PostgreSQL cannot hold; take it out",
        Rule::CapabilityInRules => {
            "routing rules still name this capability; remove those rules first"
        }
        Rule::CapabilityInUse(devices) => {
            let count = devices.map(|count| format!(": {count}")).unwrap_or_default();
            return format!("devices still have it{count}; see `fleetgate device list`");
        }
        Rule::NotAName(field) => return not_a_name(*field),
        Rule::NotASchema(field) => {
            let what = if *field == Field::StateSchema { "state" } else { "command" };
            return format!(
                "its {what} schema must be a JSON Schema: a JSON object, true or false"
            );
        }
        Rule::NoConventionalTopics => return no_conventional_topics(thing),
        Rule::ConventionalTopic { topic, why } => {
            return format!("topic {topic:?} {why}; give the topics themselves");
        }
        Rule::NoDevices => return "the command names no device; give --device NAME".to_owned(),
        Rule::TooManyDevices(most) => {
            return format!(
                "the command goes to more than {most} devices, which commands.max_devices allows"
            );
        }
        Rule::PayloadTooLarge(most) => {
            return format!(
                "the payload has more than {most} bytes, which commands.max_payload allows"
            );
        }
        Rule::ExpiryOutOfRange => {
            return "a command expires after 1 second at the earliest and 30 days at the latest; choose another --expires".to_owned();
        }
        Rule::CommandExpiryOutOfRange => {
            return "commands expire after 1 second at the earliest and 30 days at the latest; choose another --command-expiry".to_owned();
        }
        Rule::AckTimeoutOutOfRange => {
            return "a receipt is waited for 5 seconds at least and 10 minutes at most; choose another --ack-timeout".to_owned();
        }
        Rule::AnswerInOutOfRange => {
            return "an answer is waited for 1 second at least and 1 hour at most; choose another --answer-in".to_owned();
        }
        Rule::Payload(violation) => {
            let place = match violation.pointer.as_str() {
                "" => String::new(),
                pointer => format!(" at {pointer}"),
            };
            return format!("the payload{place} {}", violation.message);
        }
        Rule::UnusableSchema(why) => {
            return format!(
                "its command schema cannot be used: {why}; mend it with `fleetgate capability set`"
            );
        }
        Rule::NothingToRetry => {
            return "there is no device at which it expired, was not deliverable, failed or was not answered; see `fleetgate command show`".to_owned();
        }
        Rule::NoDeviceToRetry(devices) => {
            return format!(
                "it failed at {}, which can be sent nothing now: gone, disabled, or without the topics for it",
                devices.join(", ")
            );
        }
        Rule::DeviceDisabled => {
            return "it is disabled and gets no commands; see `fleetgate device enable`".to_owned();
        }
        Rule::TooManyOpen(most) => {
            return format!(
                "{most} commands of the capability wait for it already; cancel some (`fleetgate command list --device`), or let them expire"
            );
        }
        Rule::GatewayDisabled => {
            return "its gateway is disabled, and it gets no commands; see `fleetgate device enable`".to_owned();
        }
        Rule::NoCommandTopic(capability) => {
            return format!(
                "it has no command topic for \"{capability}\"; give it one with `fleetgate binding add` or `binding set`"
            );
        }
        Rule::NoStateTopic(capability) => {
            return format!(
                "the command is confirmed by its state, and it has no state topic for \"{capability}\"; give it one with `fleetgate binding set`, or send with --confirm delivered"
            );
        }
        Rule::NoReplyTopic(capability) => {
            return format!(
                "the command is confirmed by its reply, and it has no reply topic for \"{capability}\"; give it one with `fleetgate binding set`, or send with --confirm delivered"
            );
        }
        Rule::RuleOfAnotherCapability(capability) => {
            return format!("it is for commands of \"{capability}\"; see `fleetgate rule list`");
        }
        Rule::NotASelector(words) => return format!("{words}; see docs/SELECTORS.md"),
        Rule::UnusableSelector(why) => {
            return format!(
                "its selector cannot be used: {why}; mend it with `fleetgate rule set --selector`"
            );
        }
        Rule::Password(rule) => return password(*rule),
        Rule::IdentityTaken(words) | Rule::Other(words) => return words.clone(),
    };
    fixed.to_owned()
}

fn not_a_name(field: Field) -> String {
    let what = match field {
        Field::ClientId => "its client id",
        Field::Area => "its area",
        Field::Floor => "its floor",
        Field::Kind => "its kind",
        _ => "this",
    };
    format!(
        "{what} is not a valid name: 1 to 128 bytes, none of + # / $, no control characters, no white space around it"
    )
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

fn password(rule: PasswordRule) -> String {
    match rule {
        PasswordRule::Empty => "it is empty; write it to standard input".to_owned(),
        PasswordRule::TooLong => {
            format!("it is longer than {MAX_PASSWORD_BYTES} bytes; choose a shorter one")
        }
        PasswordRule::SeveralLines => "it has several lines or a NUL; write one line".to_owned(),
        PasswordRule::Weak(characters) => format!(
            "it has {characters} characters, fewer than {MIN_PASSWORD_CHARACTERS}; choose a longer one, let --generate make one, or insist with --allow-weak"
        ),
        PasswordRule::TokenShape => {
            "it has the shape of a device token and would be judged as one; choose another"
                .to_owned()
        }
    }
}
