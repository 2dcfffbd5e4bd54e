//! Access rules of other brokers, as grants.
//!
//! A grant allows and nothing else. So a rule becomes one only if it allows, its topic is known once the device is, it has no
//! further condition, and no rule that is asked before it denies a part of the same. All others are told and left out: what a
//! device may do here is never wider than what it might do there.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::acl::Action;
use crate::domain::topic::{TopicFilter, check_topic_filter, filters_overlap, grant_covers};

use super::line::Grant;

/// What a rule is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    Publish,
    Subscribe,
    /// To be sent what is published, which mosquitto's dynamic security decides apart from the subscription.
    Receive,
}

impl Right {
    fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
        }
    }
}

/// How a topic is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// As it is.
    Plain,
    /// With `%u` and `%c`.
    Mosquitto,
    /// With `${username}` and `${clientid}`, and `eq ` before what is meant literally.
    Emqx,
}

/// When a rule is asked: the greater first. Of equal ones those that deny.
pub(super) type Rank = [i64; 4];

/// A rule.
pub(super) struct Rule {
    /// Where it stands, as `line 3`.
    pub(super) place: String,
    pub(super) allows: bool,
    pub(super) right: Right,
    pub(super) topic: String,
    pub(super) writing: Writing,
    /// What else it depends on. With that it may deny something, but is no grant.
    pub(super) condition: Option<String>,
}

/// Who a device is where rules have placeholders.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) user: &'a str,
    /// `None`: it may have several.
    pub(super) client_id: Option<&'a str>,
}

/// The rules that decide for one device.
#[derive(Default)]
pub(super) struct Decisive<'a> {
    pub(super) rules: Vec<(Rank, &'a Rule)>,
    /// Whether it receives what it has subscribed to unless a rule says otherwise.
    pub(super) receives: bool,
}

impl Rule {
    /// Its topic for a device.
    ///
    /// # Errors
    /// Why it is not known.
    fn topic_for(&self, who: Who<'_>) -> Result<String, &'static str> {
        let marks: &[&str] = match self.writing {
            Writing::Plain => return Ok(self.topic.clone()),
            Writing::Mosquitto => &["%u", "%c", "%m"],
            Writing::Emqx => &["${"],
        };
        let topic = match (self.writing, self.topic.strip_prefix("eq ")) {
            (Writing::Emqx, Some(rest)) if self.allows && rest.contains(['+', '#']) => {
                return Err(
                    "it means this filter literally, and a grant would allow parts of it too",
                );
            }
            (Writing::Emqx, Some(rest)) => rest,
            _ => &self.topic,
        };
        // Placeholders that are a part of a level only are not the same to all brokers.
        let level_of = |name| match name {
            "" => Err("what stands for its placeholder is empty"),
            name if str::contains(name, ['+', '#', '/']) => {
                Err("what stands for its placeholder is not a single level of a topic")
            }
            name => Ok(name),
        };
        let fill_in = |level| match (self.writing, level, who.client_id) {
            (Writing::Mosquitto, "%u", _) | (Writing::Emqx, "${username}", _) => level_of(who.user),
            (Writing::Mosquitto, "%c", Some(id)) | (Writing::Emqx, "${clientid}", Some(id)) => {
                level_of(id)
            }
            (_, level, _) if marks.iter().any(|mark| level.contains(mark)) => {
                Err("its placeholder is known only while a client is connected")
            }
            (_, level, _) => Ok(level),
        };
        Ok(topic.split('/').map(fill_in).collect::<Result<Vec<_>, _>>()?.join("/"))
    }

    fn told(&self) -> String {
        let verb = if self.allows { "allows" } else { "denies" };
        format!("{}, which {verb} {} {:?}", self.place, self.right.word(), self.topic)
    }
}

/// A rule with the topic that it has for one device.
struct Resolved<'a> {
    rank: Rank,
    rule: &'a Rule,
    topic: Result<String, &'static str>,
}

impl Resolved<'_> {
    /// Whether it is asked no later than a rule of this rank, and may deny a part of the filter.
    fn narrows(&self, rank: Rank, right: Right, filter: &str) -> bool {
        let same = match &self.topic {
            // One that no topic matches is taken for one that all do.
            Ok(topic) if check_topic_filter(topic).is_ok() => filters_overlap(topic, filter),
            Ok(_) | Err(_) => true,
        };
        !self.rule.allows && self.rule.right == right && self.rank >= rank && same
    }
}

impl Decisive<'_> {
    /// The grants that the rules of a device come to, and what is left out.
    pub(super) fn grants(&self, who: Who<'_>) -> (Vec<Grant>, Vec<String>) {
        let ranked = self.rules.iter().copied();
        let rules: Vec<Resolved<'_>> = ranked
            .map(|(rank, rule)| Resolved { rank, rule, topic: rule.topic_for(who) })
            .collect();
        let mut grants = BTreeMap::new();
        let mut left_out = Vec::new();
        for one in &rules {
            match self.grant(&rules, one) {
                Ok(Some((action, filter))) => {
                    grants.insert((action.word(), filter.to_string()), (action, filter));
                }
                Ok(None) => {}
                Err(why) => left_out.push(format!("{}: {why}", one.rule.told())),
            }
        }
        let grant = |(action, filter)| Grant { action, topic_filter: filter };
        (grants.into_values().map(grant).collect(), left_out)
    }

    /// The grant that a rule comes to; `None` if it says only what others need.
    ///
    /// # Errors
    /// Why it comes to none.
    fn grant(
        &self,
        rules: &[Resolved<'_>],
        one: &Resolved<'_>,
    ) -> Result<Option<(Action, TopicFilter)>, String> {
        let Resolved { rank, rule, topic } = one;
        if !rule.allows {
            return Err("nothing can be denied here; what no grant allows is refused".to_owned());
        }
        let action = match rule.right {
            Right::Publish => Action::Publish,
            Right::Subscribe => Action::Subscribe,
            Right::Receive => return Ok(None),
        };
        if let Some(condition) = &rule.condition {
            return Err(condition.clone());
        }
        let topic = topic.as_ref().map_err(|why| (*why).to_owned())?;
        let filter: TopicFilter =
            topic.parse().map_err(|error| format!("the topic filter {error}"))?;
        let narrowing =
            |rank, right| rules.iter().find(|other| other.narrows(rank, right, filter.as_str()));
        let narrower = |denying: &Resolved<'_>| {
            format!("{} denies a part of it, and a grant would allow all", denying.rule.place)
        };
        if let Some(denying) = narrowing(*rank, rule.right) {
            return Err(narrower(denying));
        }
        if action == Action::Subscribe && !self.is_received(rules, filter.as_str()) {
            return Err(narrowing([i64::MIN; 4], Right::Receive)
                .map_or_else(|| "no rule lets it receive all of that".to_owned(), narrower));
        }
        Ok(Some((action, filter)))
    }

    /// Whether all that matches a filter is received.
    fn is_received(&self, rules: &[Resolved<'_>], filter: &str) -> bool {
        let narrows = |rank| rules.iter().any(|other| other.narrows(rank, Right::Receive, filter));
        if self.receives && !narrows([i64::MIN; 4]) {
            return true;
        }
        rules.iter().any(|one| {
            let is_whole = one.rule.allows
                && one.rule.right == Right::Receive
                && one.rule.condition.is_none()
                && one.topic.as_ref().is_ok_and(|topic| {
                    check_topic_filter(topic).is_ok() && grant_covers(topic, filter)
                });
            is_whole && !narrows(one.rank)
        })
    }
}

/// The rules of a file.
#[derive(Default)]
pub struct Acl {
    pub(super) of_users: BTreeMap<String, Vec<(Rank, Rule)>>,
    pub(super) of_client_ids: BTreeMap<String, Vec<(Rank, Rule)>>,
    pub(super) of_all: Vec<(Rank, Rule)>,
    /// What concerns no user, and is left out.
    pub(super) left_out: Vec<String>,
    used: BTreeSet<String>,
    used_client_ids: BTreeSet<String>,
}

impl Acl {
    /// The grants that the rules of a device come to, and what is left out.
    pub(super) fn grants(&mut self, who: Who<'_>) -> (Vec<Grant>, Vec<String>) {
        self.note_imported(who);
        let of_user = self.of_users.get(who.user);
        let of_client_id = who.client_id.and_then(|id| self.of_client_ids.get(id));
        // Of the client ids that a service may have.
        let several = self.of_client_ids.iter().filter(|(id, _)| {
            let rest = id.strip_prefix(who.user).filter(|_| who.client_id.is_none());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        let denying = several.flat_map(|(_, rules)| rules).filter(|(_, rule)| !rule.allows);
        let some = of_client_id.into_iter().chain(of_user).flatten().chain(&self.of_all);
        let rules = some.chain(denying).map(|(rank, rule)| (*rank, rule)).collect();
        Decisive { rules, receives: true }.grants(who)
    }

    /// Notes that a device is imported, so that its rules are not told as nobody's.
    pub(super) fn note_imported(&mut self, who: Who<'_>) {
        if self.of_users.contains_key(who.user) {
            self.used.insert(who.user.to_owned());
        }
        self.used_client_ids.extend(who.client_id.map(str::to_owned));
    }

    /// What is left out because it concerns everybody, or, where the whole file was read, nobody in it.
    #[must_use]
    pub fn left_out(&self, whole: bool) -> Vec<String> {
        let unused = self.of_users.keys().filter(|user| whole && !self.used.contains(*user));
        let unused = unused.map(|user| format!("the rules of {user:?}: no such user was imported"));
        let ids = self.of_client_ids.keys().filter(|id| !self.used_client_ids.contains(*id));
        let ids = ids.map(|id| {
            format!(
                "the rules of the client id {id:?}: no device that has it was imported. If they deny something, look at the grants of whoever logs in with it"
            )
        });
        self.left_out.iter().cloned().chain(unused).chain(ids).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(place: &str, allows: bool, right: Right, topic: &str, writing: Writing) -> Rule {
        let (place, topic) = (place.to_owned(), topic.to_owned());
        Rule { place, allows, right, topic, writing, condition: None }
    }

    fn told(decisive: &Decisive<'_>) -> (Vec<String>, usize) {
        let who = Who { user: "bob", client_id: Some("b1") };
        let (grants, left_out) = decisive.grants(who);
        let text = |it: &Grant| format!("{} {}", it.action.word(), it.topic_filter);
        (grants.iter().map(text).collect(), left_out.len())
    }

    fn one_by_one<'a>(rules: &'a [Rule], rank: impl Fn(usize) -> i64) -> Decisive<'a> {
        let ranked = |(position, rule)| ([rank(position), 0, 0, 0], rule);
        Decisive { rules: rules.iter().enumerate().map(ranked).collect(), receives: true }
    }

    #[test]
    fn what_is_denied_before_is_not_granted() {
        let rules = [
            rule("1", true, Right::Subscribe, "a/#", Writing::Plain),
            rule("2", false, Right::Subscribe, "a/secret", Writing::Plain),
            rule("3", true, Right::Subscribe, "+/secret", Writing::Plain),
            rule("4", true, Right::Subscribe, "b/#", Writing::Plain),
            rule("5", true, Right::Publish, "a/#", Writing::Plain),
        ];
        let first_match = one_by_one(&rules, |position| -i64::try_from(position).unwrap());
        assert_eq!(told(&first_match).0, ["publish a/#", "subscribe a/#", "subscribe b/#"]);
        let deny_first = one_by_one(&rules, |_| 0);
        assert_eq!(told(&deny_first), (vec!["publish a/#".into(), "subscribe b/#".into()], 3));
    }

    #[test]
    fn placeholders_are_filled_in_where_they_are_a_level() {
        let topics = [
            ("up/%u/%c", Writing::Mosquitto, "publish up/bob/b1"),
            ("up/x%u", Writing::Mosquitto, ""),
            ("up/%m", Writing::Mosquitto, ""),
            ("up/%u", Writing::Plain, ""),
            ("up/${username}/${clientid}", Writing::Emqx, "publish up/bob/b1"),
            ("up/${cert_common_name}", Writing::Emqx, ""),
            ("eq up/x", Writing::Emqx, "publish up/x"),
            ("eq up/#", Writing::Emqx, ""),
            ("up/#/x", Writing::Emqx, ""),
            ("$share/g/x", Writing::Emqx, ""),
        ];
        for (topic, writing, expected) in topics {
            let rules = [rule("1", true, Right::Publish, topic, writing)];
            let expected: Vec<&str> = [expected].into_iter().filter(|it| !it.is_empty()).collect();
            let left_out = 1 - expected.len();
            assert_eq!(told(&one_by_one(&rules, |_| 0)).0, expected, "{topic}");
            assert_eq!(told(&one_by_one(&rules, |_| 0)).1, left_out, "{topic}");
        }
    }

    #[test]
    fn a_denial_of_what_is_not_known_denies_everything() {
        for topic in ["x/%c/y%u", "%m/x", "a/#/b"] {
            let rules = [
                rule("1", false, Right::Publish, topic, Writing::Mosquitto),
                rule("2", true, Right::Publish, "other", Writing::Plain),
            ];
            assert_eq!(told(&one_by_one(&rules, |_| 0)), (vec![], 2), "{topic}");
        }
    }

    #[test]
    fn what_is_not_received_is_not_granted() {
        let rules = [
            rule("1", true, Right::Subscribe, "a/#", Writing::Plain),
            rule("2", true, Right::Subscribe, "b/+", Writing::Plain),
            rule("3", true, Right::Receive, "b/#", Writing::Plain),
        ];
        let mut decisive = one_by_one(&rules, |_| 0);
        decisive.receives = false;
        assert_eq!(told(&decisive), (vec!["subscribe b/+".into()], 1));
        let rules = [
            rule("1", true, Right::Subscribe, "a/#", Writing::Plain),
            rule("2", false, Right::Receive, "a/x", Writing::Plain),
        ];
        assert_eq!(
            told(&one_by_one(&rules, |position| -i64::try_from(position).unwrap())).0,
            <[&str; 0]>::default()
        );
    }
}
