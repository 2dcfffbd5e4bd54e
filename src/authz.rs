//! Decides one action: may this user publish to this topic, or subscribe to this filter?
//!
//! The user name decides, not the client id: the login has bound the two together, and a service may
//! have several client ids.

use std::sync::Arc;

use crate::domain::acl::Action;
use crate::domain::device::DeviceRecord;
use crate::domain::rights::Right;
use crate::domain::topic::{check_topic_filter, check_topic_name, strip_subscription_prefix};
use crate::registry::cache::{CacheError, DeviceCache};

/// What a client wants to do.
#[derive(Debug, Clone, Copy)]
pub struct AccessRequest<'a> {
    /// Who wants to act.
    pub user_name: &'a str,
    /// What it wants to do; `None` is an action that Fleetgate does not know.
    pub action: Option<Action>,
    /// The topic name of a publish, the filter of a subscribe.
    pub topic: &'a str,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The client may do it.
    Allow,
    /// It may not; the reason is for the operator alone.
    Deny(Refusal),
}

/// Why an action is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No device has this user name.
    UnknownDevice,
    /// The device may not use the bus at present.
    Disabled,
    /// Neither publish nor subscribe.
    UnknownAction,
    /// Empty, over-long, a wildcard in a publish, a malformed filter.
    MalformedTopic,
    /// No binding and no grant allows it.
    NotGranted,
}

impl Refusal {
    /// Every reason, in the order of their discriminants.
    const ALL: [Self; 5] = [
        Self::UnknownDevice,
        Self::Disabled,
        Self::UnknownAction,
        Self::MalformedTopic,
        Self::NotGranted,
    ];

    /// The label of every reason there is.
    #[must_use]
    pub fn labels() -> Vec<&'static str> {
        Self::ALL.map(Self::label).to_vec()
    }

    /// The reason as metrics and logs name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownDevice => "unknown_device",
            Self::Disabled => "disabled",
            Self::UnknownAction => "unknown_action",
            Self::MalformedTopic => "malformed_topic",
            Self::NotGranted => "not_granted",
        }
    }
}

/// Decides actions by the registry.
pub struct Authorizer {
    devices: Arc<DeviceCache>,
}

impl Authorizer {
    /// An authorizer over these devices.
    #[must_use]
    pub fn new(devices: Arc<DeviceCache>) -> Self {
        Self { devices }
    }

    /// Decides one action.
    ///
    /// # Errors
    /// When the registry cannot be asked; nothing is decided then.
    pub async fn authorize(&self, request: &AccessRequest<'_>) -> Result<Decision, CacheError> {
        let device = self.device(request.user_name).await?;
        Ok(decide(device.as_deref(), request))
    }

    /// The record by which actions of a user name are decided.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn device(&self, user_name: &str) -> Result<Option<Arc<DeviceRecord>>, CacheError> {
        self.devices.find(user_name).await
    }
}

/// Decides one action by the record of the device that the user name names.
#[must_use]
pub fn decide(device: Option<&DeviceRecord>, request: &AccessRequest<'_>) -> Decision {
    match explain(device, request) {
        Ok(_) => Decision::Allow,
        Err(refusal) => Decision::Deny(refusal),
    }
}

/// The same, with what allows the action.
///
/// # Errors
/// Why it is refused.
pub fn explain<'a>(
    device: Option<&'a DeviceRecord>,
    request: &AccessRequest<'_>,
) -> Result<Right<'a>, Refusal> {
    let device = device.ok_or(Refusal::UnknownDevice)?;
    if !device.enabled {
        return Err(Refusal::Disabled);
    }
    let right = match request.action {
        None => return Err(Refusal::UnknownAction),
        Some(Action::Publish) => {
            check_topic_name(request.topic).map(|()| device.rights.publish_right(request.topic))
        }
        Some(Action::Subscribe) => {
            let filter = strip_subscription_prefix(request.topic);
            check_topic_filter(filter).map(|()| device.rights.subscribe_right(filter))
        }
    };
    right.map_err(|_| Refusal::MalformedTopic)?.ok_or(Refusal::NotGranted)
}

#[cfg(test)]
mod tests {
    use super::Decision::{Allow, Deny};
    use super::*;
    use crate::domain::device::DeviceId;
    use crate::domain::rights::Rights;

    fn device(enabled: bool) -> DeviceRecord {
        DeviceRecord {
            id: DeviceId(1),
            name: "thermo-1".parse().unwrap(),
            client_id: None,
            kind: "sensor".parse().unwrap(),
            enabled,
            credentials: Box::default(),
            rights: Rights::new(
                vec![("lab/2/temp".parse().unwrap(), "main".into())],
                vec!["lab/2/relay/set".parse().unwrap()],
                vec!["logs/#".parse().unwrap()],
                vec!["alarms/+/lab".parse().unwrap(), "$SYS/brokers".parse().unwrap()],
            ),
        }
    }

    fn ask(action: Action, topic: &str) -> Decision {
        let request = AccessRequest { user_name: "thermo-1", action: Some(action), topic };
        decide(Some(&device(true)), &request)
    }

    #[test]
    fn publishing_is_held_to_state_topics_and_grants() {
        use Action::Publish;
        assert_eq!(ask(Publish, "lab/2/temp"), Allow);
        assert_eq!(ask(Publish, "logs/a/b"), Allow);
        assert_eq!(ask(Publish, "lab/2/relay/set"), Deny(Refusal::NotGranted));
        assert_eq!(ask(Publish, "$SYS/brokers"), Deny(Refusal::NotGranted));
        assert_eq!(ask(Publish, "logs/+"), Deny(Refusal::MalformedTopic));
        assert_eq!(ask(Publish, ""), Deny(Refusal::MalformedTopic));
        assert_eq!(ask(Publish, &"logs/".repeat(300)), Deny(Refusal::MalformedTopic));
    }

    #[test]
    fn subscribing_is_held_to_command_topics_and_covering_grants() {
        use Action::Subscribe;
        for prefix in ["", "$share/g/", "$exclusive/"] {
            let ask = |topic: &str| ask(Subscribe, &format!("{prefix}{topic}"));
            assert_eq!(ask("lab/2/relay/set"), Allow, "{prefix}");
            assert_eq!(ask("alarms/fire/lab"), Allow, "{prefix}");
            assert_eq!(ask("alarms/+/lab"), Allow, "{prefix}");
            assert_eq!(ask("alarms/#"), Deny(Refusal::NotGranted), "{prefix}");
            assert_eq!(ask("lab/2/temp"), Deny(Refusal::NotGranted), "{prefix}");
            assert_eq!(ask("a/#/b"), Deny(Refusal::MalformedTopic), "{prefix}");
            assert_eq!(ask(""), Deny(Refusal::MalformedTopic), "{prefix}");
        }
        // In EMQX 6 what follows is the name of a queue, not a topic.
        for prefix in ["$queue/", "$stream/"] {
            for topic in ["lab/2/relay/set", "alarms/+/lab", "lab"] {
                let asked = format!("{prefix}{topic}");
                assert_eq!(ask(Subscribe, &asked), Deny(Refusal::NotGranted), "{asked}");
            }
        }
        assert_eq!(ask(Subscribe, "$SYS/brokers"), Allow);
        assert_eq!(ask(Subscribe, "$SYS/#"), Deny(Refusal::NotGranted));
        assert_eq!(ask(Subscribe, "$share/a/$share/b/lab/2/relay/set"), Deny(Refusal::NotGranted));
    }

    #[test]
    fn every_reason_is_labelled_once() {
        assert!(Refusal::ALL.iter().enumerate().all(|(place, refusal)| *refusal as usize == place));
        assert_eq!(Refusal::ALL.last(), Some(&Refusal::NotGranted), "the last of them all");
    }

    #[test]
    fn what_cannot_be_decided_is_refused() {
        let publish = Some(Action::Publish);
        let request = AccessRequest { user_name: "thermo-1", action: publish, topic: "lab/2/temp" };
        assert_eq!(decide(None, &request), Deny(Refusal::UnknownDevice));
        assert_eq!(decide(Some(&device(false)), &request), Deny(Refusal::Disabled));
        let unknown = AccessRequest { action: None, ..request };
        assert_eq!(decide(Some(&device(true)), &unknown), Deny(Refusal::UnknownAction));
    }
}
