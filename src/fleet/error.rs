//! Why an operation on the fleet was not done.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain::acl::Action;
use crate::domain::credential::CredentialId;
use crate::domain::name::{ApiTokenName, BindingName, CapabilityName, DeviceName};
use crate::domain::schema::Violation;
use crate::domain::topic::{TopicError, TopicFilter};
use crate::registry::error::{self as registry, RegistryError};

/// Why an operation was not done. Nothing was changed then, unless the connection to PostgreSQL broke while the change was
/// being committed: then it is unknown. Made for programs: the command line and the API say it in
/// words (`src/wording.rs`).
#[derive(Debug, Error)]
pub enum FleetError {
    /// There is no such thing.
    #[error("not found: {0}")]
    NotFound(Thing),
    /// A rule says no.
    #[error("{thing}: {rule:?}")]
    Rule {
        /// What it is about.
        thing: Thing,
        /// Which one.
        rule: Rule,
    },
    /// PostgreSQL could not be asked, or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The kinds of errors, as programs tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such thing.
    NotFound,
    /// It would be right, were it not for something that is there already.
    Conflict,
    /// The request itself breaks a rule.
    Invalid,
    /// The state of the fleet does not allow it.
    Refused,
    /// It would reach beyond the part of the fleet that whoever asks may change.
    Forbidden,
    /// PostgreSQL cannot be asked at present; waiting may help.
    Unavailable,
    /// PostgreSQL failed otherwise.
    Failed,
}

/// What an error is about. Its text is a label, such as `device "a"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thing {
    /// A device, by name.
    Device(DeviceName),
    /// A capability, by name.
    Capability(CapabilityName),
    /// A binding of a device.
    Binding {
        /// The device.
        device: DeviceName,
        /// The binding.
        name: BindingName,
    },
    /// A grant, by what it says.
    Grant {
        /// The device.
        device: DeviceName,
        /// What the device may do.
        action: Action,
        /// On which topics.
        filter: TopicFilter,
    },
    /// A grant, by its row.
    GrantId(i64),
    /// A credential, by its row.
    Credential(CredentialId),
    /// A credential to be made, by its kind.
    NewCredential(Cow<'static, str>),
    /// A command, by its id.
    Command(String),
    /// A routing rule, by its name.
    Rule(String),
    /// A token of the HTTP API, by its name.
    ApiToken(ApiTokenName),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => write!(f, "device {:?}", name.as_str()),
            Self::Capability(name) => write!(f, "capability {:?}", name.as_str()),
            Self::Binding { name, .. } => write!(f, "binding {:?}", name.as_str()),
            Self::Grant { action, filter, .. } => {
                write!(f, "grant to {} {:?}", action.word(), filter.as_str())
            }
            Self::GrantId(id) => write!(f, "grant {id}"),
            Self::Credential(id) => write!(f, "credential {}", id.0),
            Self::NewCredential(kind) => write!(f, "the new {kind}"),
            Self::Command(id) => write!(f, "command {id:?}"),
            Self::Rule(name) => write!(f, "rule {name:?}"),
            Self::ApiToken(name) => write!(f, "API token {:?}", name.as_str()),
        }
    }
}

/// A rule that says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Another device has the name.
    NameTaken,
    /// Another device connects with the client id.
    ClientIdTaken,
    /// A service may open the client id, or it could open another device's: PostgreSQL's own words, which name
    /// the other device.
    IdentityTaken(String),
    /// The gateway is the device itself.
    GatewayIsItself,
    /// The gateway is a service.
    GatewayIsService,
    /// The gateway is behind a gateway itself.
    GatewayIsChild,
    /// Other devices are behind the device.
    HasChildren,
    /// A service cannot be behind a gateway.
    ServiceBehindGateway,
    /// A device behind a gateway has no valid credential.
    CredentialBehindGateway,
    /// Only of a device behind a gateway it is told whether it is available.
    AvailabilityWithoutGateway,
    /// A capability of the name exists.
    CapabilityExists,
    /// The device has a binding of the name that says something else.
    BindingDiffers,
    /// A value breaks the rule of names.
    NotAName(Field),
    /// EMQX writes the name itself where there is none.
    ReservedName(Field),
    /// `main` is the binding without a capability.
    ReservedCapability,
    /// Meta is not a JSON object.
    NotAnObject,
    /// A hash is not a PHC string of argon2id.
    NotAHash,
    /// A common name is empty, too long, or `undefined`.
    NotACommonName,
    /// A label is empty or too long, or has control characters.
    NotALabel,
    /// A timestamp is out of the years 1 to 9998.
    TimestampOutOfRange,
    /// It would end before it begins.
    EndsBeforeItBegins,
    /// A schema is neither a JSON object nor a boolean.
    NotASchema(Field),
    /// A text is not a topic of a binding.
    NotATopic(Field),
    /// A topic is below `fleetgate/`, where services ask for commands.
    ReservedTopic,
    /// A text is not a topic filter of a grant.
    NotAFilter,
    /// A binding has no topic.
    NoTopic,
    /// A binding without state topic has no reports to merge.
    NothingToMerge,
    /// A binding without command topic has no commands to reply to.
    NothingToReplyTo,
    /// The device has no area or no floor, so there are no conventional topics.
    NoConventionalTopics,
    /// A conventional topic is not a topic.
    ConventionalTopic {
        /// The topic.
        topic: String,
        /// What is wrong with it.
        why: TopicError,
    },
    /// A chosen password is not good enough.
    Password(PasswordRule),
    /// A text has U+0000.
    NulCharacter,
    /// Devices have the capability, so many where that is known.
    CapabilityInUse(Option<i64>),
    /// Routing rules name the capability.
    CapabilityInRules,
    /// EMQX's REST API, over which commands go, is not configured.
    NoBroker,
    /// A command names no device.
    NoDevices,
    /// A command goes to more devices than so many, the most that settings allow.
    TooManyDevices(usize),
    /// A payload has more bytes than so many, the most that settings allow.
    PayloadTooLarge(usize),
    /// A command would expire too soon or too late ([`crate::fleet::commands::EXPIRY`]).
    ExpiryOutOfRange,
    /// The expiry that a capability's commands have unless they say otherwise is out of [`crate::fleet::commands::EXPIRY`].
    CommandExpiryOutOfRange,
    /// A command that was asked for earlier has expired by now.
    AlreadyExpired,
    /// A receipt would be waited for too shortly or too long (5 s to 10 min).
    AckTimeoutOutOfRange,
    /// An answer would be waited for too shortly or too long (1 s to 1 h).
    AnswerInOutOfRange,
    /// A payload breaks the capability's command schema.
    Payload(Violation),
    /// The capability's command schema cannot judge the payload: why.
    UnusableSchema(String),
    /// A command has failed nowhere so far.
    NothingToRetry,
    /// None of the devices at which a command failed can be sent anything now.
    NoDeviceToRetry(Vec<String>),
    /// So many commands of the capability to the device have not ended.
    TooManyOpen(i64),
    /// The device is disabled.
    DeviceDisabled,
    /// The device's gateway is disabled.
    GatewayDisabled,
    /// The device has no command topic for the capability.
    NoCommandTopic(CapabilityName),
    /// The command is confirmed by the device's state, and it has no state topic for the capability.
    NoStateTopic(CapabilityName),
    /// The command is confirmed by a reply, and the device has no reply topic for the capability.
    NoReplyTopic(CapabilityName),
    /// No device can get the command, of those that are meant.
    NoMatch,
    /// The capability has no enabled routing rule.
    NoRules,
    /// The routing rule is disabled.
    RuleDisabled,
    /// The routing rule is for this other capability.
    RuleOfAnotherCapability(String),
    /// Another routing rule has the name.
    RuleExists,
    /// Another API token has, or had, the name.
    ApiTokenExists,
    /// An API token of the scope admin cannot have a selector.
    AdminWithSelector,
    /// What is asked for reaches beyond the part of the fleet that whoever asks may change.
    Outside(Outside),
    /// A priority is out of [`crate::fleet::rules::PRIORITY`].
    PriorityOutOfRange,
    /// A selector is not valid: what PostgreSQL says of it.
    NotASelector(String),
    /// The routing rule's stored selector or strategy cannot be used: why.
    UnusableSelector(String),
    /// A rule that has no name here: PostgreSQL's own words.
    Other(String),
}

/// The field of a request that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The thing's own name.
    Name,
    /// The client id.
    ClientId,
    /// The kind.
    Kind,
    /// The area.
    Area,
    /// The floor.
    Floor,
    /// The schema of the state.
    StateSchema,
    /// The schema of the commands.
    CommandSchema,
    /// The state topic.
    StateTopic,
    /// The command topic.
    CommandTopic,
    /// The reply topic.
    ReplyTopic,
    /// The gateway.
    Gateway,
    /// The availability topic.
    AvailabilityTopic,
    /// How long an answer is waited for.
    AnswerIn,
    /// The payload.
    Payload,
    /// The expiry.
    ExpiresIn,
    /// The expiry of a capability's commands.
    CommandExpiry,
    /// How long a receipt is waited for.
    AckTimeout,
    /// What is noted about a device.
    Meta,
    /// What a credential is called.
    Label,
    /// The common name of a certificate.
    CommonName,
    /// When a credential expires.
    ExpiresAt,
    /// The topic filter of a grant.
    TopicFilter,
    /// A chosen password.
    Password,
    /// The selector.
    Selector,
    /// The priority.
    Priority,
}

impl Field {
    /// Its name in requests and results.
    #[must_use]
    pub fn name(self) -> String {
        snake_case(&format!("{self:?}"))
    }
}

/// What lies outside the part of the fleet ([`crate::fleet::Part`]) that whoever asks may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outside {
    /// The device itself, after the change.
    Device,
    /// Devices behind it.
    Children,
    /// The gateway that it has.
    Gateway,
    /// The availability topic that it would get.
    AvailabilityTopic,
    /// Topics of a binding that are not those of the convention.
    Topics,
    /// Devices that have one of its topics too.
    SharedTopic,
}

/// What is wrong with a chosen password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordRule {
    /// It is empty.
    Empty,
    /// It is longer than [`crate::fleet::credentials::MAX_PASSWORD_BYTES`].
    TooLong,
    /// It has a line end or U+0000.
    SeveralLines,
    /// It has so many characters, fewer than [`crate::fleet::credentials::MIN_PASSWORD_CHARACTERS`].
    Weak(usize),
    /// It would be checked as a device token.
    TokenShape,
}

impl ErrorKind {
    /// As results write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::Failed => "database",
        }
    }
}

impl FleetError {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Rule { rule, .. } => rule.nature().0,
            Self::Registry(RegistryError::BadData(_) | RegistryError::NulCharacter(_)) => {
                ErrorKind::Invalid
            }
            Self::Registry(error) if error.may_pass() => ErrorKind::Unavailable,
            Self::Registry(_) => ErrorKind::Failed,
        }
    }

    /// The field of the request that is wrong, where it is one.
    #[must_use]
    pub fn field(&self) -> Option<Field> {
        match self {
            Self::Rule { rule, .. } => rule.nature().1,
            _ => None,
        }
    }

    /// What it is about, and which rule says no; `None`: PostgreSQL could not be asked, or failed.
    #[must_use]
    pub fn refusal(&self) -> Option<(&Thing, Option<&Rule>)> {
        match self {
            Self::NotFound(thing) => Some((thing, None)),
            Self::Rule { thing, rule } => Some((thing, Some(rule))),
            Self::Registry(_) => None,
        }
    }

    /// The error of such a refusal.
    #[must_use]
    pub fn of_refusal(thing: Thing, rule: Option<Rule>) -> Self {
        match rule {
            Some(rule) => Self::Rule { thing, rule },
            None => Self::NotFound(thing),
        }
    }

    /// A rule about a thing.
    pub(super) fn rule(thing: &Thing, rule: Rule) -> Self {
        Self::Rule { thing: thing.clone(), rule }
    }

    /// The same of a thing that belongs to a device: the device may have been removed meanwhile.
    pub(super) fn on_part_of(
        device: &DeviceName,
        thing: &Thing,
    ) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let device = device.clone();
        let on = Self::on(thing);
        move |error| {
            let constraint =
                error.as_db_error().and_then(tokio_postgres::error::DbError::constraint);
            match constraint.is_some_and(|name| name.ends_with("_device_id_fkey")) {
                true => Self::NotFound(Thing::Device(device)),
                false => on(error),
            }
        }
    }

    /// What PostgreSQL said while a thing was worked on.
    pub(super) fn on(thing: &Thing) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let thing = thing.clone();
        move |error| match RegistryError::on(thing.to_string())(error) {
            RegistryError::Violation(violation) => Self::Rule { thing, rule: Rule::of(&violation) },
            RegistryError::NulCharacter(_) => Self::Rule { thing, rule: Rule::NulCharacter },
            other => Self::Registry(other),
        }
    }
}

impl Rule {
    /// The rule behind a constraint of `sql/`, in the order of its tables.
    #[must_use]
    pub fn of(violation: &registry::Violation) -> Self {
        match violation.constraint.as_str() {
            "devices_name_unique" => Self::NameTaken,
            "devices_client_id_unique" => Self::ClientIdTaken,
            "devices_identity" => Self::IdentityTaken(violation.message.clone()),
            "devices_gateway_itself" => Self::GatewayIsItself,
            "devices_gateway_service" => Self::GatewayIsService,
            "devices_gateway_of_child" => Self::GatewayIsChild,
            "devices_gateway" | "devices_gateway_children" => Self::HasChildren,
            "devices_child_service" => Self::ServiceBehindGateway,
            "devices_child_credential" | "device_credentials_of_child" => {
                Self::CredentialBehindGateway
            }
            "devices_availability_topic_form" => Self::NotATopic(Field::AvailabilityTopic),
            "devices_availability_of_child" => Self::AvailabilityWithoutGateway,
            "devices_name_form" | "capabilities_name_form" | "topic_bindings_name_form" => {
                Self::NotAName(Field::Name)
            }
            "devices_name_reserved" => Self::ReservedName(Field::Name),
            "devices_client_id_reserved" => Self::ReservedName(Field::ClientId),
            "devices_client_id_form" => Self::NotAName(Field::ClientId),
            "devices_area_form" => Self::NotAName(Field::Area),
            "devices_floor_form" => Self::NotAName(Field::Floor),
            "devices_kind_form" => Self::NotAName(Field::Kind),
            "devices_meta_form" => Self::NotAnObject,
            "device_credentials_hash_form" => Self::NotAHash,
            "device_credentials_common_name_form" => Self::NotACommonName,
            "device_credentials_label_form" => Self::NotALabel,
            "device_credentials_timestamps" => Self::TimestampOutOfRange,
            "device_credentials_period" => Self::EndsBeforeItBegins,
            "capabilities_command_expiry_range" => Self::CommandExpiryOutOfRange,
            "capabilities_ack_timeout_range" => Self::AckTimeoutOutOfRange,
            "capabilities_answer_in_range" => Self::AnswerInOutOfRange,
            "capabilities_pkey" => Self::CapabilityExists,
            "capabilities_name_reserved" => Self::ReservedCapability,
            "capabilities_state_schema_form" => Self::NotASchema(Field::StateSchema),
            "capabilities_command_schema_form" => Self::NotASchema(Field::CommandSchema),
            "device_capabilities_capability" => Self::CapabilityInUse(None),
            "topic_bindings_pkey" => Self::BindingDiffers,
            "topic_bindings_state_topic_form" => Self::NotATopic(Field::StateTopic),
            "topic_bindings_command_topic_form" => Self::NotATopic(Field::CommandTopic),
            "topic_bindings_reply_topic_form" => Self::NotATopic(Field::ReplyTopic),
            "topic_bindings_reply_to_commands" => Self::NothingToReplyTo,
            "topic_bindings_reserved" => Self::ReservedTopic,
            "topic_bindings_some_topic" => Self::NoTopic,
            "topic_grants_topic_filter_form" => Self::NotAFilter,
            "routing_rules_name_unique" => Self::RuleExists,
            "api_tokens_name_unique" => Self::ApiTokenExists,
            "api_tokens_selector_not_admin" => Self::AdminWithSelector,
            "api_tokens_timestamps" => Self::TimestampOutOfRange,
            "routing_rules_name_form" => Self::NotAName(Field::Name),
            "routing_rules_priority_range" => Self::PriorityOutOfRange,
            "selector" => Self::NotASelector(violation.message.clone()),
            "routing_rules_capability" => Self::CapabilityInRules,
            _ => Self::Other(violation.message.clone()),
        }
    }

    /// Its name, as results write it: `no_command_topic`.
    #[must_use]
    pub fn word(&self) -> String {
        snake_case(&format!("{self:?}"))
    }

    /// What kind of error it is, and which field of a request is wrong where it is one.
    fn nature(&self) -> (ErrorKind, Option<Field>) {
        use ErrorKind::{Conflict, Forbidden, Invalid, Refused};
        match self {
            Self::NameTaken | Self::CapabilityExists | Self::RuleExists | Self::ApiTokenExists => {
                (Conflict, Some(Field::Name))
            }
            Self::ClientIdTaken => (Conflict, Some(Field::ClientId)),
            Self::IdentityTaken(_) | Self::BindingDiffers => (Conflict, None),
            Self::NotAName(field)
            | Self::ReservedName(field)
            | Self::NotASchema(field)
            | Self::NotATopic(field) => (Invalid, Some(*field)),
            Self::ReservedCapability => (Invalid, Some(Field::Name)),
            Self::GatewayIsItself
            | Self::GatewayIsService
            | Self::GatewayIsChild
            | Self::ServiceBehindGateway => (Invalid, Some(Field::Gateway)),
            Self::AvailabilityWithoutGateway => (Invalid, Some(Field::AvailabilityTopic)),
            Self::NotAnObject => (Invalid, Some(Field::Meta)),
            Self::NotACommonName => (Invalid, Some(Field::CommonName)),
            Self::NotALabel => (Invalid, Some(Field::Label)),
            Self::EndsBeforeItBegins => (Invalid, Some(Field::ExpiresAt)),
            Self::Password(_) => (Invalid, Some(Field::Password)),
            Self::NothingToMerge => (Invalid, Some(Field::StateTopic)),
            Self::NothingToReplyTo => (Invalid, Some(Field::CommandTopic)),
            Self::NotAFilter => (Invalid, Some(Field::TopicFilter)),
            Self::Payload(_) | Self::PayloadTooLarge(_) => (Invalid, Some(Field::Payload)),
            Self::ExpiryOutOfRange => (Invalid, Some(Field::ExpiresIn)),
            Self::CommandExpiryOutOfRange => (Invalid, Some(Field::CommandExpiry)),
            Self::AckTimeoutOutOfRange => (Invalid, Some(Field::AckTimeout)),
            Self::AnswerInOutOfRange => (Invalid, Some(Field::AnswerIn)),
            Self::PriorityOutOfRange => (Invalid, Some(Field::Priority)),
            Self::NotASelector(_) | Self::AdminWithSelector => (Invalid, Some(Field::Selector)),
            Self::NotAHash
            | Self::TimestampOutOfRange
            | Self::ReservedTopic
            | Self::NoTopic
            | Self::NoConventionalTopics
            | Self::ConventionalTopic { .. }
            | Self::NoDevices
            | Self::TooManyDevices(_)
            | Self::AlreadyExpired
            | Self::RuleOfAnotherCapability(_)
            | Self::NulCharacter => (Invalid, None),
            Self::HasChildren
            | Self::CredentialBehindGateway
            | Self::CapabilityInUse(_)
            | Self::CapabilityInRules
            | Self::UnusableSchema(_)
            | Self::NoBroker
            | Self::NothingToRetry
            | Self::NoDeviceToRetry(_)
            | Self::TooManyOpen(_)
            | Self::DeviceDisabled
            | Self::GatewayDisabled
            | Self::NoCommandTopic(_)
            | Self::NoStateTopic(_)
            | Self::NoReplyTopic(_)
            | Self::NoMatch
            | Self::NoRules
            | Self::RuleDisabled
            | Self::UnusableSelector(_)
            | Self::Other(_) => (Refused, None),
            Self::Outside(_) => (Forbidden, None),
        }
    }
}

/// The word of a variant, from how `Debug` writes it: `NoCommandTopic("a")` is `no_command_topic`.
fn snake_case(debug: &str) -> String {
    let name = debug.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    let mut word = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}
