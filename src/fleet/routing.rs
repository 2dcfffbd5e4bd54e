//! Who gets a command: devices that are named, that a selector means, or that the capability's routing rules choose.

use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use utoipa::ToSchema;

use crate::domain::delivery::Confirmation;
use crate::domain::name::{CapabilityName, DeviceName, RuleName};
use crate::domain::routing::Strategy;
use crate::domain::selector::Selector;
use crate::fleet::Part;
use crate::fleet::capabilities;
use crate::fleet::error::{FleetError, Rule, Thing};
use crate::fleet::rules;
use crate::registry::error::RegistryError;
use crate::registry::selector::{Condition, ONLINE, values};

/// What bounds commands; settings say it.
///
/// Without EMQX's REST API, over which they go, there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Largest payload, in bytes.
    pub max_payload: usize,
    /// Most devices that one command goes to.
    pub max_devices: usize,
    /// Whether EMQX's REST API can be called.
    pub has_broker: bool,
}

impl Bounds {
    /// # Errors
    /// [`Rule::NoBroker`].
    pub(super) fn require_broker(self, thing: &Thing) -> Result<(), FleetError> {
        match self.has_broker {
            true => Ok(()),
            false => Err(FleetError::rule(thing, Rule::NoBroker)),
        }
    }
}

/// Whom a command is for.
#[derive(Debug, Clone)]
pub enum To {
    /// These, each of them: one that cannot get it is an error.
    Devices(Vec<DeviceName>),
    /// Every device that can get it and for which this holds.
    Selector(Selector),
    /// Whom this rule chooses.
    Rule(RuleName),
    /// Whom the capability's rules choose.
    Rules,
}

/// A device that gets a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Chosen {
    /// Its row.
    #[serde(skip)]
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whether it is online.
    pub online: bool,
}

/// Who gets a command, and why.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Choice {
    /// The devices.
    pub devices: Vec<Chosen>,
    /// The rule that chose them.
    pub rule: Option<String>,
    /// The selector that did.
    #[serde(skip)]
    pub selector: Option<Selector>,
    /// Command topics that further devices or several of these are on: what is sent there reaches all of them. Only looked
    /// for where nothing is sent.
    pub shared_topics: Vec<SharedTopic>,
}

/// A command topic of several devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedTopic {
    /// The topic.
    pub topic: String,
    /// Every enabled device on it, by name.
    pub devices: Vec<String>,
}

/// What a binding needs for a command to be confirmed.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    pub(super) state_topic: bool,
    pub(super) reply_topic: bool,
}

impl Needs {
    pub(super) fn for_confirmation(confirm: Option<Confirmation>) -> Self {
        Self {
            state_topic: confirm == Some(Confirmation::State),
            reply_topic: confirm == Some(Confirmation::Reply),
        }
    }

    /// What commands of a capability need unless they say otherwise.
    pub(super) async fn of(
        client: &impl GenericClient,
        capability: &CapabilityName,
    ) -> Result<Self, FleetError> {
        let capability = capabilities::find(client, capability).await?;
        Ok(Self::for_confirmation(Confirmation::of_word(&capability.confirm)))
    }
}

/// Which devices may be chosen.
#[derive(Clone, Copy)]
pub(super) struct Among<'a> {
    /// Those that can get its commands.
    pub(super) capability: &'a CapabilityName,
    /// And have what confirming needs.
    pub(super) needs: Needs,
    /// So many at most; more are an error.
    pub(super) most: usize,
    /// Those of this part of the fleet, none of which shares its command topic with one outside.
    pub(super) part: &'a Part,
}

/// Chooses among the devices that can get a command of the capability and for which the selector holds: enabled, as its
/// gateway, with a command topic for it, and what confirming needs. For `any`, whoever chooses for the same capability waits until the
/// caller's transaction has ended, so that two commands at a time do not choose the same device.
///
/// # Errors
/// More than `most`; a database that is away.
pub(super) async fn choose(
    client: &impl GenericClient,
    among: Among<'_>,
    selector: &Selector,
    strategy: Strategy,
) -> Result<Choice, FleetError> {
    let Among { capability, needs, most, part } = among;
    let thing = Thing::Capability(capability.clone());
    if strategy == Strategy::Any {
        // Of the database, not of a row: who serves may not lock capabilities.
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('fleetgate any ' || $1, 0))";
        let locked = client.execute(lock, &[&capability.as_str()]).await;
        locked.map_err(FleetError::on(&thing))?;
    }
    let (order, limit) = match strategy {
        Strategy::All => ("device.name", most.saturating_add(1)),
        Strategy::First => ("device.name", 1),
        Strategy::Any => (
            "online DESC, (SELECT max(asked_at) FROM command_deliveries
                 WHERE device_id = device.id AND binding = can.capability) NULLS FIRST, device.name",
            1,
        ),
    };
    let inside = part.condition(4);
    let shares_topic = part.shares_topic(inside.end());
    let condition = Condition::of(selector, shares_topic.end());
    let statement = format!(
        "SELECT device.id, device.name, {ONLINE} AS online
         FROM device_capabilities AS can
         JOIN devices AS device ON device.id = can.device_id
         JOIN topic_bindings AS binding ON binding.device_id = device.id AND binding.name = can.capability
         LEFT JOIN devices AS gateway ON gateway.id = device.gateway
         LEFT JOIN device_state AS heard ON heard.device_id = device.id
         WHERE can.capability = $1 AND device.enabled AND binding.command_topic IS NOT NULL
           AND coalesce(gateway.enabled, true)
           AND (NOT $2 OR binding.state_topic IS NOT NULL) AND (NOT $3 OR binding.reply_topic IS NOT NULL)
           AND {} AND NOT {} AND {}
         ORDER BY {order} LIMIT $4",
        inside.sql(),
        shares_topic.sql(),
        condition.sql()
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let name = capability.as_str();
    let values = values(
        &[&name, &needs.state_topic, &needs.reply_topic, &limit],
        [&inside, &shares_topic, &condition],
    );
    let rows = client.query(&statement, &values).await;
    let rows = rows.map_err(RegistryError::on("the devices that a selector means"))?;
    if rows.len() > most {
        return Err(FleetError::rule(&thing, Rule::TooManyDevices(most)));
    }
    let chosen =
        |row: &tokio_postgres::Row| Chosen { id: row.get(0), name: row.get(1), online: row.get(2) };
    Ok(Choice {
        devices: rows.iter().map(chosen).collect(),
        selector: Some(selector.clone()),
        ..Choice::default()
    })
}

/// The command topics of the chosen that several devices are on.
///
/// # Errors
/// A database that is away.
pub(super) async fn shared_topics(
    client: &impl GenericClient,
    part: &Part,
    capability: &CapabilityName,
    choice: &Choice,
) -> Result<Vec<SharedTopic>, FleetError> {
    let chosen: Vec<i64> = choice.devices.iter().map(|device| device.id).collect();
    let inside = part.condition(2);
    let statement = format!(
        "WITH chosen AS (
             SELECT DISTINCT command_topic FROM topic_bindings
             WHERE device_id = ANY ($1) AND name = $2 AND command_topic IS NOT NULL)
         SELECT command_topic, array_agg(DISTINCT device.name) AS devices
         FROM chosen JOIN topic_bindings USING (command_topic)
         JOIN devices AS device ON device.id = device_id AND device.enabled AND {}
         GROUP BY command_topic HAVING count(DISTINCT device_id) > 1 ORDER BY command_topic",
        inside.sql()
    );
    let capability = capability.as_str();
    let rows = client.query(&statement, &values(&[&chosen, &capability], [&inside])).await;
    let rows = rows.map_err(RegistryError::on("the devices on a topic"))?;
    let shared = |row: &tokio_postgres::Row| SharedTopic { topic: row.get(0), devices: row.get(1) };
    Ok(rows.iter().map(shared).collect())
}

/// Whom a selector or rules choose; at least one device.
///
/// # Errors
/// As [`choose`]; no device can get it; there is no such rule, it is disabled, or of another capability; the
/// capability has no enabled rule.
pub(super) async fn route(
    client: &impl GenericClient,
    among: Among<'_>,
    to: Route<'_>,
) -> Result<Choice, FleetError> {
    let capability = among.capability;
    let thing = Thing::Capability(capability.clone());
    let rules = match to {
        Route::Selector(selector) => {
            let choice = choose(client, among, selector, Strategy::All).await?;
            if choice.devices.is_empty() {
                return Err(FleetError::rule(&thing, Rule::NoMatch));
            }
            return Ok(choice);
        }
        Route::Rule(name) => {
            let rule = rules::show(client, name).await?;
            if rule.capability != capability.as_str() {
                let wrong = Rule::RuleOfAnotherCapability(rule.capability.clone());
                return Err(FleetError::rule(&rule.thing(), wrong));
            }
            if !rule.enabled {
                return Err(FleetError::rule(&rule.thing(), Rule::RuleDisabled));
            }
            vec![rule]
        }
        Route::Rules => {
            let mut rules = rules::list(client, Some(capability)).await?;
            rules.retain(|rule| rule.enabled);
            rules
        }
    };
    if rules.is_empty() {
        return Err(FleetError::rule(&thing, Rule::NoRules));
    }
    for rule in rules {
        let (selector, strategy) = rule.parsed()?;
        let choice = choose(client, among, &selector, strategy).await?;
        if !choice.devices.is_empty() {
            return Ok(Choice { rule: Some(rule.name), ..choice });
        }
    }
    Err(FleetError::rule(&thing, Rule::NoMatch))
}

/// What chooses.
pub(super) enum Route<'a> {
    Selector(&'a Selector),
    Rule(&'a RuleName),
    Rules,
}
