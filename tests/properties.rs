//! Topics and rights against a naive reference that enumerates every topic of a small world.
//!
//! The world has the levels `""`, `a`, `b`, `$x` and `z` (which no filter names) and topics of up to
//! four levels; filters have up to three. Nothing that distinguishes two filters of that length needs
//! a larger one, so within it the properties are checked exhaustively; random ones go beyond it.

#[path = "properties/reference.rs"]
mod reference;

use fleetgate::domain::acl::{Action, AllowRule, allow_rules};
use fleetgate::domain::device::DeviceId;
use fleetgate::domain::rights::{ChildTopics, Rights};
use fleetgate::domain::topic::{
    TopicFilter, TopicName, check_topic_filter, check_topic_name, filter_matches, grant_covers,
    strip_subscription_prefix,
};
use proptest::prelude::*;
use reference::{all_filters, all_topics, emqx_rule_allows, matches, without_prefix};

#[test]
fn every_filter_matches_exactly_the_topics_of_the_reference() {
    let topics = all_topics();
    for filter in all_filters() {
        for topic in &topics {
            assert_eq!(filter_matches(&filter, topic), matches(&filter, topic), "{filter} {topic}");
        }
    }
}

#[test]
fn a_grant_covers_a_filter_exactly_when_it_matches_every_topic_of_it() {
    let topics = all_topics();
    let filters = all_filters();
    let matched: Vec<Vec<bool>> = filters
        .iter()
        .map(|filter| topics.iter().map(|topic| matches(filter, topic)).collect())
        .collect();
    let (mut covered, mut uncovered) = (0, 0);
    for (grant, granted) in filters.iter().zip(&matched) {
        for (filter, wanted) in filters.iter().zip(&matched) {
            let expected = wanted.iter().zip(granted).all(|(wanted, granted)| !wanted || *granted);
            assert_eq!(grant_covers(grant, filter), expected, "grant {grant} filter {filter}");
            if expected { covered += 1 } else { uncovered += 1 }
        }
    }
    assert!(covered > 1000 && uncovered > 1000, "{covered} {uncovered}");
}

#[test]
fn no_allow_rule_is_wider_in_emqx_than_the_rights() {
    let (topics, filters) = (all_topics(), all_filters());
    let mut rules = 0;
    for grant in filters.iter().filter_map(|text| text.parse::<TopicFilter>().ok()) {
        let publish = Rights::new(vec![], vec![], vec![grant.clone()], vec![]);
        let subscribe = Rights::new(vec![], vec![], vec![], vec![grant]);
        rules += allow_rules(&publish).count() + allow_rules(&subscribe).count();
        for topic in &topics {
            let allowed = in_emqx(&publish, Action::Publish, topic);
            assert!(!allowed || publish.may_publish(topic), "{topic}");
            assert!(!in_emqx(&subscribe, Action::Publish, topic));
        }
        for filter in &filters {
            let allowed = in_emqx(&subscribe, Action::Subscribe, filter);
            assert!(!allowed || subscribe.may_subscribe(filter), "{filter}");
            assert!(!in_emqx(&publish, Action::Subscribe, filter));
        }
    }
    assert!(rules > 100, "{rules}");
}

#[test]
fn the_rules_of_bindings_say_exactly_what_the_rights_say() {
    let (topics, filters) = (all_topics(), all_filters());
    for topic in topics.iter().filter_map(|text| text.parse::<TopicName>().ok()) {
        let state = vec![(topic.clone(), "main".into())];
        let of_children = ChildTopics {
            state: state.clone(),
            command: vec![topic.clone()],
            availability: vec![(topic.clone(), DeviceId(2))],
            ..ChildTopics::default()
        };
        let own = Rights::new(state, vec![topic], vec![], vec![]);
        for rights in [own, Rights::default().with_children(of_children)] {
            for asked in topics.iter().chain(&filters) {
                let publish = in_emqx(&rights, Action::Publish, asked);
                assert_eq!(publish, rights.may_publish(asked), "{asked}");
                let subscribe = in_emqx(&rights, Action::Subscribe, asked);
                assert_eq!(subscribe, rights.may_subscribe(asked), "{asked}");
            }
        }
    }
}

#[test]
fn what_the_world_holds_is_well_formed() {
    assert!(all_topics().iter().all(|topic| check_topic_name(topic).is_ok()));
    assert!(all_filters().iter().all(|filter| check_topic_filter(filter).is_ok()));
}

/// Whether EMQX itself would allow an action by a device's rules.
fn in_emqx(rights: &Rights, action: Action, asked: &str) -> bool {
    let mut rules = allow_rules(rights).filter(|rule| rule.action == action);
    rules.any(|rule| emqx_rule_allows(&as_sent(&rule), asked))
}

/// A rule's topic as the login answer carries it.
fn as_sent(rule: &AllowRule<'_>) -> String {
    if rule.literal { format!("eq {}", rule.topic) } else { rule.topic.to_owned() }
}

/// Whatever somebody may write as a topic or filter, with all that EMQX's rules give a meaning.
fn anything() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "/",
        "/",
        "/",
        "+",
        "#",
        " ",
        "eq ",
        "eq",
        "$share/g/",
        "$queue/",
        "$exclusive/",
        "$stream/",
        "$delayed/5/",
        "$SYS/",
        "$",
        "${clientid}",
        "${username}",
        "${",
        "}",
        "%c",
        "%u",
        "%",
    ]);
    prop::collection::vec(part, 1..7).prop_map(|parts| parts.concat())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just(""), Just("a"), Just("+"), Just("$x"), Just("é")];
    let stem = prop::collection::vec(level, 1..7).prop_map(|levels| levels.join("/"));
    let whole = (stem, any::<bool>()).prop_map(|(stem, deep)| match deep {
        true => format!("{stem}/#"),
        false => stem,
    });
    whole.prop_map(|filter| if filter.is_empty() { "#".to_owned() } else { filter })
}

fn topic() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just(""), Just("a"), Just("b"), Just("$x"), Just("é")];
    let path = prop::collection::vec(level, 1..8).prop_map(|levels| levels.join("/"));
    path.prop_map(|topic| if topic.is_empty() { "/".to_owned() } else { topic })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(20_000))]

    /// Whatever could be written as a right, and whatever is asked, as it came and with its prefix taken
    /// off: EMQX never allows by itself what Fleetgate would refuse.
    #[test]
    fn no_rule_allows_what_is_refused(
        written in prop::collection::vec(anything(), 1..4), asked in anything(),
    ) {
        let filters: Vec<TopicFilter> = written.iter().filter_map(|text| text.parse().ok()).collect();
        let topics: Vec<TopicName> = written.iter().filter_map(|text| text.parse().ok()).collect();
        let state = topics.iter().map(|topic| (topic.clone(), "main".into())).collect();
        let rights = Rights::new(state, topics, filters.clone(), filters);
        // What was asked, and what would match each right if it were read literally or expanded.
        let near = written.iter().flat_map(|text| {
            let expanded = text.replace("${clientid}", "a").replace("${username}", "a");
            let literally = text.strip_prefix("eq ").unwrap_or(text).to_owned();
            [text.clone(), expanded, literally, text.replace('+', "#"), text.replace('+', "b")]
        });
        for asked in near.chain([asked]) {
            let asked = without_prefix(&asked);
            if check_topic_name(asked).is_ok() && in_emqx(&rights, Action::Publish, asked) {
                prop_assert!(rights.may_publish(asked), "{asked:?} by {rights:?}");
            }
            if check_topic_filter(asked).is_ok() && in_emqx(&rights, Action::Subscribe, asked) {
                prop_assert!(rights.may_subscribe(asked), "{asked:?} by {rights:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn longer_filters_match_as_the_reference_says(filter in filter(), topic in topic()) {
        prop_assert_eq!(filter_matches(&filter, &topic), matches(&filter, &topic));
    }

    #[test]
    fn what_a_covered_filter_matches_the_grant_matches(
        grant in filter(), filter in filter(), topic in topic(),
    ) {
        if grant_covers(&grant, &filter) && filter_matches(&filter, &topic) {
            prop_assert!(filter_matches(&grant, &topic));
        }
    }

    #[test]
    fn coverage_is_a_preorder(a in filter(), b in filter(), c in filter()) {
        prop_assert!(grant_covers(&a, &a));
        if grant_covers(&a, &b) && grant_covers(&b, &c) {
            prop_assert!(grant_covers(&a, &c));
        }
    }

    #[test]
    fn a_subscription_prefix_comes_off_whatever_it_carries(filter in filter(), group in "[a-z$é]{1,5}") {
        for prefix in ["$exclusive/", &format!("$share/{group}/")] {
            let prefixed = format!("{prefix}{filter}");
            prop_assert_eq!(strip_subscription_prefix(&prefixed), filter.as_str());
        }
    }

    #[test]
    fn nothing_else_comes_off(filter in filter(), bad in "[a-z]*[+#][a-z]*") {
        let plain = !["$share/", "$exclusive/"].iter().any(|p| filter.starts_with(p));
        prop_assume!(plain);
        prop_assert_eq!(strip_subscription_prefix(&filter), filter.as_str());
        for queue in [format!("$queue/{filter}"), format!("$stream/{filter}")] {
            prop_assert_eq!(strip_subscription_prefix(&queue), queue.as_str());
        }
        for malformed in [format!("$share//{filter}"), format!("$share/{bad}/{filter}"), "$share/group".into()] {
            prop_assert_eq!(strip_subscription_prefix(&malformed), malformed.as_str());
        }
    }

    #[test]
    fn checking_any_text_is_total_and_names_are_filters(text in any::<String>()) {
        if check_topic_name(&text).is_ok() {
            prop_assert!(check_topic_filter(&text).is_ok());
            prop_assert!(filter_matches(&text, &text) && grant_covers(&text, &text));
        }
        let _ = strip_subscription_prefix(&text);
    }
}

mod deliveries {
    use std::time::Duration;

    use fleetgate::domain::delivery::{
        Answer, Confirmation, End, Facts, Limits, MOST_ATTEMPTS, State,
    };
    use jiff::Timestamp;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(1_800_000_000 + seconds)
    }

    /// What may be noted, and when (seconds after it was asked for).
    #[derive(Debug, Clone, Copy)]
    enum Note {
        Attempt,
        Published,
        Written(u8),
        Acked,
        Answered(bool),
        Superseded,
        Cancelled,
    }

    /// Notes a fact as the database does: the first of each kind stays, but for attempts.
    fn note(facts: &mut Facts, note: Note, when: i64) {
        let when = at(when);
        match note {
            Note::Attempt if facts.attempts < MOST_ATTEMPTS => {
                (facts.attempts, facts.attempted_at) = (facts.attempts + 1, Some(when));
            }
            Note::Attempt => {}
            Note::Published => drop(facts.published_at.get_or_insert(when)),
            Note::Written(qos) => {
                facts.written_at.get_or_insert(when);
                facts.written_qos.get_or_insert(qos);
            }
            Note::Acked => drop(facts.acked_at.get_or_insert(when)),
            Note::Answered(ok) => drop(facts.answer.get_or_insert(Answer { at: when, ok })),
            Note::Superseded => drop(facts.superseded_at.get_or_insert(when)),
            Note::Cancelled => drop(facts.cancelled_at.get_or_insert(when)),
        }
    }

    const ANSWER_IN: i64 = 15;

    fn confirmation() -> impl Strategy<Value = Confirmation> {
        prop::sample::select(vec![
            Confirmation::Sent,
            Confirmation::Delivered,
            Confirmation::State,
            Confirmation::Reply,
        ])
    }

    fn notes() -> impl Strategy<Value = Vec<(Note, i64)>> {
        let kind = prop_oneof![
            Just(Note::Attempt),
            Just(Note::Published),
            (0u8..3).prop_map(Note::Written),
            Just(Note::Acked),
            any::<bool>().prop_map(Note::Answered),
            Just(Note::Superseded),
            Just(Note::Cancelled),
        ];
        prop::collection::vec((kind, 0i64..120), 0..12).prop_map(|mut notes| {
            // Facts are noted by one clock.
            notes.sort_by_key(|(_, when)| *when);
            notes
        })
    }

    proptest! {
        /// Whatever is told, in whatever number: every delivery ends, by its expiry, or by the time that an answer has after
        /// that; an end is one that was noted; and nothing that is told later changes it, but for an answer that came late.
        #[test]
        fn every_delivery_ends_once(notes in notes(), confirm in confirmation(), expiry in 1i64..100) {
            let by_answer = matches!(confirm, Confirmation::State | Confirmation::Reply);
            let last = if by_answer { expiry + ANSWER_IN } else { expiry };
            let limits = Limits {
                expires_at: at(expiry),
                ack_timeout: Duration::from_secs(10),
                answer_in: Duration::from_secs(ANSWER_IN.unsigned_abs()),
                confirm,
            };
            let mut facts = Facts::default();
            let mut ended = None;
            let mut notes = notes.into_iter().peekable();
            for now in 0..150 {
                while let Some((kind, when)) = notes.next_if(|(_, when)| *when <= now) {
                    // The worker attempts nothing that has ended.
                    if !matches!(kind, Note::Attempt) || ended.is_none() {
                        note(&mut facts, kind, when);
                    }
                }
                let state = facts.state(&limits, at(now));
                match (ended, state) {
                    (None, State::Ended { end, at: when }) => {
                        prop_assert!(when <= at(now) && when <= at(last));
                        let answer = facts.answer.map(|answer| (answer.at, answer.ok));
                        match end {
                            End::Delivered => prop_assert_eq!(Some(when), facts.acked_at),
                            End::Succeeded => prop_assert_eq!(Some((when, true)), answer),
                            End::Failed => prop_assert_eq!(Some((when, false)), answer),
                            End::TimedOut => prop_assert!(answer.is_none()),
                            _ => {}
                        }
                        let is_answer = matches!(end, End::Succeeded | End::Failed | End::TimedOut);
                        prop_assert!(by_answer || !is_answer);
                        ended = Some(state);
                    }
                    (Some(State::Ended { end: End::TimedOut, .. }), State::Ended { end, at: when })
                        if end != End::TimedOut =>
                    {
                        prop_assert!(matches!(end, End::Succeeded | End::Failed), "a late answer");
                        prop_assert_eq!(Some(when), facts.answer.map(|answer| answer.at));
                        ended = Some(state);
                    }
                    (Some(end), state) => prop_assert_eq!(end, state, "it had ended"),
                    (None, State::Delivered { until }) => prop_assert!(by_answer && until > at(now)),
                    (None, State::Sent { until }) => prop_assert!(until > at(now)),
                    (None, State::Queued) => {}
                }
                prop_assert!(now < last || ended.is_some(), "it ends in time");
            }
        }
    }
}
