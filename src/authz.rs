//! Decides one action: may this user publish to this topic, or subscribe to this filter?
//!
//! The user name decides, not the client id: the login has bound the two together, and a service may
//! have several client ids.

use std::sync::Arc;

use crate::domain::acl::Action;
use crate::domain::device::DeviceRecord;
use crate::domain::topic::{check_topic_filter, check_topic_name, strip_subscription_prefix};
use crate::registry::cache::{CacheError, DeviceCache};

/// What EMQX asks.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who wants to act.
    pub user_name: &'a str,
    /// What it wants to do; `None` is an action that Fleetgate does not know.
    pub action: Option<Action>,
    /// The topic name of a publish, the filter of a subscribe.
    pub topic: &'a str,
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

    /// Decides one action: `Ok(Ok(()))` allows it.
    ///
    /// # Errors
    /// When the registry cannot be asked; nothing is decided then.
    pub async fn decide(&self, question: &Question<'_>) -> Result<Result<(), Refusal>, CacheError> {
        let device = self.devices.find(question.user_name).await?;
        Ok(judge(device.as_deref(), question))
    }
}

/// Decides one action by the record of the device that the user name names.
///
/// # Errors
/// The reason of the refusal.
pub fn judge(device: Option<&DeviceRecord>, question: &Question<'_>) -> Result<(), Refusal> {
    let device = device.ok_or(Refusal::UnknownDevice)?;
    if !device.enabled {
        return Err(Refusal::Disabled);
    }
    let allowed = match question.action.ok_or(Refusal::UnknownAction)? {
        Action::Publish => {
            check_topic_name(question.topic).map_err(|_| Refusal::MalformedTopic)?;
            device.rights.may_publish(question.topic)
        }
        Action::Subscribe => {
            let filter = strip_subscription_prefix(question.topic);
            check_topic_filter(filter).map_err(|_| Refusal::MalformedTopic)?;
            device.rights.may_subscribe(filter)
        }
    };
    allowed.then_some(()).ok_or(Refusal::NotGranted)
}

#[cfg(test)]
mod tests {
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

    fn ask(action: Action, topic: &str) -> Result<(), Refusal> {
        let question = Question { user_name: "thermo-1", action: Some(action), topic };
        judge(Some(&device(true)), &question)
    }

    #[test]
    fn publishing_is_held_to_state_topics_and_grants() {
        use Action::Publish;
        assert_eq!(ask(Publish, "lab/2/temp"), Ok(()));
        assert_eq!(ask(Publish, "logs/a/b"), Ok(()));
        assert_eq!(ask(Publish, "lab/2/relay/set"), Err(Refusal::NotGranted));
        assert_eq!(ask(Publish, "$SYS/brokers"), Err(Refusal::NotGranted));
        assert_eq!(ask(Publish, "logs/+"), Err(Refusal::MalformedTopic));
        assert_eq!(ask(Publish, ""), Err(Refusal::MalformedTopic));
        assert_eq!(ask(Publish, &"logs/".repeat(300)), Err(Refusal::MalformedTopic));
    }

    #[test]
    fn subscribing_is_held_to_command_topics_and_covering_grants() {
        use Action::Subscribe;
        for prefix in ["", "$share/g/", "$queue/", "$stream/", "$exclusive/"] {
            let ask = |topic: &str| ask(Subscribe, &format!("{prefix}{topic}"));
            assert_eq!(ask("lab/2/relay/set"), Ok(()), "{prefix}");
            assert_eq!(ask("alarms/fire/lab"), Ok(()), "{prefix}");
            assert_eq!(ask("alarms/+/lab"), Ok(()), "{prefix}");
            assert_eq!(ask("alarms/#"), Err(Refusal::NotGranted), "{prefix}");
            assert_eq!(ask("lab/2/temp"), Err(Refusal::NotGranted), "{prefix}");
            assert_eq!(ask("a/#/b"), Err(Refusal::MalformedTopic), "{prefix}");
            assert_eq!(ask(""), Err(Refusal::MalformedTopic), "{prefix}");
        }
        assert_eq!(ask(Subscribe, "$SYS/brokers"), Ok(()));
        assert_eq!(ask(Subscribe, "$SYS/#"), Err(Refusal::NotGranted));
        assert_eq!(ask(Subscribe, "$share/a/$share/b/lab/2/relay/set"), Err(Refusal::NotGranted));
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let publish = Some(Action::Publish);
        let question = Question { user_name: "thermo-1", action: publish, topic: "lab/2/temp" };
        assert_eq!(judge(None, &question), Err(Refusal::UnknownDevice));
        assert_eq!(judge(Some(&device(false)), &question), Err(Refusal::Disabled));
        let unknown = Question { action: None, ..question };
        assert_eq!(judge(Some(&device(true)), &unknown), Err(Refusal::UnknownAction));
    }
}
