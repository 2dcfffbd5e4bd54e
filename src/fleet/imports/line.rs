//! A line of an import: what it says, as types that hold only what is valid. Written out again they are the rows that
//! PostgreSQL is given.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::domain::acl::Action;
use crate::domain::delivery::Confirmation;
use crate::domain::foreign_hash::ForeignHash;
use crate::domain::json_object::Object;
use crate::domain::json_pointer;
use crate::domain::meta::Meta;
use crate::domain::name::{
    BindingName, CapabilityName, ClientId, DeviceKind, DeviceName, PlaceName, RuleName,
};
use crate::domain::password_hash::PasswordHash;
use crate::domain::routing::Strategy;
use crate::domain::schema::UsableSchema;
use crate::domain::selector::Selector;
use crate::domain::topic::{TopicFilter, TopicName};
use crate::domain::value::StateValue;

/// Why a line is refused: where, and what is wrong. Never with a value of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("column {column}: {pointer}{}{message}", if .pointer.is_empty() { "" } else { " " })]
pub struct LineError {
    /// Where in the line, in bytes from 1.
    pub column: usize,
    /// JSON Pointer (RFC 6901) to the member; empty where it is the line as a whole.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}

impl LineError {
    pub(super) fn at(
        column: usize,
        pointer: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { column, pointer: pointer.into(), message: message.into() }
    }

    /// About the line as a whole.
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self::at(1, "", message)
    }
}

/// What a line brings. No `Debug`: credentials.
pub enum Item {
    /// A capability.
    Capability(Capability),
    /// A device with what belongs to it.
    Device(Box<Device>),
    /// A routing rule.
    Rule(Rule),
}

/// A device as a line has it, with what belongs to it.
#[derive(Serialize)]
struct WholeDevice<'a> {
    #[serde(flatten)]
    device: &'a Device,
    capabilities: &'a [CapabilityName],
    bindings: &'a [Binding],
    grants: &'a [Grant],
    credentials: &'a [Credential],
}

/// The form of a line: an object with one of these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    capability: Option<Object<Capability>>,
    device: Option<Object<Device>>,
    rule: Option<Object<Rule>>,
}

impl Item {
    /// Reads a line.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(line: &str) -> Result<Self, LineError> {
        // An array would be read as the members in their order.
        if line.trim_start().starts_with('[') {
            return Err(LineError::whole("must be a JSON object"));
        }
        let mut reader = serde_json::Deserializer::from_str(line);
        let form: Form =
            serde_path_to_error::deserialize(&mut reader).map_err(|error| wrong(&error))?;
        reader
            .end()
            .map_err(|_| LineError::whole("has something behind the object; write one a line"))?;
        match form {
            Form { capability: Some(Object(capability)), device: None, rule: None } => {
                Ok(Self::Capability(capability))
            }
            Form { device: Some(Object(device)), capability: None, rule: None } => {
                Ok(Self::Device(Box::new(device)))
            }
            Form { rule: Some(Object(rule)), capability: None, device: None } => {
                Ok(Self::Rule(rule))
            }
            _ => Err(LineError::whole("must have one member: capability, device or rule")),
        }
    }

    /// The line that [`Self::read`] takes back.
    ///
    /// # Errors
    /// None that is known: each part is one that JSON can say.
    pub(super) fn line(&self) -> serde_json::Result<Zeroizing<String>> {
        let line = match self {
            Self::Capability(capability) => {
                serde_json::to_string(&BTreeMap::from([("capability", capability)]))
            }
            Self::Rule(rule) => serde_json::to_string(&BTreeMap::from([("rule", rule)])),
            Self::Device(device) => {
                let Device { capabilities, bindings, grants, credentials, .. } = &**device;
                let whole = WholeDevice { device, capabilities, bindings, grants, credentials };
                serde_json::to_string(&BTreeMap::from([("device", whole)]))
            }
        };
        line.map(Zeroizing::new)
    }
}

pub(super) fn wrong(error: &serde_path_to_error::Error<serde_json::Error>) -> LineError {
    let pointer = json_pointer::of_path(error.path());
    let error = error.inner();
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    let message =
        if error.is_data() { without_value(message) } else { format!("is not JSON: {message}") };
    LineError::at(error.column().max(1), pointer, message)
}

/// What stands in the file may be a secret at the wrong place: serde quotes a value of a wrong type.
fn without_value(message: &str) -> String {
    let quoted = ["invalid type: string ", "invalid value: string "];
    match quoted.iter().find_map(|start| Some((start, message.strip_prefix(start)?))) {
        Some((start, rest)) => {
            let expected = rest.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
            format!("{}, expected {expected}", start.trim_end())
        }
        None => message.to_owned(),
    }
}

fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(one)| one).collect())
}

/// A capability.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    pub(super) name: CapabilityName,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default, deserialize_with = "schema")]
    pub(super) state_schema: Option<Value>,
    #[serde(default, deserialize_with = "schema")]
    pub(super) command_schema: Option<Value>,
    #[serde(default = "delivered")]
    pub(super) confirm: Confirmation,
    #[serde(default = "sixty")]
    pub(super) command_expiry: i32,
    #[serde(default = "thirty")]
    pub(super) ack_timeout: i32,
    #[serde(default = "thirty")]
    pub(super) answer_in: i32,
    #[serde(default)]
    pub(super) envelope: bool,
    #[serde(default)]
    pub(super) only_latest: bool,
}

/// A schema that PostgreSQL can hold and that can be used.
fn schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    let schema = Option::<Value>::deserialize(deserializer)?;
    let text = schema.as_ref().map(Value::to_string).unwrap_or_default();
    match StateValue::read(text.as_bytes()).and_then(|value| value.as_text()) {
        Some(why) => {
            Err(serde::de::Error::custom(format!("is JSON that cannot be stored: {}", why.why())))
        }
        None => {
            let usable = schema.clone().map(UsableSchema::new).transpose();
            let wrong =
                |why| serde::de::Error::custom(format!("is not a usable JSON Schema: {why}"));
            usable.map_err(wrong).map(|_| schema)
        }
    }
}

fn delivered() -> Confirmation {
    Confirmation::Delivered
}

fn sixty() -> i32 {
    60
}

fn thirty() -> i32 {
    30
}

/// A device with what belongs to it. As a row: without that.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub(super) name: DeviceName,
    pub(super) client_id: Option<ClientId>,
    pub(super) area: Option<PlaceName>,
    pub(super) floor: Option<PlaceName>,
    pub(super) kind: DeviceKind,
    pub(super) gateway: Option<DeviceName>,
    pub(super) availability_topic: Option<TopicName>,
    /// `None`: the line does not say it.
    pub(super) enabled: Option<bool>,
    #[serde(default, deserialize_with = "meta", serialize_with = "meta_value")]
    pub(super) meta: Meta,
    #[serde(default, skip_serializing)]
    pub(super) capabilities: Vec<CapabilityName>,
    #[serde(default, skip_serializing, deserialize_with = "bindings")]
    pub(super) bindings: Vec<Binding>,
    #[serde(default, skip_serializing, deserialize_with = "objects")]
    pub(super) grants: Vec<Grant>,
    #[serde(default, skip_serializing, deserialize_with = "objects")]
    pub(super) credentials: Vec<Credential>,
}

impl Device {
    /// A device with nothing that belongs to it.
    pub(super) fn new(name: DeviceName, kind: DeviceKind) -> Self {
        Self {
            name,
            client_id: None,
            area: None,
            floor: None,
            kind,
            gateway: None,
            availability_topic: None,
            enabled: None,
            meta: Meta::default(),
            capabilities: Vec::new(),
            bindings: Vec::new(),
            grants: Vec::new(),
            credentials: Vec::new(),
        }
    }

    /// Gives it a credential that is valid from now on and for ever.
    pub(super) fn add_credential(&mut self, kind: &str, hash: String) {
        self.credentials.push(Credential {
            kind: kind.to_owned(),
            hash: Some(hash),
            common_name: None,
            certificate_required: None,
            label: None,
            not_before: None,
            expires_at: None,
            revoked_at: None,
        });
    }
}

fn yes() -> bool {
    true
}

fn meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Meta, D::Error> {
    let value = Value::deserialize(deserializer)?;
    value.to_string().parse().map_err(serde::de::Error::custom)
}

fn meta_value<S: Serializer>(meta: &Meta, serializer: S) -> Result<S::Ok, S::Error> {
    meta.as_value().serialize(serializer)
}

/// A binding.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Binding {
    pub(super) name: BindingName,
    pub(super) state_topic: Option<TopicName>,
    pub(super) command_topic: Option<TopicName>,
    pub(super) reply_topic: Option<TopicName>,
    #[serde(default)]
    pub(super) merge: bool,
}

impl Binding {
    pub(super) fn without_topics(name: BindingName) -> Self {
        Self { name, state_topic: None, command_topic: None, reply_topic: None, merge: false }
    }
}

fn bindings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Binding>, D::Error> {
    let bindings: Vec<Binding> = objects(deserializer)?;
    let mut names = BTreeSet::new();
    match bindings.iter().all(|binding| names.insert(binding.name.as_str())) {
        true => Ok(bindings),
        false => Err(serde::de::Error::custom("must not have two bindings of one name")),
    }
}

/// A grant.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grant {
    pub(super) action: Action,
    pub(super) topic_filter: TopicFilter,
}

/// A credential, as the table has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credential {
    #[serde(deserialize_with = "credential_kind")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "hash")]
    pub(super) hash: Option<String>,
    pub(super) common_name: Option<String>,
    pub(super) certificate_required: Option<bool>,
    pub(super) label: Option<String>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) revoked_at: Option<Timestamp>,
}

impl Credential {
    /// Whether it is a chosen password, hashed here or elsewhere.
    pub(super) fn is_password(&self) -> bool {
        matches!(self.kind.as_str(), "password" | "imported")
    }

    /// The hash that another broker made.
    pub(super) fn foreign_hash(&self) -> Option<ForeignHash> {
        let hash = self.hash.as_deref().filter(|_| self.kind == "imported")?;
        ForeignHash::parse(hash).ok()
    }
}

fn credential_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let kind = String::deserialize(deserializer)?;
    match kind.as_str() {
        "secret" | "password" | "imported" | "token" | "certificate" => Ok(kind),
        _ => Err(serde::de::Error::custom(
            "must be secret, password, imported, token or certificate",
        )),
    }
}

fn hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    // Which of both a kind may have is a rule of the table.
    let is_known =
        |text: &str| PasswordHash::parse(text).is_ok() || ForeignHash::parse(text).is_ok();
    match text.as_deref().map(is_known) {
        Some(false) => Err(serde::de::Error::custom(
            "is not a hash in a form that is known here, within the bounds of cost (docs/IMPORT.md)",
        )),
        Some(true) | None => Ok(text),
    }
}

/// A routing rule.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub(super) name: RuleName,
    pub(super) capability: CapabilityName,
    /// As it is written: the same selector has several forms.
    #[serde(default = "every_device", deserialize_with = "selector")]
    pub(super) selector: Value,
    #[serde(default = "all")]
    pub(super) strategy: Strategy,
    #[serde(default)]
    pub(super) priority: i32,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
}

fn every_device() -> Value {
    Selector::default().to_json()
}

fn selector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Selector::from_json(&value).map_err(serde::de::Error::custom)?;
    Ok(value)
}

fn all() -> Strategy {
    Strategy::All
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> LineError {
        match Item::read(line) {
            Err(error) => error,
            Ok(_) => panic!("{line}"),
        }
    }

    #[test]
    fn a_line_that_is_written_is_the_one_that_was_read() {
        for line in [
            r#"{"capability":{"name":"light","state_schema":{"const":1.50},"confirm":"reply","only_latest":true}}"#,
            r#"{"rule":{"name":"all","capability":"light","selector":{"meta":{"/n":1.50}},"strategy":"any","enabled":false}}"#,
            r#"{"device":{"name":"lamp","kind":"relay","gateway":"hub","meta":{"n":[9007199254740993,0.1000]},
                "capabilities":["light"],"bindings":[{"name":"light","state_topic":"a/b","merge":true}],
                "grants":[{"action":"publish","topic_filter":"x/#"}],
                "credentials":[{"kind":"certificate","common_name":"lamp","expires_at":"2999-01-01T00:00:00Z"}]}}"#,
        ] {
            let read =
                |line: &str| Item::read(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let written = read(line).line().unwrap();
            assert_eq!(read(&written).line().unwrap(), written);
            // Every member of it is there; the others are what is meant where they are left out.
            let [was, is] =
                [line, written.as_str()].map(|it| serde_json::from_str::<Value>(it).unwrap());
            let ((kind, was), (_, is)) = (
                was.as_object().unwrap().iter().next().unwrap(),
                is.as_object().unwrap().iter().next().unwrap(),
            );
            for (member, value) in was.as_object().unwrap() {
                match value.as_array().and_then(|it| it.first()?.as_object()) {
                    Some(first) => first
                        .iter()
                        .for_each(|(name, value)| assert_eq!(&is[member][0][name], value)),
                    None => assert_eq!(&is[member], value, "{kind} {member}"),
                }
            }
        }
    }

    #[test]
    fn a_line_is_read_or_refused_at_its_place() {
        assert!(matches!(
            Item::read(r#"{"device":{"name":"a","kind":"b","meta":{"n":1e200000}}}"#),
            Err(LineError { pointer, .. }) if pointer == "/device/meta"
        ));
        assert!(matches!(
            Item::read(r#"{"device":{"name":"a","kind":"b","area":null}}"#),
            Ok(Item::Device(_))
        ));
        for (line, pointer, message) in [
            ("", "", "is not JSON"),
            ("[]", "", "must be a JSON object"),
            ("{}", "", "must have one member"),
            (r#"{"device":{"name":"a","kind":"b"},"rule":null}  x"#, "", "has something behind"),
            (r#"{"rule":["r"]}"#, "/rule", "invalid type: sequence, expected a JSON object"),
            (
                r#"{"device":{"name":"a","kind":"b","grants":[["publish","x"]]}}"#,
                "/device/grants/0",
                "expected a JSON object",
            ),
            (
                r#"{"capability":{"name":"a","state_schema":{"maximum":1e200000}}}"#,
                "/capability/state_schema",
                "cannot be stored",
            ),
            (r#"{"gadget":{}}"#, "/gadget", "unknown field"),
            (r#"{"device":{"name":"a/b","kind":"b"}}"#, "/device/name", ""),
            (r#"{"device":{"name":"a","kind":"b","name":"c"}}"#, "/device", "duplicate"),
            (
                r#"{"device":{"name":"a","kind":"b","bindings":[{"name":"main","state_topic":"x/#"}]}}"#,
                "/device/bindings/0/state_topic",
                "",
            ),
            (
                r#"{"device":{"name":"a","kind":"b","bindings":[{"name":"main","state_topic":"x"},{"name":"main","state_topic":"y"}]}}"#,
                "/device/bindings",
                "two bindings of one name",
            ),
            (
                r#"{"device":{"name":"a","kind":"b","grants":[{"action":"all","topic_filter":"x"}]}}"#,
                "/device/grants/0/action",
                "must be publish or subscribe",
            ),
            (
                r#"{"rule":{"name":"r","capability":"c","selector":{"x":1}}}"#,
                "/rule/selector",
                "/x",
            ),
        ] {
            let error = refused(line);
            assert_eq!(error.pointer, pointer, "{line}: {error}");
            assert!(error.message.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn no_secret_is_told() {
        for (member, value) in [
            ("hash", r#""tops3cret""#),
            ("kind", r#""tops3cret""#),
            ("certificate_required", r#""tops3cret""#),
            ("not_before", r#""tops3cret""#),
        ] {
            let kind = if member == "kind" { "" } else { r#""kind":"secret","# };
            let line = format!(
                r#"{{"device":{{"name":"a","kind":"b","credentials":[{{{kind}"{member}":{value}}}]}}}}"#
            );
            let error = refused(&line);
            assert!(!error.to_string().contains("tops3cret"), "{error}");
        }
    }
}
