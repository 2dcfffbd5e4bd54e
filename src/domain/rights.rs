//! What a device may do on the bus.

use crate::domain::request::{COMMANDS, RESULTS};
use crate::domain::topic::{TopicFilter, TopicName, filter_matches, grant_covers};

/// The name under which a child's availability stands among its last known values; no binding can have it.
pub const AVAILABILITY: &str = "$availability";

/// A binding whose state a topic carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedBinding {
    /// Its name.
    pub binding: Box<str>,
    /// Whether a report is a merge patch (RFC 7396) to the last known value instead of the value itself.
    pub merge: bool,
}

impl From<&str> for ReportedBinding {
    /// A binding whose reports replace the last known value.
    fn from(binding: &str) -> Self {
        Self { binding: binding.into(), merge: false }
    }
}

/// Bindings, at the position of the topic that they share.
type BindingsByTopic = Box<[Box<[ReportedBinding]>]>;

/// The rights of one device.
///
/// Exact topics are sorted, so that a device with a thousand bindings takes ten comparisons.
#[derive(Debug, Default)]
pub struct Rights {
    state_topics: Box<[TopicName]>,
    /// For each state topic the bindings that it carries, at the same position.
    reported_bindings: BindingsByTopic,
    command_topics: Box<[TopicName]>,
    reply_topics: Box<[TopicName]>,
    publish_grants: Box<[TopicFilter]>,
    subscribe_grants: Box<[TopicFilter]>,
}

impl Rights {
    /// Gathers rights from bindings (exact topics, state topics with the binding) and grants
    /// (filters), in any order.
    #[must_use]
    pub fn new(
        state_topics: Vec<(TopicName, ReportedBinding)>,
        command_topics: Vec<TopicName>,
        publish_grants: Vec<TopicFilter>,
        subscribe_grants: Vec<TopicFilter>,
    ) -> Self {
        let (state_topics, reported_bindings) = by_topic(state_topics);
        Self {
            state_topics,
            reported_bindings,
            command_topics: sorted(command_topics),
            reply_topics: Box::default(),
            publish_grants: publish_grants.into(),
            subscribe_grants: subscribe_grants.into(),
        }
    }

    /// The same with topics that the device answers commands on, in any order.
    #[must_use]
    pub fn with_reply_topics(self, reply_topics: Vec<TopicName>) -> Self {
        Self { reply_topics: sorted(reply_topics), ..self }
    }

    /// Topics that the device reports its state on.
    #[must_use]
    pub fn state_topics(&self) -> &[TopicName] {
        &self.state_topics
    }

    /// The bindings whose state a topic carries: none, one, or several that share it.
    #[must_use]
    pub fn reported_bindings(&self, topic: &str) -> &[ReportedBinding] {
        self.state_topics
            .binary_search_by(|known| known.as_str().cmp(topic))
            .ok()
            .and_then(|position| self.reported_bindings.get(position))
            .map_or(&[], |bindings| bindings)
    }

    /// Topics that the device listens on.
    #[must_use]
    pub fn command_topics(&self) -> &[TopicName] {
        &self.command_topics
    }

    /// Topics that the device answers commands on.
    #[must_use]
    pub fn reply_topics(&self) -> &[TopicName] {
        &self.reply_topics
    }

    /// Whether the device answers commands on a topic.
    #[must_use]
    pub fn replies_on(&self, topic: &str) -> bool {
        contains(&self.reply_topics, topic)
    }

    /// Filters of topics that the device may publish to besides its state and reply topics.
    #[must_use]
    pub fn publish_grants(&self) -> &[TopicFilter] {
        &self.publish_grants
    }

    /// Filters that cover what the device may subscribe to besides its command topics.
    #[must_use]
    pub fn subscribe_grants(&self) -> &[TopicFilter] {
        &self.subscribe_grants
    }

    /// Whether a service may ask for commands by publishing to a topic. A grant has to say so: that for `#` commands nothing.
    #[must_use]
    pub fn may_command(&self, topic: &str) -> bool {
        let says_so = |grant: &&TopicFilter| grant.as_str().starts_with(COMMANDS);
        self.publish_grants
            .iter()
            .filter(says_so)
            .any(|grant| filter_matches(grant.as_str(), topic))
    }

    /// Whether the device may publish to a topic name. The topic must be well formed. Results are published by Fleetgate
    /// alone, whatever grants say.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        if topic.starts_with(RESULTS) {
            return false;
        }
        contains(&self.state_topics, topic)
            || self.replies_on(topic)
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

fn by_topic(
    mut reported: Vec<(TopicName, ReportedBinding)>,
) -> (Box<[TopicName]>, BindingsByTopic) {
    reported.sort_unstable_by(|(a, x), (b, y)| (a, &x.binding).cmp(&(b, &y.binding)));
    let mut by_topic: Vec<(TopicName, Vec<ReportedBinding>)> = Vec::new();
    for (topic, binding) in reported {
        match by_topic.last_mut() {
            Some((last, bindings)) if *last == topic => bindings.push(binding),
            _ => by_topic.push((topic, vec![binding])),
        }
    }
    let (topics, bindings): (Vec<_>, Vec<_>) =
        by_topic.into_iter().map(|(topic, bindings)| (topic, bindings.into())).unzip();
    (topics.into(), bindings.into())
}

fn sorted(mut topics: Vec<TopicName>) -> Box<[TopicName]> {
    topics.sort_unstable();
    topics.dedup();
    topics.into()
}

fn contains(topics: &[TopicName], topic: &str) -> bool {
    topics.binary_search_by(|known| known.as_str().cmp(topic)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_topic_knows_its_bindings() {
        let reported =
            |binding: &str| ReportedBinding { binding: binding.into(), merge: binding == "y" };
        let bound = |topic: &str, binding: &str| (topic.parse().unwrap(), reported(binding));
        let bindings = vec![bound("b", "main"), bound("a", "z"), bound("a", "y")];
        let rights = Rights::new(bindings, vec![], vec![], vec![]);
        assert_eq!(rights.state_topics().len(), 2);
        assert_eq!(rights.reported_bindings("a"), [reported("y"), reported("z")]);
        assert_eq!(rights.reported_bindings("b"), [reported("main")]);
        assert!(rights.reported_bindings("c").is_empty());
    }
}
