//! The answer to an allowed login (docs/EMQX.md, authenticator).
//!
//! ```json
//! {"result":"allow","client_attrs":{"device":"thermo-1","kind":"sensor"},"expire_at":1800000000,
//!  "acl":[{"permission":"allow","action":"publish","topic":"eq lab/2/thermo-1/temperature"}]}
//! ```

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Serialize;

use crate::authn::Allowed;
use crate::domain::acl::{Action, AllowRule, allow_rules};
use crate::domain::topic::LITERALLY;

/// The body of the answer.
#[derive(Serialize)]
pub(super) struct Allow<'a> {
    result: &'static str,
    client_attrs: ClientAttributes<'a>,
    /// When EMQX ends the session, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_at: Option<i64>,
    /// The device's rights, if they are to travel.
    #[serde(skip_serializing_if = "Option::is_none")]
    acl: Option<Vec<Rule<'a>>>,
}

/// They stay with the client in EMQX and show in its events.
#[derive(Serialize)]
struct ClientAttributes<'a> {
    device: &'a str,
    kind: &'a str,
}

#[derive(Serialize)]
struct Rule<'a> {
    permission: &'static str,
    action: &'static str,
    topic: Cow<'a, str>,
}

impl<'a> Allow<'a> {
    pub(super) fn new(allowed: &'a Allowed, with_acl: bool) -> Self {
        let device = &allowed.device;
        Self {
            result: "allow",
            client_attrs: ClientAttributes {
                device: device.name.as_str(),
                kind: device.kind.as_str(),
            },
            expire_at: allowed.expires_at.map(Timestamp::as_second),
            acl: with_acl.then(|| allow_rules(&device.rights).map(Rule::from).collect()),
        }
    }
}

impl<'a> From<AllowRule<'a>> for Rule<'a> {
    fn from(rule: AllowRule<'a>) -> Self {
        let action = match rule.action {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
        };
        let topic = if rule.literal {
            Cow::Owned(format!("{LITERALLY}{}", rule.topic))
        } else {
            Cow::Borrowed(rule.topic)
        };
        Self { permission: "allow", action, topic }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::domain::device::{DeviceId, DeviceRecord};
    use crate::domain::rights::Rights;

    fn allowed(name: &str, expires_at: Option<i64>, rights: Rights) -> Allowed {
        let device = DeviceRecord {
            id: DeviceId(1),
            name: name.parse().unwrap(),
            client_id: None,
            kind: "sensor".parse().unwrap(),
            enabled: true,
            credentials: Box::default(),
            rights,
        };
        let expires_at = expires_at.map(|end| Timestamp::from_second(end).unwrap());
        Allowed { device: Arc::new(device), expires_at }
    }

    fn answer(allowed: &Allowed, with_acl: bool) -> Value {
        serde_json::to_value(Allow::new(allowed, with_acl)).unwrap()
    }

    #[test]
    fn rights_travel_as_rules_in_their_order() {
        let rights = Rights::new(
            vec![("lab/a\"b\\c".parse().unwrap(), "main".into())],
            vec!["lab/set".parse().unwrap()],
            vec!["logs/#".parse().unwrap()],
            vec!["alarms/+/läb".parse().unwrap(), "wider/+".parse().unwrap()],
        );
        let rule = |action: &str, topic: &str| json!({"permission": "allow", "action": action, "topic": topic});
        let rules = [
            rule("publish", "eq lab/a\"b\\c"),
            rule("subscribe", "eq lab/set"),
            rule("publish", "logs/#"),
            rule("subscribe", "alarms/+/läb"),
        ];
        let attributes = json!({"device": "u\"v\\w", "kind": "sensor"});
        let allowed = allowed("u\"v\\w", Some(1_800_000_000), rights);
        let expected = json!({"result": "allow", "client_attrs": attributes,
            "expire_at": 1_800_000_000, "acl": rules});
        assert_eq!(answer(&allowed, true), expected);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let attributes = json!({"device": "thermo-1", "kind": "sensor"});
        let bare = allowed("thermo-1", None, Rights::default());
        assert_eq!(answer(&bare, false), json!({"result": "allow", "client_attrs": attributes}));
        assert_eq!(answer(&bare, true)["acl"], json!([]));
    }
}
