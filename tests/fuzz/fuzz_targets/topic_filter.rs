//! A grant, a subscription and a topic, one a line: judging them never panics, and what a covered
//! filter matches, the grant matches.
#![no_main]

use fleetgate::domain::topic::{
    TopicFilter, TopicName, check_topic_filter, check_topic_name, filter_matches, grant_covers,
    strip_subscription_prefix,
};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (grant, subscription, topic) = (line(), line(), line());
    let filter = strip_subscription_prefix(subscription);
    assert!(subscription.ends_with(filter));
    if let (Ok(grant), Ok(topic)) = (grant.parse::<TopicFilter>(), topic.parse::<TopicName>()) {
        assert_eq!(
            grant_covers(grant.as_str(), topic.as_str()),
            filter_matches(grant.as_str(), topic.as_str())
        );
    }
    let filters = check_topic_filter(grant).is_ok() && check_topic_filter(filter).is_ok();
    if !filters || check_topic_name(topic).is_err() {
        return;
    }
    if grant_covers(grant, filter) && filter_matches(filter, topic) {
        assert!(filter_matches(grant, topic));
    }
});
