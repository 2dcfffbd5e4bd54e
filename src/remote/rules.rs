//! Routing rules.

use serde_json::{Map, Value, json};

use super::{Remote, RemoteError, member};
use crate::domain::name::{CapabilityName, RuleName};
use crate::domain::routing::Strategy;
use crate::domain::selector::Selector;
use crate::fleet::rules::{NewRule, RuleChange, RuleRow, Trial};

/// Adds a rule.
///
/// # Errors
/// As [`crate::fleet::rules::add`].
pub async fn add(api: &Remote, new: &NewRule) -> Result<RuleRow, RemoteError> {
    let body = json!({
        "capability": new.capability,
        "selector": new.selector.to_json(),
        "strategy": new.strategy.word(),
        "priority": new.priority,
    });
    api.put(&["rules", new.name.as_str()]).only_new().json(&body).read().await
}

/// Changes a rule.
///
/// # Errors
/// As [`crate::fleet::rules::set`].
pub async fn set(
    api: &Remote,
    name: &RuleName,
    change: &RuleChange,
) -> Result<RuleRow, RemoteError> {
    let mut members = Map::new();
    member(&mut members, "selector", change.selector.as_ref().map(Selector::to_json));
    member(&mut members, "strategy", change.strategy.map(Strategy::word));
    member(&mut members, "priority", change.priority);
    member(&mut members, "enabled", change.enabled);
    api.patch(&["rules", name.as_str()]).json(&Value::Object(members)).read().await
}

/// Lists rules, of one capability if it is given, in the order in which they are asked.
///
/// # Errors
/// An API that is away, or refuses the token.
pub async fn list(
    api: &Remote,
    capability: Option<&CapabilityName>,
) -> Result<Vec<RuleRow>, RemoteError> {
    api.get(&["rules"]).with("capability", capability).read().await
}

/// Shows a rule.
///
/// # Errors
/// There is no such rule.
pub async fn show(api: &Remote, name: &RuleName) -> Result<RuleRow, RemoteError> {
    api.get(&["rules", name.as_str()]).read().await
}

/// Tells what a rule would do now, and whether another decides before it.
///
/// # Errors
/// As [`crate::fleet::rules::test`].
pub async fn test(api: &Remote, name: &RuleName) -> Result<Trial, RemoteError> {
    api.get(&["rules", name.as_str(), "test"]).read().await
}

/// Removes a rule.
///
/// # Errors
/// There is no such rule.
pub async fn remove(api: &Remote, name: &RuleName) -> Result<(), RemoteError> {
    api.delete(&["rules", name.as_str()]).done().await
}
