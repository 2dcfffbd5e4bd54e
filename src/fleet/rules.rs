//! Routing rules: which devices get a capability's commands where nobody names them (`routing_rules`).
//!
//! Of a capability's enabled rules, the highest priority first, the first that yields a device decides. So a
//! rule of lower priority is what happens when the others yield none.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::domain::name::{CapabilityName, RuleName};
use crate::domain::routing::Strategy;
use crate::domain::selector::{Selector, SelectorError};
use crate::fleet::Part;
use crate::fleet::error::{FleetError, Rule, Thing};
use crate::fleet::one_thing::{self, row_of};
use crate::fleet::routing::{self, Among, Bounds, Choice, Needs};
use crate::registry::error::RegistryError;

/// Lowest and highest priority.
pub const PRIORITY: (i32, i32) = (-1_000_000, 1_000_000);

/// A rule to be made.
pub struct NewRule {
    /// Its name.
    pub name: RuleName,
    /// Whose commands it routes.
    pub capability: CapabilityName,
    /// Which devices.
    pub selector: Selector,
    /// Which of them.
    pub strategy: Strategy,
    /// The higher comes first.
    pub priority: i32,
}

/// What of a rule is to change; `None` leaves it.
#[derive(Default)]
pub struct RuleChange {
    /// Which devices.
    pub selector: Option<Selector>,
    /// Which of them.
    pub strategy: Option<Strategy>,
    /// The higher comes first.
    pub priority: Option<i32>,
    /// Whether it is asked at all.
    pub enabled: Option<bool>,
}

/// A rule as lists show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RuleRow {
    /// Its name.
    pub name: String,
    /// Whose commands it routes.
    pub capability: String,
    /// Which devices, as JSON.
    pub selector: Value,
    /// Which of them: `all`, `any` or `first`.
    pub strategy: String,
    /// The higher comes first.
    pub priority: i32,
    /// Whether it is asked at all.
    pub enabled: bool,
}

impl RuleRow {
    /// Its selector, if it is one.
    ///
    /// # Errors
    /// It was written before the database checked selectors.
    pub fn parsed_selector(&self) -> Result<Selector, SelectorError> {
        Selector::from_json(&self.selector)
    }

    pub(super) fn thing(&self) -> Thing {
        Thing::Rule(self.name.clone())
    }

    /// Its selector and strategy.
    pub(super) fn parsed(&self) -> Result<(Selector, Strategy), FleetError> {
        let unusable = |why| FleetError::rule(&self.thing(), Rule::UnusableSelector(why));
        let selector = self.parsed_selector().map_err(|error| unusable(error.to_string()))?;
        let strategy = Strategy::of_word(&self.strategy);
        let unknown =
            || unusable(format!("its strategy {:?} is unknown to this release", self.strategy));
        Ok((selector, strategy.ok_or_else(unknown)?))
    }
}

fn about(name: &RuleName) -> Thing {
    Thing::Rule(name.to_string())
}

const SELECT: &str =
    "SELECT name, capability, selector::text, strategy, priority, enabled FROM routing_rules";

fn rule_row(row: &Row) -> Result<RuleRow, FleetError> {
    let name: String = row.get("name");
    let selector = serde_json::from_str(row.get("selector"));
    Ok(RuleRow {
        capability: row.get("capability"),
        selector: selector.map_err(|error| {
            let rule = Rule::UnusableSelector(error.to_string());
            FleetError::rule(&Thing::Rule(name.clone()), rule)
        })?,
        strategy: row.get("strategy"),
        priority: row.get("priority"),
        enabled: row.get("enabled"),
        name,
    })
}

/// Adds a rule.
///
/// # Errors
/// A name that is taken; there is no such capability; a priority out of [`PRIORITY`].
pub async fn add(client: &impl GenericClient, new: &NewRule) -> Result<RuleRow, FleetError> {
    let statement = "WITH rule AS (
            INSERT INTO routing_rules (name, capability, selector, strategy, priority)
            VALUES ($1, $2, $3::text::jsonb, $4, $5) RETURNING *)
         SELECT name, capability, selector::text, strategy, priority, enabled FROM rule";
    let selector = new.selector.to_json().to_string();
    let values: [&(dyn ToSql + Sync); 5] = [
        &new.name.as_str(),
        &new.capability.as_str(),
        &selector,
        &new.strategy.word(),
        &new.priority,
    ];
    let added = client.query_one(statement, &values).await;
    rule_row(&added.map_err(|error| match FleetError::on(&about(&new.name))(error) {
        FleetError::Rule { rule: Rule::CapabilityInRules, .. } => {
            FleetError::NotFound(Thing::Capability(new.capability.clone()))
        }
        other => other,
    })?)
}

/// Changes a rule.
///
/// # Errors
/// There is no such rule; a priority out of [`PRIORITY`].
pub async fn set(
    client: &impl GenericClient,
    name: &RuleName,
    change: &RuleChange,
) -> Result<RuleRow, FleetError> {
    let statement = "UPDATE routing_rules SET selector = coalesce($2::text::jsonb, selector),
             strategy = coalesce($3, strategy), priority = coalesce($4, priority),
             enabled = coalesce($5, enabled)
         WHERE name = $1 RETURNING name, capability, selector::text, strategy, priority, enabled";
    let selector = change.selector.as_ref().map(|selector| selector.to_json().to_string());
    let strategy = change.strategy.map(Strategy::word);
    let values: [&(dyn ToSql + Sync); 5] =
        [&name.as_str(), &selector, &strategy, &change.priority, &change.enabled];
    rule_row(&row_of(client, &about(name), statement, &values).await?)
}

/// Lists rules, of one capability if it is given, in the order in which they are asked.
///
/// # Errors
/// A database that is away.
pub async fn list(
    client: &impl GenericClient,
    capability: Option<&CapabilityName>,
) -> Result<Vec<RuleRow>, FleetError> {
    let statement = format!(
        "{SELECT} WHERE $1::text IS NULL OR capability = $1 ORDER BY capability, priority DESC, id"
    );
    let rows = client.query(&statement, &[&capability.map(CapabilityName::as_str)]).await;
    rows.map_err(RegistryError::on("the list of routing rules"))?.iter().map(rule_row).collect()
}

/// Shows a rule.
///
/// # Errors
/// There is no such rule.
pub async fn show(client: &impl GenericClient, name: &RuleName) -> Result<RuleRow, FleetError> {
    let statement = format!("{SELECT} WHERE name = $1");
    rule_row(&row_of(client, &about(name), &statement, &[&name.as_str()]).await?)
}

/// Shows a rule, which nobody else changes until the caller's transaction ends.
///
/// # Errors
/// There is no such rule.
pub async fn lock(client: &impl GenericClient, name: &RuleName) -> Result<RuleRow, FleetError> {
    let statement = "SELECT FROM routing_rules WHERE name = $1 FOR NO KEY UPDATE";
    row_of(client, &about(name), statement, &[&name.as_str()]).await?;
    show(client, name).await
}

/// Removes a rule. Commands that it has routed go on.
///
/// # Errors
/// There is no such rule.
pub async fn remove(client: &impl GenericClient, name: &RuleName) -> Result<(), FleetError> {
    let statement = "DELETE FROM routing_rules WHERE name = $1";
    one_thing::change(client, &about(name), statement, &[&name.as_str()]).await
}

/// What a rule would do now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Trial {
    /// The rule.
    pub rule: RuleRow,
    /// Who would get a command.
    pub choice: Choice,
    /// The rule that is asked before it and yields a device; `None`: this one decides, if it yields any.
    pub preceded_by: Option<String>,
}

/// Tells what a rule would do now, as if it were enabled, and whether another decides before it.
///
/// # Errors
/// There is no such rule; a selector that cannot be used.
pub async fn test(
    client: &impl GenericClient,
    name: &RuleName,
    bounds: Bounds,
) -> Result<Trial, FleetError> {
    let most = bounds.max_devices;
    let rule = show(client, name).await?;
    let capability: CapabilityName = rule.capability.parse().map_err(|why| {
        let words = format!("its capability's name {why}");
        FleetError::rule(&about(name), Rule::Other(words))
    })?;
    let needs = Needs::of(client, &capability).await?;
    let among = Among { capability: &capability, needs, most, part: &Part::whole() };
    let (selector, strategy) = rule.parsed()?;
    let choice = routing::choose(client, among, &selector, strategy).await?;
    let shared_topics = routing::shared_topics(client, among.part, &capability, &choice).await?;
    let choice = Choice { shared_topics, ..choice };
    let mut preceded_by = None;
    for other in list(client, Some(&capability)).await? {
        if other.name == rule.name {
            break;
        }
        let (selector, strategy) = other.parsed()?;
        if other.enabled
            && !routing::choose(client, among, &selector, strategy).await?.devices.is_empty()
        {
            preceded_by = Some(other.name);
            break;
        }
    }
    Ok(Trial { rule, choice, preceded_by })
}
