//! `fleetgate device add`

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{show, warn_of_misspelt_service};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::shell_word;
use crate::domain::meta::Meta;
use crate::domain::name::{
    BindingName, CapabilityName, ClientId, DeviceKind, DeviceName, PlaceName,
};
use crate::domain::topic::TopicName;
use crate::fleet::bindings::{Home, NewBinding};
use crate::fleet::credentials::{NewCredential, Terms};
use crate::fleet::devices::{self, DeviceDetails, NewDevice};
use crate::remote;
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
    #[arg(long)]
    area: Option<PlaceName>,
    /// Where it is; second level of its conventional topics.
    #[arg(long)]
    floor: Option<PlaceName>,
    /// Its MQTT client id, where that is not its name.
    #[arg(long)]
    client_id: Option<ClientId>,
    /// The device whose MQTT client speaks for it, such as a Zigbee bridge. It then logs in by no credential of its own.
    #[arg(long, value_name = "NAME")]
    gateway: Option<DeviceName>,
    /// The exact topic on which its gateway says whether it reaches it: online, offline, or JSON with such a "state".
    #[arg(long, value_name = "TOPIC", requires = "gateway")]
    availability_topic: Option<TopicName>,
    /// Anything else about it: a JSON object.
    #[arg(long, value_name = "JSON", default_value = "{}", hide_default_value = true)]
    meta: Meta,
    /// A capability it has, without topics. May be repeated.
    #[arg(long = "capability", value_name = "CAPABILITY")]
    capabilities: Vec<CapabilityName>,
    /// A capability (or "main") to bind to the conventional topics AREA/FLOOR/NAME/CAPABILITY/state and …/set. May be repeated.
    #[arg(long = "bind", value_name = "CAPABILITY")]
    bind: Vec<BindingName>,
    /// The exact topic it reports a capability (or "main") on. May be repeated.
    #[arg(long = "state-topic", value_name = "CAPABILITY=TOPIC", value_parser = named_topic)]
    state_topics: Vec<(BindingName, TopicName)>,
    /// The exact topic it is commanded on. May be repeated.
    #[arg(long = "command-topic", value_name = "CAPABILITY=TOPIC", value_parser = named_topic)]
    command_topics: Vec<(BindingName, TopicName)>,
    /// A capability (or "main") among those it is bound to whose reports hold only what changed, and are merged into its last known value (RFC 7396). May be repeated.
    #[arg(long = "merge", value_name = "CAPABILITY")]
    merge: Vec<BindingName>,
    /// Add it without letting it use the bus yet.
    #[arg(long)]
    disabled: bool,
    /// Generate a secret for it too, and print it once.
    #[arg(long, conflicts_with = "gateway")]
    generate: bool,
}

fn named_topic(text: &str) -> Result<(BindingName, TopicName), String> {
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
        let generate = self.generate;
        // Over the API it is generated there, and no hash leaves that machine.
        let generated = (generate && !context.api.is_given()).then(NewCredential::generate);
        let (secret, credential) = generated.unzip();
        let device = self.request(credential)?;
        let (details, secret) = context
            .change(
                async |fleet| Ok((devices::add(fleet, &device).await?, secret)),
                async |api| remote::devices::add(api, &device, generate).await,
            )
            .await?;
        warn_of_misspelt_service(&device.kind);
        let added = Added { details: &details, secret: secret.as_ref().map(Secret::expose) };
        let text = || format!("Added.\n{}", show::text(&details));
        match &secret {
            Some(secret) => context.output.result_with_secret(&added, secret, text)?,
            None => context.output.result(&added, text)?,
        }
        if device.bindings.is_empty() && !device.kind.is_service() {
            context.output.hint(&how_to_bind(&device));
        }
        Ok(())
    }

    fn request(self, credential: Option<NewCredential>) -> Result<NewDevice, CliError> {
        Ok(NewDevice {
            bindings: self.bindings()?,
            name: self.name,
            client_id: self.client_id,
            area: self.area,
            floor: self.floor,
            gateway: self.gateway,
            availability_topic: self.availability_topic,
            kind: self.kind,
            enabled: !self.disabled,
            meta: self.meta,
            capabilities: self.capabilities,
            credential: credential.map(|credential| (credential, Terms::default())),
        })
    }

    /// Conventional bindings, then the exact topics over them.
    fn bindings(&self) -> Result<Vec<NewBinding>, CliError> {
        let mut bindings = BTreeMap::new();
        for name in &self.bind {
            bindings.insert(name, NewBinding::conventional(name.clone()));
        }
        for (name, topic) in &self.state_topics {
            let binding = bindings.entry(name).or_insert_with(|| without_topics(name));
            once("--state-topic", name, &mut binding.state_topic, topic)?;
        }
        for (name, topic) in &self.command_topics {
            let binding = bindings.entry(name).or_insert_with(|| without_topics(name));
            once("--command-topic", name, &mut binding.command_topic, topic)?;
        }
        for name in &self.merge {
            let binding = bindings.get_mut(name).ok_or_else(|| {
                CliError::Usage(format!(
                    "--merge {name}: the device gets no state topic for \"{name}\"; give it one with --bind or --state-topic"
                ))
            })?;
            binding.merge = true;
        }
        Ok(bindings.into_values().collect())
    }
}

fn without_topics(name: &BindingName) -> NewBinding {
    NewBinding::exact(name.clone(), None, None)
}

fn once(
    option: &str,
    name: &BindingName,
    place: &mut Option<TopicName>,
    topic: &TopicName,
) -> Result<(), CliError> {
    match place.replace(topic.clone()) {
        None => Ok(()),
        Some(_) => Err(CliError::Usage(format!(
            "{option} is given twice for \"{name}\"; a binding has one topic each way"
        ))),
    }
}

/// A device without topics may publish and subscribe to nothing: says how to change that.
fn how_to_bind(device: &NewDevice) -> String {
    let name = shell_word(device.name.as_str());
    let home = Home {
        device: &device.name,
        area: device.area.as_ref().map(PlaceName::as_str),
        floor: device.floor.as_ref().map(PlaceName::as_str),
    };
    match home.stem(BindingName::MAIN) {
        Some(stem) => format!(
            "\nIt has no topics yet. To give it {stem}/state and {stem}/set:\n  fleetgate binding add {name} main"
        ),
        None => format!(
            "\nIt has no topics yet, and no area and floor to make conventional ones from. To give it a topic:\n  fleetgate binding add {name} main --state-topic TOPIC --command-topic TOPIC"
        ),
    }
}
