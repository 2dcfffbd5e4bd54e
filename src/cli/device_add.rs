//! `fleetgate device add`

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Client;

use crate::cli::context::Context;
use crate::cli::convention::{Place, conventional_binding, require_capability};
use crate::cli::credential::hash_secret;
use crate::cli::device_show;
use crate::cli::error::CliError;
use crate::cli::output::{remark, shell_word};
use crate::config::suggestion::nearest;
use crate::domain::name::{CapabilityName, ClientId, DeviceKind, DeviceName, check_name};
use crate::domain::password_hash::Cost;
use crate::domain::topic::TopicName;
use crate::domain::value::StateValue;
use crate::registry::bindings::NewBinding;
use crate::registry::credentials::{self, NewCredential, Terms};
use crate::registry::devices::{self, DeviceDetails, NewDevice};
use crate::registry::error::RegistryError;
use crate::secret::Secret;

/// Add a device.
#[derive(Args)]
pub(super) struct Arguments {
    /// Its name: MQTT user name, and client id unless --client-id says otherwise.
    name: DeviceName,
    /// What it is: sensor, relay, … A "service" may open several clients, as NAME:anything.
    #[arg(long)]
    kind: DeviceKind,
    /// Where it is; first level of its conventional topics.
    #[arg(long, value_parser = place)]
    area: Option<String>,
    /// Where it is; second level of its conventional topics.
    #[arg(long, value_parser = place)]
    floor: Option<String>,
    /// Its MQTT client id, where that is not its name.
    #[arg(long)]
    client_id: Option<ClientId>,
    /// Anything else about it: a JSON object.
    #[arg(long, value_name = "JSON", value_parser = json_object, default_value = "{}", hide_default_value = true)]
    meta: Value,
    /// A capability it has, without topics. May be repeated.
    #[arg(long = "capability", value_name = "CAPABILITY")]
    capabilities: Vec<CapabilityName>,
    /// A capability (or "main") to bind to the conventional topics AREA/FLOOR/NAME/CAPABILITY/state and …/set. May be repeated.
    #[arg(long = "bind", value_name = "CAPABILITY")]
    bind: Vec<CapabilityName>,
    /// The exact topic it reports a capability (or "main") on. May be repeated.
    #[arg(long = "state-topic", value_name = "CAPABILITY=TOPIC", value_parser = named_topic)]
    state_topics: Vec<(CapabilityName, TopicName)>,
    /// The exact topic it is commanded on. May be repeated.
    #[arg(long = "command-topic", value_name = "CAPABILITY=TOPIC", value_parser = named_topic)]
    command_topics: Vec<(CapabilityName, TopicName)>,
    /// A capability (or "main") among those it is bound to whose reports hold only what changed, and are merged into its last known value (RFC 7396). May be repeated.
    #[arg(long = "merge", value_name = "CAPABILITY")]
    merge: Vec<CapabilityName>,
    /// Add it without letting it use the bus yet.
    #[arg(long)]
    disabled: bool,
    /// Generate a secret for it too, and print it once.
    #[arg(long)]
    generate: bool,
}

fn place(text: &str) -> Result<String, String> {
    check_name(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn json_object(text: &str) -> Result<Value, String> {
    if let Some(why) = StateValue::read(text.as_bytes()).and_then(|value| value.as_text()) {
        return Err(format!("is JSON that cannot be stored: {}", why.why()));
    }
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("is JSON but no object; write something like {\"room\": \"101\"}".to_owned()),
        Err(error) => {
            Err(format!("is not valid JSON ({error}); write something like {{\"room\": \"101\"}}"))
        }
    }
}

fn named_topic(text: &str) -> Result<(CapabilityName, TopicName), String> {
    let (name, topic) =
        text.split_once('=').ok_or("write CAPABILITY=TOPIC, such as temperature=lab/2/t1/temp")?;
    let name = name.parse().map_err(|error| format!("capability {name:?} {error}"))?;
    let topic = topic.parse().map_err(|error| format!("topic {topic:?} {error}"))?;
    Ok((name, topic))
}

#[derive(Serialize)]
struct Added<'a> {
    #[serde(flatten)]
    details: &'a DeviceDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut client = context.connect().await?;
        let secret = self.generate.then(Secret::generate);
        let unbound =
            self.bind.is_empty() && self.state_topics.is_empty() && self.command_topics.is_empty();
        let device = self.into_device(&client).await?;
        insert(&mut client, &device, secret.as_ref()).await?;
        if let Some(warning) = nearly_a_service(&device.kind) {
            remark(&warning);
        }
        let name = device.name.as_str();
        let found = devices::find(&client, name).await?;
        let details = found.ok_or_else(|| CliError::no_device(name))?;
        let added = Added { details: &details, secret: secret.as_ref().map(Secret::expose) };
        let text = || format!("Added.\n{}", device_show::text(&details));
        match &secret {
            Some(secret) => context.output.result_with_secret(&added, secret, text)?,
            None => context.output.result(&added, text)?,
        }
        if unbound && !device.kind.is_service() {
            context.output.hint(&how_to_bind(&device));
        }
        Ok(())
    }

    async fn into_device(self, client: &Client) -> Result<NewDevice, CliError> {
        for name in &self.capabilities {
            require_capability(client, name).await?;
        }
        Ok(NewDevice {
            bindings: self.bindings(client).await?,
            name: self.name,
            client_id: self.client_id,
            area: self.area,
            floor: self.floor,
            kind: self.kind,
            enabled: !self.disabled,
            meta: self.meta,
            capabilities: self.capabilities,
        })
    }

    /// Conventional bindings, then the explicit topics over them.
    async fn bindings(&self, client: &Client) -> Result<Vec<NewBinding>, CliError> {
        let place =
            Place { device: &self.name, area: self.area.as_deref(), floor: self.floor.as_deref() };
        let state_topics = once_each("--state-topic", &self.state_topics)?;
        let command_topics = once_each("--command-topic", &self.command_topics)?;
        let mut bindings = BTreeMap::new();
        for name in &self.bind {
            bindings.insert(name, conventional_binding(client, place, name).await?);
        }
        for name in state_topics.keys().chain(command_topics.keys()) {
            require_capability(client, name).await?;
        }
        for (name, topic) in state_topics {
            binding_of(&mut bindings, name).state_topic = Some(topic.clone());
        }
        for (name, topic) in command_topics {
            binding_of(&mut bindings, name).command_topic = Some(topic.clone());
        }
        for name in &self.merge {
            let binding = bindings.get_mut(name).filter(|binding| binding.state_topic.is_some());
            let binding = binding.ok_or_else(|| {
                CliError::Usage(format!(
                    "--merge {name}: the device gets no state topic for \"{name}\"; give it one with --bind or --state-topic"
                ))
            })?;
            binding.merge = true;
        }
        Ok(bindings.into_values().collect())
    }
}

fn binding_of<'a, 'b>(
    bindings: &'b mut BTreeMap<&'a CapabilityName, NewBinding>,
    name: &'a CapabilityName,
) -> &'b mut NewBinding {
    let empty =
        || NewBinding { name: name.clone(), state_topic: None, command_topic: None, merge: false };
    bindings.entry(name).or_insert_with(empty)
}

fn once_each<'a>(
    option: &str,
    topics: &'a [(CapabilityName, TopicName)],
) -> Result<BTreeMap<&'a CapabilityName, &'a TopicName>, CliError> {
    let mut seen = BTreeMap::new();
    for (name, topic) in topics {
        if seen.insert(name, topic).is_some() {
            return Err(CliError::Usage(format!(
                "{option} is given twice for \"{name}\"; a binding has one topic each way"
            )));
        }
    }
    Ok(seen)
}

/// Adds the device and its secret, all or nothing.
async fn insert(
    client: &mut Client,
    device: &NewDevice,
    secret: Option<&Secret>,
) -> Result<(), CliError> {
    let on_device = || RegistryError::on(format!("device {:?}", device.name.as_str()));
    let mut transaction = client.transaction().await.map_err(on_device())?;
    let id = devices::insert(&mut transaction, device).await?;
    if let Some(secret) = secret {
        let credential = NewCredential::Secret { hash: hash_secret(secret, Cost::Generated) };
        credentials::add(&transaction, id, &credential, &Terms::default()).await?;
    }
    transaction.commit().await.map_err(on_device())?;
    Ok(())
}

/// Any kind is allowed, and only that of services has a meaning: says so of one that looks misspelt.
fn nearly_a_service(kind: &DeviceKind) -> Option<String> {
    // "device" is a kind that people mean, and two letters away.
    let known = [DeviceKind::SERVICE, "device"];
    let near = nearest(&kind.as_str().to_lowercase(), known.into_iter());
    (!kind.is_service() && near == Some(DeviceKind::SERVICE)).then(|| {
        format!(
            "warning: the kind is {:?}, which makes the device no service; if you meant \"service\", \
             remove the device and add it again",
            kind.as_str()
        )
    })
}

/// A device without topics may publish and subscribe to nothing: says how to change that.
fn how_to_bind(device: &NewDevice) -> String {
    let name = shell_word(device.name.as_str());
    let place = Place {
        device: &device.name,
        area: device.area.as_deref(),
        floor: device.floor.as_deref(),
    };
    match place.stem("main") {
        Some(stem) => format!(
            "\nIt has no topics yet. To give it {stem}/state and {stem}/set:\n  fleetgate binding add {name} main"
        ),
        None => format!(
            "\nIt has no topics yet, and no area and floor to make conventional ones from. To give it a topic:\n  fleetgate binding add {name} main --state-topic TOPIC --command-topic TOPIC"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_service_is_noticed() {
        let noticed = |kind: &str| nearly_a_service(&kind.parse().unwrap()).is_some();
        for kind in ["servise", "services", "Service", "SERVICE"] {
            assert!(noticed(kind), "{kind}");
        }
        for kind in ["service", "device", "devices", "sensor", "switch", "relay", "server"] {
            assert!(!noticed(kind), "{kind}");
        }
    }
}
