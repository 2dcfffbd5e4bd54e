//! The part of the fleet that somebody sees and changes: all of it, or the devices that a selector means.
//!
//! What it keeps of a part:
//! * Services are outside of every part: they live by their grants, which reach everywhere.
//! * A device outside is as one that does not exist.
//! * A change finds its device inside ([`Part::lock`]) and leaves it there ([`Part::hold`]). Both are asked of PostgreSQL in
//!   the transaction of the change, with the device and what belongs to it locked, so that nobody moves it meanwhile.
//!
//! Conditions are about the registry alone: a token's selector tests nothing that devices say of themselves (`sql/V24`).

use std::collections::HashSet;

use tokio_postgres::GenericClient;

use crate::domain::device::DeviceId;
use crate::domain::name::{DeviceKind, DeviceName};
use crate::domain::selector::{Selector, Test, TextCheck, TextField, TextTest};
use crate::fleet::bindings::BindingRow;
use crate::fleet::devices::{
    self, Changed, DeviceChange, DeviceDetails, DeviceRow, DeviceVersion, NewDevice,
};
use crate::fleet::error::{FleetError, Outside, Rule, Thing};
use crate::registry::error::RegistryError;
use crate::registry::selector::{Condition, values};

/// What somebody sees and changes of the fleet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part(Option<Selector>);

impl Part {
    /// All of it.
    #[must_use]
    pub const fn whole() -> Self {
        Self(None)
    }

    /// The devices that a selector means, services excepted.
    #[must_use]
    pub fn of(selector: Selector) -> Self {
        let service = TextTest::OneOf(vec![DeviceKind::SERVICE.to_owned()]);
        let no_service = TextTest::All(vec![TextCheck::Not(service)]);
        Self(Some(selector.and(Test::Text(TextField::Kind, no_service))))
    }

    /// Whether nothing is outside.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.is_none()
    }

    /// The condition on a row `device` of `devices`, for a statement that has so many parameters before.
    #[must_use]
    pub(super) fn condition(&self, before: usize) -> Condition {
        Condition::of(self.0.as_ref().unwrap_or(&Selector::default()), before)
    }

    /// The condition on a column that has the number of a device. Of the whole fleet it holds for devices that are gone too.
    #[must_use]
    pub(super) fn condition_on(&self, column: &str, before: usize) -> Condition {
        let condition = self.condition(before);
        if self.is_whole() {
            return condition;
        }
        condition.within(|inside| {
            format!("{column} IN (SELECT device.id FROM devices AS device WHERE {inside})")
        })
    }

    /// Whether an enabled device outside has the command topic of the row `binding` as well: what is sent there reaches it.
    #[must_use]
    pub(super) fn shares_topic(&self, before: usize) -> Condition {
        let condition = self.condition(before);
        if self.is_whole() {
            return condition.within(|_| "false".to_owned());
        }
        condition.within(|inside| {
            format!(
                "EXISTS (SELECT FROM topic_bindings AS other JOIN devices AS device ON device.id = other.device_id
                     WHERE other.command_topic = binding.command_topic AND device.enabled AND NOT ({inside}))"
            )
        })
    }

    /// Of these devices, the names of those inside; of the whole fleet all, be they there or not.
    ///
    /// # Errors
    /// A database that is away.
    pub async fn inside(
        &self,
        client: &impl GenericClient,
        names: &[&str],
    ) -> Result<HashSet<String>, FleetError> {
        if self.is_whole() {
            return Ok(names.iter().map(|name| (*name).to_owned()).collect());
        }
        let condition = self.condition(1);
        let statement = format!(
            "SELECT name FROM devices AS device WHERE name = ANY ($1) AND {}",
            condition.sql()
        );
        let values = values(&[&names], [&condition]);
        let rows = client.query(&statement, &values).await;
        let rows = rows.map_err(RegistryError::on("the list of devices"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Holds that a device is inside; of the whole fleet each is, be it there or not.
    ///
    /// # Errors
    /// There is no such device inside.
    pub async fn find(
        &self,
        client: &impl GenericClient,
        name: &DeviceName,
    ) -> Result<(), FleetError> {
        match self.inside(client, &[name.as_str()]).await?.is_empty() {
            false => Ok(()),
            true => Err(FleetError::NotFound(Thing::Device(name.clone()))),
        }
    }

    /// Tells a device's version and locks it for a change ([`devices::lock_version`]); `None`: there is no such device, or it
    /// is outside.
    ///
    /// # Errors
    /// Devices outside are behind it.
    pub async fn lock(
        &self,
        client: &impl GenericClient,
        name: &DeviceName,
    ) -> Result<Option<DeviceVersion>, FleetError> {
        let found = devices::lock_version(client, name).await?;
        let Some(version) = found.filter(|_| !self.is_whole()) else { return Ok(found) };
        if !self.has(client, version.id).await? {
            return Ok(None);
        }
        let condition = self.condition(1);
        let statement = format!(
            "SELECT FROM devices AS device WHERE gateway = $1 AND NOT ({}) LIMIT 1",
            condition.sql()
        );
        let values = values(&[&version.id.0], [&condition]);
        let thing = Thing::Device(name.clone());
        let behind = client.query_opt(&statement, &values).await.map_err(FleetError::on(&thing))?;
        match behind {
            Some(_) => Err(FleetError::rule(&thing, Rule::Outside(Outside::Children))),
            None => Ok(Some(version)),
        }
    }

    /// Holds that a device that was changed is inside, or gone.
    ///
    /// # Errors
    /// It is outside.
    pub async fn hold(
        &self,
        client: &impl GenericClient,
        name: &DeviceName,
        id: DeviceId,
    ) -> Result<(), FleetError> {
        if self.is_whole() || self.has(client, id).await? {
            return Ok(());
        }
        let thing = Thing::Device(name.clone());
        let there = client.query_opt("SELECT FROM devices WHERE id = $1", &[&id.0]).await;
        match there.map_err(FleetError::on(&thing))? {
            Some(_) => Err(FleetError::rule(&thing, Rule::Outside(Outside::Device))),
            None => Ok(()),
        }
    }

    /// Shows a device, without what is outside: its gateway, or devices behind it.
    ///
    /// # Errors
    /// There is no such device, or it is outside.
    pub async fn show(
        &self,
        client: &impl GenericClient,
        name: &DeviceName,
    ) -> Result<DeviceDetails, FleetError> {
        self.find(client, name).await?;
        self.seen(client, devices::show(client, name).await?).await
    }

    /// Adds a device ([`devices::add`]).
    ///
    /// # Errors
    /// As that; the device or its gateway is outside.
    pub async fn add(
        &self,
        client: &mut impl GenericClient,
        new: &NewDevice,
    ) -> Result<DeviceDetails, FleetError> {
        if !self.is_whole() {
            let thing = Thing::Device(new.name.clone());
            if new.availability_topic.is_some() {
                return Err(FleetError::rule(&thing, Rule::Outside(Outside::AvailabilityTopic)));
            }
            if let Some(gateway) = &new.gateway {
                self.lock_gateway(client, gateway).await?;
            }
        }
        let added = devices::add(client, new).await.map_err(|error| self.tells(error))?;
        self.hold(client, &new.name, added.device.id).await?;
        self.seen(client, added).await
    }

    /// Changes a device ([`devices::set`]) that is locked. A gateway outside, which is not shown, stays where none is named.
    ///
    /// # Errors
    /// As that; the device or a gateway would be outside; another availability topic.
    pub async fn set(
        &self,
        client: &mut impl GenericClient,
        name: &DeviceName,
        mut change: DeviceChange,
    ) -> Result<Changed, FleetError> {
        if !self.is_whole() {
            self.keep_gateway(client, name, &mut change).await?;
        }
        let changed =
            devices::set(client, name, &change).await.map_err(|error| self.tells(error))?;
        self.hold(client, name, changed.details.device.id).await?;
        let details = self.seen(client, changed.details).await?;
        Ok(Changed { details, ..changed })
    }

    async fn keep_gateway(
        &self,
        client: &impl GenericClient,
        name: &DeviceName,
        change: &mut DeviceChange,
    ) -> Result<(), FleetError> {
        let refused = |what| FleetError::rule(&Thing::Device(name.clone()), Rule::Outside(what));
        let mut present = devices::show(client, name).await?.device;
        let topic = present.availability_topic.as_deref();
        if let Some(Some(wanted)) = &change.availability_topic
            && topic != Some(wanted.as_str())
        {
            return Err(refused(Outside::AvailabilityTopic));
        }
        let before = present.gateway.clone();
        self.hide(client, [&mut present]).await?;
        match &change.gateway {
            // Whatever name it is: that of the hidden one must not be told from others.
            Some(Some(_)) if before != present.gateway => Err(refused(Outside::Gateway)),
            Some(Some(wanted)) if before.as_deref() != Some(wanted.as_str()) => {
                self.lock_gateway(client, wanted).await
            }
            Some(Some(wanted)) => self.find(client, wanted).await,
            // With it stays the topic that only it can be heard on.
            Some(None) if before != present.gateway => {
                change.gateway = None;
                change.availability_topic.take_if(|topic| topic.is_none());
                Ok(())
            }
            Some(None) | None => Ok(()),
        }
    }

    /// Nobody moves it until the caller's transaction ends.
    async fn lock_gateway(
        &self,
        client: &impl GenericClient,
        name: &DeviceName,
    ) -> Result<(), FleetError> {
        let found = self.lock(client, name).await?;
        found.map(drop).ok_or_else(|| FleetError::NotFound(Thing::Device(name.clone())))
    }

    /// Holds that what a binding gives a device, which is locked, are its conventional topics and nobody's outside.
    ///
    /// # Errors
    /// They are not.
    pub async fn hold_binding(
        &self,
        client: &impl GenericClient,
        device: &DeviceName,
        binding: &BindingRow,
    ) -> Result<(), FleetError> {
        if self.is_whole() {
            return Ok(());
        }
        let thing = Thing::Device(device.clone());
        let refused = |what| FleetError::rule(&thing, Rule::Outside(what));
        let found = devices::lock(client, device).await?;
        if !found.home().is_convention_of(binding) {
            return Err(refused(Outside::Topics));
        }
        let topics = [&binding.state_topic, &binding.command_topic, &binding.reply_topic];
        let topics: Vec<&str> = topics.into_iter().filter_map(Option::as_deref).collect();
        let condition = self.condition(1);
        let statement = format!(
            "SELECT FROM topic_bindings AS bound JOIN devices AS device ON device.id = bound.device_id
             WHERE (state_topic = ANY ($1) OR command_topic = ANY ($1) OR reply_topic = ANY ($1)) AND NOT ({0})
             UNION ALL
             SELECT FROM devices AS device WHERE availability_topic = ANY ($1) AND NOT ({0}) LIMIT 1",
            condition.sql()
        );
        let values = values(&[&topics], [&condition]);
        let shared = client.query_opt(&statement, &values).await.map_err(FleetError::on(&thing))?;
        if shared.is_some() { Err(refused(Outside::SharedTopic)) } else { Ok(()) }
    }

    /// Takes away the names of gateways that are outside.
    pub(super) async fn hide<'a>(
        &self,
        client: &impl GenericClient,
        rows: impl IntoIterator<Item = &'a mut DeviceRow>,
    ) -> Result<(), FleetError> {
        if self.is_whole() {
            return Ok(());
        }
        let mut rows: Vec<&mut DeviceRow> = rows.into_iter().collect();
        let named: Vec<&str> = rows.iter().filter_map(|row| row.gateway.as_deref()).collect();
        let inside = self.inside(client, &named).await?;
        for row in &mut rows {
            row.gateway = row.gateway.take().filter(|name| inside.contains(name));
        }
        Ok(())
    }

    async fn seen(
        &self,
        client: &impl GenericClient,
        mut details: DeviceDetails,
    ) -> Result<DeviceDetails, FleetError> {
        if !self.is_whole() {
            self.hide(client, [&mut details.device]).await?;
            let behind: Vec<&str> = details.children.iter().map(String::as_str).collect();
            let inside = self.inside(client, &behind).await?;
            details.children.retain(|name| inside.contains(name));
        }
        Ok(details)
    }

    /// An error without the names of devices outside.
    fn tells(&self, error: FleetError) -> FleetError {
        match error {
            FleetError::Rule { thing, rule: Rule::IdentityTaken(_) } if !self.is_whole() => {
                FleetError::rule(&thing, Rule::ClientIdTaken)
            }
            error => error,
        }
    }

    async fn has(&self, client: &impl GenericClient, id: DeviceId) -> Result<bool, FleetError> {
        let condition = self.condition(1);
        let statement =
            format!("SELECT FROM devices AS device WHERE id = $1 AND {}", condition.sql());
        let values = values(&[&id.0], [&condition]);
        let row = client.query_opt(&statement, &values).await;
        Ok(row.map_err(RegistryError::on("the list of devices"))?.is_some())
    }
}
