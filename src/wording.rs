//! Errors of the fleet in words that the command line and the HTTP API share: what failed, on which thing, and what would be
//! right. Each adds what to do there (an option, a command, a pointer).

use crate::fleet::FleetError;
use crate::fleet::credentials::{MAX_PASSWORD_BYTES, MIN_PASSWORD_CHARACTERS};
use crate::fleet::error::{Field, Outside, PasswordRule, Rule, Thing};

/// What failed, on which thing.
#[must_use]
pub fn in_words(error: &FleetError) -> String {
    match error {
        FleetError::NotFound(thing) => not_found(thing),
        FleetError::Rule { thing, rule } => format!("{thing}: {}", sentence(rule)),
        FleetError::Registry(error) => error.to_string(),
    }
}

fn not_found(thing: &Thing) -> String {
    match thing {
        Thing::Binding { device, name } => {
            format!("device {:?} has no binding {:?}", device.as_str(), name.as_str())
        }
        Thing::Grant { device, action, filter } => {
            let (device, action) = (device.as_str(), action.word());
            format!("there is no grant of device {device:?} to {action} {filter}")
        }
        thing => format!("there is no {thing}"),
    }
}

/// What a rule says.
#[must_use]
pub fn sentence(rule: &Rule) -> String {
    let fixed = match rule {
        Rule::NameTaken => "a device of this name exists already; choose another name",
        Rule::ClientIdTaken => {
            "another device connects with this client id; give one of the two another client id"
        }
        Rule::RuleExists => "a routing rule of this name exists already; choose another name",
        Rule::ApiTokenExists => {
            "an API token of this name exists already, or did; choose another name"
        }
        Rule::CapabilityExists => "a capability of this name exists already; choose another name",
        Rule::NoBroker => {
            "commands go over EMQX's REST API; set emqx.api_url, emqx.api_key and emqx.api_secret"
        }
        Rule::RuleDisabled => "it is disabled; enable it, or choose others",
        Rule::NoMatch => {
            "no device can get it: none that is meant is enabled and has the command topic that it needs"
        }
        Rule::NoRules => {
            "no enabled routing rule says who gets its commands; name devices or a selector, or add a rule"
        }
        Rule::PriorityOutOfRange => "a priority is a number from -1000000 to 1000000",
        Rule::GatewayIsItself => "a device cannot be its own gateway; choose another device",
        Rule::GatewayIsService => "a service cannot be a gateway; choose another device",
        Rule::GatewayIsChild => {
            "the gateway is behind a gateway itself; choose the device that connects to the broker"
        }
        Rule::HasChildren => {
            "other devices are behind it; give them another gateway, or none, first"
        }
        Rule::ServiceBehindGateway => {
            "a service connects by itself and cannot be behind a gateway; choose another kind, or no gateway"
        }
        Rule::CredentialBehindGateway => {
            "a device behind a gateway logs in through it and has no valid credential of its own; revoke it, or take the gateway away"
        }
        Rule::AvailabilityWithoutGateway => {
            "only a device behind a gateway has an availability topic; give it a gateway, or no availability topic"
        }
        Rule::BindingDiffers => {
            "the device has a binding of this name already, which says something else; change that, or remove it first"
        }
        Rule::ReservedName(_) => {
            "\"undefined\" and \"http_api\" are words that EMQX writes itself where a name belongs; choose another name"
        }
        Rule::ReservedCapability => {
            "\"main\" is the binding without a capability; choose another name"
        }
        Rule::NotAnObject => "its meta must be a JSON object, such as {\"room\": \"101\"}",
        Rule::NotAHash => {
            "the hash is not one of this kind: an argon2id PHC string ($argon2id$v=19$…), or what imports bring for kind imported"
        }
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
            "it has no state topic, so there are no reports to merge; give it one, or let reports replace the value"
        }
        Rule::NothingToReplyTo => {
            "it has no command topic, so there are no commands to reply to; give it one, or no reply topic"
        }
        Rule::NulCharacter => "contains U+0000, which PostgreSQL cannot hold; take it out",
        Rule::CapabilityInRules => {
            "routing rules still name this capability; remove those rules first"
        }
        Rule::NoConventionalTopics => {
            "the device has no area or no floor, so there are no conventional topics; give it both, or name the topics"
        }
        Rule::NoDevices => "the command names no device",
        Rule::ExpiryOutOfRange | Rule::CommandExpiryOutOfRange => {
            "a command expires after 1 second at the earliest and 30 days at the latest"
        }
        Rule::AckTimeoutOutOfRange => {
            "a receipt is waited for 5 seconds at least and 10 minutes at most"
        }
        Rule::AnswerInOutOfRange => "an answer is waited for 1 second at least and 1 hour at most",
        Rule::NothingToRetry => {
            "there is no device at which it expired, was not deliverable, failed or was not answered"
        }
        Rule::DeviceDisabled => "it is disabled and gets no commands",
        Rule::GatewayDisabled => "its gateway is disabled, and it gets no commands",
        Rule::CapabilityInUse(devices) => {
            let count = devices.map(|count| format!(": {count}")).unwrap_or_default();
            return format!("devices still have it{count}");
        }
        Rule::AdminWithSelector => {
            "a token of the scope admin cannot have a selector, because it could make a token without one; leave out one of the two"
        }
        Rule::Outside(outside) => beyond(*outside),
        Rule::NotAName(field) => return not_a_name(*field),
        Rule::NotASchema(field) => {
            let what = if *field == Field::StateSchema { "state" } else { "command" };
            return format!(
                "its {what} schema must be a JSON Schema: a JSON object, true or false"
            );
        }
        Rule::ConventionalTopic { topic, why } => {
            return format!("topic {topic:?} {why}; give the topics themselves");
        }
        Rule::TooManyDevices(most) => {
            return format!(
                "the command goes to more than {most} devices, which commands.max_devices allows"
            );
        }
        Rule::TooManyOpen(most) => {
            return format!(
                "{most} commands of the capability wait for it already; cancel some, or let them expire"
            );
        }
        Rule::PayloadTooLarge(most) => {
            return format!(
                "the payload has more than {most} bytes, which commands.max_payload allows"
            );
        }
        Rule::Payload(violation) => {
            let place = match violation.pointer.as_str() {
                "" => String::new(),
                pointer => format!(" at {pointer}"),
            };
            return format!("the payload{place} {}", violation.message);
        }
        Rule::UnusableSchema(why) => return format!("its command schema cannot be used: {why}"),
        Rule::NoDeviceToRetry(devices) => {
            return format!(
                "it failed at {}, which can be sent nothing now: gone, disabled, or without the topics for it",
                devices.join(", ")
            );
        }
        Rule::NoCommandTopic(capability) => {
            return format!("it has no command topic for \"{capability}\"");
        }
        Rule::NoStateTopic(capability) => {
            return format!(
                "the command is confirmed by its state, and it has no state topic for \"{capability}\""
            );
        }
        Rule::NoReplyTopic(capability) => {
            return format!(
                "the command is confirmed by its reply, and it has no reply topic for \"{capability}\""
            );
        }
        Rule::RuleOfAnotherCapability(capability) => {
            return format!("it is for commands of \"{capability}\"");
        }
        Rule::NotASelector(words) => return format!("{words}; see docs/SELECTORS.md"),
        Rule::UnusableSelector(why) => return format!("its selector cannot be used: {why}"),
        Rule::Password(rule) => return password(*rule),
        Rule::IdentityTaken(words) | Rule::Other(words) => return words.clone(),
    };
    fixed.to_owned()
}

/// What a token with a selector may not do.
fn beyond(outside: Outside) -> &'static str {
    match outside {
        Outside::Device => {
            "it would be outside of what the token's selector means, or a service; change something else, or use a token without selector"
        }
        Outside::Children => {
            "devices that the token's selector does not mean are behind it; use a token without selector"
        }
        Outside::Gateway => {
            "its gateway is a device that the token's selector does not mean; leave it, or use a token without selector"
        }
        Outside::AvailabilityTopic => {
            "a token with a selector cannot choose an availability topic; leave it as it is, or use a token without selector"
        }
        Outside::Topics => {
            "a token with a selector binds conventional topics alone; ask for those, or use a token without selector"
        }
        Outside::SharedTopic => {
            "devices that the token's selector does not mean have the same topic; use a token without selector"
        }
    }
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

fn password(rule: PasswordRule) -> String {
    match rule {
        PasswordRule::Empty => "it is empty".to_owned(),
        PasswordRule::TooLong => {
            format!("it is longer than {MAX_PASSWORD_BYTES} bytes; choose a shorter one")
        }
        PasswordRule::SeveralLines => "it has several lines or a NUL; write one line".to_owned(),
        PasswordRule::Weak(characters) => format!(
            "it has {characters} characters, fewer than {MIN_PASSWORD_CHARACTERS}; choose a longer one, or let a secret be generated"
        ),
        PasswordRule::TokenShape => {
            "it has the shape of a device token and would be judged as one; choose another"
                .to_owned()
        }
    }
}
