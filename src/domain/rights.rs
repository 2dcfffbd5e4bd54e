//! What a device may do on the bus.

use crate::domain::topic::{TopicFilter, TopicName, filter_matches, grant_covers};

/// The rights of one device, ready to be asked.
///
/// Exact topics are sorted, so that a device with a thousand bindings is decided in ten compares.
#[derive(Debug, Default)]
pub struct Rights {
    state_topics: Box<[TopicName]>,
    command_topics: Box<[TopicName]>,
    publish_grants: Box<[TopicFilter]>,
    subscribe_grants: Box<[TopicFilter]>,
}

impl Rights {
    /// Gathers rights from bindings (exact topics) and grants (filters), in any order.
    #[must_use]
    pub fn new(
        state_topics: Vec<TopicName>,
        command_topics: Vec<TopicName>,
        publish_grants: Vec<TopicFilter>,
        subscribe_grants: Vec<TopicFilter>,
    ) -> Self {
        Self {
            state_topics: sorted(state_topics),
            command_topics: sorted(command_topics),
            publish_grants: publish_grants.into(),
            subscribe_grants: subscribe_grants.into(),
        }
    }

    /// Topics that the device reports its state on.
    #[must_use]
    pub fn state_topics(&self) -> &[TopicName] {
        &self.state_topics
    }

    /// Topics that the device listens on.
    #[must_use]
    pub fn command_topics(&self) -> &[TopicName] {
        &self.command_topics
    }

    /// Filters of topics that the device may publish to besides its state topics.
    #[must_use]
    pub fn publish_grants(&self) -> &[TopicFilter] {
        &self.publish_grants
    }

    /// Filters that cover what the device may subscribe to besides its command topics.
    #[must_use]
    pub fn subscribe_grants(&self) -> &[TopicFilter] {
        &self.subscribe_grants
    }

    /// Whether the device may publish to a topic name. The topic must be well formed.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        contains(&self.state_topics, topic)
            || self.publish_grants.iter().any(|grant| filter_matches(grant.as_str(), topic))
    }

    /// Whether the device may subscribe to a filter without subscription prefix. It must be well
    /// formed.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        contains(&self.command_topics, filter)
            || self.subscribe_grants.iter().any(|grant| grant_covers(grant.as_str(), filter))
    }
}

fn sorted(mut topics: Vec<TopicName>) -> Box<[TopicName]> {
    topics.sort_unstable();
    topics.dedup();
    topics.into()
}

fn contains(topics: &[TopicName], topic: &str) -> bool {
    topics.binary_search_by(|known| known.as_str().cmp(topic)).is_ok()
}
