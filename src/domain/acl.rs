//! Rights as EMQX enforces them itself: the `acl` rules of a login answer.
//!
//! Only allow rules are sent; what none of them allows comes to `/emqx/authz` (docs/EMQX.md). So a
//! right may be missing here, but nothing here may be wider than what [`Rights`] says.

use crate::domain::request::{COMMANDS, FLEETGATE};
use crate::domain::rights::Rights;
use crate::domain::topic::{TopicFilter, TopicName};

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// PUBLISH, wills included.
    Publish,
    /// One filter of a SUBSCRIBE.
    Subscribe,
}

words! {
    Action { Publish: "publish", Subscribe: "subscribe" }
}

/// One allow rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowRule<'a> {
    /// What it allows.
    pub action: Action,
    /// On which topic or filter.
    pub topic: &'a str,
    /// Whether the topic is meant literally (EMQX's `eq ` prefix), wildcards included.
    pub literal: bool,
}

/// Most rules of its children that go with a gateway's login: EMQX keeps them with each session, and goes through all of
/// them for each publish that none allows.
pub const MAX_CHILD_RULES: usize = 200;

/// The rules that carry a device's rights into EMQX: its own exact topics, its grants, and at most [`MAX_CHILD_RULES`] for its children.
pub fn allow_rules(rights: &Rights) -> impl Iterator<Item = AllowRule<'_>> {
    let publish = rights.publish_grants().iter();
    let publish = publish.filter(|grant| grant.is_exact_in_emqx() && !may_match_results(grant));
    let subscribe = rights.subscribe_grants().iter().filter(|grant| grant.is_exact_in_emqx());
    let of_children = rights
        .publish_topics_of_children()
        .map(literal(Action::Publish))
        .chain(rights.command_topics_of_children().iter().map(literal(Action::Subscribe)));
    rights
        .publish_topics()
        .map(literal(Action::Publish))
        .chain(rights.command_topics().iter().map(literal(Action::Subscribe)))
        .chain(publish.map(matching(Action::Publish)))
        .chain(subscribe.map(matching(Action::Subscribe)))
        .chain(of_children.take(MAX_CHILD_RULES))
}

/// Whether a grant could be taken for the right to publish results, which nobody has: Fleetgate decides then.
fn may_match_results(grant: &TopicFilter) -> bool {
    grant.as_str().starts_with(FLEETGATE) && !grant.as_str().starts_with(COMMANDS)
}

fn literal<'a>(action: Action) -> impl Fn(&'a TopicName) -> AllowRule<'a> {
    move |topic| AllowRule { action, topic: topic.as_str(), literal: true }
}

fn matching<'a>(action: Action) -> impl Fn(&'a TopicFilter) -> AllowRule<'a> {
    move |filter| AllowRule { action, topic: filter.as_str(), literal: false }
}
