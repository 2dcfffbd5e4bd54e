//! What a device may do on the bus.

use crate::domain::device::DeviceId;
use crate::domain::request::{COMMANDS, RESULTS};
use crate::domain::topic::{TopicFilter, TopicName, filter_matches, grant_covers};

/// The name under which a child's availability stands among its last known values; no binding can have it.
pub const AVAILABILITY: &str = "$availability";

/// A binding whose state a topic carries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportedBinding {
    /// The child whose binding it is; `None`: the device's own.
    pub child: Option<DeviceId>,
    /// Its name.
    pub binding: Box<str>,
    /// Whether a report is a merge patch (RFC 7396) to the last known value instead of the value itself.
    pub merge: bool,
}

impl From<&str> for ReportedBinding {
    /// A binding whose reports replace the last known value.
    fn from(binding: &str) -> Self {
        Self { child: None, binding: binding.into(), merge: false }
    }
}

/// Exact topics, sorted, each with what it is about: a device with a thousand bindings takes ten comparisons.
#[derive(Debug)]
struct ByTopic<T> {
    topics: Box<[TopicName]>,
    /// At the position of its topic.
    about: Box<[Box<[T]>]>,
}

impl<T> Default for ByTopic<T> {
    fn default() -> Self {
        Self { topics: Box::default(), about: Box::default() }
    }
}

impl<T: Ord> ByTopic<T> {
    fn new(mut pairs: Vec<(TopicName, T)>) -> Self {
        pairs.sort_unstable();
        let mut by_topic: Vec<(TopicName, Vec<T>)> = Vec::new();
        for (topic, about) in pairs {
            match by_topic.last_mut() {
                Some((last, all)) if *last == topic => all.push(about),
                _ => by_topic.push((topic, vec![about])),
            }
        }
        let (topics, about): (Vec<_>, Vec<_>) =
            by_topic.into_iter().map(|(topic, about)| (topic, about.into())).unzip();
        Self { topics: topics.into(), about: about.into() }
    }

    fn about(&self, topic: &str) -> &[T] {
        self.topics
            .binary_search_by(|known| known.as_str().cmp(topic))
            .ok()
            .and_then(|position| self.about.get(position))
            .map_or(&[], |about| about)
    }
}

/// What allows an action. A topic is that of the action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right<'a> {
    /// A binding's state topic, of the device or one behind it.
    StateTopic,
    /// A binding's command topic, of the device or one behind it.
    CommandTopic,
    /// A binding's reply topic, of the device or one behind it.
    ReplyTopic,
    /// The availability topic of a device behind it.
    AvailabilityTopic,
    /// A grant on this filter.
    Grant(&'a str),
}

/// The topics of the enabled devices behind a gateway, in any order.
#[derive(Debug, Default)]
pub struct ChildTopics {
    /// State topics with their bindings.
    pub state: Vec<(TopicName, ReportedBinding)>,
    /// Command topics.
    pub command: Vec<TopicName>,
    /// Reply topics.
    pub reply: Vec<TopicName>,
    /// Topics on which the gateway says whether it reaches a child.
    pub availability: Vec<(TopicName, DeviceId)>,
}

/// Exact topics of bindings.
#[derive(Debug, Default)]
struct BoundTopics {
    state: ByTopic<ReportedBinding>,
    command: Box<[TopicName]>,
    reply: Box<[TopicName]>,
}

impl BoundTopics {
    fn size(&self) -> usize {
        self.state.topics.len() + self.command.len() + self.reply.len()
    }
}

/// The rights of one device: those of its bindings and grants, and of a gateway those of its children's bindings.
#[derive(Debug, Default)]
pub struct Rights {
    own: BoundTopics,
    publish_grants: Box<[TopicFilter]>,
    subscribe_grants: Box<[TopicFilter]>,
    children: BoundTopics,
    availability: ByTopic<DeviceId>,
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
        Self {
            own: BoundTopics {
                state: ByTopic::new(state_topics),
                command: sorted(command_topics),
                reply: Box::default(),
            },
            publish_grants: publish_grants.into(),
            subscribe_grants: subscribe_grants.into(),
            ..Self::default()
        }
    }

    /// The same with topics that the device answers commands on, in any order.
    #[must_use]
    pub fn with_reply_topics(mut self, reply_topics: Vec<TopicName>) -> Self {
        self.own.reply = sorted(reply_topics);
        self
    }

    /// The same with what the device may do as the gateway of these.
    #[must_use]
    pub fn with_children(self, children: ChildTopics) -> Self {
        Self {
            children: BoundTopics {
                state: ByTopic::new(children.state),
                command: sorted(children.command),
                reply: sorted(children.reply),
            },
            availability: ByTopic::new(children.availability),
            ..self
        }
    }

    /// How many rights there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.own.size()
            + self.children.size()
            + self.availability.topics.len()
            + self.publish_grants.len()
            + self.subscribe_grants.len()
    }

    /// Topics that the device publishes to by its own bindings.
    pub fn publish_topics(&self) -> impl Iterator<Item = &TopicName> {
        self.own.state.topics.iter().chain(&self.own.reply)
    }

    /// Topics that the device publishes to for its children.
    pub fn publish_topics_of_children(&self) -> impl Iterator<Item = &TopicName> {
        let Self { children, availability, .. } = self;
        children.state.topics.iter().chain(&children.reply).chain(&availability.topics)
    }

    /// The bindings whose state a topic carries, the device's own first: none, one, or several that share it.
    pub fn reported_bindings(&self, topic: &str) -> impl Iterator<Item = &ReportedBinding> {
        self.own.state.about(topic).iter().chain(self.children.state.about(topic))
    }

    /// The children whose availability a topic carries.
    #[must_use]
    pub fn availability_of(&self, topic: &str) -> &[DeviceId] {
        self.availability.about(topic)
    }

    /// Topics that the device listens on by its own bindings.
    #[must_use]
    pub fn command_topics(&self) -> &[TopicName] {
        &self.own.command
    }

    /// Topics that the device listens on for its children.
    #[must_use]
    pub fn command_topics_of_children(&self) -> &[TopicName] {
        &self.children.command
    }

    /// Whether the device, or a child through it, answers commands on a topic.
    #[must_use]
    pub fn replies_on(&self, topic: &str) -> bool {
        contains(&self.own.reply, topic) || contains(&self.children.reply, topic)
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

    /// Whether the device may publish to a topic name.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        self.publish_right(topic).is_some()
    }

    /// What lets the device publish to a topic name. The topic must be well formed. Results are published by Fleetgate
    /// alone, whatever grants say.
    #[must_use]
    pub fn publish_right(&self, topic: &str) -> Option<Right<'_>> {
        if topic.starts_with(RESULTS) {
            return None;
        }
        if contains(&self.own.state.topics, topic) || contains(&self.children.state.topics, topic) {
            return Some(Right::StateTopic);
        }
        if contains(&self.availability.topics, topic) {
            return Some(Right::AvailabilityTopic);
        }
        if self.replies_on(topic) {
            return Some(Right::ReplyTopic);
        }
        self.publish_grant(topic)
    }

    /// The grant that lets the device publish to a topic name, whatever bindings say.
    #[must_use]
    pub fn publish_grant(&self, topic: &str) -> Option<Right<'_>> {
        let mut grants = self.publish_grants.iter().map(TopicFilter::as_str);
        let of_fleetgate = topic.starts_with(RESULTS);
        grants.find(|grant| !of_fleetgate && filter_matches(grant, topic)).map(Right::Grant)
    }

    /// Whether the device may subscribe to a filter without subscription prefix.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        self.subscribe_right(filter).is_some()
    }

    /// What lets the device subscribe to a filter without subscription prefix. It must be well formed.
    #[must_use]
    pub fn subscribe_right(&self, filter: &str) -> Option<Right<'_>> {
        if contains(&self.own.command, filter) || contains(&self.children.command, filter) {
            return Some(Right::CommandTopic);
        }
        self.subscribe_grant(filter)
    }

    /// The grant that lets the device subscribe to a filter, whatever bindings say.
    #[must_use]
    pub fn subscribe_grant(&self, filter: &str) -> Option<Right<'_>> {
        let mut grants = self.subscribe_grants.iter().map(TopicFilter::as_str);
        grants.find(|grant| grant_covers(grant, filter)).map(Right::Grant)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_topic_knows_its_bindings() {
        let reported = |binding: &str| ReportedBinding {
            merge: binding == "y",
            ..ReportedBinding::from(binding)
        };
        let bound = |topic: &str, binding: &str| (topic.parse().unwrap(), reported(binding));
        let bindings = vec![bound("b", "main"), bound("a", "z"), bound("a", "y")];
        let rights = Rights::new(bindings, vec![], vec![], vec![]);
        let on = |topic| rights.reported_bindings(topic).cloned().collect::<Vec<_>>();
        assert_eq!(rights.publish_topics().count(), 2);
        assert_eq!(on("a"), [reported("y"), reported("z")]);
        assert_eq!(on("b"), [reported("main")]);
        assert!(on("c").is_empty());
    }

    #[test]
    fn a_gateway_may_do_what_its_children_are_bound_to() {
        let topic = |text: &str| text.parse::<TopicName>().unwrap();
        let of_child =
            ReportedBinding { child: Some(DeviceId(7)), ..ReportedBinding::from("main") };
        let rights = Rights::new(vec![(topic("s"), "main".into())], vec![], vec![], vec![])
            .with_children(ChildTopics {
                state: vec![(topic("s"), of_child.clone()), (topic("c/s"), of_child.clone())],
                command: vec![topic("c/set")],
                reply: vec![topic("c/reply")],
                availability: vec![(topic("c/a"), DeviceId(7)), (topic("c/a"), DeviceId(8))],
            });
        for allowed in ["s", "c/s", "c/reply", "c/a"] {
            assert!(rights.may_publish(allowed), "{allowed}");
        }
        assert!(rights.may_subscribe("c/set") && rights.replies_on("c/reply"));
        for refused in ["c/set", "c", "c/x"] {
            assert!(!rights.may_publish(refused) && !rights.replies_on(refused), "{refused}");
        }
        assert!(!rights.may_subscribe("c/s"));
        assert!(rights.reported_bindings("s").eq(&["main".into(), of_child.clone()]));
        assert!(rights.reported_bindings("c/s").eq(&[of_child]));
        assert_eq!(rights.availability_of("c/a"), [DeviceId(7), DeviceId(8)]);
        assert_eq!(rights.size(), 6);
    }
}
