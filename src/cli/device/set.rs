//! `fleetgate device set`

use clap::Args;

use super::{show, warn_of_misspelt_service};
use crate::cli::arguments::value_or_none;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{remark, shell_word};
use crate::domain::meta::Meta;
use crate::domain::name::{ClientId, DeviceKind, DeviceName, PlaceName};
use crate::domain::topic::TopicName;
use crate::fleet::devices::{self, Changed, DeviceChange};
use crate::remote;

/// Change a device. Its topics stay as they are.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("change").multiple(true).required(true))]
pub(super) struct Arguments {
    /// Its name.
    name: DeviceName,
    /// Its new name: MQTT user name, and client id unless it has one of its own. Its sessions end.
    #[arg(long = "name", value_name = "NEW NAME", group = "change")]
    new_name: Option<DeviceName>,
    /// What it is: sensor, relay, service, … Its sessions end.
    #[arg(long, group = "change")]
    kind: Option<DeviceKind>,
    /// Where it is; first level of its conventional topics.
    #[arg(long, group = "change")]
    area: Option<PlaceName>,
    /// Let it be in no area.
    #[arg(long, group = "change", conflicts_with = "area")]
    no_area: bool,
    /// Where it is; second level of its conventional topics.
    #[arg(long, group = "change")]
    floor: Option<PlaceName>,
    /// Let it be on no floor.
    #[arg(long, group = "change", conflicts_with = "floor")]
    no_floor: bool,
    /// Its MQTT client id, where that is not its name. Its sessions end.
    #[arg(long, group = "change")]
    client_id: Option<ClientId>,
    /// Let its name be its client id. Its sessions end.
    #[arg(long, group = "change", conflicts_with = "client_id")]
    no_client_id: bool,
    /// The device whose MQTT client speaks for it, such as a Zigbee bridge. Its sessions end, and those of the gateway that it had.
    #[arg(long, value_name = "NAME", group = "change")]
    gateway: Option<DeviceName>,
    /// Let it speak for itself. The gateway's sessions end.
    #[arg(long, group = "change", conflicts_with_all = ["gateway", "availability_topic"])]
    no_gateway: bool,
    /// The exact topic on which its gateway says whether it reaches it.
    #[arg(long, value_name = "TOPIC", group = "change")]
    availability_topic: Option<TopicName>,
    /// Let it be online whenever its gateway is.
    #[arg(long, group = "change", conflicts_with = "availability_topic")]
    no_availability_topic: bool,
    /// Anything else about it: a JSON object, which replaces the present one.
    #[arg(long, value_name = "JSON", group = "change")]
    meta: Option<Meta>,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let change = DeviceChange {
            name: self.new_name,
            client_id: value_or_none(self.client_id, self.no_client_id),
            area: value_or_none(self.area, self.no_area),
            floor: value_or_none(self.floor, self.no_floor),
            kind: self.kind,
            gateway: value_or_none(self.gateway, self.no_gateway),
            availability_topic: value_or_none(self.availability_topic, self.no_availability_topic),
            enabled: None,
            meta: self.meta,
        };
        let changed = context
            .change(
                async |fleet| devices::set(fleet, &self.name, &change).await,
                async |api| remote::devices::set(api, &self.name, &change).await,
            )
            .await?;
        change.kind.iter().for_each(warn_of_misspelt_service);
        let Changed { details, left_behind } = &changed;
        context.output.result(&changed, || format!("Changed.\n{}", show::text(details)))?;
        left_behind.iter().for_each(|binding| stays(&details.device.name, binding));
        Ok(())
    }
}

fn stays(device: &str, binding: &str) {
    remark(&format!(
        "note: the topics of binding {binding:?} stay as they are, and are no longer the conventional ones. To move them, when \
         the device uses the new ones:\n  fleetgate binding set {} {} --conventional",
        shell_word(device),
        shell_word(binding),
    ));
}
