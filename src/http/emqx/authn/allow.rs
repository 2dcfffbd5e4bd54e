//! What an allowed login tells EMQX (docs/EMQX.md, authenticator).
//!
//! ```json
//! {"result":"allow","client_attrs":{"device":"thermo-1","kind":"sensor"},"expire_at":1800000000,
//!  "acl":[{"permission":"allow","action":"publish","topic":"eq lab/2/thermo-1/temperature"}]}
//! ```
//!
//! Written by hand: this text is made anew for every login, and a serializer's many small steps were
//! over a third of what a login took beyond HTTP itself. Kept with the device it would cost memory.

use std::fmt::Write;

use crate::authn::Allowed;
use crate::domain::acl::{Action, AllowRule, allow_rules};
use crate::domain::rights::Rights;
use crate::domain::topic::LITERALLY;

/// Bytes of everything but the rules, names of usual length included.
const ROOM: usize = 128;
/// Bytes of a rule with a topic of usual length.
const ROOM_PER_RULE: usize = 112;

/// The body. `client_attrs` stay with the client in EMQX and show in its events; `expire_at` (Unix
/// seconds) is when EMQX ends the session; `acl` are the device's rights, if they are to travel.
pub(super) fn allow_text(allowed: &Allowed, with_acl: bool) -> String {
    let device = &allowed.device;
    let room = if with_acl { ROOM + ROOM_PER_RULE * count(&device.rights) } else { ROOM };
    let mut text = String::with_capacity(room);
    text.push_str(r#"{"result":"allow","client_attrs":{"device":""#);
    push_escaped(&mut text, device.name.as_str());
    text.push_str(r#"","kind":""#);
    push_escaped(&mut text, device.kind.as_str());
    text.push_str("\"}");
    if let Some(end) = allowed.expires_at {
        // Writing to a text cannot fail.
        let _ = write!(text, r#","expire_at":{end}"#);
    }
    if with_acl {
        push_acl(&mut text, &device.rights);
    }
    text.push('}');
    text
}

fn count(rights: &Rights) -> usize {
    rights.state_topics().len()
        + rights.command_topics().len()
        + rights.publish_grants().len()
        + rights.subscribe_grants().len()
}

fn push_acl(text: &mut String, rights: &Rights) {
    text.push_str(r#","acl":["#);
    for (position, rule) in allow_rules(rights).enumerate() {
        if position > 0 {
            text.push(',');
        }
        push_rule(text, &rule);
    }
    text.push(']');
}

fn push_rule(text: &mut String, rule: &AllowRule<'_>) {
    text.push_str(match rule.action {
        Action::Publish => r#"{"permission":"allow","action":"publish","topic":""#,
        Action::Subscribe => r#"{"permission":"allow","action":"subscribe","topic":""#,
    });
    if rule.literal {
        text.push_str(LITERALLY);
    }
    push_escaped(text, rule.topic);
    text.push_str("\"}");
}

/// Adds a text as it stands between the quotes of a JSON string (RFC 8259 §7).
fn push_escaped(text: &mut String, value: &str) {
    if !value.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        text.push_str(value);
        return;
    }
    for character in value.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '\0'..' ' => {
                // Writing to a text cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::device::{DeviceId, DeviceRecord};

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
        Allowed { device: Arc::new(device), expires_at }
    }

    fn told(allowed: &Allowed, with_acl: bool) -> Value {
        serde_json::from_str(&allow_text(allowed, with_acl)).unwrap()
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
        assert_eq!(told(&allowed, true), expected);
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let attributes = json!({"device": "thermo-1", "kind": "sensor"});
        let bare = allowed("thermo-1", None, Rights::default());
        assert_eq!(told(&bare, false), json!({"result": "allow", "client_attrs": attributes}));
        assert_eq!(told(&bare, true)["acl"], json!([]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_survives_its_escapes(value in any::<String>()) {
            let mut text = String::from('"');
            push_escaped(&mut text, &value);
            text.push('"');
            prop_assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
        }
    }
}
